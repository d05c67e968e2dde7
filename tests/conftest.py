"""What several tests share: the book, its settings, a browser, the workers' order."""

import atexit
import gc
import os
import shutil
import signal
import subprocess
from collections import Counter
from pathlib import Path

import nbformat
import pytest
import yaml
from chapters import stamp
from filelock import FileLock
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from vitutils import CHAPTERS

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the workers fill the cores
# A shell starts background jobs with Ctrl-C ignored, and their children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_BROWSER = "no browser: apt-get install chromium, or set CHROMIUM to its path"


@pytest.fixture(autouse=True)
def seed():
    """Every test draws the same numbers, whichever ran before it in its worker."""
    import torch

    torch.default_generator.manual_seed(0)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(0)


@pytest.fixture(scope="session")
def root():
    """The folder of the repository."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def made_once(tmp_path_factory, worker_id):
    """Return made_once(name, make): the folder that make(folder) fills, for all."""
    base = tmp_path_factory.getbasetemp()
    base = base if worker_id == "master" else base.parent

    def made_once(name, make):
        folder, done = base / name, base / f"{name}.done"
        with FileLock(base / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return made_once


@pytest.fixture(scope="session")
def html(root, made_once):
    """The folder of the built book, which `make book` brings up to date."""

    def make(_):
        command = ["make", "--no-print-directory", "-o", ".venv/.installed", "book"]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True)
        if done.returncode:
            pytest.fail(f"make book:\n{done.stdout}{done.stderr}", pytrace=False)

    made_once("book", make)
    return root / "_build" / "html"


@pytest.fixture
def example():
    """A small chapter 4 without a fault."""

    def run(source, *tags, image=(), **metadata):
        count = sum(c.cell_type == "code" for c in cells) + 1
        text = new_output("stream", name="stdout", text="not yet: a is None\n")
        outputs = [text, *image]
        cells.append(new_code_cell(source, execution_count=count, outputs=outputs))
        metadata |= {"tags": list(tags), "ran": stamp(source)}
        cells[-1].metadata = nbformat.from_dict(metadata)

    cells = [new_markdown_cell("# Title\n\nA question?\n\n**You will**\n\n- read")]
    text = '<g style="fill: #24292f" transform="translate(1 2) scale(0.11 -0.11)">'
    picture = f'<svg width="518.4pt">{text}</g></svg>'
    image = [new_output("display_data", {"image/svg+xml": picture})]
    words = {"image": {"alt": "a line"}, "figure": {"caption": "What to see."}}
    run(
        "from vitutils.encoder import Block\nfrom vitutils import plot",
        image=image,
        mystnb=words,
    )
    summary = "## Summary\n\nIt is short.\n\n## Exercises"
    cells.append(new_markdown_cell(summary, id="summary"))
    for _ in range(2):
        run("a = None", "exercise")
        run("print('correct' if a == 4 else 'not yet: a is None')", "exercise-check")
        fold = "<details>\n<summary>Solution</summary>\n\n{}\n\n</details>"
        cells.append(new_markdown_cell(fold.format("```python\na = 4\n```")))
    return new_notebook(cells=cells)


@pytest.fixture(scope="session")
def config(root):
    """The book's settings, _config.yml."""
    return yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))


# A browser a module: Playwright's event loop, left running, would stop nbclient's.
@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; without one: skipped, but never in CI."""
    named = [os.environ.get("CHROMIUM", ""), *BROWSERS]
    found = next(filter(None, map(shutil.which, named)), None)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(NO_BROWSER)
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-background-networking", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=quiet)
        yield browser
        browser.close()


def pytest_collection_finish():
    """Prepare a worker; the process that hands out the tests never imports torch."""
    import torch

    # Autograd that first works after torch.export or torch.compile starts threads for
    # devices, and refuses every fork from then on; one that has worked starts none.
    torch.ones(1, requires_grad=True).sum().backward()
    # What was imported stays: the collector of garbage need not walk through it.
    gc.freeze()
    atexit.register(gc.freeze)


def pytest_addoption(parser):
    words = "what these chapters need, and no other tests"
    parser.addoption("--chapters", default="", metavar='"03 08"', help=words)


@pytest.hookimpl(tryfirst=True)  # before -m chooses by marks
def pytest_collection_modifyitems(config, items):
    """Choose the tests of the chapters named; let the longest start first.

    What opens a browser is slow.
    """
    for item in items:
        if "browser" in item.fixturenames and not item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.slow(2))
    if numbers := [int(word[:2]) for word in config.getoption("chapters").split()]:
        if unknown := set(numbers) - set(CHAPTERS):
            raise pytest.UsageError(f"no chapter {unknown} in vitutils.CHAPTERS")
        modules = {module for number in numbers for module in CHAPTERS[number]}
        files = {"test_house.py", *(f"test_{module}.py" for module in modules)}
        starts = tuple(f"{number:02}_" for number in numbers)
        items[:] = [
            item
            for item in items
            if item.path.name in files or parameter(item, "name").startswith(starts)
        ]
    items.sort(key=seconds, reverse=True)


def parameter(item, name):
    """Return a parameter of a test as text, empty where it has none."""
    return str(item.callspec.params.get(name, "")) if hasattr(item, "callspec") else ""


def seconds(item):
    """Return about how long a test marked slow takes, 0 for another one."""
    marker = item.get_closest_marker("slow")
    return 0 if marker is None else (marker.args or [5])[0]


def pytest_terminal_summary(terminalreporter):
    """Say what chapters took, and once, in a line each, why tests were skipped."""
    stats = terminalreporter.stats
    for report in stats.get("passed", []) + stats.get("failed", []):
        if words := dict(report.user_properties).get("seconds"):
            terminalreporter.write_line(words)
    reasons = Counter(report.longrepr[2] for report in stats.get("skipped", []))
    for reason, count in reasons.items():
        words = reason.removeprefix("Skipped: ")
        terminalreporter.write_line(f"{count} skipped: {words}")
