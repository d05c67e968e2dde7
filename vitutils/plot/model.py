"""A Vision Transformer as a picture: from an image to its logits."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from numpy.typing import ArrayLike

from vitutils.plot.common import array, readable
from vitutils.plot.pictures import patches
from vitutils.plot.style import COLORS, CYCLE, INK, WIDTH

HEIGHT = 3.0  # inches, as are all places below
ROWS = [2.35, 1.75, 1.35, 0.95, 0.55]  # the class token above the patches


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
    """Draw the way of one image through a ViT, an arrow for each step.

    Each token gets the embedding of its place: p with the number of the place.

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

    picture = inset(fig, 0.05, 0.55, 1.2, 1.35)
    patches(image, patch_size, numbers=False, mean=mean, std=std, ax=picture)
    height, width = array(image).shape[-2:]
    count = (height // patch_size) * (width // patch_size)
    names = ["class", "1", "2", "…", str(count)]
    places = ["$p_0$", "$p_1$", "$p_2$", "…", f"$p_{{{count}}}$"]
    plate(ax, f"encoder:\n{depth} blocks", 3.36, 1.45, 0.7, 2.1, "neutral")
    plate(ax, "head", 5.03, ROWS[0], 0.5, 0.3, "neutral")
    for y, name, place in zip(ROWS, names, places, strict=True):
        color = "class_token" if y == ROWS[0] else "patch"
        for x in (1.78, 4.23):
            plate(ax, name, x, y, 0.5, 0.3, color)
        ax.text(2.17, y, "+", ha="center", va="center", fontsize=12)
        plate(ax, place, 2.5, y, 0.44, 0.3, "neutral")
        if y != ROWS[0]:
            arrow(ax, (1.28, 1.22 + 0.5 * (y - 1.22)), (1.51, y), color)
        arrow(ax, (2.76, y), (2.98, y), color)
        arrow(ax, (3.73, y), (3.96, y), color)
    arrow(ax, (4.51, ROWS[0]), (4.76, ROWS[0]), "class_token")
    turn = "angle,angleA=-90,angleB=180,rad=6"
    arrow(ax, (5.03, ROWS[0] - 0.17), (5.4, 1.5), "neutral", turn)
    for x, words in (
        (0.05, f"{count} patches"),
        (1.53, f"{count + 1} tokens + positions"),
        (3.98, f"{count + 1} tokens"),
        (5.5, f"{len(classes)} logits"),
    ):
        ax.text(x, HEIGHT - 0.2, words, fontsize=11, weight="bold", va="center")

    bars = inset(fig, 6.15, 0.3, 0.95, 2.4)
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
    ax: Axes, words: str, x: float, y: float, width: float, height: float, color: str
) -> None:
    """Write words on a plate with its middle at (x, y)."""
    face = COLORS[color]
    corner = (x - width / 2 + 0.03, y - height / 2 + 0.03)
    style = "round,pad=0.03"
    box = FancyBboxPatch(
        corner, width - 0.06, height - 0.06, boxstyle=style, fc=face, ec="none"
    )
    ax.add_patch(box)
    center = {"ha": "center", "va": "center", "fontsize": 10}
    ax.text(x, y, words, color=readable(face), **center)


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
