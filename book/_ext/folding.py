"""Sphinx extension: the panels of a wide figure stand in rows on a phone (book.js).

There the page shows the picture again in pieces, one row below the other: each is a
window on it. Where it can be cut is measured here: between axes, where nothing is
drawn. A row whose first panel has its numbers at the figure's first panel alone begins
with that strip, and what runs across the panels, as a legend does, has rows of its own.
Panels one below the other stay so, but pictures with names are read row by row.
"""

import html
import itertools
import json
import re
from pathlib import Path

import numpy as np
from docutils import nodes
from PIL import Image

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
CLIP = re.compile(r'<clipPath id="([^"]+)">\s*<rect ([^>]*)/>')
SHOWN = re.compile(r'<g clip-path="url\(#([^)]+)\)">\s*<image ')
AXES = re.compile(  # by their ground; axes that are off have none
    r'<g id="axes_\d+">\s*<g id="patch_\d+">\s*<path d="([^"]*)"\s*style="fill: none"/>'
)
WIDTH = re.compile(r'width="([\d.]+)pt"')
IMAGE = re.compile(r'<img (?=[^>]*drawn-figure wide)([^>]*?src="[^"]*/([^"/]+)")')
# In CSS pixels of the figure at its own size:
GAP, PART = 3, 14  # between panels, and between parts of a drawing, at least
ENTRY = 15  # between entries of a legend
STRIP = 14  # of numbers and a name at the left of axes, at least
BAR = 45  # at most the width of a color bar, which stays with its panel
FLAT = 20  # at most the height of one below the panels
EDGE = 3  # around a piece
MOST = 6  # rows of panels


def pair(app, doctree):
    """Keep with a figure its copy in pixels, which a notebook has for some readers."""
    for bundle in doctree.findall(nodes.container):
        if bundle.get("nb_element") == "mime_bundle":
            kinds = {
                Path(image["uri"]).suffix: image
                for image in bundle.findall(nodes.image)
            }
            if kinds.keys() >= {".svg", ".png"}:
                kinds[".svg"]["pixels"] = kinds[".png"]["uri"]


def give_layouts(app, page, template, context, doctree):
    """Write into a page how each of its wide figures can stand in rows."""
    files = {
        Path(image["uri"]).name: Path(app.srcdir, image["pixels"])
        for image in (doctree.findall(nodes.image) if doctree else ())
        if image.get("pixels")
    }

    def told(found):
        file = files.get(found[2])
        if not file:
            return found[0]
        svg = file.with_name(found[2]).read_text(encoding="utf-8")
        known = html.escape(json.dumps(layouts(svg, Image.open(file))))
        return f'<img data-rows="{known}" {found[1]}'

    if files:
        context["body"] = IMAGE.sub(told, context["body"])


def layouts(svg, picture):
    """Return [width, rows] for each number of rows, from few and wide ones on.

    A row is a list of windows [left, top, width, height], side by side.
    """
    scale = picture.width / (float(WIDTH.search(svg)[1]) * 4 / 3)
    boxes = np.round(axes_of(svg) * scale).astype(int)
    flat = (
        boxes[:, 3] - boxes[:, 1] < FLAT * scale
    )  # color bars below, which run across
    boxes = boxes[~flat]
    ink = np.asarray(picture.convert("L")) < 250
    gap = GAP
    if not len(boxes):  # a drawing: parts between which nothing leads
        parts = entries(ink, 0, PART * scale)
        boxes = np.array([(left, 0, right - 1, len(ink)) for left, right in parts])
        gap = PART
    if len(boxes) < 2:
        return []
    for left, top, right, bottom in boxes:
        ink[max(top, 0) : bottom + 1, max(left, 0) : right + 1] = True
    beside = np.zeros(ink.shape[1], bool)
    for left, _, right, _ in boxes:
        beside[max(left, 0) : right + 1] = True
    groups = runs(beside)
    gaps = [(a, b) for (_, a), (b, _) in itertools.pairwise(groups) if b - a >= 1]

    # Lines above or below all axes that close a gap are the head and the foot.
    top, bottom = boxes[:, 1].min(), boxes[:, 3].max()
    lines = runs(ink.any(axis=1))
    inner = [line for line in lines if line[0] <= bottom and line[1] > top]
    inner = ink[inner[0][0] : inner[-1][1]].any(axis=0)
    across = [
        line
        for line in lines
        if (line[1] <= top or line[0] > bottom)
        and any(
            widest_blank((ink[slice(*line)].any(axis=0) | inner)[None], place)[0]
            < gap * scale
            <= widest_blank(inner[None], place)[0]
            for place in gaps
        )
    ]
    head = max((line[1] for line in across if line[1] <= top), default=0)
    foot = min((line[0] for line in across if line[0] > bottom), default=len(ink))
    core = ink[head:foot]
    seen = np.flatnonzero(core.any(axis=0))
    blanks = [widest_blank(core, place) for place in gaps]
    cuts = [blank[1:] for blank in blanks if blank[0] >= gap * scale]
    starts = [seen[0], *(end for _, end in cuts)]
    ends = [*(start for start, _ in cuts), seen[-1] + 1]

    panels = []  # [left, right, left of its axes]
    for start, end in zip(starts, ends, strict=True):
        own = [box for box in boxes if start - 2 <= box[0] <= end]
        if panels and all(box[2] - box[0] < BAR * scale for box in own):
            panels[-1][1] = end
        else:
            panels.append([start, end, min(box[0] for box in own)])

    pictures = len(boxes) == len(SHOWN.findall(svg))
    bands = named_rows(core, boxes, head) if pictures else [(head, foot)]

    def windows(pieces, top, bottom):
        y, high = top / scale, (bottom - top) / scale
        xs = [(left / scale, (right - left) / scale) for left, right in pieces]
        sizes = [(x - EDGE, y, wide + 2 * EDGE, high) for x, wide in xs]
        return [[round(float(size), 1) for size in each] for each in sizes]

    def across_in(place, width):
        return entries(ink[slice(*place)], width * scale, ENTRY * scale)

    # Up to the axes, whose title begins there.
    strip = (panels[0][0], panels[0][2] - 2 * EDGE * scale) if panels else (0, 0)
    shared = strip[1] - strip[0] > STRIP * scale
    found = []
    for count in range(2, min(len(panels), MOST) + 1):
        ways = []
        for at in itertools.combinations(range(1, len(panels)), count - 1):
            rows = []
            for i, j in itertools.pairwise((0, *at, len(panels))):
                bare = panels[i][2] - panels[i][0] < STRIP * scale
                again = [strip] if i and shared and bare else []
                pieces = [*again, (panels[i][0], panels[j - 1][1])]
                rows.append(pieces)
            wide = max(width_of(windows(pieces, head, foot)) for pieces in rows)
            ways.append((wide, rows))
        width, rows = min(ways)
        rows = [windows(pieces, *band) for band in bands for pieces in rows]
        around = [
            [windows([piece], *place) for piece in across_in(place, width)]
            for place in ((0, head), (foot, len(ink)))
        ]
        rows = [*around[0], *rows, *around[1]]
        found.append([max(map(width_of, rows)), rows])
    return found


def axes_of(svg):
    """Return the (left, top, right, bottom) of all axes in an SVG, in CSS pixels."""
    boxes = []
    clips = dict(CLIP.findall(svg))
    for name in SHOWN.findall(svg):
        sides = dict(re.findall(r'(x|y|width|height)="([^"]+)"', clips[name]))
        left, top = float(sides["x"]), float(sides["y"])
        boxes.append(
            (left, top, left + float(sides["width"]), top + float(sides["height"]))
        )
    for path in AXES.findall(svg):
        values = [float(value) for value in NUMBER.findall(path)]
        xs, ys = values[::2], values[1::2]
        boxes.append((min(xs), min(ys), max(xs), max(ys)))
    return np.array(sorted(boxes)).reshape(-1, 4) * 4 / 3


def named_rows(ink, boxes, head):
    """Return (top, bottom) of each row of pictures, or of all if one has no names."""
    cuts = [0]
    tops = sorted({*boxes[:, 1].tolist()})
    for upper, lower in itertools.pairwise(tops):
        low = boxes[boxes[:, 1] == upper, 3].max() + 1
        blank = runs(~ink[low - head : lower - head].any(axis=1))
        named = blank and blank[0][1] < lower - low - 4  # more than an edge
        if not named or any(upper < box[1] < lower for box in boxes):
            return [(head, head + len(ink))]
        cuts.append(low - head + blank[0][1])
    return [(head + a, head + b) for a, b in itertools.pairwise([*cuts, len(ink)])]


def runs(taken):
    """Return [start, end) of each run of true values."""
    steps = np.diff(np.concatenate([[0], np.asarray(taken, int), [0]]))
    starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    return list(zip(starts.tolist(), ends.tolist(), strict=True))


def widest_blank(ink, gap):
    """Return (width, start, end) of the widest run of blank columns in a gap."""
    start, end = gap
    blank = runs(~ink[:, start:end].any(axis=0))
    return max(((b - a, start + a, start + b) for a, b in blank), default=(0, 0, 0))


def entries(ink, width, gap):
    """Return what stands side by side, a gap apart; what has a common width, as one."""
    pieces = []
    for left, right in runs(ink.any(axis=0)):
        near = pieces and left - pieces[-1][1] < gap
        if pieces and (near or right - pieces[-1][0] <= width):
            pieces[-1][1] = right
        else:
            pieces.append([left, right])
    return pieces


def width_of(row):
    """Return how wide a row of windows is."""
    return round(sum(window[2] for window in row), 1)


def setup(app):
    """Connect to the build."""
    app.connect("doctree-read", pair)
    app.connect("html-page-context", give_layouts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
