"""The house: which way imports run, and that pages and code name the same things."""

import ast
import builtins
import graphlib
import json
import pkgutil
import re
import unicodedata
from itertools import pairwise
from pathlib import Path

import chapters
import nbformat
import pytest
import yaml
from chapters import NAMES, NOTEBOOKS, ROOT, place
from form import SERVING, prose

from vitutils import CHAPTERS

PAGES = [path for path in (ROOT / "book").glob("*.md") if path.name != "api.md"]
TEXTS = [path for path in (*ROOT.glob("*.md"), *PAGES) if path.name != "CHANGELOG.md"]
CODE = [*ROOT.glob("vitutils/**/*.py"), *ROOT.glob("experiments/*.py")]
OTHERS = r"\w+Backward0?|Cat|set_epoch"  # names of PyTorch that prose alone speaks of


def refuse(found):
    """Fail with a line for each fault, if there are any."""
    if found := list(found):
        pytest.fail("\n".join(found), pytrace=False)


def read(name):
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def shown(path):
    return path.relative_to(ROOT)


# ---- imports ----


def module_name(path, root):
    """Return the dotted name under which a file is imported."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(nodes, known):
    """Yield (line, dotted name) of each module of ours that the nodes import."""
    for node in nodes:
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in whole]
        else:
            continue
        for name in names:
            if name.split(".")[0] in ("vitutils", "experiments"):
                yield node.lineno, name


def reach(start, edges):
    """Return all modules that importing one of them imports, itself included."""
    found, todo = set(), [start]
    while todo:
        if (name := todo.pop()) not in found:
            found.add(name)
            todo += [target for _, target in edges.get(name, [])]
    return found


def broken_rule(importer, target, edges):
    """Return the rule that an import breaks, None where it breaks none."""
    order = {f"vitutils.{m}": n for n in sorted(CHAPTERS)[::-1] for m in CHAPTERS[n]}
    part = "taught" if importer in order else [*importer.split("."), ""][1]
    to = "taught" if target in order else [*target.split("."), ""][1]
    knowing = reach(target, edges) & order.keys()  # what it loads of the models
    if target.startswith("experiments"):
        return "the package knows no study"
    if part == "taught" and to == "taught" and order[target] > order[importer]:
        return f"a later chapter's: {order[target]}, not up to {order[importer]}"
    if part == "taught" and to == "engine" and knowing:
        return "a taught file imports of the engine what imports no taught file"
    if part == "taught" and to in ("cli", "__main__"):
        return "a taught file knows no command"
    serving = to in ("data", "plot", "") or (to == "engine" and not knowing)
    if part in ("data", "plot") and not serving:
        return f"{part} serves every chapter and knows no model"
    if part == "engine" and to in ("cli", "__main__"):
        return "the engine knows no command"
    return None


def faults_of_imports(root):
    """Yield what is wrong with the imports of the package in a folder."""
    files = {module_name(path, root): path for path in root.glob("vitutils/**/*.py")}
    trees = {name: ast.parse(path.read_text()) for name, path in files.items()}
    edges = {name: list(imports(ast.walk(t), files)) for name, t in trees.items()}
    for name, found in sorted(edges.items()):
        for line, target in found:
            if rule := broken_rule(name, target, edges):
                file = files[name].relative_to(root)
                yield f"{file}:{line}: imports {target}: {rule}"
    taught = {f"vitutils.{module}" for taught in CHAPTERS.values() for module in taught}
    for name, path in sorted(files.items()):
        flat = path.parent == root / "vitutils" and not path.stem.startswith("__")
        if flat and name not in taught:
            yield f"vitutils/{path.name}: no chapter of vitutils.CHAPTERS explains it"
    at_once = {n: {to for _, to in imports(t.body, files)} for n, t in trees.items()}
    try:
        graphlib.TopologicalSorter(at_once).prepare()
    except graphlib.CycleError as error:
        yield f"a circle: {' imports '.join(error.args[1][::-1])}"


def unannotated(tree):
    """Yield (line, name) of what is public and lacks a type hint."""
    for node in ast.walk(tree):
        functions = node.body if isinstance(node, ast.Module | ast.ClassDef) else []
        for function in functions:
            if not isinstance(function, ast.FunctionDef):
                continue
            name, given = function.name, function.args
            if name.startswith("_") and name != "__init__":
                continue
            arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs]
            for argument in arguments:
                if argument.annotation is None and argument.arg not in ("self", "cls"):
                    yield function.lineno, f"{name}: {argument.arg}"
            if function.returns is None and name != "__init__":
                yield function.lineno, f"{name}: what it returns"


def test_what_is_public_has_type_hints():
    assert [*unannotated(ast.parse("def f(a, b: int): ..."))] == [
        (1, "f: a"),
        (1, "f: what it returns"),
    ]
    refuse(
        f"{shown(path)}:{line}: no type hint for {name}"
        for path in sorted(ROOT.glob("vitutils/**/*.py"))
        for line, name in unannotated(ast.parse(path.read_text()))
    )


def test_imports_run_one_way():
    refuse(faults_of_imports(ROOT))


@pytest.mark.parametrize(
    "file, line, fault",
    [
        (
            "mlp.py",
            "from vitutils.vit import VisionTransformer",
            "a later chapter's: 7",
        ),
        (
            "mlp.py",
            "def f():\n    import vitutils.vit",
            "mlp.py:2: imports vitutils.vit",
        ),
        ("mlp.py", "from vitutils import cli", "knows no command"),
        ("mlp.py", "from vitutils.engine import large", "imports no taught file"),
        ("mlp.py", "from experiments import record", "knows no study"),
        ("data/__init__.py", "from vitutils import mlp", "knows no model"),
        ("plot/__init__.py", "from vitutils.engine import large", "knows no model"),
        ("engine/large.py", "from vitutils.cli import main", "the engine knows no"),
        ("vit.py", "import vitutils.vit", "a circle"),
        ("new.py", "", "no chapter of vitutils.CHAPTERS explains it"),
        ("vit.py", "from vitutils import data, mlp, plot", ""),
        ("data/__init__.py", "from vitutils.engine import small", ""),
        ("engine/large.py", "from vitutils import data, mlp, vit", ""),
        ("cli/__init__.py", "from vitutils.engine import large", ""),
    ],
)
def test_a_wrong_import_is_seen(tmp_path, file, line, fault):
    files = {f"{folder}/__init__.py": "" for folder in ("data", "plot", "cli")}
    files |= {"mlp.py": "", "vit.py": "", "engine/small.py": ""}
    files |= {"engine/large.py": "from vitutils import vit"}
    for name, text in (files | {file: line}).items():
        path = tmp_path / "vitutils" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = "\n".join(faults_of_imports(tmp_path))
    assert fault in found if fault else found == ""


# ---- the table of chapters ----


def listed_in_contents():
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    files = [c["file"] for part in toc["parts"] for c in part["chapters"]]
    return [Path(f).name for f in files if f.startswith("notebooks/")]


def title(name):
    return read(name).cells[0].source.splitlines()[0].removeprefix("# ")


def test_table_contents_and_notebooks_are_the_same_chapters():
    numbers = [int(name[:2]) for name in NAMES]
    assert list(CHAPTERS) == numbers, "vitutils.CHAPTERS has not those of notebooks/"
    listed = listed_in_contents()
    refuse(
        f"_toc.yml: no 'file: notebooks/{name}'" for name in NAMES if name not in listed
    )
    refuse(
        f"notebooks/{name}.ipynb is not there" for name in listed if name not in NAMES
    )
    if listed != NAMES:
        pytest.fail("_toc.yml: the chapters are not in their order", pytrace=False)


def test_the_front_page_has_a_row_for_every_chapter():
    front = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
    refuse(
        f"book/index.md: no row '{row} <its question> |'"
        for name in NAMES
        if (row := f"| {int(name[:2])} | [{title(name)}](../notebooks/{name}.ipynb) |")
        not in front
    )


def test_the_readme_names_every_module():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    row = re.search(r"(?m)^\| `vitutils/` \|(.*)", text)[1]
    modules = {module for taught in CHAPTERS.values() for module in taught}
    missing = (modules | SERVING) - set(re.findall(r"`(\w+)/?`", row))
    refuse(f"README.md: the row of `vitutils/` lacks `{name}`" for name in missing)


def percent(ratios):
    """Return '2 to 22 %' of a lead of 1.02 to 1.217."""
    return f"{100 * min(ratios) - 100:.0f} to {100 * max(ratios) - 100:.0f} %"


def test_the_readme_tells_what_the_records_say():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    cpu, gpu, tests = (
        json.loads((ROOT / "data" / "results" / f"{name}.json").read_text())
        for name in ("throughput_cpu", "throughput_cuda", "tests_cuda")
    )
    lead = {
        dtype: [r["ratio_to_best_peer"] for r in cpu["rows"] if r["dtype"] == dtype]
        for dtype in ("fp32", "bf16")
    }
    eager = [r["ratio_to_best_peer"] for r in gpu["rows"] if not r["compiled"]]
    (compiled,) = (r["ratio_to_best_peer"] for r in gpu["rows"] if r["compiled"])
    passed = [test["outcome"] for test in tests["tests"]].count("passed")
    words = (
        f"in each of {len(cpu['rows'])} rows",
        f"by {percent(lead['fp32'])} in fp32 and by {percent(lead['bf16'])} in bf16",
        f"by {percent(eager)} in each of {len(eager)} rows",
        f"beside timm alone, by {100 * compiled - 100:.0f} %",
        f"All {passed} tests that need a GPU pass",
    )
    refuse(f"README.md lacks '{w}', from data/results" for w in words if w not in text)


def faults_of_table():
    """Yield where a module, a name or a test that the table promises is missing."""
    for number, modules in CHAPTERS.items():
        for module, names in modules.items():
            if not (ROOT / f"tests/test_{module}.py").is_file():
                yield f"chapter {number}: no tests/test_{module}.py"
            for name in names:
                try:
                    chapters.source_of(f"vitutils.{module}.{name}")
                except LookupError as error:
                    yield f"vitutils.CHAPTERS, chapter {number}: {error}"


def test_the_table_names_what_is_there():
    refuse(faults_of_table())


def faults_of_sentence(name):
    """Yield where a chapter's sentence `It explains ...` is not what the table says."""
    modules, where = CHAPTERS[int(name[:2])], f"notebooks/{name}.ipynb"
    text = "\n".join(c.source for c in read(name).cells if c.cell_type == "markdown")
    said = re.search(r"explains\b[^.]*(?:\.py[^.]*)*\.", text)
    if not said:
        yield f"{where}: no sentence 'It explains ...'"
        return
    if (told := set(re.findall(r"`vitutils/(\w+)\.py`", said[0]))) != set(modules):
        yield f"{where}: explains {told or None}, in vitutils.CHAPTERS {set(modules)}"
    pairs = r"((?:`\w+`(?:,\s+|\s+and\s+)?)+)\s+in\s+`vitutils/(\w+)\.py`"
    for names, module in re.findall(pairs, said[0]):
        for word in set(re.findall(r"`(\w+)`", names)) - set(modules.get(module, ())):
            yield f"{where}: explains {word}, which is not in vitutils.CHAPTERS"


@pytest.mark.parametrize("name", NAMES)
def test_a_chapter_names_what_it_explains(name):
    refuse(faults_of_sentence(name))


def faults_of_ends():
    """Yield where a chapter's end does not lead to the next one."""
    for name, following in [*pairwise(NAMES), (NAMES[-1], None)]:
        end, where = read(name).cells[-1].source, f"notebooks/{name}.ipynb, last cell"
        if following and f"({following}.ipynb)" not in end:
            yield f"{where}: no link to {following}"
        if ("This was the last chapter" in end) != (following is None):
            yield f"{where}: 'This was the last chapter', in the last one alone"


def test_each_chapter_leads_to_the_next():
    refuse(faults_of_ends())


def test_listings_badges_setup_and_address_are_in_step():
    try:
        chapters.check()
    except SystemExit as words:
        pytest.fail(str(words), pytrace=False)


# ---- names in prose ----


def words(text):
    return set(re.findall(r"\w+", text))


def passages():
    """Yield (where, text) for each page and each cell of prose."""
    for path in TEXTS:
        yield shown(path), path.read_text(encoding="utf-8")
    for name in NAMES:
        notebook = read(name)
        for cell in notebook.cells:
            if cell.cell_type == "markdown":
                yield f"notebooks/{name}.ipynb, {place(notebook, cell)}", prose(cell)


def docstrings():
    """Yield (where, text) for each docstring."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                yield f"{shown(path)}:{getattr(node, 'lineno', 1)}", text


def code_words():
    return words(" ".join(path.read_text(encoding="utf-8") for path in CODE))


def unresolved():
    """Yield where prose names a path, a module or a name in it that is not there."""
    modules = {m for taught in CHAPTERS.values() for m in taught} | SERVING
    folders = "vitutils|experiments|tests|tools|book|notebooks|benchmarks"
    named = "|".join(sorted(modules))
    dotted = rf"`(vitutils(?:\.\w+)+|(?:{named})\.(?!py\b)\w+)"  # no file's name
    code = " ".join(path.read_text(encoding="utf-8") for path in CODE)
    for where, text in passages():
        for path in re.findall(rf"`((?:{folders})/[\w./-]*)`", text):
            if not (ROOT / path).exists():
                yield f"{where}: no {path}"
        for name in re.findall(dotted, text):
            try:
                pkgutil.resolve_name(f"vitutils.{name.removeprefix('vitutils.')}")
            except (AttributeError, ImportError):
                if name not in code:  # as mlp.fc2, a model's attribute
                    yield f"{where}: no {name}"


def test_per_cent_is_written_in_one_way_in_prose_and_below_pictures():
    tight = re.compile(r"\d%")  # the program's own spelling, which may be quoted
    texts = [
        (where, re.sub(r"(?s)```.*?```|`[^`]*`", "", t)) for where, t in passages()
    ]
    for name in NAMES:
        for cell in read(name).cells:
            words = cell.metadata.get("mystnb", {})
            for part in (words.get("figure", {}), words.get("image", {})):
                texts += [(f"{name}, {cell.id}", t) for t in map(str, part.values())]
    refuse(where for where, text in texts if tight.search(text.replace('"100%"', "")))


def test_dotted_names_and_paths_in_prose_exist():
    refuse(unresolved())


@pytest.mark.parametrize("name", NAMES)
def test_names_in_a_chapters_prose_exist(name):
    notebook, known = read(name), {*dir(builtins), *code_words()}
    for cell in notebook.cells:
        blocks = re.findall(r"(?ms)^```.*?^```$", cell.source)
        known |= words(str(cell) if cell.cell_type == "code" else str(blocks))
    refuse(
        f"notebooks/{name}.ipynb, {place(notebook, cell)}: no {word}"
        for cell in notebook.cells
        if cell.cell_type == "markdown"
        for word in re.findall(r"`([A-Za-z_]\w*)`", prose(cell))
        if word not in known and not re.fullmatch(OTHERS, word)
    )


def cited(text):
    """Return (first author, year) of each source cited, as in 'Name et al. (2017)'."""
    name, year = r"([A-Z][\w'-]+)", r"((?:19|20)\d\d)\b"
    others = r"\s+(?:et\s+al\.|and\s+[A-Z][\w'-]+),?\s+\(?"
    return set(re.findall(rf"{name}(?:{others}|\s+\(){year}", text))


def test_what_is_cited_stands_in_the_bibliography():
    entries = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    found = []
    for where, text in [*passages(), *docstrings()]:
        for author, year in cited(text):
            plain = unicodedata.normalize("NFKD", author).encode("ascii", "ignore")
            key = re.sub(r"\W", "", plain.decode().lower()) + year
            if f"{{{key}" not in entries:
                found.append(
                    f"{where}: {author} ({year}) is not in book/references.bib"
                )
    refuse(found)


def test_a_citation_is_seen():
    text = (
        "Vaswani et al.\n(2017), Ba and Li, 2016 and Jain (2019); in 2018 May saw (3)"
    )
    assert cited(text) == {("Vaswani", "2017"), ("Ba", "2016"), ("Jain", "2019")}
