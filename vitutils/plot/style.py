"""The book's look: palettes, color maps, a figure's settings, and its two themes."""

import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.colors import LinearSegmentedColormap, to_rgb

# The roles: the palette of Okabe and Ito (2008), which color-blind readers tell apart.
ROLES = {
    "query": "#0072B2",  # blue
    "key": "#E69F00",  # orange
    "value": "#009E73",  # green
    "class_token": "#CC79A7",  # pink
    "distill_token": "#D55E00",  # vermilion
    "teacher": "#333333",  # almost black
    "patch": "#56B4E9",  # sky blue
}
# For all that has no role, in this order; a different lightness for each.
CYCLE = ["#5B258A", "#9F6A03", "#117160", "#7B6AA8", "#762A03"]
COLORS = ROLES | {
    "neutral": "#8A9099",
    "ok": "#117160",
    "bad": "#B0123F",
    "attention": "#8957E5",  # violet: how much a token takes from another
}
PAPER, INK, EDGE, GRID = "#FFFFFF", "#24292F", "#C4C9D0", "#E6E9ED"
# Texts on a colored ground, which is the same in both themes.
ON_DARK, ON_LIGHT = "#FEFEFE", "#101214"
# What each color becomes on a dark page; any other stays.
DARK = {
    PAPER: "#121212",
    INK: "#E6E8EB",
    EDGE: "#59626D",
    GRID: "#2A3038",
    COLORS["teacher"]: "#D5D9DE",
    COLORS["bad"]: "#EC7089",
    **dict(
        zip(CYCLE, ("#CAC2FB", "#EAC232", "#6BE3BA", "#9A74CC", "#D36553"), strict=True)
    ),
}


FULL = 0.78  # the opacity at the end of a color map


def fading(name: str, *colors: str) -> LinearSegmentedColormap:
    """Return a color map from nothing to a color, or from one through nothing to one.

    "Nothing" is transparent: a small value is the page itself, in either theme. The
    ends are so far transparent that ink on them has 4.5:1, in either theme.
    """
    ends = [(*to_rgb(color), FULL) for color in colors]
    clear = [(*end[:3], 0.0) for end in ends]
    steps = list(zip((0, 1), (clear[0], ends[0]), strict=True))
    if len(ends) == 2:
        halves = (ends[0], clear[0], clear[1], ends[1])
        steps = list(zip((0, 0.5, 0.5, 1), halves, strict=True))
    return LinearSegmentedColormap.from_list(name, steps)


SEQUENTIAL = fading("book_sequential", COLORS["attention"])
DIVERGING = fading("book_diverging", "#8F7A00", COLORS["attention"])
WIDTH, NARROW = 7.2, 4.9  # inches: the two widths of a figure
FONTS = Path(__file__).parent / "fonts"


def use_style() -> None:
    """Set the book's look for all figures that follow: call once, with the imports.

    In a notebook, figures become SVG, as ``vitutils.plot.page.svg`` draws them.
    """
    for font in FONTS.glob("*.ttf"):
        font_manager.fontManager.addfont(font)
    mpl.rcParams.update(
        {
            "figure.dpi": 100,
            "savefig.dpi": 200,
            "figure.facecolor": PAPER,
            "figure.figsize": (WIDTH, 3.2),
            "figure.constrained_layout.use": True,
            "font.family": ["Source Sans 3", "DejaVu Sans"],
            "font.size": 11,
            "mathtext.fontset": "custom",
            "mathtext.default": "regular",  # the text's own: bold in a title
            **dict.fromkeys(
                (
                    f"mathtext.{kind}"
                    for kind in ("rm", "it", "bf", "bfit", "cal", "sf", "tt")
                ),
                "Source Sans 3",
            ),
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.labelsize": 11,
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "legend.fontsize": 10,
            "legend.frameon": False,
            "axes.titlelocation": "left",
            "text.color": INK,
            "axes.labelcolor": INK,
            "axes.titlecolor": INK,
            "axes.facecolor": "none",
            "axes.edgecolor": EDGE,
            "axes.linewidth": 0.8,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": False,
            "xtick.color": EDGE,
            "ytick.color": EDGE,
            "grid.color": GRID,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "lines.linewidth": 2,
            "axes.prop_cycle": mpl.cycler(color=CYCLE),
            "image.cmap": "book_sequential",
            "image.interpolation": "none",  # a pixel stays a square, at any size
            "svg.fonttype": "path",  # the font is in the picture
            "svg.hashsalt": "book",  # the same names, and so bytes, each time
        }
    )
    if "IPython" in sys.modules and sys.modules["IPython"].get_ipython():
        from vitutils.plot.page import show_as_svg

        show_as_svg()


for _cmap in (SEQUENTIAL, DIVERGING):
    mpl.colormaps.register(_cmap, force=True)
