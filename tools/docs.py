"""Build the documentation site in `_docs/html` from the notebooks as they are committed, with sphinx, myst-nb and furo."""
import json
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

from clean_notebooks import as_lines, clean_notebook, notebook_text, notebooks, one_text

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "_docs"
CONF = """
project, copyright, version = {title!r}, {copyright!r}, {version!r}
extensions = ["myst_nb"]
html_theme = "furo"
html_title = project
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath", "amsmath", "html_image"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type", "myst.xref_missing", "misc.highlighting_failure"]
"""


def is_directive(line: str) -> bool:
    "Is this line one of nbdev's, `#| export` and the like?"
    return line.lstrip().replace(" ", "").startswith("#|")


def page_cell(cell: dict) -> dict:
    "A cell as readers of the site see it: no directives; hidden cells tagged so that sphinx leaves them out."
    lines = as_lines(one_text(cell["source"]))
    marks = "".join(line for line in lines if is_directive(line))
    if cell["cell_type"] == "markdown" or not marks:
        return cell
    shown = [line for line in lines if not is_directive(line)]
    hidden = "hide" in marks or "default_exp" in marks or not "".join(shown).strip()
    return {**cell, "source": shown, "metadata": {"tags": ["remove-cell"]} if hidden else {}}


def with_contents(page: dict, chapters: list[str]) -> dict:
    "The index with the hidden list of chapters that sphinx wants."
    listing = "```{toctree}\n:hidden:\n:maxdepth: 1\n\n" + "\n".join(chapters) + "\n```"
    cell = {"cell_type": "markdown", "id": "contents", "metadata": {}, "source": as_lines(listing)}
    return {**page, "cells": page["cells"] + [cell]}


def write_sources(source: Path):
    "The notebooks, their pictures and the configuration."
    shutil.copytree(ROOT / "nbs", source, ignore=shutil.ignore_patterns("*.ipynb", ".ipynb_checkpoints"))
    chapters = [path.relative_to(ROOT / "nbs").with_suffix("").as_posix() for path in notebooks() if path.stem != "index"]
    for path in notebooks():
        page = clean_notebook(json.loads(path.read_text(encoding="utf-8")))
        page = {**page, "cells": [page_cell(cell) for cell in page["cells"]]}
        page = with_contents(page, chapters) if path.stem == "index" else page
        target = source / path.relative_to(ROOT / "nbs")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(notebook_text(page), encoding="utf-8")
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    (source / "conf.py").write_text(CONF.format(**config["DEFAULT"]), encoding="utf-8")


def main():
    shutil.rmtree(SITE, ignore_errors=True)
    write_sources(SITE / "source")
    done = subprocess.run([sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", SITE / "source", SITE / "html"])
    if done.returncode:
        sys.exit("the site was not built; sphinx's messages stand above")
    print(f"The site: file://{SITE / 'html' / 'index.html'}")


main()
