"""Build the documentation site in `_docs/html` from the notebooks and pages as they are committed, with sphinx, myst-nb and furo.

Nothing is executed: figures are those that the notebooks keep. Warnings are errors, and every link within the built site is followed.
"""
import json
import os
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import reference
from clean_notebooks import as_lines, clean_notebook, notebook_text, notebooks, one_text
from links import CODE, is_external

ROOT = Path(__file__).resolve().parent.parent
NBS, SITE = ROOT / "nbs", ROOT / "_docs"
# Pages that are no notebooks: where they stand in the repository, and on the site.
TEXTS = {"experiments/README.md": "results/experiments.md", "benchmarks/README.md": "results/benchmarks.md",
         "CONTRIBUTING.md": "project/contributing.md", "CHANGELOG.md": "project/changelog.md"}
LINK = re.compile(r"""(?P<before>\]\(\s*<?|\b(?:href|src)=["'])(?P<link>[^()\s<>"']+)""")
LONGEST_ALT = 250  # characters
CONF = """
project, copyright, version, language = {title!r}, {copyright!r}, {version!r}, "en"
extensions = ["myst_nb"]
html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {{"source_repository": {git_url!r}, "top_of_page_buttons": [],
    "footer_icons": [{{"name": "GitHub", "url": {git_url!r}, "html": "GitHub", "class": ""}}]}}
html_show_sphinx = False
html_copy_source = False
nb_execution_mode = "off"
nb_merge_streams = True
add_module_names = False
toc_object_entries_show_parents = "hide"
maximum_signature_line_length = 90
myst_enable_extensions = ["dollarmath", "amsmath", "html_image", "colon_fence"]
myst_heading_anchors = 4
suppress_warnings = ["mystnb.unknown_mime_type"]
"""
CSS = """
/* Pictures are drawn for a white page; in the dark they get one, so that ink and axes stay readable. */
body[data-theme="dark"] article img:not([src*="badge"]) { background: #fff; border-radius: 4px; padding: 4px; }
@media (prefers-color-scheme: dark) { body:not([data-theme="light"]) article img:not([src*="badge"]) { background: #fff; border-radius: 4px; padding: 4px; } }
article table.docutils, article table.dataframe { font-size: 0.85em; display: block; width: fit-content; max-width: 100%; margin-left: 0; overflow-x: auto; }
article table.docutils td, article table.docutils th { padding: 0.25rem 0.6rem; vertical-align: top; }
dl.py table.docutils td > p > code, dl.py table.docutils td > code { white-space: normal; }
dl.py { margin-bottom: 1.6rem; }
"""


def is_directive(line: str) -> bool:
    "Is this line one of nbdev's, `#| export` and the like?"
    return line.lstrip().replace(" ", "").startswith("#|")


def plain(text: str) -> str:
    "Markdown as a reader hears it: links by their words, no marks."
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return " ".join(re.sub(r"[`*#>|\\]", "", text).split())


def alternative(prose: str) -> str:
    "What stands for a figure where it cannot be seen: the text that leads to it."
    said = plain(prose.strip().split("\n\n")[-1])
    said = said if len(said) <= LONGEST_ALT else said[:LONGEST_ALT].rsplit(" ", 1)[0] + " ..."
    return f"Figure made by the code above. {said}".strip()


def page_cell(cell: dict, prose: str) -> dict:
    "A code cell as readers of the site see it: no directives, figures with a text in their place; hidden cells tagged for sphinx."
    lines = as_lines(one_text(cell["source"]))
    marks = "".join(line for line in lines if is_directive(line))
    shown = [line for line in lines if not is_directive(line)]
    hidden = "hide" in marks or "default_exp" in marks or not "".join(shown).strip()
    return {**cell, "source": shown, "metadata": {"tags": ["remove-cell"]} if hidden else {"mystnb": {"image": {"alt": alternative(prose)}}}}


def pages() -> dict[Path, str]:
    "Every file of the repository that is a page of the site, and the page's name without ending."
    found = {path: path.relative_to(NBS).with_suffix("").as_posix() for path in notebooks() if "solutions" not in path.parts}
    found |= {path: path.relative_to(NBS).with_suffix("").as_posix() for path in NBS.rglob("*.md") if "solutions" not in path.parts and not path.name.startswith("_")}
    found |= {ROOT / name: page.removesuffix(".md") for name, page in TEXTS.items() if (ROOT / name).is_file()}
    return {**found, ROOT / "README.md": "index"}


def git_url() -> str:
    "Where the repository can be read, on its main branch."
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return f"{config['DEFAULT']['git_url']}/blob/{config['DEFAULT']['branch']}"


def moved(link: str, path: Path, page: str, known: dict[Path, str]) -> str:
    "A link of a file in the repository as a link of its page: to another page, to a picture beside the pages, or to GitHub."
    name, mark, anchor = link.partition("#")
    target, up = (path.parent / unquote(name)).resolve(), Path(page).parent
    if is_external(link) or not name or not target.exists():  # sphinx complains of what is not there
        return link
    if target in known:
        ending = ".ipynb" if target.suffix == ".ipynb" or known[target] == "index" else ".md"
        return Path(os.path.relpath(known[target] + ending, up)).as_posix() + mark + anchor
    if target.suffix.lower() in (".svg", ".png", ".jpg", ".gif"):
        return Path(os.path.relpath(target.relative_to(NBS) if target.is_relative_to(NBS) else target.relative_to(ROOT), up)).as_posix()
    return f"{git_url()}/{target.relative_to(ROOT).as_posix()}{mark}{anchor}" if target.is_relative_to(ROOT) else link


def moved_text(text: str, path: Path, page: str, known: dict[Path, str]) -> str:
    "A page's text with its links as they are on the site; code is left alone."
    kept = []
    bare = CODE.sub(lambda found: kept.append(found[0]) or f"\x00{len(kept) - 1}\x00", text)
    bare = LINK.sub(lambda found: found["before"] + moved(found["link"], path, page, known), bare)
    return re.sub("\x00(\\d+)\x00", lambda found: kept[int(found[1])], bare)


def notebook_page(path: Path, page: str, known: dict[Path, str]) -> dict:
    "A notebook as a page."
    notebook, cells, prose = clean_notebook(json.loads(path.read_text(encoding="utf-8"))), [], ""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            prose = one_text(cell["source"])
            cells.append({**cell, "source": as_lines(moved_text(prose, path, page, known))})
        else:
            cells.append(page_cell(cell, prose))
    return {**notebook, "cells": cells}


def title_of(path: Path) -> str:
    "The heading of a notebook or page."
    text = path.read_text(encoding="utf-8")
    text = one_text(json.loads(text)["cells"][0]["source"]) if path.suffix == ".ipynb" else text
    return plain(re.search(r"^# (.+)$", text, re.M)[1])


def listing(caption: str, entries: list[str]) -> str:
    "One part of the table of contents."
    return f"```{{toctree}}\n:hidden:\n:maxdepth: 1\n:caption: {caption}\n\n" + "\n".join(entries) + "\n```" if entries else ""


def contents(known: dict[Path, str]) -> str:
    "The hidden lists of pages that make the site's menu."
    inside = [page for page in sorted(known.values()) if page != "index" and not page.startswith(("results/", "project/"))]
    lessons = sorted((page for page in inside if page.startswith("tutorials/")), key=lambda page: (not page.endswith("README"), page))
    chapters = [page for page in inside if page not in lessons and page[0].isdigit()]
    apps = [page for page in inside if page.startswith("apps/")]
    others = [page for page in inside if page not in lessons + chapters + apps]
    named = [f"{re.match(r'[0-9]+', page)[0]} {title_of(path)} <{page}>" for page in chapters for path in known if known[path] == page]
    texts = {"results/experiments": "On real spectra", "results/benchmarks": "Speed and memory", "project/contributing": "Contributing", "project/changelog": "Changes"}
    there = {page: f"{title} <{page}>" for page, title in texts.items() if page in known.values()}
    return "\n\n".join([listing("Lessons", lessons), listing("Chapters", named), listing("Apps", apps), listing("Reference", ["reference/index", *others]),
                        listing("Results", [text for page, text in there.items() if page.startswith("results")]),
                        listing("Project", [text for page, text in there.items() if page.startswith("project")])])


def write_page(path: Path, page: str, known: dict[Path, str], source: Path):
    "One page into the folder that sphinx reads."
    target = source / (page + path.suffix)
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".md":
        return target.write_text(moved_text(path.read_text(encoding="utf-8"), path, page, known), encoding="utf-8")
    made = notebook_page(path, page, known)
    if page == "index":
        made["cells"].append({"cell_type": "markdown", "id": "contents", "metadata": {}, "source": as_lines(contents(known))})
    target.write_text(notebook_text(made), encoding="utf-8")


def write_sources(source: Path):
    "The pages, their pictures, the reference and the configuration."
    known = pages()
    for path, page in known.items():
        if path != ROOT / "README.md":
            write_page(path, page, known, source)
    for folder in (NBS, ROOT / "experiments", ROOT / "benchmarks"):
        for picture in (path for ending in ("svg", "png", "jpg", "gif") for path in folder.rglob(f"*.{ending}")):
            target = source / picture.relative_to(NBS if folder == NBS else ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, target)
    reference.write(source / "reference")
    (source / "_static").mkdir()
    (source / "_static" / "site.css").write_text(CSS, encoding="utf-8")
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    (source / "conf.py").write_text(CONF.format(**config["DEFAULT"]), encoding="utf-8")


class Page(HTMLParser):
    "What a built page links to, what in it can be linked to, and its pictures without a text in their place."

    def __init__(self, text: str):
        super().__init__()
        self.links, self.names, self.mute = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, pairs):
        found = dict(pairs)
        self.names |= {found[key] for key in ("id", "name") if found.get(key)}
        self.links += [found[key] for key in ("href", "src") if found.get(key)]
        if tag == "img" and not (found.get("alt") or "").strip():
            self.mute.append(found.get("src"))


def broken(html: Path) -> list[str]:
    "Links within the built site that lead nowhere, and pictures without alternative text."
    built = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in html.rglob("*.html")}
    faults = [f"{path.relative_to(html)}: no alternative text for {name}" for path, page in built.items() for name in page.mute]
    for path, page in built.items():
        for link in (link for link in page.links if not is_external(link)):
            name, _, anchor = unquote(link).partition("#")
            target = (path.parent / name.partition("?")[0]).resolve() if name else path
            if not target.exists() or (anchor and target in built and anchor not in built[target].names):
                faults.append(f"{path.relative_to(html)}: {link} leads nowhere")
    return faults


def main():
    shutil.rmtree(SITE, ignore_errors=True)
    write_sources(SITE / "source")
    done = subprocess.run([sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", SITE / "source", SITE / "html"])
    if done.returncode:
        sys.exit("the site was not built; sphinx's messages stand above")
    faults = broken((SITE / "html").resolve())
    if faults:
        sys.exit("\n".join(faults))
    (SITE / "html" / ".nojekyll").touch()
    print(f"The site: file://{SITE / 'html' / 'index.html'}")


if __name__ == "__main__":
    main()
