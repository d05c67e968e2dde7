"""Figures in rows on a phone: nothing is lost, and axes keep their numbers."""

import base64
import io
import runpy

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from chapters import NAMES, NOTEBOOKS, ROOT
from PIL import Image

from vitutils import plot
from vitutils.plot.page import png, svg

layouts = runpy.run_path(str(ROOT / "book" / "_ext" / "folding.py"))["layouts"]
PHONE = 358 / 0.75  # what fits there, with texts of 10 pixels


def folded(fig):
    """Return the layouts of a figure, and its picture."""
    picture = Image.open(io.BytesIO(png(fig)))
    found = layouts(svg(fig), picture)
    plt.close(fig)
    return found, picture


def lost(rows, picture, width):
    """Return how many drawn pixels of a picture stand in none of the windows."""
    ink = np.asarray(picture.convert("L")) < 200
    scale = picture.width / width
    for row in rows:
        for left, top, wide, high in row:
            x, y = (round(max(place, 0) * scale) for place in (left, top))
            right, bottom = round((left + wide) * scale), round((top + high) * scale)
            ink[y : bottom + 1, x : right + 1] = False
    return int(ink.sum())


@pytest.fixture(autouse=True)
def style():
    with plt.rc_context():
        plot.use_style()
        yield


def panels(count, **options):
    fig, axes = plt.subplots(1, count, figsize=(plot.WIDTH, 2.4), **options)
    for i, ax in enumerate(axes):
        ax.plot([0, 1000], [0, 1 + i], label=f"line {i}")
        ax.set(title=f"Panel {i}", xlabel="step")
    axes[0].set_ylabel("height")
    return fig


@pytest.mark.parametrize("count", [2, 3, 4])
def test_panels_fit_a_phone_in_few_rows(count):
    found, picture = folded(panels(count))
    width, rows = next(each for each in found if each[0] <= PHONE)
    assert len(rows) == 2
    assert width == max(sum(window[2] for window in row) for row in rows)
    assert lost(rows, picture, 72 * plot.WIDTH * 4 / 3) == 0


def test_a_shared_axis_stands_in_each_row():
    found, _ = folded(panels(2, sharey=True))
    _, ((first,), (strip, second)) = found[0]
    assert strip[0] == first[0] and 20 < strip[2] < 80
    assert second[0] > first[0] + first[2] - 10
    _, rows = folded(panels(2))[0][0]
    assert [len(row) for row in rows] == [1, 1]


def test_a_legend_of_all_panels_has_a_row_of_its_own():
    fig = panels(3, sharey=True)
    lines = [ax.lines[0] for ax in fig.axes]
    fig.legend(handles=lines, loc="outside lower center", ncols=3)
    found, picture = folded(fig)
    _, rows = next(each for each in found if each[0] <= PHONE)
    assert [len(row) for row in rows] == [1, 2, 1] or len(rows) == 3
    assert rows[-1][0][1] > rows[0][0][1] + rows[0][0][3] - 5
    assert lost(rows, picture, 72 * plot.WIDTH * 4 / 3) == 0


def test_a_color_bar_stays_with_its_panel():
    fig, axes = plt.subplots(1, 2, figsize=(plot.WIDTH, 3))
    for ax in axes:
        image = ax.imshow([[0, 1], [1, 0]])
    plot.color_bar(image, axes[1])
    found, _ = folded(fig)
    assert [len(rows) for _, rows in found] == [2]


def test_pictures_with_names_are_read_row_by_row_and_others_by_column():
    images = torch.rand(8, 1, 8, 8)
    fig = plot.show_images(images, titles=list("abcdefgh"), columns=4)
    _, rows = folded(fig)[0][0]
    assert [row[0][0] for row in rows] == [rows[0][0][0], rows[1][0][0]] * 2
    assert rows[0][0][1] == rows[1][0][1] < rows[2][0][1] == rows[3][0][1]
    fig = plot.show_images(images, titles=[*"abcd", *[""] * 4], columns=4)
    _, rows = folded(fig)[0][0]
    assert len(rows) == 2 and rows[0][0][1] == rows[1][0][1]


def test_what_cannot_be_told_apart_is_left_whole():
    fig, ax = plt.subplots(figsize=(plot.WIDTH, 2))
    ax.plot([0, 1])
    assert folded(fig)[0] == []


@pytest.mark.parametrize("name", NAMES)
def test_no_figure_of_the_book_loses_anything(name):
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if {"image/svg+xml", "image/png"} <= data.keys():
                raw = base64.b64decode(data["image/png"])
                picture = Image.open(io.BytesIO(raw))
                width = picture.width / 100 * 96
                for _, rows in layouts(data["image/svg+xml"], picture):
                    assert lost(rows, picture, width) == 0, cell.id
