"""Answers to the chapters' exercises on which their checks are tried.

NN.py holds those of chapter NN, each behind a line `# %% 2 wrong: its name`. Wrong
ones are what a reader may well write, and one that has the expected result typed in,
named `hard-coded`; right ones are written in another way than the book's solution.
"""

import re
from collections import defaultdict
from pathlib import Path

FOLDER = Path(__file__).parent
HEAD = re.compile(r"(?m)^# %% (\d) (right|wrong): (.+)\n")


def answers(name):
    """Return {exercise: [(name, whether it is right, code), ...]} of a chapter."""
    path, found = FOLDER / f"{name[:2]}.py", defaultdict(list)
    if path.exists():
        _, *parts = HEAD.split(path.read_text(encoding="utf-8"))
        for number, kind, words, code in zip(*[iter(parts)] * 4, strict=True):
            found[int(number)].append((words, kind == "right", code.strip()))
    return dict(found)
