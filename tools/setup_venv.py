"""Make `.venv` and install this package into it: `python3 tools/setup_venv.py [EXTRA ...]`.

Standard library only, any Python from 3.11 on. Where no NVIDIA GPU is found, torch is installed first, as its CPU
build, so that no CUDA libraries (several GB) follow it.
"""
import argparse
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
CONSTRAINTS = ROOT / "constraints.txt"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def torch_pin() -> str:
    "The line of the constraints file that pins torch."
    return next(line for line in CONSTRAINTS.read_text().splitlines() if line.startswith("torch=="))


def pip(*arguments, **options):
    "Run pip of `.venv`."
    return subprocess.run([PYTHON, "-m", "pip", "--disable-pip-version-check", *arguments], **options)


def make_venv():
    "An empty `.venv`, or the one that is there already."
    if PYTHON.exists() and pip("--version", capture_output=True).returncode == 0:
        return
    if importlib.util.find_spec("ensurepip") is None:
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        sys.exit(f"{sys.executable} cannot make virtual environments; run: sudo apt-get install -y python{version}-venv")
    subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], check=True)


def has_gpu() -> bool:
    "Is there an NVIDIA driver that answers?"
    found = shutil.which("nvidia-smi")
    return bool(found) and subprocess.run([found], capture_output=True).returncode == 0


def pip_picks_cuda(pin: str) -> bool:
    "Would a plain `pip install` of this torch bring CUDA? Only the build for Linux does, unless pip finds a CPU one."
    if platform.system() != "Linux":
        return False
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        done = pip("install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps", "--report", report.name, pin,
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if done.returncode:
            return True
        picked = json.loads(Path(report.name).read_text())["install"][0]["metadata"]["version"]
    return not picked.endswith("+cpu")


def torch_is_installed() -> bool:
    "Is some torch in `.venv` already?"
    return pip("show", "--quiet", "torch", capture_output=True).returncode == 0


def install_torch():
    "The CPU build of torch where there is no GPU; pip's own choice otherwise."
    pin = torch_pin()
    if torch_is_installed() or has_gpu() or not pip_picks_cuda(pin):
        return
    print(f"No NVIDIA GPU here: installing the CPU build of torch from {TORCH_CPU_INDEX}", flush=True)
    arguments = ["install", "-qq", "--retries", "1", pin]
    if pip(*arguments, "--index-url", TORCH_CPU_INDEX).returncode:
        print("That did not work; pip will choose the build of torch.", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("extras", nargs="*", help="extras of this package, as named in setup.py")
    extras = parser.parse_args().extras
    make_venv()
    install_torch()
    what = ".[" + ",".join(extras) + "]" if extras else "."
    print(f"Installing {what} into .venv (a few minutes the first time)", flush=True)
    done = pip("install", "-qq", "--constraint", CONSTRAINTS, "--editable", what, cwd=ROOT)
    if done.returncode:
        sys.exit(f"pip could not install {what}; its message stands above")


main()
