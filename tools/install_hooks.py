"""Install a git hook that, before each commit, exports, cleans and renders what the commit's notebooks change."""
import stat
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOOK = """#!/bin/sh
# Installed by `make hooks`; remove this file to be rid of it.
staged=$(git diff --cached --name-only --diff-filter=ACMR -- 'nbs/*.ipynb')
[ -n "$staged" ] || exit 0
python=.venv/bin/python
[ -x "$python" ] || { echo "no .venv: run make test once, or commit with --no-verify" >&2; exit 1; }
$python tools/clean_notebooks.py $staged && $python tools/export.py && $python tools/readme.py || exit 1
git add -- $staged README.md max_nb
"""


def main():
    asked = subprocess.run(["git", "rev-parse", "--git-path", "hooks/pre-commit"], cwd=ROOT, capture_output=True, text=True, check=True)
    hook = ROOT / asked.stdout.strip()
    if hook.exists() and hook.read_text() != HOOK:
        raise SystemExit(f"{hook} exists and is another hook; remove it first")
    hook.parent.mkdir(parents=True, exist_ok=True)
    hook.write_text(HOOK)
    hook.chmod(hook.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    print(f"installed {hook}")


main()
