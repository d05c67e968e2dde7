"""Sphinx extension: what a site has beside its pages.

Each page gets a description and a preview for those who link to it; the site gets a
list of its pages for search engines, and pages for addresses that lead nowhere, or led
to what stands elsewhere now.
"""

import html
import re
from pathlib import Path
from urllib.parse import urlsplit

from docutils import nodes

PREVIEW = "_static/preview.png"  # 1200 x 630 pixels, the book's overview
MOVED = {  # address before: the pages that have its parts now
    "notebooks/14_scaling_out": (
        "notebooks/14_several_processes",
        "notebooks/15_training_costs",
    )
}
LOST = """<h1>There is no such page</h1>
<p>It may have moved. The <a href="book/index.html">front page</a> lists the chapters,
and the search, at the left or behind the glass, finds words and functions.</p>
"""


def describe(doctree):
    """Return the first paragraph of a page in at most 200 characters."""
    for paragraph in doctree.findall(nodes.paragraph):
        text = re.sub(r"\s+", " ", paragraph.astext())
        if len(text) > 60:
            return text if len(text) <= 200 else text[:199].rsplit(" ", 1)[0] + " …"
    return ""


def add_tags(app, page, template, context, doctree):
    """Say in a page's head what it is about, and how a link to it looks."""
    if doctree is None:
        return
    site = app.config.html_baseurl
    title = re.sub(r"<.*?>", "", context["title"])
    tags = {
        "og:type": "article",
        "og:site_name": app.config.html_title,
        "og:title": title,
        "og:description": describe(doctree),
        "og:url": f"{site}{page}.html",
        "og:image": site + PREVIEW,
        "og:image:alt": "A Vision Transformer, from image to prediction",
    }
    lines = [f'<meta name="description" content="{html.escape(describe(doctree))}">']
    lines += [
        f'<meta property="{k}" content="{html.escape(v)}">' for k, v in tags.items()
    ]
    lines += ['<meta name="twitter:card" content="summary_large_image">']
    context["metatags"] += "\n".join(lines)


def add_lost(app):
    """Yield the page for addresses that lead nowhere."""
    yield "404", {"title": "There is no such page", "body": LOST}, "page.html"


def add_moved(app):
    """Yield a page for each address from before, with links to where its parts are."""
    for before, pages in MOVED.items():
        links = [
            f'<li><a href="{app.builder.get_relative_uri(before, page)}">'
            f"{html.escape(app.env.titles[page].astext())}</a></li>"
            for page in pages
        ]
        body = f"<h1>This page has moved</h1><ul>{''.join(links)}</ul>"
        yield before, {"title": "This page has moved", "body": body}, "page.html"


def finish(app, exception):
    """List the pages for search engines; root the links of the lost page."""
    if exception is not None:
        return
    out, site = Path(app.outdir), app.config.html_baseurl
    pages = [
        f"<url><loc>{site}{p}.html</loc></url>" for p in sorted(app.env.found_docs)
    ]
    head = '<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">'
    lines = ['<?xml version="1.0" encoding="utf-8"?>', head, *pages, "</urlset>\n"]
    (out / "sitemap.xml").write_text("\n".join(lines), encoding="utf-8")
    # The page is served for a wrong address at any depth.
    lost = (out / "404.html").read_text(encoding="utf-8")
    base = f'<head><base href="{urlsplit(site).path}">'
    (out / "404.html").write_text(lost.replace("<head>", base, 1), encoding="utf-8")


def setup(app):
    """Connect to the build."""
    app.connect("html-page-context", add_tags)
    app.connect("html-collect-pages", add_lost)
    app.connect("html-collect-pages", add_moved)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
