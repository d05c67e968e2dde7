"""``python -m experiments``: see experiments/command.py."""

from vitutils.__main__ import start

if __name__ == "__main__":
    words = "stopped; the same command goes on"
    raise SystemExit(start("experiments.command", stopped=words))
