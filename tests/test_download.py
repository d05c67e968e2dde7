"""Downloads: from hosts that break off, never end, or send another file."""

import itertools
import multiprocessing
import os
import random
import re
import resource
import signal
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vitutils.data import download
from vitutils.data.download import fetch

CONTENT = random.Random(0).randbytes(300_000)
HALF = len(CONTENT) // 2
NOWHERE = "http://127.0.0.1:9/file.bin"


@pytest.fixture
def serve():
    """Return serve(answer): the URL of a file on a host that answers by a function."""
    servers = []

    def serve(answer):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                answer(self)

            def log_message(self, *_):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.handle_error = lambda *_: None  # the other side has hung up
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/file.bin"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def saying(*lines, body=CONTENT):
    """Return an answer of these header lines and this body, or its pieces."""
    head = "\r\n".join(("HTTP/1.1 200 OK", *lines, "", "")).encode()

    def answer(handler):
        handler.wfile.write(head)
        for piece in [body] if isinstance(body, bytes) else body:
            handler.wfile.write(piece)

    return answer


def chunked(content, size=50_000):
    pieces = [content[i : i + size] for i in range(0, len(content), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


class File:
    """An answer: a file that can be had in part, from a connection that may break."""

    def __init__(self, content=CONTENT, etag='"one"', *, ranges=True, breaks=None):
        self.content, self.etag, self.breaks = content, etag, breaks
        self.ranges, self.heeds, self.asked, self.sent = ranges, True, [], 0

    def __call__(self, handler):
        known, wanted = handler.headers["If-Range"], handler.headers["Range"]
        self.asked.append(wanted)
        start = 0
        if self.ranges and wanted and (known == self.etag or not self.heeds):
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1])
            handler.send_response(206)
            span = f"bytes {start}-{len(self.content) - 1}/{len(self.content)}"
            handler.send_header("Content-Range", span)
        else:
            handler.send_response(200)
        handler.send_header("ETag", self.etag)
        handler.send_header("Content-Length", str(len(self.content) - start))
        if self.ranges:
            handler.send_header("Accept-Ranges", "bytes")
        handler.end_headers()
        rest = self.content[start : self.breaks]
        handler.wfile.write(rest)
        handler.wfile.flush()
        self.sent += len(rest)


class Waits(File):
    """One whose connection does not break, but waits."""

    def __call__(self, handler):
        super().__call__(handler)
        if self.breaks:
            time.sleep(5)


def get(url, path, content=CONTENT):
    def wrong(file):
        return None if file.read_bytes() == content else "is another file"

    fetch(url, path, wrong, "or leave it")
    assert path.read_bytes() == content


def names(folder):
    return sorted(path.name for path in folder.rglob("*"))


def refused(url, path):
    """Return in what words a download is refused."""
    with pytest.raises(RuntimeError) as error:
        get(url, path)
    message = str(error.value)
    assert url in message and "load again" in message and "or leave it" in message
    assert "\n" not in message and not path.exists()
    return message


@contextmanager
def started(*arguments):
    """Download in another process."""
    process = multiprocessing.get_context("fork").Process(target=get, args=arguments)
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


# ---- whole or not ----


@pytest.mark.parametrize(
    "answer",
    [
        saying(),
        saying("Content-Length: many"),
        saying("Content-Length: -7"),
        saying(f"Content-Length: {len(CONTENT)}, {len(CONTENT)}"),
        saying(f"Content-Length: {len(CONTENT) + 7}"),
        saying(f"Content-Length: {len(CONTENT)}", body=CONTENT + b"more"),
        saying("Transfer-Encoding: chunked", body=chunked(CONTENT) + b"0\r\n\r\n"),
        saying("Transfer-Encoding: chunked", body=chunked(CONTENT)),  # without its end
    ],
)
def test_what_is_whole_is_kept_whatever_the_host_says_of_its_length(
    serve, tmp_path, answer
):
    get(serve(answer), tmp_path / "file.bin")
    assert names(tmp_path) == ["file.bin"]


@pytest.mark.parametrize(
    "answer, words",
    [
        (saying(body=CONTENT[:HALF]), "sent 150,000 bytes, which is another file"),
        (saying("Content-Length: many", body=CONTENT[:HALF]), "sent 150,000 bytes"),
        (saying(f"Content-Length: {HALF}"), "sent 150,000 of 150,000 bytes"),
        (saying("Content-Length: 300000", body=b"x" * 300_000), "is another file"),
        (saying("Content-Length: 300000", body=b"x"), r"\(1 of 300,000 bytes came\)"),
        (saying("Content-Length: 0", body=b""), "sent 0 of 0 bytes"),
        (
            saying("Transfer-Encoding: chunked", body=chunked(CONTENT)[:HALF]),
            "could not be downloaded",
        ),
        (saying("Transfer-Encoding: chunked", body=b"many\r\n"), "could not be down"),
    ],
)
def test_what_is_not_whole_is_not_kept(serve, tmp_path, answer, words):
    assert re.search(words, refused(serve(answer), tmp_path / "file.bin"))
    assert names(tmp_path) == []


# ---- limits ----


def drops(*before):
    """Yield bytes, then one each tenth of a second."""
    yield from before
    for _ in range(100):
        yield b"x"
        time.sleep(0.1)


@pytest.mark.parametrize(
    "answer",
    [
        saying(body=drops()),
        saying("Content-Length: 300000", body=drops()),
        saying("Transfer-Encoding: chunked", body=drops(b"1;")),
        saying("Transfer-Encoding: chunked", body=drops(b"0\r\n")),
        lambda handler: [handler.wfile.write(byte) for byte in drops(b"HTTP/1.1 200 ")],
    ],
    ids=["body", "body of a length", "chunk", "trailer", "header"],
)
def test_a_host_that_sends_byte_by_byte_is_given_up(
    serve, tmp_path, monkeypatch, answer
):
    monkeypatch.setattr(download, "LONGEST", 0.3)
    begin = time.monotonic()
    message = refused(serve(answer), tmp_path / "file.bin")
    assert time.monotonic() - begin < 2
    assert "it takes longer than 0.005 minutes" in message
    assert names(tmp_path) == []


@pytest.mark.parametrize("length", [[], [f"Content-Length: {10**12}"]])
def test_a_body_without_end_is_given_up(serve, tmp_path, monkeypatch, length):
    monkeypatch.setattr(download, "LARGEST", 10**6)
    endless = saying(*length, body=itertools.repeat(b"x" * 10_000))
    message = refused(serve(endless), tmp_path / "file.bin")
    assert "more than 1,000,000 bytes" in message
    assert names(tmp_path) == []


@pytest.mark.parametrize("line", ["\x1b[2J\x07", "HTTP/1.1 500 \x1b[2J", "x" * 9000])
def test_what_a_host_says_is_shown_and_not_obeyed(serve, tmp_path, line):
    url = serve(lambda handler: handler.wfile.write(f"{line}\r\n\r\n".encode()))
    words = refused(url, tmp_path / "file.bin")
    assert words.isprintable() and len(words) < 1000


def test_a_full_disk_is_named_and_the_download_goes_on_later(serve, tmp_path):
    host, path = File(), tmp_path / "file.bin"
    url = serve(host)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, hard))
    try:
        with pytest.raises(RuntimeError, match=r"cannot be written .* free space"):
            get(url, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    get(url, path)
    assert names(tmp_path) == ["file.bin"]


# ---- going on ----


def test_a_broken_download_goes_on_where_it_was(serve, tmp_path):
    host, path = File(breaks=HALF), tmp_path / "new" / "file.bin"
    url = serve(host)
    assert "load again, which fetches the rest" in refused(url, path)
    host.breaks = 2 * HALF - 9
    refused(url, path)
    refused(NOWHERE, path)  # no network for a while
    host.breaks = None
    get(url, path)
    assert host.asked == [None, f"bytes={HALF - 1}-", f"bytes={2 * HALF - 10}-"]
    assert names(path.parent) == ["file.bin"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_download_goes_on_where_it_was(serve, tmp_path, number):
    host, path = Waits(breaks=HALF + 50_000), tmp_path / "file.bin"
    url = serve(host)
    with started(url, path) as process:
        wait_for(lambda: sum(p.stat().st_size for p in tmp_path.rglob("*")) > HALF)
        os.kill(process.pid, number)
        process.join()
    host.breaks, host.sent = None, 0
    get(url, path)
    assert host.sent < HALF
    assert names(tmp_path) == ["file.bin"]


def test_a_download_killed_before_it_got_its_name_is_not_repeated(serve, tmp_path):
    (tmp_path / ".part-file.bin").write_bytes(CONTENT)
    (tmp_path / ".etag-file.bin").write_text('"one"')
    host = File()
    get(serve(host), tmp_path / "file.bin")
    assert host.sent == 1
    assert names(tmp_path) == ["file.bin"]


@pytest.mark.parametrize(
    "host",
    [File(breaks=HALF, ranges=False), File(breaks=HALF, etag='W/"about the same"')],
    ids=["no ranges", "weak etag"],
)
def test_where_a_host_cannot_go_on_nothing_is_kept(serve, tmp_path, host):
    path = tmp_path / "file.bin"
    url = serve(host)
    assert "the rest" not in refused(url, path)
    assert names(tmp_path) == []
    host.breaks = None
    get(url, path)
    assert host.asked == [None, None]


def test_a_file_that_has_changed_is_fetched_anew(serve, tmp_path):
    host, path = File(breaks=HALF), tmp_path / "file.bin"
    url = serve(host)
    refused(url, path)
    host.content, host.etag, host.breaks = CONTENT[::-1], '"two"', None
    get(url, path, CONTENT[::-1])
    assert names(tmp_path) == ["file.bin"]


def test_no_part_of_another_file_is_put_behind(serve, tmp_path):
    host, path = File(breaks=HALF), tmp_path / "file.bin"
    url = serve(host)
    refused(url, path)
    host.etag, host.breaks, host.heeds = '"two"', None, False
    assert "it sent a part of another file" in refused(url, path)
    get(url, path)
    assert names(tmp_path) == ["file.bin"]


def test_no_other_part_of_the_file_is_put_behind(serve, tmp_path):
    host, path = File(breaks=HALF), tmp_path / "file.bin"
    refused(serve(host), path)
    lines = ['ETag: "one"', f"Content-Range: bytes 0-{HALF}/{len(CONTENT)}"]

    def answer(handler):
        handler.wfile.write("\r\n".join(("HTTP/1.1 206 P", *lines, "", "")).encode())
        handler.wfile.write(CONTENT[:HALF])

    assert "it sent a part of another file" in refused(serve(answer), path)
    assert names(tmp_path) == []


def test_a_refused_range_is_not_asked_for_again(serve, tmp_path):
    host, path = File(breaks=HALF), tmp_path / "file.bin"
    url = serve(host)
    refused(url, path)
    assert "416" in refused(serve(lambda handler: handler.send_error(416)), path)
    assert names(tmp_path) == []
    refused(url, path)
    assert "503" in refused(serve(lambda handler: handler.send_error(503)), path)
    host.breaks = None
    get(url, path)
    assert host.asked == [None, None, f"bytes={HALF - 1}-"]


# ---- several processes, and folders ----


def test_of_two_processes_one_downloads_for_both(serve, tmp_path):
    host, path = File(), tmp_path / "file.bin"

    def slowly(handler):
        time.sleep(0.3)
        host(handler)

    url = serve(slowly)
    with started(url, path) as one, started(url, path) as other:
        one.join()
        other.join()
    assert (one.exitcode, other.exitcode) == (0, 0)
    assert host.asked == [None] and names(tmp_path) == ["file.bin"]


def test_one_that_waits_goes_on_where_the_killed_one_was(serve, tmp_path):
    host, path = Waits(breaks=HALF), tmp_path / "file.bin"
    url = serve(host)
    with started(url, path) as one:
        wait_for(lambda: host.sent)
        time.sleep(0.1)
        with started(url, path) as other:
            time.sleep(0.1)
            host.breaks = None
            one.kill()
            other.join()
    assert other.exitcode == 0 and len(host.asked) == 2
    assert names(tmp_path) == ["file.bin"]


def test_a_folder_made_for_nothing_is_removed(serve, tmp_path):
    path = tmp_path / "mistyped" / "root" / "file.bin"
    wrong = saying(body=b"a page that asks for a password")
    missing = serve(lambda handler: handler.send_error(404))
    for url in (NOWHERE, missing, serve(wrong)):
        refused(url, path)
        assert names(tmp_path) == []
    path.parent.mkdir(parents=True)
    refused(NOWHERE, path)
    assert names(tmp_path) == ["mistyped", "root"]  # it was there before
