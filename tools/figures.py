"""Run chapters and keep their outputs, each Plotly figure as a PNG, so that GitHub and the README's readers see them.

Needs Chromium (`sudo apt-get install -y chromium fonts-dejavu-core`). Cells marked slow, gpu, notest or `eval: false`
keep the outputs they have. Without arguments all chapters are run, and the lessons with solutions, of which `make lessons` makes the rest.
"""
import argparse
import base64
import io
import json
import os
import re
import shutil
import sys
import warnings
from pathlib import Path

import kaleido
import nbformat
import plotly.io as pio
from nbclient import NotebookClient
from PIL import Image

from clean_notebooks import LARGEST_NOTEBOOK, clean_notebook, notebook_text, notebooks, one_text
from lessons import LESSONS

PLOTLY = "application/vnd.plotly.v1+json"
SKIPPED = re.compile(r"^#\s*\|\s*(slow|gpu|notest|eval:\s*false)\b", re.M | re.I)
WIDTH, HEIGHT, COLOURS = 760, 420, 96


def run(path: Path) -> dict:
    "Execute a notebook in its own folder; cells that are marked so are left as they are."
    notebook = nbformat.read(path, as_version=4)
    left = {cell.id: cell.source for cell in notebook.cells if cell.cell_type == "code" and SKIPPED.search(cell.source)}
    kept = {cell.id: cell.get("outputs", []) for cell in notebook.cells if cell.id in left}
    for cell in notebook.cells:
        cell.source = "" if cell.id in left else cell.source
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": path.parent}}).execute()
    for cell in notebook.cells:
        if cell.id in left:
            cell.source, cell.outputs = left[cell.id], kept[cell.id]
    return notebook


def png(figure_json: dict, scale: float) -> str:
    "A figure as a PNG of few colours, base64."
    figure = pio.from_json(json.dumps({key: figure_json[key] for key in ("data", "layout")}), skip_invalid=True)
    size = dict(width=figure.layout.width or WIDTH, height=figure.layout.height or HEIGHT)
    return small_png(picture(figure, scale=scale, **size))


def picture(figure, **size) -> bytes:
    "Chromium's picture of a figure; on a busy machine the talk with it breaks now and then, so once more with a fresh one."
    try:
        return figure.to_image("png", **size)
    except Exception as error:
        print(f"Chromium did not answer ({type(error).__name__}), asking again", file=sys.stderr)
        kaleido.stop_sync_server(silence_warnings=True)
        kaleido.start_sync_server(silence_warnings=True)
        return figure.to_image("png", **size)


def small_png(picture: bytes) -> str:
    "A PNG on white with at most `COLOURS` colours, base64: a third of the size, to the eye the same."
    image, small = Image.open(io.BytesIO(picture)).convert("RGBA"), io.BytesIO()
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    image.quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode()


def still(output: dict, scale: float) -> dict:
    "An output whose interactive figure has become a picture."
    data = output.get("data", {})
    if PLOTLY in data:
        return {**output, "data": {"image/png": png(data[PLOTLY], scale)}}
    if "image/png" in data:
        return {**output, "data": {"image/png": small_png(base64.b64decode(one_text(data["image/png"])))}}
    return output


def with_outputs(notebook: dict, change) -> dict:
    "The notebook with every output changed."
    return {**notebook, "cells": [{**cell, "outputs": [change(output) for output in cell["outputs"]]} if cell.get("outputs") else cell for cell in notebook["cells"]]}


def with_stills(notebook: dict, scale: float) -> dict:
    "The cleaned notebook with pictures for figures."
    return clean_notebook(with_outputs(notebook, lambda output: still(output, scale)))


def as_text(output: dict) -> dict:
    "A table without its HTML."
    data = output.get("data", {})
    return {**output, "data": {mime: said for mime, said in data.items() if mime != "text/html"}} if "text/plain" in data else output


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks; default: all of nbs/")
    arguments = parser.parse_args()
    os.environ |= {"PLOTLY_RENDERER": "plotly_mimetype", "TQDM_DISABLE": "1", "MAX_NB_STRICT": "1"}
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if shutil.which(name):
            os.environ.setdefault("BROWSER_PATH", shutil.which(name))
    warnings.filterwarnings("ignore", "The kopts argument")
    kaleido.start_sync_server(silence_warnings=True)
    for path in arguments.paths or [path for path in notebooks() if path.parent != LESSONS]:
        notebook = run(path)
        fits = lambda text: len(text.encode()) < 0.95 * LARGEST_NOTEBOOK
        for scale in (1.5, 1.0, 0.8, 0.7, 0.6):
            stills = with_stills(notebook, scale)
            text = notebook_text(stills)
            if fits(text):
                break
        else:
            text = notebook_text(with_outputs(stills, as_text))
            if not fits(text):
                sys.exit(f"{path}: {len(text.encode()) // 1000} kB with its figures; show fewer of them")
        path.write_text(text, encoding="utf-8")
        print(f"{path}: {len(text.encode()) // 1000} kB, figures at scale {scale}", flush=True)
    kaleido.stop_sync_server()


if __name__ == "__main__":
    main()
