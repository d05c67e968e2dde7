"""What several tests share: the repository's folder and the book's settings."""

from collections import Counter
from pathlib import Path

import pytest
import yaml


@pytest.fixture(scope="session")
def root():
    """The folder of the repository."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def config(root):
    """The book's settings, _config.yml."""
    return yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))


def pytest_terminal_summary(terminalreporter):
    """Say once, in a line each, why tests were skipped."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2] for report in skipped)
    for reason, count in reasons.items():
        words = reason.removeprefix("Skipped: ")
        terminalreporter.write_line(f"{count} skipped: {words}")
