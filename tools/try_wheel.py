"""Build the wheel, install it into a fresh environment with what a user gets, and use it there: `python3 tools/try_wheel.py [TEST ...]`.

The environment lies outside of this project and knows nothing of it; with tests named, pytest and hypothesis are added and those
files of tests/ run against the installed package. Standard library only; run it with the Python that is to be tried.
"""
import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NOT_A_USERS = ("nbdev", "fastcore", "execnb", "pytest", "sphinx", "playwright")  # packages that must not have come along
USE = """
import importlib, importlib.metadata, importlib.util, pkgutil
import max_nb, torch
names = [item.name for item in pkgutil.iter_modules(max_nb.__path__) if not item.name.startswith("_")]
for name in names: importlib.import_module("max_nb." + name)
assert max_nb.__version__ == importlib.metadata.version("max_nb")
from max_nb.mae import list_pretrained, load_pretrained
from max_nb.simulate import simulate_archive
for name in list_pretrained().index: load_pretrained(name)
scans = simulate_archive(n_cores=2, n_per_core=4, seed=0)
assert load_pretrained("max-tiny-sim").encode(torch.as_tensor(scans.counts)).shape[0] == 8
extra = [name for name in NOT_A_USERS if importlib.util.find_spec(name)]
assert not extra, f"{extra} came along"
print(len(names), "modules of", max_nb.__file__)
"""


def run(*command, **options) -> str:
    "Run a command; its output is shown if it fails."
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))[:500]}\n{done.stdout[-6000:]}{done.stderr[-6000:]}")
    return done.stdout


def copied(folder: Path) -> Path:
    "What git knows of this project, in a folder of its own: so a forgotten file is missed."
    names = run("git", "ls-files", "-z", cwd=ROOT).split("\0")
    for name in (name for name in names if name and (ROOT / name).is_file()):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def venv(folder: Path) -> Path:
    "An environment; its Python."
    run(sys.executable, "-m", "venv", folder)
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def pip(python: Path, *arguments):
    "Install into an environment."
    return run(python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *arguments)


def built(source: Path, python: Path, out: Path) -> Path:
    "The wheel, built from the sdist."
    pip(python, "build", "twine")
    run(python, "-m", "build", "--outdir", out, source)
    run(python, "-m", "twine", "check", "--strict", *out.iterdir())
    return next(out.glob("*.whl"))


def use(python: Path, folder: Path):
    "All modules, the weights, the commands."
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    command = python.parent / "max-nb"
    print(run(python, "-c", f"NOT_A_USERS = {NOT_A_USERS}\n{USE}", cwd=folder, env=clean).strip(), flush=True)
    assert "quantify" in run(command, "--help", cwd=folder, env=clean)
    run(command, "simulate", "--cores", "6", "--per-core", "12", "--labels-per-core", "6", "--out", "scans.parquet", "--labels", "laboratory.csv", cwd=folder, env=clean)
    run(command, "quantify", "scans.parquet", "laboratory.csv", "--targets", "CaCO3", "--out", "report", "--quick", cwd=folder, env=clean)
    print(f"max-nb simulate and quantify: a report of {(folder / 'report' / 'report.html').stat().st_size // 1000} kB", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tests", nargs="*", help="files of tests/ to run against the installed package")
    parser.add_argument("--into", type=Path, help="an environment to use (made if need be) and to keep, in place of a fresh one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        for name in ("source", "dist", "elsewhere"):
            (folder / name).mkdir()
        wheel = built(copied(folder / "source"), venv(folder / "builder"), folder / "dist")
        python = venv(arguments.into or folder / "user")
        pip(python, "--constraint", ROOT / "constraints.txt", wheel)
        use(python, folder / "elsewhere")
        if arguments.tests:
            pip(python, "pytest", "hypothesis")
            shutil.copytree(ROOT / "tests", folder / "elsewhere" / "tests", ignore=shutil.ignore_patterns("__pycache__"))
            print(run(python, "-m", "pytest", "-q", *[f"tests/{Path(name).name}" for name in arguments.tests], cwd=folder / "elsewhere")[-1500:])
    print(f"{wheel.name} works with Python {sys.version.split()[0]}")


main()
