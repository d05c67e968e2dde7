"""A trained model by its name or file, with what it wants of images."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import nn

from vitutils.data.preprocessing import Preprocessing
from vitutils.engine.checkpoints import is_checkpoint, load_model
from vitutils.engine.published import PUBLISHED
from vitutils.pretrained import load_pretrained


class Weights(NamedTuple):
    """A trained model, and how its images are made."""

    model: nn.Module
    preprocessing: Preprocessing


def load_weights(
    name: str | Path,
    *,
    num_heads: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Weights:
    """Load a trained model from wherever it comes.

    Args:
        name: a checkpoint of this book, a published name, or a file of another library.
        num_heads: attention heads in a block, where the file does not say.
        mean, std: normalize its images, where nothing else says with what.

    Returns:
        The model, on the CPU and in eval mode, with its preprocessing.

    Raises:
        ValueError: there is no such name or file, or it cannot be read; or nothing
            tells how its images are normalized.
        RuntimeError: it could not be fetched.
    """
    if is_checkpoint(name):
        model = load_model(name)
    else:
        model = load_pretrained(name, num_heads=num_heads)
    if published := PUBLISHED.get(name):
        mean, std = published.mean, published.std
    if mean is None or std is None:
        raise ValueError(
            f"{name} does not say how its images are normalized: give mean and std "
            "(--mean, --std)"
        )
    size = model.config["image_size"]
    size = (size, size) if isinstance(size, int) else tuple(size)
    return Weights(model, Preprocessing(size, tuple(mean), tuple(std)))
