"""Write slides of the lessons to `_slides/`: one HTML file each, pictures inside, arrow keys to move, `s` for the speaker's view.

A heading begins a slide, text below it one more under it, and code stays with the text before it. What an audience need not see (the install
cell, imports, the knobs, and the words before them) is left out. reveal.js itself comes from the net.
"""
import argparse
import json
import re
from pathlib import Path

from clean_notebooks import one_text
from lessons import BADGE, INSTALL, LESSONS

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "_slides"
LEFT_OUT = re.compile(r"# Knobs|(from|import) ")
STYLE = """<style>
.reveal { font-size: 1.35em; } .reveal h1 { font-size: 1.9em; } .reveal h2 { font-size: 1.5em; } .reveal h3 { font-size: 1.2em; }
.reveal img { max-height: 62vh; } .reveal table { font-size: .8em; } .reveal pre { white-space: pre-wrap !important; }
</style>"""


def is_left_out(cell: dict) -> bool:
    "Is this a cell that an audience need not see: badge, install cell, imports, knobs?"
    return cell["id"] in (BADGE, INSTALL) or cell["cell_type"] == "code" and bool(LEFT_OUT.match(one_text(cell["source"])))


def slide_type(cell: dict, after: dict | None) -> str:
    "What reveal.js does with a cell, given the one after it: a new slide to the right or below, the same slide, or nothing."
    heading = cell["cell_type"] == "markdown" and re.match(r"#{1,3} ", one_text(cell["source"]))
    if is_left_out(cell) or cell["cell_type"] == "markdown" and not heading and after and is_left_out(after):
        return "skip"
    return "-" if cell["cell_type"] == "code" else "slide" if heading else "subslide"


def slide_types(cells: list[dict]) -> list[str]:
    "The type of each cell's slide."
    return [slide_type(cell, after) for cell, after in zip(cells, cells[1:] + [None])]


def as_slides(notebook: dict) -> dict:
    "The notebook with the metadata that makes slides of it."
    typed = zip(notebook["cells"], slide_types(notebook["cells"]))
    return {**notebook, "cells": [{**cell, "metadata": {"slideshow": {"slide_type": kind}}} for cell, kind in typed]}


def page(path: Path) -> str:
    "The slides of one lesson as HTML."
    import nbformat
    from nbconvert import SlidesExporter
    exporter = SlidesExporter(embed_images=True, reveal_scroll=True, reveal_transition="none", exclude_input_prompt=True, exclude_output_prompt=True)
    notebook = nbformat.reads(json.dumps(as_slides(json.loads(path.read_text(encoding="utf-8")))), as_version=4)
    html, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"path": str(path.parent), "name": path.stem}})
    return html.replace("</head>", STYLE + "</head>", 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lessons", nargs="*", type=Path, help="students' lessons; default: all")
    parser.add_argument("--out", type=Path, default=OUT, help="folder")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in arguments.lessons or sorted(LESSONS.glob("[0-9]_*.ipynb")):
        target = arguments.out / f"{path.stem}.slides.html"
        target.write_text(page(path), encoding="utf-8")
        print(f"wrote {target}")


if __name__ == "__main__":
    main()
