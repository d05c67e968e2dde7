"""What the pictures share: arrays, pixels, axes, and checks of what is given."""

import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike

from vitutils.plot.style import INK


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
    """Lay (n, H, W) or (n, H, W, 3) tiles out in a grid with white gaps."""
    n, height, width = tiles.shape[:3]
    rows = math.ceil(n / columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap)
    blank = np.nan if tiles.ndim == 3 else 1.0
    whole = np.full(shape + tiles.shape[3:], blank)
    for i, tile in enumerate(tiles):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        whole[y : y + height, x : x + width] = tile
    return whole


def color_bar(image: AxesImage, axes: Any, label: str = "") -> None:
    """Draw the color bar of an image beside its axes."""
    bar = image.figure.colorbar(image, ax=axes, shrink=0.85, aspect=25, label=label)
    bar.outline.set_visible(False)


def readable(rgb: Sequence[float]) -> str:
    """Return the ink that reads best on a color: white or dark."""
    return "white" if np.dot(rgb, (0.299, 0.587, 0.114)) < 0.55 else INK


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
