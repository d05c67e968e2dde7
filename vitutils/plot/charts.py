"""Lines over numbers, and boxes for tokens."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.transforms import ScaledTranslation
from numpy.typing import ArrayLike

from vitutils.plot.common import array, axes_or_new, readable
from vitutils.plot.style import COLORS, CYCLE, NARROW, WIDTH


def curves(
    x: ArrayLike,
    lines: Mapping[str, ArrayLike],
    *,
    xlabel: str,
    ylabel: str,
    title: str | None = None,
    colors: Mapping[str, str] | None = None,
    xlog: bool = False,
    ylog: bool = False,
    ax: Axes | None = None,
) -> Figure:
    """Draw lines, each with its name at its end.

    Args:
        x: the common abscissae, (n,).
        lines: dict of name to ordinates (n,).
        colors: dict of name to color.
        xlog, ylog: whether that axis is logarithmic.

    Raises:
        ValueError: a line is not as long as ``x``.
    """
    ax = axes_or_new(ax, (NARROW, 3.0))
    for name, y in lines.items():
        if len(y) != len(x):
            raise ValueError(f"line {name!r} has {len(y)} points, x has {len(x)}")
        color = (colors or {}).get(name)
        ax.plot(
            array(x),
            array(y),
            color=COLORS.get(color, color),
            label=name or None,
            marker="o" if len(x) == 1 else None,
        )
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title or "")
    ax.set(xscale="log" if xlog else "linear", yscale="log" if ylog else "linear")
    ax.grid(axis="y")
    label_ends(ax)
    return ax.figure


def bands(
    x: ArrayLike,
    runs: Mapping[str, ArrayLike],
    *,
    xlabel: str,
    ylabel: str,
    title: str | None = None,
    colors: Mapping[str, str],
    dashed: Sequence[str] = (),
    ylog: bool = False,
    ax: Axes | None = None,
) -> Figure:
    """Draw the mean of several runs as a line, in a band from lowest to highest.

    The lines have labels and no names at their ends, for one legend of all panels.

    Args:
        x: the common abscissae, (n,).
        runs: dict of name to ordinates (runs, n).
        colors: dict of name to color.
        dashed: names whose lines are dashed, where two lie on each other.
        ylog: whether y is logarithmic; the mean is then the geometric one.
    """
    ax = axes_or_new(ax, (NARROW, 3.0))
    for name, y in runs.items():
        y, color = array(y), COLORS.get(colors[name], colors[name])
        mean = np.exp(np.log(y).mean(axis=0)) if ylog else y.mean(axis=0)
        dashes = "--" if name in dashed else "-"
        ax.fill_between(
            array(x), y.min(axis=0), y.max(axis=0), color=color, alpha=0.2, lw=0
        )
        ax.plot(array(x), mean, color=color, label=name, linestyle=dashes)
    ax.set(xlabel=xlabel, ylabel=ylabel, title=title or "")
    ax.set_yscale("log" if ylog else "linear")
    ax.grid(axis="y")
    return ax.figure


def training_curves(history: Sequence[Mapping[str, float]]) -> Figure:
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
    fig, axes = plt.subplots(1, 3, figsize=(WIDTH, 2.6))
    fig.set_layout_engine("constrained", w_pad=0.08)  # room for the names at line ends
    losses = {"training": get["train_loss"], "validation": get["val_loss"]}
    accuracy = {"": [100 * value for value in get["val_accuracy"]]}
    panels = [losses, accuracy, {"": get["lr"]}]
    titles = ["Loss", "Validation accuracy (%)", "Learning rate"]
    colors = {"training": "neutral", "validation": CYCLE[0], "": CYCLE[0]}
    for ax, lines, title in zip(axes, panels, titles, strict=True):
        curves(
            get["epoch"],
            lines,
            xlabel="epoch",
            ylabel="",
            title=title,
            colors=colors,
            ax=ax,
        )
        ax.xaxis.get_major_locator().set_params(integer=True)
    return fig


def label_ends(ax: Axes) -> None:
    """Write each line's name beside its end, moved apart where they would touch.

    A dot has the color; the name is ink, which is legible where a color is pale.
    """
    ends = []
    ax.autoscale_view()  # now, not when drawn: the ends' places depend on it
    to_axes = ax.transData - ax.transAxes
    for line in ax.lines:
        points = line.get_xydata()  # of floats, whatever was given
        points = points[np.isfinite(points[:, 1])]
        if len(points) and not line.get_label().startswith("_"):  # "_": nameless
            ends.append((np.clip(to_axes.transform(points[-1])[1], 0, 1), line))
    ends.sort(key=lambda end: end[0])
    height = ax.figure.get_figheight() * ax.get_position().height
    places = spread([y for y, _ in ends], 16 / 72 / height)
    right_of_it = ScaledTranslation(9 / 72, 0, ax.figure.dpi_scale_trans)
    for y, (_, line) in zip(places, ends, strict=True):
        ax.scatter(
            1,
            y,
            s=36,
            color=line.get_color(),
            transform=ax.transAxes + right_of_it,
            clip_on=False,
        )
        ax.annotate(
            line.get_label(),
            (1, y),
            (16, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            va="center",
            fontsize=10,
        )


def spread(values: Sequence[float], step: float) -> list[float]:
    """Return ascending values, moved as little as keeps them a step apart."""
    groups = []  # of neighbors that touch: (mean, how many)
    for i, value in enumerate(values):
        groups.append((value - i * step, 1))
        while len(groups) > 1 and groups[-2][0] > groups[-1][0]:
            (a, m), (b, n) = groups[-2:]
            groups[-2:] = [((a * m + b * n) / (m + n), m + n)]
    starts = [mean for mean, count in groups for _ in range(count)]
    return [start + i * step for i, start in enumerate(starts)]


def boxes(
    labels: Sequence[Sequence[str | None]],
    *,
    colors: str | Sequence[str] | Sequence[Sequence[str]] = "neutral",
    split_rows: int = 0,
    split_columns: int = 0,
    width: float = 1.0,
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
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
    gaps = [
        (len(labels) - 1) // split_rows if split_rows else 0,
        (columns - 1) // split_columns if split_columns else 0,
    ]
    extent = ((columns * width + gaps[1] * 0.5), len(labels) + gaps[0] * 0.5)
    ax = axes_or_new(ax, (0.45 * extent[0] + 0.2, 0.45 * extent[1] + 0.4))
    for i, row in enumerate(labels):
        for j, label in enumerate(row):
            if label is None:
                continue
            y = i + (i // split_rows * 0.5 if split_rows else 0)
            x = j * width + (j // split_columns * 0.5 if split_columns else 0)
            face = COLORS.get(colors[i][j], colors[i][j])
            ax.add_patch(
                FancyBboxPatch(
                    (x + 0.1, y + 0.1),
                    width - 0.2,
                    0.8,
                    fc=face,
                    ec="none",
                    boxstyle="round,pad=0.04",
                )
            )
            ax.text(
                x + width / 2,
                y + 0.52,
                label,
                ha="center",
                va="center",
                fontsize=10,
                color=readable(face),
            )
    right, bottom = max(extent[0], ax.get_xlim()[1]), max(extent[1], *ax.get_ylim())
    ax.set(xlim=(0, right), ylim=(bottom, 0), aspect="equal", title=title or "")
    ax.set_anchor("NW")
    ax.set_axis_off()
    return ax.figure
