"""Print the built book, or some pages of it, into one PDF, by a headless Chromium.

pdf.py [FILE [PAGE ...]]      as in: pdf.py two.pdf book/index.html book/notation.html

All pages become one, so that pages are numbered through and links between them stay
inside it. Other links lead to the published book.
"""

import os
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
HTML = ROOT / "_build" / "html"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Addresses become whole ones, for the page takes in others from another folder; places
# are named by theirs, as several pages have an "exercises". Each page has its title in
# its foot.
ADD = """async ([address, taken]) => {
  const page = taken ? document : new DOMParser().parseFromString(
    await (await fetch(address)).text(), 'text/html');
  for (const name of ['src', 'href'])
    for (const part of page.querySelectorAll(`article [${name}]`))
      part.setAttribute(name, new URL(part.getAttribute(name), address));
  const chapter = page.querySelector('article > section');
  if (!taken) {
    for (const part of chapter.querySelectorAll('[id]'))
      part.id = `${address}#${part.id}`;
    document.querySelector('article').append(chapter);
  }
  const title = chapter.querySelector('h1').cloneNode(true);
  title.querySelector('.headerlink')?.remove();
  const name = title.textContent.trim();
  const number = document.styleSheets.length;
  const style = document.createElement('style');
  style.textContent =
    `@page chapter-${number} { @bottom-left { content: ${JSON.stringify(name)}; } }`;
  document.head.append(style);
  chapter.id = address;
  (taken ? document.body : chapter).style.page = `chapter-${number}`;
  return name;
}"""
JOIN = """() => {
  for (const link of document.querySelectorAll('article a[href]')) {
    const address = link.getAttribute('href');
    const place = [address, address.split('#')[0]].find(
      name => document.getElementById(name));
    if (place) link.setAttribute('href', '#' + encodeURIComponent(place));
  }
}"""
TYPESET = "MathJax.startup.promise.then(() => MathJax.typesetPromise())"
DRAW = "document.querySelectorAll(GRAPHS).forEach(draw)"
LOADED = "Promise.all([...document.images].map(image => image.decode()))"
SETTLED = """document.fonts.ready.then(() => new Promise(
  done => requestAnimationFrame(() => requestAnimationFrame(done))))"""


def in_toc():
    """Return the addresses of the pages in _toc.yml, in its order."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [c["file"] for part in toc["parts"] for c in part["chapters"]]
    return [f"{name}.html" for name in (toc["root"], *chapters)]


def write(out, pages):
    """Print pages of the built book into the file ``out``."""
    found = map(shutil.which, filter(None, [os.environ.get("CHROMIUM"), *BROWSERS]))
    program = next(filter(None, found), None)
    if program is None:
        sys.exit("no browser: apt-get install chromium, or set CHROMIUM to its path")
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    home = config["sphinx"]["config"]["html_baseurl"]

    def serve(route):
        address = route.request.url
        file = HTML / unquote(urlsplit(address.removeprefix(home)).path)
        if address.startswith(home) and file.is_file():
            route.fulfill(path=file)
        else:
            route.abort()

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox"]
        )
        tab = browser.new_page(color_scheme="light")
        tab.route("**/*", serve)
        tab.goto(home + pages[0])
        for page in pages:
            last = tab.evaluate(ADD, [home + page, page == pages[0]])
        tab.evaluate(JOIN)
        tab.evaluate(DRAW)
        tab.evaluate(TYPESET)
        tab.evaluate(LOADED)
        # What paper moves has to move before Chromium counts the pages.
        tab.emulate_media(media="print")
        tab.evaluate(SETTLED)
        tab.pdf(
            path=out,
            format="A4",
            outline=True,
            tagged=True,
            margin=dict(top="16mm", bottom="18mm", left="15mm", right="15mm"),
        )
        browser.close()
    if last.isascii() and f"/Title ({last})".encode() not in Path(out).read_bytes():
        sys.exit(f"{program} left out the end of the book")


if __name__ == "__main__":
    target = sys.argv[1] if sys.argv[1:] else HTML / "vision-transformers.pdf"
    write(target, sys.argv[2:] or in_toc())
    print(f"The PDF: {target}")
