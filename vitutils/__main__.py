"""The command line: ``vitutils COMMAND ...``, or ``python -m vitutils COMMAND ...``."""

import atexit
import gc
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from types import ModuleType

import vitutils

COMMANDS = {
    "train": "train a model on any data, in one process or several",
    "predict": "say what photos show, and where a model looks",
    "evaluate": "measure a model on labelled images",
    "export": "write a model for other programs: ONNX, TorchScript, torch.export",
}


def start(
    module: str, arguments: Sequence[str] | None = None, stopped: str = "stopped"
) -> int:
    """Import a module and run its ``main``; Ctrl-C is one line, at any time.

    Args:
        module: its dotted name.
        arguments: what its ``main`` takes; None: this process's own.
        stopped: what to say after Ctrl-C, or SIGTERM.

    Returns:
        The exit status: that of ``main``, or 130 if it was stopped.
    """

    def end(signum, frame):
        os.write(2, f"{stopped}\n".encode())
        os._exit(130)

    # An import takes seconds, and may make any error of a KeyboardInterrupt. There is
    # nothing to clear up yet.
    before = {s: signal.signal(s, end) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        command = load(module).main
        signal.signal(signal.SIGINT, before[signal.SIGINT])
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        # What Python does at its end takes a second, and is on its way already.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
        return command(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def load(module: str) -> ModuleType:
    """Import a module; with torch, if nothing has imported that, in less time.

    The collector of garbage would walk through all that torch brings, over and over,
    and once more at Python's end: a third of what a short command takes.
    """
    if "torch" in sys.modules:
        return importlib.import_module(module)
    collects = gc.isenabled()
    gc.disable()
    atexit.register(gc.freeze)
    try:
        return importlib.import_module(module)
    finally:
        gc.freeze()
        if collects:
            gc.enable()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the words of the command line; None: this process's own.

    Returns:
        The exit status: 0 if all went well.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed, as by 2>&-
            nowhere = os.open(os.devnull, os.O_WRONLY)
            setattr(sys, name, os.fdopen(nowhere, "w"))
    if isinstance(sys.stdout, TextIOWrapper):  # a terminal may not know all letters
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            return chosen(arguments)
        finally:
            sys.stdout.flush()
    except OSError as error:  # of what is printed, or of an import
        words = str(error.strerror or error)
        try:
            sys.stdout.flush()
        except OSError:  # Python shall not try again at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            words = f"what is printed cannot be written: {words}"
        if not isinstance(error, BrokenPipeError):  # who reads has enough, as `head`
            print(words, file=sys.stderr)
        return 1


def chosen(arguments: Sequence[str] | None) -> int:
    """Run the command that the words name; see ``main``."""
    command, *rest = [*(sys.argv[1:] if arguments is None else arguments), ""]
    if command in COMMANDS:
        return start(f"vitutils.cli.{command}", rest[:-1])
    if command == "--version":
        print(vitutils.__version__)
        return 0
    lines = [f"  {name:10} {words}" for name, words in COMMANDS.items()]
    usage = "\n".join(
        ["usage: vitutils COMMAND ... (COMMAND --help tells more)", *lines]
    )
    if command in ("-h", "--help"):
        print(usage)
        return 0
    wrong = f"there is no command {command!r}\n" if command else ""
    print(f"{wrong}{usage}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
