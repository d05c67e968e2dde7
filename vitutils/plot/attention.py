"""What attends to what."""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgb
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from vitutils.plot.common import array, check_count, check_shape, color_bar, pixels
from vitutils.plot.matrices import heatmap
from vitutils.plot.pictures import show_images
from vitutils.plot.style import COLORS, FULL, SEQUENTIAL, WIDTH


def attention_heads(
    weights: ArrayLike,
    *,
    titles: Sequence[str] | None = None,
    columns: int = 4,
    xlabel: str = "key",
    ylabel: str = "query",
) -> Figure:
    """Show the attention weights of each head on one color scale.

    Args:
        weights: (h, N_q, N_k): one image, one layer.
        titles: one text per head; by default "Head 1", "Head 2", ...

    Raises:
        ValueError: a wrong shape or count of titles.
    """
    weights = array(weights)
    check_shape("weights", weights, "(heads, queries, keys)", 3)
    titles = titles or [f"Head {i + 1}" for i in range(len(weights))]
    check_count("titles", titles, len(weights))
    columns = min(columns, len(weights))
    rows = math.ceil(len(weights) / columns)
    size = (min(WIDTH, 2.4 * columns), min(WIDTH / columns, 2.4) * rows)
    fig, axes = plt.subplots(
        rows, columns, squeeze=False, figsize=size, sharex=True, sharey=True
    )
    for ax in axes.flat[len(weights) :]:
        ax.set_axis_off()
    for head, title, ax in zip(weights, titles, axes.flat, strict=False):
        heatmap(head, title=title, limits=(0, weights.max()), bar=False, ax=ax)
    for ax in axes[-1]:
        ax.set_xlabel(xlabel)
    for ax in axes[:, 0]:
        ax.set_ylabel(ylabel)
    color_bar(axes[0, 0].images[0], axes)
    return fig


def attention_on_images(
    images: ArrayLike,
    maps: ArrayLike,
    *,
    titles: Sequence[str] | None = None,
    columns: int = 6,
    beside: bool = False,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Figure:
    """Show what is attended to: violet on a gray image, as in a heat map.

    Args:
        images: (B, 1 or 3, H, W), as in ``show_images``.
        maps: (B, rows, columns), not negative, one for each image. The color
            runs from nothing at zero to full at the largest value of each map.
        titles: one text per image.
        beside: whether each image also stands as it is, before its map; titles are
            then two per image.

    Raises:
        ValueError: a wrong shape, a map for each image missing, or a negative
            value.
    """
    pictures = torch.from_numpy(pixels(images, mean, std)).movedim(-1, 1)
    maps = torch.as_tensor(maps).detach().cpu().float()
    check_shape("maps", maps, "(B, rows, columns)", 3)
    check_count("maps", maps, len(pictures))
    if maps.min() < 0:
        raise ValueError(f"maps have values down to {maps.min():.3g}, below zero")
    share = maps / maps.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    share = FULL * F.interpolate(share[:, None], size=pictures.shape[2:])
    gray = pictures.mean(dim=1, keepdim=True)
    violet = torch.tensor(to_rgb(COLORS["attention"])).view(3, 1, 1)
    shown = share * violet + (1 - share) * gray  # (B, 3, H, W)
    if beside:
        shown = torch.stack((pictures, shown), dim=1).flatten(0, 1)  # (2B, 3, H, W)
    fig = show_images(shown, titles=titles, columns=columns)
    scale = ScalarMappable(Normalize(0, 1), SEQUENTIAL)
    scale.figure = fig
    bar = color_bar(scale, fig.axes, aspect=8 * fig.get_figheight())
    bar.set_ticks([0, 1], labels=["none", "most"])
    return fig
