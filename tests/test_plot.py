"""The pictures: what is drawn is what was given, in the book's colors."""

import io
import re
from itertools import combinations, pairwise

import matplotlib
import numpy as np
import pytest
import torch
from colorspacious import cspace_convert
from matplotlib.colors import to_hex, to_rgb
from PIL import Image

from vitutils import plot
from vitutils.plot.charts import spread
from vitutils.plot.page import png, svg
from vitutils.plot.style import DARK, EDGE, FULL, ROLES

matplotlib.use("agg")
plt = plot.plt


@pytest.fixture(autouse=True)
def style():
    """The book's look, set back afterwards, and no figure left open."""
    with matplotlib.rc_context():
        plot.use_style()
        yield
    plt.close("all")


def texts(fig):
    """All texts on a figure, titles and tick labels too."""
    fig.draw_without_rendering()
    return {t.get_text() for t in fig.findobj(matplotlib.text.Text)} - {""}


def shown(fig, index=0):
    """The array behind an image of the figure's first axes that has one."""
    images = [image for ax in fig.axes for image in ax.images]
    return np.asarray(images[index].get_array())


def test_style_is_the_books_own():
    defaults = matplotlib.rcParamsDefault
    assert plt.rcParams["figure.constrained_layout.use"]
    assert plt.rcParams["axes.prop_cycle"] != defaults["axes.prop_cycle"]
    assert plt.rcParams["image.cmap"] == "book_sequential"
    assert plt.figure().get_facecolor() == (1, 1, 1, 1)


# ---- colors, in both themes and for everybody ----

THEMES = {"light": lambda color: color, "dark": lambda color: DARK.get(color, color)}
DEFICIENCIES = [None, "deuteranomaly", "protanomaly", "tritanomaly"]


def contrast(a, b):
    """The contrast of two colors after WCAG 2: from 1 to 21."""
    linear = np.array([to_rgb(a), to_rgb(b)])
    linear = np.where(
        linear <= 0.04045, linear / 12.92, ((linear + 0.055) / 1.055) ** 2.4
    )
    low, high = np.sort(linear @ [0.2126, 0.7152, 0.0722])
    return (high + 0.05) / (low + 0.05)


def seen(color, deficiency):
    """Where a color lies for a reader, in CAM02-UCS, where distance is difference."""
    space = {"name": "sRGB1+CVD", "cvd_type": deficiency, "severity": 100}
    rgb = cspace_convert(to_rgb(color), space, "sRGB1") if deficiency else to_rgb(color)
    return cspace_convert(np.clip(rgb, 0, 1), "sRGB1", "CAM02-UCS")


def test_nobody_else_has_the_colors_of_the_roles():
    others = [*plot.CYCLE, *(set(plot.COLORS.values()) - set(ROLES.values()))]
    for theme in THEMES.values():
        for other in others:
            for role in ROLES.values():
                apart = seen(theme(other), None) - seen(theme(role), None)
                assert np.linalg.norm(apart) > 9, (other, role)


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize(
    "colors",
    [[*ROLES.values()], plot.CYCLE, [plot.COLORS["ok"], plot.COLORS["bad"]]],
    ids=["roles", "others", "right and wrong"],
)
def test_colors_are_told_apart_by_everybody(colors, theme, deficiency):
    places = [seen(THEMES[theme](color), deficiency) for color in colors]
    nearest = min(np.linalg.norm(a - b) for a, b in combinations(places, 2))
    assert nearest > 10  # twice what is just told apart side by side


@pytest.mark.parametrize("theme", THEMES)
def test_texts_are_legible(theme):
    paper = THEMES[theme](plot.PAPER)
    texts = [plot.INK, *plot.CYCLE, plot.COLORS["ok"], plot.COLORS["bad"]]
    for color in texts:
        assert contrast(THEMES[theme](color), paper) >= 4.5, color
    for name, face in plot.COLORS.items():
        fig = plot.boxes([["a"]], colors=name)
        ink = fig.axes[0].texts[0].get_color()
        assert contrast(THEMES[theme](ink), THEMES[theme](face)) >= 4.5, name


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("cmap", [plot.SEQUENTIAL, plot.DIVERGING])
def test_numbers_on_a_color_map_are_legible(cmap, theme):
    values = np.linspace(0 if cmap is plot.SEQUENTIAL else -1, 1, 21)[:, None]
    signed = cmap is plot.DIVERGING
    fig = plot.heatmap(values, numbers="{:.2f}", diverging=signed, bar=False)
    paper = np.array(to_rgb(THEMES[theme](plot.PAPER)))
    for text, value in zip(fig.axes[0].texts, values[:, 0], strict=True):
        *color, alpha = fig.axes[0].images[0].to_rgba(value)
        ground = alpha * np.array(color) + (1 - alpha) * paper
        assert contrast(THEMES[theme](text.get_color()), ground) >= 4.5, value


def test_numbers_below_zero_have_a_minus_and_no_hyphen():
    fig = plot.heatmap([[-1.5, 2.0]], numbers="{:.1f}", diverging=True, bar=False)
    assert [text.get_text() for text in fig.axes[0].texts] == ["−1.5", "2.0"]


def test_math_in_a_title_is_as_bold_as_its_words():
    ax = plt.subplots()[1]
    ax.set(title="Gradient at $W_q$", xticks=[], yticks=[])
    assert "SourceSans3-Bold" in svg(ax.figure)
    assert "SourceSans3-Regular" not in svg(ax.figure)


@pytest.mark.parametrize("cmap", [plot.SEQUENTIAL, plot.DIVERGING])
def test_color_maps_are_the_page_at_zero_and_grow_from_there(cmap):
    steps = np.linspace(0 if cmap is plot.SEQUENTIAL else 0.5, 1, 20)
    for values in (steps, 1 - steps) if cmap is plot.DIVERGING else (steps,):
        colors = cmap(values)
        assert colors[0, 3] < 0.01 and colors[-1, 3] > 0.7
        assert (np.diff(colors[:, 3]) > 0).all()
        assert len({tuple(color[:3]) for color in colors[1:].round(6)}) == 1


# ---- the picture on the page ----


def test_a_figure_is_the_same_bytes_with_the_colors_of_both_themes():
    def draw():
        lines = {"a": [1, 2, 3], "b": [3, 2, 1]}
        return plot.curves([1, 2, 3], lines, xlabel="x", ylabel="y", title="t")

    drawn = svg(draw())
    assert drawn == svg(draw())
    figure = draw()
    assert svg(figure) == svg(figure)
    sheet = drawn.split("@media (prefers-color-scheme: dark) {")[1].split("</style>")[0]
    for color in (plot.PAPER, plot.INK, *plot.CYCLE[:2]):
        assert f": {color.lower()}" in drawn.replace(sheet, "")
        assert f":{DARK[color]} !important" in sheet
    assert plot.CYCLE[2].lower() not in sheet  # not in this figure
    assert "<metadata" not in drawn and "<text" not in drawn


def test_what_no_eye_sees_changes_no_byte_and_figures_share_no_name():
    def draw(height):
        _, ax = plt.subplots(figsize=(plot.NARROW, 2))
        ax.fill_between([0, 1], [0, 1], [1, height], color=plot.CYCLE[0])
        ax.plot([0, 1], [0, height], "o")
        ax.set(ylim=(0, 3))
        return svg(ax.figure)

    drawn, near, other = draw(2), draw(2 + 1e-12), draw(2.1)
    assert drawn == near
    named, others = (set(re.findall(r'"(part[^"]+)"', s)) for s in (drawn, other))
    assert len(named) > 3 and not named & others
    assert named == {*re.findall(r"#(part[^\")]+)", drawn)}


def test_what_is_hatched_has_the_pages_ground_in_the_dark():
    _, ax = plt.subplots(figsize=(plot.NARROW, 2))
    ax.axvspan(0, 1, facecolor=plot.PAPER, edgecolor=plot.INK, hatch="///")
    sheet = svg(ax.figure).split("prefers-color-scheme: dark")[1].split("</style>")[0]
    assert f'[fill="#ffffff"]{{fill:{DARK[plot.PAPER]} !important}}' in sheet


def test_a_figure_has_a_picture_for_those_who_show_no_svg():
    _, ax = plt.subplots(figsize=(plot.NARROW, 2))
    ax.plot([0, 1])
    picture = Image.open(io.BytesIO(png(ax.figure)))
    assert picture.width == round(100 * plot.NARROW) and picture.mode == "P"
    assert picture.convert("RGB").getpixel((2, 2)) == (255, 255, 255)


def test_figures_have_two_widths_and_show_all_there_is():
    widths = set()
    for size in (3.0, plot.NARROW, 5.5, plot.WIDTH):
        _, ax = plt.subplots(figsize=(size, 2))
        ax.set_ylabel("y")
        widths.add(re.search(r'width="([\d.]+)pt"', svg(ax.figure))[1])
    assert widths == {f"{72 * width:.1f}" for width in (plot.NARROW, plot.WIDTH)}


def test_pixels_of_a_small_image_stay_squares_and_a_photo_is_smooth():
    for side, smooth in ((32, False), (128, True)):
        fig = plot.show_images(torch.rand(1, 3, side, side))
        assert ("pixelated" in svg(fig)) is not smooth


def test_a_photo_becomes_jpeg_and_what_has_clear_or_few_pixels_stays_png():
    for side, alpha, kind in ((300, 1.0, "jpeg"), (300, 0.5, "png"), (50, 1.0, "png")):
        _, ax = plt.subplots(figsize=(4, 4))
        pixels = np.full((side, side, 4), alpha)
        pixels[..., :3] = np.linspace(0, 1, side)[:, None]
        ax.imshow(pixels, interpolation="none")
        ax.set_axis_off()
        drawn = svg(ax.figure)
        assert re.findall(r"data:image/(\w+);", drawn) == [kind]


EDGE_OF_PICTURE = re.compile(
    r'\n<path d="(M[^"]*z)" style="fill: none; stroke: #c4c9d0'
)


def test_a_picture_ends_somewhere_in_either_theme_and_so_does_each_patch():
    for image in (torch.zeros(3, 4, 6), torch.ones(3, 300, 450)):
        drawn = svg(plot.show_images(image[None]))
        (edge,) = EDGE_OF_PICTURE.findall(drawn)
        assert edge.count("M") == 1
        assert f"{{stroke:{DARK[EDGE]} !important}}" in drawn
        size = image.shape[1] // 2
        (edges,) = EDGE_OF_PICTURE.findall(svg(plot.patches(image, size)))
        places = re.findall(r"M(\S+) (\S+)h(\S+)v(\S+)h-", edges)
        left, top, width, height = zip(*places, strict=True)
        across, down = len(set(left)), len(set(top))
        assert (across, down, len(places)) == (3, 2, 6)
        assert np.ptp([float(x) for x in (*width, *height)]) < 0.1  # squares
        gap = max(1, round(size / 8))
        step = (float(left[1]) - float(left[0])) / float(width[0])
        assert step == pytest.approx(1 + gap / size, abs=0.01)


def test_a_heat_map_has_its_frame_and_no_second_edge():
    assert not EDGE_OF_PICTURE.search(svg(plot.heatmap(torch.eye(3))))


def test_images_show_the_pixels_given():
    images = torch.randint(0, 256, (3, 3, 4, 5), dtype=torch.uint8)
    fig = plot.show_images(
        images, titles=["a", "b", "c"], colors=["ok", "bad", "red"], columns=2
    )
    for i in range(3):
        expected = images[i].permute(1, 2, 0).numpy() / 255
        np.testing.assert_allclose(shown(fig, i), expected, atol=1e-6)
    assert texts(fig) >= {"a", "b", "c"}
    colors = [to_hex(ax.title.get_color()).upper() for ax in fig.axes[:3]]
    assert colors == [plot.COLORS["ok"], plot.COLORS["bad"], "#FF0000"]
    assert len(fig.axes) == 4 and not fig.axes[3].images  # the place left over


def test_normalized_images_come_back():
    images = torch.rand(2, 3, 4, 4)
    mean, std = (0.1, 0.5, 0.9), (0.2, 0.3, 0.4)
    shape = (1, 3, 1, 1)
    normal = (images - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    fig = plot.show_images(normal, mean=mean, std=std)
    np.testing.assert_allclose(shown(fig, 1), images[1].permute(1, 2, 0), atol=1e-6)


def test_grey_images_are_grey():
    fig = plot.show_images(torch.tensor([[[[0.0, 0.25], [0.5, 1.0]]]]))
    np.testing.assert_allclose(shown(fig)[..., 2], [[0, 0.25], [0.5, 1]])


def test_curves_are_labelled_at_their_ends_beside_a_dot_of_their_color():
    x = torch.arange(1, 5)
    lines = {"low": x, "high": 2 * x, "": 3 * x}
    fig = plot.curves(
        x, lines, xlabel="a", ylabel="b", title="c", xlog=True, colors={"low": "bad"}
    )
    ax = fig.axes[0]
    assert ax.get_xscale() == "log" and ax.get_yscale() == "linear"
    assert {"a", "b", "c", "low", "high"} <= texts(fig)
    assert not any(text.startswith("_") for text in texts(fig))
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), [2, 4, 6, 8])
    labels = {t.get_text(): t for t in ax.texts}
    assert {t.get_color() for t in labels.values()} == {plot.INK}
    dots = {d.get_offsets()[0][1]: d.get_facecolor()[0] for d in ax.collections}
    assert to_hex(dots[labels["low"].xy[1]]).upper() == plot.COLORS["bad"]
    assert to_hex(dots[labels["high"].xy[1]]) == to_hex(ax.lines[1].get_color())
    assert labels["low"].xy[1] < labels["high"].xy[1]


def test_labels_of_lines_that_end_together_do_not_touch():
    fig = plot.curves([1, 2], {n: [0, 1] for n in "abc"}, xlabel="x", ylabel="y")
    fig.draw_without_rendering()
    boxes = sorted(
        (t.get_window_extent() for t in fig.axes[0].texts), key=lambda box: box.y0
    )
    assert all(a.y1 <= b.y0 for a, b in pairwise(boxes))


def test_labels_that_would_touch_move_apart_both_ways():
    moved = spread([0.0, 0.5, 0.5, 3.0], 1)
    assert moved == pytest.approx([-2 / 3, 1 / 3, 4 / 3, 3])
    assert spread([0.0, 1.0, 5.0], 1) == [0, 1, 5]
    assert spread([], 1) == []


def test_a_line_that_leaves_the_numbers_is_labelled_where_it_was_last():
    lines = {"dies": [1.0, 2.0, float("nan")], "lives": [1.0, 2.0, 3.0]}
    fig = plot.curves([1, 2, 3], lines, xlabel="x", ylabel="y")
    places = {t.get_text(): t.xy[1] for t in fig.axes[0].texts}
    assert 0.4 < places["dies"] < 0.6 < places["lives"]


@pytest.mark.parametrize("ylog, middle", [(False, 5.0), (True, 3.0)])
def test_bands_reach_from_the_lowest_run_to_the_highest(ylog, middle):
    runs = {"a": torch.tensor([[1.0, 2.0], [9.0, 2.0]]), "b": [[4.0, 4.0]]}
    fig = plot.bands(
        [1, 2],
        runs,
        xlabel="x",
        ylabel="y",
        title="t",
        colors={"a": "bad", "b": plot.CYCLE[0]},
        dashed=["b"],
        ylog=ylog,
    )
    ax = fig.axes[0]
    assert texts(fig) >= {"x", "y", "t"}
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [middle, 2])
    assert [line.get_linestyle() for line in ax.lines] == ["-", "--"]
    assert ax.lines[0].get_color() == plot.COLORS["bad"]
    reach = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert (reach.min(), reach.max()) == (1, 9)
    assert ax.get_legend_handles_labels()[1] == ["a", "b"]


def history(epochs):
    return [
        {
            "epoch": e,
            "step": 10 * e,
            "lr": 1e-3 / e,
            "train_loss": 2 / e,
            "val_loss": 3 / e,
            "val_accuracy": 1 - 0.5 / e,
            "seconds": 1.0,
        }
        for e in range(1, epochs + 1)
    ]


def test_training_curves_draw_the_history():
    fig = plot.training_curves(history(3))
    loss, accuracy, rate = fig.axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in loss.lines}
    assert drawn == {"training": [2, 1, 2 / 3], "validation": [3, 1.5, 1]}
    np.testing.assert_allclose(accuracy.lines[0].get_ydata(), [50, 75, 250 / 3])
    np.testing.assert_allclose(rate.lines[0].get_ydata(), [1e-3, 5e-4, 1e-3 / 3])
    assert {ax.get_xlabel() for ax in fig.axes} == {"epoch"}
    ticks = loss.xaxis.get_major_locator().tick_values(1, 3)
    assert all(tick == int(tick) for tick in ticks)


def test_one_epoch_is_a_point_that_can_be_seen():
    fig = plot.training_curves(history(1))
    assert all(line.get_marker() == "o" for ax in fig.axes for line in ax.lines)


def test_heatmap_shows_values_numbers_and_labels():
    matrix = torch.tensor([[0.0, 0.25], [0.5, 1.0], [0.125, 0.75]], requires_grad=True)
    fig = plot.heatmap(
        matrix,
        rows="abc",
        columns="de",
        numbers="{:.2f}",
        xlabel="key",
        ylabel="query",
        title="Weights",
    )
    np.testing.assert_array_equal(shown(fig), matrix.detach())
    image = fig.axes[0].images[0]
    assert image.get_clim() == (0, 1) and image.cmap is plot.SEQUENTIAL
    numbers = {t.get_position(): t.get_text() for t in fig.axes[0].texts}
    assert numbers[(1, 0)] == "0.25" and numbers[(0, 2)] == "0.12" and len(numbers) == 6
    assert {"a", "c", "e", "key", "query", "Weights"} <= texts(fig)
    inks = {t.get_text(): t.get_color() for t in fig.axes[0].texts}
    assert set(inks.values()) == {plot.INK}


def test_heatmap_keeps_the_ticks_of_its_axes():
    _, ax = plt.subplots(subplot_kw={"xticks": [], "yticks": [0.5]})
    plot.heatmap(torch.eye(2), ax=ax)
    assert list(ax.get_xticks()) == [] and list(ax.get_yticks()) == [0.5]


def test_signed_heatmap_has_zero_in_the_middle():
    image = plot.heatmap([[-3.0, 1.0]], diverging=True, bar=False).axes[0].images[0]
    assert image.get_clim() == (-3, 3)
    assert image.to_rgba(0.0)[3] < 0.01
    low, high = image.to_rgba(-3.0), image.to_rgba(3.0)
    assert low[0] > low[2] and high[2] > high[0]  # gold below, violet above


def test_figures_are_drawn_on_the_axes_given():
    fig, axes = plt.subplots(1, 2)
    assert plot.heatmap(torch.eye(2), ax=axes[0], bar=False) is fig
    assert plot.curves([1, 2], {"a": [1, 2]}, xlabel="", ylabel="", ax=axes[1]) is fig
    assert len(plt.get_fignums()) == 1 and axes[0].images and axes[1].lines


def test_attention_heads_share_one_scale():
    weights = torch.stack([torch.eye(4), torch.full((4, 4), 0.25), torch.eye(4) / 2])
    fig = plot.attention_heads(weights, columns=2)
    images = [image for ax in fig.axes for image in ax.images]
    for image, head in zip(images, weights, strict=True):
        np.testing.assert_array_equal(image.get_array(), head)
        assert image.get_clim() == (0, 1)
    assert {"Head 1", "Head 2", "Head 3", "key", "query"} <= texts(fig)


def test_attention_covers_a_gray_image_with_the_color_of_heat_maps():
    images = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 3, 4, 6).clone()
    images[0, 0] = 0.3  # dark red: gray of 0.1
    maps = torch.zeros(2, 2, 3)
    maps[0, 0, 1], maps[0, 1, 2], maps[1] = 0.2, 0.1, 0.3
    fig = plot.attention_on_images(images, maps, titles=["a", "b"])
    dark, white = shown(fig, 0), shown(fig, 1)
    violet = np.array(to_rgb(plot.COLORS["attention"]))
    for y, x, share in ((0, 0, 0), (0, 2, FULL), (2, 4, FULL / 2)):
        expected = np.tile(share * violet + (1 - share) * 0.1, (2, 2, 1))
        np.testing.assert_allclose(dark[y : y + 2, x : x + 2], expected, atol=1e-6)
    np.testing.assert_allclose(
        white, np.tile(FULL * violet + 1 - FULL, (4, 6, 1)), atol=1e-6
    )
    assert {"a", "b", "none", "most"} <= texts(fig)
    maps = [each.get_cmap() for each in fig.axes[-1].collections]
    assert plot.SEQUENTIAL in maps  # the scale is that of heat maps


def test_an_image_stands_beside_its_attention():
    images, maps = torch.rand(2, 3, 4, 4), torch.rand(2, 2, 2)
    pairs = plot.attention_on_images(images, maps, titles=list("abcd"), beside=True)
    alone = plot.attention_on_images(images, maps)
    for i, image in enumerate(images):
        np.testing.assert_allclose(shown(pairs, 2 * i), image.permute(1, 2, 0))
        np.testing.assert_allclose(shown(pairs, 2 * i + 1), shown(alone, i))


def test_attention_to_nothing_leaves_a_gray_image():
    images = torch.tensor([[[[0.0, 1.0]]]])
    drawn = shown(plot.attention_on_images(images, torch.zeros(1, 1, 1)))
    np.testing.assert_allclose(drawn[0], [[0, 0, 0], [1, 1, 1]], atol=1e-6)


def test_attention_is_shown_on_normalized_images():
    images, maps = torch.rand(1, 3, 4, 4), torch.ones(1, 2, 2)
    fig = plot.attention_on_images(images * 2 - 1, maps, mean=[0.5] * 3, std=[0.5] * 3)
    violet = np.array(to_rgb(plot.COLORS["attention"]))
    gray = images[0].mean(dim=0)[..., None].numpy()
    np.testing.assert_allclose(shown(fig), FULL * violet + (1 - FULL) * gray, atol=1e-6)


@pytest.mark.parametrize("class_tokens", [0, 1])
def test_position_similarity_is_the_cosine(class_tokens):
    embed = torch.randn(1, 6 + class_tokens, 5)
    places = embed[0, class_tokens:]
    expected = torch.cosine_similarity(places[4], places, dim=-1).view(2, 3)
    _, ax = plt.subplots()
    fig = plot.position_similarity(embed, (2, 3), ax=ax)
    assert fig is ax.figure
    drawn = shown(fig)
    assert drawn.shape == (2 * 3 - 1, 3 * 4 - 1)
    tile = drawn[3:5, 4:7]  # of the position in row 2, column 2
    np.testing.assert_allclose(tile, expected, atol=1e-6)
    assert tile[1, 1] == pytest.approx(1)
    assert np.ma.masked_invalid(drawn)[2].mask.all()  # the gap


def test_a_confusion_of_many_classes_has_room():
    names = [f"class {i}" for i in range(51)]
    assert "100" in texts(plot.confusion(torch.eye(20), names[:20]))
    fig = plot.confusion(torch.eye(21), names[:21])
    assert len(fig.axes[0].texts) == 0 and "class 20" in texts(fig)
    assert not texts(plot.confusion(torch.eye(51), names)) & {*names}


def test_confusion_is_in_per_cent_of_the_true_class():
    fig = plot.confusion([[3, 1, 0], [0, 50, 50], [0, 0, 0]], ["cat", "dog", "owl"])
    expected = [[75, 25, 0], [0, 50, 50], [0, 0, 0]]  # no owl: no NaN
    np.testing.assert_array_equal(shown(fig), expected)
    assert {"cat", "dog", "owl", "75", "true class", "predicted class"} <= texts(fig)


def test_patches_are_cut_in_reading_order():
    image = torch.rand(3, 4, 6)
    fig = plot.patches(image, 2)
    drawn = shown(fig)
    assert drawn.shape == (2 * 3 - 1, 3 * 3 - 1, 3)
    last = drawn[3:, 6:]
    np.testing.assert_allclose(last, image[:, 2:, 4:].permute(1, 2, 0))
    gaps = [patch.get_extents() for patch in fig.axes[0].patches]
    to_data = fig.axes[0].transData.inverted()
    spans = [to_data.transform(gap).round(6).tolist() for gap in gaps]
    assert [sorted(y for _, y in span) for span in spans[:1]] == [[1.5, 2.5]]
    assert [[x for x, _ in span] for span in spans[1:]] == [[1.5, 2.5], [4.5, 5.5]]
    numbers = {t.get_text(): t.xy for t in fig.axes[0].texts}
    assert list(numbers) == list("123456") and numbers["6"] == (5.5, 2.5)
    assert not plot.patches(image, (2, 3), numbers=False).axes[0].texts


def test_boxes_have_label_colour_and_gaps():
    labels = [["a", "b", "c", "d"], ["e", None, "g", "h"]]
    colors = ["query", "query", "key", "#123456"]
    fig = plot.boxes(labels, colors=colors, split_columns=2, title="(N, h, d)")
    drawn = {t.get_text(): t.get_position()[0] for t in fig.axes[0].texts}
    assert drawn == {
        "a": 0.5,
        "b": 1.5,
        "c": 3.0,
        "d": 4.0,
        "e": 0.5,
        "g": 3.0,
        "h": 4.0,
    }
    faces = [to_hex(patch.get_facecolor()).upper() for patch in fig.axes[0].patches]
    a, b, c = plot.COLORS["query"], plot.COLORS["key"], "#123456"
    assert faces == [a, a, b, c, a, b, c]
    assert "(N, h, d)" in texts(fig)


def test_boxes_on_shared_axes_have_one_scale():
    fig, axes = plt.subplots(1, 2, sharex=True, sharey=True)
    plot.boxes([["a"] * 4], ax=axes[0])
    plot.boxes([["a"]] * 3, ax=axes[1], split_rows=1)
    fig.draw_without_rendering()
    widths = [ax.patches[0].get_window_extent().width for ax in axes]
    assert widths[0] == pytest.approx(widths[1])
    assert axes[0].get_xlim() == (0, 4) and axes[0].get_ylim() == (4, 0)


def test_same_input_same_pixels():
    def draw():
        torch.manual_seed(0)
        fig = plot.heatmap(torch.rand(30, 30))
        fig.canvas.draw()
        return bytes(fig.canvas.buffer_rgba())

    assert draw() == draw()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plot.show_images(torch.rand(3, 8, 8)), r"\(3, 8, 8\), expected \(B"),
        (lambda: plot.show_images(torch.rand(1, 2, 8, 8)), r"\(1, 2, 8, 8\)"),
        (lambda: plot.show_images(torch.rand(0, 3, 8, 8)), r"\(0, 3, 8, 8\)"),
        (lambda: plot.show_images(torch.full((1, 1, 2, 2), 2.0)), "give the mean"),
        (lambda: plot.show_images(torch.rand(2, 1, 2, 2), titles=["a"]), "1 titles"),
        (lambda: plot.curves([1, 2], {"a": [1]}, xlabel="", ylabel=""), "'a' has 1"),
        (lambda: plot.training_curves([]), "history is empty"),
        (lambda: plot.heatmap(torch.rand(2, 2, 2)), r"\(2, 2, 2\)"),
        (lambda: plot.heatmap(torch.rand(2, 3), rows="abc"), "3 rows given for 2"),
        (lambda: plot.heatmap([[-1.0, 2.0]]), "set diverging"),
        (lambda: plot.attention_heads(torch.rand(4, 4)), r"\(4, 4\)"),
        (lambda: plot.attention_heads(torch.rand(2, 4, 4), titles=["a"]), "1 titles"),
        (
            lambda: plot.attention_on_images(torch.rand(2, 3, 4, 4), torch.rand(2, 2)),
            r"maps has shape \(2, 2\), expected \(B, rows",
        ),
        (
            lambda: plot.attention_on_images(
                torch.rand(2, 3, 4, 4), torch.rand(3, 2, 2)
            ),
            "3 maps given for 2",
        ),
        (
            lambda: plot.attention_on_images(
                torch.rand(1, 1, 4, 4), -torch.ones(1, 2, 2)
            ),
            "down to -1, below zero",
        ),
        (lambda: plot.position_similarity(torch.rand(1, 9, 4), (2, 3)), "2 x 3"),
        (lambda: plot.confusion(torch.eye(3), ["a", "b"]), r"\(3, 3\).*2 classes"),
        (lambda: plot.patches(torch.rand(3, 8, 9), 4), "8x9 .* patch_size 4x4"),
        (lambda: plot.boxes([["a", "b"]], colors=[["ok"]]), r"\[1\] do not fit"),
        (lambda: plot.paths({"a": ["$x$", "+"], "b": ["$x$"]}), r"\[2, 1\] places"),
        (lambda: plot.paths({"a": ["+"]}), "'\\+' of 'a' adds nothing"),
        (lambda: plot.multi_head(4, 5), "2 heads do not divide embed_dim 5"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---- a model ----


def test_a_way_from_an_image_to_its_logits_has_all_names_and_a_line_at_zero():
    classes = [f"class {i}" for i in range(4)]
    logits = torch.tensor([1.0, -2.0, 0.5, 0.0])
    image = torch.rand(1, 8, 12)
    fig = plot.image_to_logits(image, 4, logits, classes, depth=3)
    names = {"class", "1", "2", "3", "…", "6", "head", "+"}
    names |= {"$p_{0}$", "$p_{1}$", "$p_{2}$", "$p_{3}$", "$p_{6}$"}  # of the places
    counts = {"6 patches", "7 tokens", "3 blocks", "the head reads one", "4 logits"}
    assert texts(fig) >= {*names, *counts, *classes, "0", "−2"}
    pieces = [ax.images[0].get_array()[..., 0] for ax in fig.axes[2:-1]]
    wanted = [image[0, y : y + 4, x : x + 4] for y, x in ((0, 0), (0, 4), (0, 8))]
    for piece, patch in zip(pieces, [*wanted, image[0, 4:, 8:]], strict=True):
        assert torch.allclose(torch.as_tensor(piece), patch)
    bars = fig.axes[-1]
    assert [bar.get_width() for bar in bars.patches] == logits.tolist()
    assert any(set(line.get_xdata()) == {0} for line in bars.lines)
    for depth, bundles in ((1, 1), (2, 2), (5, 2)):  # the first block and the last
        drawn = plot.image_to_logits(image, 4, logits, classes, depth=depth).axes[0]
        assert len(drawn.lines) == bundles * 5 * 5  # each token of five to each
    with pytest.raises(ValueError, match="not divisible by patch_size 5x5"):
        plot.image_to_logits(image, 5, logits, classes, depth=3)


# ---- diagrams ----


def test_a_product_has_a_cell_for_each_number_and_follows_one_row():
    pieces = [
        ("Q", (2, 4), "query", "2 x 4"),
        "by",
        ("K", (4, 3), "key", "4 x 3"),
        ("S", (2, 3), "neutral", "2 x 3"),
    ]
    fig = plot.product(pieces, row=1)
    assert texts(fig) == {"Q", "by", "K", "S", "2 x 4", "4 x 3", "2 x 3"}
    cells = [patch for patch in fig.axes[0].patches if patch.get_fill()]
    assert len(cells) == 8 + 12 + 6
    dark = [cell for cell in cells if cell.get_alpha() > 0.5]
    assert len(dark) == 4 + 3
    colors = {to_hex(cell.get_facecolor()).upper() for cell in dark}
    assert colors == {plot.COLORS["query"], plot.COLORS["neutral"]}
    lowest = {cell.get_y() for cell in dark}
    assert len(lowest) == 1 and lowest == {min(c.get_y() for c in cells[:8])}
    whole = plot.product(pieces, row=None).axes[0].patches
    assert not any(patch.get_alpha() == 0.85 for patch in whole)


def test_a_layer_of_two_heads_has_a_color_for_each_role():
    fig = plot.multi_head(tokens=4, embed_dim=6)
    parts = {f"${x}$" for x in ("X", *"QKV", "W^Q", "W^K", "W^V", "W^O")}
    parts |= {f"${x}_{head}$" for x in (*"QKV", "\\mathrm{head}") for head in (1, 2)}
    assert texts(fig) >= {*parts, "attention", "output", "split", "merge", "$(N, d_k)$"}
    slices = fig.axes[0].patches
    colors = [to_hex(part.get_facecolor()).upper() for part in slices]
    for role in ("query", "key", "value"):  # two side by side, two apart
        assert colors.count(plot.COLORS[role]) == 4
    for color in plot.CYCLE[:2]:  # a head's output, alone and merged
        assert colors.count(color.upper()) == 2
    (high,) = {round(part.get_height(), 3) for part in slices}
    (wide,) = {round(part.get_width(), 3) for part in slices}
    assert high / 4 == pytest.approx(wide / 3, abs=1e-3)  # square cells


def test_a_product_frames_the_column_that_is_followed_and_what_it_meets():
    pieces = [
        ("Q", (2, 4), "query", "2 x 4"),
        ("K", (4, 3), "key", "4 x 3"),
        ("S", (2, 3), "neutral", "2 x 3"),
        ("V", (3, 2), "value", "3 x 2"),
    ]
    patches = plot.product(pieces, row=0, column=1).axes[0].patches
    frames = [patch for patch in patches if patch.get_linewidth() > 2]
    cells = [(f.get_width() / 0.25, f.get_height() / 0.25) for f in frames]
    assert cells == [(1, 4), (1, 1), (2, 1)]  # of K, S and V
    (key, logit, value), filled = frames, [p for p in patches if p.get_fill()]
    assert key.get_xy() == filled[8 + 10].get_xy()  # K's second, in its last row
    assert logit.get_xy() == filled[8 + 12 + 1].get_xy()
    assert value.get_xy() == filled[8 + 12 + 6 + 2].get_xy()
    assert not any(p.get_linewidth() > 2 for p in plot.product(pieces).axes[0].patches)


def test_a_residual_path_leads_from_what_is_named_to_its_plus():
    fig = plot.paths(
        {"plain": ["$x$", None, "part", None], "post": ["$x$", "part", "+", "norm"]}
    )
    ax = fig.axes[0]
    places = {}
    for text in ax.texts:
        places.setdefault(text.get_text(), []).append(text.get_position())
    assert set(places) == {"plain", "post", "$x$", "part", "+", "norm", ""}
    (path,) = ax.lines
    plus, named = places["+"][0], places["$x$"][1]
    assert path.get_xdata()[0] == named[0] and path.get_xdata()[-1] == plus[0]
    assert min(path.get_ydata()) > named[1] == plus[1]
    assert len(places[""]) == 2 + 4 + 1  # arrows: two ways, and one to the plus


def test_a_residual_path_starts_at_the_last_name():
    ax = plot.paths({"": ["$x$", "a", "+", "$y$", "b", "+", "$z$"]}).axes[0]
    names = {t.get_text(): t.get_position()[0] for t in ax.texts}
    assert [line.get_xdata()[0] for line in ax.lines] == [names["$x$"], names["$y$"]]
