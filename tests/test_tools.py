"""tools/chapters.py on small made-up books."""

import inspect
import json
import re

import chapters
import nbformat
import pytest
from form import faults
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PART = "vitutils.parts.Part"
ADDRESS = "https://github.com/owner/old-book"

PART_CELL = rf"cell 6 \(part\) `class Part:` {PART}"

PARTS = '''"""Two parts."""

import functools


@functools.cache
def double(x):
    """Twice x."""
    return 2 * x  # the end


class Part:
    """Has a method."""

    def half(self, x):
        return x / 2
'''
README = """\
[![test](https://github.com/owner/old-book/actions/workflows/test.yml/badge.svg)](x)
Read it at https://owner.github.io/old-book/ or see
[the package](https://github.com/owner/old-book/blob/main/vitutils/parts.py).
Not ours: https://github.com/owner/old-book-2 and https://github.com/other/old-book

    git clone https://github.com/owner/old-book
    cd old-book
"""
CONFIG = """\
title: A book  # with a comment
repository:
  url: https://github.com/owner/old-book  # the one place
  branch: main
sphinx:
  config:
    html_baseurl: https://owner.github.io/old-book/
"""


def put(root, name, *cells):
    nbformat.write(new_notebook(cells=list(cells)), root / "notebooks" / name)


@pytest.fixture
def root(tmp_path):
    """A book of one chapter that has never been synced."""
    for folder in ("vitutils", "notebooks", "book"):
        (tmp_path / folder).mkdir()
    (tmp_path / "vitutils/parts.py").write_text(PARTS)
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "_config.yml").write_text(CONFIG)
    (tmp_path / "book/intro.md").write_text(
        "https://github.com/owner/old-book/issues\n"
    )
    put(
        tmp_path,
        "01_parts.ipynb",
        new_markdown_cell("# Parts\n\nWhat is a part?", id="title"),
        new_markdown_cell(f"See <{ADDRESS}/tree/main/data>.", id="see"),
        new_code_cell(
            "import sys\nprint('one')\nprint('two', file=sys.stderr)", id="print"
        ),
        new_code_cell("pass", id="part", metadata={"listing": PART, "editable": True}),
        new_code_cell("6 * 7", id="times"),
    )
    return tmp_path


def files(root):
    return {p: p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def read(root, name="01_parts.ipynb"):
    return nbformat.read(root / "notebooks" / name, as_version=4)


def test_sync_fills_listings_and_puts_badge_and_setup_in_their_places(root):
    chapters.sync(root)
    cells = read(root).cells
    assert [c.id for c in cells] == [
        "title",
        "badge",
        "see",
        "setup",
        "print",
        "part",
        "times",
    ]
    assert cells[5].source == PARTS[PARTS.index("class Part") :].rstrip()
    assert cells[5].metadata == {"listing": PART}
    assert cells[1].metadata == cells[3].metadata == {"tags": ["remove-cell"]}
    assert "/old-book/blob/main/notebooks/01_parts.ipynb)" in cells[1].source
    assert "https://github.com/owner/old-book" in cells[3].source
    assert read(root).metadata.language_info.pygments_lexer == "ipython3"


def test_sync_twice_changes_nothing(root, capsys):
    chapters.sync(root)
    before = files(root)
    capsys.readouterr()
    chapters.sync(root)
    assert files(root) == before
    assert capsys.readouterr().out == ""
    chapters.check(root)


def test_a_new_cell_gets_an_id_and_the_others_keep_theirs(root):
    chapters.sync(root)
    path = root / "notebooks/01_parts.ipynb"
    text = json.loads(path.read_text())
    old = [cell["id"] for cell in text["cells"]]
    bare = {"cell_type": "markdown", "metadata": {}, "source": "new"}
    text["cells"][5:5] = [bare, bare | {"id": "see"}, bare | {"id": "not one"}]
    path.write_text(json.dumps(text | {"nbformat_minor": 4}))
    chapters.sync(root)
    ids = [cell.id for cell in read(root).cells]
    assert ids[:5] + ids[8:] == old
    assert len(set(ids)) == len(ids) == len(old) + 3
    chapters.check(root)


@pytest.mark.slow
def test_a_cell_edited_since_it_ran_is_known(root):
    chapters.execute([], root)
    path = root / "notebooks/01_parts.ipynb"
    assert chapters.stale(read(root)) == []
    path.write_text(path.read_text().replace("6 * 7", "(6  *  7)  # laid out"))
    assert chapters.stale(read(root)) == []
    path.write_text(path.read_text().replace("(6  *  7)", "6 * 8"))
    assert [cell.id for cell in chapters.stale(read(root))] == ["times"]
    chapters.execute([], root)
    assert chapters.stale(read(root)) == []


@pytest.mark.parametrize("code", ["x = None", "x = ''", "x = []", "x = 1", "y = 1"])
def test_a_stamp_tells_what_code_does(code):
    others = {"x = None", "x = ''", "x = []", "x = 1", "y = 1", "!ls"} - {code}
    assert chapters.stamp(code) not in map(chapters.stamp, others)
    assert chapters.stamp(code) == chapters.stamp(f"# why\n\n{code}  # and how\n")


def test_sync_keeps_outputs(root):
    chapters.execute([], root)
    path = root / "notebooks/01_parts.ipynb"
    path.write_text(path.read_text().replace("self, x", "self, y"))
    chapters.sync(root)
    assert read(root).cells[6].outputs[0].data["text/plain"] == "42"
    assert "self, x" in read(root).cells[5].source


def test_source_is_what_inspect_reads():
    from vitutils import attention

    for name in ("ScaledDotProductAttention", "MultiHeadAttention"):
        expected = inspect.getsource(getattr(attention, name)).rstrip()
        assert chapters.source_of(f"vitutils.attention.{name}") == expected


def test_a_listing_of_several_names_decorators_and_methods(root):
    names = ["vitutils.parts.double", "vitutils.parts.Part.half"]
    put(
        root,
        "02_more.ipynb",
        new_markdown_cell("# More"),
        new_code_cell("pass", metadata={"listing": names}),
    )
    chapters.sync(root)
    assert read(root, "02_more.ipynb").cells[-1].source == (
        '@functools.cache\ndef double(x):\n    """Twice x."""\n'
        "    return 2 * x  # the end\n\n\ndef half(self, x):\n    return x / 2"
    )


@pytest.mark.parametrize("name", ["vitutils.parts.X", "vitutils.x.Part", "vitutils"])
def test_an_unknown_listing_names_notebook_cell_and_object(root, name):
    cell = new_code_cell("pass", metadata={"listing": name})
    put(root, "02_more.ipynb", new_markdown_cell("# More"), cell)
    before = files(root)
    with pytest.raises(SystemExit, match=rf"02_more.ipynb, cell 2: listing {name}"):
        chapters.sync(root)
    assert files(root) == before


@pytest.mark.parametrize(
    "file, old, new, named",
    [
        ("vitutils/parts.py", "x / 2", "x // 2", PART_CELL),
        ("notebooks/01_parts.ipynb", "x / 2", "x // 2", PART_CELL),
        ("notebooks/01_parts.ipynb", "/blob/main/", "/blob/dev/", "badge"),
        ("notebooks/01_parts.ipynb", "--depth=1", "--depth=2", "setup"),
        (
            "notebooks/01_parts.ipynb",
            "tree/main/data",
            "tree/dev/data",
            r"cell 3 \(see\) `See <",
        ),
        ("notebooks/01_parts.ipynb", '"python3"', '"other"', "normal form"),
        ("README.md", "blob/main", "blob/dev", "README.md"),
        ("_config.yml", "owner/old-book  ", "owner/new  ", "book/intro.md"),
        ("_config.yml", "branch: main", "branch: dev", "setup"),
    ],
)
def test_check_names_what_drifted_and_writes_nothing(root, file, old, new, named):
    chapters.sync(root)
    text = (root / file).read_text()
    assert old in text
    (root / file).write_text(text.replace(old, new))
    before = files(root)
    with pytest.raises(SystemExit, match=named):
        chapters.check(root)
    assert files(root) == before
    chapters.sync(root)
    chapters.check(root)


def test_repository_changes_every_place_and_nothing_else(root):
    chapters.sync(root)
    command = ["repository", "https://github.com/You/ViT.book", "--branch", "trunk"]
    chapters.main(command, root)
    chapters.check(root)
    config = (root / "_config.yml").read_text()
    assert "  url: https://github.com/You/ViT.book  # the one place\n" in config
    assert "branch: trunk\n" in config
    assert "title: A book  # with a comment\n" in config
    assert "html_baseurl: https://you.github.io/ViT.book/\n" in config
    readme = (root / "README.md").read_text()
    assert "git clone https://github.com/You/ViT.book\n    cd ViT.book\n" in readme
    assert "https://github.com/You/ViT.book/blob/trunk/vitutils/parts.py" in readme
    assert "https://you.github.io/ViT.book/" in readme
    assert "github.com/owner/old-book-2 and https://github.com/other/old-book" in readme
    notebook = (root / "notebooks/01_parts.ipynb").read_text()
    assert "old-book" not in notebook + (root / "book/intro.md").read_text() + config
    assert "/github/You/ViT.book/blob/trunk/notebooks/01_parts.ipynb)" in notebook
    assert "--branch=trunk" in notebook
    before = files(root)
    chapters.main(command, root)
    assert files(root) == before


def test_an_address_that_colab_cannot_open_is_refused(root):
    before = files(root)
    with pytest.raises(SystemExit, match="not of the form https://github"):
        chapters.main(["repository", "https://example.org/owner/book"], root)
    assert files(root) == before


@pytest.mark.slow
def test_execute_twice_writes_the_same_bytes(root, capsys):
    lines = "for i in range(3):\n    print(i, flush=True)\n    time.sleep(0.2)"
    plot = "import matplotlib.pyplot as plt\nplt.plot([1, 3, 2])\nplt.show()"
    cells = [new_code_cell(source) for source in ("import time", lines, plot)]
    put(root, "02_more.ipynb", new_markdown_cell("# More"), *cells)
    chapters.execute([], root)
    before = files(root)
    chapters.execute([], root)
    assert files(root) == before
    cells = [c for c in read(root, "02_more.ipynb").cells if c.cell_type == "code"]
    assert [c.execution_count for c in cells] == [1, 2, 3, 4]
    assert [o.text for o in cells[2].outputs] == ["0\n1\n2\n"]
    assert "image/png" in cells[3].outputs[0].data
    assert cells[0].outputs == []  # the set-up cell says nothing here
    assert "02_more: " in capsys.readouterr().out


def test_execute_writes_nothing_when_a_cell_fails(root, capsys):
    chapters.sync(root)
    cells = [new_code_cell("print(1)"), new_code_cell("1 / 0", id="bad")]
    put(root, "02_bad.ipynb", new_markdown_cell("# Bad"), *cells)
    chapters.sync(root)
    before = files(root)
    place = re.escape("02_bad is not written: cell 5 (bad) `1 / 0`")
    with pytest.raises(
        SystemExit, match=f"{place}: ZeroDivisionError: division by zero"
    ):
        chapters.execute(["02"], root)
    assert files(root) == before
    assert "----> 1 1 / 0" in re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().err)


@pytest.mark.slow
def test_execute_says_what_to_look_at_and_what_takes_too_long(
    root, capsys, monkeypatch
):
    monkeypatch.setattr(chapters, "allowed", lambda name: 0)
    with pytest.raises(
        SystemExit, match=r"01_parts takes too long: \d+ of 0 processor"
    ):
        chapters.execute([], root)
    assert "git diff notebooks/01_parts.ipynb\n" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        chapters.execute([], root)
    assert "git diff" not in capsys.readouterr().out
    assert read(root).cells[-1].execution_count == 4


@pytest.mark.slow(2)
def test_execute_runs_under_the_conditions_of_the_tests(root):
    source = "import os\nprint(os.environ['OMP_NUM_THREADS'], os.listdir('.'))"
    put(root, "02_more.ipynb", new_markdown_cell("# More"), new_code_cell(source))
    chapters.execute(["02"], root)
    assert read(root, "02_more.ipynb").cells[-1].outputs[0].text == "1 []\n"


@pytest.mark.slow
def test_a_skeleton_lacks_what_a_writer_fills_alone(root, monkeypatch):
    table = {15: {"parts": ["Part"]}}
    monkeypatch.setattr("skeleton.CHAPTERS", table)
    monkeypatch.setattr("form.CHAPTERS", table)
    chapters.main(["new", "15_small_parts"], root)
    chapters.execute(["15"], root)
    chapters.check(root)
    notebook = read(root, "15_small_parts.ipynb")
    assert "It explains `Part` in `vitutils/parts.py`." in notebook.cells[2].source
    assert [chapters.listings(c) for c in notebook.cells].count([PART]) == 1
    found = faults(notebook, 15)
    assert found and [words for words in found if not words.endswith(": TODO")] == []


@pytest.mark.parametrize("name", ["parts", "1_parts", "01_again", "01_parts"])
def test_a_skeleton_needs_a_new_name(root, name):
    before = files(root)
    with pytest.raises(SystemExit, match=rf"'{name}' is not a new chapter's name"):
        chapters.new(name, root)
    assert files(root) == before


@pytest.mark.slow(2)
def test_execute_runs_the_chapters_named(root):
    put(root, "02_more.ipynb", new_markdown_cell("# More"), new_code_cell("1"))
    chapters.execute(["02"], root)
    assert read(root).cells[-1].execution_count is None
    assert read(root, "02_more.ipynb").cells[-1].execution_count == 2
    with pytest.raises(SystemExit, match=r"no chapter starts with \['03'\]"):
        chapters.execute(["03"], root)
