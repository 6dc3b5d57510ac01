"""Write the students' lessons `nbs/tutorials/N_name.ipynb` from `nbs/tutorials/solutions/N_name.ipynb`; with `--check` only name what differs.

Between `# BEGIN SOLUTION` and `# END SOLUTION` stands what a student is to find; the student's copy has three dots there. A line
`# ANSWER: name` just before says which names the dots are given to. Cells of text that begin with `<!-- SOLUTION -->` are left out.
Outputs are taken over, save those of exercises. The badge for Colab and the cell that installs there are written into both trees.
"""
import argparse
import json
import re
import sys
from configparser import ConfigParser
from pathlib import Path

from clean_notebooks import as_lines, clean_notebook, notebook_text, one_text

ROOT = Path(__file__).resolve().parent.parent
LESSONS = ROOT / "nbs" / "tutorials"
BADGE, INSTALL = "c01ab000", "c01ab001"  # ids of the two cells that are written here
NOT_ON_COLAB = ("crepes", "xraylib")  # the requirements that Colab does not bring along
UP = re.compile(r"""(\]\(|src=["'])\.\./""")
SOLUTION = re.compile(r"(?:^[ ]*# ANSWER: (?P<names>[^\n]+)\n)?^(?P<indent>[ ]*)# BEGIN SOLUTION\n.*?^[ ]*# END SOLUTION[ ]*$", re.M | re.S)

BADGE_TEXT = "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]({url})"
INSTALL_TEXT = """\
# On Colab: install what it lacks. On your own machine this cell does nothing.
# --no-deps leaves Colab's own torch and numpy alone: to replace them would take minutes and a restart.
import sys
if "google.colab" in sys.modules:
    %pip install -q --no-deps {packages}
    from google.colab import output
    output.enable_custom_widget_manager()"""


def settings():
    "The project's settings.ini."
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


def sources() -> list[Path]:
    "The lessons with solutions, in their order."
    return sorted((LESSONS / "solutions").glob("[0-9]_*.ipynb"))


def colab_url(path: Path) -> str:
    "Where Colab opens a notebook of this project."
    found = settings()
    repository = found["git_url"].removeprefix("https://github.com/")
    return f"https://colab.research.google.com/github/{repository}/blob/{found['branch']}/{path.relative_to(ROOT).as_posix()}"


def packages() -> str:
    "What Colab installs: this package, and those requirements that it lacks, quoted for the shell."
    found = settings()
    lacking = [named for named in found["requirements"].split() if re.split(r"[<>=]", named)[0] in NOT_ON_COLAB]
    return " ".join(f'"{named}"' for named in [f"git+{found['git_url']}", *lacking])


def new_cell(kind: str, name: str, text: str) -> dict:
    "A cell without outputs."
    more = {"outputs": [], "execution_count": None} if kind == "code" else {}
    return {"cell_type": kind, "id": name, "metadata": {}, "source": as_lines(text), **more}


def with_course_cells(notebook: dict, path: Path) -> dict:
    "The notebook with the badge after its first cell and the install cell before its first code."
    cells = [cell for cell in notebook["cells"] if cell["id"] not in (BADGE, INSTALL)]
    code = next((i for i, cell in enumerate(cells) if cell["cell_type"] == "code"), len(cells))
    cells.insert(code, new_cell("code", INSTALL, INSTALL_TEXT.format(packages=packages())))
    cells.insert(1, new_cell("markdown", BADGE, BADGE_TEXT.format(url=colab_url(path))))
    return clean_notebook({**notebook, "cells": cells})


def dots(match: re.Match) -> str:
    "What a student finds in place of a solution."
    names = match["names"].split(",") if match["names"] else [""]
    return "\n".join(f"{match['indent']}{name.strip() + ' = ' if name.strip() else ''}...  # your turn" for name in names)


def blanked(source: str) -> str:
    "A cell's code without its solutions."
    text = SOLUTION.sub(dots, source)
    if re.search(r"# (BEGIN|END) SOLUTION|# ANSWER:", text):
        raise ValueError(f"a mark of a solution is left over; expected ANSWER (if any), BEGIN and END, each on its own line:\n{text}")
    return text


def is_exercise(source: str) -> bool:
    "Does this cell hold a solution or its check? Then its output would give it away."
    return "# BEGIN SOLUTION" in source or bool(re.search(r"^\s*check\(", source, re.M))


def student_cell(cell: dict) -> dict:
    "One cell as students get it."
    source = one_text(cell["source"])
    if cell["cell_type"] == "markdown":
        return {**cell, "source": as_lines(UP.sub(r"\1", source))}
    return {**cell, "source": as_lines(blanked(source)), "outputs": [] if is_exercise(source) else cell["outputs"]}


def student(notebook: dict, path: Path) -> dict:
    "The lesson that a source with solutions makes, to be written to `path`."
    kept = [cell for cell in notebook["cells"] if not one_text(cell["source"]).startswith("<!-- SOLUTION -->")]
    return with_course_cells({**notebook, "cells": [student_cell(cell) for cell in kept]}, path)


def written(source: Path) -> dict[Path, str]:
    "What the source and the student's lesson should hold."
    notebook = with_course_cells(json.loads(source.read_text(encoding="utf-8")), source)
    target = source.parent.parent / source.name
    return {source: notebook_text(notebook), target: notebook_text(student(notebook, target))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="*", type=Path, help="lessons with solutions; default: all")
    parser.add_argument("--check", action="store_true", help="change nothing, exit 1 if something would change")
    arguments = parser.parse_args()
    chosen = [path.resolve() for path in arguments.sources] or sources()
    wanted = {path: text for source in chosen for path, text in written(source).items()}
    differing = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if arguments.check:
        sys.exit("\n".join(f"{path.relative_to(ROOT)} is not what its source makes; run `make lessons`" for path in differing) or 0)
    for path in differing:
        path.write_text(wanted[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
