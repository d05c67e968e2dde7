"""The book's look: its palette, its color maps, and the settings of a figure."""

import sys

import matplotlib as mpl
from matplotlib.colors import LinearSegmentedColormap

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
    "book_diverging",
    ["#00375C", "#0072B2", "#A9D3EA", "#FFFFFF", "#F6BE96", "#D55E00", "#6B2C00"],
)
INK = "#24292F"
WIDTH = 7.2  # inches: a text column of 720 px at 100 px an inch


def use_style() -> None:
    """Set the book's look for all figures that follow: call once, with the imports.

    In a notebook, pictures get two pixels a point, sharp on any screen.
    """
    mpl.rcParams.update(
        {
            "figure.dpi": 100,
            "savefig.dpi": 200,
            "figure.facecolor": "white",
            "figure.figsize": (WIDTH, 3.2),
            "figure.constrained_layout.use": True,
            "font.family": "DejaVu Sans",
            "font.size": 10,
            "axes.titlesize": 11,
            "axes.labelsize": 10,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "legend.fontsize": 9,
            "legend.frameon": False,
            "axes.titlelocation": "left",
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.titlecolor": INK,
            "axes.edgecolor": "#C4C9D0",
            "axes.linewidth": 0.8,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": False,
            "xtick.color": "#C4C9D0",
            "ytick.color": "#C4C9D0",
            "grid.color": "#E6E9ED",
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "lines.linewidth": 2,
            "axes.prop_cycle": mpl.cycler(color=CYCLE),
            "image.cmap": "book_sequential",
            "image.interpolation": "nearest",
        }
    )
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython():
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("retina")


for _cmap in (SEQUENTIAL, DIVERGING):
    mpl.colormaps.register(_cmap, force=True)
