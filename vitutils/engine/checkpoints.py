"""Models and interrupted runs on disk: whole files or none, and no pickle."""

import importlib
import json
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from vitutils import CHAPTERS
from vitutils.data.datasets import HeldOut
from vitutils.data.files import pair
from vitutils.data.preprocessing import Preprocessing
from vitutils.engine.strangers import (
    FLOATS,
    check_config,
    check_fit,
    listed,
    load_pickled,
    reason,
    shown,
)
from vitutils.engine.writing import write_atomically

LISTED = {
    f"vitutils.{module}.{name}"
    for pieces in CHAPTERS.values()
    for module, names in pieces.items()
    for name in names
}


def save_model(
    model: nn.Module,
    path: str | Path,
    preprocessing: Preprocessing | None = None,
    held_out: HeldOut | None = None,
) -> None:
    """Write a model's weights, and how to build and feed it, to a safetensors file.

    The same model makes the same bytes.

    Args:
        model: a module; with a ``config`` dict of its constructor's arguments
            ``load_model`` can rebuild it.
        path: the file to write. It is replaced whole or not touched.
        preprocessing: what the model wants of images, as ``Dataset.preprocessing`` of
            the data that it learned from; ``load_weights`` reads it. Names of classes
            are left out if the model has another number of them.
        held_out: as ``Dataset.held_out`` of that data; ``read_held_out`` reads it.

    Raises:
        OSError: it could not be written, as on a full disk.
    """
    metadata = {}
    if isinstance(config := getattr(model, "config", None), dict):
        cls = listed_class(model) or type(model)
        metadata["class"] = f"{cls.__module__}.{cls.__qualname__}"
        metadata["config"] = json.dumps(config)
    if preprocessing is not None:
        if len(preprocessing.classes) != (config or {}).get("num_classes"):
            preprocessing = replace(preprocessing, classes=())
        metadata["preprocessing"] = preprocessing.to_json()
    if held_out is not None:
        metadata["held_out"] = json.dumps(held_out._asdict())
    tensors = {k: v.detach().contiguous() for k, v in model.state_dict().items()}

    def write(part):
        save_file(tensors, part, metadata)
        sort_metadata(part)

    write_atomically(path, write)


def sort_metadata(path: Path) -> None:
    """Give a safetensors file's metadata an order: safetensors writes them in any."""
    with open(path, "rb+") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        if held := header.get("__metadata__"):
            header["__metadata__"] = dict(sorted(held.items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        file.seek(8)
        file.write(text.ljust(size))  # spaces at its end are the format's own


def listed_class(model: nn.Module) -> type[nn.Module] | None:
    """Return the package's class of a model whose own class is a chapter's listing.

    A notebook that runs a listing defines the class again, in ``__main__``, where no
    later program finds it. It is the package's if a model of that has the same weights.
    """
    kind = type(model)
    for dotted in LISTED:
        if kind.__module__ == "__main__" and dotted.endswith(f".{kind.__name__}"):
            try:
                check_model(model_class(dotted), model.config, model.state_dict())
            except Exception:  # it is the reader's own, with arguments of its own
                continue
            return model_class(dotted)
    return None


def is_checkpoint(path: str | Path) -> bool:
    """Tell whether a file says of itself what ``save_model`` writes of a model."""
    path = Path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return {"class", "config"} <= (file.metadata() or {}).keys()
    except SafetensorError:
        return False


def load_model(path: str | Path) -> nn.Module:
    """Rebuild a model of this package from a file that ``save_model`` wrote.

    The file may be a stranger's: nothing in it is run, and nothing is built that its
    tensors do not fill. What their numbers are, not even whether they are finite, is
    not looked at.

    Args:
        path: the safetensors file.

    Returns:
        The model, on the CPU and in eval mode.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is cut short or corrupt, does not say which model
            of vitutils its weights belong to, or is of another version of it.
    """
    path = existing(path)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({reason(error)}): "
            "write it again with save_model, or fetch it again"
        ) from error
    cls = model_class(metadata.get("class", ""))
    if cls is None:
        raise ValueError(
            f"{path} does not name a model of vitutils (class: "
            f"{shown(metadata.get('class'))}): take the version that wrote it, or "
            "build the model yourself and use "
            "model.load_state_dict(safetensors.torch.load_file(path))"
        )
    try:
        return rebuilt(cls, json.loads(metadata.get("config", "null")), tensors)
    except Exception as error:  # constructors raise many kinds
        raise ValueError(
            f"{path} is not of this version of vitutils ({shown(error, 300)}): load it "
            "with the version that wrote it, or fetch it again"
        ) from error


def read_preprocessing(path: str | Path, config: dict) -> Preprocessing | None:
    """Read what a checkpoint says of the images that its model wants.

    Args:
        path: a file that ``save_model`` wrote, perhaps a stranger's.
        config: the model's.

    Returns:
        None if it says nothing, as files of version 0.2 and before.

    Raises:
        ValueError: what it says is malformed, or of another model.
    """
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get("preprocessing")
    if text is None:
        return None
    try:
        found = Preprocessing.from_json(text)
        told = {
            "image_size": found.image_size,
            "in_channels": len(found.mean),
            "num_classes": len(found.classes) or config.get("num_classes"),
        }
        own = {name: config.get(name, value) for name, value in told.items()}
        own["image_size"] = pair(own["image_size"])
        for name, value in told.items():
            if own[name] != value:
                raise ValueError(f"its {name} is {value}, the model's {own[name]}")
    except Exception as error:  # JSON, too, raises several kinds
        raise ValueError(
            f"{path} says of its images what cannot be ({shown(error, 300)}): write it "
            "again with save_model, or fetch it again"
        ) from error
    return found


def read_held_out(path: str | Path) -> HeldOut | None:
    """Read which images a checkpoint's training held out; None: it does not say.

    Raises:
        ValueError: what it says is malformed.
    """
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get("held_out", "null")
    return as_held_out(text, path)


def as_held_out(text: str, path: str | Path) -> HeldOut | None:
    """Return what a file says in JSON of the images held out, if it may be true."""
    try:
        said = json.loads(text)
        if said is None:
            return None
        found = HeldOut(**said)
        if not 0 < len({**found.files}) < found.images:
            raise ValueError
    except (RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} says of the images held out what cannot be ({shown(text)})"
        ) from error
    return found


def rebuilt(cls: type[nn.Module], config: Any, tensors: dict) -> nn.Module:
    """Build a model as its config tells, once it is sure that the tensors fill it."""
    check_model(cls, config, tensors)
    model = cls(**config)  # draws its weights, as when the chapters' numbers were made
    model.load_state_dict(tensors)
    return model.eval()


def check_model(cls: type[nn.Module], config: Any, tensors: dict) -> None:
    """Raise an error unless a class's model of a config has such tensors."""
    check_config(cls, config, len(tensors))
    with torch.device("meta"):  # shapes, and no memory
        wanted = cls(**config).state_dict()
    check_fit(tensors, {key: value.shape for key, value in wanted.items()})
    odd = [
        f"{key} {tensors[key].dtype}"
        for key, value in wanted.items()
        if value.is_floating_point() and tensors[key].dtype not in FLOATS
    ]
    if odd:
        raise ValueError(f"not of floats: {listed(odd)}")


def check_weights_of(model: nn.Module, path: str | Path) -> None:
    """Raise a ValueError unless a safetensors file has weights that fit a model."""
    try:
        tensors = load_file(existing(path))
    except SafetensorError as error:
        raise ValueError(reason(error)) from error
    check_fit(tensors, {key: value.shape for key, value in model.state_dict().items()})


def model_class(dotted_name: str) -> type[nn.Module] | None:
    """Return the module class of vitutils with this name, or None."""
    if dotted_name not in LISTED:  # a file shall not choose what we import
        return None
    module, _, name = dotted_name.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    return found if isinstance(found, type) and issubclass(found, nn.Module) else None


def save_state(state: dict[str, Any], path: str | Path) -> None:
    """Write a run's state (a dict of tensors, numbers and strings) whole or not."""
    write_atomically(path, lambda part: torch.save(plain(state), part))


def plain(value: Any) -> Any:
    """Return a value with Python's numbers for NumPy's, which are pickled as code."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, PurePath):
        return str(value)
    if type(value) is dict:
        return {plain(key): plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    return value


def load_state(path: str | Path) -> dict[str, Any]:
    """Read what ``save_state`` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a bit or more of it is not as it was written.
    """
    path = existing(path)
    try:
        state = load_pickled(path)
        with ZipFile(path) as file:
            if damaged := file.testzip():  # torch compares no checksums
                raise ValueError(f"{damaged} has another checksum")
        if not isinstance(state, dict):
            raise ValueError(f"it holds a {type(state).__name__}")
    except Exception as error:  # each reader raises its own kinds
        raise ValueError(
            f"{path} is cut short or corrupt ({reason(error)}): put a whole copy in "
            "its place, or begin another run in another folder"
        ) from error
    return state


def in_utf8(path: str | Path) -> Path:
    """Return a path, or raise a ValueError: safetensors takes no other names."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"{shown(path, 300)} is no name in UTF-8, as files of weights need: rename "
            "it, or give another one"
        ) from None
    return Path(path)


def existing(path: str | Path) -> Path:
    path = Path(path)
    if not path.is_file():
        words = f"{path} is a folder, no file" if path.is_dir() else f"no file {path}"
        raise FileNotFoundError(words)
    return path
