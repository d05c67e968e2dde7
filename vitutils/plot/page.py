"""A figure on a page: SVG that is sharp at any size and follows the page's theme."""

import base64
import hashlib
import io
import re
import sys

from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from PIL import Image

from vitutils.plot.style import DARK, EDGE, NARROW, PAPER, WIDTH

NUMBER = re.compile(r"-?\d+\.\d{3,}")
HASHED = re.compile(r' id="([a-z]+[0-9a-f]{10})"')
EMBEDDED = re.compile(r"data:image/png;base64,\s*([\w+/=]+)")
CLIP = re.compile(r'<clipPath id="([^"]+)">\s*<rect ([^>]*)/>')
# A picture in its axes, and what plot.patches draws over it: bars in the page's color.
PICTURE = re.compile(
    r'<g clip-path="url\(#([^)]+)\)">\s*<image [^>]*base64,\s*([\w+/=]+)[^>]*>\s*</g>'
    r'((?:\s*<g id="patch_\d+">\s*<path d="[^"]*" clip-path="url\(#\1\)" '
    rf'style="fill: {PAPER.lower()}"/>\s*</g>)*)'
)


def svg(fig: Figure) -> str:
    """Draw a figure in one of the book's two widths, as SVG with both themes' colors.

    Where the page, or by default the reader's system, is dark, a picture's style sheet
    changes the colors of ``style.DARK``. Its ground is the page's, and pictures in it
    have a fine edge, so that black and white ones end somewhere in either theme. Its
    texts are outlines: it looks the same on every machine. The same figure gives the
    same bytes, and so do figures whose numbers differ by less than can be seen.

    Args:
        fig: any figure; what it shows is centered.
    """
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    file, box = io.StringIO(), frame(fig)
    fig.savefig(file, format="svg", bbox_inches=box, metadata=nothing, dpi=144)
    text = NUMBER.sub(lambda found: rounded(float(found[0])), file.getvalue())
    text = edged(named_anew(EMBEDDED.sub(lightened, text)))
    return text.replace("</style>", f"{dark_style(text)}</style>", 1)


def png(fig: Figure) -> bytes:
    """Draw a figure for those who show no SVG: on white, in 255 colors."""
    file, light = io.BytesIO(), io.BytesIO()
    fig.savefig(file, format="png", bbox_inches=frame(fig), dpi=100)
    Image.open(file).convert("RGB").quantize(255, kmeans=1).save(
        light, "png", optimize=True
    )
    return light.getvalue()


def frame(fig: Figure) -> Bbox:
    """Return what is to be drawn of a figure, in inches: all of it, and no more."""
    fig.draw_without_rendering()
    fig.set_layout_engine("none")  # it would move things a little at each drawing
    tight = fig.get_tightbbox()
    width = max(NARROW if tight.width <= NARROW else WIDTH, tight.width)
    left, pad = (tight.x0 + tight.x1 - width) / 2, 0.05
    return Bbox.from_bounds(left, tight.y0 - pad, width, tight.height + 2 * pad)


def rounded(value: float) -> str:
    """Return a number as short as a hundredth of a point allows."""
    text = f"{value:.2f}" if abs(value) >= 1 else f"{value:.4f}"
    return text.rstrip("0").rstrip(".") if value else "0"


def named_anew(text: str) -> str:
    """Name the parts of an SVG by what is seen of it and by their order.

    Matplotlib names them by all the digits of their numbers, of which the last differ
    from one processor to another. Two figures on a page share no name.
    """
    names = {name: f"part{i}" for i, name in enumerate(HASHED.findall(text))}
    if not names:
        return text
    found = re.compile("|".join(names))
    seen = found.sub(lambda name: names[name[0]], text)
    digest = hashlib.sha256(seen.encode()).hexdigest()[:8]
    return found.sub(lambda name: f"{names[name[0]]}-{digest}", text)


def lightened(found: re.Match) -> str:
    """Return an embedded picture as JPEG where it is a photo: a tenth of the bytes."""
    picture = decoded(found[1])
    if min(picture.size) < 100 or clear(picture):
        return found[0]
    file = io.BytesIO()
    picture.convert("RGB").save(file, "jpeg", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def decoded(data: str) -> Image.Image:
    """Return an embedded picture."""
    return Image.open(io.BytesIO(base64.b64decode(data)))


def clear(picture: Image.Image) -> bool:
    """Whether the page can be seen through some pixel, as in a heat map."""
    return picture.convert("RGBA").getchannel("A").getextrema()[0] < 255


def edged(text: str) -> str:
    """Give each opaque picture of an SVG an edge, and each piece that bars cut off."""
    boxes = {
        name: [float(value) for value in re.findall(r'="([^"]+)"', sizes)]
        for name, sizes in CLIP.findall(text)
    }

    def drawn(found: re.Match) -> str:
        name, data, bars = found.groups()
        if name not in boxes or clear(decoded(data)):
            return found[0]
        x, y, width, height = boxes[name]
        xs, ys = [x, x + width], [y, y + height]
        for bar in re.findall(r' d="([^"]*)"', bars):
            numbers = [float(number) for number in re.findall(r"-?[\d.]+", bar)]
            across, down = sorted(numbers[::2]), sorted(numbers[1::2])
            if across[-1] - across[0] < down[-1] - down[0]:
                xs += across[:: len(across) - 1]
            else:
                ys += down[:: len(down) - 1]
        xs, ys = sorted(xs), sorted(ys)
        pieces = [
            "M{} {}h{}v{}h-{}z".format(
                *map(rounded, (left, top, right - left, bottom - top, right - left))
            )
            for top, bottom in zip(ys[::2], ys[1::2], strict=True)
            for left, right in zip(xs[::2], xs[1::2], strict=True)
        ]
        style = f"fill: none; stroke: {EDGE.lower()}; stroke-width: 0.8"
        return f'{found[0]}\n<path d="{"".join(pieces)}" style="{style}"/>'

    return PICTURE.sub(drawn, text)


def dark_style(text: str) -> str:
    """Return the style sheet that gives an SVG its dark colors, of those in it."""
    rules = [
        f"[{how}]{{{kind}:{dark} !important}}"
        for light, dark in DARK.items()
        for kind in ("fill", "stroke")
        # The second is the ground of what is hatched.
        for how, said in (
            (f'style*="{kind}: {light.lower()}"', f"{kind}: {light.lower()}"),
            (f'{kind}="{light.lower()}"', f' {kind}="{light.lower()}"'),
        )
        if said in text
    ]
    return f"@media (prefers-color-scheme: dark) {{{' '.join(rules)}}}"


def show_as_svg() -> None:
    """Let this notebook show its figures as SVG, or as PNG where that is not trusted.

    JupyterLab shows no SVG of a notebook that one has not run oneself.
    """
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats()  # none of its own
    formatters = sys.modules["IPython"].get_ipython().display_formatter.formatters
    formatters["image/svg+xml"].for_type(Figure, svg)
    formatters["image/png"].for_type(Figure, png)
