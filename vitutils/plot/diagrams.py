"""Diagrams: products of matrices, paths through a block, and attention by heads."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vitutils.plot.style import COLORS, CYCLE, EDGE, INK, NARROW, WIDTH

CELL = 0.25  # inches, as are all places below
LINE = {"lw": 1.2, "color": INK}
MIDDLE = {"ha": "center", "va": "center"}


def product(
    pieces: Sequence[str | tuple[str, tuple[int, int], str, str]],
    row: int | None = 0,
    column: int | None = None,
) -> Figure:
    """Draw matrices as grids of cells, with what happens between them.

    Args:
        pieces: from left to right; a text stands between two matrices, and a matrix
            is (name, (rows, columns), color, its shape in words).
        row: a row that is followed: darker in all matrices that have the rows of the
            first; None for none.
        column: a column of the second matrix that is followed: framed, with what it
            meets: its cell of the followed row in matrices of as many columns, and its
            own row in one of as many rows; None for none.
    """
    grids = [piece for piece in pieces if not isinstance(piece, str)]
    highest = max(shape[0] for _, shape, _, _ in grids)
    ax = blank(highest * CELL + 0.8)
    widths = [
        0.3 + 0.07 * max(map(len, piece.split("\n")))
        if isinstance(piece, str)
        else piece[1][1] * CELL
        for piece in pieces
    ]
    x, y = (WIDTH - sum(widths)) / 2, highest * CELL / 2 + 0.4
    followed, keys = grids[0][1][0], grids[-1 if column is None else 1][1][1]
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
        framed = None  # (x, y, width, height) in cells, from the lower left
        if column is not None and piece is grids[1]:
            framed = column, 0, 1, rows
        elif None not in (row, column) and (rows, columns) == (followed, keys):
            framed = column, rows - 1 - row, 1, 1
        elif column is not None and rows == keys:
            framed = 0, rows - 1 - column, columns, 1
        if framed:
            left, low, wide, tall = (CELL * side for side in framed)
            corner = (x + left, top - rows * CELL + low)
            edge = {"fill": False, "ec": INK, "lw": 2.2, "zorder": 3}
            ax.add_patch(Rectangle(corner, wide, tall, **edge))
        center = x + width / 2
        ax.text(center, y + highest * CELL / 2 + 0.2, name, fontsize=12, **MIDDLE)
        ax.text(center, y - highest * CELL / 2 - 0.2, words, fontsize=10, **MIDDLE)
        x += width
    return ax.figure


def paths(rows: Mapping[str, Sequence[str | None]]) -> Figure:
    """Draw ways from left to right, one below its name, residual paths above them.

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
    gap, high = 0.3, 1.06 if any(rows) else 0.72
    long = sum(widths) + gap * len(widths)
    whole = NARROW if long <= NARROW else WIDTH  # on a phone all of it is in view
    start = (whole - long) / 2
    ax = blank(high * len(rows) + 0.1, whole)
    for i, (name, row) in enumerate(rows.items()):
        y = high * (len(rows) - i) - high + 0.3
        ax.text(start, y + 0.45, name, va="center", fontsize=10, weight="bold")
        x, end, source = start, None, None
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


def multi_head(tokens: int, embed_dim: int) -> Figure:
    """Draw a layer of attention with two heads, from its tokens to its output.

    Queries, keys and values have the colors of their roles, faint for head 2.

    Raises:
        ValueError: an odd ``embed_dim``, which two heads do not divide.
    """
    if embed_dim % 2:
        raise ValueError(f"2 heads do not divide embed_dim {embed_dim}")
    d_k, half, middle = embed_dim // 2, 0.28, 1.82
    side = half / d_k
    tall = tokens * side
    roles = {"Q": "query", "K": "key", "V": "value"}
    strengths = {1: 0.8, 2: 0.35}  # of a head's colors
    ax = blank(3.5)

    def slices(x: float, y: float, *colors: str, first: int = 1) -> None:
        for i, color in enumerate(colors):
            corner = (x + i * half, y - tall / 2)
            alpha = strengths[first + i] if color in roles.values() else 0.6
            face = {"fc": COLORS.get(color, color), "alpha": alpha, "ec": "none"}
            ax.add_patch(Rectangle(corner, half, tall, **face))
        right, columns = x + half * len(colors), d_k * len(colors)
        line = {"colors": EDGE, "lw": 0.8}
        rows = [y - tall / 2 + i * side for i in range(tokens + 1)]
        ax.hlines(rows, x, right, **line)
        across = [x + i * side for i in range(columns + 1)]
        ax.vlines(across, y - tall / 2, y + tall / 2, **line)

    def named(name: str, x: float, y: float, *colors: str) -> None:
        slices(x, y, *colors)
        above = x + len(colors) * half / 2, y + tall / 2 + 0.12
        ax.text(*above, name, fontsize=11, **MIDDLE)

    named("$X$", 0.1, middle, "neutral", "neutral")
    for i, (letter, role) in enumerate(roles.items()):
        y = middle + 0.95 * (1 - i)
        arrow(ax, (0.7, middle), (0.92, y), role)
        framed(ax, f"$W^{letter}$", 1.15, y, role)
        arrow(ax, (1.39, y), (1.58, y), role)
        named(f"${letter}$", 1.62, y, role, role)
        for head, at in ((1, 2.4), (2, 0.92)):
            lower = at + 0.44 * (1 - i)
            arrow(ax, (2.22, y), (2.66, lower), role)
            slices(2.7, lower, role, first=head)
            ax.text(3.11, lower, f"${letter}_{head}$", fontsize=11, **MIDDLE)
            arrow(ax, (3.24, lower), (3.47, at + 0.12 * (1 - i)), role)
    for head, y in ((1, 2.4), (2, 0.92)):
        framed(ax, "attention", 3.87, y, "attention")
        arrow(ax, (4.28, y), (4.45, y))
        named(f"$\\mathrm{{head}}_{head}$", 4.5, y, CYCLE[head - 1])
        arrow(ax, (4.83, y), (5.15, middle + 0.08 * (3 - 2 * head)))
    slices(5.2, middle, *CYCLE[:2])
    arrow(ax, (5.8, middle), (5.97, middle))
    framed(ax, "$W^O$", 6.2, middle, "neutral")
    arrow(ax, (6.44, middle), (6.56, middle))
    named("output", 6.6, middle, "neutral", "neutral")
    steps = {"project": 1.15, "split": 2.84, "attend": 3.87, "merge": 5.48, "mix": 6.2}
    for step, x in steps.items():
        ax.text(x, 3.34, step, fontsize=11, weight="bold", **MIDDLE)
    widths = {0.38: "D", 1.9: "D", 2.84: "d_k", 4.64: "d_k", 5.48: "D", 6.88: "D"}
    for x, width in widths.items():
        ax.text(x, 0.1, f"$(N, {width})$", fontsize=10, **MIDDLE)
    return ax.figure


def framed(ax: Axes, words: str, x: float, y: float, color: str) -> None:
    """Write words in a frame with its middle at (x, y)."""
    box = {"boxstyle": "round,pad=0.4", "fc": "none", "lw": 1.5}
    box["ec"] = COLORS.get(color, color)
    ax.text(x, y, words, fontsize=10, bbox=box, **MIDDLE)


def blank(height: float, width: float = WIDTH) -> Axes:
    """Return axes over a whole figure, by default a wide one, measured in inches."""
    fig = plt.figure(figsize=(width, height))
    fig.set_layout_engine("none")  # all places are given
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, width), ylim=(0, height))
    ax.set_axis_off()
    return ax


def width_of(piece: str | None) -> float:
    """Return about how wide a piece of a way is."""
    if piece is None:
        return 0.0
    if piece == "+" or piece.startswith("$"):
        return 0.26
    return 0.066 * len(piece) + 0.2


def arrow(
    ax: Axes, start: tuple[float, float], end: tuple[float, float], color: str = INK
) -> None:
    """Draw an arrow, in ink or in the color of what goes along it."""
    style = {"arrowstyle": "->", "shrinkA": 0, "shrinkB": 0, **LINE}
    style["color"] = COLORS.get(color, color)
    ax.annotate("", end, start, arrowprops=style)
