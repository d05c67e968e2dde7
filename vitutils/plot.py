"""The pictures of the book: one style, one color for each thing.

Every function returns its figure; a cell ends with ``plt.show()``. Where they
occur, ``ax`` is the axes to draw on (a new figure by default), ``columns`` the
panels in a row, ``mean`` and ``std`` what an image was normalized with (one number
per channel), and a color may be a key of ``COLORS``. Arrays may be tensors, NumPy
arrays or nested lists.
"""

import math
import sys

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.patches import FancyBboxPatch

# The palette of Okabe and Ito (2008), which color-blind readers tell apart too.
COLORS = {
    "query": "#0072B2",  # blue
    "key": "#E69F00",  # orange
    "value": "#009E73",  # green
    "class_token": "#CC79A7",  # purple
    "distill_token": "#D55E00",  # vermilion
    "teacher": "#333333",  # almost black
    "patch": "#56B4E9",  # sky blue
    "neutral": "#8A9099",  # gray
    "ok": "#009E73",
    "bad": "#D55E00",
}
CYCLE = [COLORS[key] for key in ("query", "bad", "value", "class_token", "key")]
# Both maps meet in white at zero: nothing to see where nothing happens.
SEQUENTIAL = LinearSegmentedColormap.from_list(
    "book_sequential", ["#FFFFFF", "#9ED2F0", "#2B8CC4", "#0A4C7D", "#04203A"]
)
DIVERGING = LinearSegmentedColormap.from_list(
    "book_diverging", ["#00375C", "#0072B2", "#A9D3EA", "#FFFFFF", "#F6BE96", "#D55E00",
                       "#6B2C00"]
)  # fmt: skip
INK = "#24292F"
WIDTH = 7.2  # inches: a text column of 720 px at 100 px an inch


def use_style():
    """Set the book's look for all figures that follow: call once, with the imports.

    In a notebook, pictures get two pixels a point, sharp on any screen.
    """
    mpl.rcParams.update({
        "figure.dpi": 100, "savefig.dpi": 200, "figure.facecolor": "white",
        "figure.figsize": (WIDTH, 3.2), "figure.constrained_layout.use": True,
        "font.family": "DejaVu Sans", "font.size": 10, "axes.titlesize": 11,
        "axes.labelsize": 10, "xtick.labelsize": 9, "ytick.labelsize": 9,
        "legend.fontsize": 9, "legend.frameon": False, "axes.titlelocation": "left",
        "text.color": INK, "axes.labelcolor": INK, "axes.titlecolor": INK,
        "axes.edgecolor": "#C4C9D0", "axes.linewidth": 0.8, "axes.axisbelow": True,
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": False,
        "xtick.color": "#C4C9D0", "ytick.color": "#C4C9D0", "grid.color": "#E6E9ED",
        "xtick.labelcolor": INK, "ytick.labelcolor": INK, "lines.linewidth": 2,
        "axes.prop_cycle": mpl.cycler(color=CYCLE), "image.cmap": "book_sequential",
        "image.interpolation": "nearest",
    })  # fmt: skip
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython():
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("retina")


for _cmap in (SEQUENTIAL, DIVERGING):
    mpl.colormaps.register(_cmap, force=True)


def show_images(images, *, titles=None, columns=8, colors=None, mean=None, std=None):
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
    height = side * pictures.shape[1] / pictures.shape[2] + (0.25 if titles else 0)
    fig, axes = plt.subplots(
        rows, columns, squeeze=False, figsize=(side * columns, height * rows)
    )
    for i, ax in enumerate(axes.flat):
        ax.set_axis_off()
        if i < len(pictures):
            ax.imshow(pictures[i])
        if titles and i < len(pictures):
            color = COLORS.get(colors[i], colors[i]) if colors else INK
            ax.set_title(titles[i], fontsize=9, color=color, loc="center", pad=3)
    return fig


def curves(x, lines, *, xlabel, ylabel, title=None, colors=None, xlog=False,
           ylog=False, ax=None):  # fmt: skip
    """Draw lines, each with its name at its end.

    Args:
        x: the common abscissae, (n,).
        lines: dict of name to ordinates (n,).
        colors: dict of name to color.
        xlog, ylog: whether that axis is logarithmic.

    Raises:
        ValueError: a line is not as long as ``x``.
    """
    ax = axes_or_new(ax, (WIDTH * 0.75, 3.2))
    for name, y in lines.items():
        if len(y) != len(x):
            raise ValueError(f"line {name!r} has {len(y)} points, x has {len(x)}")
        color = (colors or {}).get(name)
        ax.plot(array(x), array(y), color=COLORS.get(color, color), label=name or None,
                marker="o" if len(x) == 1 else None)  # fmt: skip
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title or "")
    ax.set(xscale="log" if xlog else "linear", yscale="log" if ylog else "linear")
    ax.grid(axis="y")
    label_ends(ax)
    return ax.figure


def training_curves(history):
    """Draw what ``vitutils.train.fit`` returns: losses, accuracy, learning rate.

    Args:
        history: one dict an epoch with epoch, train_loss, val_loss,
            val_accuracy (in [0, 1]) and lr.

    Raises:
        ValueError: the history is empty.
    """
    if not history:
        raise ValueError("history is empty: train for at least one epoch")
    get = {key: [row[key] for row in history] for key in history[0]}
    fig, axes = plt.subplots(1, 3, figsize=(WIDTH, 2.5))
    losses = {"training": get["train_loss"], "validation": get["val_loss"]}
    accuracy = {"": [100 * value for value in get["val_accuracy"]]}
    panels = [losses, accuracy, {"": get["lr"]}]
    titles = ["Loss", "Validation accuracy (%)", "Learning rate"]
    colors = {"training": "neutral", "validation": "query", "": "query"}
    for ax, lines, title in zip(axes, panels, titles, strict=True):
        curves(get["epoch"], lines, xlabel="epoch", ylabel="", title=title,
               colors=colors, ax=ax)  # fmt: skip
        ax.xaxis.get_major_locator().set_params(integer=True)
    return fig


def heatmap(matrix, *, rows=None, columns=None, title=None, xlabel="", ylabel="",
            numbers=None, diverging=False, limits=None, bar=True, ax=None):  # fmt: skip
    """Show a matrix as colors: white is zero.

    Args:
        matrix: (rows, columns).
        rows, columns: a label for each row and column.
        numbers: format of the number in each cell, as "{:.2f}"; None for none.
        diverging: colors for signed values, blue below zero, orange above.
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
    ax = axes_or_new(ax, (4.6, 3.6))
    low, high = limits or value_range(matrix, diverging)
    cmap = DIVERGING if diverging else SEQUENTIAL
    image = ax.imshow(matrix, cmap=cmap, vmin=low, vmax=high)
    ax.set(title=title or "", xlabel=xlabel, ylabel=ylabel)
    ax.spines[:].set_visible(True)  # white cells at the edge need it
    ax.tick_params(length=0)
    if rows is not None:
        ax.set_yticks(range(len(rows)), rows)
    if columns is not None:
        crowded = sum(len(str(c)) for c in columns) > 40
        ax.set_xticks(range(len(columns)), columns, rotation=90 if crowded else 0)
    for (i, j), value in np.ndenumerate(matrix if numbers else np.empty((0, 0))):
        ink = readable(image.to_rgba(value)[:3])
        ax.text(j, i, numbers.format(value), ha="center", va="center", color=ink,
                fontsize=min(9, 90 / max(matrix.shape)))  # fmt: skip
    if bar:
        color_bar(image, ax)
    return ax.figure


def attention_heads(weights, *, titles=None, columns=4, xlabel="key", ylabel="query"):
    """Show the attention weights of each head on one color scale.

    Args:
        weights: (h, N_q, N_k): one image, one layer.
        titles: one text per head; by default "head 1", "head 2", ...

    Raises:
        ValueError: a wrong shape or count of titles.
    """
    weights = array(weights)
    check_shape("weights", weights, "(heads, queries, keys)", 3)
    titles = titles or [f"head {i + 1}" for i in range(len(weights))]
    check_count("titles", titles, len(weights))
    columns = min(columns, len(weights))
    rows = math.ceil(len(weights) / columns)
    size = (min(WIDTH, 2.4 * columns), min(WIDTH / columns, 2.4) * rows)
    fig, axes = plt.subplots(rows, columns, squeeze=False, figsize=size,
                             sharex=True, sharey=True)  # fmt: skip
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


def position_similarity(pos_embed, grid, *, title=None):
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
    fig, ax = plt.subplots(figsize=(5.6, 5.6 * rows / columns * 0.85 + 0.4))
    image = ax.imshow(mosaic(maps, columns), cmap=DIVERGING, vmin=-1, vmax=1)
    for axis, n in ((ax.yaxis, rows), (ax.xaxis, columns)):
        axis.set_ticks([i * (n + 1) + (n - 1) / 2 for i in range(n)], range(1, n + 1))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set(xlabel="patch column", ylabel="patch row", title=title or "")
    color_bar(image, ax, label="cosine similarity")
    return fig


def filters(weight, *, components=False, count=28, columns=7, title=None):
    """Show what the first projection looks for: its filters, or their main themes.

    Args:
        weight: (D, 1 or 3, P, P), the weight of the patch projection.
        components: show the principal components of the D filters instead.
        count: how many to show, at most.

    Raises:
        ValueError: the weight has another shape.

    Source: Dosovitskiy et al. (2021), figure 7, left (with ``components``).
    """
    weight = torch.as_tensor(weight).detach().cpu().float()
    check_shape("weight", weight, "(D, 1 or 3, P, P)", 4, channels=1)
    tiles = weight
    if components:
        flat = weight.flatten(1) - weight.flatten(1).mean(dim=0)
        basis = torch.linalg.svd(flat, full_matrices=False).Vh
        strongest = basis.abs().argmax(dim=1, keepdim=True)  # a sign for each:
        basis = basis * basis.gather(1, strongest).sign()  # SVD leaves it open
        tiles = basis.view(-1, *weight.shape[1:])
    tiles = tiles[:count]
    tiles = tiles / tiles.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-12)
    tiles = tiles.permute(0, 2, 3, 1).numpy()  # in [-1, 1], zero in the middle
    columns = min(columns, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    fig, ax = plt.subplots(figsize=(min(WIDTH, 0.9 * columns), 0.9 * rows + 0.3))
    if weight.shape[1] == 3:
        ax.imshow(mosaic((tiles + 1) / 2, columns))
    else:
        ax.imshow(mosaic(tiles[..., 0], columns), cmap=DIVERGING, vmin=-1, vmax=1)
    ax.set_axis_off()
    ax.set_title(title or "")
    return fig


def confusion(matrix, classes, *, title=None):
    """Show a confusion matrix, each row in per cent of its true class.

    Args:
        matrix: counts (num_classes, num_classes), rows the true classes.
        classes: their names.

    Raises:
        ValueError: the matrix is not square, or not of as many classes.
    """
    counts = array(matrix).astype(float)
    if counts.shape != (len(classes), len(classes)):
        raise ValueError(
            f"matrix of shape {counts.shape} does not fit {len(classes)} classes"
        )
    percent = 100 * counts / counts.sum(axis=1, keepdims=True).clip(min=1)
    _, ax = plt.subplots(figsize=(6.4, 5.4))
    return heatmap(percent, rows=classes, columns=classes, numbers="{:.0f}", ax=ax,
                   xlabel="predicted class", ylabel="true class", limits=(0, 100),
                   title=title or "Per cent of each true class")  # fmt: skip


def patches(image, patch_size, *, numbers=True, mean=None, std=None, ax=None):
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
    ax = axes_or_new(ax, (4, 4 * rows * height / (columns * width)))
    ax.imshow(mosaic(tiles.reshape(-1, height, width, 3), columns, gap))
    ax.set_axis_off()
    plate = {"fc": "white", "ec": "none", "pad": 1, "alpha": 0.8}
    for i in range(rows * columns if numbers else 0):
        y, x = i // columns * (height + gap), i % columns * (width + gap)
        ax.annotate(i + 1, (x - 0.5, y - 0.5), (2, -2), textcoords="offset points",
                    va="top", fontsize=min(9, 72 / columns), color=INK, bbox=plate,
                    )  # fmt: skip
    return ax.figure


def boxes(labels, *, colors="neutral", split_rows=0, split_columns=0, width=1.0,
          title=None, ax=None):  # fmt: skip
    """Draw labelled boxes in a grid: tokens, or the numbers of a small tensor.

    Args:
        labels: rows of texts; None leaves a place empty.
        colors: keys of ``COLORS`` or colors: one for all, one per column, or
            rows of them.
        split_rows, split_columns: leave a gap after every so many (0: never).
        width: of a box, in heights of a box.
        ax: axes that share x and y draw at one scale.

    Raises:
        ValueError: the rows of colors do not fit the labels.
    """
    columns = max(len(row) for row in labels)
    if isinstance(colors, str):
        colors = [colors] * columns
    if isinstance(colors[0], str):
        colors = [colors] * len(labels)
    if [len(row) for row in colors] != [len(row) for row in labels]:
        raise ValueError(
            f"colors in rows of {[len(row) for row in colors]} do not fit labels "
            f"in rows of {[len(row) for row in labels]}"
        )
    gaps = [(len(labels) - 1) // split_rows if split_rows else 0,
            (columns - 1) // split_columns if split_columns else 0]  # fmt: skip
    extent = ((columns * width + gaps[1] * 0.5), len(labels) + gaps[0] * 0.5)
    ax = axes_or_new(ax, (0.45 * extent[0] + 0.2, 0.45 * extent[1] + 0.4))
    for i, row in enumerate(labels):
        for j, label in enumerate(row):
            if label is None:
                continue
            y = i + (i // split_rows * 0.5 if split_rows else 0)
            x = j * width + (j // split_columns * 0.5 if split_columns else 0)
            face = to_rgb(COLORS.get(colors[i][j], colors[i][j]))
            ax.add_patch(FancyBboxPatch((x + 0.1, y + 0.1), width - 0.2, 0.8, fc=face,
                         ec="none", boxstyle="round,pad=0.04"))  # fmt: skip
            ax.text(x + width / 2, y + 0.52, label, ha="center", va="center",
                    fontsize=9, color=readable(face))  # fmt: skip
    right, bottom = max(extent[0], ax.get_xlim()[1]), max(extent[1], *ax.get_ylim())
    ax.set(xlim=(0, right), ylim=(bottom, 0), aspect="equal", title=title or "")
    ax.set_anchor("NW")
    ax.set_axis_off()
    return ax.figure


def array(values):
    """Return ``values``, perhaps a tensor on a device, as a NumPy array."""
    return torch.as_tensor(values).detach().cpu().numpy()


def pixels(images, mean=None, std=None):
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


def mosaic(tiles, columns, gap=1):
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


def label_ends(ax):
    """Write each line's name beside its end, moved apart where they would touch."""
    ends = []
    ax.autoscale_view()  # now, not when drawn: the ends' places depend on it
    to_axes = ax.transData - ax.transAxes
    for line in ax.lines:
        points = line.get_xydata()[np.isfinite(line.get_ydata())]
        if len(points) and not line.get_label().startswith("_"):  # "_": nameless
            ends.append((np.clip(to_axes.transform(points[-1])[1], 0, 1), line))
    height = ax.figure.get_figheight() * ax.get_position().height
    step, lowest = 13 / 72 / height, -math.inf
    for y, line in sorted(ends, key=lambda end: end[0]):
        lowest = max(y, lowest + step)
        ax.annotate(line.get_label(), (1, lowest), (4, 0), xycoords="axes fraction",
                    textcoords="offset points", va="center", fontsize=9,
                    color=line.get_color(), annotation_clip=False)  # fmt: skip


def color_bar(image, axes, label=""):
    """Draw the color bar of an image beside its axes."""
    bar = image.figure.colorbar(image, ax=axes, shrink=0.85, aspect=25, label=label)
    bar.outline.set_visible(False)


def value_range(matrix, diverging):
    """Return the limits of a color scale on which white is zero."""
    if not diverging and matrix.min() < 0:
        raise ValueError(f"matrix has values down to {matrix.min():.3g}: set diverging")
    largest = float(np.nanmax(np.abs(matrix))) or 1.0
    return (-largest if diverging else 0.0), largest


def readable(rgb):
    """Return the ink that reads best on a color: white or dark."""
    return "white" if np.dot(rgb, (0.299, 0.587, 0.114)) < 0.55 else INK


def axes_or_new(ax, size):
    """Return ``ax`` or the axes of a new figure of ``size`` inches."""
    return plt.subplots(figsize=size)[1] if ax is None else ax


def check_shape(name, values, expected, ndim, channels=None):
    """Raise a ValueError unless ``values`` has ``ndim`` axes (and 1 or 3 channels)."""
    wrong = values.ndim != ndim or 0 in values.shape
    if wrong or (channels is not None and values.shape[channels] not in (1, 3)):
        raise ValueError(f"{name} has shape {tuple(values.shape)}, expected {expected}")


def check_count(name, labels, count):
    """Raise a ValueError unless there are ``count`` labels, or none at all."""
    if labels is not None and len(labels) != count:
        raise ValueError(f"{len(labels)} {name} given for {count}")
