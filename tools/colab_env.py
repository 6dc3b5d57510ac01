"""Run notebooks where it looks like Colab: `python3 tools/colab_env.py [--where FOLDER] [NOTEBOOK ...]` (default: all chapters and lessons).

Makes an environment of the versions in `colab_requirements.txt` outside of this project (6 GB: Colab's torch brings CUDA),
installs max_nb into it as the lessons' first cell does, from this checkout's last commit in place of GitHub, checks that nothing
which Colab brings along was changed by that, and runs each notebook alone in an empty folder, as Colab does. Standard library only.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LISTED = ROOT / "tools" / "colab_requirements.txt"
WHERE = Path.home() / ".cache" / "max_nb-colab"
PYTHONS = ("3.13", "3.12", "3.11")  # Colab's own first
SKIPPED = re.compile(r"^\s*#\s*\|\s*(eval:\s*false|slow|gpu|notest)\b", re.M)
LONGEST_CELL_S = 900


def settings():
    "The project's settings.ini."
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def name_of(requirement: str) -> str:
    "The name in a line such as `numpy>=2` or `max_nb @ git+...`, as pip compares it."
    return re.split(r"[<>=!~ \[;@]", requirement.strip())[0].lower().replace("_", "-")


def on_colab() -> set[str]:
    "Names of the packages that Colab brings along and this project uses."
    return {name_of(line) for line in LISTED.read_text(encoding="utf-8").splitlines() if line.strip() and not line.startswith("#")}


def lacking() -> list[str]:
    "The requirements of this package that Colab does not bring along."
    return [named for named in settings()["requirements"].split() if name_of(named) not in on_colab()]


def interpreter() -> str:
    "A Python as near to Colab's as there is: on the path, or one of pyenv's."
    for version in PYTHONS:
        kept = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
        for found in filter(None, (shutil.which(f"python{version}"), str(kept[-1]) if kept else None)):  # pyenv's first may be a shim that refuses
            if subprocess.run([found, "-c", "import ensurepip"], capture_output=True).returncode == 0:
                return found
    sys.exit(f"no Python {', '.join(PYTHONS)} with ensurepip found; expected one of them on the path")


def quiet(*command, **options) -> str:
    "Run a command; its output is shown if it fails."
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def add_google_colab(python: Path):
    "What the lessons call of Colab's own module: something of that name that can be imported."
    site = Path(quiet(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    folder = site / "google" / "colab"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "__init__.py").write_text("")
    (folder / "output.py").write_text("def enable_custom_widget_manager(): pass\n")


def make(where: Path) -> Path:
    "The environment, or the one that is there already; its Python."
    python = where / "bin" / "python"
    if not python.exists():
        quiet(interpreter(), "-m", "venv", where)
    quiet(python, "-m", "pip", "install", "--quiet", "-r", LISTED)
    quiet(python, "-m", "pip", "uninstall", "--quiet", "--yes", "max_nb", *map(name_of, lacking()))
    add_google_colab(python)
    return python


def from_here() -> dict[str, str]:
    "Settings that let git take this checkout's last commit where GitHub is asked for this project."
    return {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"url.file://{ROOT}.insteadOf", "GIT_CONFIG_VALUE_0": settings()["git_url"]}


def installed(python: Path) -> dict[str, str]:
    "The packages of an environment and their versions."
    return {name_of(line): line for line in quiet(python, "-m", "pip", "freeze").splitlines()}


def install(python: Path):
    "Install max_nb as the lessons do, and see that nothing else was changed."
    before, packages = installed(python), [f"git+{settings()['git_url']}", *lacking()]
    start = time.perf_counter()
    quiet(python, "-m", "pip", "install", "--quiet", "--no-deps", *packages, env=os.environ | from_here())
    seconds, after = time.perf_counter() - start, installed(python)
    changed = sorted(name for name in before | after if before.get(name) != after.get(name))
    expected = sorted(["max-nb", *map(name_of, lacking())])
    if changed != expected:
        sys.exit(f"installing {packages} changed {changed}; expected {expected} and nothing that Colab brings along")
    quiet(python, "-m", "pip", "check")
    print(f"installed {', '.join(after[name].split(' ')[0] for name in changed)} in {seconds:.0f} s; all else is as Colab has it", flush=True)


def notebooks() -> list[Path]:
    "The chapters and, where they are written, the lessons with their solutions."
    return [*sorted(ROOT.glob("nbs/[0-9]*.ipynb")), *sorted(ROOT.glob("nbs/tutorials/**/[0-9]*.ipynb"))]


def run(path: Path, python: Path) -> bool:
    "Run one notebook in an empty folder; did it work?"
    solved = {"MAX_NB_STRICT": "1"} if "solutions" in path.parts else {}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | from_here() | {"MAX_NB_QUICK": "1"} | solved
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(path, folder)
        done = subprocess.run([python, Path(__file__).resolve(), "--inside", path.name], cwd=folder, env=environment, capture_output=True, text=True)
    print(f"{'passed' if done.returncode == 0 else 'FAILED'} {time.perf_counter() - start:5.0f} s  {path.relative_to(ROOT)}", flush=True)
    if done.returncode:
        print((done.stdout + done.stderr)[-4000:], flush=True)
    return done.returncode == 0


def run_inside(name: str):
    "Within the environment: run a notebook's cells, those that are marked as slow and the like left out, where `google.colab` is imported."
    import nbformat
    from nbclient import NotebookClient
    notebook = nbformat.read(name, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type == "code" and not SKIPPED.search(cell.source)]
    notebook.cells.insert(0, nbformat.v4.new_code_cell("import google.colab"))
    NotebookClient(notebook, timeout=LONGEST_CELL_S, kernel_name="python3").execute()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all chapters and lessons")
    parser.add_argument("--where", type=Path, default=WHERE, help="folder of the environment (default: %(default)s)")
    parser.add_argument("--inside", metavar="NAME", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        return run_inside(arguments.inside)
    python = make(arguments.where)
    install(python)
    chosen = [path.resolve() for path in arguments.notebooks] or notebooks()
    results = [run(path, python) for path in chosen]
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
