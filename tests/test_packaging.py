"""What is published: one version, extras that exist, a citation and workflows that are valid, Colab's packages left alone."""
import ast
import json
import re
import subprocess
import sys
from configparser import ConfigParser
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


def tool(name):
    "A script of tools/, imported."
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        spec = spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(ROOT / "tools"))


@pytest.fixture(scope="module")
def settings():
    config = ConfigParser(delimiters=["="])
    config.read(ROOT / "settings.ini", encoding="utf-8")
    return config["DEFAULT"]


@pytest.fixture(scope="module")
def metadata(tmp_path_factory):
    "What setup.py says of the package, as wheels carry it."
    folder = tmp_path_factory.mktemp("info")
    done = subprocess.run([sys.executable, "setup.py", "-q", "egg_info", "--egg-base", folder], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    from email import message_from_string
    return message_from_string((folder / "max_nb.egg-info" / "PKG-INFO").read_text(encoding="utf-8"))


def loaded(path):
    "A YAML file as of YAML 1.2, where `on` is a word."
    from ruamel.yaml import YAML
    return YAML(typ="safe").load(path.read_text(encoding="utf-8"))


def schema_faults(name, path):
    "What a published schema has against a file; check-jsonschema brings the schemas along, nothing is downloaded."
    from importlib.resources import files

    from jsonschema.validators import validator_for
    schema = json.loads((files("check_jsonschema") / "builtin_schemas" / "vendor" / f"{name}.json").read_text(encoding="utf-8"))
    found = loaded(path)
    found = json.loads(json.dumps(found, default=str))  # dates as text
    return [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in validator_for(schema)(schema).iter_errors(found)]


def test_version_stands_in_one_place(settings, metadata):
    assert metadata["Version"] == settings["version"]
    assert f'__version__ = "{settings["version"]}"' in (ROOT / "max_nb" / "__init__.py").read_text()
    assert "version:" not in (ROOT / "CITATION.cff").read_text().replace("cff-version:", "")
    assert settings["version"] not in (ROOT / "setup.py").read_text() + (ROOT / "pyproject.toml").read_text()


def test_extras_are_all_offered(settings, metadata):
    written = {key.removesuffix("_requirements") for key in settings if key.endswith("_requirements")}
    assert set(metadata.get_all("Provides-Extra")) == written
    assert {"dev", "lab", "docs", "explain", "hub"} <= written


@pytest.mark.parametrize("extra", ["explain", "hub"])
def test_extras_that_only_name_things_ask_for_nothing_new(settings, extra):
    assert set(settings[f"{extra}_requirements"].split()) <= set(settings["requirements"].split())


def test_pinned_versions_lie_within_the_ranges(settings):
    from packaging.requirements import Requirement
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pins = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    wanted = [Requirement(text) for key in settings if key.endswith("requirements") for text in settings[key].split()]
    outside = {str(one): pins[name] for one in wanted if (name := one.name.lower().replace("_", "-")) in pins and pins[name] not in one.specifier}
    assert outside == {} and len(pins) > 20


def test_citation_is_valid(settings):
    found = loaded(ROOT / "CITATION.cff")
    assert schema_faults("citation-file-format", ROOT / "CITATION.cff") == []
    assert found["repository-code"] == settings["git_url"] and found["url"] == settings["doc_host"] + settings["doc_baseurl"]
    assert found["license"] in (ROOT / "setup.py").read_text()


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflow_is_valid(path):
    assert schema_faults("github-workflows", path) == []


def test_schemas_do_find_faults(tmp_path):
    (tmp_path / "bad.yml").write_text("on: push\njobs:\n  test:\n    steps: nothing\n")
    (tmp_path / "bad.cff").write_text("cff-version: 1.2.0\ntitle: x\n")
    assert any("jobs/test" in fault for fault in schema_faults("github-workflows", tmp_path / "bad.yml"))
    assert any("authors" in fault for fault in schema_faults("citation-file-format", tmp_path / "bad.cff"))


def runs(path):
    "The commands of a workflow."
    jobs = loaded(path)["jobs"].values()
    return [step["run"] for job in jobs for step in job["steps"] if "run" in step]


def test_workflows_make_what_there_is_to_make():
    there = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    asked = {target for path in WORKFLOWS for line in runs(path) for words in re.findall(r"\bmake ([^\n&|;]+)", line) for target in words.split() if "=" not in target}
    assert {"test", "docs", "dist", "links", "try-wheel"} <= asked <= there


def test_every_python_that_is_promised_is_tested(settings, metadata):
    matrix = loaded(ROOT / ".github/workflows/tests.yml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    promised = [line.split(" :: ")[-1] for line in metadata.get_all("Classifier") if re.search(r"Python :: 3\.\d+$", line)]
    assert matrix == promised == settings["python_versions"].split() and matrix[0] == settings["min_python"]


def test_colab_is_given_only_what_it_lacks():
    assert sorted(map(tool("colab_env").name_of, tool("colab_env").lacking())) == ["crepes", "xraylib"]


def test_requirements_allow_what_colab_has(settings):
    from packaging.requirements import Requirement
    colab = dict(line.split("==") for line in (ROOT / "tools" / "colab_requirements.txt").read_text().splitlines() if "==" in line)
    wanted = [Requirement(text) for text in settings["requirements"].split()]
    assert {str(one): colab[one.name] for one in wanted if one.name in colab and colab[one.name] not in one.specifier} == {}


def install_cells():
    "(notebook, line) of each cell that installs something."
    for path in sorted(ROOT.glob("nbs/**/*.ipynb")):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                yield from ((path, line.strip()) for line in "".join(cell["source"]).splitlines() if re.match(r"\s*[%!]\s*pip install", line))


def test_notebooks_install_as_was_tried_in_an_environment_like_colabs(settings):
    made = tool("colab_env")
    expected = {f"git+{settings['git_url']}", *made.lacking()}
    for path, line in install_cells():
        assert "--no-deps" in line, f"{path.name}: {line}: would change what Colab brings along"
        assert set(re.findall(r'"([^"]+)"', line)) == expected, f"{path.name}: {line}; expected {expected}"


def test_tools_import_only_what_a_bare_python_has():
    "Those that make environments run before anything is installed."
    for name in ("setup_venv", "colab_env", "try_wheel", "links"):
        tree = ast.parse((ROOT / "tools" / f"{name}.py").read_text())
        top = {(node.module or "").split(".")[0] if isinstance(node, ast.ImportFrom) else node.names[0].name.split(".")[0] for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))}
        assert top - set(sys.stdlib_module_names) <= {"clean_notebooks"}, name
