"""Files that are written whole or not at all."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


def write_atomically(path: str | Path, write: Callable[[Path], Any]) -> None:
    """Let ``write`` fill a file in a folder beside ``path``, then move it there.

    Raises:
        OSError: it could not be written, as on a full disk.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_parts(path)
    # A folder: safetensors keeps a file of its own beside the one that it writes.
    folder = path.with_name(f".{path.name}.{os.getpid()}.part")
    folder.mkdir(exist_ok=True)
    part = folder / path.name
    try:
        try:
            write(part)
        except (SafetensorError, RuntimeError) as error:  # not the system's words
            raise OSError(
                f"cannot write {path} (is the disk full?): {error}"
            ) from error
        with open(part, "rb+") as file:
            os.fsync(file.fileno())  # on disk before it takes the name
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(part, 0o666 & ~mask)  # safetensors keeps its files to the user
        os.replace(part, path)
    except OSError as error:  # of a file that is open, Python tells no name
        if error.errno and not error.filename:
            error.filename = str(path)
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear_parts(path: Path) -> None:
    """Remove what processes that died as they wrote this file have left beside it."""
    if os.name != "posix":  # elsewhere, to ask for a process is to end it
        return
    for folder in path.parent.glob(f".{escape(path.name)}.*.part"):
        with suppress(OSError, ValueError, OverflowError):  # it is none of ours
            try:
                os.kill(int(folder.suffixes[-2][1:]), 0)
            except ProcessLookupError:
                shutil.rmtree(folder)
