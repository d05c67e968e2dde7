"""The chapters: their form, their outputs (nbval), their exercises, and Colab.

One run proves the last three: nbval executes each chapter, with the solutions of its
exercises put in, alone in an empty folder, by an environment that has what Colab has.
"""

import ast
import json
import os
import re
import resource
import subprocess
import sys
import time
from importlib.metadata import distribution
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
sys.path.insert(0, str(ROOT / "tools"))
import chapters  # noqa: E402
from chapters import place  # noqa: E402

TOC = (ROOT / "_toc.yml").read_text(encoding="utf-8")
NAMES = re.findall(r"^\s*- file: notebooks/(\S+)$", TOC, re.MULTILINE)
SECONDS = {  # on two cores; every other chapter: 20
    "08_training": 120,
    "09_attention_maps": 30,
    "10_distillation_token": 30,
    "11_distillation": 150,
    "12_deit_experiments": 60,
    "13_pretrained_weights": 90,
    "14_scaling_out": 90,
}
CORES = 2  # processor time is held to both cores' share: a neighbor's load adds none

# Behind each exercise: its check, once its solution has run, must be content.
SOLVED = """\
import contextlib as _contextlib, io as _io
with _contextlib.redirect_stdout(_io.StringIO()) as _said:
    exec({check!r})
assert _said.getvalue().startswith("correct"), _said.getvalue()"""

MYST = r"(?m)\{[\w:-]+\}`|^\s*(```|:::+|~~~)\{|^\([\w-]+\)=$"  # roles, fences, targets
MACHINE = r"(?<![\w/.])/(work|tmp|root|home|opt)\b"

# The chapter that explains a module, or, where they differ, a name in it.
CHAPTER = {
    "data": 0,
    "plot": 0,
    "engine": 0,
    "cli": 0,
    "attention": 1,
    "attention.MultiHeadAttention": 2,
    "mlp": 3,
    "encoder": 4,
    "encoder.Encoder": 5,
    "embeddings": 6,
    "vit": 7,
    "train": 8,
    "processes": 8,
    "maps": 9,
    "deit": 10,
    "distill": 11,
    "pretrained": 13,
}


def read(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def tagged(cell, tag):
    return tag in cell.metadata.get("tags", [])


def prose(cell):
    """Return a Markdown cell without its code blocks."""
    return re.sub(r"(?ms)^```.*?^```$", "", cell.source)


def printed(cell):
    return "".join(o.get("text", "") for o in cell.outputs if o.output_type == "stream")


def solution(cell):
    """Return the code of a folded solution, None if the cell is not one."""
    blocks = re.findall(r"(?ms)^```python\n(.*?)^```$", cell.source)
    folded = cell.source.startswith("<details>") and cell.source.endswith("</details>")
    return blocks[0] if folded and len(blocks) == 1 else None


def exercises(notebook):
    """Return (stub, check, solution cell) of each exercise: three cells in a row."""
    cells = [*notebook.cells, *[new_markdown_cell("")] * 2]
    starts = [i for i, cell in enumerate(cells) if tagged(cell, "exercise")]
    return [tuple(cells[i : i + 3]) for i in starts]


def imported(code):
    """Yield what a cell imports from vitutils: `module` or `module.name`."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.startswith("vitutils."):
                yield name.removeprefix("vitutils.")


def explained_in(name):
    """Return the chapter from which on a piece may be imported."""
    module, _, inner = name.partition(".")
    if inner or not CHAPTER.get(module, 99):
        return CHAPTER.get(name, CHAPTER.get(module, 99))
    pieces = [n for key, n in CHAPTER.items() if key.split(".")[0] == module]
    return max(pieces, default=99)  # the whole module: all its pieces


def faults_of_prose(notebook):
    """Yield (cell, what is wrong) with titles, headings and Markdown."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    text = "\n\n".join(prose(cell) for cell in cells)
    if not re.match(r"# \S.*\n\n\S", notebook.cells[0].source):
        yield None, "the first cell is not a title and its question"
    headings = re.findall(r"(?m)^(#+) (.+)$", text)
    levels = [len(marks) for marks, _ in headings]
    if levels.count(1) != 1 or any(b > a + 1 for a, b in pairwise(levels)):
        yield None, "headings: not one title, or a level is skipped"
    for section in ("Summary", "Exercises"):
        if ("##", section) not in headings:
            yield None, f"no section {section}"
    if "You will" not in text:
        yield None, "no 'You will'"
    for cell in cells:
        if found := re.search(MYST, cell.source):
            yield cell, f"MyST syntax {found[0]!r}: plain Markdown only"
    if re.search(r"!\[\s*\]\(", text):
        yield None, "a picture without alt text"


def faults_of_code(notebook, number):
    """Yield (cell, what is wrong) with code, that of the solutions included."""
    for cell in notebook.cells:
        code = cell.source if cell.cell_type == "code" else solution(cell) or ""
        try:
            names = list(imported(code))
        except SyntaxError:
            yield cell, "not plain Python (no ! and % lines)"
            continue
        for name in names:
            if explained_in(name) > number:
                yield cell, f"imports {name}, which no chapter so far explains"
        for line in code.splitlines():
            if len(line) > 76:
                yield cell, f"{len(line)} > 76 characters: {line}"


def faults_of_outputs(notebook, number):
    """Yield (cell, what is wrong) with the committed outputs."""
    again = f"`make execute CH={number:02}`"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        yield None, f"not run top to bottom in one go: {again}"
    for cell in chapters.stale(notebook):
        yield cell, f"edited since it ran: {again}"
    compared = [c for c in code if c.outputs and not tagged(c, "nbval-ignore-output")]
    if len(compared) < 3:
        yield None, f"nbval compares {len(compared)} outputs; at least 3 are wanted"
    for cell in code:
        text = str(cell.outputs)
        if any(o.output_type == "error" for o in cell.outputs):
            yield cell, "an error"
        if "'name': 'stderr'" in text and not tagged(cell, "remove-stderr"):
            yield cell, "stderr without the tag remove-stderr"
        if "'image/" in text and "'alt': '" not in str(cell.metadata):
            yield cell, "a picture without mystnb.image.alt"
        if found := re.search(r"Warning:| at 0x[0-9a-f]{6,}", text):
            yield cell, f"{found[0]!r} in the output"
        for line in "".join(o.get("text", "") for o in cell.outputs).splitlines():
            if len(line) > 79:  # what a page shows without scrolling
                yield cell, f"{len(line)} > 79 characters printed: {line}"
    for cell in notebook.cells:
        if found := re.search(MACHINE, str(cell)):
            yield cell, f"a path of one machine, {found[0]}"


def faults_of_exercises(notebook):
    """Yield (cell, what is wrong) with exercises: stub, check, folded solution."""
    cells = notebook.cells
    start = next((i for i, c in enumerate(cells) if "## Exercises" in prose(c)), 0)
    found = exercises(notebook)
    if not 2 <= len(found) <= 4:
        yield None, f"{len(found)} exercises, not 2 to 4"
    if len(found) != sum(tagged(cell, "exercise-check") for cell in cells[start:]):
        yield None, "an exercise outside its section, or without its check"
    for stub, check, answer in found:
        if not tagged(check, "exercise-check") or solution(answer) is None:
            yield stub, "no check cell, then a folded solution, behind it"
        elif not printed(check).startswith("not yet"):
            yield check, "unsolved, it must print 'not yet: ...'"


def faults(notebook, number):
    """Return all that is wrong with a chapter, in words."""
    found = chain(
        faults_of_prose(notebook),
        faults_of_code(notebook, number),
        faults_of_outputs(notebook, number),
        faults_of_exercises(notebook),
    )
    return [
        f"{place(notebook, cell)}: {words}" if cell else words for cell, words in found
    ]


def test_the_contents_list_every_chapter():
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == NAMES


def test_listings_badges_setup_and_address_are_in_step():
    try:
        chapters.check()
    except SystemExit as words:
        pytest.fail(str(words), pytrace=False)


@pytest.mark.parametrize("name", NAMES)
def test_form(name):
    if found := faults(read(name), int(name[:2])):
        pytest.fail("\n".join([f"notebooks/{name}.ipynb:", *found]), pytrace=False)


def example():
    """Return a small chapter 4 without a fault."""

    def run(source, *tags, **metadata):
        count = sum(c.cell_type == "code" for c in cells) + 1
        text = new_output("stream", name="stdout", text="not yet: a is None\n")
        cells.append(new_code_cell(source, execution_count=count, outputs=[text]))
        metadata |= {"tags": list(tags), "ran": chapters.stamp(source)}
        cells[-1].metadata = nbformat.from_dict(metadata)

    cells = [new_markdown_cell("# Title\n\nA question?\n\n**You will**\n\n- read")]
    run("from vitutils.encoder import Block\nfrom vitutils import plot")
    cells.append(new_markdown_cell("## Summary\n\nIt is short.\n\n## Exercises"))
    for _ in range(2):
        run("a = None", "exercise")
        run("print('correct' if a == 4 else 'not yet: a is None')", "exercise-check")
        fold = "<details>\n<summary>Solution</summary>\n\n{}\n\n</details>"
        cells.append(new_markdown_cell(fold.format("```python\na = 4\n```")))
    return new_notebook(cells=cells)


def test_an_example_without_a_fault():
    assert faults(example(), 4) == []


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
        ('"exercise', '"nbval-ignore-output", "exercise', "nbval compares"),
        ('"stdout"', '"stderr"', "stderr without"),
        ("not yet: a is", "UserWarning: a is", "'Warning:'"),
        ("not yet: a is", "<f at 0x7f00aa1122>", "' at 0x"),
        ("not yet: a is", "/home/me/x.py", "a path of one machine"),
        ("It is short", "It is in /tmp/x", "a path of one machine"),
        ("not yet: a is", "not yet: " + 79 * "a", "> 79 characters printed"),
        ("not yet: a is", "correct", "it must print 'not yet"),
        ('"exercise-check"', '"other"', "no check cell"),
        ("<details>", "<div>", "folded solution"),
    ],
)
def test_a_fault_is_seen(old, new, fault):
    text = nbformat.writes(example())
    assert old in text
    spoiled = nbformat.reads(text.replace(old, new), as_version=4)
    found = faults(spoiled, 4)
    assert any(fault in words for words in found), found


@pytest.mark.parametrize(
    "output, fault",
    [
        (new_output("error", ename="E", evalue="e", traceback=[]), "an error"),
        (new_output("display_data", {"image/png": "aGk="}), "mystnb.image.alt"),
    ],
)
def test_a_faulty_output_is_seen(output, fault):
    notebook = example()
    notebook.cells[1].outputs.append(output)
    assert any(fault in words for words in faults(notebook, 4))
    notebook.cells[1].metadata.mystnb = {"image": {"alt": "a line"}}
    assert len(faults(notebook, 4)) == (0 if "image" in fault else 1)


def needed_by(*names):
    """Return the distributions that `names` need, themselves included, by name."""
    found, waiting = {}, [Requirement(name) for name in names]
    while waiting:
        wanted = waiting.pop()
        found[wanted.name] = distribution(wanted.name)
        for line in found[wanted.name].requires or []:
            new = Requirement(line)
            holds = [
                not new.marker or new.marker.evaluate({"extra": extra})
                for extra in ("", *wanted.extras)
            ]
            if any(holds) and not (new.name in found and not new.extras):
                waiting.append(new)
    return found


class Colab(NamedTuple):
    """An environment with what Colab has; `records` lists each package's files."""

    python: Path
    variables: dict
    records: list


def linked_environment(folder, *names):
    """Make an environment that has `names`, what they need, and nothing else.

    Its files are links: to install them would copy 5 GB. pip replaces a link, not what
    the link points to. Returns (python, the packages' RECORD files).
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python, records = folder / "bin/python", []
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", where], text=True).strip())
    for one in needed_by(*names).values():
        for file in one.files:
            source, link = one.locate_file(file), site / file
            if ".." not in file.parts and source.exists() and not link.exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(source)
                records += [link] if link.name == "RECORD" else []
    return python, records


def snapshot(git_dir, branch, variables):
    """Commit the working tree, as it is on disk, to a throw-away repository."""
    git = [
        "git",
        f"--git-dir={git_dir}",
        f"--work-tree={ROOT}",
        "-c",
        "user.name=test",
        "-c",
        "user.email=test@example.org",
    ]
    for line in (f"init -q -b {branch}", "add -A", "commit -q -m disk"):
        subprocess.run([*git, *line.split()], check=True, env=variables)


@pytest.fixture(scope="session")
def colab(tmp_path_factory):
    """A stand-in for Colab, where git takes the book's address from this disk."""
    base = tmp_path_factory.mktemp("colab")
    names = ("torch", "torchvision", "numpy", "matplotlib", "ipykernel", "pip")
    python, records = linked_environment(base / "env", *names)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "Colab", "language": "python"}
    (base / "kernels/colab").mkdir(parents=True)
    (base / "kernels/colab/kernel.json").write_text(json.dumps(spec))
    ours = ("GIT_", "PYTHON", "VIRTUAL_ENV", "JUPYTER", "MPL")
    variables = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    _, slug, branch = chapters.addresses(ROOT)
    snapshot(base / "book.git", branch, variables)
    path = variables["PATH"].split(os.pathsep)
    path = [p for p in path if Path(p) != Path(sys.executable).parent]
    variables |= {
        "PATH": os.pathsep.join([str(python.parent), *path]),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{base}/book.git.insteadOf",
        "GIT_CONFIG_VALUE_0": f"https://github.com/{slug}",
        "JUPYTER_PATH": str(base),
    }
    return Colab(python, variables, records)


@pytest.fixture(scope="session")
def ready(colab, tmp_path_factory):
    """The stand-in for Colab after a chapter's set-up cell has run there once."""
    setup = next(cell for cell in read(NAMES[0]).cells if cell.id == "setup")
    folder = tmp_path_factory.mktemp("setup")
    command = [colab.python, "-c", setup.source]
    run = subprocess.run(command, cwd=folder, env=colab.variables, capture_output=True)
    assert run.returncode == 0, run.stderr.decode()
    return colab


def solved(notebook):
    """Return a chapter in which each exercise is solved, and checked, once more."""
    cells = []
    answers = {answer.id: (answer, check) for _, check, answer in exercises(notebook)}
    for cell in notebook.cells:
        cells.append(cell)
        if cell.id in answers:
            answer, check = answers[cell.id]
            for source in (solution(answer), SOLVED.format(check=check.source)):
                cells.append(new_code_cell(source, execution_count=0))
    return new_notebook(cells=cells, metadata=notebook.metadata)


def nbval(path, kernel, env):
    """Run a notebook in its folder and compare its outputs."""
    options = f"-p no:cacheprovider --nbval --nbval-cell-timeout=300 {kernel}"
    command = [sys.executable, "-m", "pytest", *options.split(), str(path)]
    return subprocess.run(
        command, cwd=path.parent, env=env, capture_output=True, text=True, timeout=600
    )


def test_colab_has_nothing_but_its_packages(colab, tmp_path):
    names = ["vitutils", "torchviz", "safetensors", "tensorboard", "tqdm", "timm"]
    code = "from importlib.util import find_spec as f\n"
    code += f"print([n for n in {names} if f(n)], f('torch') and f('pip') is not None)"
    run = [colab.python, "-c", code]
    found = subprocess.check_output(run, env=colab.variables, cwd=tmp_path, text=True)
    assert found == "[] True\n"


def test_colab_setup_leaves_its_packages_alone(ready):
    assert [path for path in ready.records if not path.is_symlink()] == []
    assert any("torch-" in str(path) for path in ready.records)


@pytest.mark.parametrize("name", NAMES)
def test_colab_run_gives_the_outputs_and_the_solutions_are_correct(
    name, ready, tmp_path, capsys
):
    path = tmp_path / f"{name}.ipynb"
    nbformat.write(solved(read(name)), path)
    variables = ready.variables | {
        "HOME": str(tmp_path),
        "https_proxy": "http://127.0.0.1:9",  # chapter 13 asks for weights
        "OMP_NUM_THREADS": "1",  # two of them stall where a neighbor keeps a core busy
    }
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    run = nbval(path, "--nbval-kernel-name=colab", env=variables)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    with capsys.disabled():
        print(f"\n{name}: {seconds:.1f} s, {used:.1f} s of processors", end=" ")
    assert run.returncode == 0, run.stdout + run.stderr
    limit = CORES * SECONDS.get(name, 20)
    assert used <= limit, f"{name} used {used:.1f} of {limit} processor seconds"


def test_locally_the_setup_cell_does_nothing(tmp_path):
    setup = next(cell for cell in read(NAMES[0]).cells if cell.id == "setup")
    variables = os.environ | {"PATH": ""}  # neither git nor anything else to call
    run = subprocess.run(
        [sys.executable, "-c", setup.source],
        cwd=tmp_path,
        env=variables,
        capture_output=True,
        text=True,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("a = 4", "a = 4", "8 passed"),
        ("a = 4", "a = 5", "2 failed, 6 passed"),  # of two solutions
        ("is None\\n", "is 0\\n", "2 failed, 6 passed"),  # of two outputs
    ],
)
def test_a_wrong_solution_and_another_output_are_seen(old, new, words, tmp_path):
    cells = [cell for cell in example().cells if "import" not in cell.source]
    for cell in cells:
        if tagged(cell, "exercise"):
            cell.outputs = []
    text = nbformat.writes(solved(new_notebook(cells=cells)))
    assert old in text
    path = tmp_path / "chapter.ipynb"
    path.write_text(text.replace(old, new))
    run = nbval(path, "--nbval-current-env", env=os.environ)
    assert words in run.stdout, run.stdout
