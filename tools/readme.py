"""Write README.md from `nbs/index.ipynb`; with `--check` only say whether it is up to date."""
import argparse
import json
import re
import sys
from pathlib import Path

from clean_notebooks import one_text

ROOT = Path(__file__).resolve().parent.parent
INDEX = ROOT / "nbs" / "index.ipynb"
README = ROOT / "README.md"
LOCAL_LINK = re.compile(r"""(\]\(|src=["'])(?!https?:|mailto:|#|/|\.\./)([^)"']+)""")


def markdown_part(text: str) -> str:
    "A text cell, with links that lead from the root instead of from nbs/."
    text = LOCAL_LINK.sub(r"\1nbs/\2", text)
    return text.replace("](../", "](").strip()


def output_text(output: dict) -> str:
    "What an output shows as text."
    return one_text(output["text"] if output["output_type"] == "stream" else output.get("data", {}).get("text/plain", ""))


def code_part(cell: dict) -> str:
    "A code cell and its text outputs as fenced blocks; nothing for hidden cells."
    source = one_text(cell["source"])
    if re.search(r"^#\s*\|\s*hide", source, re.M):
        return ""
    shown = "\n".join(line for line in source.splitlines() if not re.match(r"#\s*\|", line)).strip()
    outputs = "".join(output_text(output) for output in cell["outputs"]).strip("\n")
    blocks = [f"```python\n{shown}\n```"] + ([f"```text\n{outputs}\n```"] if outputs.strip() else [])
    return "\n\n".join(blocks)


def render(notebook: dict) -> str:
    "The whole README."
    parts = [markdown_part(one_text(cell["source"])) if cell["cell_type"] == "markdown" else code_part(cell)
             for cell in notebook["cells"]]
    note = "<!-- Written from nbs/index.ipynb by `make readme`: edit the notebook, not this file. -->"
    return "\n\n".join([note] + [part for part in parts if part]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 if README.md is out of date")
    check = parser.parse_args().check
    text = render(json.loads(INDEX.read_text(encoding="utf-8")))
    if not check:
        README.write_text(text, encoding="utf-8")
    elif not README.exists() or README.read_text(encoding="utf-8") != text:
        sys.exit("README.md is not what nbs/index.ipynb says; run `make readme`")


if __name__ == "__main__":
    main()
