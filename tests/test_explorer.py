"""The attention explorer: its bytes, its errors, and what a reader does with it."""

import base64
import contextlib
import io
import re

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from PIL import Image

from vitutils.plot.explorer import Explorer, explore, quantized
from vitutils.vit import VisionTransformer

KEYS = {
    "ArrowRight": (2, 3),
    "ArrowLeft": (2, 1),
    "ArrowUp": (1, 2),
    "ArrowDown": (3, 2),
    "Home": (2, 1),
    "End": (2, 4),
    "Control+Home": (1, 1),
    "Control+End": (3, 4),
}
PERCENT = r"([\d.]+)\s%"


def attention(layers=2, heads=2, first=1, grid=(3, 4), seed=0):
    """Return weights (1, h, N, N) for each layer: some large, some very small."""
    generator = torch.Generator().manual_seed(seed)
    N = first + grid[0] * grid[1]
    scores = 3 * torch.randn(layers, 1, heads, N, N, generator=generator)
    return list(scores.softmax(dim=-1))


def random_image(height=30, width=40, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(channels, height, width, generator=generator)


@pytest.fixture(scope="module")
def weights():
    return attention()


@pytest.fixture(scope="module")
def page(weights):
    """The HTML of an explorer of 3 x 4 patches, 2 layers, 2 heads."""
    return explore(random_image(), weights, (3, 4)).html


def error_bound(w, m):
    """Return what the docstring of ``explore`` says a weight may be wrong by."""
    return (w * m) ** 0.5 / 255 + m / 510**2 + 1e-7


# ---- the bytes ----


def test_same_arguments_give_the_same_bytes(weights, page):
    copies = [layer.clone() for layer in weights]
    assert explore(random_image().clone(), copies, (3, 4)).html == page
    assert explore(random_image(seed=1), weights, (3, 4)).html != page


@pytest.mark.parametrize("channels", [1, 3])
def test_four_layers_of_four_heads_on_65_tokens_fit_in_120_kb(channels):
    noise = random_image(32, 32, channels)  # nothing compresses worse
    weights = attention(layers=4, heads=4, grid=(8, 8))
    assert len(explore(noise, weights, (8, 8)).html.encode()) <= 120_000


def test_quantization_keeps_the_stated_bound():
    one_hot, zero = torch.eye(50)[None, None], torch.zeros(1, 1, 50, 50)
    sharp = (9 * torch.randn(3, 2, 50, 50)).softmax(dim=-1)
    even, tiny = torch.full((1, 1, 50, 50), 1 / 50), sharp[:1, :1] * 1e-9
    for weights in (one_hot, zero, even, tiny, sharp):
        data = quantized(weights.numpy())
        largest = np.frombuffer(data, "<f4", count=weights[..., 0].numel())
        levels = np.frombuffer(data, np.uint8, offset=largest.nbytes)
        m = largest.reshape(*weights.shape[:3], 1)
        shown = m * (levels.reshape(weights.shape) / 255.0) ** 2
        assert (m == weights.numpy().max(-1, keepdims=True)).all()
        bound = np.sqrt(weights.numpy() * m) / 255 + m / 510**2
        assert (abs(shown - weights.numpy()) <= bound * 1.0001).all()


def test_takes_what_a_model_returns_with_normalized_images():
    vit = VisionTransformer(
        image_size=8,
        patch_size=4,
        in_channels=1,
        num_classes=2,
        embed_dim=8,
        depth=2,
        num_heads=2,
        mlp_dim=8,
    )
    image = random_image(8, 8, 1)
    _, weights = vit(image[None] * 4 - 2, need_weights=True)
    explorer = explore(image * 4 - 2, weights, (2, 2), mean=(0.5,), std=(0.25,))
    bare = explore(image, [layer[0] for layer in weights], (2, 2))
    assert str(explorer) == "Attention explorer: 2 layers, 2 heads, 1 + 4 tokens"
    assert picture_of(explorer.html) == picture_of(bare.html)
    explore((255 * image).byte(), torch.stack(weights).bfloat16(), (2, 2))


def test_notebook_shows_the_html(weights):
    explorer = explore(random_image(), weights, (3, 4), title="a < b", alt='"x" & y')
    assert isinstance(explorer, Explorer)
    bundle = explorer._repr_mimebundle_()
    assert bundle == {"text/plain": str(explorer), "text/html": explorer.html}
    assert "<strong>a &lt; b</strong>" in explorer.html
    assert 'alt="&quot;x&quot; &amp; y"' in explorer.html


def test_alt_text_without_one_says_what_it_is(page):
    alt = BeautifulSoup(page, "html.parser").img["alt"]
    assert alt == (
        "An image in 3 x 4 patches, and what its class token attends to in layer 2, "
        "the last"
    )


def picture_of(page):
    """Return the bytes of the static picture."""
    return base64.b64decode(re.search(r"data:image/png;base64,([^\"]+)", page)[1])


def test_static_picture_is_the_image_and_what_the_class_token_attends_to(weights, page):
    drawn = np.array(Image.open(io.BytesIO(picture_of(page))).convert("RGBA"))
    side = 6 * 10  # 256 // 40 = 6 pixels a pixel, 10 pixels a patch
    assert drawn.shape == (3 * side, 2 * 4 * side + 12, 4)
    assert (drawn[:, 4 * side : -4 * side, 3] == 0).all()  # between the two
    image = random_image().permute(1, 2, 0).numpy() * 255
    left = drawn[3::6, 3 : 4 * side : 6, :3]
    assert abs(left - image).mean() < 12  # noise in 255 colors
    dots = drawn[:, -4 * side :, :3].astype(int)
    violet = (abs(dots - (0x89, 0x57, 0xE5)) < 12).all(axis=-1)
    area = violet.reshape(3, side, 4, side).sum(axis=(1, 3)).flatten()
    seen = weights[-1][0, :, 0, 1:].mean(dim=0).numpy()
    assert np.corrcoef(area, seen)[0, 1] > 0.99


def spoiled(value):
    weights = attention()
    weights[1][0, 1, 2, 3] = value
    return weights


@pytest.mark.parametrize(
    ("weights", "grid", "message"),
    [
        (attention(first=0), (3, 4), r"12 tokens do not fit a grid of 3 x 4: .*13"),
        (attention(first=3), (3, 4), "15 tokens do not fit a grid of 3 x 4"),
        (attention(grid=(5, 8)), (-5, -8), "41 tokens do not fit a grid of -5 x -8"),
        (attention(), (4, 3), "30x40 pixels is not divisible by a grid of 4 x 3"),
        (spoiled(float("nan")), (3, 4), "weights of layer 2 run from nan"),
        (spoiled(float("inf")), (3, 4), "weights of layer 2 run from .* to inf"),
        (spoiled(-0.1), (3, 4), "weights of layer 2 run from -0.1"),
        ([], (3, 4), "need_weights=True"),
        ([torch.ones(2, 2, 13, 13)], (3, 4), r"shapes \[\(2, 2, 13, 13\)\], expected"),
        ([torch.ones(2, 13, 12)], (3, 4), r"shapes \[\(2, 13, 12\)\], expected"),
        ([torch.ones(13, 13)], (3, 4), r"shapes \[\(13, 13\)\], expected"),
        ([torch.ones(0, 13, 13)], (3, 4), r"shapes \[\(0, 13, 13\)\], expected"),
        ([torch.ones(1, 13, 13), torch.ones(2, 13, 13)], (3, 4), "expected the same"),
    ],
)
def test_what_does_not_fit_is_named(weights, grid, message):
    with pytest.raises(ValueError, match=message):
        explore(random_image(), weights, grid)


def test_a_normalized_image_needs_mean_and_std():
    with pytest.raises(ValueError, match=r"outside \[0, 1\]: give the mean and std"):
        explore(random_image() * 4 - 2, attention(), (3, 4))


# ---- the browser ----


@contextlib.contextmanager
def opened(browser, folder, *explorers, theme="light", width=800, **context):
    """Open a page with these explorers from a file; fail if its console complains."""
    ground = {"light": "#fff; color: #323232", "dark": "#121212; color: #ced6dd"}
    head = '<!doctype html><html lang="en"><meta charset="utf-8"><title>page</title>'
    view = '<meta name="viewport" content="width=device-width, initial-scale=1">'
    body = f'<body style="margin: 16px; background: {ground[theme]}">'
    file = folder / "page.html"
    file.write_text("\n".join([head, view, body, *explorers]), encoding="utf-8")
    # One tab opens all pages, but for those that want another browser.
    own = browser.new_context(**context) if context else None
    context = own or (browser.contexts or [browser.new_context()])[0]
    tab, wrong = (context.pages or [context.new_page()])[0], []
    heard = {
        "console": lambda message: wrong.append(message.text),
        "pageerror": lambda error: wrong.append(str(error)),
        "request": lambda r: wrong.append(r.url) if r.url[:5] == "http:" else None,
    }
    tab.set_default_timeout(5000)
    tab.set_viewport_size({"width": width, "height": 800})
    tab.emulate_media(color_scheme=theme)
    for event, listener in heard.items():
        tab.on(event, listener)
    try:
        tab.goto(file.as_uri())
        yield tab
        assert wrong == []
        for event, listener in heard.items():
            tab.remove_listener(event, listener)
        tab.goto("about:blank")
        tab.mouse.move(0, 0)
    except BaseException:
        context.close()
        raise
    if own:
        own.close()


class Reader:
    """What a reader sees and does in one explorer of a page."""

    def __init__(self, tab, number=0):
        self.tab, self.root = tab, tab.locator(".attention-explorer").nth(number)

    def token(self, index):
        return self.root.locator(f'[data-token="{index}"]')

    def choose(self, layer, head):
        self.root.get_by_label("Layer").select_option(label=str(layer))
        self.root.get_by_label("Head").select_option(label=str(head))

    @property
    def text(self):
        text = self.root.locator("[aria-live]").inner_text()
        return " ".join(text.split())

    @property
    def query(self):
        """Index of the token that is outlined as the query."""
        (query,) = self.root.locator(".query").all()
        return int(query.get_attribute("data-token"))

    @property
    def areas(self):
        """Area of each patch's dot, the largest being 1."""
        widths = np.array(
            self.root.locator("[role=gridcell] .dot").evaluate_all(
                "dots => dots.map(dot => dot.getBoundingClientRect().width)"
            )
        )
        return (widths / widths.max()) ** 2


def number(text):
    """Return a weight shown in per cent, and half a unit of its last digit."""
    digits = re.fullmatch(PERCENT, text)[1]
    return float(digits) / 100, 0.5 * 10 ** -len(digits.split(".")[1]) / 100


def assert_shows(text, rows, key):
    """Check a weight shown against the (h, N) rows of which it is the mean."""
    shown, rounding = number(text)
    true = rows[:, key].mean().item()
    pairs = zip(rows[:, key].tolist(), rows.amax(dim=1).tolist(), strict=True)
    wrong = sum(error_bound(w, m) for w, m in pairs) / len(rows)
    assert abs(shown - true) <= wrong + rounding


def test_class_token_in_the_last_layer_comes_first(browser, tmp_path, weights, page):
    with opened(browser, tmp_path, page) as tab:
        reader = Reader(tab)
        rows = weights[-1][0, :, 0]
        best = int(rows.mean(dim=0).argmax())
        assert reader.query == 0 and best > 0
        place = f"row {(best - 1) // 4 + 1}, column {(best - 1) % 4 + 1}"
        start = f"Layer 2, mean of heads. The class token attends most to {place} ("
        assert reader.text.startswith(start)
        assert reader.text.endswith(" % to itself.")
        seen = rows.mean(dim=0)[1:].numpy()
        assert np.allclose(reader.areas, seen / seen.max(), atol=0.02)
        legend = reader.root.locator(".scale").inner_text().split("\n")
        assert_shows(legend[0], rows, best)


def test_a_dot_lies_where_the_query_attends_and_nowhere_else(browser, tmp_path):
    following = torch.eye(13).roll(1, dims=1)  # each token attends to the next one
    page = explore(torch.full((1, 30, 40), 0.5), [following[None]], (3, 4)).html
    with opened(browser, tmp_path, page) as tab:
        for query in (0, 1, 7):
            Reader(tab).token(query).hover()
            for key in (1, 2, 7, 8):
                seen = Reader(tab).token(key).screenshot()
                seen = Image.open(io.BytesIO(seen)).convert("RGB")
                color = seen.getpixel((seen.width // 2, seen.height // 2))
                expected = (0x89, 0x57, 0xE5) if key == query + 1 else (128, 128, 128)
                assert np.allclose(color, expected, atol=3), (query, key)


def test_pointing_at_a_patch_makes_it_the_query(browser, tmp_path, weights, page):
    with opened(browser, tmp_path, page) as tab:
        reader = Reader(tab)
        before = reader.text, reader.areas
        reader.token(7).hover()
        assert reader.query == 7
        assert "Patch row 2, column 3 attends most to" in reader.text
        assert reader.text != before[0] and abs(reader.areas - before[1]).max() > 0.1
        tab.mouse.move(790, 790)
        assert reader.query == 7  # it stays when the pointer leaves
        reader.token(0).hover()
        assert (reader.text, reader.areas.tolist()) == (before[0], before[1].tolist())


def test_weights_read_equal_the_tensor(browser, tmp_path, weights, page):
    draw = np.random.default_rng(0)
    with opened(browser, tmp_path, page) as tab:
        reader = Reader(tab)
        for layer, head in [(1, "mean"), (1, 1), (2, 2), (2, "mean")]:
            reader.choose(layer, head)
            heads = slice(None) if head == "mean" else slice(head - 1, head)
            for query in draw.choice(13, size=3, replace=False).tolist():
                rows = weights[layer - 1][0, heads, query]
                reader.token(query).hover()
                reader.token(query).click()
                best = re.search(rf"most to [^;]*\({PERCENT}\)", reader.text)
                assert float(best[1]) / 100 == pytest.approx(
                    rows.mean(dim=0).max().item(), abs=0.004
                )
                for key in draw.choice(13, size=4, replace=False).tolist():
                    reader.token(key).hover()
                    assert reader.query == query and "(pinned)" in reader.text
                    cell = reader.token(key)
                    assert_shows(cell.get_attribute("data-weight"), rows, key)
                    said = re.search(rf"At [^:]*: ({PERCENT})\.$", reader.text)
                    assert bool(said) == (key != query)
                    if said:
                        assert_shows(said[1], rows, key)
                reader.token(query).click()  # points at it, if it was not there
                if "(pinned)" in reader.text:
                    reader.token(query).click()
                assert "(pinned)" not in reader.text


def test_weight_is_written_beside_the_pointer(browser, tmp_path, page):
    with opened(browser, tmp_path, page, width=320) as tab:
        reader = Reader(tab)
        reader.token(0).click()
        for key in (1, 4, 9, 12):  # the corners: nothing sticks out
            reader.token(key).hover()
            tag = reader.token(key).evaluate(
                "cell => getComputedStyle(cell, '::after').content"
            )
            assert re.fullmatch(rf'"{PERCENT}"', tag)
            assert tab.evaluate("document.scrollingElement.scrollWidth") <= 320


# The keys that come through to the window, where VS Code takes them for its notebook.
HEAR = """() => {
  globalThis.heard = [];
  addEventListener("keydown", ({ key }) => heard.push(key));
}"""


def test_arrow_keys_move_between_patches(browser, tmp_path, page):
    with opened(browser, tmp_path, page, '<p style="height: 2000px">') as tab:
        reader = Reader(tab)
        tab.keyboard.press("Tab")
        assert reader.query == 1  # the first patch
        tab.evaluate(HEAR)
        for key in ("ArrowUp", "ArrowLeft"):
            tab.keyboard.press(key)
            assert reader.query == 1  # at the edge
        for key, (row, column) in KEYS.items():
            reader.token(6).focus()  # row 2, column 2
            tab.keyboard.press(key)
            assert reader.query == 4 * (row - 1) + column, key
            assert f"Patch row {row}, column {column} attends" in reader.text
        tab.keyboard.press("ArrowDown")
        assert reader.query == 12
        assert tab.evaluate("scrollY") == 0
        tab.keyboard.press("d")  # twice, it deletes a cell in VS Code
        assert set(tab.evaluate("heard")) == {"Control"}


def test_enter_pins_and_escape_lets_go(browser, tmp_path, page):
    with opened(browser, tmp_path, page) as tab:
        reader = Reader(tab)
        tab.keyboard.press("Tab")
        for pin, release in (("Enter", "Escape"), (" ", " ")):
            tab.keyboard.press(pin)
            assert "column 1 (pinned)" in reader.text
            tab.keyboard.press("ArrowRight")
            assert reader.query == 1 and " At row 1, column 2: " in reader.text
            tab.keyboard.press("ArrowLeft")
            tab.keyboard.press(release)
            assert reader.query == 1 and "(pinned)" not in reader.text
            tab.keyboard.press("ArrowRight")
            assert reader.query == 2
            tab.keyboard.press("ArrowLeft")


def test_each_control_is_one_tab_stop_with_a_name_and_a_visible_focus(
    browser, tmp_path, page
):
    with opened(browser, tmp_path, page) as tab:
        stops = []
        for _ in range(5):
            tab.keyboard.press("Tab")
            stops.append(
                tab.evaluate(
                    """() => { const e = document.activeElement;
                const box = e.closest('.picture') ?? e;
                return [e.getAttribute('role') ?? e.tagName,
                        getComputedStyle(box).outlineStyle]; }"""
                )
            )
        stops = [(what, how) for what, how in stops if what != "BODY"]
        names = ["gridcell", "SELECT", "SELECT", "BUTTON"]
        assert stops == [(name, "solid") for name in names]
        assert Reader(tab).query == 0  # Tab reached the class token: it is the query
        assert tab.get_by_role("gridcell", name="row 3, column 4").count() == 1
        assert tab.get_by_role("grid", name="patches of the image").count() == 1
        assert tab.get_by_role("combobox", name="Layer").count() == 1
        assert tab.get_by_role("button", name="class token", pressed=True).count() == 1


def test_a_tap_points_and_a_second_tap_pins(browser, tmp_path, page):
    with opened(browser, tmp_path, page, width=360, has_touch=True) as tab:
        reader = Reader(tab)
        reader.token(6).tap()
        assert reader.query == 6 and "(pinned)" not in reader.text
        reader.token(0).tap()
        reader.token(0).tap()
        assert reader.query == 0 and "(pinned)" in reader.text
        reader.token(5).tap()
        assert reader.query == 0 and " At row 2, column 1: " in reader.text
        reader.token(5).tap()  # another one is pinned
        assert reader.query == 5 and "column 1 (pinned)" in reader.text
        reader.token(5).tap()
        assert reader.query == 5 and "(pinned)" not in reader.text


def test_layer_and_head_are_chosen(browser, tmp_path, weights, page):
    with opened(browser, tmp_path, page) as tab:
        reader = Reader(tab)
        texts = {}
        for layer in (1, 2):
            for head in ("mean", 1, 2):
                reader.choose(layer, head)
                words = "mean of heads" if head == "mean" else f"head {head}"
                start, texts[layer, head] = reader.text.split(". ", 1)
                assert start == f"Layer {layer}, {words}"
                rows = weights[layer - 1][0, :, 0, 1:]
                rows = rows.mean(dim=0) if head == "mean" else rows[head - 1]
                seen = (rows / rows.max()).numpy()
                assert np.allclose(reader.areas, seen, atol=0.02)
        assert len(set(texts.values())) == 6


def test_distillation_token_of_a_deit(browser, tmp_path):
    weights = attention(first=2, grid=(2, 2))
    levels = torch.tensor([2, 5, 1, 1, 3, 1]) / 5  # whole ones in 8 bits: exact
    weights[1][0, :, 3] = 0.64 * levels**2
    page = explore(random_image(20, 20), weights, (2, 2)).html
    with opened(browser, tmp_path, page) as tab:
        reader = Reader(tab)
        reader.root.get_by_role("button", name="distillation token").hover()
        assert reader.query == 1 and "The distillation token attends" in reader.text
        reader.token(3).hover()
        assert reader.text == (
            "Layer 2, mean of heads. Patch row 1, column 2 attends most to the "
            "distillation token (64.0 %); 23.0 % to row 2, column 1, 10.2 % to the "
            "class token, 2.6 % to itself."
        )
        assert reader.areas.max() == 1  # the first tokens leave the patches their scale
        chip = reader.root.get_by_role("button", name="class token")
        assert chip.inner_text().split() == ["class", "token", "10.2", "%"]


@pytest.mark.parametrize(
    ("grid", "size"), [((2, 5), (20, 50)), ((5, 2), (50, 20)), ((2, 2), (40, 10))]
)
def test_patches_lie_on_the_image_in_any_grid(browser, tmp_path, grid, size):
    weights = attention(grid=grid)
    weights[-1][:] = 1 / (1 + grid[0] * grid[1])  # every dot the largest
    page = explore(random_image(*size), weights, grid).html
    with opened(browser, tmp_path, page) as tab:
        image = tab.locator("img").bounding_box()
        assert image["width"] / image["height"] == pytest.approx(
            size[1] / size[0], rel=0.02
        )
        cell = Reader(tab).token(grid[0] * grid[1]).bounding_box()
        assert cell["width"] == pytest.approx(image["width"] / grid[1], abs=0.5)
        assert cell["height"] == pytest.approx(image["height"] / grid[0], abs=0.5)
        for side, end in (("x", "width"), ("y", "height")):
            assert cell[side] + cell[end] == pytest.approx(
                image[side] + image[end], abs=0.5
            )
        dot = Reader(tab).token(1).locator(".dot").bounding_box()
        smaller = min(cell["width"], cell["height"])
        assert dot["width"] == pytest.approx(0.8 * smaller, abs=0.5)
        assert dot["width"] == pytest.approx(dot["height"], abs=0.1)


def test_explorers_of_a_page_are_independent_even_equal_ones(browser, tmp_path, page):
    other = explore(random_image(), attention(first=2, seed=1), (3, 4)).html
    with opened(browser, tmp_path, page, other, page) as tab:
        tab.set_viewport_size({"width": 800, "height": 3000})  # else scrolling hovers
        readers = [Reader(tab, i) for i in range(3)]
        assert tab.locator("[role=grid]").count() == 3
        start = [reader.text for reader in readers]
        assert start[0] == start[2] != start[1]
        readers[2].token(5).hover()
        readers[2].root.get_by_label("Layer").select_option(label="1")
        assert [reader.text for reader in readers[:2]] == start[:2]
        start = "Layer 1, mean of heads. Patch row 2, column 1 attends"
        assert readers[2].text.startswith(start)
        readers[0].token(4).click()
        assert "column 4 (pinned)" in readers[0].text
        assert [reader.query for reader in readers] == [4, 0, 5]


# As JupyterLab does: the HTML first, then each script made anew.
INSERT = """([number, html]) => {
  const host = document.querySelectorAll('div.host')[number];
  host.innerHTML = html;
  for (const old of host.querySelectorAll('script')) {
    const script = document.createElement('script');
    script.textContent = old.textContent;
    old.replaceWith(script);
  }
}"""


def test_works_where_a_notebook_inserts_it(browser, tmp_path, page):
    hosts = '<div class="host"></div>' * 2
    with opened(browser, tmp_path, hosts) as tab:
        for text in ("column 3", "column 4", "column 1"):  # shown again, and again
            tab.evaluate(INSERT, [0, page])
            Reader(tab, 0).root.get_by_role("gridcell", name=f"row 2, {text}").hover()
            assert f"Patch row 2, {text} attends" in Reader(tab, 0).text
            tab.evaluate(INSERT, [1, page])  # an equal one, below: leaves it as it is
            assert f"Patch row 2, {text} attends" in Reader(tab, 0).text
            assert "The class token attends" in Reader(tab, 1).text
        copy = tab.evaluate("document.querySelector('.host').innerHTML")
        tab.evaluate(INSERT, [1, copy])  # the page as it is now, saved and opened
        Reader(tab, 1).token(2).hover()
        assert "Patch row 1, column 2 attends" in Reader(tab, 1).text
        assert tab.locator("[role=grid]").count() == 2


def test_without_scripts_there_is_a_static_picture_and_no_dead_control(
    browser, tmp_path, page
):
    with opened(browser, tmp_path, page, java_script_enabled=False) as tab:
        box = tab.locator("img").bounding_box()
        assert (box["width"], box["height"]) == (492, 180)
        assert tab.get_by_text("The image, and what its class token").is_visible()
        assert tab.locator("button, select, [role], [tabindex]").count() == 0


def test_without_scripts_and_styles_too(browser, tmp_path, page):
    soup = BeautifulSoup(page, "html.parser")
    for element in soup(["script", "style"]):
        element.decompose()
    for element in soup(True):  # what an untrusted notebook or GitHub leaves
        kept = ("src", "alt", "width")
        element.attrs = {k: v for k, v in element.attrs.items() if k in kept}
    with opened(browser, tmp_path, str(soup)) as tab:
        assert tab.locator("img").bounding_box()["width"] == 492
        assert tab.locator("body").inner_text().strip() == (
            "The image, and what its class token attends to in layer 2, the last "
            "(mean of the heads): a patch's weight is the area of its dot."
        )


@pytest.mark.parametrize("width", [320, 360, 500, 752])
def test_nothing_is_wider_than_the_page_or_too_small_to_hit(browser, tmp_path, width):
    page = explore(
        random_image(40, 40),
        attention(first=2, grid=(10, 10)),
        (10, 10),
        title="What does each patch attend to? " * 3,
    ).html
    with opened(browser, tmp_path, page, width=width) as tab:
        assert tab.evaluate("document.scrollingElement.scrollWidth") <= width
        rights = tab.locator(".attention-explorer *").evaluate_all(
            "all => all.map(e => e.getBoundingClientRect().right)"
        )
        assert max(rights) <= width
        sides = tab.locator("button, select, [role=gridcell]").evaluate_all(
            "all => all.map(e => e.getBoundingClientRect()).flatMap(b => "
            "[b.width, b.height])"
        )
        assert min(sides) >= 24


# Lowest contrast (after WCAG 2) of any text in the explorer with the page behind it.
CONTRAST = """() => {
  const numbers = color => color.match(/[\\d.]+/g).map(Number);
  const light = rgb => rgb.map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = numbers(getComputedStyle(document.body).backgroundColor).slice(0, 3);
  const all = document.querySelectorAll('.attention-explorer :is(p, label, button,' +
    'select, span, strong)');
  return Math.min(...[...all].map(element => {
    const style = getComputedStyle(element);
    const behind = numbers(style.backgroundColor);
    if (element.textContent && behind[3] !== 0) return 0; // a ground of its own
    const front = numbers(style.color).slice(0, 3)
      .map((v, i) => v * style.opacity + ground[i] * (1 - style.opacity));
    const [a, b] = [light(front), light(ground)].sort((x, y) => y - x);
    return (a + .05) / (b + .05);
  }));
}"""


# The book's theme puts an HTML output on a light card where the page is dark.
CARD = """<style>html body .text_html:not(:has(table)) {
  background-color: #ced6dd; color: #14181e; padding: .5rem; }</style>"""


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_stands_out_from_the_page_and_has_no_card(browser, tmp_path, weights, theme):
    page = explore(random_image(), weights, (3, 4), title="Title").html
    page = f'{CARD}<div class="text_html">{page}</div>'
    with opened(browser, tmp_path, page, theme=theme) as tab:
        assert tab.evaluate(CONTRAST) >= 4.5
        ground = tab.locator(".text_html").evaluate(
            "card => getComputedStyle(card).backgroundColor"
        )
        assert ground == "rgba(0, 0, 0, 0)"
