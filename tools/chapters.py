"""Keep the chapter notebooks in step with the package and the repository's address.

sync                writes: fills each listing cell with the source of the object
                    that its metadata names, makes the Colab badge and the set-up
                    cell from the address in _config.yml, puts that address into
                    the texts that carry it, brings notebooks into normal form
check               writes nothing: names what sync would change, then exits with 1
execute [NAME ...]  syncs, then re-runs in place the chapters that start with NAME
repository URL      changes the address in _config.yml, then everywhere (sync)
"""

import argparse
import ast
import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import time
import uuid
from pathlib import Path

import nbformat
import yaml
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
TEXTS = ("README.md", "CITATION.cff", "pyproject.toml", "book/**/*.md")
KEPT = ("tags", "listing", "mystnb", "ran")  # of a cell's metadata
QUIET = ["--IPKernelApp.log_level=ERROR"]
PATH = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
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


def slug_of(url):
    """Return OWNER/NAME of a GitHub address."""
    found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?/?", url)
    if not found:  # Colab opens nothing else
        sys.exit(f"{url!r} is not of the form https://github.com/OWNER/NAME")
    return found[1]


def addresses(root):
    """Return (OWNER/NAME in the texts, OWNER/NAME in _config.yml, branch)."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    readme = (root / "README.md").read_text(encoding="utf-8")
    found = re.search(r"git clone .*?(https://github\.com/[^\s`]+)", readme)
    if not found:
        sys.exit("README.md has no command `git clone https://github.com/OWNER/NAME`")
    repository = config["repository"]
    return slug_of(found[1]), slug_of(repository["url"]), repository["branch"]


def readdress(text, old, new, branch):
    """Return a text with the addresses of `old` (OWNER/NAME) replaced by `new`'s."""
    (owner, name), (new_owner, new_name) = old.split("/"), new.split("/")
    hub, end = r"(github(?:\.com)?/)", r"(?![\w-])"
    pages = f"{new_owner.lower()}.github.io/{new_name}"
    for pattern, replacement in (
        (rf"{hub}{re.escape(old)}{end}", rf"\g<1>{new}"),
        (rf"({hub}{re.escape(new)}/(?:blob|tree|raw)/)[^/)\s]+", rf"\g<1>{branch}"),
        (rf"(?i){re.escape(owner)}\.github\.io/{re.escape(name)}{end}", pages),
        (rf"(git clone .*\s+cd ){re.escape(name)}{end}", rf"\g<1>{new_name}"),
    ):
        text = re.sub(pattern, replacement, text)
    return text


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
    """Yield (path, new text, what differs) for each file that `sync` would change."""
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
            yield path, text, ", ".join(words) or "not in normal form"
    for path in sorted(path for pattern in TEXTS for path in root.glob(pattern)):
        before = path.read_text(encoding="utf-8")
        if (text := readdress(before, old, new, branch)) != before:
            yield path, text, f"not the address in _config.yml, {new}, {branch}"


def write(path, text):
    """Replace a file as a whole, so that it is never half-written."""
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def sync(root=ROOT):
    """Write every file that is out of step."""
    for path, text, words in list(out_of_step(root)):
        write(path, text)
        print(f"{path.relative_to(root)}: mended: {words}")


def check(root=ROOT):
    """Exit with 1, naming what differs, unless everything is in step."""
    if found := list(out_of_step(root)):
        lines = [f"{path.relative_to(root)}: {words}" for path, _, words in found]
        sys.exit("\n".join(["out of step (`make sync` mends it):", *lines]))


def execute(names, root=ROOT):
    """Run chapters in their folder; each is written only if every cell of it ran."""
    sync(root)
    chapters = sorted((root / "notebooks").glob("*.ipynb"))
    if unknown := [n for n in names if not any(c.name.startswith(n) for c in chapters)]:
        sys.exit(f"no chapter starts with {unknown}: {[c.stem for c in chapters]}")
    failed = []
    for path in (c for c in chapters if c.name.startswith(tuple(names) or "")):
        notebook, start = nbformat.read(path, as_version=4), time.perf_counter()
        folder = {"metadata": {"path": str(path.parent)}}
        try:  # no times and merged streams: a second run writes the same bytes
            NotebookClient(
                notebook,
                timeout=600,
                kernel_name="python3",
                record_timing=False,
                coalesce_streams=True,
                resources=folder,
                extra_arguments=QUIET,
            ).execute()
        except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
            failed.append(path.stem)
            print(f"{path.stem}: not written: {error}", file=sys.stderr)
        else:
            for cell in stamped(notebook):
                cell.metadata.ran = stamp(cell.source)
            write(path, normal_form(notebook))
            print(f"{path.stem}: {time.perf_counter() - start:.1f} s", flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


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
    command = commands.add_parser("repository")
    command.set_defaults(run=move)
    command.add_argument("url")
    command.add_argument("--branch")
    options = vars(parser.parse_args(arguments))
    del options["command"]
    options.pop("run")(root=root, **options)


if __name__ == "__main__":
    main()
