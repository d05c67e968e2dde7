"""The command's first and last seconds: Ctrl-C at any time is a line."""

import gc
import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from vitutils.__main__ import COMMANDS, main, start
from vitutils.cli.commands import told

STOPS = [signal.SIGINT, signal.SIGTERM]


def begin(folder, *words):
    """Start a Python in a folder, as a shell does for who may press Ctrl-C."""
    return subprocess.Popen(
        [sys.executable, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end_of(folder, module, signum):
    """Return (status, stderr) of a command of a module that is sent a signal."""
    kill = f"import os, time\ndef kill(): os.kill(os.getpid(), {int(signum)})\n"
    (folder / "asks.py").write_text(kill + module)
    code = "from vitutils.__main__ import start; raise SystemExit(start('asks'))"
    process = begin(folder, "-c", code)
    _, words = process.communicate(timeout=30)
    return process.returncode, words


@pytest.mark.parametrize("signum", STOPS)
def test_a_signal_during_the_import_is_a_line(tmp_path, signum):
    module = "try:\n    kill(); time.sleep(9)\nexcept BaseException:\n    os._exit(3)"
    assert end_of(tmp_path, module, signum) == (130, "stopped\n")


@pytest.mark.parametrize("signum", STOPS)
def test_a_signal_to_a_command_is_a_line_and_it_clears_up(tmp_path, signum):
    module = (
        "def main(arguments):\n    try:\n        kill(); time.sleep(9)\n"
        "    finally:\n        open('cleared', 'w').close()\n"
    )
    assert end_of(tmp_path, module, signum) == (130, "stopped\n")
    assert (tmp_path / "cleared").exists()


def test_ctrl_c_where_python_ends_changes_nothing(tmp_path):
    module = "import atexit; atexit.register(lambda: (kill(), time.sleep(0.1)))\n"
    module += "def main(arguments): return 7"
    assert end_of(tmp_path, module, signal.SIGINT) == (7, "")


def test_ctrl_c_in_a_command_is_a_line_and_other_handlers_come_back(
    monkeypatch, capsys
):
    def stopped(arguments):
        assert arguments == ["a"]
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "stopped", SimpleNamespace(main=stopped))
    before = [signal.getsignal(s) for s in STOPS]
    assert start("stopped", ["a"], stopped="that is all") == 130
    assert capsys.readouterr().err == "that is all\n"
    assert [signal.getsignal(s) for s in STOPS] == before


@pytest.mark.parametrize("there", [True, False])
@pytest.mark.parametrize("collects", [True, False])
def test_what_a_command_imports_is_not_collected_and_the_caller_collects_as_before(
    monkeypatch, collects, there
):
    command = SimpleNamespace(main=lambda arguments: 2 * gc.isenabled())
    frozen = []
    monkeypatch.setitem(sys.modules, "command", command)
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(gc.isenabled()))
    if not there:
        monkeypatch.delitem(sys.modules, "torch")
    try:
        (gc.enable if collects else gc.disable)()
        assert start("command", []) == 2 * collects
        assert gc.isenabled() == collects
    finally:
        gc.enable()
    assert frozen == ([] if there else [False])


@pytest.mark.slow(5)
@pytest.mark.parametrize("seconds", [0.5, 1.5, 3, 4.5])
def test_training_is_stopped_in_a_line_at_any_time(tmp_path, seconds):
    words = ["train", "fashion_mnist", "--device", "cpu", "--folder", "run"]
    process = begin(tmp_path, "-m", "vitutils", *words)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 130
    assert words.startswith("stopped") and words.count("\n") == 1


def test_what_takes_long_to_import_is_there_before_ctrl_c_is_a_commands_own():
    there = (
        "import vitutils.cli.commands, sys; print({'torch._dynamo'} <= {*sys.modules})"
    )
    words = [sys.executable, "-c", there]
    assert subprocess.check_output(words, text=True) == "True\n"


def lines_of(path):
    """Return the lines of a page's blocks of code that call the command."""
    return re.findall(r"(?m)^vitutils (\w+) (.*)$", path.read_text("utf-8"))


PRINTS = """
import sys, types
from vitutils.__main__ import main
command = sys.modules["vitutils.cli.train"] = types.ModuleType("prints")
command.main = lambda words: print("naïve 家")
raise SystemExit(main(["train"]))
"""


@pytest.mark.parametrize(
    ("redirected", "expected"),
    [
        (">/dev/full", (1, "", "what is printed cannot be written: No space left on")),
        (">&-", (0, "", "")),
        (">&- 2>&-", (0, "", "")),
        ("2>&-", (0, "na\\xefve \\u5bb6\n", "")),
    ],
)
def test_what_cannot_be_printed_is_a_line(tmp_path, redirected, expected):
    changed = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONIOENCODING": "ascii"}
    process = subprocess.run(
        ["sh", "-c", f'"$@" {redirected}', "sh", sys.executable, "-c", PRINTS],
        env=os.environ | changed | {"PYTHONUNBUFFERED": ""},
        capture_output=True,
        text=True,
    )
    status, printed, said = expected
    assert (process.returncode, process.stdout) == (status, printed)
    assert process.stderr.startswith(said) and process.stderr.count("\n") == bool(said)


def test_who_reads_may_have_enough(tmp_path):
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run(
        [sys.executable, "-c", PRINTS],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=write,
        stderr=subprocess.PIPE,
    )
    os.close(write)
    assert (process.returncode, process.stderr) == (1, b"")


def test_a_command_leaves_it_to_the_last_to_say_what_cannot_be_printed(monkeypatch):
    lost = OSError(28, "No space left on device")

    class Full:
        def flush(self):
            raise lost

    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(OSError, match="No space left"):
        told(lost, status=1)


@pytest.mark.parametrize("page", ["README.md", "book/commands.md"])
def test_the_lines_of_the_pages_are_understood(root, page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()  # which a line may take for itself
    caught = []

    def run(options, *_):
        caught.append(options)
        return 0

    for name in COMMANDS:
        module = importlib.import_module(f"vitutils.cli.{name}")
        monkeypatch.setattr(module, "run", run)
    lines = lines_of(root / page)
    assert {name for name, _ in lines} == {*COMMANDS}
    for name, words in lines:
        assert main([name, *shlex.split(words)]) == 0
    assert len(caught) == len(lines)
