"""A trained model by its name or file, with what it wants of images."""

import difflib
import hashlib
import importlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision import models

from vitutils.data.files import pair
from vitutils.data.preprocessing import LUMINANCE, Preprocessing
from vitutils.data.splits import generator
from vitutils.engine.checkpoints import (
    existing,
    is_checkpoint,
    load_model,
    read_preprocessing,
)
from vitutils.engine.formats import Unplaced
from vitutils.engine.hubs import preprocessing_of
from vitutils.engine.published import Published, entry, fetched, read
from vitutils.engine.strangers import NUMBERS, listed, shown
from vitutils.pretrained import convert, load_pretrained, renormalize
from vitutils.vit import VisionTransformer


class Weights(NamedTuple):
    """A trained model, and how its images are made."""

    model: nn.Module
    preprocessing: Preprocessing

    def digest(self) -> str:
        """Return what differs where the weights, or the images they want, differ."""
        found = hashlib.sha256(self.preprocessing.to_json().encode())
        for name, value in self.model.state_dict().items():
            found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            found.update(value.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return f"of SHA-256 {found.hexdigest()[:16]}"


def load_weights(
    name: str | Path,
    *,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    num_heads: int | None = None,
    image_size: tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Weights:
    """Load a trained model from wherever it comes.

    Args:
        name: a checkpoint of this book, a published name, a file of another library,
            a folder or repository of Hugging Face's (``OWNER/NAME``), or
            ``torchvision/NAME`` or ``timm/NAME``: any classifier of these.
        weights: file with weights of such a classifier; None: the library's best,
            which are fetched once.
        num_classes: number of classes, for weights without a head.
        num_heads: attention heads in a block, where the file does not say.
        image_size: (height, width) of its images, where neither file nor model says.
        mean, std: normalize its images, where nothing else says with what.

    Returns:
        The model, on the CPU and in eval mode, with its preprocessing. It is one of
        the book's wherever one of these answers the same.

    Raises:
        ValueError: there is no such name or file, or it cannot be read; or nothing
            tells how its images are normalized, or it tells another way than is given.
        RuntimeError: it could not be fetched.
    """
    library, _, kind = str(name).partition("/")
    told = None
    if library in LIBRARIES and kind and not Path(name).exists():
        model, told = LIBRARIES[library](kind, weights)
        model = as_ours(model.eval(), told)
    elif weights is not None:
        raise ValueError(
            f"{name} is a file or a published name: weights beside it are for "
            f"{' and '.join(f'{library}/NAME' for library in LIBRARIES)}"
        )
    elif is_checkpoint(name):
        model = load_model(name)
        told = read_preprocessing(name, getattr(model, "config", {}))
    else:
        told = preprocessing_of(name)
        given = {"num_classes": num_classes, "num_heads": num_heads}
        try:
            model = load_pretrained(name, **given)
        except Unplaced:
            if image_size is None:
                raise
            model = load_pretrained(name, **given, trained_at=image_size)
        if published := entry(name):
            told = images_of(published, pair(model.config["image_size"]))
            if num_classes is None and model.config["num_classes"] == 1000:
                told = replace(told, classes=imagenet_classes())
    if told is None:
        told = asked_for(name, model, image_size, mean, std)
    for word, value in (("mean", mean), ("std", std)):
        own = getattr(told, word)
        if value is None or tuple(value) == own:
            continue
        if len(value) != len(own):
            raise ValueError(f"{name} wants {len(own)} values of {word} (--{word})")
        if weights is None:
            raise ValueError(
                f"{name} tells its own {word}, {' '.join(map(str, own))}: leave out "
                f"{word} (--{word})"
            )
        told = replace(told, **{word: tuple(value)})  # trained by somebody otherwise
    return Weights(model, told)


def asked_for(
    name: str | Path,
    model: nn.Module,
    image_size: tuple[int, int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Preprocessing:
    """Return what a caller says of the images of a file that says nothing."""
    config = getattr(model, "config", {})
    if (channels := config.get("in_channels")) is None:
        raise ValueError(f"{name} holds a {type(model).__name__}, no model of images")
    if mean is None or std is None:
        raise ValueError(
            f"{name} does not say how its images are normalized: give mean and std of "
            "its images in [0, 1], one value a channel (--mean and --std; of a "
            "teacher, --teacher-mean and --teacher-std)"
        )
    if not len(mean) == len(std) == channels:
        raise ValueError(
            f"{name} wants images of {channels} channels: give so many values as mean "
            "and as std (--mean, --std)"
        )
    size = config.get("image_size", image_size)
    if size is None:
        raise ValueError(
            f"{name} does not say how large its images are: give image_size "
            "(--image-size)"
        )
    return Preprocessing(pair(size), tuple(mean), tuple(std))


def imagenet_classes() -> tuple[str, ...]:
    """Return the names of ImageNet's thousand classes, as torchvision has them."""
    return tuple(models.ViT_B_16_Weights.IMAGENET1K_V1.meta["categories"])


def images_of(published: Published, size: tuple[int, int]) -> Preprocessing:
    """Return how the images of published weights are made."""
    return Preprocessing(
        size, published.mean, published.std, published.crop, published.interpolation
    )


# ---- images of one model for another ----


class Converting(nn.Module):
    """A model that takes the images of another one, as a student's teacher does.

    Args:
        weights: the model, and what it wants of images.
        given: what the other one wants, (B, C, H, W).
    """

    def __init__(self, weights: Weights, given: Preprocessing) -> None:
        super().__init__()
        self.model, self.wanted, self.given = *weights, given

    def forward(self, images: Tensor) -> Tensor:
        return self.model(self.given.convert(images, self.wanted))


@torch.no_grad()
def adapted(weights: Weights, images: Preprocessing) -> nn.Module:
    """Let a model of the book take images made in another way, and answer as before.

    Normalization, gray values of colors and colors of a gray value are linear in the
    channels: they are folded into the first layer. A ViT answers exactly as before, a
    ``ConvNet`` but for the edges of images, around which it puts zeros.

    Args:
        weights: the model; its weights may be changed.
        images: how those are made that it is to take. Their size is not looked at.

    Returns:
        A model for images of so many channels, normalized by that mean and std.
    """
    model, own = weights
    channels = max(len(own.mean), len(images.mean))
    model = recolored(model, channels)
    old, new = (
        [values * (channels // len(values)) for values in (told.mean, told.std)]
        for told in (own, images)
    )
    if isinstance(model, VisionTransformer):
        renormalize(model, old=old, new=new)
    else:
        conv, norm = model.stages[:2]
        (old_mean, old_std), (new_mean, new_std) = torch.tensor([old, new])
        shift = ((new_mean - old_mean) / old_std).view(-1, 1, 1)
        norm.running_mean -= (conv.weight * shift).sum(dim=(1, 2, 3))
        conv.weight *= (new_std / old_std).view(-1, 1, 1)
    return recolored(model, len(images.mean))


def recolored(model: nn.Module, channels: int) -> nn.Module:
    """Rebuild a model of the book for gray images (1 channel) or for color (3).

    Gray images are color ones whose channels are alike, and a color's gray value is
    its luminance.
    """
    if channels == model.config["in_channels"]:
        return model
    state = model.state_dict()
    first = next(n for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    weight = state[f"{first}.weight"]
    if channels == 1:
        weight = weight.sum(dim=1, keepdim=True)
    else:
        weight = weight * torch.tensor(LUMINANCE).view(-1, 1, 1)
    other = type(model)(**model.config | {"in_channels": channels})
    other.load_state_dict(state | {f"{first}.weight": weight})
    return other.train(model.training)


# ---- other libraries' models ----


def of_torchvision(
    name: str, file: str | Path | None
) -> tuple[nn.Module, Preprocessing]:
    """Return a classifier of torchvision, with the weights of a file or its own."""
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
    own = {}
    if name in ("googlenet", "inception_v3"):  # whose weights want other images
        own = {"transform_input": True, "init_weights": False}
    model = filled(partial(models.get_model, name, **own), state, f"torchvision/{name}")
    told = images_of(told, (size, size))
    if file is None:
        told = replace(told, classes=tuple(best.meta["categories"]))
    return model, told


def of_timm(name: str, file: str | Path | None) -> tuple[nn.Module, Preprocessing]:
    """Return a classifier of timm, with the weights of a file or its own."""
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise ValueError(f"timm/{name} needs timm: pip install timm") from error
    try:
        timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        known = [*timm.list_pretrained(), *timm.list_models()]
        raise ValueError(f"timm has no {shown(name)}: {alike(name, known)}") from error
    if file:
        state = read_file(file)
        model = filled(partial(timm.create_model, name), state, f"timm/{name}")
    else:
        try:
            model = timm.create_model(name, pretrained=True)
        except Exception as error:  # of Hugging Face's hub, and of timm
            raise RuntimeError(
                f"timm/{name} could not be fetched "
                f"({shown(' '.join(str(error).split()), 200)}): try again with a "
                "network, or give a file of its weights"
            ) from error
    made = timm.data.resolve_model_data_config(model)
    smooth = made["interpolation"] != "bilinear"
    told = Preprocessing(
        tuple(made["input_size"][1:]),
        tuple(made["mean"]),
        tuple(made["std"]),
        made["crop_pct"],
        "bicubic" if smooth else "bilinear",
    )
    tag = model.pretrained_cfg.get("tag") or ""
    if file is None and model.num_classes == 1000 and "in1k" in tag:
        told = replace(told, classes=imagenet_classes())
    return model, told


def read_file(path: str | Path) -> dict[str, Tensor]:
    """Read weights of any model; an error names their file."""
    path = existing(Path(path).expanduser())
    try:
        return read(path, kinds=NUMBERS)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


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
