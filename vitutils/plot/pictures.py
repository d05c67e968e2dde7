"""Images, and what is cut out of them."""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from vitutils.plot.common import axes_or_new, check_count, mosaic, pixels
from vitutils.plot.style import COLORS, INK, NARROW, PAPER, WIDTH


def show_images(
    images: ArrayLike,
    *,
    titles: Sequence[str] | None = None,
    columns: int = 8,
    colors: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Figure:
    """Show a batch of images in a grid.

    Args:
        images: (B, 1 or 3, H, W), uint8, or floats in [0, 1], or normalized
            floats together with their ``mean`` and ``std``.
        titles, colors: one text per image, and the color of each.

    Raises:
        ValueError: a wrong shape, or floats that need ``mean`` and ``std``.
    """
    pictures = pixels(images, mean, std)
    check_count("titles", titles, len(pictures))
    columns = min(columns, len(pictures))
    rows = math.ceil(len(pictures) / columns)
    side = min(WIDTH / columns, 1.6)
    height = side * pictures.shape[1] / pictures.shape[2] + (0.28 if titles else 0)
    fig, axes = plt.subplots(
        rows,
        columns,
        squeeze=False,
        figsize=(side * columns, height * rows),
        layout="compressed",  # no more room between the images than they need
    )
    if titles and rows > 1:  # a title is nearer to its own image than to that above
        fig.get_layout_engine().set(h_pad=0.1)
    for i, ax in enumerate(axes.flat):
        ax.set_axis_off()
        if i < len(pictures):
            ax.imshow(pictures[i], interpolation=smoothing(pictures))
        if titles and i < len(pictures):
            color = COLORS.get(colors[i], colors[i]) if colors else INK
            ax.set_title(
                titles[i],
                fontsize=10,
                weight="normal",
                color=color,
                loc="center",
                pad=3,
            )
    return fig


def smoothing(pictures: np.ndarray) -> str:
    """Return how to draw pictures: a photo smoothly, a thumbnail pixel by pixel."""
    return "none" if max(pictures.shape[-3:-1]) < 100 else "antialiased"


def patches(
    image: ArrayLike,
    patch_size: int | tuple[int, int],
    *,
    numbers: bool = True,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Show an image cut in patches, numbered as the model reads them, row by row.

    Args:
        image: (1 or 3, H, W), as in ``show_images``.
        patch_size: patch side in pixels, or (height, width).
        numbers: whether to number the patches, from 1.

    Raises:
        ValueError: a wrong shape, or an image that the patch does not divide.
    """
    picture = pixels(torch.as_tensor(image)[None], mean, std)[0]
    height, width = (patch_size,) * 2 if isinstance(patch_size, int) else patch_size
    rows, columns = picture.shape[0] // height, picture.shape[1] // width
    if (rows * height, columns * width) != picture.shape[:2]:
        raise ValueError(
            f"image of {picture.shape[0]}x{picture.shape[1]} pixels is not "
            f"divisible by patch_size {height}x{width}"
        )
    tiles = picture.reshape(rows, height, columns, width, 3).swapaxes(1, 2)
    gap = max(1, round(width / 8))
    ax = axes_or_new(ax, (NARROW, NARROW * rows * height / (columns * width)))
    whole = mosaic(tiles.reshape(-1, height, width, 3), columns, gap)
    whole[whole[..., 3] == 0] = 0.5
    ax.imshow(whole[..., :3], interpolation=smoothing(whole))
    ax.set_axis_off()
    # The gaps are drawn, not clear: a photo without clear pixels can be JPEG.
    for span, n, side in ((ax.axhspan, rows, height), (ax.axvspan, columns, width)):
        for start in range(side, n * (side + gap) - gap, side + gap):
            span(start - 0.5, start + gap - 0.5, color=PAPER, lw=0)
    plate = {"fc": PAPER, "ec": "none", "pad": 1, "alpha": 0.85}
    for i in range(rows * columns if numbers else 0):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        ax.annotate(
            i + 1,
            (x - 0.5, y - 0.5),
            (2, -2),
            textcoords="offset points",
            va="top",
            fontsize=10,
            color=INK,
            bbox=plate,
        )
    return ax.figure
