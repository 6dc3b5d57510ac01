"""Write the API reference as pages for sphinx: one for each module, read from its source without importing it.

This project writes what a parameter means, its shape and its unit, as a comment beside it. Sphinx's autodoc does not
see comments; here they become tables.
"""
import ast
import copy
import io
import json
import re
import tokenize
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "max_nb"
LONGEST_VALUE = 100  # characters of a constant that are shown
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Row:
    "One line of a table: a parameter, a field or what is returned."
    name: str
    kind: str = ""  # its annotation
    default: str = ""
    note: str = ""  # the comment beside it


def comments(source: str) -> dict[int, str]:
    "The comment of each line that has one, by line number."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {token.start[0]: token.string.lstrip("# ").rstrip() for token in tokens if token.type == tokenize.COMMENT}


def text_of(node: ast.AST | None) -> str:
    "The source of a part of the syntax tree; nothing for None."
    return ast.unparse(node) if node is not None else ""


def last_line(node: ast.FunctionDef) -> int:
    "The line on which a signature ends."
    parts = [part for part in (*ast.walk(node.args), node.returns) if hasattr(part, "end_lineno")]
    end = max([part.end_lineno for part in parts], default=node.lineno)
    first = node.body[0].lineno
    return end if node.returns or end == node.lineno else max(end, min(end + 1, first - 1))


def argument_row(argument: ast.arg, default: ast.AST | None, notes: dict, end: int, star: str = "") -> Row:
    "The row of one parameter; a comment on the line that ends the signature is about what is returned."
    note = "" if argument.lineno == end else notes.get(max(argument.end_lineno, getattr(default, "end_lineno", 0)), "")
    return Row(star + argument.arg, text_of(argument.annotation), text_of(default), note)


def parameters(node: ast.FunctionDef, notes: dict[int, str]) -> list[Row]:
    "The parameters of a function, without `self` and `cls`."
    a, end = node.args, last_line(node)
    plain = a.posonlyargs + a.args
    rows = [argument_row(*pair, notes, end) for pair in zip(plain, [None] * (len(plain) - len(a.defaults)) + a.defaults)]
    rows += [argument_row(a.vararg, None, notes, end, "*")] if a.vararg else []
    rows += [argument_row(*pair, notes, end) for pair in zip(a.kwonlyargs, a.kw_defaults)]
    rows += [argument_row(a.kwarg, None, notes, end, "**")] if a.kwarg else []
    return rows[1:] if rows and rows[0].name in ("self", "cls") else rows


def returned(node: ast.FunctionDef, notes: dict[int, str]) -> Row | None:
    "What a function returns, if it says so."
    row = Row("returns", text_of(node.returns), "", notes.get(last_line(node), ""))
    return row if row.note or row.kind not in ("", "None") else None


def signature(node: ast.FunctionDef, rows: list[Row]) -> str:
    "Names and defaults in brackets; the types stand in the table."
    names = [row.name + (f"={row.default}" if row.default else "") for row in rows]
    if node.args.kwonlyargs and not node.args.vararg:
        names.insert(next(i for i, row in enumerate(rows) if row.name == node.args.kwonlyargs[0].arg), "*")
    return f"({', '.join(names)})"


def fields(node: ast.ClassDef, notes: dict[int, str]) -> list[Row]:
    "The fields of a dataclass or a named tuple."
    found = [item for item in node.body if isinstance(item, ast.AnnAssign) and not text_of(item.target).startswith("_")]
    return [Row(text_of(item.target), text_of(item.annotation), text_of(item.value), notes.get(item.end_lineno, "")) for item in found]


def safe(text: str) -> str:
    "A docstring or comment as Markdown: what stands outside of `code` means itself."
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(part if i % 2 else re.sub(r"([\\*_$<>\[\]{}#~])", r"\\\1", part) for i, part in enumerate(parts))


def code(text: str) -> str:
    "A piece of code within a table."
    return f"`{text}`" if text else ""


def table(rows: list[Row], what: str) -> str:
    "Rows as a Markdown table; columns that would be empty are left out."
    if not rows:
        return ""
    columns = {what: [code(row.name) if row.name != "returns" else "*returns*" for row in rows], "type": [code(row.kind) for row in rows],
               "default": [code(row.default) for row in rows], "meaning, shape, unit": [safe(row.note) for row in rows]}
    kept = {head: cells for head, cells in columns.items() if head == what or any(cells)}
    if len(kept) == 1:  # the signature names them already
        return ""
    lines = [list(kept), ["---"] * len(kept), *zip(*kept.values())]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def directive(kind: str, head: str, body: list[str], module: str = "", options: dict | None = None, depth: int = 3) -> str:
    "One of sphinx's directives for Python objects; `depth` colons around it, more the more it holds."
    settings = {**({"module": module} if module else {}), **(options or {})}
    listed = "\n".join(f":{key}: {json.dumps(value, ensure_ascii=False) if value else ''}".rstrip() for key, value in settings.items())
    inner = "\n\n".join(part for part in body if part)
    return f"{':' * depth}{{{kind}}} {head}\n{listed}\n\n{inner}\n{':' * depth}"


def decorators(node: ast.AST) -> set[str]:
    "The names of a function's decorators, without their arguments."
    return {text_of(item.func if isinstance(item, ast.Call) else item) for item in node.decorator_list}


def function_entry(node: ast.FunctionDef, notes: dict, module: str) -> str:
    "A function of a module."
    rows, result = parameters(node, notes), returned(node, notes)
    return directive("py:function", node.name + signature(node, rows), [safe(ast.get_docstring(node) or ""), table(rows + [result] * bool(result), "parameter")], module)


def attached(tree: ast.Module) -> dict[str, dict[str, tuple[str, str]]]:
    "Methods that are added below their class, as in `MAX.encode = encode`: class -> method -> (function, what wraps it)."
    found = {}
    for node in (node for node in tree.body if isinstance(node, ast.Assign)):
        target, values = node.targets[0], node.value
        pairs = zip(target.elts, values.elts) if isinstance(target, ast.Tuple) and isinstance(values, ast.Tuple) else [(target, values)]
        for place, value in pairs:
            if isinstance(place, ast.Attribute) and isinstance(place.value, ast.Name):
                wrapper, value = (text_of(value.func), value.args[0]) if isinstance(value, ast.Call) and value.args else ("", value)
                found.setdefault(place.value.id, {})[place.attr] = (text_of(value), wrapper)
    return found


def added_methods(name: str, tree: ast.Module) -> list[ast.FunctionDef]:
    "The functions that a module adds to one of its classes, each under the name and with the decorator that it has there."
    functions = {node.name: node for node in tree.body if isinstance(node, FUNCTIONS)}
    made = []
    for method, (function, wrapper) in attached(tree).get(name, {}).items():
        if function not in functions:
            continue
        node = copy.copy(functions[function])
        node.name, node.decorator_list = method, node.decorator_list + [ast.Name(wrapper)] * bool(wrapper)
        made.append(node)
    return made


def method_entry(node: ast.FunctionDef, notes: dict) -> str:
    "A method or property of a class."
    rows, result, marks = parameters(node, notes), returned(node, notes), decorators(node)
    doc = safe(ast.get_docstring(node) or "")
    if marks & {"property", "cached_property", "functools.cached_property"}:
        kind = {"type": result.kind} if result and result.kind else {}
        return directive("py:property", node.name, [doc, safe(result.note) if result else ""], options=kind)
    options = {mark: "" for mark in ("classmethod", "staticmethod") if mark in marks}
    return directive("py:method", node.name + signature(node, rows), [doc, table(rows + [result] * bool(result), "parameter")], options=options)


def class_entry(node: ast.ClassDef, notes: dict, module: str, tree: ast.Module) -> str:
    "A class: what it is made from, then its public methods that say what they do."
    methods = [item for item in node.body if isinstance(item, FUNCTIONS)] + added_methods(node.name, tree)
    start = next((item for item in methods if item.name == "__init__"), None)
    rows = parameters(start, notes) if start else fields(node, notes)
    head = node.name + (signature(start, rows) if start else f"({', '.join(row.name + (f'={row.default}' if row.default else '') for row in rows)})")
    public = [method_entry(item, notes) for item in methods if not item.name.startswith("_") and (ast.get_docstring(item) or item.returns)]
    return directive("py:class", head, [safe(ast.get_docstring(node) or ""), table(rows, "parameter"), *public], module, depth=4)


def shortened(value: str) -> str:
    "The value of a constant, cut where it is long."
    return value if len(value) <= LONGEST_VALUE else value[:LONGEST_VALUE].rstrip() + " ..."


def constant_entry(node: ast.Assign | ast.AnnAssign, name: str, notes: dict, module: str) -> str:
    "A constant, its value, and the comment beside it."
    value = " ".join(shortened(text_of(node.value)).split())
    return directive("py:data", name, [safe(notes.get(node.end_lineno, ""))], module, {"value": value})


def entry(node: ast.AST, names: set[str], notes: dict, module: str, tree: ast.Module) -> list[str]:
    "What the reference says about one statement of a module."
    if isinstance(node, FUNCTIONS) and node.name in names:
        return [function_entry(node, notes, module)]
    if isinstance(node, ast.ClassDef) and node.name in names:
        return [class_entry(node, notes, module, tree)]
    if isinstance(node, (ast.Assign, ast.AnnAssign)):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        found = [part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store) and part.id in names]
        return [constant_entry(node, name, notes, module) for name in found]
    return []


def exported(tree: ast.Module) -> set[str]:
    "The names in `__all__`."
    return next(set(ast.literal_eval(node.value)) for node in tree.body if isinstance(node, ast.Assign) and text_of(node.targets[0]) == "__all__")


def from_elsewhere(tree: ast.Module, names: set[str]) -> str:
    "A line about exported names that a module takes from another one; nothing where there are none."
    found = [(item.name, node.module) for node in tree.body if isinstance(node, ast.ImportFrom) and node.level for item in node.names if item.name in names]
    return "Offered here, too: " + ", ".join(f"{{py:obj}}`{name} <max_nb.{module}.{name}>`" for name, module in found) + "." if found else ""


def chapter_of(source: str) -> str:
    "The notebook that a module is written from, such as `01_spectra`."
    return re.search(r"File to edit: \.\./nbs/(\w+)\.ipynb", source)[1]


def module_page(source: str, name: str) -> str:
    "The page of one module."
    tree, notes, module = ast.parse(source), comments(source), f"max_nb.{name}"
    methods = {function for added in attached(tree).values() for function, _ in added.values()}
    names = exported(tree) - methods
    entries = [text for node in tree.body for text in entry(node, names, notes, module, tree)]
    chapter = chapter_of(source)
    head = f"# max_nb.{name}\n\n:::{{py:module}} {module}\n:::\n\n{safe(ast.get_docstring(tree) or '')}\n\nTaught, with examples, in the chapter [{chapter}](../{chapter}.ipynb)."
    return "\n\n".join(part for part in [head, from_elsewhere(tree, names), *entries] if part) + "\n"


def modules() -> list[Path]:
    "The package's public modules, in the order of their chapters."
    found = [path for path in PACKAGE.glob("*.py") if not path.name.startswith("_")]
    return sorted(found, key=lambda path: chapter_of(path.read_text(encoding="utf-8")))


def index_page() -> str:
    "The page that lists the modules."
    rows = [(path.stem, ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "") for path in modules()]
    lines = [f"| [{name}]({name}.md) | {safe(doc.splitlines()[0])} |" for name, doc in rows]
    listing = "\n".join(name for name, _ in rows)
    return ("# Reference\n\nEvery public function and class, with the shape and unit of what goes in and comes out. B is the number of spectra, C that of "
            "channels, T that of targets, P that of patches.\n\n| module | what it does |\n| --- | --- |\n" + "\n".join(lines) +
            f"\n\n:::{{toctree}}\n:hidden:\n\n{listing}\n:::\n")


def write(folder: Path):
    "All pages into a folder."
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.md").write_text(index_page(), encoding="utf-8")
    for path in modules():
        (folder / f"{path.stem}.md").write_text(module_page(path.read_text(encoding="utf-8"), path.stem), encoding="utf-8")
