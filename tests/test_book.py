"""The rendered book: what a reader meets in it, on paper and in a real browser."""

import contextlib
import functools
import http.server
import re
import runpy
import threading
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
THEMES = ("light", "dark")


def in_toc():
    """Return the pages that _toc.yml names, in its order, without a suffix."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [c["file"] for part in toc["parts"] for c in part["chapters"]]
    return [toc["root"], *chapters]


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("html")]
PAGES = in_toc()
CHAPTERS = [page for page in PAGES if page.startswith("notebooks/")]
MOVED = runpy.run_path(str(ROOT / "book/_ext/site_files.py"))["MOVED"]


@functools.cache
def soup(page):
    """Return a rendered page, parsed."""
    text = (HTML / f"{page}.html").read_text(encoding="utf-8")
    return BeautifulSoup(text, "html.parser")


@functools.cache
def anchors(page):
    """Return the names in a rendered page to which a link can lead."""
    parts = soup(page).find_all(lambda tag: tag.has_attr("id") or tag.has_attr("name"))
    return {part[key] for part in parts for key in ("id", "name") if part.has_attr(key)}


def local_target(page, address):
    """Return (file, anchor) of an address in a page; None where it leaves the site."""
    address, anchor = urldefrag(address)
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return None
    here = HTML / f"{page}.html"
    file = (here.parent / unquote(parts.path)).resolve() if parts.path else here
    return file, unquote(anchor)


def leads(file, anchor):
    """Whether a file is there, and in it what a link's anchor names."""
    if not anchor or file.suffix != ".html" or not file.is_file():
        return file.is_file()
    return anchor in anchors(str(file.relative_to(HTML).with_suffix("")))


# ---- the files ----


@pytest.mark.parametrize("page", PAGES)
def test_links_and_anchors_resolve(page):
    broken = [
        link["href"]
        for link in soup(page).select("a[href]")
        if (target := local_target(page, link["href"])) and not leads(*target)
    ]
    assert not broken


@pytest.mark.parametrize("page", PAGES)
def test_images_exist_and_have_alt_text(page):
    missing = [
        image["src"][:80]
        for image in soup(page).select("img[src]")
        if (target := local_target(page, image["src"])) and not target[0].is_file()
    ]
    # The theme's own pictures (logos of the launch buttons) stand beside their words.
    images = soup(page).select("article img, article svg[role=img]")
    silent = [str(image)[:80] for image in images if not said(image)]
    assert not missing and not silent


def said(image):
    """Return what a screen reader says of an image."""
    ids = image.get("aria-labelledby", "").split()
    found = [image.find(id=i) for i in ids]
    return image.get("alt", "").strip() or " ".join(e.text for e in found if e)


@pytest.mark.parametrize("page", CHAPTERS)
def test_outputs_are_described_in_words_not_by_a_file_name(page):
    alts = [image.get("alt", "") for image in soup(page).select(".cell_output img")]
    assert not [alt for alt in alts if re.search(r"_images/|\.(png|svg)$", alt)]


@pytest.mark.slow(135)  # as it builds the book: no other test is to wait for that
def test_pages_are_those_of_the_table_of_contents():
    files = [p.relative_to(HTML) for p in HTML.rglob("*.html")]
    built = {str(f.with_suffix("")) for f in files if f.parts[0] != "_static"}
    assert built - {"index", "genindex", "search", "404", *MOVED} == set(PAGES)


@pytest.mark.parametrize("page", MOVED)
def test_an_address_from_before_leads_to_its_parts(page):
    links = [link["href"] for link in soup(page).select("article li a")]
    targets = [local_target(page, link)[0] for link in links]
    assert targets == [HTML / f"{part}.html" for part in MOVED[page]]
    assert all(target.is_file() for target in targets)


def test_chapters_are_numbered_in_order():
    one_page, *titles = [soup(page).article.h1.get_text() for page in CHAPTERS]
    starts = [re.match(r"(\d+)\. \D", title) for title in titles]
    assert all(starts), titles
    assert [int(s[1]) for s in starts] == list(range(1, len(CHAPTERS)))
    assert one_page.startswith("The whole model")


@pytest.mark.parametrize("page", PAGES)
def test_no_markup_is_left_unrendered(page):
    article = soup(page).article
    literal = {id(e) for e in article.select("pre, code, script, .math, style, .sig")}
    words = "".join(
        text for text in article.strings if literal.isdisjoint(map(id, text.parents))
    )
    raw = r"\{(?:cite|ref|doc|numref|eq|math|admonition)\S*\}|\[\^|\*\*\w|^\(\S+\)=$|\$"
    assert not re.findall(raw, words, flags=re.M)


def test_every_source_is_in_the_bibliography():
    bib = (ROOT / "book" / "references.bib").read_text(encoding="utf-8")
    page = soup("book/bibliography")
    entries = [e.get_text(" ", strip=True) for e in page.select("div.citation")]
    assert len(entries) == len(re.findall(r"^@", bib, flags=re.M)) > 0
    assert all(re.search(r"\b(19|20)\d\d\b", entry) for entry in entries)


@pytest.mark.parametrize("page", PAGES)
def test_nothing_is_fetched_from_another_site(page):
    fetching = "script[src], link[href], img[src], iframe, source, video"
    parts = soup(page).select(fetching)
    fetched = [
        part.get("src") or part.get("href", "")
        for part in parts
        if part.get("rel") not in (["canonical"], ["next"], ["prev"])
    ]
    assert not [f for f in fetched if re.match(r"(https?:)?//", f)]


@pytest.mark.parametrize("page", CHAPTERS)
def test_chapters_offer_colab_source_issue_and_edit(page, config):
    url, branch = config["repository"]["url"], config["repository"]["branch"]
    slug = url.removeprefix("https://github.com/")
    colab = (
        f"https://colab.research.google.com/github/{slug}/blob/{branch}/{page}.ipynb"
    )
    links = {link["href"] for link in soup(page).select("a[href]")}
    assert {colab, url, f"{url}/edit/{branch}/{page}.ipynb"} <= links
    assert any(link.startswith(f"{url}/issues/new") for link in links)


# ---- the browser ----


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves the built book, silently."""

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    """Says nothing where a page is closed before all of it has come."""

    def handle_error(self, *args):
        pass


@pytest.fixture(scope="module")
def site(html):
    """Address of a local server of the built book."""
    handler = functools.partial(Handler, directory=str(HTML))
    with Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@contextlib.contextmanager
def opened(browser, site, page, *, query="", theme="light", width=1280):
    """Open a page, its formulas typeset; yield it with what went wrong in it.

    One tab opens all pages, one after another: what they share is compiled once. After
    a fault it is closed with all it remembers.
    """
    context = browser.contexts[0] if browser.contexts else browser.new_context()
    tab, wrong = context.pages[0] if context.pages else context.new_page(), []
    heard = {
        "console": lambda m: m.type in ("error", "warning") and wrong.append(m.text),
        "pageerror": lambda error: wrong.append(str(error)),
        "requestfailed": lambda r: wrong.append(f"not loaded: {r.url}"),
        "response": lambda r: r.ok or r.status == 304 or wrong.append(r.url),
        "request": lambda r: leaves(r.url, site) and wrong.append(f"off: {r.url}"),
    }
    try:
        tab.set_viewport_size({"width": width, "height": 800})
        tab.emulate_media(media="null", color_scheme=theme)
        for event, listener in heard.items():
            tab.on(event, listener)
        tab.goto(f"{site}/{page}.html{query}")
        tab.evaluate("window.MathJax && MathJax.startup && MathJax.startup.promise")
        yield tab, wrong
        for event, listener in heard.items():
            tab.remove_listener(event, listener)
        tab.evaluate("localStorage.clear(), sessionStorage.clear()")
        tab.goto("about:blank")
        tab.mouse.move(0, 0)
    except BaseException:
        context.close()
        raise


def leaves(url, site):
    """Whether a request goes to another site."""
    return not url.startswith((f"{site}/", "data:", "blob:"))
