"""Run the tests that need a CUDA device; keep each one's result as it comes.

A run that is cut short, or hangs and is killed, leaves in the record what came before.

    python benchmarks/cuda_tests.py --record data/results/tests_cuda.json
    VITUTILS_CUDA_TESTS_ON=cpu python benchmarks/cuda_tests.py -k attention
"""

import argparse
import shlex
import sys
from pathlib import Path

import pytest
import torch

from vitutils.engine.machine import machine, write_json
from vitutils.train import default_device

TESTS = Path(__file__).resolve().parents[1] / "tests"


class Report:
    """A plugin of pytest that writes the tests' results to a JSON file.

    Args:
        path: the file, or None.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        device = "cuda" if default_device() == "cuda" else "cpu"
        self.record = {
            "command": shlex.join(["python", *sys.argv]),
            **machine("torch", "torchvision", "timm", device=device),
            "cuda": torch.version.cuda,
            "ended": False,
            "tests": [],
        }
        self.write()

    def pytest_runtest_logreport(self, report):
        """Note a test when it has run, or a fault before or after it."""
        if report.when == "call" or not report.passed:
            row = {
                "test": report.nodeid.partition("::")[2],
                "outcome": report.outcome,
                "seconds": round(report.duration, 2),
            }
            if report.failed:
                row["error"] = report.longreprtext[-2000:]
            self.record["tests"].append(row)
            self.write()

    def pytest_sessionfinish(self, exitstatus):
        """Note that pytest came to its end, whatever the tests say."""
        self.record |= {"ended": True, "exit_status": int(exitstatus)}
        self.write()

    def write(self):
        if self.path:
            write_json(self.record, self.path)


def main() -> int:
    """Run the tests; return pytest's exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", type=Path, help="write the results as JSON here")
    parser.add_argument(
        "-k", default="", help="run tests of such names, as pytest's -k"
    )
    options = parser.parse_args()
    # Only these modules: others import what the book needs and a GPU machine lacks,
    # as conftest.py does.
    files = [p for p in sorted(TESTS.glob("test_*.py")) if "mark.cuda" in p.read_text()]
    words = ["--noconftest", "-m", "cuda", "-k", options.k, *map(str, files)]
    return pytest.main(words, plugins=[Report(options.record)])


if __name__ == "__main__":
    raise SystemExit(main())
