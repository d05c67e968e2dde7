"""The model that the first page writes out is the package's."""

import matplotlib
import nbformat
import torch
from chapters import NOTEBOOKS


def test_with_the_same_weights_it_gives_the_same_logits():
    notebook = nbformat.read(NOTEBOOKS / "00_on_one_page.ipynb", as_version=4)
    cells = {cell.id: cell.source for cell in notebook.cells}
    page = {"images": torch.rand(100, 1, 28, 28)}
    with matplotlib.rc_context():
        for name in ("imports", "attention", "block", "vit", "check"):
            exec(cells[name], page)
    assert isinstance(page["model"], page["ViT"])
    assert page["difference"].abs().max() < 1e-5
    assert page["difference"].shape == (100, 10)
