"""The pictures of the book: one style, one color for each thing.

Every function returns its figure; a cell ends with ``plt.show()``. Where they
occur, ``ax`` is the axes to draw on (a new figure by default), ``columns`` the
panels in a row, ``mean`` and ``std`` what an image was normalized with (one number
per channel), and a color may be a key of ``COLORS``. Arrays may be tensors, NumPy
arrays or nested lists.
"""

import matplotlib.pyplot as plt

from vitutils.plot.attention import (
    attention_distance,
    attention_heads,
    attention_on_images,
)
from vitutils.plot.charts import boxes, curves, training_curves
from vitutils.plot.matrices import confusion, heatmap, position_similarity
from vitutils.plot.pictures import filters, patches, show_images
from vitutils.plot.style import (
    COLORS,
    CYCLE,
    DIVERGING,
    INK,
    SEQUENTIAL,
    WIDTH,
    use_style,
)

__all__ = [
    "COLORS",
    "CYCLE",
    "DIVERGING",
    "INK",
    "SEQUENTIAL",
    "WIDTH",
    "attention_distance",
    "attention_heads",
    "attention_on_images",
    "boxes",
    "confusion",
    "curves",
    "filters",
    "heatmap",
    "patches",
    "plt",
    "position_similarity",
    "show_images",
    "training_curves",
    "use_style",
]
