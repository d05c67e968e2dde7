"""Options of the command line, read off the functions that take them.

A function's signature gives an option its name, its type and its default, and the
function's docstring its help: nothing of that is typed a second time.
"""

import argparse
import inspect
import os
import re
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin


def add_options(
    group: Any,
    function: Callable,
    names: Sequence[str],
    readers: Mapping[type, Callable] = types.MappingProxyType({}),
) -> None:
    """Add an option for each of a function's arguments.

    Args:
        group: a parser of argparse, or a group of one.
        function: a function or class, annotated, with a docstring of Google's style.
        names: of its arguments; ``lr`` becomes ``--lr``.
        readers: reads the values of a type where the type itself is not to.
    """
    parameters = inspect.signature(function).parameters
    for name in names:
        found = parameters[name]
        default = None if found.default is found.empty else found.default
        reading = how_to_read(found.annotation)
        if reading.get("type") in readers:
            reading["type"] = readers[reading["type"]]
        group.add_argument(
            dashed(name), default=default, help=explained(function)[name], **reading
        )


def how_to_read(annotation: Any) -> dict:
    """Return what argparse needs to read a value of an annotated type."""
    kinds = [annotation]
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [k for k in get_args(annotation) if k is not types.NoneType]
    kind = kinds[0]  # of several, the one that a line can tell
    if kind is bool:
        return {"action": "store_true"}
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    if get_origin(kind) in (tuple, list, Sequence):
        inner = get_args(kind)
        count = "+" if len(inner) == 1 or inner[1] is Ellipsis else len(inner)
        return {"type": inner[0], "nargs": count}
    return {"type": kind}


@cache
def explained(function: Callable) -> dict[str, str]:
    """Return what a docstring's section Args says of each argument."""
    text = inspect.getdoc(function) or ""
    section = re.search(r"(?ms)^Args:\n(.*?)(?=^\S|\Z)", text)
    said = {}
    entries = re.split(r"(?m)^    (?=\w[\w, ]*:)", section[1] if section else "")
    for entry in entries[1:]:
        names, _, words = entry.partition(":")
        words = re.sub(r"\s+", " ", words).replace("``", "").strip().rstrip(".")
        words = words.replace("None:", "if not given:")
        said |= {name.strip(): words.replace("%", "%%") for name in names.split(",")}
    return said


def dashed(name: str) -> str:
    """Return an option as the command line has it."""
    return f"--{name.replace('_', '-')}"


def picked(options: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Return some of the options by name."""
    return {name: getattr(options, name) for name in names}


def positive(text: str) -> int:
    """Read a number of things."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def sides(text: str) -> int | tuple[int, int]:
    """Read the side of a square, or HEIGHTxWIDTH."""
    found = [positive(side) for side in text.split("x")]
    if len(found) > 2:
        raise argparse.ArgumentTypeError(f"{text} is more than HEIGHTxWIDTH")
    return found[0] if len(found) == 1 else tuple(found)


def probability(text: str) -> float:
    """Read a probability below 1."""
    if not 0 <= (number := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return number


def folder_name(text: str | Path) -> Path:
    """Read the name of a folder that is there or can be made."""
    path = Path(os.path.expanduser(text))
    above = (path, *path.absolute().parents)
    there = next(filter(os.path.exists, above))  # Path.exists may raise errors
    if not there.is_dir():
        raise argparse.ArgumentTypeError(f"{there} is a file, no folder")
    return path


def file_name(text: str) -> Path:
    """Read the name of a file that can be written."""
    path = Path(os.path.expanduser(text))
    if os.path.isdir(path):
        raise argparse.ArgumentTypeError(f"{path} is a folder, no file")
    folder_name(path.parent)
    return path


class Parser(argparse.ArgumentParser):
    """The parser of a command, which says in a line what is wrong."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(
            prog=f"vitutils {command}",
            description=description,
            formatter_class=HelpWithDefaults,
            allow_abbrev=False,
        )

    def parse_known_args(
        self, args: Sequence[str], namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        """Parse, but no empty words: so a shell passes on what has no value."""
        for word in args:
            if not word or re.fullmatch("--[a-z-]+=", word):
                self.error(
                    f"{word or 'a word'} is empty: is a variable of the shell not set?"
                )
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        self.exit(2, f"{self.prog}: {message} (--help lists the options)\n")


class HelpWithDefaults(
    argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter
):
    """Show the defaults, but not where there is none."""

    def _get_help_string(self, action):
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)
