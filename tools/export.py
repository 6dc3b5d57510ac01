"""Write `max_nb/` from the notebooks with nbdev; with `--check` only name the modules that differ."""
import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NBDEV_EXPORT = Path(sys.executable).parent / "nbdev_export"


def export(root: Path):
    "Run nbdev_export on the project that lies at `root`."
    done = subprocess.run([NBDEV_EXPORT], cwd=root, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)


def modules(package: Path) -> dict[str, str]:
    "The source of each module, by its path in the package."
    return {p.relative_to(package).as_posix(): p.read_text(encoding="utf-8") for p in sorted(package.rglob("*.py"))}


def differences(root: Path) -> list[str]:
    "What a fresh export of the notebooks would change, found in a copy."
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        shutil.copy(root / "settings.ini", copy)
        shutil.copytree(root / "nbs", copy / "nbs", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
        (copy / "max_nb").mkdir()
        shutil.copy(root / "max_nb" / "__init__.py", copy / "max_nb")
        export(copy)
        now, fresh = modules(root / "max_nb"), modules(copy / "max_nb")
    return [name for name in sorted(now.keys() | fresh.keys()) if now.get(name) != fresh.get(name)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 if a module differs")
    if not parser.parse_args().check:
        return export(ROOT)
    differing = differences(ROOT)
    sys.exit("\n".join(f"max_nb/{name} is not what the notebooks export; run `make export`" for name in differing) or 0)


if __name__ == "__main__":
    main()
