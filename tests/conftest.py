"""What several tests share: the repository's folder, the book's settings, a browser."""

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
import yaml

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_BROWSER = "no browser: apt-get install chromium, or set CHROMIUM to its path"


@pytest.fixture(scope="session")
def root():
    """The folder of the repository."""
    return Path(__file__).resolve().parent.parent


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


def pytest_terminal_summary(terminalreporter):
    """Say once, in a line each, why tests were skipped."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2] for report in skipped)
    for reason, count in reasons.items():
        words = reason.removeprefix("Skipped: ")
        terminalreporter.write_line(f"{count} skipped: {words}")
