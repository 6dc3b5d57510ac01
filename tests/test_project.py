"""The project's own rules: modules come from notebooks, notebooks are clean, imports are light and only go down."""
import ast
import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "max_nb"
CHAPTERS = sorted(ROOT.glob("nbs/[0-9][0-9]_*.ipynb"))
FLOORS = {path.stem[3:]: int(path.stem[:2]) for path in CHAPTERS}
MODULES = sorted(path for path in PACKAGE.glob("*.py") if not path.name.startswith("_"))

LIGHT = {"__future__", "numpy", "pandas", "xraylib", "xraylib_np", "tqdm", "max_nb"} | set(sys.stdlib_module_names)
# What each module may import when it is itself imported, beyond the light ones: its whole point.
AT_TOP = {
    "plots": {"plotly"},
    "mae": {"torch", "safetensors", "huggingface_hub"},
    "pretrain": {"torch"},
    "regress": {"torch", "sklearn", "scipy"},
    "baselines": {"sklearn", "scipy"},
    "evaluate": {"sklearn"},
    "widgets": {"ipywidgets", "plotly", "anywidget"},
}
# What a module may import from lower chapters makes it as heavy as they are.
ONLY_IN = {"ipywidgets": {"widgets"}, "anywidget": {"widgets"}, "shap": {"explain"}, "nbdev": set(), "fastcore": set(), "execnb": set()}


def run(*command, **options):
    "Run a command; its output is in the failure if it fails."
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tree(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(nodes):
    "(top-level package, chapter or None) of every import among the nodes."
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ("max_nb." if node.level else "") + (node.module or "")
            names = [base + alias.name if base == "max_nb." else base for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            yield top, rest.partition(".")[0] or None


def at_top(module):
    "The nodes that run when a module is imported: everything outside functions and `if TYPE_CHECKING`."
    todo = list(module.body)
    while todo:
        node = todo.pop()
        yield node
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        todo += list(ast.iter_child_nodes(node))


@pytest.mark.parametrize("tool", ["export", "clean_notebooks", "readme"])
def test_what_is_written_from_the_notebooks_is_up_to_date(tool):
    run(sys.executable, ROOT / "tools" / f"{tool}.py", "--check", cwd=ROOT)


def test_every_chapter_has_its_module():
    assert MODULES and {path.stem for path in MODULES} == set(FLOORS)


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_opens_as_a_chapter(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    first = "".join(cells[0]["source"])
    code = next("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    assert re.match(r"# \S.*\n+> \S", first), f"{path.name}: the first cell is '# Title' and '> one line'"
    assert code.strip() == f"#| default_exp {path.stem[3:]}"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_runs_where_neither_nbdev_nor_this_machine_is(path):
    text = path.read_text(encoding="utf-8")
    sources = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    assert not [s for s in sources if re.search(r"^\s*(from|import)\s+(nbdev|fastcore)", s, re.M)]
    assert not re.search(r"/(work|root|home|tmp)/\w", text), "an absolute path of one machine"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter_pictures_exist(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    wanted = re.findall(r"!\[[^\]]*\]\((?!https?:)([^)\s]+)", text)
    assert [name for name in wanted if not (path.parent / name).is_file()] == []


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_module_imports_only_lower_chapters(path):
    used = {chapter for top, chapter in imported(ast.walk(tree(path))) if top == "max_nb" and chapter}
    assert {chapter for chapter in used if FLOORS[chapter] >= FLOORS[path.stem]} == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_module_imports_what_is_heavy_only_where_it_is_used(path):
    top = {package for package, _ in imported(at_top(tree(path)))}
    assert top - LIGHT - AT_TOP.get(path.stem, set()) == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_module_keeps_to_what_is_its_own(path):
    everywhere = {package for package, _ in imported(ast.walk(tree(path)))}
    assert {name for name in everywhere & set(ONLY_IN) if path.stem not in ONLY_IN[name]} == set()


def named_numbers(module):
    "(name, number, line) of each number that is given to a name: assigned, as a default, as a keyword."
    for node in ast.walk(module):
        if isinstance(node, ast.arguments):
            names = node.posonlyargs + node.args
            pairs = list(zip(names[len(names) - len(node.defaults):], node.defaults)) + list(zip(node.kwonlyargs, node.kw_defaults))
            pairs = [(name.arg, value) for name, value in pairs]
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            pairs = [(ast.unparse(target), node.value) for target in getattr(node, "targets", None) or [node.target]]
        elif isinstance(node, ast.keyword):
            pairs = [(node.arg or "", node.value)]
        else:
            continue
        yield from ((name, value.value, value.lineno) for name, value in pairs if isinstance(value, ast.Constant))


@pytest.mark.parametrize("path", [path for path in MODULES if path.stem != "energy"], ids=lambda path: path.stem)
def test_calibration_numbers_stand_in_energy_alone(path):
    module = tree(path)
    channels = [node.lineno for node in ast.walk(module) if isinstance(node, ast.Constant) and node.value == 2048]
    widths = [line for name, number, line in named_numbers(module) if number == 0.02 and re.search("gain|offset|kev", name, re.I)]
    assert channels + widths == []


def test_import_is_light():
    code = "import sys, time; t = time.perf_counter(); import max_nb; print(time.perf_counter() - t); print(*sys.modules)"
    answers = [run(sys.executable, "-c", code, cwd=ROOT).split("\n") for _ in range(3)]
    heavy = {"torch", "shap", "plotly", "accelerate", "sklearn", "scipy", "matplotlib", "pandas", "ipywidgets", "numba"}
    assert min(float(seconds) for seconds, *_ in answers) < 0.3
    assert heavy & set(answers[0][1].split()) == set()


def test_requirements_name_all_that_the_package_imports():
    from configparser import ConfigParser
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    extras = [value for key, value in config["DEFAULT"].items() if key.endswith("_requirements") and key not in ("lab_requirements", "dev_requirements", "docs_requirements")]
    wanted = " ".join([config["DEFAULT"]["requirements"], *extras])  # the extras are imported where they are used
    named = {re.split(r"[<>=!~\[]", requirement)[0] for requirement in wanted.split()}
    imports = {top for path in MODULES for top, _ in imported(ast.walk(tree(path)))} - set(sys.stdlib_module_names) - {"max_nb", "__future__", "google"}
    names = {"IPython": "ipython", "sklearn": "scikit-learn", "xraylib_np": "xraylib", "pdz_tool": "pdz-tool"}
    assert {names.get(top, top) for top in imports} - named == set()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "A wheel built from the sdist built from a copy of the tree: so MANIFEST.in is tried too."
    source, dist = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("setup.py", "settings.ini", "pyproject.toml", "MANIFEST.in", "LICENSE", "README.md", "CHANGELOG.md", "constraints.txt"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    for path in PACKAGE.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            target = source / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, source)
    run(sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir())
    return next(dist.glob("*.whl"))


def test_wheel_carries_the_weights(wheel):
    held = {item.filename: item.file_size for item in zipfile.ZipFile(wheel).infolist()}
    shipped = {str(path.relative_to(ROOT).as_posix()): path.stat().st_size for path in (PACKAGE / "pretrained").rglob("*") if path.is_file()}
    assert shipped and shipped.items() <= held.items()


def test_installed_wheel_runs_without_the_developers_tools(wheel, tmp_path):
    venv.create(tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    # The third-party packages are borrowed; nbdev and its kin are then made impossible to import.
    borrowed = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    (site / "borrowed.pth").write_text(f"{borrowed}\nimport sys; sys.modules.update(dict.fromkeys(['nbdev', 'fastcore', 'execnb', 'ghapi']))\n")
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    names = ", ".join(f"max_nb.{path.stem}" for path in MODULES if path.stem != "widgets")
    where = run(python, "-c", f"import {names}; max_nb.mae.load_pretrained(); print(max_nb.__file__)", cwd=tmp_path, env=clean)
    assert Path(where.strip()).is_relative_to(site)
    said = run(tmp_path / "venv" / "bin" / "max-nb", "--help", cwd=tmp_path, env=clean)
    assert "quantify" in said
