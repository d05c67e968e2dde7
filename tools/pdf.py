"""Print the built book, or some pages of it, into one PDF, by a headless Chromium.

pdf.py [FILE [PAGE ...]]      as in: pdf.py two.pdf book/index.html book/notation.html

All pages become one, so that pages are numbered through and links between them stay
inside it. Other links lead to the published book. The contents behind the first page
name the pages of paper, which a first print tells.
"""

import os
import re
import shutil
import sys
from itertools import chain
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
# The contents: a list for each part of the book, numbers of pages still to come.
LIST = """parts => {
  const contents = document.createElement('section');
  contents.innerHTML = `<h1>Contents</h1><style>
    .contents { page: contents; }
    .contents ol { max-width: none; padding: 0; }
    .contents li { display: flex; gap: .5em; list-style: none; }
    .contents a { text-decoration: none; }
    .contents a::after { content: none; }
    .contents i { flex: 1; border-bottom: 1px dotted; margin-bottom: .4em; }
    .contents b { min-width: 2.5em; text-align: right; font-weight: 400; }
    </style>`;
  contents.className = 'contents';
  for (const [caption, addresses] of parts) {
    const list = document.createElement('ol');
    for (const address of addresses) {
      const chapter = document.getElementById(address);
      const title = chapter.querySelector('h1').cloneNode(true);
      title.querySelector('.headerlink')?.remove();
      const entry = document.createElement('li');
      entry.innerHTML = '<a></a><i></i><b>000</b>';
      entry.firstChild.href = address;
      entry.firstChild.textContent = title.textContent.trim();
      list.append(entry);
    }
    const heading = document.createElement('h2');
    heading.textContent = caption;
    contents.append(heading, list);
  }
  document.querySelector('article > section').after(contents);
}"""
NUMBER = """pages => document.querySelectorAll('.contents li').forEach(entry => {
  const place = decodeURIComponent(entry.firstChild.hash.slice(1));
  entry.lastChild.textContent = pages[place];
})"""
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
    """Return the first page's address, and those of each part by its caption."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    parts = {
        part["caption"]: [f"{chapter['file']}.html" for chapter in part["chapters"]]
        for part in toc["parts"]
    }
    return f"{toc['root']}.html", parts


def numbers(pdf):
    """Return the page of each place that a link of Chromium's PDF leads to, from 1."""
    found = re.findall(rb"(\d+) 0 obj\s*<</Type /Page\s", pdf)
    order = {page: i for i, page in enumerate(sorted(found, key=int), start=1)}
    places = re.findall(rb"/(\S+) \[(\d+) 0 R /XYZ", pdf)
    return {
        unquote(unquote(name.decode().replace("#", "%"))): order[page]
        for name, page in places
    }


def write(out, pages):
    """Print pages of the built book into the file ``out``."""
    parts = [
        (caption, [page for page in its if page in pages[1:]])
        for caption, its in in_toc()[1].items()
    ]
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
        tab.evaluate("title => document.title = title", config["title"])
        whole = [[name, [home + page for page in its]] for name, its in parts if its]
        tab.evaluate(LIST, whole)
        tab.evaluate(JOIN)
        tab.evaluate(DRAW)
        tab.evaluate(TYPESET)
        tab.evaluate(LOADED)
        # What paper moves has to move before Chromium counts the pages.
        tab.emulate_media(media="print")
        tab.evaluate(SETTLED)
        paper = dict(
            format="A4",
            outline=True,
            tagged=True,
            margin=dict(top="16mm", bottom="18mm", left="15mm", right="15mm"),
        )
        tab.evaluate(NUMBER, numbers(tab.pdf(**paper)))
        tab.pdf(path=out, **paper)
        browser.close()
    if last.isascii() and f"/Title ({last})".encode() not in Path(out).read_bytes():
        sys.exit(f"{program} left out the end of the book")


if __name__ == "__main__":
    target = sys.argv[1] if sys.argv[1:] else HTML / "vision-transformers.pdf"
    first, chapters = in_toc()
    write(target, sys.argv[2:] or [first, *chain.from_iterable(chapters.values())])
    print(f"The PDF: {target}")
