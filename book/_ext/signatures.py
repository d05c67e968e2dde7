"""Sphinx extension: signatures of the package as a reader would write them."""

import re

from numpy.typing import ArrayLike
from sphinx.util.typing import stringify_annotation


def shorten(app, what, name, obj, options, signature, returns):
    """Name an alias of types and a default function; leave out what says nothing."""
    if signature and signature.startswith("(*args"):  # nn.Module's constructor
        return "", returns
    if signature:
        long = stringify_annotation(ArrayLike, "smart")
        signature = signature.replace(long, "ArrayLike")
        signature = re.sub(r"<function (\w+)>", r"\1", signature)
    return signature, returns


def setup(app):
    """Connect to autodoc."""
    app.connect("autodoc-process-signature", shorten)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
