"""Diagrams: matrices that are multiplied, and the paths of tokens through a block."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vitutils.plot.style import COLORS, CYCLE, EDGE, INK, WIDTH

CELL = 0.25  # inches, as are all places below
LINE = {"lw": 1.2, "color": INK}
MIDDLE = {"ha": "center", "va": "center"}


def product(
    pieces: Sequence[str | tuple[str, tuple[int, int], str, str]], row: int | None = 0
) -> Figure:
    """Draw matrices as grids of cells, with what happens between them.

    Args:
        pieces: from left to right; a text stands between two matrices, and a matrix
            is (name, (rows, columns), color, its shape in words).
        row: a row that is followed: darker in all matrices that have the rows of the
            first; None for none.
    """
    grids = [piece for piece in pieces if not isinstance(piece, str)]
    highest = max(shape[0] for _, shape, _, _ in grids)
    ax = blank(highest * CELL + 0.8)
    widths = [
        0.3 + 0.07 * len(piece) if isinstance(piece, str) else piece[1][1] * CELL
        for piece in pieces
    ]
    x, y = (WIDTH - sum(widths)) / 2, highest * CELL / 2 + 0.4
    followed = grids[0][1][0]
    for piece, width in zip(pieces, widths, strict=True):
        if isinstance(piece, str):
            ax.text(x + width / 2, y, piece, fontsize=11, **MIDDLE)
            x += width
            continue
        name, (rows, columns), color, words = piece
        top = y + rows * CELL / 2
        for i in range(rows):
            dark = row == i and rows == followed
            for j in range(columns):
                corner = (x + j * CELL, top - (i + 1) * CELL)
                face = COLORS.get(color, color)
                cell = {"fc": face, "alpha": 0.85 if dark else 0.3, "ec": "none"}
                ax.add_patch(Rectangle(corner, CELL, CELL, **cell))
                edge = {"fill": False, "ec": EDGE, "lw": 0.8}
                ax.add_patch(Rectangle(corner, CELL, CELL, **edge))
        center = x + width / 2
        ax.text(center, y + highest * CELL / 2 + 0.2, name, fontsize=12, **MIDDLE)
        ax.text(center, y - highest * CELL / 2 - 0.2, words, fontsize=10, **MIDDLE)
        x += width
    return ax.figure


def paths(rows: Mapping[str, Sequence[str | None]]) -> Figure:
    """Draw ways from left to right, one a row, with residual paths above them.

    Args:
        rows: dict of a way's name to what it leads through. A text in ``$...$``
            names what is on the way; "+" adds it once more, by a residual path from the
            last such name. None leaves a place empty; any other text is a box.

    Raises:
        ValueError: rows of different lengths, or "+" before any name.
    """
    lengths = [len(row) for row in rows.values()]
    if len({*lengths}) != 1:
        raise ValueError(f"rows of {lengths} places: give None for an empty one")
    widths = [max(map(width_of, column)) for column in zip(*rows.values(), strict=True)]
    names = max(0.085 * len(name) for name in rows)
    gap = 0.3
    start = (WIDTH - names - sum(widths) - gap * (len(widths) + 1)) / 2
    ax = blank(0.72 * len(rows) + 0.1)
    for i, (name, row) in enumerate(rows.items()):
        y = 0.72 * (len(rows) - i) - 0.42
        ax.text(start, y, name, va="center", fontsize=10, weight="bold")
        x, end, source = start + names + gap, None, None
        for piece, width in zip(row, widths, strict=True):
            center, half = x + width / 2, width_of(piece) / 2
            x += width + gap
            if piece is None:
                continue
            if end is not None:
                arrow(ax, (end, y), (center - half, y))
            end = center + half
            if piece == "+":
                if source is None:
                    raise ValueError(f"'+' of {name!r} adds nothing: name it before")
                box = {"boxstyle": "circle,pad=0.15", "ec": COLORS["neutral"]}
                ax.plot(*zip(*source, (center, y + 0.32), strict=True), **LINE)
                arrow(ax, (center, y + 0.32), (center, y + 0.13))
            elif piece.startswith("$"):
                box = None
                source = (center, y + 0.12), (center, y + 0.32)
            else:
                color = CYCLE[1] if piece.startswith("norm") else CYCLE[0]
                box = {"boxstyle": "round,pad=0.4", "ec": color}
            if box:
                box |= {"fc": "none", "lw": 1.5}
            ax.text(center, y, piece, fontsize=10, bbox=box, **MIDDLE)
        if not row[-1] or not row[-1].startswith("$"):
            arrow(ax, (end, y), (x - gap / 2, y))
    return ax.figure


def blank(height: float) -> Axes:
    """Return axes over a whole figure as wide as the page, measured in inches."""
    fig = plt.figure(figsize=(WIDTH, height))
    fig.set_layout_engine("none")  # all places are given
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, WIDTH), ylim=(0, height))
    ax.set_axis_off()
    return ax


def width_of(piece: str | None) -> float:
    """Return about how wide a piece of a way is."""
    if piece is None:
        return 0.0
    if piece == "+" or piece.startswith("$"):
        return 0.26
    return 0.066 * len(piece) + 0.2


def arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Draw an arrow in ink."""
    style = {"arrowstyle": "->", "shrinkA": 0, "shrinkB": 0, **LINE}
    ax.annotate("", end, start, arrowprops=style)
