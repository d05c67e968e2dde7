"""The command line: ``vitutils COMMAND ...``, or ``python -m vitutils COMMAND ...``."""

import importlib
import sys
from collections.abc import Sequence

import vitutils

COMMANDS = {"train": "train a model on any data, in one process or several"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: the words of the command line; None: this process's own.

    Returns:
        The exit status: 0 if all went well.
    """
    command, *rest = [*(sys.argv[1:] if arguments is None else arguments), ""]
    if command in COMMANDS:
        module = importlib.import_module(f"vitutils.cli.{command}")
        return module.main(rest[:-1])
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
