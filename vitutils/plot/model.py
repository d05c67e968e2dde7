"""A Vision Transformer as a picture: from an image to its logits."""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from numpy.typing import ArrayLike

from vitutils.plot.common import array, pixels, readable
from vitutils.plot.pictures import patches
from vitutils.plot.style import COLORS, CYCLE, EDGE, INK, NARROW

HEIGHT = 5.4  # inches, as are all places below
ROWS = [2.5, 2.06, 1.7, 1.34, 0.98, 0.62]  # the class token above the patches
TOKEN, PLACE, LAST = 0.94, 1.55, 3.62  # columns: tokens, positions, tokens once more
HEAD = 4.43


def image_to_logits(
    image: ArrayLike,
    patch_size: int,
    logits: ArrayLike,
    classes: Sequence[str],
    *,
    depth: int,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Figure:
    """Draw the way of one image through a ViT, from its patches to the logits.

    Each token gets the embedding of its place: p with the number of the place. In the
    first and the last block a line joins each two tokens, in the class token's color
    where it reads.

    Args:
        image: (1 or 3, H, W), as in ``show_images``.
        patch_size: patch side in pixels.
        logits: (classes,), with the names in ``classes``.
        depth: how many blocks the encoder has.

    Raises:
        ValueError: a wrong shape, or an image that the patch does not divide.
    """
    fig = plt.figure(figsize=(NARROW, HEIGHT))
    fig.set_layout_engine("none")  # all places are given
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, NARROW), ylim=(0, HEIGHT))
    ax.set_axis_off()

    whole = inset(fig, 0.05, 3.65, 1.25, 1.25)
    patches(image, patch_size, numbers=False, mean=mean, std=std, ax=whole)
    picture = pixels(array(image)[None], mean, std)[0]
    across = picture.shape[1] // patch_size
    count = picture.shape[0] // patch_size * across
    arrow(ax, (0.23, 3.58), (0.23, ROWS[1] + 0.2), "patch")

    numbers = {ROWS[0]: 0, ROWS[1]: 1, ROWS[2]: 2, ROWS[3]: 3, ROWS[5]: count}
    between = {1: [], 2: [2.55]}.get(depth, [2.31, 2.79])  # blocks: columns of tokens
    for y, number in numbers.items():
        token_row(ax, number, y, between, depth)
        if number:
            corner = [i * patch_size for i in divmod(number - 1, across)]
            cut_out(fig, whole, picture, corner, patch_size, y)
    for x in (0.23, TOKEN, PLACE, LAST):
        ax.text(x, ROWS[4], "…", ha="center", va="center", rotation=90)
    ends = [PLACE + 0.21, *(x + side for x in between for side in (-0.09, 0.09))]
    ends.append(LAST - 0.26)
    for bundle in dict.fromkeys((tuple(ends[:2]), tuple(ends[-2:]))):
        join(ax, list(numbers), bundle)
    arrow(ax, (LAST + 0.26, ROWS[0]), (HEAD - 0.25, ROWS[0]), "class_token")
    plate(ax, "head", HEAD, ROWS[0], 0.46, 0.28, "neutral")
    arrow(ax, (HEAD, ROWS[0] + 0.16), (HEAD, 3.02), "neutral")
    for x, y, words in (
        (0.05, HEIGHT - 0.2, f"{count} patches"),
        (2.85, HEIGHT - 0.2, f"{len(classes)} logits"),
        (TOKEN - 0.24, ROWS[0] + 0.36, f"{count + 1} tokens"),
        (PLACE + 0.21, ROWS[0] + 0.36, f"{depth} block{'s' * (depth != 1)}"),
        (LAST - 0.24, ROWS[0] + 0.36, f"{count + 1} tokens"),
    ):
        ax.text(x, y, words, fontsize=11, weight="bold", va="center")
    for x, y, words in (
        (0.36, 3.35, "read row by row"),
        (0.28, 0.2, "project"),
        (0.9, 0.2, "add position"),
        (PLACE + 0.21, 0.2, "each attends to all"),
        (LAST - 0.24, 0.2, "the head reads one"),
    ):
        ax.text(x, y, words, fontsize=10, va="center")
    logit_bars(inset(fig, 3.55, 3.3, 1.25, 1.75), array(logits), classes)
    return fig


def token_row(
    ax: Axes, number: int, y: float, between: Sequence[float], depth: int
) -> None:
    """Draw one token's way from left to right; number 0 is the class token."""
    name, color = (str(number), "patch") if number else ("class", "class_token")
    if number:
        arrow(ax, (0.43, y), (TOKEN - 0.27, y), color)
    plate(ax, name, TOKEN, y, 0.48, 0.28, color)
    ax.text((TOKEN + PLACE) / 2 + 0.03, y, "+", ha="center", va="center", fontsize=12)
    plate(ax, f"$p_{{{number}}}$", PLACE, y, 0.38, 0.28, "neutral")
    for x in between:
        plate(ax, "", x, y, 0.14, 0.14, color)
    if depth > 2:
        ax.text(sum(between) / 2, y, "…", ha="center", va="center")
    plate(ax, name, LAST, y, 0.48, 0.28, color, fade=bool(number))


def cut_out(
    fig: Figure,
    whole: Axes,
    picture: np.ndarray,
    corner: Sequence[int],
    side: int,
    y: float,
) -> None:
    """Draw one patch in its row, and a frame around it in the whole image."""
    top, left = corner
    piece = inset(fig, 0.08, y - 0.15, 0.3, 0.3)
    piece.imshow(picture[top : top + side, left : left + side])
    piece.set(xticks=[], yticks=[])
    piece.spines[:].set(visible=True, color=COLORS["patch"], lw=1.2)
    gaps = 1 + max(1, round(side / 8)) / side  # as patches() has
    frame = {"fill": False, "ec": COLORS["patch"], "lw": 1.2, "zorder": 3}
    place = (left * gaps - 0.5, top * gaps - 0.5)
    whole.add_patch(Rectangle(place, side, side, **frame))


def join(ax: Axes, rows: Sequence[float], bundle: Sequence[float]) -> None:
    """Draw a line from each row to each, those to the class token on top."""
    for target in reversed(rows):
        reads = target == rows[0]
        look = {"color": COLORS["class_token"] if reads else EDGE}
        look["lw"] = 1.4 if reads else 0.8
        for source in rows:
            ax.plot(bundle, (source, target), **look)


def logit_bars(ax: Axes, logits: np.ndarray, classes: Sequence[str]) -> None:
    """Draw a bar for each class, with ticks at zero and near the largest logit."""
    ax.barh(classes, logits, color=CYCLE[0])
    ax.invert_yaxis()
    ax.axvline(0, color=INK, linewidth=0.8)
    far = float(logits[np.abs(logits).argmax()])
    ticks = [0.0]
    if far:
        unit = 10.0 ** math.floor(math.log10(abs(far))) / 2
        ticks.append(math.copysign(abs(far) // unit * unit, far))
    ax.set_xticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)


def inset(fig: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Return axes at a place in inches."""
    return fig.add_axes((x / NARROW, y / HEIGHT, width / NARROW, height / HEIGHT))


def plate(
    ax: Axes,
    words: str,
    x: float,
    y: float,
    width: float,
    height: float,
    color: str,
    *,
    fade: bool = False,
    rotation: float = 0,
) -> None:
    """Write words on a plate with its middle at (x, y), or in its faint outline."""
    face = COLORS[color]
    corner = (x - width / 2 + 0.03, y - height / 2 + 0.03)
    style = "round,pad=0.03"
    look = {"fc": "none", "ec": face, "ls": ":"} if fade else {"fc": face, "ec": "none"}
    box = FancyBboxPatch(
        corner, width - 0.06, height - 0.06, boxstyle=style, zorder=2.5, **look
    )
    ax.add_patch(box)
    ink = INK if fade else readable(face)
    center = {"ha": "center", "va": "center", "fontsize": 10, "rotation": rotation}
    ax.text(x, y, words, color=ink, **center)


def arrow(
    ax: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    color: str,
    bend: str = "arc3",
) -> None:
    """Draw an arrow in the color of what goes along it."""
    style = {"arrowstyle": "-|>", "color": COLORS[color], "lw": 1.5}
    style |= {"shrinkA": 0, "shrinkB": 0, "connectionstyle": bend}
    ax.annotate("", end, start, arrowprops=style)
