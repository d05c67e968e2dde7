"""What took long to find in people's files, kept beside them."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import Any


def kept(
    index: Path, stamp: list, make: Callable[[], Any], fits: Callable[[Any], bool]
) -> Any:
    """Return what ``make`` does, kept in a file under a stamp.

    The file is read instead as long as its stamp is the same. Where it cannot be
    written, ``make`` is called each time.

    Args:
        index: the file, JSON.
        stamp: of texts and numbers: what ``make`` depends on.
        make: returns what JSON can hold.
        fits: tells whether what the file holds may be such; it may raise.
    """
    with suppress(Exception):  # whatever it holds, it is written anew
        # Opening a pipe would wait for somebody to write.
        known, made = json.loads(index.read_text("utf-8") if index.is_file() else "")
        if known == stamp and fits(made):
            return made
    made = make()
    part = index.with_name(f"{index.name}.{os.getpid()}")
    with suppress(OSError):
        for left in part.parent.glob(f"{escape(index.name)}.*"):  # of who died here
            left.unlink()
        try:
            part.write_text(json.dumps([stamp, made]), encoding="utf-8")
            part.replace(index)
        finally:
            part.unlink(missing_ok=True)
    return made
