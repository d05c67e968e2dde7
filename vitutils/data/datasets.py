"""Datasets: train, validation and test splits that yield normalized batches."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torchvision.datasets import CIFAR10, CIFAR100

from vitutils.data import files
from vitutils.data.augmentation import center_crop, crop_and_flip
from vitutils.data.preprocessing import Preprocessing, printable
from vitutils.data.splits import SEED, MemorySplit, Split, StreamedSplit, generator

DATA = Path(__file__).resolve().parents[2] / "data"
CIFAR = {"cifar10": CIFAR10, "cifar100": CIFAR100}
MEMORY_LIMIT = 2 * 1024**3  # bytes of pixels; a larger folder is streamed


def load(
    name: str | Path,
    *,
    root: str | Path | None = None,
    image_size: int | None = None,
    mirror: str | Path | None = None,
) -> "Dataset":
    """Load a dataset by its name or from a folder of images.

    Args:
        name: "fashion_mnist" (it comes with the book), "cifar10" or "cifar100"
            (downloaded once), or a folder that holds ``train/CLASS/*`` and
            ``test/CLASS/*`` (JPEG, PNG ...). Without ``val/`` or ``validation/``,
            and for the named ones, a tenth of the training images is held out,
            always the same ones.
        root: folder that holds the datasets: by default the book's ``data``, for a
            folder of images the current one.
        image_size: side in pixels to which a folder's images are resized and
            center-cropped. Without it all must be squares of one size.
        mirror: URL or path of CIFAR's official archive or of the folder that holds
            it; by default the environment variable VITUTILS_CIFAR_MIRROR.

    Returns:
        A ``Dataset``, held in memory up to 2 GiB of pixels (``MemorySplit``); a
        larger folder is decoded batch by batch (``StreamedSplit``).

    Raises:
        ValueError: an argument, or a folder's classes or image sizes, do not fit.
        FileNotFoundError: a folder or its images are missing, or vitutils stands
            without the book's ``data`` folder and no ``root`` is given.
        RuntimeError: a file is corrupt, or could not be downloaded or written.
    """
    name = os.fspath(name)
    is_folder = name != "fashion_mnist" and name not in CIFAR
    if mirror and name not in CIFAR:
        raise ValueError(f"mirror is for {' and '.join(CIFAR)}, not for {name!r}")
    if image_size is not None and not is_folder:
        raise ValueError(f"image_size is for folders of images, not for {name!r}")
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size {image_size} is not positive")
    if is_folder:
        return load_folder(Path(root or "", name).expanduser(), image_size)
    if root is None and not DATA.is_dir():
        raise FileNotFoundError(
            f"vitutils was installed without the book's data (no folder {DATA}): give "
            f"root= (in the command line --root) the folder in which {name} lies or "
            "into which it is to be downloaded"
        )
    root = Path(root or DATA).expanduser().absolute()
    if name == "fashion_mnist":
        classes, train, test = files.read_fashion_mnist(root)
    else:
        mirror = mirror or os.environ.get("VITUTILS_CIFAR_MIRROR")
        classes, train, test = files.read_cifar(CIFAR[name], root, mirror)
    train, test = (MemorySplit(labels=y, images=x) for x, y in (train, test))
    return assemble(name, classes, train=train, test=test)


def load_folder(folder: Path, image_size: int | None) -> "Dataset":
    """Load a folder of images, into memory if they fit; see ``load``."""
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is neither a folder of images nor one of the datasets "
            f"fashion_mnist, {', '.join(CIFAR)}"
        )
    classes, parts = files.scan_folder(folder)
    channels, size = files.common_format(parts["train"][0], image_size)
    needed = channels * size**2 * sum(len(paths) for paths, _ in parts.values())
    if needed > MEMORY_LIMIT and not image_size:
        raise ValueError(
            f"{folder} takes {needed / 1e9:.1f} GB, too much to hold in memory: "
            f"give image_size {size} (--image-size {size}) to decode it batch by batch"
        )
    splits = {}
    for part, (paths, labels) in parts.items():
        if needed > MEMORY_LIMIT:
            splits[part] = StreamedSplit(
                labels=labels,
                paths=paths,
                image_size=size,
                in_channels=channels,
                augment=crop_and_flip(size),
            )
        else:
            fit = center_crop(size) if image_size else None
            images = files.read_images(paths, channels, size, fit)
            splits[part] = MemorySplit(labels=labels, images=images)
    return assemble(folder.name, classes, **splits)


def assemble(
    name: str,
    classes: Sequence[str],
    *,
    train: Split,
    test: Split,
    validation: Split | None = None,
) -> "Dataset":
    """Hold out validation images where there are none, and normalize all splits."""
    if validation is None:
        order = torch.randperm(len(train), generator=generator(SEED))
        held_out = max(1, len(train) // 10)
        validation = train.subset(order[:held_out])
        train = train.subset(order[held_out:])
    mean, std = train.pixel_statistics()
    splits = (replace(part, mean=mean, std=std) for part in (train, validation, test))
    return Dataset(name, *splits, tuple(classes))


@dataclass(frozen=True)
class Dataset:
    """Images to learn from: three splits and the names of their classes.

    To change the augmentation, with ``replace`` from ``dataclasses``:
    ``replace(data, train=replace(data.train, augment=...))``.

    Attributes:
        name: what ``load`` was called with, or the folder's own name.
        train, validation, test: the splits.
        classes: names of the classes, in the order of their labels.
    """

    name: str
    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...]

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean of the training images in [0, 1], one value a channel.

        All splits are normalized by it and by ``std``. Where images are streamed, it
        is the mean of 2,000 of them.
        """
        return self.train.mean

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation of the training images, as ``mean``."""
        return self.train.std

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.train.image_size

    @property
    def in_channels(self) -> int:
        """Number of image channels: 1 for gray, 3 for color."""
        return self.train.in_channels

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def preprocessing(self) -> Preprocessing:
        """What a model that learned from this data wants of images."""
        size = (self.image_size, self.image_size)
        classes = tuple(map(printable, self.classes))
        return Preprocessing(size, self.mean, self.std, classes=classes)
