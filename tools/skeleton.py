"""The skeleton of a chapter: all its parts, with TODO where only a writer can go on."""

from nbformat.v4 import new_code_cell, new_markdown_cell

from vitutils import CHAPTERS

SOLUTION = """\
<details>
<summary>Solution</summary>

```python
total = x.sum()
```

TODO: why it is so.

</details>"""

CHECK = """\
if total is None:
    print("not yet: total is None")
elif total != 10:
    print(f"not yet: the sum is not {total}")
else:
    print("correct")"""


def listed(names):
    """Return names in a row, as a sentence has them."""
    *first, last = (f"`{name}`" for name in names)
    return f"{', '.join(first)} and {last}" if first else last


def explained(number):
    """Return (the sentence of what a chapter explains, the names that it lists)."""
    modules = CHAPTERS.get(number, {})
    names = [f"vitutils.{m}.{name}" for m in modules for name in modules[m]]
    words = [
        f"{listed(modules[module])} in `vitutils/{module}.py`" for module in modules
    ]
    return f"It explains {' and '.join(words) or 'TODO'}.", names


def exercise(task):
    """Return the cells of an exercise: task, stub, check, folded solution."""
    return [
        new_markdown_cell(task),
        new_code_cell("total = None", metadata={"tags": ["exercise"]}),
        new_code_cell(CHECK, metadata={"tags": ["exercise-check"]}),
        new_markdown_cell(SOLUTION),
    ]


def skeleton(name):
    """Return the cells of a new chapter, in the order that every chapter keeps."""
    number, _, title = name.partition("_")
    sentence, names = explained(int(number))
    words = {
        "image": {"alt": "TODO: what the picture shows, in words."},
        "figure": {"caption": "TODO: what to see."},
    }
    cells = [
        f"# {title.replace('_', ' ').capitalize()}\n\nTODO: what does it answer?",
        "**You will**\n\n- TODO;\n- TODO;\n- TODO.\n\n"
        f"The chapter runs in about TODO seconds on 2 CPU cores. {sentence}",
        new_code_cell(
            "import matplotlib.pyplot as plt\nimport torch\n\n"
            "from vitutils import plot\n\nplot.use_style()"
        ),
        "## The idea\n\nTODO: in words, then the formula\n\n$$\ny = x\n$$\n\n"
        "| symbol | what it is | shape |\n|---|---|---|\n| $x$ | TODO | $(N, D)$ |",
        "## By hand\n\nTODO: toy numbers that can be checked with a pencil.",
        new_code_cell("x = torch.tensor([[1.0, 2.0], [3.0, 4.0]])\nprint(x)"),
        "## The class\n\nTODO: the same as a piece of the package.",
        *([new_code_cell("pass", metadata={"listing": names})] if names else []),
        "## Check\n\nTODO: against an independent implementation.",
        new_code_cell('print(f"largest difference {(x - x).abs().max():.0e}")'),
        "## Look\n\nTODO: what to see.",
        new_code_cell("plot.heatmap(x)\nplt.show()", metadata={"mystnb": words}),
        "## Use\n\nTODO: on something real, beside the cheapest that does the job.",
        new_code_cell("print(x.mean())"),
        "## Pitfall\n\nTODO: one real bug of this piece, with numbers, then caught.",
        new_code_cell("print(x.T)"),
        "## Summary\n\n- TODO\n- TODO\n- TODO\n\n## Exercises",
        *exercise("### Exercise 1: TODO\n\nAdd up the numbers of `x`."),
        *exercise("### Exercise 2: TODO\n\nAdd them up again."),
        "## What comes next\n\nThis was the last chapter. TODO",
    ]
    return [new_markdown_cell(c) if isinstance(c, str) else c for c in cells]
