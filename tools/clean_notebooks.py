"""Strip from the notebooks what does not belong into version control; with `--check` only name what would change.

Kept are sources, cell ids, text, tables and PNG or SVG figures. Stripped are run numbers, cell and widget metadata,
interactive figures (5 MB each with their JavaScript), progress bars, memory addresses and single outputs over 100 kB.
A notebook that is still larger than 300 kB is an error.
"""
import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LARGEST_NOTEBOOK = 300_000
LARGEST_OUTPUT = 100_000
KERNEL = {"display_name": "python3", "language": "python", "name": "python3"}
KEPT_MIMES = ("image/png", "image/svg+xml", "text/html", "text/latex", "text/markdown", "text/plain")
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+(?=>)")


def notebooks(root: Path = ROOT) -> list[Path]:
    "Every notebook of the project, lessons included."
    return sorted(p for p in (root / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def one_text(lines) -> str:
    "Notebooks write text as a string or as a list of lines."
    return lines if isinstance(lines, str) else "".join(lines)


def as_lines(text: str) -> list[str]:
    "A text as notebooks list it: lines that keep their ends."
    return text.splitlines(keepends=True)


def clean_data(data: dict) -> dict:
    "The still pictures and texts of one output; nothing at all where only something interactive was shown."
    kept = {mime: one_text(data[mime]) for mime in KEPT_MIMES if mime in data}
    kept = {mime: text for mime, text in kept.items() if len(text) <= LARGEST_OUTPUT and "Plotly.newPlot" not in text}
    if set(data) - set(kept) and set(kept) <= {"text/plain"}:
        return {}
    if "image/png" in kept:
        kept.pop("text/html", None)
    return {mime: text.rstrip() if mime == "image/png" else as_lines(ADDRESS.sub("", text)) for mime, text in kept.items()}


def clean_output(output: dict) -> dict | None:
    "One output without run number, addresses and interactive parts; None if nothing is left."
    kind = output["output_type"]
    if kind == "error" or output.get("name") == "stderr":
        return None
    if kind == "stream":
        text = ADDRESS.sub("", one_text(output["text"]))
        return {"name": "stdout", "output_type": kind, "text": as_lines(text)} if len(text) <= LARGEST_OUTPUT else None
    data = clean_data(output["data"])
    if not data:
        return None
    run = {"execution_count": None} if kind == "execute_result" else {}
    return {"data": data, "metadata": {}, "output_type": kind, **run}


def clean_cell(cell: dict) -> dict:
    "One cell: its source, its id, its cleaned outputs."
    kept = {"cell_type": cell["cell_type"], "id": cell["id"], "metadata": {}, "source": as_lines(one_text(cell["source"]))}
    if cell["cell_type"] == "code":
        outputs = [clean_output(output) for output in cell.get("outputs", [])]
        kept |= {"execution_count": None, "outputs": [output for output in outputs if output]}
    return kept


def clean_notebook(notebook: dict) -> dict:
    "The whole notebook, without empty cells."
    cells = [clean_cell(cell) for cell in notebook["cells"] if one_text(cell["source"]).strip()]
    return {"cells": cells, "metadata": {"kernelspec": KERNEL}, "nbformat": 4, "nbformat_minor": 5}


def notebook_text(notebook: dict) -> str:
    "A notebook as nbformat and nbdev write it."
    return json.dumps(notebook, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="*", type=Path, help="notebooks; default: all of nbs/")
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 if something would change")
    arguments = parser.parse_args()
    faults = []
    for path in arguments.paths or notebooks():
        before = path.read_text(encoding="utf-8")
        after = notebook_text(clean_notebook(json.loads(before)))
        if len(after.encode()) > LARGEST_NOTEBOOK:
            faults.append(f"{path}: {len(after.encode()) // 1000} kB when clean, at most {LARGEST_NOTEBOOK // 1000} are allowed")
        if before != after and arguments.check:
            faults.append(f"{path}: not clean; run `make clean-notebooks`")
        elif before != after:
            path.write_text(after, encoding="utf-8")
            print(f"cleaned {path}")
    sys.exit("\n".join(faults) or 0)


if __name__ == "__main__":
    main()
