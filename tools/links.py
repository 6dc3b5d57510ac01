"""Check the links of README, notebooks and other pages: files, headings, badges; with `--external` ask the web for the rest.

Without `--external` nothing leaves this machine: relative links, links into this project's own repository on GitHub and
Colab's badges are looked up in the working tree.
"""
import argparse
import json
import re
import sys
import urllib.error
import urllib.request
from configparser import ConfigParser
from pathlib import Path
from urllib.parse import unquote

from clean_notebooks import notebooks, one_text

ROOT = Path(__file__).resolve().parent.parent
PAGES = ("*.md", "experiments/*.md", "benchmarks/*.md", "nbs/**/*.md", ".github/**/*.md")
CODE = re.compile(r"^(`{3,}|~{3,}).*?^\1`*\s*$|(`+)[^`\n].*?\2", re.M | re.S)
LINK = re.compile(r"""\]\(\s*<?([^()\s<>]+(?:\([^()\s]*\)[^()\s<>]*)*)>?(?:\s+["'][^"']*["'])?\s*\)|<(?:a|img|source)\b[^>]*?\b(?:href|src)=["']([^"']+)["']""")
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.M)
NAMED = re.compile(r"""<\w+\b[^>]*?\b(?:id|name)=["']([^"']+)["']""")


def documents() -> list[Path]:
    "Every page of text and every notebook of the project."
    found = {path for pattern in PAGES for path in ROOT.glob(pattern) if path.is_file()}
    return sorted(found) + notebooks()


def prose(path: Path) -> str:
    "The text of a page, or of a notebook's text cells."
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    return "\n\n".join(one_text(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")


def links(text: str) -> list[str]:
    "Where a text links to, pictures included; what stands in code is no link."
    return [one or other for one, other in LINK.findall(CODE.sub(lambda m: m[0] if "](" in m[0] and m[0].startswith("[") else "", text))]


def slug(heading: str) -> str:
    "The name that GitHub and the site give to a heading."
    plain = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
    return re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-")


def anchors(path: Path) -> set[str]:
    "All names within a page that a link can lead to; a heading that comes again is numbered."
    text, seen, names = prose(path), {}, set(NAMED.findall(prose(path)))
    for heading in HEADING.findall(CODE.sub(lambda m: m[2] and m[0] or "", text)):
        name = slug(heading)
        names.add(f"{name}-{seen[name]}" if name in seen else name)
        seen[name] = seen.get(name, 0) + 1
    return names


def own_paths() -> list[str]:
    "How addresses of this project's own files begin: on GitHub, raw on GitHub, on Colab."
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    found = config["DEFAULT"]
    name, branch = found["git_url"].removeprefix("https://github.com/"), found["branch"]
    return [f"https://github.com/{name}/blob/{branch}/", f"https://github.com/{name}/tree/{branch}/", f"https://raw.githubusercontent.com/{name}/{branch}/",
            f"https://colab.research.google.com/github/{name}/blob/{branch}/"]


def is_external(link: str) -> bool:
    "Does this link leave the project?"
    return bool(re.match(r"[a-z][a-z0-9+.-]*:", link, re.I)) or link.startswith("//")


def as_local(link: str, own: list[str]) -> tuple[str, bool]:
    "A link into this project's own repository as a path from its root, and whether it was one."
    return next(((link[len(start):], True) for start in own if link.startswith(start)), (link, False))


def fault(path: Path, link: str, own: list[str]) -> str | None:
    "What is wrong with a link of a page, if anything that can be seen from here."
    local, from_root = as_local(link, own)
    if is_external(local):
        strange = "colab.research.google.com/github/" in link
        return f"{path.relative_to(ROOT)}: {link} leads to another repository or branch; expected {own[-1]}..." if strange else None
    name, _, anchor = unquote(local).partition("#")
    target = ((ROOT if from_root else path.parent) / name).resolve() if name else path
    if not target.is_relative_to(ROOT) or not target.exists():
        return f"{path.relative_to(ROOT)}: {link} leads to no file of this project"
    if anchor and target.suffix in (".md", ".ipynb") and anchor not in anchors(target):
        return f"{path.relative_to(ROOT)}: {link} leads to no heading of {target.relative_to(ROOT)}; it has {', '.join(sorted(anchors(target)))}"
    return None


def internal_faults() -> list[str]:
    "All that is wrong with links within the project."
    own = own_paths()
    return [said for path in documents() for link in links(prose(path)) if (said := fault(path, link, own))]


def answer(link: str) -> str:
    "What the web says to an address: nothing if it is well."
    request = urllib.request.Request(link.partition("#")[0], headers={"User-Agent": "Mozilla/5.0 (link check)"})
    try:
        with urllib.request.urlopen(request, timeout=20):
            return ""
    except (urllib.error.URLError, OSError) as e:
        return str(e)


def external_faults() -> list[str]:
    "All addresses on the web that do not answer well."
    asked = sorted({link for path in documents() for link in links(prose(path)) if link.startswith("http")})
    return [f"{link}: {said}" for link in asked if (said := answer(link))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--external", action="store_true", help="ask the web about links that leave the project, too")
    arguments = parser.parse_args()
    faults = internal_faults() + (external_faults() if arguments.external else [])
    sys.exit("\n".join(faults) or 0)


if __name__ == "__main__":
    main()
