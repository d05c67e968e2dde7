"""The chapters' outputs (nbval), their exercises, and Colab, proved by one run.

nbval executes each chapter, with the solutions of its exercises put in, alone in an
empty folder, by an environment that has what Colab has.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import chapters
import nbformat
import pytest
from address import addresses
from answers import answers
from chapters import CONDITIONS, NAMES, NOTEBOOKS, ROOT, SECONDS, allowed, used
from form import exercises, solution, tagged
from installed import needed_by
from nbformat.v4 import new_code_cell, new_notebook

pytestmark = pytest.mark.slow

# Behind each exercise: what its check says of each answer, alone, must be right.
JUDGED = """\
import contextlib as _contextlib, io as _io
for _name, _right, _code in {answers!r}:
    _names = dict(globals())
    with _contextlib.redirect_stdout(_io.StringIO()) as _said:
        exec(_code + "\\n" + {check!r}, _names)
    _words = _said.getvalue()
    assert _words.startswith("correct") == _right, (_name, _words)
    assert _words.startswith(("correct", "not yet: ")), (_name, _words)"""

LACKING = ["vitutils", "torchviz", "safetensors", "tensorboard", "tqdm", "timm"]


def read(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


class Colab(NamedTuple):
    """A stand-in for Colab, where git takes the book's address from this disk."""

    python: Path
    variables: dict
    found_first: (
        list  # of LACKING, torch and pip: what was there before the set-up cell
    )
    records: list  # the files in which its packages list their files


def linked_environment(folder, *names):
    """Make an environment that has `names`, what they need, and nothing else.

    Its files are links: to install them would copy 5 GB. pip replaces a link, not what
    the link points to. Returns (python, the packages' RECORD files).
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python, records = folder / "bin/python", []
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([python, "-c", where], text=True).strip())
    for one in needed_by(names).values():
        for file in one.files:
            source, link = one.locate_file(file), site / file
            if ".." not in file.parts and source.exists() and not link.exists():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(source)
                cache = source.parent / "__pycache__"  # or all is compiled once more
                if cache.is_dir() and not (link.parent / cache.name).exists():
                    (link.parent / cache.name).symlink_to(cache)
                records += [str(link)] if link.name == "RECORD" else []
    return python, records


def snapshot(git_dir, branch, variables):
    """Commit the working tree, as it is on disk, to a throw-away repository."""
    author = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    git = ["git", f"--git-dir={git_dir}", f"--work-tree={ROOT}", *author]
    # Packed once: else each clone would pack what it takes, for three seconds.
    lines = (f"init -q -b {branch}", "add -A", "commit -q -m disk", "repack -adq")
    for line in lines:
        subprocess.run([*git, *line.split()], check=True, env=variables)


def colab_variables(base, slug):
    """Return the environment variables of the stand-in in a folder."""
    ours = ("GIT_", "PYTHON", "VIRTUAL_ENV", "JUPYTER", "MPL")
    path = os.environ["PATH"].split(os.pathsep)
    path = [p for p in path if Path(p) != Path(sys.executable).parent]
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith(ours)},
        "PATH": os.pathsep.join([str(base / "env/bin"), *path]),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{base}/book.git.insteadOf",
        "GIT_CONFIG_VALUE_0": f"https://github.com/{slug}",
        "JUPYTER_PATH": str(base),
    }


def make_colab(base, branch, variables):
    """Fill a folder with the stand-in, then run a chapter's set-up cell there once."""
    names = ("torch", "torchvision", "numpy", "matplotlib", "ipykernel", "pip")
    python, records = linked_environment(base / "env", *names)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "Colab", "language": "python"}
    (base / "kernels/colab").mkdir(parents=True)
    (base / "kernels/colab/kernel.json").write_text(json.dumps(spec))
    snapshot(base / "book.git", branch, variables)
    asked = f"print(*filter(find_spec, {[*LACKING, 'torch', 'pip']}))"
    code = f"from importlib.util import find_spec; {asked}"
    (base / "empty").mkdir()
    said = subprocess.check_output(
        [python, "-c", code], cwd=base / "empty", env=variables, text=True
    )
    setup = next(cell for cell in read(NAMES[0]).cells if cell.id == "setup")
    run = [python, "-c", setup.source]
    done = subprocess.run(run, cwd=base / "empty", env=variables, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    (base / "facts.json").write_text(json.dumps([said.split(), records]))


@pytest.fixture(scope="session")
def colab(made_once):
    """A stand-in for Colab after a chapter's set-up cell has run there once."""
    _, slug, branch = addresses(ROOT)
    base = made_once(
        "colab", lambda base: make_colab(base, branch, colab_variables(base, slug))
    )
    found_first, records = json.loads((base / "facts.json").read_text())
    variables = colab_variables(base, slug)
    return Colab(base / "env/bin/python", variables, found_first, records)


def judged(notebook, others):
    """Return a chapter that tries each exercise's check, behind it, on all answers."""
    cells, found = [], {}
    for number, (_, check, answer) in enumerate(exercises(notebook), start=1):
        tried = [("the solution", True, solution(answer)), *others.get(number, [])]
        found[answer.id] = JUDGED.format(answers=tried, check=check.source)
    for cell in notebook.cells:
        cells.append(cell)
        if cell.id in found:
            cells.append(new_code_cell(found[cell.id], execution_count=0))
    return new_notebook(cells=cells, metadata=notebook.metadata)


def nbval(path, kernel, env):
    """Run a notebook in its folder and compare its outputs."""
    timeout = f"--nbval-cell-timeout={chapters.CELL_SECONDS}"
    options = (
        f"-p nbval.plugin -p no:cacheprovider --color=no --nbval {timeout} {kernel}"
    )
    command = [sys.executable, "-m", "pytest", *options.split(), str(path)]
    env = env | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(
        command, cwd=path.parent, env=env, capture_output=True, text=True
    )


def test_colab_has_nothing_but_its_packages(colab):
    assert colab.found_first == ["torch", "pip"]


def test_colab_setup_leaves_its_packages_alone(colab):
    assert [path for path in colab.records if not Path(path).is_symlink()] == []
    assert any("torch-" in path for path in colab.records)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow(SECONDS.get(n, 25))) for n in NAMES]
)
def test_outputs_are_those_of_a_run_and_solutions_are_correct(
    name, colab, tmp_path, record_property
):
    path = tmp_path / f"{name}.ipynb"
    nbformat.write(judged(read(name), answers(name)), path)
    offline = {"HOME": str(tmp_path), "https_proxy": "http://127.0.0.1:9"}
    before = used()
    env = colab.variables | CONDITIONS | offline  # chapter 13 asks for weights
    run = nbval(path, "--nbval-kernel-name=colab", env)
    seconds, limit = used() - before, allowed(name)
    record_property("seconds", f"{name}: {seconds:.0f} of {limit} processor seconds")
    if run.returncode:
        again = f"`make execute CH={name[:2]}` runs it again and shows what changes"
        pytest.fail("\n".join([run.stdout, run.stderr, again]), pytrace=False)
    if seconds > limit:
        words = f"{name} used {seconds:.0f} of {limit} processor seconds"
        pytest.fail(f"{words}: shorten it, or SECONDS in tools/chapters.py", False)


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
        ("a = 4", "a = 4", "6 passed"),
        ("a = 4", "a = 5", "2 failed, 4 passed"),  # of two solutions
        ("is None\\n", "is 0\\n", "2 failed, 4 passed"),  # of two outputs
    ],
)
def test_a_wrong_solution_and_another_output_are_seen(
    example, old, new, words, tmp_path
):
    cells = [cell for cell in example.cells if "import" not in cell.source]
    for cell in cells:
        if tagged(cell, "exercise"):
            cell.outputs = []
    text = nbformat.writes(judged(new_notebook(cells=cells), {}))
    assert old in text
    path = tmp_path / "chapter.ipynb"
    path.write_text(text.replace(old, new))
    run = nbval(path, "--nbval-current-env", env=os.environ)
    assert words in run.stdout, run.stdout
