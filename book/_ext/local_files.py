"""Sphinx extension: the rendered book fetches nothing from other sites."""

from importlib.util import find_spec
from pathlib import Path

from sphinx.util.fileutil import copy_asset

# Of MathJax's 24 MB, what typesetting TeX in a page takes: 1.9 MB.
MATHJAX = ("tex-chtml.js", "input/tex/extensions", "output/chtml/fonts")


def copy_mathjax(app, exception):
    """Copy MathJax from the sphinx-mathjax-offline package beside the built pages."""
    if exception is None:
        package = Path(find_spec("sphinx-mathjax-offline").origin).parent
        for part in MATHJAX:
            source = package / "static" / "mathjax" / part
            target = Path(app.outdir) / "_static" / "mathjax" / part
            copy_asset(source, target if source.is_dir() else target.parent)


def setup(app):
    """Use the copied MathJax in every page."""
    app.config.mathjax_path = "mathjax/tex-chtml.js"
    app.connect("build-finished", copy_mathjax)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
