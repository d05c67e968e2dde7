"""Classifiers of torchvision and timm, by their names."""

import difflib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from vitutils.data.preprocessing import Preprocessing
from vitutils.data.splits import generator
from vitutils.engine.checkpoints import existing
from vitutils.engine.formats import tidy_torchvision
from vitutils.engine.hubs import images_of_timm, imported, part
from vitutils.engine.published import Published, fetched, read
from vitutils.engine.strangers import NUMBERS, listed, shown
from vitutils.pretrained import convert


def of_torchvision(
    name: str, file: str | Path | None
) -> tuple[nn.Module, Preprocessing]:
    """Return a classifier of torchvision, with the weights of a file or its own."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise ValueError(
            f"torchvision has no classifier {shown(name)}: {alike(name, known)}"
        )
    best = models.get_model_weights(name).DEFAULT
    made = best.transforms()
    (size,), (resized,) = made.crop_size, made.resize_size
    told = Published(
        best.url,
        tuple(made.mean),
        tuple(made.std),
        crop=size / resized,
        interpolation=made.interpolation.value,
    )
    state = read_file(file or fetched(name, told))
    old = r"(denselayer\d+\.(?:norm|conv))\.(?=\d)"  # of DenseNet's own files
    state = {re.sub(old, r"\1", key): value for key, value in state.items()}
    if "conv_proj.weight" in state:
        state = tidy_torchvision(state)
    own = {}
    if name in ("googlenet", "inception_v3"):  # whose weights want other images
        own = {"transform_input": True, "init_weights": False}
    model = filled(partial(models.get_model, name, **own), state, f"torchvision/{name}")
    told = told.images((size, size))
    if file is None:
        told = replace(told, classes=tuple(best.meta["categories"]))
    return model, told


def of_timm(name: str, file: str | Path | None) -> tuple[nn.Module, Preprocessing]:
    """Return a classifier of timm, with the weights of a file or its own."""
    timm = imported("timm", f"timm/{name}")
    try:
        said = timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        known = [*timm.list_pretrained(), *timm.list_models()]
        raise ValueError(f"timm has no {shown(name)}: {alike(name, known)}") from error
    if file:
        state = read_file(file)
        model = filled(partial(timm.create_model, name), state, f"timm/{name}")
    else:
        try:
            if said.hf_hub_id:
                part(said.hf_hub_id, "model.safetensors")  # soon told without a network
            model = timm.create_model(name, pretrained=True)
        except Exception as error:  # of Hugging Face's hub, and of timm
            raise RuntimeError(
                f"timm/{name} could not be fetched "
                f"({shown(' '.join(str(error).split()), 200)}): try again with a "
                "network, or give a file of its weights"
            ) from error
    told = images_of_timm(model.pretrained_cfg)
    return model, replace(told, classes=()) if file else told


def read_file(path: str | Path) -> dict[str, Tensor]:
    """Read weights of any model; an error names their file."""
    path = existing(Path(path).expanduser())
    try:
        state = read(path, kinds=NUMBERS)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    # What DataParallel, DDP and torch.compile put before the names.
    wrapped = r"(module\.|_orig_mod\.)+"
    return {re.sub(f"^{wrapped}", "", key): value for key, value in state.items()}


def filled(build: Callable, state: dict[str, Tensor], name: str) -> nn.Module:
    """Build another library's model for as many classes as the weights have.

    Args:
        build: called with num_classes.
        state: the weights.
        name: the model's, for an error.
    """
    model = build(num_classes=1000)
    shapes = {key: value.shape for key, value in model.state_dict().items()}
    heads = [k for k, shape in shapes.items() if shape[:1] == (1000,) and k in state]
    others = {state[k].shape[0] for k in heads if state[k].shape[1:] == shapes[k][1:]}
    if len(others) == 1 and others != {1000}:
        model = build(num_classes=others.pop())
    try:
        model.load_state_dict(state)  # their models also know older names
    except RuntimeError as error:
        words = shown(" ".join(str(error).split()), 300)
        raise ValueError(f"these are no weights of {name}: {words}") from error
    return model


def alike(name: str, known: Sequence[str]) -> str:
    """Return in words which of the known names are like one."""
    close = difflib.get_close_matches(name, known, n=6, cutoff=0.5)
    return f"perhaps {' or '.join(close)}" if close else f"it has {listed(known)}"


@torch.no_grad()
def as_ours(model: nn.Module, wanted: Preprocessing) -> nn.Module:
    """Return the book's model of another library's, or the other if ours differ."""
    heads = (m.num_heads for m in model.modules() if hasattr(m, "num_heads"))
    try:
        cls, config, state = convert(
            model.state_dict(),
            num_heads=next(heads, None),
            trained_at=wanted.image_size,
        )
    except ValueError:  # it is no ViT as ours
        return model
    ours = cls(**config).eval()
    ours.load_state_dict(state)
    images = torch.linspace(-2, 2, 3 * math.prod(wanted.image_size))
    images = images[torch.randperm(len(images), generator=generator(0))]
    images = images.view(1, 3, *wanted.image_size)
    same = torch.allclose(ours(images), model(images), atol=1e-4, rtol=1e-4)
    return ours if same else model


LIBRARIES = {"torchvision": of_torchvision, "timm": of_timm}
