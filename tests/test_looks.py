"""How the rendered pages look: type, contrast, edges, graphs, paper, for everybody."""

import contextlib
import io
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image
from test_book import CHAPTERS, HTML, PAGES, ROOT, THEMES, opened, site, soup

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("html")]
WIDTHS = (360, 768, 992, 1280)  # a small phone, a tablet, the first with a sidebar
BLOCK = next(page for page in CHAPTERS if page.endswith("04_block"))
MAPS = next(page for page in CHAPTERS if page.endswith("attention_maps"))
LARGEST = next(page for page in CHAPTERS if page.endswith("distillation_token"))
TRAINING = next(page for page in CHAPTERS if page.endswith("08_training"))
FONTS = ROOT / "book" / "_static" / "fonts"
AXE = ROOT / ".venv" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
NO_AXE = "no axe-core found: install npm and run .ci/run"

__all__ = ["site"]  # a fixture


def turn(tab, theme):
    """Let the reader's system change to a theme, and the page with it, at once."""
    tab.emulate_media(color_scheme=theme)
    tab.wait_for_function(f"document.documentElement.dataset.theme === '{theme}'")
    tab.evaluate("document.getAnimations().forEach(change => change.finish())")


# ---- every page ----

# What sticks out of the page on the right and cannot be reached by scrolling its box.
TOO_WIDE = """() => {
  const wide = [];
  const page = document.scrollingElement;
  if (page.scrollWidth > innerWidth) wide.push(`page: ${page.scrollWidth}`);
  for (const element of document.querySelectorAll('article *')) {
    if (element.getBoundingClientRect().right <= innerWidth + 1) continue;
    if (element.closest('mjx-assistive-mml, svg svg, defs')) continue;
    if (element.matches('.rows img')) continue;  // seen through a window, which fits
    let box = element.parentElement;
    while (box && !['auto', 'scroll'].includes(getComputedStyle(box).overflowX))
      box = box.parentElement;
    if (!box || box.contains(document.querySelector('article')))
      wide.push(element.outerHTML.slice(0, 100));
  }
  for (const command of document.querySelectorAll('article .highlight-bash pre'))
    if (command.scrollWidth > command.clientWidth + 1)
      wide.push(command.textContent.slice(0, 60));
  return wide;
}"""

# Boxes that go on beyond an edge without a fade there.
UNSIGNED = """() => [...document.querySelectorAll('article *')].filter(box => {
  const over = box.scrollWidth - box.clientWidth > 1 && box.clientWidth > 0;
  if (!over || getComputedStyle(box).overflowX === 'visible') return false;
  if (box.closest('svg, mjx-assistive-mml, mjx-container > *')) return false;
  if (box.matches('.rows > span > span')) return false;  // a window; the next goes on
  const right = box.scrollWidth - box.clientWidth - box.scrollLeft > 1;
  const shown = side => box.classList.contains('more-' + side) &&
    getComputedStyle(box).maskImage !== 'none';
  return right && !shown('right') || box.scrollLeft > 1 && !shown('left');
}).map(box => box.outerHTML.slice(0, 100))"""

# Text of a size that is hard to read, on a phone or a larger screen.
SMALL = """() => {
  const least = innerWidth < 600 ? 11 : 12;
  const texts = document.createTreeWalker(
    document.querySelector('.bd-main'), NodeFilter.SHOW_TEXT);
  const small = [];
  for (let node; node = texts.nextNode();) {
    const element = node.parentElement;
    if (!node.data.trim() || element.closest('svg, mjx-container, script, style') ||
        !element.checkVisibility()) continue;
    if (parseFloat(getComputedStyle(element).fontSize) < least)
      small.push(node.data.trim().slice(0, 40));
  }
  for (const text of document.querySelectorAll('#vit-overview text'))
    if (text.getScreenCTM().a * parseFloat(getComputedStyle(text).fontSize) < 10)
      small.push(text.textContent);
  return small;
}"""

# Contrast of text with what is behind it, after WCAG 2: below 4.5 is hard to read.
CONTRAST = """() => {
  const numbers = color => color.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const color = numbers(getComputedStyle(element).backgroundColor);
      if (color.length === 3 || color[3] > .9) return color;
    }
    return [255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll('article p, article td, article th,' +
       'article li, article summary, article h1, article h2, #vit-overview text')) {
    if (!element.textContent.trim()) continue;
    const style = getComputedStyle(element);
    const front = numbers(element.closest('svg') ? style.fill : style.color);
    const [a, b] = [light(front), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + .05) / (b + .05);
    if (ratio < 4.5) poor.push(ratio.toFixed(1) + element.outerHTML.slice(0, 80));
  }
  return poor;
}"""

FITS = {"too wide": TOO_WIDE, "cut without a sign": UNSIGNED, "too small": SMALL}
LEGIBLE = {"too pale": CONTRAST}


def faults(tab, looks):
    """Return where a page has which faults, as far as it has any."""
    found = {name: tab.evaluate(look) for name, look in looks.items()}
    if any(found.values()):
        tab.wait_for_timeout(500)  # signs and colors come some frames later
        found = {name: tab.evaluate(look) for name, look in looks.items()}
    return {name: where for name, where in found.items() if where}


# What axe-core finds.
BARRIERS = """names => axe.run({exclude: ['pre']}, {resultTypes: ['violations'],
  preload: false, ...(names && {runOnly: names})}).then(found => found.violations.map(
  each => [each.id, each.nodes.map(node => node.html.slice(0, 200))]))"""

# Code has its own test below, and the signs of formulas are hidden from screen readers;
# axe would measure each of these thousands of elements anyway.
FLATTEN = """all => all.forEach(part => part.textContent = part.textContent)"""


@pytest.mark.parametrize("page", [*PAGES, "search", "genindex"])
def test_page_opens_without_error_fits_and_is_for_everybody(browser, site, page):
    with opened(browser, site, page, width=360) as (tab, wrong):
        sources = tab.locator("article .math").count()
        assert tab.locator("article mjx-container").count() >= sources
        assert tab.locator("article mjx-merror").count() == 0
        for width in WIDTHS:  # which no theme changes
            tab.set_viewport_size({"width": width, "height": 800})
            assert faults(tab, FITS) == {}, f"at {width} px"
        if AXE.is_file():
            tab.add_script_tag(path=AXE)
            tab.locator("pre, mjx-math[aria-hidden=true]").evaluate_all(FLATTEN)
        for theme, rules in (("light", None), ("dark", ["color-contrast"])):
            turn(tab, theme)
            assert faults(tab, LEGIBLE) == {}, theme
            if AXE.is_file():
                assert tab.evaluate(BARRIERS, rules) == [], theme
        assert wrong == []
    if not AXE.is_file():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(NO_AXE)


# ---- type ----

# Each kind of text in code and its contrast with its ground, after WCAG 2.
TOKENS = """() => {
  const numbers = color => color.match(/[\\d.]+/g).map(Number);
  const light = color => numbers(color).slice(0, 3).map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = element => {
    for (; element; element = element.parentElement) {
      const color = getComputedStyle(element).backgroundColor;
      if (numbers(color).length === 3 || numbers(color)[3] === 1) return color;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = {};
  for (const part of document.querySelectorAll('article pre, article pre span')) {
    if (!part.textContent.trim()) continue;
    const color = getComputedStyle(part).color;
    const kind = `${part.className} ${color} ${ground(part)}`;
    const [a, b] = [light(color), light(ground(part))].sort((x, y) => y - x);
    found[kind] = [part.className, color, (a + .05) / (b + .05)];
  }
  return Object.values(found);
}"""


def rgb(color):
    """Return the red, green and blue of a color as a browser writes it."""
    return tuple(map(float, re.findall(r"[\d.]+", color)[:3]))


@pytest.mark.parametrize("page", [BLOCK, "book/how_to_read"])
def test_code_is_legible_and_comments_differ_in_both_themes(browser, site, page):
    with opened(browser, site, page) as (tab, _):
        for theme in THEMES:
            turn(tab, theme)
            tokens = tab.evaluate(TOKENS)
            assert not [token for token in tokens if token[2] < 4.5], theme
            colors = {name: color for name, color, _ in tokens}
            if "c1" in colors:
                others = ("n", "k", "mi", "mf", "nb", "s2", "nf")
                assert colors["c1"] not in {colors.get(name) for name in others}
            kinds = [colors[k] for k in ("n", "k", "nf", "s2", "mi") if k in colors]
            assert len(kinds) == len({*kinds})
            # Red says that something went wrong: no word of sound code has it.
            tones = {name: rgb(color) for name, color in colors.items()}
            red = [k for k, (r, g, b) in tones.items() if r > 1.3 * max(g, b)]
            sound = {"k", "kn", "ow", "n", "o", "nf", "nb", "s2", "mi", "mf"}
            assert not {*red} & sound, theme


SIZES = """names => names.map(name => {
  const style = getComputedStyle(document.querySelector(name));
  return [parseFloat(style.fontSize), style.fontFamily.split(',')[0]];
})"""


def test_headings_go_down_in_size_and_text_has_the_books_font(browser, site):
    names = ["article h1", "article h2", "article h3", "article p", "article pre"]
    with opened(browser, site, BLOCK) as (tab, wrong):
        loaded = "document.fonts.ready.then(f => [...f].map(x => x.family + x.status))"
        assert "Source Sans 3loaded" in tab.evaluate(loaded)
        formula = "getComputedStyle(document.querySelector('mjx-mi mjx-c')).fontFamily"
        assert "MJX" in tab.evaluate(formula)
        for width, least in ((1280, 13.5), (390, 11)):
            tab.set_viewport_size({"width": width, "height": 800})
            sizes = tab.evaluate(SIZES, names)
            *headings, text, code = [size for size, _ in sizes]
            assert headings == sorted(set(headings), reverse=True), width
            assert headings[-1] > text >= 17 and code >= least, width
            assert {family for _, family in sizes[:4]} == {'"Source Sans 3"'}
        assert wrong == []


HEIGHTS = """() => [...document.querySelectorAll('article :is(h1, h2, h3)')]
  .map(e => e.getBoundingClientRect().height)"""


def test_mark_of_a_heading_takes_no_room(browser, site):
    remove = "all => all.forEach(mark => mark.remove())"
    with opened(browser, site, MAPS) as (tab, _):

        def heights(width):
            tab.set_viewport_size({"width": width, "height": 800})
            tab.wait_for_timeout(500)  # the columns of the page find their widths
            return tab.evaluate(HEIGHTS)

        marked = {width: heights(width) for width in (390, 1280)}
        tab.locator(".headerlink").evaluate_all(remove)
        assert {width: heights(width) for width in marked} == marked


def test_fonts_are_light_and_bring_their_license():
    sizes = [file.stat().st_size for file in FONTS.glob("*.woff2")]
    assert sizes and sum(sizes) <= 150_000
    assert "SIL OPEN FONT LICENSE" in (FONTS / "LICENSE").read_text(encoding="utf-8")


def test_numbers_in_tables_stand_at_the_right(browser, site):
    with opened(browser, site, LARGEST) as (tab, _):
        cells = tab.locator("article td", has_text=re.compile(r"^\s*[\d.]+\s*$"))
        styles = "all => all.map(e => getComputedStyle(e).textAlign)"
        assert set(cells.evaluate_all(styles)) == {"right"}


GAPS = """() => [...document.querySelectorAll('.cell_output > * + *')]
  .map(e => [e, e.previousElementSibling].map(each => each.getBoundingClientRect()))
  .map(([below, above]) => below.top - above.bottom)"""


@pytest.mark.parametrize("page", [LARGEST, TRAINING])
def test_outputs_keep_a_distance_and_are_no_inputs(browser, site, page):
    with opened(browser, site, page) as (tab, _):
        gaps = tab.evaluate(GAPS)
        assert gaps and min(gaps) >= 12
        ground = "e => getComputedStyle(e).backgroundColor"
        entry = tab.locator(".cell_input").first.evaluate(ground)
        assert tab.locator(".output.stream").first.evaluate(ground) != entry


@pytest.mark.parametrize("page", CHAPTERS)
def test_checks_of_exercises_and_imports_are_folded_in_every_chapter(page):
    checks = soup(page).select("article .cell.tag_exercise-check")
    assert checks
    for cell in checks:
        assert cell.select_one("details.hide > summary").p.text == "Check"
    first = soup(page).select_one("article .cell")
    assert first.select_one("details.hide > summary").p.text == "Imports"
    for code in soup(page).select("article .cell > .cell_input"):
        lines = code.get_text().strip().splitlines()
        imports = [line for line in lines if line.startswith(("import ", "from "))]
        assert not lines[0].startswith(("import ", "from ")) or len(imports) < 10


# ---- edges ----


def test_code_on_a_phone_wraps_and_a_fade_follows_an_outputs_scrolling(browser, site):
    with opened(browser, site, BLOCK, width=390) as (tab, _):
        inputs = tab.locator("article .cell_input pre")
        wide = "all => all.filter(e => e.scrollWidth > e.clientWidth + 1).length"
        assert inputs.evaluate_all(wide) == 0
        texts = inputs.evaluate_all("all => all.map(e => e.textContent)")
        assert tab.locator("article pre wbr").count() > 0  # lines break before dots
        box = tab.locator("article pre.more-right").first.element_handle()
        box.evaluate("box => box.scrollLeft = box.scrollWidth")
        done = "box => box.matches('.more-left:not(.more-right)')"
        tab.wait_for_function(done, arg=box)
    written = [part.get_text() for part in soup(BLOCK).select(".cell_input pre")]
    assert texts == written


COVERED = """() => [...document.querySelectorAll('button.copybtn')].filter(b => {
  const button = b.getBoundingClientRect();
  const line = b.parentElement.querySelector('pre > .line');
  const texts = document.createTreeWalker(line, NodeFilter.SHOW_TEXT);
  for (let text; text = texts.nextNode();)
    for (const word of text.data.matchAll(/\\S+/g)) {
      const range = document.createRange();
      range.setStart(text, word.index);
      range.setEnd(text, word.index + word[0].length);
      for (const { right, top, bottom } of range.getClientRects())
        if (right > button.left + 4 && top < button.bottom - 3 &&
            bottom > button.top + 3) return true;
    }
  return false;
}).map(b => b.parentElement.textContent.slice(0, 60))"""


UNFOLD = "document.querySelectorAll('details').forEach(fold => fold.open = true)"


def test_copy_button_under_a_finger_covers_no_first_line(browser, site):
    phone = {"viewport": {"width": 390, "height": 800}, "has_touch": True}
    with contextlib.closing(browser.new_context(**phone, is_mobile=True)) as context:
        tab = context.new_page()
        for page in ("book/commands", BLOCK):
            tab.goto(f"{site}/{page}.html")
            buttons = tab.locator("article button.copybtn")
            buttons.first.wait_for(state="attached")
            tab.evaluate(UNFOLD)  # a chapter's first cell has its imports folded
            assert all(button.is_visible() for button in buttons.all())
            assert tab.evaluate("matchMedia('(hover: none)').matches")
            assert tab.evaluate(COVERED) == [], page


def test_lines_break_neither_before_a_unit_nor_beside_a_formula():
    torn = re.compile(r"\d (%|[kMG]B\b|by \d)|\b[Cc]hapter \d")
    for page in (MAPS, TRAINING):
        for part in soup(page).select("article :is(p, figcaption)"):
            for code in part.select("code"):
                code.clear()
            assert not torn.search(part.get_text()), page
        formulas = soup(page).select("article p > .math")
        behind = [formula.next_sibling for formula in formulas]
        assert formulas and not [t for t in behind if str(t)[:1] in {*".,;:)"}]


def test_no_word_leaves_its_cell_in_the_glossary(browser, site):
    out = """all => all.filter(e => e.scrollWidth > e.clientWidth + 1)
      .map(e => e.textContent)"""
    with opened(browser, site, "book/glossary") as (tab, _):
        for width in (390, 1280):
            tab.set_viewport_size({"width": width, "height": 800})
            boxes = tab.locator("article :is(td, .pst-scrollable-table-container)")
            assert boxes.evaluate_all(out) == []


# ---- graphs and pictures ----


def test_graph_opens_at_its_root_and_lets_the_wheel_pass(browser, site):
    with opened(browser, site, LARGEST, width=390) as (tab, wrong):
        box = tab.locator(".graph > div").first
        box.scroll_into_view_if_needed()
        view = box.bounding_box()
        names = ("class_token", "distill_token", "proj.weight")
        for name in names:  # what the graph begins with, whole
            first = box.locator(".node", has_text=f"embeddings.{name}").bounding_box()
            assert view["x"] <= first["x"], name
            assert first["x"] + first["width"] <= view["x"] + view["width"], name
        assert box.get_by_role("img").get_attribute("aria-label")
        name = box.locator("text").first
        size = "e => e.getScreenCTM().a * parseFloat(getComputedStyle(e).fontSize)"
        assert name.evaluate(size) >= 10

        before = tab.evaluate("scrollY")
        tab.mouse.move(view["x"] + 100, view["y"] + 100)
        tab.mouse.wheel(0, 200)
        tab.wait_for_function(f"scrollY !== {before}")
        assert box.evaluate("box => box.scrollTop") == 0
        box.click(position={"x": 5, "y": 5})
        assert box.evaluate("box => getComputedStyle(box).overflowY") == "auto"
        assert wrong == []


def test_whole_graph_is_a_click_away_and_legible_in_the_dark(browser, site):
    with opened(browser, site, LARGEST, theme="dark") as (tab, _):
        ground = "e => getComputedStyle(e).backgroundColor"
        frame = tab.locator(".text_html:has(> .graph)").first
        assert frame.evaluate(ground) == "rgba(0, 0, 0, 0)"
        tab.get_by_role("button", name="Whole graph").first.click()
        graph = tab.locator(".lightbox svg").bounding_box()
        assert graph["y"] >= 0 and graph["y"] + graph["height"] <= 800
        tab.keyboard.press("Escape")
        assert tab.locator("dialog.lightbox").count() == 0


def test_picture_opens_large_and_the_reader_stays(browser, site):
    with opened(browser, site, BLOCK, width=390) as (tab, wrong):
        link, address = tab.locator("article a.image-reference").first, tab.url
        width = link.locator("img").bounding_box()["width"]
        link.focus()
        tab.keyboard.press("Enter")
        large = tab.get_by_role("dialog").locator("img")
        assert large.bounding_box()["width"] <= 390  # first all of it
        tab.get_by_role("button", name="Larger").click()
        assert large.bounding_box()["width"] > 1.3 * width
        tab.keyboard.press("Escape")
        assert tab.locator("dialog.lightbox").count() == 0 and tab.url == address
        assert link.evaluate("link => link === document.activeElement")
        assert wrong == []


RAIL = """figure => {
  const rail = getComputedStyle(figure.querySelector('figcaption'), '::before');
  const box = figure.querySelector('a');
  const [thumb] = rail.backgroundSize.split('%').map(Number);
  const [place] = rail.backgroundPosition.split('%').map(Number);
  return rail.content === 'none' ? null : [rail.content, Math.round(place),
    Math.abs(thumb - 100 * box.clientWidth / box.scrollWidth) < 1];
}"""


def test_rail_below_a_figure_says_that_it_pans_and_where_one_is(browser, site):
    to_its_end = "figure => figure.querySelector('a').scrollLeft = 1e4"
    whole = "figure img.drawn-figure.wide[data-rows='[]']"  # has no panels to stack
    pans = next(page for page in CHAPTERS if soup(page).select_one(whole))
    with opened(browser, site, pans, width=390) as (tab, wrong):
        figure = tab.locator("article figure.pans").first
        figure.wait_for()
        words, *seen = figure.evaluate(RAIL)
        assert "Swipe" in words and seen == [0, True]
        figure.evaluate(to_its_end)
        tab.wait_for_function(
            f"figure => ({RAIL})(figure)[1] === 100", arg=figure.element_handle()
        )
        tab.emulate_media(media="print")
        assert figure.evaluate(RAIL) is None
        tab.emulate_media(media="screen")
        tab.set_viewport_size({"width": 1280, "height": 800})
        tab.wait_for_function("!document.querySelector('article figure.pans')")
        assert wrong == []


@pytest.mark.parametrize("page", [BLOCK, TRAINING])  # with wide figures
def test_figures_have_the_pages_ground_and_texts_of_ten_pixels(browser, site, page):
    scales = "all => all.map(e => e.getBoundingClientRect().width / e.naturalWidth)"
    with opened(browser, site, page) as (tab, _):
        figures = tab.locator("article img.drawn-figure")
        for theme in THEMES:
            turn(tab, theme)
            body = tab.evaluate("getComputedStyle(document.body).backgroundColor")
            ground = tuple(map(int, re.findall(r"\d+", body)[:3]))
            for figure in figures.all():
                shot = Image.open(io.BytesIO(figure.screenshot())).convert("RGB")
                assert {shot.getpixel((x, 2)) for x in (2, shot.width - 3)} == {ground}
        tab.set_viewport_size({"width": 390, "height": 800})
        pieces = tab.locator("article .rows img")
        pieces.first.wait_for()
        whole = tab.locator("article figure:not(.stacked) img.drawn-figure")
        shrunk, cut = whole.evaluate_all(scales), pieces.evaluate_all(scales)
    least = 10 * 4 / 3  # of 10 points, which tools/form.py sees to
    assert shrunk and all(10 <= least * scale <= least + 0.1 for scale in shrunk)
    assert cut and all(10 <= least * scale <= least + 0.1 for scale in cut)


OUTSIDE = """all => all.filter(piece => {
  const { left, right } = piece.getBoundingClientRect();
  return left < 0 || right > innerWidth + .5;
}).length"""


@pytest.mark.parametrize("page", CHAPTERS)
def test_panels_stand_in_rows_on_a_phone_so_that_hardly_a_figure_pans(
    browser, site, page
):
    with opened(browser, site, page, width=390) as (tab, wrong):
        tab.wait_for_function("document.readyState === 'complete'")
        figures = tab.locator("article .cell_output figure")
        assert tab.locator("article .rows > span > span").evaluate_all(OUTSIDE) == 0
        assert tab.locator("article figure.stacked.pans").count() == 0
        assert tab.locator("article figure.pans").count() <= 2 < figures.count() + 1
        if stacked := tab.locator("article figure.stacked").count():
            tab.locator("article figure.stacked > a").first.click()
            large = tab.get_by_role("dialog").locator("img")
            assert large.count() == 1 and large.bounding_box()["width"] > 200
            tab.keyboard.press("Escape")
            tab.emulate_media(media="print")
            assert not tab.locator("article .rows").first.is_visible()
            tab.emulate_media(media="screen")
            tab.set_viewport_size({"width": 1280, "height": 800})
            tab.wait_for_function("!document.querySelector('figure.stacked')")
            assert stacked and tab.locator("article .rows").count() == 0
        assert wrong == []


@pytest.mark.parametrize("page", CHAPTERS)
def test_figures_are_numbered_and_say_what_to_see(page):
    figures = soup(page).select("article .cell_output figure")
    numbers = [figure.select_one(".caption-number").text.strip() for figure in figures]
    chapter = f"{int(Path(page).name[:2])}.".removeprefix("0.")
    expected = [f"Figure {chapter}{i}" for i in range(1, len(figures) + 1)]
    assert numbers == expected and figures
    captions = [figure.select_one(".caption-text").get_text() for figure in figures]
    assert not [words for words in captions if not words.strip().endswith(".")]


def test_figures_are_light():
    for page in CHAPTERS:
        sources = {
            image["src"] for image in soup(page).select("article img.drawn-figure")
        }
        sizes = [(HTML / page).parent.joinpath(src).stat().st_size for src in sources]
        assert sum(sizes) < 1_600_000, page


# ---- the way around ----


def test_menu_opens_on_a_phone(browser, site):
    with opened(browser, site, PAGES[0], width=360) as (tab, _):
        menu = tab.locator(".bd-sidebar-primary, #pst-primary-sidebar-modal")
        entry = menu.get_by_role("link", name="Notation")
        assert not entry.first.is_visible()
        tab.locator("button.primary-toggle:visible").first.click()
        entry.locator("visible=true").first.click()
        tab.wait_for_url("**/book/notation.html")


def test_theme_button_turns_the_page_dark(browser, site):
    with opened(browser, site, PAGES[0]) as (tab, _):
        tab.locator("button.theme-switch-button:visible").first.click()
        assert tab.evaluate("document.documentElement.dataset.theme") == "dark"
        color = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(map(int, re.findall(r"\d+", color)[:3])) < 64


def test_book_opens_from_the_folder_without_a_server(browser):
    with opened(browser, HTML.as_uri(), "book/notation") as (tab, wrong):
        assert tab.locator("article mjx-container").count() > 5
        assert wrong == []


@pytest.mark.parametrize("page", [PAGES[0], BLOCK, PAGES[-1]])
def test_list_of_chapters_fits_a_laptop(browser, site, page):
    with opened(browser, site, page) as (tab, _):
        tab.set_viewport_size({"width": 1280, "height": 900})
        high = "e => [e.scrollHeight, e.clientHeight]"
        need, there = tab.locator(".bd-sidebar-primary").evaluate(high)
        assert need <= there
        assert tab.locator(".search-button-field").bounding_box()["y"] >= 0


def test_contents_lead_to_the_explorer(browser, site):
    with opened(browser, site, MAPS) as (tab, _):
        contents = tab.locator("#pst-page-toc-nav")
        assert contents.get_by_role("link", name="Explore the weights").is_visible()


def test_overview_leads_to_the_chapters_that_it_names():
    overview = soup(PAGES[0]).select_one("#vit-overview")
    numbers = re.findall(r"\d+", " ".join(t.text for t in overview.select("text")))
    links = [link["href"] for link in overview.select("a")]
    assert [int(Path(link).name[:2]) for link in links] == list(map(int, numbers))


def test_copy_button_shows_for_the_keyboard(browser, site):
    with opened(browser, site, BLOCK) as (tab, _):
        assert tab.locator(".output button.copybtn").count() == 0
        button = tab.locator("article button.copybtn:visible").first
        opacity = "e => getComputedStyle(e).opacity"
        assert button.evaluate(opacity) == "0"
        tab.keyboard.press("Tab")  # so that focus is the keyboard's
        button.focus()
        assert button.evaluate("button => button === document.activeElement")
        tab.wait_for_function(
            "getComputedStyle(document.activeElement).opacity === '1'"
        )


def test_search_finds_functions_and_shows_words(browser, site):
    with opened(browser, site, "search", query="?q=attention_rollout") as (tab, _):
        tab.locator("#search-results a", has_text="vitutils.maps").first.wait_for()
    with opened(browser, site, "search", query="?q=softmax") as (tab, wrong):
        results = tab.locator("#search-results li a")  # they come one by one
        results.filter(has_text="Notation").first.wait_for()
        tab.locator("#search-results .context").nth(5).wait_for()
        shown = tab.locator("#search-results .context").all_inner_texts()
        assert not [text for text in shown if "\\" in text or "..." in text]
        assert wrong == []


def test_sources_lead_to_their_entries():
    links = soup(BLOCK).select('article a[href*="bibliography.html#"]')
    assert links
    for link in links:
        entry = soup("book/bibliography").find(id=urlsplit(link["href"]).fragment)
        assert link["title"][:20] in entry.get_text().replace("\xa0", " ")


def test_site_describes_itself(config):
    listed = (HTML / "sitemap.xml").read_text(encoding="utf-8")
    home = config["sphinx"]["config"]["html_baseurl"]
    for page in PAGES:
        assert f"<loc>{home}{page}.html</loc>" in listed
        head = soup(page).head
        about = head.select_one('meta[name="description"]')["content"]
        assert 20 < len(about) <= 200 and "\\" not in about, page
        for key in ("og:title", "og:description", "og:url", "og:image"):
            assert head.select_one(f'meta[property="{key}"]')["content"], (page, key)
    preview = HTML / "_static" / "preview.png"
    assert head.select_one('meta[property="og:image"]')["content"].endswith(
        "_static/preview.png"
    )
    assert preview.stat().st_size < 100_000
    assert Image.open(preview).size == (1200, 630)


def test_lost_reader_finds_back_from_any_depth(browser, site, config):
    name = urlsplit(config["repository"]["url"]).path.strip("/").split("/")[1]

    def serve(route):
        path = urlsplit(route.request.url).path.removeprefix(f"/{name}/")
        file = HTML / path
        route.fulfill(path=file if file.is_file() else HTML / "404.html")

    tab = browser.new_page()
    tab.route("**/*", serve)
    tab.goto(f"{site}/{name}/notebooks/no/such/page.html")
    assert tab.get_by_role("heading", level=1).inner_text() == "There is no such page"
    tab.locator("article").get_by_role("link", name="front page").click()
    assert tab.url == f"{site}/{name}/book/index.html"
    tab.close()


# ---- paper ----

PALE = """() => [...document.querySelectorAll(
    'article :is(p, li, h1, h2, h3, pre span)')]
  .filter(e => e.textContent.trim() && e.checkVisibility())
  .map(e => getComputedStyle(e).color)
  .filter(c => Math.max(...c.match(/[\\d.]+/g).slice(0, 3).map(Number)) > 210)"""
TORN = """() => [...document.querySelectorAll(
    'article .cell_input, article .cell_input *')]
  .filter(e => e.checkVisibility() && !e.closest('button') &&
    (getComputedStyle(e).breakInside !== 'auto' ||
     getComputedStyle(e).display.endsWith('flex') ||
     !['visible', 'clip'].includes(getComputedStyle(e).overflowY)))
  .map(e => e.outerHTML.slice(0, 80))"""
HIDDEN = """() => [...document.querySelectorAll('article .graph > div, article pre')]
  .filter(e => getComputedStyle(e).overflow !== 'visible' ||
    e.getBoundingClientRect().right > innerWidth)
  .map(e => e.outerHTML.slice(0, 80))"""


@pytest.mark.parametrize("page", [BLOCK, MAPS, LARGEST])
def test_paper_shows_everything_from_the_dark_theme_too(browser, site, page):
    with opened(browser, site, page, theme="dark") as (tab, wrong):
        folded = tab.locator("article details:not([class])")
        places = folded.evaluate_all("all => all.map(e => e.parentElement.id)")
        tab.set_viewport_size({"width": 680, "height": 980})  # A4 less its margins
        tab.emulate_media(media="print")
        tab.wait_for_function("document.documentElement.dataset.theme === 'light'")
        assert tab.evaluate(PALE) == []
        assert tab.evaluate(TORN) == []
        assert tab.evaluate(HIDDEN) == []
        assert tab.locator("article h1").inner_text()[0].isdigit()
        assert not tab.locator("#jb-print-docs-body").is_visible()
        assert not tab.locator(".tag_exercise-check").first.is_visible()
        breaks = "all => [...new Set(all.map(e => getComputedStyle(e).breakInside))]"
        whole = "figure:not(:has(.parted))"
        assert tab.locator(f"article {whole}").evaluate_all(breaks) == ["avoid"]
        tables = tab.locator("article table").evaluate_all(breaks)
        assert tables == ([] if page == MAPS else ["auto"])  # it has none
        parted = tab.locator("article figure:has(.parted)").evaluate_all(breaks)
        assert parted == (["auto"] if page == LARGEST else [])
        graphs = tab.locator(".graph svg").evaluate_all(
            "all => all.map(e => e.getBoundingClientRect().height)"
        )
        assert all(0 < height <= 980 for height in graphs)
        words = tab.locator(".graph svg").evaluate_all(
            """all => all.map(e => e.querySelector('.node text')).map(
              e => e.getScreenCTM().a * parseFloat(getComputedStyle(e).fontSize))"""
        )
        assert all(size >= 7 for size in words)  # 5.3 points, of large graphs too
        answers = tab.locator("article > section > section").last
        assert answers.locator("h2").inner_text() == "Solutions"
        assert answers.locator("details[open]").count() == len(places) > 0

        tab.emulate_media(media="screen")
        tab.wait_for_function("document.documentElement.dataset.theme === 'dark'")
        assert folded.evaluate_all("all => all.map(e => e.parentElement.id)") == places
        assert tab.locator("article details[open]").count() == 0
        assert wrong == []


def test_paper_wastes_no_pages(browser, site, tmp_path):
    with opened(browser, site, BLOCK) as (tab, _):
        tab.pdf(path=tmp_path / "block.pdf", format="A4")
        tab.set_viewport_size({"width": 680, "height": 980})  # A4 less its margins
        tab.emulate_media(media="print")
        tab.wait_for_timeout(500)
        high = tab.locator("article").evaluate("e => e.getBoundingClientRect().height")
    pages = re.findall(rb"/Type\s*/Page\b", (tmp_path / "block.pdf").read_bytes())
    assert 10 < len(pages) <= 1.1 * high / 980


def test_book_becomes_one_pdf_whose_links_stay_inside_or_lead_to_the_published_one(
    browser, config, tmp_path
):
    command = [sys.executable, "tools/pdf.py", tmp_path / "two.pdf"]
    pages = [f"{page}.html" for page in (PAGES[0], BLOCK)]
    done = subprocess.run([*command, *pages], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pdf = (tmp_path / "two.pdf").read_bytes()
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) > 15
    home = config["sphinx"]["config"]["html_baseurl"]
    assert f"({home}notebooks/".encode() in pdf
    assert f"({home}{BLOCK}.html".encode() not in pdf
    numbers = runpy.run_path(str(ROOT / "tools" / "pdf.py"))["numbers"](pdf)
    first = numbers[f"{home}{BLOCK}.html"]
    assert 3 < first < numbers[f"{home}{BLOCK}.html#summary"] and b"(Contents)" in pdf
    assert b"/Outlines" in pdf and b"file://" not in pdf
