"""The pictures of the book: one style, one color for each thing.

Every function returns its figure; a cell ends with ``plt.show()``. After
``use_style()`` a notebook shows figures as SVG, those drawn by other means too: in
``COLORS`` and ``CYCLE``, ``WIDTH`` or ``NARROW`` inches wide, in ``INK`` on ``PAPER``
(``readable`` chooses the ink on a color).

Where they occur, ``ax`` is the axes to draw on (a new figure by default), ``columns``
the panels in a row, ``mean`` and ``std`` what an image was normalized with (one number
per channel), and a color may be a key of ``COLORS``. Arrays may be tensors, NumPy
arrays or nested lists.
"""

import matplotlib.pyplot as plt

from vitutils.plot.attention import attention_heads, attention_on_images
from vitutils.plot.charts import bands, boxes, curves, label_ends, training_curves
from vitutils.plot.common import color_bar, readable
from vitutils.plot.diagrams import multi_head, paths, product
from vitutils.plot.matrices import confusion, heatmap, position_similarity
from vitutils.plot.model import image_to_logits
from vitutils.plot.pictures import patches, show_images
from vitutils.plot.style import (
    COLORS,
    CYCLE,
    DIVERGING,
    INK,
    NARROW,
    ON_DARK,
    ON_LIGHT,
    PAPER,
    SEQUENTIAL,
    WIDTH,
    use_style,
)

__all__ = [
    "COLORS",
    "CYCLE",
    "DIVERGING",
    "INK",
    "NARROW",
    "ON_DARK",
    "ON_LIGHT",
    "PAPER",
    "SEQUENTIAL",
    "WIDTH",
    "attention_heads",
    "attention_on_images",
    "bands",
    "boxes",
    "color_bar",
    "confusion",
    "curves",
    "heatmap",
    "image_to_logits",
    "label_ends",
    "multi_head",
    "patches",
    "paths",
    "plt",
    "position_similarity",
    "product",
    "readable",
    "show_images",
    "training_curves",
    "use_style",
]
