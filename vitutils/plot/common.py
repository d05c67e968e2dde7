"""What the pictures share: arrays, pixels, axes, and checks of what is given."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colorbar import Colorbar
from matplotlib.colors import to_hex, to_rgb
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike

from vitutils.plot.style import DARK, EDGE, ON_DARK, ON_LIGHT, PAPER


def array(values: ArrayLike) -> np.ndarray:
    """Return ``values``, perhaps a tensor on a device, as a NumPy array."""
    return torch.as_tensor(values).detach().cpu().numpy()


def pixels(
    images: ArrayLike,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> np.ndarray:
    """Return (B, H, W, 3) floats in [0, 1], or say why they are no images."""
    images = torch.as_tensor(images).detach().cpu()
    check_shape("images", images, "(B, 1 or 3, H, W)", 4, channels=1)
    if images.dtype == torch.uint8:
        images = images / 255
    elif mean is not None:
        channels = torch.tensor([mean, std]).view(2, -1, 1, 1)
        images = (images * channels[1] + channels[0]).clamp(0, 1)
    elif images.min() < 0 or images.max() > 1:
        raise ValueError(
            f"images have values from {images.min():.2f} to {images.max():.2f}, "
            "outside [0, 1]: give the mean and std that they were normalized with"
        )
    return images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).float().numpy()


def mosaic(tiles: np.ndarray, columns: int, gap: int = 1) -> np.ndarray:
    """Lay (n, H, W) or (n, H, W, 3) tiles out in a grid; the gaps stay clear.

    Colors get a fourth channel, 0 in the gaps; numbers are NaN there.
    """
    n, height, width = tiles.shape[:3]
    rows = math.ceil(n / columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap)
    if tiles.ndim == 4:
        tiles = np.concatenate([tiles, np.ones((*tiles.shape[:3], 1))], axis=-1)
    blank = np.nan if tiles.ndim == 3 else 0.0
    whole = np.full(shape + tiles.shape[3:], blank)
    for i, tile in enumerate(tiles):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        whole[y : y + height, x : x + width] = tile
    return whole


def frame_tiles(ax: Axes, n: int, columns: int, shape: tuple[int, int]) -> None:
    """Draw the edges of n tiles of a mosaic, where what is zero is clear."""
    height, width = shape
    for i in range(n):
        corner = (i % columns * (width + 1) - 0.5, i // columns * (height + 1) - 0.5)
        ax.add_patch(Rectangle(corner, width, height, fc="none", ec=EDGE, lw=0.8))


def color_bar(
    image: AxesImage, axes: Any, label: str = "", aspect: float | None = None
) -> Colorbar:
    """Draw the color bar of an image beside its axes, and return it.

    Its height is ``aspect`` times its width; by default a tall bar is not wide, too.
    """
    aspect = aspect or max(25, 5 * image.figure.get_figheight())
    bar = image.figure.colorbar(image, ax=axes, shrink=0.85, aspect=aspect, label=label)
    bar.outline.set_edgecolor(EDGE)
    bar.outline.set_linewidth(0.8)
    bar.ax.tick_params(length=0)
    bar.solids.set(rasterized=True, edgecolor="none")
    return bar


def readable(face: str | Sequence[float]) -> str:
    """Return the ink that reads best on a color, in both themes: light or dark."""
    if to_hex(face).upper() in DARK:
        return PAPER  # it changes with the theme, as this color does
    linear = [
        c / 12.92 if c <= 0.04 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(face)
    ]
    return ON_DARK if np.dot(linear, (0.2126, 0.7152, 0.0722)) < 0.18 else ON_LIGHT


def axes_or_new(ax: Axes | None, size: tuple[float, float]) -> Axes:
    """Return ``ax`` or the axes of a new figure of ``size`` inches."""
    return plt.subplots(figsize=size)[1] if ax is None else ax


def check_shape(
    name: str,
    values: np.ndarray | torch.Tensor,
    expected: str,
    ndim: int,
    channels: int | None = None,
) -> None:
    """Raise a ValueError unless ``values`` has ``ndim`` axes (and 1 or 3 channels)."""
    wrong = values.ndim != ndim or 0 in values.shape
    if wrong or (channels is not None and values.shape[channels] not in (1, 3)):
        raise ValueError(f"{name} has shape {tuple(values.shape)}, expected {expected}")


def check_count(name: str, labels: Sequence | None, count: int) -> None:
    """Raise a ValueError unless there are ``count`` labels, or none at all."""
    if labels is not None and len(labels) != count:
        raise ValueError(f"{len(labels)} {name} given for {count}")
