"""Downloads: a file is there whole and right, or not at all."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from queue import Empty, Queue
from threading import Event, Thread
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from filelock import FileLock
from tqdm import tqdm

TIMEOUT = 30  # seconds without a byte after which a download has failed
LONGEST = 2 * 3600  # seconds that it may take
LARGEST = 10**9  # bytes that it may have
MOST_WORDS = 300  # letters of a host's answer that are shown
STRONG = re.compile(r'"[!#-~]*"')  # an ETag that stands for one content, byte by byte


class Broken(Exception):
    """A download did not come to its end."""


def fetch(
    url: str, path: Path, wrong: Callable[[Path], str | None], remedy: str
) -> None:
    """Download a file; it gets its name once it is whole and right.

    What has come when the connection breaks or the process is killed is kept beside it,
    if the host can tell later that its file is still the same: then the rest is enough.

    Args:
        url: the file's address.
        path: where it shall be.
        wrong: returns what is wrong with a file, None with the right one.
        remedy: what else one can do; errors end with it.

    Raises:
        RuntimeError: it did not come, not whole, not in time, or cannot be written.
    """
    part, tag = beside(path, "part"), beside(path, "etag")
    try:
        with alone(path):
            if path.exists():  # another process has fetched it meanwhile
                return
            sent = broken = None
            try:
                sent = download(url, path)
            except Broken as error:
                broken = error
            fault = wrong(part)
            if not fault:
                tag.unlink(missing_ok=True)
                part.replace(path)
                return
            if sent:
                tag.unlink(missing_ok=True)
            rest = ", which fetches the rest" if tag.exists() else ""
    except OSError as error:
        raise RuntimeError(
            f"{path} is missing and cannot be written ({error}): take a folder with "
            f"free space that you may write to; {remedy}"
        ) from None
    if broken:
        raise RuntimeError(
            f"{path} is missing and {url} could not be downloaded ({broken}): check "
            f"the network and load again{rest}; {remedy}"
        ) from None
    raise RuntimeError(
        f"{url} sent {sent}, which {fault}; nothing was kept: load again; {remedy}"
    )


def download(url: str, path: Path) -> str:
    """Write what is missing of ``path``'s unfinished file; return "m of n bytes".

    Raises:
        Broken: not all of it came, or not in time.
    """
    part, tag = beside(path, "part"), beside(path, "etag")
    part.touch()
    known = tag.read_text("latin-1") if tag.exists() else ""
    start = max(part.stat().st_size - 1, 0) if known else 0  # an empty rest is refused
    asked = {"User-Agent": "vitutils"}
    if start:
        asked |= {"Range": f"bytes={start}-", "If-Range": known}
    with closing(receive(Request(url, headers=asked))) as stream:
        try:
            status, headers, length = next(stream)
        except Broken as error:
            if isinstance(error.__cause__, HTTPError) and error.__cause__.code < 500:
                tag.unlink(missing_ok=True)  # it would answer so again
            raise
        etag, span = headers.get("ETag", ""), headers.get("Content-Range", "")
        if status != 206:  # all of it, as the file has changed or none was there
            start = 0
            tag.unlink(missing_ok=True)
        elif etag != known or not span.startswith(f"bytes {start}-"):
            tag.unlink(missing_ok=True)
            raise Broken("it sent a part of another file")
        total = None if length is None else start + length
        style = {"desc": path.name, "unit": "B", "unit_scale": True}
        with (
            open(part, "r+b") as file,
            tqdm(initial=start, total=total, **style) as bar,
        ):
            file.truncate(start)
            file.seek(start)
            if headers.get("Accept-Ranges") == "bytes" and STRONG.fullmatch(etag):
                tag.write_text(etag, "latin-1")
            for chunk in stream:
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > LARGEST:
                    return f"more than {LARGEST:,} bytes"
            size = file.tell()
    if total is None:
        return f"{size:,} bytes"
    if size < total:
        raise Broken(f"{size:,} of {total:,} bytes came")
    return f"{size:,} of {total:,} bytes"


def receive(request: Request) -> Iterator:
    """Yield status, headers and length of an answer, then its bytes.

    A thread reads them: whatever a host does, its caller waits for ``LONGEST`` at most.

    Raises:
        Broken: the connection failed, or the time is over.
    """
    end = time.monotonic() + LONGEST
    queue, stopped = Queue(8), Event()

    def read():
        try:
            with urlopen(request, timeout=TIMEOUT) as source:
                length = getattr(source, "length", None)  # a local file has none
                queue.put((source.status, source.headers, length))
                while not stopped.is_set() and (chunk := source.read1(2**18)):
                    queue.put(chunk)
            queue.put(None)
        except Exception as error:
            queue.put(error)

    Thread(target=read, daemon=True).start()
    try:
        while (left := end - time.monotonic()) > 0:
            item = queue.get(timeout=left)
            if item is None:
                return
            if isinstance(item, Exception):
                words = str(item)  # a host's own, which may be anything
                words = words if words.isprintable() else ascii(words)
                raise Broken(words[:MOST_WORDS]) from item
            yield item
        raise Empty
    except Empty:
        raise Broken(f"it takes longer than {LONGEST / 60:g} minutes") from None
    finally:
        stopped.set()
        with suppress(Empty):  # the thread may be waiting for room
            while True:
                queue.get_nowait()


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let one process at a time make ``path``; folders made for it do not stay empty.

    Raises:
        OSError: its folder cannot be made, or not be written to.
    """
    made = [folder for folder in path.parents if not folder.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(beside(path, "lock"), timeout=LONGEST):
            try:
                yield
            finally:
                if not beside(path, "etag").exists():  # no way to go on with it
                    beside(path, "part").unlink(missing_ok=True)
                with suppress(OSError):  # Windows removes it after its last user
                    beside(path, "lock").unlink()
    finally:
        for folder in made:
            with suppress(OSError):  # it is not empty
                folder.rmdir()


def tidy(path: Path) -> None:
    """Remove what a killed process has left beside a file that is there now."""
    if any(beside(path, kind).exists() for kind in ("etag", "part", "lock")):
        with suppress(OSError), alone(path):
            beside(path, "etag").unlink(missing_ok=True)


def beside(path: Path, kind: str) -> Path:
    """Return where something that belongs to the making of ``path`` lies."""
    return path.with_name(f".{kind}-{path.name}")
