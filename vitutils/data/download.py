"""Downloads: a file is there whole and right, or not at all."""

import shutil
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.request import Request, urlopen

from tqdm import tqdm

TIMEOUT = 30  # seconds without a byte after which a download has failed


def fetch(
    url: str, path: Path, wrong: Callable[[Path], str | None], remedy: str
) -> None:
    """Download a file; it gets its name once it is whole and right.

    Args:
        url: the file's address.
        path: where it shall be.
        wrong: returns what is wrong with a file, None with the right one.
        remedy: what else one can do; errors end with it.

    Raises:
        RuntimeError: it did not come, not whole, or cannot be written; nothing of it
            is kept.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = TemporaryDirectory(dir=path.parent, prefix=".download-")
    except OSError as error:
        raise RuntimeError(
            f"{path} is missing and cannot be written ({error}): take a folder that "
            f"you may write to; {remedy}"
        ) from None
    with folder:
        part = Path(folder.name, path.name)
        try:
            sent = download(url, part)
        except (OSError, HTTPException) as error:
            raise RuntimeError(
                f"{path} is missing and {url} could not be downloaded ({error}): check "
                f"the network and load again; {remedy}"
            ) from None
        if fault := wrong(part):
            raise RuntimeError(
                f"{url} sent {sent}, which {fault}; nothing was kept: load again; "
                f"{remedy}"
            )
        part.replace(path)


def download(url: str, path: Path) -> str:
    """Write ``url`` to ``path`` under a progress bar; return "m of n bytes"."""
    request = Request(url, headers={"User-Agent": "vitutils"})
    with urlopen(request, timeout=TIMEOUT) as source, open(path, "wb") as target:
        size = int(source.headers.get("Content-Length", 0))
        style = {"desc": path.name, "unit": "B", "unit_scale": True}
        with tqdm.wrapattr(target, "write", total=size or None, **style) as output:
            shutil.copyfileobj(source, output)
    return f"{path.stat().st_size:,} of {size or 'unknown':,} bytes"
