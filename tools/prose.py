"""Numbers in a chapter's prose that nothing on its page shows.

A number that was measured once and typed into a sentence stays there when the
measurement changes. `untold` finds those that stand in no output, code or formula of
their chapter, and in no paragraph that links to its source.
"""

import re

# With a fraction, with thousands, of three digits or more, or per cent.
NUMBER = re.compile(
    r"(?<![\w.^_{/#-])(\d[\d,]*\.\d+|\d{1,3}(?:,\d{3})+|\d{3,}|\d+(?= ?%| points?\b))"
    r"(?!\w)( ?%| points?\b)?"
)
KNOWN = re.compile(r"(?<![\w.])\d[\d,_]*\.?\d*(?:e[-+]?\d+)?")
YEAR = re.compile(r"(?:19|20)\d\d")
NAMES = {"figure", "fig.", "equation", "section", "table", "chapter"}
NAMES |= {"python", "torch", "pytorch", "version"}
ROUGH = {"about", "nearly", "almost", "some", "around", "roughly", "than"}
CODE = r"(?s)```.*?```|`[^`]*`|\$\$.*?\$\$|\$[^$]*\$"
UNREAD = re.compile(rf"{CODE}|\]\([^)]*\)|<[^>]+>")
SOURCE = re.compile(r"bibliography\.|https?://")


def paragraphs(cell):
    """Yield what a reader reads of a cell: paragraphs, or a picture's words."""
    if cell.cell_type == "markdown":
        yield from re.split(r"\n\s*\n", re.sub(r"(?s)```.*?```", "", cell.source))
    else:
        words = cell.metadata.get("mystnb", {})
        yield words.get("image", {}).get("alt", "")
        yield words.get("figure", {}).get("caption", "")


def shown(cells):
    """Return the numbers in the outputs, code and formulas of cells."""
    found = []
    for cell in cells:
        if cell.cell_type == "code":
            texts = [o.get("text", "") for o in cell.outputs]
            texts += [o.get("data", {}).get("text/plain", "") for o in cell.outputs]
            found += KNOWN.findall("\n".join([cell.source, *texts]))
        else:
            parts = re.findall(CODE, cell.source)
            found += KNOWN.findall("\n".join(parts).replace("{,}", ","))
    return {float(re.sub(r"[,_]", "", number)) for number in found}


def untold(cells):
    """Yield (cell, number) for each number in prose that nothing shows."""
    known = shown(cells)
    for cell in cells:
        for paragraph in paragraphs(cell):
            table = cell.cell_type == "markdown" and paragraph.startswith("|")
            if SOURCE.search(cell.source if table else paragraph):
                continue
            text = UNREAD.sub(" ", paragraph)
            for match in NUMBER.finditer(text):
                number, share = match.groups()
                before = [*text[: match.start()].lower().split(), ""][-2:][0]
                if YEAR.fullmatch(number) or before in NAMES:
                    continue
                value = float(number.replace(",", ""))
                slack = 0.501 / 10 ** len(number.partition(".")[2])
                slack += value / 30 if before in ROUGH else 0
                scales = (1, 100) if share else (1,)
                near = (
                    abs(k * scale - value) <= slack for k in known for scale in scales
                )
                if not any(near):
                    yield cell, number
