"""Where and what a number was measured on, and JSON files that keep it."""

import importlib.metadata
import json
import os
import platform
from datetime import date
from pathlib import Path
from typing import Any

import torch

from vitutils.engine.writing import write_atomically

# Those that this process may use.
CORES = len(getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count()))(0))


def write_json(content: Any, path: str | Path) -> None:
    """Write plain values as JSON, the file whole or not at all.

    Raises:
        ValueError: a number is not finite: JSON has none of these.
        OSError: the file could not be written.
    """
    text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))


def machine(*packages: str, device: str = "cpu") -> dict:
    """Describe where a number is measured.

    Args:
        packages: names of the distributions whose versions count.
        device: "cpu", or "cuda" for the device in use.

    Returns:
        The date, the device's name, the number of cores that this process may use,
        and the versions of Python and of the packages.
    """
    return {
        "date": date.today().isoformat(),
        "device": device_name(device),
        "cores": CORES,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def device_name(device: str) -> str:
    """Return the name of the processor, or of the CUDA device."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    models = [x.partition(":")[2].strip() for x in lines if x.startswith("model name")]
    return models[0] if models else platform.processor()
