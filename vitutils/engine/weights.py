"""A trained model by its name or file, with what it wants of images."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vitutils.data.files import pair
from vitutils.data.preprocessing import LUMINANCE, Preprocessing
from vitutils.engine.checkpoints import (
    in_utf8,
    is_checkpoint,
    load_model,
    read_preprocessing,
)
from vitutils.engine.formats import Unplaced
from vitutils.engine.hubs import preprocessing_of
from vitutils.engine.libraries import LIBRARIES, as_ours
from vitutils.engine.published import entry, imagenet_classes
from vitutils.pretrained import load_pretrained, renormalize
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
        name: a checkpoint of this book, the folder of a run, whose best model is
            taken, a published name, a file of another library,
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
    name = model_file(name)
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
            told = published.images(pair(model.config["image_size"]))
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


def model_file(name: str | Path) -> str | Path:
    """Return the model's file in a run's folder, and any other name as it is.

    Raises:
        ValueError: it is a file that holds no model for this package.
    """
    path = in_utf8(name).expanduser()
    if (path / "best.safetensors").is_file() and not (path / "config.json").is_file():
        return path / "best.safetensors"
    if path.name == "last.pt" and path.is_file():
        raise ValueError(f"{name} is for --resume: take best.safetensors beside it")
    if path.suffix in (".onnx", ".pt2", ".torchscript"):
        raise ValueError(
            f"{name} is for other programs: take the weights that it was exported "
            "from, or, to predict and evaluate, an .onnx file"
        )
    return name


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
