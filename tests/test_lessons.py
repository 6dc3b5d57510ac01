"""The course's rules: lessons come from the sources with solutions, are whole, lead somewhere, and give nothing away."""
import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import lessons  # noqa: E402
import slides  # noqa: E402
from clean_notebooks import one_text  # noqa: E402

SOURCES = lessons.sources()
BOTH = [path for source in SOURCES for path in (source, lessons.LESSONS / source.name)]
by_name = dict(ids=lambda path: f"{path.parent.name}/{path.stem}")


def cells_of(path, kind=None):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [(cell["id"], one_text(cell["source"])) for cell in cells if kind in (None, cell["cell_type"])]


def text_of(path):
    return "\n\n".join(text for _, text in cells_of(path, "markdown"))


def calls_of_check(path):
    "Every call of `check`, as a syntax tree."
    code = [text for name, text in cells_of(path, "code") if name != lessons.INSTALL]
    nodes = [node for text in code for node in ast.walk(ast.parse(text))]
    return [node for node in nodes if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "check"]


def test_lessons_are_up_to_date():
    done = subprocess.run([sys.executable, ROOT / "tools" / "lessons.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_both_trees_hold_the_same_lessons():
    assert SOURCES and [path.name for path in SOURCES] == sorted(path.name for path in lessons.LESSONS.glob("*.ipynb"))


@pytest.mark.parametrize("path", SOURCES, **by_name)
def test_lesson_opens_as_a_lesson(path):
    (_, first), *_ = cells_of(path)
    assert re.match(rf"# {path.stem[0]}\. \S.*\n+> \S", first)
    assert all(f"**{word}.**" in text_of(path).split("## ")[0] for word in ("What you will build", "Time", "Before you start"))
    kinds = [cell["cell_type"] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    before_code = "\n".join(text for _, text in cells_of(path)[:kinds.index("code")])
    assert re.search(r"!\[[^\]]{40,}\]\(\.\./images/", before_code), "a picture with a description stands before the first code"


@pytest.mark.parametrize("path", SOURCES, **by_name)
def test_lesson_has_its_parts(path):
    text, code = text_of(path), [text for _, text in cells_of(path, "code")]
    assert "\n## Takeaways" in text and "\n## Further reading" in text
    assert len(re.findall(r"doi\.org/|arxiv\.org/abs/", text.split("## Further reading")[1])) >= 2
    assert sum(cell.startswith("# Knobs") for cell in code) == 1
    assert not [cell for cell in code if re.search(r"#\s*\|\s*export|^\s*(?:from|import) (?:nbdev|fastcore)|^\s*def check\(", cell, re.M)]
    assert not re.search(r"/(work|root|home|tmp)/\w", path.read_text(encoding="utf-8")), "an absolute path of one machine"


@pytest.mark.parametrize("path", SOURCES, **by_name)
def test_lesson_has_exercises_with_checks_and_hints(path):
    headings = re.findall(r"^### Exercise (\d\.\d): \S", text_of(path), re.M)
    calls = calls_of_check(path)
    assert 3 <= len(headings) <= 5 and all(number[0] == path.stem[0] for number in headings)
    assert [number for number in headings if number not in {call.args[0].value for call in calls}] == []
    hints = {call.args[0].value: len(word.value.elts) for call in calls for word in call.keywords if word.arg == "hints"}
    assert {call.args[0].value for call in calls if hints.get(call.args[0].value, 0) < 2} == set()
    assert all(any(word.arg == "right" and word.value for word in call.keywords) for call in calls)


@pytest.mark.parametrize("path", SOURCES, **by_name)
def test_student_gets_no_solution(path):
    copy = (lessons.LESSONS / path.name).read_text(encoding="utf-8")
    assert not re.search("BEGIN SOLUTION|END SOLUTION|# ANSWER:|<!-- SOLUTION", copy)
    assert copy.count("...  # your turn") >= 3
    checked = [cell for cell in json.loads(copy)["cells"] if cell["cell_type"] == "code" and "check(" in one_text(cell["source"])]
    assert checked and not [cell["id"] for cell in checked if cell["outputs"] and re.search(r"^\s*check\(", one_text(cell["source"]), re.M)]


@pytest.mark.parametrize("path", BOTH, **by_name)
def test_links_and_pictures_exist(path):
    wanted = re.findall(r"\]\((?!https?:|mailto:|#)([^)\s#]+)", text_of(path))
    assert [name for name in wanted if not (path.parent / name).exists()] == []


@pytest.mark.parametrize("path", BOTH, **by_name)
def test_badge_opens_this_notebook(path):
    (url,) = re.findall(r"\]\((https://colab\.research\.google\.com/github/[^)]+)\)", text_of(path))
    repository, branch, name = re.fullmatch(r".*?/github/([^/]+/[^/]+)/blob/([^/]+)/(.+)", url).groups()
    assert f"https://github.com/{repository}" == lessons.settings()["git_url"] and branch == lessons.settings()["branch"]
    assert (ROOT / name).resolve() == path.resolve()


@pytest.mark.parametrize("path", BOTH, **by_name)
def test_install_cell_does_nothing_here(path):
    assert [name for name, text in cells_of(path, "code") if "google.colab" in text] == [lessons.INSTALL]
    assert not [name for name, text in cells_of(path, "code") if name != lessons.INSTALL and re.search(r"^\s*[!%]", text, re.M)]


def test_colab_installs_what_the_requirements_name():
    named = lessons.packages()
    assert "torch" not in named and "numpy" not in named
    assert all(f'"{name}>=' in named for name in lessons.NOT_ON_COLAB)


SOLVED = """\
def double(x):
    # BEGIN SOLUTION
    twice = 2 * x

    return twice
    # END SOLUTION
# ANSWER: low, high
# BEGIN SOLUTION
low, high = 1, 2
# END SOLUTION
print(double(3))"""


def test_dots_stand_in_for_solutions():
    text = lessons.blanked(SOLVED)
    assert text == "def double(x):\n    ...  # your turn\nlow = ...  # your turn\nhigh = ...  # your turn\nprint(double(3))"
    ast.parse(text)


@pytest.mark.parametrize("text", ["# BEGIN SOLUTION\nx = 1", "x = 1\n# END SOLUTION", "# ANSWER: x\n\n# BEGIN SOLUTION\nx = 1\n# END SOLUTION"])
def test_broken_marks_are_refused(text):
    with pytest.raises(ValueError, match="left over"):
        lessons.blanked(text)


def test_a_wrong_solution_is_an_error_for_the_tests_and_a_hint_in_class(capsys, monkeypatch):
    from max_nb.course import check, seal
    monkeypatch.delenv("MAX_NB_STRICT", raising=False)
    hints = ["gentle", "stronger"]
    for _ in range(3):
        check("9.1", lambda: 1 / 0, expected=3, hints=hints)
    said = capsys.readouterr().out.splitlines()
    assert ["gentle" in said[0], "stronger" in said[1], "stronger" in said[2]] == [True] * 3 and "ZeroDivisionError" in said[0]
    monkeypatch.setenv("MAX_NB_STRICT", "1")
    check("9.1", "ca", sealed=seal("Ca"), right="it is")
    assert capsys.readouterr().out == "✓ 9.1 it is\n"
    for wrong in ("K", ..., None, (1, ...)):
        with pytest.raises(AssertionError, match="9.1"):
            check("9.1", wrong, sealed=seal("Ca"), hints=hints)


def test_check_without_anything_to_compare_with_is_refused():
    from max_nb.course import check
    with pytest.raises(ValueError, match="9.2"):
        check("9.2", 3)


@pytest.mark.parametrize("answer, expected, tolerance, is_so", [
    (3.7, 3.69, 0.01, True), (3.7, 3.69, 0.0, False), (3, 3.0, 0.0, True), (" CA ", "Ca", 0.0, True), ("Ca", 20, 0.0, False),
    ([1, 2], (1, 2), 0.0, True), ([1, 2, 3], [1, 2], 0.5, False), ([[1.0, 2.0]], [[1.01, 2.0]], 0.02, True), ({"Ca", "K"}, {"k", "ca"}, 0.0, True)])
def test_what_counts_as_the_same_answer(answer, expected, tolerance, is_so):
    from max_nb.course import verdict
    assert (verdict(answer, expected, None, tolerance)[0] == "right") is is_so


def test_tensors_are_answers_too():
    import torch
    from max_nb.course import verdict
    x = torch.arange(6.0).reshape(2, 3)
    assert verdict(x, x.numpy(), None, 0.0) == ("right", "") and verdict(x + 1, x, None, 0.0)[0] == "wrong"


def test_slides_begin_where_headings_are():
    cells = [("markdown", "# 1. Title"), ("code", "import sys\nimport numpy"), ("markdown", "Now look."), ("code", "x"), ("markdown", "## Part"), ("markdown", "And the knobs."), ("code", "# Knobs: small"), ("markdown", "### Exercise 1.1: do")]
    kinds = slides.slide_types([dict(cell_type=kind, id=str(i), source=text) for i, (kind, text) in enumerate(cells)])
    assert kinds == ["slide", "skip", "subslide", "-", "slide", "skip", "skip", "slide"]


def test_a_slide_of_each_lesson_can_be_made(tmp_path):
    pytest.importorskip("nbconvert")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, ROOT / "tools" / "slides.py", "--out", tmp_path, lessons.LESSONS / SOURCES[0].name], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    (page,) = tmp_path.glob("*.html")
    text = page.read_text(encoding="utf-8")
    assert "Reveal" in text and text.count("<section") > 10 and "# BEGIN SOLUTION" not in text
    assert not re.search(r'<img[^>]+src="(?!data:|https:)', text), "a picture that is not in the file"
