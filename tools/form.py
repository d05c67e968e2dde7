"""What a chapter must be: `faults` says what is wrong with it, cell by cell."""

import ast
import re
from itertools import chain, pairwise
from pathlib import Path

import chapters
from chapters import place
from nbformat.v4 import new_markdown_cell
from prose import untold

import vitutils
from vitutils import CHAPTERS, plot

MYST = r"(?m)\{[\w:-]+\}`|^\s*(```|:::+|~~~)\{|^\([\w-]+\)=$"  # roles, fences, targets
MACHINE = r"(?<![\w/.])/(work|tmp|root|home|opt)\b"

# The color and the scale of a text that vitutils.plot draws, a hundredth of its size.
SVG_TEXT = re.compile(
    r'<g (?:style="fill: (#\w+)[^"]*" )?transform="translate[^"]*scale\(([\d.]+) -'
)
LEGIBLE = {plot.INK, plot.PAPER, plot.ON_DARK, plot.ON_LIGHT, *plot.CYCLE}
LEGIBLE |= {plot.COLORS["ok"], plot.COLORS["bad"]}

FOLDERS = Path(vitutils.__file__).parent.glob("*/__init__.py")
SERVING = {path.parent.name for path in FOLDERS}


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
    if module in {*SERVING, "__main__"}:
        return 0
    numbers = [number for number, taught in CHAPTERS.items() if module in taught]
    if not inner:  # the whole module: all its pieces
        return max(numbers, default=99)
    named = [number for number in numbers if inner in CHAPTERS[number][module]]
    return min(named or numbers, default=99)


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
    for cell in notebook.cells:
        # Not in an encoded picture, whose letters may spell anything.
        shown = printed(cell) if cell.cell_type == "code" else ""
        if "TODO" in f"{cell.source}{cell.metadata}{shown}":
            yield cell, "TODO"


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
            if explained_in(name) > (number or 99):  # 0 is compared with the package
                yield cell, f"imports {name}, which no chapter so far explains"
        lines = code.splitlines()
        drawn = "'image/" in str(cell.get("outputs"))
        most = 20 if drawn else 60  # longer ones are split, or folded
        folded = tagged(cell, "hide-input") or chapters.listings(cell)
        if len(lines) > most and not folded:
            yield cell, f"{len(lines)} > {most} open lines: split it, or tag hide-input"
        for line in lines:
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
    if not any("'image/" in str(cell.outputs) for cell in code):
        yield None, "no picture"
    compared = [c for c in code if c.outputs and not tagged(c, "nbval-ignore-output")]
    if len(compared) < 3:
        yield None, f"nbval compares {len(compared)} outputs; at least 3 are wanted"
    for cell in code:
        text = str(cell.outputs)
        if any(o.output_type == "error" for o in cell.outputs):
            yield cell, "an error"
        if "'name': 'stderr'" in text and not tagged(cell, "remove-stderr"):
            yield cell, "stderr without the tag remove-stderr"
        if found := re.search(r"Warning:| at 0x[0-9a-f]{6,}", text):
            yield cell, f"{found[0]!r} in the output"
        for line in "".join(o.get("text", "") for o in cell.outputs).splitlines():
            if len(line) > 79:  # what a page shows without scrolling
                yield cell, f"{len(line)} > 79 characters printed: {line}"
    for cell in notebook.cells:
        if found := re.search(MACHINE, str(cell)):
            yield cell, f"a path of one machine, {found[0]}"


def faults_of_figures(notebook):
    """Yield (cell, what is wrong) with pictures and graphs: words, type, widths."""
    widths = [f'width="{72 * width:.1f}pt"' for width in (plot.NARROW, plot.WIDTH)]
    for cell in notebook.cells:
        outputs = [o.data for o in cell.get("outputs", []) if "data" in o]
        held = [data for data in outputs if "image/" in " ".join(data)]
        graph = any("Computation graph" in str(data) for data in outputs)
        words = cell.metadata.get("mystnb", {})
        if held and not words.get("image", {}).get("alt"):
            yield cell, "a picture without mystnb.image.alt"
        if (held or graph) and not words.get("figure", {}).get("caption"):
            yield cell, "a figure without mystnb.figure.caption"
        for data in held:
            if "image/svg+xml" not in data:
                yield cell, "a figure that is no SVG: plot.use_style() comes first"
            drawn = data.get("image/svg+xml", widths[0])
            if not any(width in drawn for width in widths):
                yield cell, "a figure wider than plot.WIDTH"
            for color, size in SVG_TEXT.findall(drawn):
                if 100 * float(size) < 10:
                    yield (
                        cell,
                        f"text of {100 * float(size):.1f} points, not 10 or more",
                    )
                if color.upper() not in LEGIBLE:
                    yield cell, f"text in {color or 'black'}: plot.INK beside a dot"


def faults_of_numbers(notebook):
    """Yield (cell, what is wrong) with numbers that are told and not shown."""
    for cell, number in untold(notebook.cells):
        yield cell, f"{number} stands in no output, code or formula, and has no source"


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
        faults_of_figures(notebook),
        faults_of_numbers(notebook),
        faults_of_exercises(notebook),
    )
    return [
        f"{place(notebook, cell)}: {words}" if cell else words for cell, words in found
    ]
