"""The chapters' form: what tools/form.py sees, and that it sees it."""

import nbformat
import pytest
from answers import answers
from chapters import NAMES, NOTEBOOKS
from form import exercises, faults
from nbformat.v4 import new_markdown_cell, new_output

NEXT = r"\na = 0"  # one more line, in a notebook's JSON


@pytest.mark.parametrize("name", NAMES)
def test_form(name):
    path = NOTEBOOKS / f"{name}.ipynb"
    if found := faults(nbformat.read(path, as_version=4), int(name[:2])):
        pytest.fail("\n".join([f"notebooks/{name}.ipynb:", *found]), pytrace=False)


@pytest.mark.parametrize("name", [name for name in NAMES if answers(name)])
def test_each_exercise_has_answers_to_try_its_check_on(name):
    asked = exercises(nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4))
    assert sorted(answers(name)) == list(range(1, len(asked) + 1))
    for number, found in answers(name).items():
        rights = [right for _, right, _ in found]
        assert rights.count(True) >= 2 and rights.count(False) >= 3, number
        assert "hard-coded" in [words for words, right, _ in found if not right], number


def test_an_example_without_a_fault(example):
    assert faults(example, 4) == []


@pytest.mark.parametrize(
    "old, new, fault",
    [
        ("# Title", "## Title", "not a title"),
        ("## Summary", "### Summary", "a level is skipped"),
        ("## Summary", "# Summary", "not one title"),
        ("## Summary", "## The end", "no section Summary"),
        ("## Exercises", "## More", "no section Exercises"),
        ("You will", "We will", "no 'You will'"),
        ("It is short", "See {ref}`x`", "MyST"),
        ("It is short", "```{note}", "MyST"),
        ("It is short.", "(label)=", "MyST"),
        ("It is short", "![](x.png)", "alt text"),
        ("It is short", "TODO", "cell 3 (summary) `## Summary`: TODO"),
        ("encoder import Block", "encoder import Encoder", "imports encoder.Encoder"),
        (
            "from vitutils.encoder import Block",
            "import vitutils.encoder",
            "imports enc",
        ),
        ("from vitutils import plot", "from vitutils import vit", "imports vit"),
        ("from vitutils import plot", "from vitutils.new import x", "imports new.x"),
        ("from vitutils import plot", "!pip list", "not plain Python"),
        ("from vitutils import plot", "x = '" + 76 * "a" + "'", "> 76 characters"),
        ("a = 4", "a = '" + 76 * "a" + "'", "> 76 characters"),
        ("a = 4", "a = (", "not plain Python"),
        ('"execution_count": 3', '"execution_count": null', "not run top to bottom"),
        ('"execution_count": 3', '"execution_count": 7', "not run top to bottom"),
        ('"a = None"', '"a = 0"', "edited since it ran: `make execute CH=04`"),
        ('"a = None"', f'"a = None{60 * NEXT}"', "61 > 60 open lines"),
        ('import plot"', f'import plot{20 * NEXT}"', "22 > 20 open lines"),
        ('"exercise', '"nbval-ignore-output", "exercise', "nbval compares"),
        ('"stdout"', '"stderr"', "stderr without"),
        ("image/svg+xml", "text/html", "no picture"),
        ("image/svg+xml", "image/png", "a figure that is no SVG"),
        ('"alt": "a line"', '"width": "4"', "mystnb.image.alt"),
        ('"caption": "What to see."', '"width": "4"', "mystnb.figure.caption"),
        ("518.4pt", "600.0pt", "wider than plot.WIDTH"),
        ("scale(0.11 -", "scale(0.09 -", "text of 9.0 points"),
        ("fill: #24292f", "fill: #e69f00", "text in #e69f00"),
        ("not yet: a is", "UserWarning: a is", "'Warning:'"),
        ("not yet: a is", "<f at 0x7f00aa1122>", "' at 0x"),
        ("not yet: a is", "/home/me/x.py", "a path of one machine"),
        ("It is short", "It is in /tmp/x", "a path of one machine"),
        ("not yet: a is", "not yet: " + 79 * "a", "> 79 characters printed"),
        ("not yet: a is", "correct", "it must print 'not yet"),
        ("It is short", "It gets 87 %", "87 stands in no output"),
        ("It is short", "It has 1,234 heads", "1,234 stands in no output"),
        ("It is short", "It takes about 4.5 s", "4.5 stands in no output"),
        ("What to see", "It is 4.5 s", "4.5 stands in no output"),
        ('"exercise-check"', '"other"', "no check cell"),
        ("<details>", "<div>", "folded solution"),
    ],
)
def test_a_fault_is_seen(example, old, new, fault):
    text = nbformat.writes(example)
    assert old in text
    spoiled = nbformat.reads(text.replace(old, new), as_version=4)
    found = faults(spoiled, 4)
    assert any(fault in words for words in found), found


def test_a_graph_without_a_caption_is_seen(example):
    cell = next(cell for cell in example.cells if cell.get("outputs"))
    words = "Computation graph: 9 nodes, 8 edges, 3 parameters"
    cell.outputs = [new_output("display_data", {"text/plain": words})]
    assert not [w for w in faults(example, 4) if "caption" in w]
    del cell.metadata["mystnb"]
    assert any("without mystnb.figure.caption" in w for w in faults(example, 4))


@pytest.mark.parametrize(
    "output, told",
    [
        ("0.8712", "It gets 87 %."),
        ("0.8712", "It gets 87.1 %, 0.87."),
        ("1283 s", "It takes about 1,300 s."),
        ("1,234", "There are 1,234."),
        ("5e-3", "A rate of 0.005 in 2021."),
        ("None", "It is $2^{10} = 1{,}024$, so 1,024."),
        ("None", "It got 87 % ([Li et al. (2020)](../book/bibliography.md))."),
        ("None", "With `lr=0.125`, that is 0.125, see figure 4.1 and table 300."),
    ],
)
def test_a_number_that_is_shown_may_be_told(example, output, told):
    example.cells[1].outputs[0].text = output
    example.cells.append(new_markdown_cell(told))
    assert faults(example, 4) == []


def test_an_error_in_an_output_is_seen(example):
    error = new_output("error", ename="E", evalue="e", traceback=[])
    example.cells[1].outputs.append(error)
    assert [words.endswith(": an error") for words in faults(example, 4)] == [True]
