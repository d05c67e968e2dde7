"""A trained model by its name or file, with what it wants of images."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn
from torchvision.models import get_weight

from vitutils.data.preprocessing import Preprocessing
from vitutils.engine.checkpoints import (
    is_checkpoint,
    load_model,
    read_preprocessing,
    sides,
)
from vitutils.engine.published import entry
from vitutils.pretrained import load_pretrained


class Weights(NamedTuple):
    """A trained model, and how its images are made."""

    model: nn.Module
    preprocessing: Preprocessing


def load_weights(
    name: str | Path,
    *,
    num_classes: int | None = None,
    num_heads: int | None = None,
    image_size: tuple[int, int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Weights:
    """Load a trained model from wherever it comes.

    Args:
        name: a checkpoint of this book, a published name, or a file of another library.
        num_classes: number of classes; None: the file's. Another library's file gets a
            new head for another number.
        num_heads: attention heads in a block, where the file does not say.
        image_size: (height, width) of its images, where neither file nor model says.
        mean, std: normalize its images, where nothing else says with what.

    Returns:
        The model, on the CPU and in eval mode, with its preprocessing.

    Raises:
        ValueError: there is no such name or file, or it cannot be read; or nothing
            tells how its images are normalized, or it tells another way than is given.
        RuntimeError: it could not be fetched.
    """
    told = None
    if is_checkpoint(name):
        model = load_model(name)
        told = read_preprocessing(name, model.config)
    else:
        model = load_pretrained(name, num_classes=num_classes, num_heads=num_heads)
        if published := entry(name):
            names = imagenet_classes() if num_classes is None else ()
            told = Preprocessing(
                sides(model.config["image_size"]),
                published.mean,
                published.std,
                published.crop,
                published.interpolation,
                names if len(names) == model.config["num_classes"] else (),
            )
    if told is None:
        told = asked_for(name, model, image_size, mean, std)
    for word, value in (("mean", mean), ("std", std)):
        own = getattr(told, word)
        if value is not None and tuple(value) != own:
            raise ValueError(
                f"{name} tells its own {word}, {' '.join(map(str, own))}: leave out "
                f"{word} (--{word})"
            )
    return Weights(model, told)


def asked_for(
    name: str | Path,
    model: nn.Module,
    image_size: tuple[int, int] | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Preprocessing:
    """Return what a caller says of the images of a file that says nothing."""
    if mean is None or std is None:
        raise ValueError(
            f"{name} does not say how its images are normalized: give mean and std "
            "(--mean, --std) of its images in [0, 1], one value a channel"
        )
    channels = model.config["in_channels"]
    if not len(mean) == len(std) == channels:
        raise ValueError(
            f"{name} wants images of {channels} channels: give so many values as mean "
            "and as std (--mean, --std)"
        )
    size = model.config.get("image_size", image_size)
    if size is None:
        raise ValueError(
            f"{name} does not say how large its images are: give image_size "
            "(--image-size)"
        )
    return Preprocessing(sides(size), tuple(mean), tuple(std))


def imagenet_classes() -> tuple[str, ...]:
    """Return the names of ImageNet's thousand classes, as torchvision has them."""
    return tuple(get_weight("ViT_B_16_Weights.IMAGENET1K_V1").meta["categories"])
