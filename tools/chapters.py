"""Keep the chapter notebooks in step with the package and the repository's address.

sync                writes: fills each listing cell with the source of the object
                    that its metadata names, makes the Colab badge and the set-up
                    cell from the address in _config.yml, puts that address into
                    the texts that carry it, brings notebooks into normal form
check               writes nothing: names what sync would change, then exits with 1
execute [NAME ...]  syncs, then re-runs in place the chapters that start with NAME,
                    under the tests' conditions
new NAME            writes the skeleton of a chapter, as 15_title
repository URL      changes the address in _config.yml, then everywhere (sync)
"""

import argparse
import ast
import contextlib
import hashlib
import os
import re
import resource
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import uuid
from pathlib import Path

import nbformat
from address import addresses, readdress, slug_of
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from skeleton import skeleton

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
NAMES = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
TEXTS = (
    "README.md",
    "CITATION.cff",
    "pyproject.toml",
    "book/**/*.md",
    "vitutils/plot/laboratory.py",
)
KEPT = ("tags", "listing", "mystnb", "ran")  # of a cell's metadata
QUIET = ["--IPKernelApp.log_level=ERROR"]
PATH = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
CELL_SECONDS = 300  # on the clock: a cell that takes longer hangs
SECONDS = {  # a chapter's with all answers, on two cores; every other one: 25
    "00_on_one_page": 40,
    "08_training": 45,
    "09_attention_maps": 15,
    "11_distillation": 35,
    "12_deit_experiments": 35,
    "14_several_processes": 40,
    "15_training_costs": 40,
    "16_testing_maps": 18,
    "17_fine_tuning": 35,
    "18_recipe": 35,
}
# Under these, outputs are made and compared: two threads stall where a neighbor keeps a
# core busy.
CONDITIONS = {"OMP_NUM_THREADS": "1"}
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "pygments_lexer": "ipython3"},
}
BADGE = (
    "[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]"
    "(https://colab.research.google.com/github/{slug}/blob/{branch}/notebooks/{file})"
)
SETUP = """\
# In Colab, or wherever vitutils is missing: get the code and its packages.
import os
import runpy
import subprocess
from importlib.util import find_spec

if find_spec("vitutils") is None:
    url = "https://github.com/{slug}"
    if not os.path.isdir("{name}/vitutils"):
        clone = ["git", "clone", "--quiet", "--depth=1", "--branch={branch}"]
        subprocess.run([*clone, url], check=True)
    runpy.run_path("{name}/tools/colab.py")"""


def source_of(name, root=ROOT):
    """Return the source of package.module.Object, read from its file, not imported."""
    file, inner = "", name.split(".")
    while inner and not (root / f"{file}.py").is_file():
        file, inner = f"{file}/{inner[0]}".lstrip("/"), inner[1:]
    file += ".py"
    if not inner or not (root / file).is_file():
        raise LookupError(f"{name}: no file {file}, or no object named in it")
    text = (root / file).read_text(encoding="utf-8")
    node = ast.parse(text)
    for part in inner:
        defined = [n for n in node.body if getattr(n, "name", None) == part]
        if not defined:
            raise LookupError(f"{name}: {file} has no class or function {part}")
        node = defined[-1]
    first = min([node.lineno, *(line.lineno for line in node.decorator_list)])
    return textwrap.dedent("\n".join(text.splitlines()[first - 1 : node.end_lineno]))


def formatted(source):
    """Return code as `ruff format` lays it out for a chapter's page."""
    ruff = [shutil.which("ruff", path=PATH), "format", "--stdin-filename=cell.py", "-"]
    done = subprocess.run(
        ruff, input=source, capture_output=True, text=True, check=True, cwd=NOTEBOOKS
    )
    return done.stdout.rstrip()


def listings(cell):
    """Return the dotted names that a listing cell shows; none for another cell."""
    names = cell.metadata.get("listing", [])
    return [names] if isinstance(names, str) else names


def place(notebook, cell):
    """Return where a person finds a cell: its number from 1, id and first line."""
    lines = [line for line in cell.source.splitlines() if line.strip()]
    return f"cell {notebook.cells.index(cell) + 1} ({cell.id}) `{[*lines, ''][0][:50]}`"


def stamp(source):
    """Return a short hash of what code does; its layout and comments do not count."""

    def told(node):  # as ast.dump, but the same in every version of Python
        if isinstance(node, list):
            return [told(one) for one in node]
        if not isinstance(node, ast.AST):
            return repr(node)
        fields = [(k, v) for k, v in ast.iter_fields(node) if v not in (None, [])]
        return type(node).__name__, [(key, told(value)) for key, value in fields]

    with contextlib.suppress(SyntaxError):  # a magic: only IPython reads it
        source = repr(told(ast.parse(source)))
    return hashlib.sha256(source.encode()).hexdigest()[:8]


def stamped(notebook):
    """Yield the code cells that are told from their last run by metadata `ran`.

    Listings are not among them: they follow the package, and nbval tells when that
    changes an output.
    """
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.id != "setup" and not listings(cell):
            yield cell


def stale(notebook):
    """Return the cells whose source is not the one that ran."""
    cells = stamped(notebook)
    return [cell for cell in cells if cell.metadata.get("ran") != stamp(cell.source)]


def identified(cells):
    """Return copies of cells, each with an id of its own; those there are kept."""
    cells, taken = [nbformat.from_dict(dict(cell)) for cell in cells], set()
    for cell in cells:
        known = re.fullmatch(r"[\w-]{1,64}", cell.get("id", ""), re.ASCII)
        if not known or cell.id in taken:
            cell.id = uuid.uuid4().hex[:8]
        taken.add(cell.id)
    return cells


def synced(notebook, file, old, new, branch, root):
    """Return a notebook in step with package and address; its outputs stay."""
    cells = identified(notebook.cells)
    for number, cell in enumerate(cells, start=1):
        try:
            source = "\n\n\n".join(source_of(name, root) for name in listings(cell))
            source = formatted(source) if source else source
        except LookupError as error:
            sys.exit(f"notebooks/{file}, cell {number}: listing {error}")
        cell.source = source or cell.source
        if cell.cell_type == "markdown":
            cell.source = readdress(cell.source, old, new, branch)
    made = {cell.id: cell for cell in cells if cell.id in ("badge", "setup")}
    cells = [cell for cell in cells if cell.id not in made]
    badge = made.get("badge", nbformat.v4.new_markdown_cell(id="badge"))
    setup = made.get("setup", nbformat.v4.new_code_cell(id="setup"))
    words = {"slug": new, "branch": branch, "name": new.split("/")[1], "file": file}
    badge.source, setup.source = BADGE.format(**words), SETUP.format(**words)
    badge.metadata = setup.metadata = nbformat.from_dict({"tags": ["remove-cell"]})
    cells.insert([*(cell.cell_type for cell in cells), "code"].index("code"), setup)
    cells.insert(1, badge)
    return nbformat.v4.new_notebook(cells=cells)


def normal_form(notebook):
    """Return a notebook's file text without what differs by editor, run or machine."""
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat_minor = 5
    for cell in notebook.cells:
        cell.source = cell.source.rstrip()
        kept = {key: cell.metadata[key] for key in KEPT if cell.metadata.get(key)}
        cell.metadata = nbformat.from_dict(kept)
    return nbformat.writes(notebook) + "\n"


def out_of_step(root):
    """Yield (path, new text, all that differs) for each file that sync would change."""
    old, new, branch = addresses(root)
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        before = path.read_text(encoding="utf-8")
        notebook = nbformat.reads(before, as_version=4)
        sources = {cell.source for cell in notebook.cells}
        after = synced(notebook, path.name, old, new, branch, root)
        if (text := normal_form(after)) != before:
            changed = [cell for cell in after.cells if cell.source not in sources]
            words = [
                " ".join([place(after, cell), *listings(cell)]) for cell in changed
            ]
            yield path, text, words or ["not in normal form"]
    for path in sorted(path for pattern in TEXTS for path in root.glob(pattern)):
        before = path.read_text(encoding="utf-8")
        if (text := readdress(before, old, new, branch)) != before:
            yield path, text, [f"not the address in _config.yml, {new}, {branch}"]


def write(path, text):
    """Replace a file as a whole, so that it is never half-written."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def sync(root=ROOT):
    """Write every file that is out of step."""
    for path, text, differences in list(out_of_step(root)):
        write(path, text)
        for words in differences:
            print(f"{path.relative_to(root)}, mended: {words}")


def check(root=ROOT):
    """Exit with 1, naming what differs, unless everything is in step."""
    if found := list(out_of_step(root)):
        lines = [
            f"{path.relative_to(root)}, {w}" for path, _, words in found for w in words
        ]
        sys.exit("\n".join(["out of step (`make sync` mends it):", *lines]))


def allowed(name):
    """Return the processor seconds that a chapter may use: both cores' share."""
    return 2 * SECONDS.get(name, 25)


def used():
    """Return the processor seconds that ended children of this process have used."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime


def run(notebook, folder):
    """Run a notebook in a folder, under the tests' conditions; return what went wrong.

    No times are recorded and streams are merged: a second run gives the same bytes.
    """
    begun = []
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": folder}},
        extra_arguments=QUIET,
        on_cell_start=lambda cell, cell_index: begun.append(cell),
    )
    try:
        client.execute(env=os.environ | CONDITIONS)
    except CellExecutionError as error:
        print(error, file=sys.stderr)
        words = f"{error.ename}: {error.evalue}"
    except (CellTimeoutError, DeadKernelError) as error:
        words = str(error).splitlines()[0]
    else:
        return None
    return f"{place(notebook, begun[-1])}: {words}"


def execute(names, root=ROOT):
    """Run chapters; each is written only if every cell of it ran."""
    sync(root)
    chapters = sorted((root / "notebooks").glob("*.ipynb"))
    if unknown := [n for n in names if not any(c.name.startswith(n) for c in chapters)]:
        sys.exit(f"no chapter starts with {unknown}: {[c.stem for c in chapters]}")
    failed, changed = [], []
    for path in (c for c in chapters if c.name.startswith(tuple(names) or "")):
        notebook, before = nbformat.read(path, as_version=4), used()
        with tempfile.TemporaryDirectory() as folder:
            wrong = run(notebook, folder)
        if wrong:
            failed.append(f"{path.stem} is not written: {wrong}")
            print(failed[-1], file=sys.stderr)
            continue
        for cell in stamped(notebook):
            cell.metadata.ran = stamp(cell.source)
        text, seconds = normal_form(notebook), used() - before
        if text != path.read_text(encoding="utf-8"):
            write(path, text)
            changed.append(str(path.relative_to(root)))
        words = f"{seconds:.0f} of {allowed(path.stem)} processor seconds"
        print(f"{path.stem}: {words}", flush=True)
        if seconds > allowed(path.stem):
            failed.append(f"{path.stem} takes too long: {words}")
    if changed:
        print("see what changed: git diff", *changed)
    if failed:
        sys.exit("\n".join(failed))


def new(name, root=ROOT):
    """Write the skeleton of a chapter, with the names that CHAPTERS gives it."""
    path = root / f"notebooks/{name}.ipynb"
    if not re.fullmatch(r"\d\d_\w+", name) or list(path.parent.glob(f"{name[:3]}*")):
        sys.exit(f"{name!r} is not a new chapter's name, as in 15_title")
    write(path, normal_form(nbformat.v4.new_notebook(cells=skeleton(name))))
    sync(root)
    print(f"notebooks/{name}.ipynb is written: fill in each TODO, then run")
    print(f"`make execute CH={name[:2]}` and `make check`, which says what is missing")


def move(url, branch=None, root=ROOT):
    """Change the address in _config.yml, comments kept, then everywhere."""
    _, old, old_branch = addresses(root)
    path, branch = root / "_config.yml", branch or old_branch
    text = readdress(path.read_text(encoding="utf-8"), old, slug_of(url), branch)
    line = rf"(?m)^(\s+branch:\s*){re.escape(old_branch)}(?!\S)"
    write(path, re.sub(line, rf"\g<1>{branch}", text))
    sync(root)


def main(arguments=None, root=ROOT):
    """Run one command."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("sync").set_defaults(run=sync)
    commands.add_parser("check").set_defaults(run=check)
    command = commands.add_parser("execute")
    command.set_defaults(run=execute)
    command.add_argument("names", nargs="*", metavar="NAME")
    command = commands.add_parser("new")
    command.set_defaults(run=new)
    command.add_argument("name")
    command = commands.add_parser("repository")
    command.set_defaults(run=move)
    command.add_argument("url")
    command.add_argument("--branch")
    options = vars(parser.parse_args(arguments))
    del options["command"]
    options.pop("run")(root=root, **options)


if __name__ == "__main__":
    main()
