"""Published weights: where the files lie, fetched whole, read without running code."""

import hashlib
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from vitutils.data.download import fetch
from vitutils.data.preprocessing import Preprocessing
from vitutils.engine.formats import unwrap
from vitutils.engine.strangers import (
    FLOATS,
    MOST,
    NUMBERS,
    check_weights,
    check_zip,
    load_pickled,
    reason,
)


class Published(NamedTuple):
    """A published checkpoint.

    Attributes:
        url: the file's address.
        mean, std: what its images, in [0, 1], are normalized with: ImageNet's
            mean and deviation of each channel, or others.
        crop, interpolation: how its publisher makes the images of an evaluation, as
            ``Preprocessing`` has it; if not given: 224 pixels of 256, bicubic.
        file: the file's name on this machine; "": that in the address. If it ends
            as in ``-b40b3cf7.pth``, these digits begin the file's SHA-256.
    """

    url: str
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    file: str = ""
    crop: float = 224 / 256
    interpolation: str = "bicubic"

    def images(self, size: tuple[int, int]) -> Preprocessing:
        """Return how images of a size, (height, width), are made."""
        mean, std, crop = self.mean, self.std, self.crop
        return Preprocessing(size, mean, std, crop, self.interpolation)


def imagenet_classes() -> tuple[str, ...]:
    """Return the names of ImageNet's thousand classes, as torchvision has them."""
    from torchvision import models

    return tuple(models.ViT_B_16_Weights.IMAGENET1K_V1.meta["categories"])


META = "https://dl.fbaipublicfiles.com"
AUGREG = (
    "https://storage.googleapis.com/vit_models/augreg/{}-wd_{}-do_0.0-sd_0.0"
    "--imagenet2012-steps_20k-lr_{}-res_224.npz"
)
TIMM_SMALL = "vit_small_patch16_224.augreg_in21k_ft_in1k"
# timm's settings, for Google's files too: Google squeezes whole images into the square.
HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "crop": 0.9}
PUBLISHED = {
    "vit_b_16": Published(
        "https://download.pytorch.org/models/vit_b_16-c867db91.pth",
        interpolation="bilinear",
    ),
    **{
        file.rpartition("-")[0]: Published(f"{META}/deit/{file}.pth")
        for file in (
            "deit_tiny_patch16_224-a1311bcf",
            "deit_small_patch16_224-cd65a155",
            "deit_base_patch16_224-b5f2ef4d",
            "deit_base_patch16_384-8de9b5d1",
            "deit_tiny_distilled_patch16_224-b40b3cf7",
            "deit_small_distilled_patch16_224-649709d9",
            "deit_base_distilled_patch16_224-df68dfff",
            "deit_base_distilled_patch16_384-d0272ac0",
        )
    },
    **{
        f"augreg_{size}": Published(AUGREG.format(*parts), **HALF)
        for size, parts in {
            "ti_16": ("Ti_16-i21k-300ep-lr_0.001-aug_none", "0.03", "0.03"),
            "s_16": ("S_16-i21k-300ep-lr_0.001-aug_light1", "0.03", "0.03"),
            "b_16": ("B_16-i21k-300ep-lr_0.001-aug_medium1", "0.1", "0.01"),
        }.items()
    },
    TIMM_SMALL: Published(
        f"https://huggingface.co/timm/{TIMM_SMALL}/resolve/"
        "7e2c55630205e1266030f18370f4c6ed1a514b52/model.safetensors",
        **HALF,
        file=f"{TIMM_SMALL}-79c03c63.safetensors",
    ),
    **{
        name: Published(f"{META}/dinov2/{name}/{name}_pretrain.pth")
        for name in ("dinov2_vits14", "dinov2_vitb14")
    },
}
HEAD_WIDTH = 64  # features of a head, in each of these


def find(name: str | Path) -> Path:
    """Return the path of a published file, fetched if need be, or of any other.

    Args:
        name: one of ``PUBLISHED``, or a path. A published file is looked for in the
            folder that the environment variable VITUTILS_WEIGHTS names, under its
            own name or as ``name`` with .pth, .npz or .safetensors (perhaps with
            ``_fp16`` or a hash before that), then in torch.hub's cache, then it is
            fetched into that cache.

    Raises:
        ValueError: there is no such name, file or folder, or the file is not the
            published one.
        RuntimeError: the file could not be fetched.
    """
    if name in PUBLISHED:
        return fetched(name, PUBLISHED[name])
    path = Path(name).expanduser()
    if path.is_file():
        return path
    raise ValueError(f"{name} is no file and none of {', '.join(PUBLISHED)}")


def fetched(name: str, published: Published) -> Path:
    """Return the path of a published file, as ``find`` does for those it knows."""
    file = file_name(published)
    path = nearby(name, file) or Path(torch.hub.get_dir(), "checkpoints", file)
    if not path.exists():
        remedy = (
            f"or save {published.url} in a folder, and name that in the environment "
            "variable VITUTILS_WEIGHTS"
        )
        fetch(published.url, path, fault, remedy)
    elif not has_its_hash(path):
        raise ValueError(f"{path} is not the published file: move it away, load again")
    return path


def entry(name: str | Path) -> Published | None:
    """Return what is published under a name, or of a file that bears its file name."""
    if name in PUBLISHED:
        return PUBLISHED[name]
    path = Path(name).expanduser()
    for published in PUBLISHED.values():
        if path.name == file_name(published) and has_its_hash(path):
            return published
    return None


def file_name(published: Published) -> str:
    return published.file or published.url.rpartition("/")[2]


def nearby(name: str, file: str) -> Path | None:
    """Return a file of the folder VITUTILS_WEIGHTS, None without one."""
    if not (folder := os.environ.get("VITUTILS_WEIGHTS")):
        return None
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise ValueError(f"VITUTILS_WEIGHTS is {folder}, which is no folder")
    alike = rf"{re.escape(name)}([-_](fp16|[0-9a-f]{{8,}}))?\.(pth|npz|safetensors)"
    for path in sorted(folder.iterdir()):
        if path.name == file or re.fullmatch(alike, path.name):
            return path
    return None


def fault(path: Path) -> str | None:
    """Return what is wrong with a published file, None if nothing is."""
    if not has_its_hash(path):
        return "has another hash than the published file"
    try:
        read(path, kinds=NUMBERS)  # the only check of files without a hash
    except ValueError as error:
        return f"is {error}"
    return None


def has_its_hash(path: Path) -> bool:
    """Return whether a file has the SHA-256 whose start its name gives, if any."""
    if not (start := re.search(r"-([0-9a-f]{8,})\.", path.name)):
        return True
    if not path.is_file():  # a pipe has no end
        return False
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest().startswith(start[1])


def read(
    path: Path, kinds: Collection[torch.dtype] = FLOATS, *, which: str | None = None
) -> dict[str, Tensor]:
    """Read a file of tensors and nothing else: what is pickled in it is not run.

    Args:
        path: a .safetensors or .npz file, or, with any other ending, torch's.
        kinds: of numbers that it may hold.
        which: of several models in it, as ``formats.unwrap`` takes it.

    Returns:
        A dict of tensors on the CPU, without what wraps it and its names.

    Raises:
        ValueError: the file is not whole, holds more than weights, or would take
            far more memory than its own size.
    """
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        elif path.suffix == ".npz":
            check_zip(path)
            with np.load(path, allow_pickle=False) as file:
                state = {key: torch.from_numpy(file[key]) for key in file.files}
        else:
            state = load_pickled(path)
    except Exception as error:  # each reader raises its own kinds
        raise not_weights(error) from error
    state = unwrap(state, which)
    try:
        check_weights(state, MOST * path.stat().st_size, kinds)
    except ValueError as error:
        raise not_weights(error) from error
    return state


def not_weights(error: Exception) -> ValueError:
    return ValueError(
        f"not a whole file of weights alone ({reason(error)}): fetch it again, or, "
        "if it holds a model with its code, save the model's state_dict() instead"
    )
