"""A Vision Transformer as a picture: from an image to its logits."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, Rectangle
from numpy.typing import ArrayLike

from vitutils.plot.common import array, pixels, readable
from vitutils.plot.pictures import patches
from vitutils.plot.style import COLORS, CYCLE, EDGE, INK, WIDTH

HEIGHT = 3.15  # inches, as are all places below
ROWS = [2.5, 2.06, 1.7, 1.34, 0.98, 0.62]  # the class token above the patches


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
    fig = plt.figure(figsize=(WIDTH, HEIGHT))
    fig.set_layout_engine("none")  # all places are given
    ax = fig.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
    ax.set_axis_off()

    middle = (ROWS[1] + ROWS[-1]) / 2  # of the patches
    whole = inset(fig, 0.05, middle - 0.6, 1.2, 1.2)
    patches(image, patch_size, numbers=False, mean=mean, std=std, ax=whole)
    picture = pixels(array(image)[None], mean, std)[0]
    across = picture.shape[1] // patch_size
    count = picture.shape[0] // patch_size * across
    numbers = [None, 1, 2, 3, "…", count]
    for y, edge in ((ROWS[1] + 0.15, middle + 0.6), (ROWS[-1] - 0.15, middle - 0.6)):
        ax.plot((1.25, 1.48), (edge, y), color=EDGE, lw=0.8)
    between = {1: [], 2: [3.92]}.get(depth, [3.7, 4.14])  # blocks: columns of tokens
    ends = [3.14, *(x + side for x in between for side in (-0.09, 0.09)), 4.71]
    for y, number in zip(ROWS, numbers, strict=True):
        if number == "…":
            for x in (1.63, 2.32, 2.93, 4.97):
                ax.text(x, y, number, ha="center", va="center", rotation=90)
            continue
        name = str(number or "class")
        color = "patch" if number else "class_token"
        if number:
            top, left = (i * patch_size for i in divmod(number - 1, across))
            piece = inset(fig, 1.48, y - 0.15, 0.3, 0.3)
            piece.imshow(picture[top : top + patch_size, left : left + patch_size])
            piece.set(xticks=[], yticks=[])
            piece.spines[:].set(visible=True, color=COLORS["patch"], lw=1.2)
            gaps = 1 + max(1, round(patch_size / 8)) / patch_size  # as patches() has
            corner = (left * gaps - 0.5, top * gaps - 0.5)
            frame = {"fill": False, "ec": COLORS["patch"], "lw": 1.2, "zorder": 3}
            whole.add_patch(Rectangle(corner, patch_size, patch_size, **frame))
            arrow(ax, (1.83, y), (2.05, y), color)
        plate(ax, name, 2.32, y, 0.48, 0.28, color)
        ax.text(2.66, y, "+", ha="center", va="center", fontsize=12)
        plate(ax, f"$p_{{{number or 0}}}$", 2.93, y, 0.38, 0.28, "neutral")
        for x in between:
            plate(ax, "", x, y, 0.14, 0.14, color)
        if depth > 2:
            ax.text(3.92, y, "…", ha="center", va="center")
        plate(ax, name, 4.97, y, 0.48, 0.28, color, fade=bool(number))
    rows = [y for y, number in zip(ROWS, numbers, strict=True) if number != "…"]
    for bundle in dict.fromkeys((tuple(ends[:2]), tuple(ends[-2:]))):
        for target in reversed(rows):  # those to the class token lie on top
            reads = target == rows[0]
            look = {"color": COLORS["class_token"] if reads else EDGE}
            look["lw"] = 1.4 if reads else 0.8
            for source in rows:
                ax.plot(bundle, (source, target), **look)
    arrow(ax, (5.23, ROWS[0]), (5.43, ROWS[0]), "class_token")
    plate(ax, "head", 5.57, 1.58, 0.26, 2.2, "neutral", rotation=90)
    for x, words, step, left in (
        (0.05, f"{count} patches", "read row by row", 0.05),
        (2.08, f"{count + 1} tokens", "project", 1.68),
        (3.14, f"{depth} block{'s' * (depth != 1)}", "each attends to all", 3.14),
        (4.73, f"{count + 1} tokens", "the head reads one", 4.73),
        (5.88, f"{len(classes)} logits", "add position", 2.28),
    ):
        ax.text(x, HEIGHT - 0.2, words, fontsize=11, weight="bold", va="center")
        ax.text(left, 0.2, step, fontsize=10, va="center")

    bars = inset(fig, 6.55, 0.42, 0.6, 2.3)
    bars.barh(classes, array(logits), color=CYCLE[0])
    bars.invert_yaxis()
    bars.axvline(0, color=INK, linewidth=0.8)
    bars.set(xticks=[0])
    bars.tick_params(length=0)
    bars.spines[["left", "bottom"]].set_visible(False)
    return fig


def inset(fig: Figure, x: float, y: float, width: float, height: float) -> Axes:
    """Return axes at a place in inches."""
    return fig.add_axes((x / WIDTH, y / HEIGHT, width / WIDTH, height / HEIGHT))


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
