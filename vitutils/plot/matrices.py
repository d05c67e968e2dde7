"""Matrices as colors: zero is the page itself."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from vitutils.plot.common import (
    array,
    axes_or_new,
    check_count,
    check_shape,
    color_bar,
    frame_tiles,
    mosaic,
)
from vitutils.plot.style import DIVERGING, NARROW, SEQUENTIAL, WIDTH


def heatmap(
    matrix: ArrayLike,
    *,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    title: str | None = None,
    xlabel: str = "",
    ylabel: str = "",
    numbers: str | None = None,
    diverging: bool = False,
    limits: tuple[float, float] | None = None,
    bar: bool = True,
    ax: Axes | None = None,
) -> Figure:
    """Show a matrix as colors: zero is the page itself.

    Args:
        matrix: (rows, columns).
        rows, columns: a label for each row and column.
        numbers: format of the number in each cell, as "{:.2f}"; None for none.
        diverging: colors for signed values, gold below zero, violet above.
        limits: (lowest, highest) value of the color scale; by default from 0,
            or symmetric about 0, to the largest value.
        bar: whether to draw the color bar.

    Raises:
        ValueError: not a matrix, not one label for each row and column, or
            values below zero without ``diverging`` or ``limits``.
    """
    matrix = array(matrix)
    check_shape("matrix", matrix, "(rows, columns)", 2)
    check_count("rows", rows, matrix.shape[0])
    check_count("columns", columns, matrix.shape[1])
    ax = axes_or_new(ax, (NARROW, 3.6))
    low, high = limits or value_range(matrix, diverging)
    cmap = DIVERGING if diverging else SEQUENTIAL
    image = ax.imshow(matrix, cmap=cmap, vmin=low, vmax=high)
    ax.set(title=title or "", xlabel=xlabel, ylabel=ylabel)
    ax.spines[:].set_visible(True)  # clear cells at the edge need it
    ax.tick_params(length=0)
    for axis in (ax.xaxis, ax.yaxis):
        if isinstance(locator := axis.get_major_locator(), MaxNLocator):
            locator.set_params(integer=True)  # others hold ticks of the caller's
    if rows is not None:
        ax.set_yticks(range(len(rows)), rows)
    if columns is not None:
        crowded = sum(len(str(c)) for c in columns) > 40
        ax.set_xticks(range(len(columns)), columns, rotation=90 if crowded else 0)
    for (i, j), value in np.ndenumerate(matrix if numbers else np.empty((0, 0))):
        text = numbers.format(value).replace("-", "−")  # as the axes write it
        ax.text(j, i, text, ha="center", va="center", fontsize=10)
    if bar:
        color_bar(image, ax)
    return ax.figure


def value_range(matrix: np.ndarray, diverging: bool) -> tuple[float, float]:
    """Return the limits of a color scale on which nothing is zero."""
    if not diverging and matrix.min() < 0:
        raise ValueError(f"matrix has values down to {matrix.min():.3g}: set diverging")
    largest = float(np.nanmax(np.abs(matrix))) or 1.0
    return (-largest if diverging else 0.0), largest


def confusion(
    matrix: ArrayLike, classes: Sequence[str], *, title: str | None = None
) -> Figure:
    """Show a confusion matrix, each row in per cent of its true class.

    Args:
        matrix: counts (num_classes, num_classes), rows the true classes.
        classes: their names. More than 20 leave no room for numbers, more than 50
            none for names: these are counted from 0.

    Raises:
        ValueError: the matrix is not square, or not of as many classes.
    """
    counts = array(matrix).astype(float)
    if counts.shape != (len(classes), len(classes)):
        raise ValueError(
            f"matrix of shape {counts.shape} does not fit {len(classes)} classes"
        )
    percent = 100 * counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    names = classes if len(classes) <= 50 else None
    few = len(classes) <= 10
    _, ax = plt.subplots(figsize=(NARROW, 4.5) if few else (WIDTH, 5.4))
    return heatmap(
        percent,
        rows=names,
        columns=names,
        numbers="{:.0f}" if len(classes) <= 20 else None,
        ax=ax,
        xlabel="predicted class",
        ylabel="true class",
        limits=(0, 100),
        title=title or "Per cent of each true class",
    )


def position_similarity(
    pos_embed: ArrayLike,
    grid: tuple[int, int],
    *,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Show how alike position embeddings are: one small map for each position.

    Args:
        pos_embed: (1, N+1, D) or (N+1, D), the class token's row first (left
            out), or without it N rows; N = rows * columns of ``grid``.
        grid: (rows, columns) of patches.

    Raises:
        ValueError: the number of embeddings does not fit the grid.

    Source: Dosovitskiy et al. (2021), figure 7, center.
    """
    rows, columns = grid
    embed = torch.as_tensor(pos_embed).detach().cpu().float()
    embed = embed[0] if embed.ndim == 3 else embed
    if embed.ndim != 2 or len(embed) - rows * columns not in (0, 1):
        raise ValueError(
            f"pos_embed of shape {tuple(embed.shape)} does not fit a grid of "
            f"{rows} x {columns}: expected {rows * columns} or one more embeddings"
        )
    unit = torch.nn.functional.normalize(embed[-rows * columns :], dim=-1)
    maps = (unit @ unit.T).view(-1, rows, columns).numpy()
    ax = axes_or_new(ax, (WIDTH, WIDTH * rows / columns * 0.85 + 0.4))
    image = ax.imshow(mosaic(maps, columns), cmap=DIVERGING, vmin=-1, vmax=1)
    frame_tiles(ax, rows * columns, columns, grid)
    for axis, n in ((ax.yaxis, rows), (ax.xaxis, columns)):
        axis.set_ticks([i * (n + 1) + (n - 1) / 2 for i in range(n)], range(1, n + 1))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set(xlabel="patch column", ylabel="patch row", title=title or "")
    color_bar(image, ax, label="cosine similarity")
    return ax.figure
