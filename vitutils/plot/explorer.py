"""The attention explorer: point at a patch, and see what it attends to.

It is a picture in the page that needs no kernel and no network. To *point* is to
move the mouse over a patch or a first token, to tap it, or to go there with Tab and
the arrow keys. Two rules hold for all of these:

- What you point at is the query. Dots show how much it gives to each patch.
- Click what you point at (tap it again, press Enter) to pin it: it stays the query,
  and pointing reads the weights that it gives. Do so again, or press Escape, and
  the query is what you point at again.

Where scripts do not run (a notebook that is not trusted, GitHub) there is a static
picture instead: what the class token attends to in the last layer.
"""

import base64
import hashlib
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import to_rgb
from numpy.typing import ArrayLike
from PIL import Image

from vitutils.plot import COLORS
from vitutils.plot.common import pixels

HERE = Path(__file__).parent
FIRST_TOKENS = ("class token", "distillation token")
DOT, RIM = 0.8, 0.82  # the largest dot, in sides of a patch; how much of it is violet
PANEL, GAP = 256, 12  # pixels: a panel of the static picture, at most; between the two

# data-lm-suppress-shortcuts: in JupyterLab the arrow keys would move between cells.
PAGE = """<style>
{css}</style>
<div class="attention-explorer" data-explorer="{id}" data-lm-suppress-shortcuts="true" \
style="{style}">
{title}<img alt="{alt}" width="{width}" style="max-width: 100%; height: auto; \
background: none; padding: 0; filter: none" src="data:image/png;base64,{png}">
<p>The image, and what its class token attends to in layer {layers}, the last (mean of \
the heads): a patch's weight is the area of its dot.</p>
</div>
<script>
({js})({data});
</script>
"""


class Explorer:
    """An attention explorer, which a notebook displays.

    Attributes:
        html: all of it, for a page of one's own.
    """

    def __init__(self, html: str, summary: str):
        self.html, self.summary = html, summary

    def __repr__(self) -> str:
        return self.summary

    def _repr_mimebundle_(self, **_):
        return {"text/plain": repr(self), "text/html": self.html}


def explore(
    image: ArrayLike,
    weights: Sequence[ArrayLike],
    grid: tuple[int, int],
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    title: str | None = None,
    alt: str | None = None,
) -> Explorer:
    """Make a picture in which a reader explores what each token attends to.

    The page holds square roots of the weights in 8 bits: 4/3 bytes a weight, 96 kB
    for 4 layers of 4 heads on 65 tokens. Where m is the largest weight of a query (in
    one layer and head), a weight w comes out wrong by at most ``sqrt(w m) / 255 +
    m / 510**2``, which is less than m / 250; m itself is right. Means over heads are
    means of these. Weights are shown rounded to 0.1 %, below 1 % to 0.01 %.

    Args:
        image: (1 or 3, H, W), uint8, or floats in [0, 1], or normalized floats
            together with their ``mean`` and ``std``.
        weights: one (h, N, N) or (1, h, N, N) a layer, queries before keys, as
            ``vit(images, need_weights=True)`` returns them for a batch of one. The N
            tokens are the class token, in a DeiT the distillation token, then the
            patches, row by row.
        grid: (rows, columns) of patches.
        mean, std: what the image was normalized with, one number per channel.
        title: a line above the picture.
        alt: what a reader who cannot see the picture should be told.

    Returns:
        An ``Explorer``: the same arguments give the same bytes.

    Raises:
        ValueError: wrong shapes, weights that are negative or not finite, or an
            image that the grid does not divide.
    """
    picture = pixels(torch.as_tensor(image)[None], mean, std)[0]  # (H, W, 3)
    stack = stacked(weights)  # (L, h, N, N)
    layers, heads, N = stack.shape[:3]
    rows, columns = check_grid(grid, N, picture.shape)
    tokens = FIRST_TOKENS[: N - rows * columns]
    by_class_token = stack[-1, :, 0, len(tokens) :].mean(axis=0).reshape(rows, columns)
    png, width = static_picture(picture, by_class_token)
    look = {
        name.replace("_", "-"): COLORS[name]
        for name in ("query", "attention", "class_token", "distill_token")
    }
    ratio = picture.shape[1] / picture.shape[0]
    dot = DOT * min(1 / columns, 1 / rows / ratio)  # in widths of the picture
    look |= {"columns": columns, "ratio": f"{ratio:.4f}", "dot": f"{dot:.4f}"}
    alt = alt or (
        f"An image in {rows} x {columns} patches, and what its class token attends "
        f"to in layer {layers}, the last"
    )
    shown = {
        "style": "; ".join(f"--{name}: {value}" for name, value in look.items()),
        "title": f"<strong>{html.escape(title)}</strong>\n" if title else "",
        "alt": html.escape(alt),
        "png": base64.b64encode(png).decode(),
        "width": width,
        "layers": layers,
    }
    data = {
        "grid": [rows, columns],
        "tokens": tokens,
        "layers": layers,
        "heads": heads,
        "weights": base64.b64encode(quantized(stack)).decode(),
    }
    # The script finds its explorer by this name: equal ones share it, and may.
    name = hashlib.sha256(json.dumps([shown, data]).encode()).hexdigest()[:12]
    page = PAGE.format(
        id=name,
        css=(HERE / "explorer.css").read_text(encoding="utf-8"),
        js=(HERE / "explorer.js").read_text(encoding="utf-8").rstrip(";\n"),
        data=json.dumps({"id": name, **data}),
        **shown,
    )
    sizes = f"{layers} layers, {heads} heads, {len(tokens)} + {rows * columns} tokens"
    return Explorer(page, f"Attention explorer: {sizes}")


def stacked(weights: Sequence[ArrayLike]) -> np.ndarray:
    """Return the weights of all layers, (L, h, N, N) float32, or say what is wrong."""
    maps = [torch.as_tensor(layer).detach().cpu().float() for layer in weights]
    if not maps:
        raise ValueError("weights is empty: call the model with need_weights=True")
    shapes = [tuple(layer.shape) for layer in maps]
    maps = [w[0] if w.ndim == 4 and len(w) == 1 else w for w in maps]
    square = all(w.ndim == 3 and w.shape[1] == w.shape[2] for w in maps)
    if not square or 0 in maps[0].shape or any(w.shape != maps[0].shape for w in maps):
        raise ValueError(
            f"weights have shapes {shapes}, expected the same (h, N, N) or "
            "(1, h, N, N) for every layer"
        )
    for i, layer in enumerate(maps, start=1):
        if not layer.isfinite().all() or layer.min() < 0:
            raise ValueError(
                f"weights of layer {i} run from {layer.min():.3g} to "
                f"{layer.max():.3g}: they must be finite and not negative"
            )
    return torch.stack(maps).numpy()


def check_grid(
    grid: tuple[int, int], N: int, shape: tuple[int, ...]
) -> tuple[int, int]:
    """Return (rows, columns) if they fit N tokens and an image (H, W, 3)."""
    rows, columns = grid
    if min(rows, columns) < 1 or N - rows * columns not in (1, 2):
        raise ValueError(
            f"{N} tokens do not fit a grid of {rows} x {columns}: expected "
            f"{rows * columns + 1} (patches and class token) or {rows * columns + 2} "
            "(a distillation token too)"
        )
    if shape[0] % rows or shape[1] % columns:
        raise ValueError(
            f"image of {shape[0]}x{shape[1]} pixels is not divisible by a grid of "
            f"{rows} x {columns}"
        )
    return rows, columns


def quantized(weights: np.ndarray) -> bytes:
    """Return (L, h, N, N) weights as bytes: each query's largest, then the levels.

    The largest are little-endian float32, (L, h, N). A level is a byte, 255 sqrt(w /
    largest): in steps of the root, small weights keep more of their digits.
    """
    largest = weights.max(axis=-1, keepdims=True)
    share = weights / np.where(largest > 0, largest, 1)
    levels = np.rint(255 * np.sqrt(share)).astype(np.uint8)
    return largest.astype("<f4").tobytes() + levels.tobytes()


def static_picture(picture: np.ndarray, attention: np.ndarray) -> tuple[bytes, int]:
    """Draw an image and, beside it, what is attended to: (PNG bytes, width)."""
    height, width = picture.shape[:2]
    scale = max(1, PANEL // max(height, width))  # whole: every pixel stays a square
    image = picture.repeat(scale, axis=0).repeat(scale, axis=1)
    panels = np.concatenate([image, dotted(image, attention)], axis=1)
    colors = Image.fromarray(np.rint(255 * panels).astype(np.uint8))
    colors = colors.quantize(255, kmeans=3)  # a quarter of the bytes
    palette = colors.getpalette()
    clear = len(palette) // 3  # one more color: none
    left, right = np.split(np.asarray(colors), 2, axis=1)
    gap = np.full((len(left), GAP), clear, dtype=np.uint8)
    drawn = Image.fromarray(np.concatenate([left, gap, right], axis=1))
    drawn.putpalette([*palette, 0, 0, 0])
    file = io.BytesIO()
    drawn.save(file, "PNG", optimize=True, transparency=clear)
    return file.getvalue(), drawn.width


def dotted(image: np.ndarray, attention: np.ndarray) -> np.ndarray:
    """Put a dot on each patch, the weight its area, as explorer.css does."""
    cell = np.array(image.shape[:2]) // attention.shape  # (height, width) in pixels
    y, x = np.indices(image.shape[:2]) + 0.5
    distance = np.hypot(y % cell[0] - cell[0] / 2, x % cell[1] - cell[1] / 2)
    share = attention / max(attention.max(), 1e-12)
    radius = DOT / 2 * cell.min() * np.kron(np.sqrt(share), np.ones(cell))
    violet = to_rgb(COLORS["attention"])
    for color, edge in (((1, 1, 1), radius), (violet, RIM * radius)):
        cover = np.clip(edge - distance + 0.5, 0, np.minimum(1, edge))[..., None]
        image = cover * np.array(color) + (1 - cover) * image
    return image
