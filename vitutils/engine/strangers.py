"""Files from strangers: data alone, and no dearer than their own size justifies."""

import argparse
import math
import pickletools
import re
from collections.abc import Collection, Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, get_args
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

MOST = 10  # times its own size that a file may hold, unpacked
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
NUMBERS = (*FLOATS, torch.int64)  # counters and tables of other libraries' models too
# What tensors ask for in a pickle. torch's own list has more, which runs no code
# either, but takes memory without end: bytearray, for one.
# A Namespace, the options of a training, becomes an object that is never called; what
# it often holds beside numbers and strings are paths, a device, types and shapes.
TENSORS = re.compile(
    r"argparse Namespace|collections OrderedDict|torch(\.storage)? \w+Storage|"
    r"torch\._utils _rebuild_(tensor(_v2)?|parameter)|"
    r"pathlib(\._local)? (Posix|Windows)Path|torch (device|Size|b?float\d+|int\d+)"
)
OPTIONS = [argparse.Namespace] + [
    (kind, f"{module}.{name}")  # a path that touches no disk, on any system
    for module in ("pathlib", "pathlib._local")
    for name, kind in (("PosixPath", PurePosixPath), ("WindowsPath", PureWindowsPath))
]


def shown(words: object, most: int = 80) -> str:
    """Return words that a stranger chose: printable, in one line, not too many."""
    text = str(words)
    text = text if text and text.isprintable() else ascii(text)
    return text if len(text) <= most else f"{text[:most]}..."


def listed(words: Collection[object], most: int = 6) -> str:
    """Return words in a row, the first few of many."""
    more = f" and {len(words) - most} more" if len(words) > most else ""
    return ", ".join(map(shown, [*words][:most])) + more


def reason(error: Exception) -> str:
    """Return what an error says where it speaks of values, else its kind."""
    speaks = isinstance(error, ValueError | SafetensorError)
    return shown(error if speaks else type(error).__name__, 300)


def check_zip(path: Path) -> None:
    """Raise a ValueError if a zip file would unpack to far more than its size."""
    with ZipFile(path) as file:
        parts = file.infolist()
    unpacked = sum(part.file_size for part in parts)
    if unpacked > MOST * path.stat().st_size:
        raise ValueError(f"it would unpack to {unpacked:,} bytes")
    if {part.compress_type for part in parts} - {ZIP_STORED, ZIP_DEFLATED}:
        raise ValueError("it is packed as neither NumPy nor torch would")


def load_pickled(path: Path) -> Any:
    """Read what ``torch.save`` wrote: tensors, dicts, lists, numbers and strings.

    Raises:
        Exception: of many kinds, if the file is not whole or asks for more.
    """
    with open(path, "rb") as file:
        if file.read(4) == b"PK\3\4":
            check_zip(path)
            with ZipFile(file) as archive:
                names = [n for n in archive.namelist() if n.lower().endswith(".pkl")]
                pickles = [BytesIO(archive.read(name)) for name in names]
        else:  # as torch wrote before 1.6: five pickles in a row, then numbers
            file.seek(0)
            pickles = [file] * 5
        for pickled in pickles:
            for code, asked, _ in pickletools.genops(pickled):
                if code.name == "GLOBAL" and not TENSORS.fullmatch(asked):
                    raise ValueError(f"it asks for {asked}, which is no tensor")
    with torch.serialization.safe_globals(OPTIONS):
        return torch.load(path, map_location="cpu", weights_only=True)


def check_weights(
    state: Any, most: int, kinds: Collection[torch.dtype] = FLOATS
) -> None:
    """Raise a ValueError unless this is a dict of weights of so many bytes at most.

    Where weights share their memory, a small file can hold very large ones.
    """
    if not isinstance(state, dict):
        raise ValueError(f"it holds a {type(state).__name__}, no dict of weights")
    odd = [
        f"{key!r} ({getattr(value, 'dtype', type(value).__name__)})"
        for key, value in state.items()
        if not is_weight(key, value, kinds)
    ]
    if odd:
        raise ValueError(f"these are no floats with a name: {listed(odd)}")
    if sum(value.nbytes for value in state.values()) > most:
        raise ValueError("its weights would take far more than the file's size")


def is_weight(key: Any, value: Any, kinds: Collection[torch.dtype]) -> bool:
    """Tell whether this is a name and a plain tensor of such numbers on the CPU."""
    return (
        isinstance(key, str)
        and type(value) in (Tensor, nn.Parameter)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.dtype in kinds
    )


def check_config(cls: type[nn.Module], config: Any, tensors: int) -> None:
    """Raise a ValueError unless a model can be built of these arguments, and soon.

    Args:
        cls: the model's class.
        config: what its constructor would be called with.
        tensors: how many there are to fill it.
    """
    if not isinstance(config, dict):
        raise ValueError(f"its config is no dict: {shown(config)}")
    hints = {}
    for base in reversed(cls.__mro__):
        hints |= getattr(vars(base).get("__init__"), "__annotations__", {})
    for name, value in config.items():
        kinds = (hints.get(name), *get_args(hints.get(name)))
        numbers = value if isinstance(value, list | tuple) else [value]
        if value is None or not (int in kinds or float in kinds):
            continue  # the constructor will say
        if float in kinds:
            fits = type(value) in (int, float) and math.isfinite(value)
        elif name == "depth":  # a block has 12 tensors, and takes time without any
            fits = type(value) is int and 0 <= value <= tensors // 6
        elif name == "num_registers":
            fits = type(value) is int and 0 <= value < 2**31
        else:
            whole = all(type(n) is int and 0 < n < 2**31 for n in numbers)
            fits = whole and 0 < len(numbers) <= tensors
        if not fits:
            raise ValueError(
                f"its {shown(name)} is {shown(value)}, with {tensors} tensors"
            )


def check_fit(state: dict[str, Tensor], shapes: dict[str, Sequence[int]]) -> None:
    """Raise a ValueError unless the weights have these names and shapes."""
    missing = [key for key in shapes if key not in state]
    left = [key for key in state if key not in shapes]
    wrong = [
        f"{key} {tuple(state[key].shape)} for {tuple(shape)}"
        for key, shape in shapes.items()
        if key in state and state[key].shape != shape
    ]
    faults = {"missing": missing, "left over": left, "of another shape": wrong}
    words = [f"{name}: {listed(keys)}" for name, keys in faults.items() if keys]
    if words:
        raise ValueError("; ".join(words))
