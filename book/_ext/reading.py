"""Sphinx extension: what makes code, tables, figures and citations easier to read."""

import ast
import re
from pathlib import Path

from docutils import nodes
from pybtex.backends.plaintext import Backend

PLAIN = Backend()  # by its name it would be looked for in every installed package
NUMBER = re.compile(
    r"[-+−±]?[\d.,\s]*\d[\d.,]*\s*(±\s*[\d.]+)?\s*(%|k|M|MB|s|min|h|×)?"
)
CITED = re.compile(r"(.+?)(?: et al\.| and .+?)? \((\d{4})\w?\)")
MANY_LINES = 10
# Numbers stay with their units, and with the word that says what they count.
BOUND = re.compile(
    r"(?<=\d) (?=(?:%|[kMG]i?B|ms|s|px|h)(?!\w))|(?<=\d) (?=by \d)|(?<=\d by) (?=\d)"
    r"|(?<=\d) (?=±)|(?<=±) (?=\d)"
    r"|(?<=\b(?i:chapter|section)) (?=\d|$)|(?<=\b(?i:exercise|equation)) (?=\d|$)"
    r"|(?<=\b(?i:figure)) (?=\d|$)|(?<=\b(?i:table)) (?=\d|$)"
)
# A formula in a line stays with the bracket before it and the mark behind it.
MARKED = re.compile(
    r'(\(?)(<span class="math notranslate nohighlight">[^<]*</span>)([.,;:)?!]*)'
)
ROLES = (
    (r' role="doc-biblioentry"', ""),  # deprecated
    (r'<div role="list" (class="citation-list")', r"<div \1"),
    (r"<dl>(?=\s*<dd>)", '<dl role="presentation">'),  # a signature in lines
    (r'<summary aria-label="[^"]*">', "<summary>"),  # it has words
    (r"<th([^>]*)><p></p></th>", r"<td\1></td>"),  # a heading that says nothing
)


def fold(app, doctree):
    """Fold what is no reading matter: checks of exercises, and long lists of imports.

    Code that only draws is folded by its own tag, ``hide-input``; so are imports that
    are shorter.
    """
    for cell in doctree.findall(nodes.container):
        if cell.get("nb_element") != "cell_code":
            continue
        lines = imported(cell.children[0].astext())
        imports = lines >= (1 if cell.get("hide_mode") else MANY_LINES)
        tags = cell["cell_metadata"].get("tags", [])
        if imports or ("exercise-check" in tags and not cell.get("hide_mode")):
            what = "imports" if imports else "check"
            cell["hide_mode"] = "input"
            cell["prompt_show"] = what.capitalize()
            cell["prompt_hide"] = f"Hide the {what}"


def imported(code):
    """Count the lines of the imports that a cell begins with."""
    if not re.match(r"(import|from) ", code):
        return 0
    kinds = ast.Import | ast.ImportFrom
    rest = [part for part in ast.parse(code).body if not isinstance(part, kinds)]
    return rest[0].lineno - 1 if rest else code.count("\n") + 1


def bind(app, doctree, page):
    """Keep a line from breaking between a number and its unit or its kind."""
    code = nodes.literal | nodes.FixedTextElement | nodes.math
    for text in list(doctree.findall(nodes.Text)):
        bound = BOUND.sub("\u00a0", text)
        if bound != text and not isinstance(text.parent, code):
            text.parent.replace(text, nodes.Text(bound))


def mark_leads(app, doctree):
    """Mark paragraphs that announce what follows: paper keeps the two together."""
    for paragraph in doctree.findall(nodes.paragraph):
        if paragraph.astext().rstrip().endswith(":"):
            paragraph["classes"].append("leads")


def align_numbers(app, doctree, page):
    """Mark the columns of a table that hold numbers alone: they stand at the right."""
    for group in doctree.findall(nodes.tgroup):
        rows = [list(row.findall(nodes.entry)) for row in group.findall(nodes.row)]
        body = [
            [cell.astext().strip() for cell in row.findall(nodes.entry)]
            for part in group.findall(nodes.tbody)
            for row in part.findall(nodes.row)
        ]
        for i, column in enumerate(zip(*body, strict=True)):
            said = [text for text in column if text not in ("", "-", "–", "—")]
            if said and all(NUMBER.fullmatch(text) for text in said):
                for row in rows:
                    row[i]["classes"].append("number")


def measure_figures(app, doctree, page):
    """Give a figure its width, by which it pans (book.css); Sphinx then links to it."""
    for image in doctree.findall(nodes.image):
        file = Path(app.srcdir, image["uri"])
        if file.suffix == ".svg" and "jupyter_execute" in file.parts:
            points = re.search(r'width="([\d.]+)pt"', file.read_text(encoding="utf-8"))
            pixels = round(float(points[1]) * 4 / 3)
            image["width"] = f"{pixels}px"
            image["classes"] += ["drawn-figure", "wide" if pixels > 500 else "narrow"]


def mend_roles(app, page, template, context, doctree):
    """Leave out of a page's HTML what a screen reader would stumble over."""
    for old, new in ROLES:
        context["body"] = re.sub(old, new, context.get("body", ""))
    context["body"] = MARKED.sub(together, context["body"])


def together(found):
    """Keep a formula and the marks around it on one line."""
    before, _, behind = found.groups()
    return f'<span class="together">{found[0]}</span>' if before or behind else found[0]


def lead_to_sources(app, doctree, page):
    """Lead "He et al. (2016)" to its entry, which a pointer resting there shows.

    Of two in one year it is the first in references.bib, unless the words go on with
    the other's title.
    """
    sources = {}
    domain = app.env.get_domain("cite")
    order = list(domain.bibdata.data.entries)
    for citation in sorted(domain.citations, key=lambda each: order.index(each.key)):
        author = " ".join(citation.entry.persons["author"][0].last_names)
        key = (author, citation.entry.fields["year"])
        sources.setdefault(key, []).append(citation)
    for link in doctree.findall(nodes.reference):
        words = re.sub(r"\s+", " ", link.astext())
        said = CITED.match(words)
        if not said or not link.get("refuri", "").endswith("bibliography.html"):
            continue
        title = words[said.end() :].removeprefix(", ") or "none"
        found = sources.get(said.groups(), [])
        named = [c for c in found if c.entry.fields["title"].startswith(title)]
        for citation in [*named, *found][:1]:
            link["refuri"] += f"#{citation.citation_id}"
            link["reftitle"] = citation.formatted_entry.text.render(PLAIN)


def setup(app):
    """Connect to the build."""
    app.connect("doctree-read", fold)
    app.connect("doctree-read", mark_leads)
    app.connect("doctree-resolved", bind)
    app.connect("doctree-resolved", align_numbers)
    app.connect("doctree-resolved", measure_figures)
    app.connect("html-page-context", mend_roles)
    app.connect("doctree-resolved", lead_to_sources)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
