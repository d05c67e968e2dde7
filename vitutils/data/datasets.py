"""Datasets: train, validation and test splits that yield normalized batches."""

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vitutils.data import files
from vitutils.data.augmentation import center_crop, crop_and_flip
from vitutils.data.preprocessing import Preprocessing, printable
from vitutils.data.shards import content, size_of
from vitutils.data.splits import SEED, MemorySplit, Split, StreamedSplit, generator

DATA = Path(__file__).resolve().parents[2] / "data"
CIFAR = ("cifar10", "cifar100")
NAMED = ("fashion_mnist", *CIFAR)
MEMORY_LIMIT = 2 * 1024**3  # bytes of pixels; a larger folder is streamed
MOST_ROWS = 20  # of a summary


def load(
    name: str | Path,
    *,
    root: str | Path | None = None,
    image_size: int | tuple[int, int] | None = None,
    mirror: str | Path | None = None,
) -> "Dataset":
    """Load a dataset by its name or from a folder of images.

    Args:
        name: "fashion_mnist" (it comes with the book), "cifar10" or "cifar100"
            (downloaded once), or a folder that holds ``train/CLASS/*`` with
            ``val/CLASS/*``, ``test/CLASS/*`` or both, or ``CLASS/*`` alone. In place of
            folders of classes there may be WebDataset's shards, ``*.tar``: of images
            such as ``KEY.jpg``, with the class of each in ``KEY.cls``. Of a folder
            without ``val`` (or ``valid``, ``validation``) a tenth of each class's
            training images is held out, one of two to nine and none of one; of the
            named ones a tenth of all. They are always the same ones.
        root: folder that holds the datasets: by default the book's ``data``, for a
            folder of images the current one.
        image_size: side in pixels, or (height, width), to which a folder's images
            are resized and center-cropped. Without it all must have one size.
        mirror: URL or path of CIFAR's official archive or of the folder that holds
            it; by default the environment variable VITUTILS_CIFAR_MIRROR.

    Returns:
        A ``Dataset``, held in memory up to 2 GiB of pixels (``MemorySplit``); a
        larger folder is decoded batch by batch (``StreamedSplit``). Images are turned
        upright as their EXIF data say, what is transparent becomes white, and if one
        of a folder's images has colors, gray ones become color too.

    Raises:
        ValueError: an argument, or a folder's classes or image sizes, do not fit.
        FileNotFoundError: a folder or its images are missing, or vitutils stands
            without the book's ``data`` folder and no ``root`` is given.
        RuntimeError: a file is corrupt, or could not be downloaded or written.
    """
    name = os.fspath(name)
    is_folder = name not in NAMED
    if mirror and name not in CIFAR:
        raise ValueError(f"mirror is for {' and '.join(CIFAR)}, not for {name!r}")
    if image_size is not None and not is_folder:
        raise ValueError(f"image_size is for folders of images, not for {name!r}")
    if image_size is not None and min(files.pair(image_size)) < 1:
        raise ValueError(f"image_size {image_size} is not positive")
    if is_folder:
        return load_folder(folder_of(name, root), image_size)
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
        from torchvision.datasets import CIFAR10, CIFAR100

        kind = CIFAR10 if name == "cifar10" else CIFAR100
        classes, train, test = files.read_cifar(kind, root, mirror)
    train, test = (MemorySplit(labels=y, images=x) for x, y in (train, test))
    return assemble(name, classes, train=train, test=test)


def folder_of(name: str, root: str | Path | None) -> Path:
    """Return the folder of images that a name means; see ``load``."""
    if root and Path(name).expanduser().is_absolute():
        raise ValueError(f"{name} says where it lies: leave out root (--root)")
    folder = Path(root or "", name).expanduser()
    if folder.is_dir():
        return folder
    kind = "a file, which is " if folder.exists() else ""
    raise ValueError(
        f"{folder} is {kind}neither a folder of images nor one of the datasets "
        f"{', '.join(NAMED)}"
    )


def load_folder(folder: Path, image_size: int | tuple[int, int] | None) -> "Dataset":
    """Load a folder of images, into memory if they fit; see ``load``."""
    classes, parts, skipped = files.scan_folder(folder)
    if "train" not in parts:
        raise FileNotFoundError(f"{folder} has no folder train/: {files.LAYOUT}")
    every = [path for paths, _ in parts.values() for path in paths]
    wanted = None if image_size is None else files.pair(image_size)
    channels, size = files.common_format(every, folder, wanted)
    needed = channels * math.prod(size) * len(every)
    if needed > MEMORY_LIMIT and not image_size:
        why = f"{folder} takes {needed / 1e9:.1f} GB, too much to hold in memory"
        raise files.SizeNeeded(why, files.proposed([size]))
    splits = {}
    for part, (paths, labels) in parts.items():
        if needed > MEMORY_LIMIT:
            splits[part] = StreamedSplit(
                labels=labels,
                paths=paths,
                image_size=files.unpair(size),
                in_channels=channels,
                augment=crop_and_flip(size),
            )
        else:
            fit = center_crop(size) if image_size else None
            images = files.read_images(paths, channels, size, fit)
            splits[part] = MemorySplit(labels=labels, images=images)
    notes, kept = [], None
    if "validation" not in splits:
        rows, held_out = stratified(splits["train"].labels)
        if not len(held_out):
            raise ValueError(
                f"{folder} has one training image of each class: add some, or val/ "
                "to validate on"
            )
        kept = HeldOut.of(parts["train"][0], held_out.tolist())
        splits["validation"] = splits["train"].subset(held_out)
        splits["train"] = splits["train"].subset(rows)
        notes.append("validation: a tenth of the training images of each class")
    if "test" not in splits:
        notes.append(
            "test: no images, so that the end is measured on the validation ones"
        )
    notes += files.told(skipped)
    for words in files.told({k: v for k, v in skipped.items() if k in files.UNREAD}):
        warnings.warn(f"{folder}: {words}", stacklevel=3)
    return assemble(folder.name, classes, **splits, notes=notes, held_out=kept)


class HeldOut(NamedTuple):
    """Which images of a folder a model did not learn from.

    Attributes:
        images: number of the folder's training images, with those held out.
        files: the images held out: ``content_key`` by ``name_keys``.
    """

    images: int
    files: dict[str, str]

    @classmethod
    def of(cls, paths: Sequence[str], rows: Sequence[int]) -> "HeldOut":
        """Note those of a folder's training images, of all classes, in these rows."""
        names = name_keys(paths)
        return cls(len(paths), {names[row]: content_key(paths[row]) for row in rows})

    def rows(self, paths: Sequence[str]) -> list[int]:
        """Return the indices of those that are still there and the same."""
        named = enumerate(zip(paths, name_keys(paths), strict=True))
        return [
            row
            for row, (path, name) in named
            if name in self.files and self.files[name] == content_key(path)
        ]


def name_keys(paths: Sequence[str]) -> list[str]:
    """Return a digest of each image's name, from its class's folder on."""
    first, last = min(paths), max(paths)  # what they share, all do
    shared = next((i for i, c in enumerate(first) if last[i : i + 1] != c), len(first))
    start = first.rfind(os.sep, 0, shared) + 1
    return [digest(os.fsencode(path[start:])) for path in paths]


def content_key(path: str) -> str:
    """Return a digest of a file's beginning and size."""
    held = content(path)
    with held if isinstance(held, BytesIO) else open(held, "rb") as file:
        return digest(b"%d %s" % (size_of(path), file.read(2**16)))


def digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:16]


def stratified(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Part the indices of labels (N,): what is left, and a tenth of each class.

    At least one image of a class is held out, but the only one never is.
    """
    order = torch.randperm(len(labels), generator=generator(SEED))
    order = order[labels[order].argsort(stable=True)]  # class by class
    left, held_out = [], []
    for rows in order.split(labels.bincount().tolist()):
        count = max(1, len(rows) // 10) if len(rows) > 1 else 0
        held_out.append(rows[:count])
        left.append(rows[count:])
    return torch.cat(left).sort().values, torch.cat(held_out).sort().values


def assemble(
    name: str,
    classes: Sequence[str],
    *,
    train: Split,
    test: Split | None = None,
    validation: Split | None = None,
    notes: Sequence[str] = (),
    held_out: HeldOut | None = None,
) -> "Dataset":
    """Hold out validation images where there are none, and normalize all splits."""
    if validation is None:
        order = torch.randperm(len(train), generator=generator(SEED))
        count = max(1, len(train) // 10)
        validation = train.subset(order[:count])
        train = train.subset(order[count:])
    mean, std = train.pixel_statistics()
    splits = (
        None if part is None else replace(part, mean=mean, std=std)
        for part in (train, validation, test)
    )
    return Dataset(name, *splits, tuple(classes), tuple(notes), held_out)


@dataclass(frozen=True)
class Dataset:
    """Images to learn from: three splits and the names of their classes.

    To change the augmentation, with ``replace`` from ``dataclasses``:
    ``replace(data, train=replace(data.train, augment=...))``.

    Attributes:
        name: what ``load`` was called with, or the folder's own name.
        train, validation, test: the splits; ``test`` is None where a folder has none.
        classes: names of the classes, in the order of their labels.
        notes: what was done to a folder's images, a sentence each: which were held
            out, and which files were skipped.
        held_out: which images ``load`` took from a folder's training images for
            validation; None: it took none, or those of a named dataset.
    """

    name: str
    train: Split
    validation: Split
    test: Split | None
    classes: tuple[str, ...]
    notes: tuple[str, ...] = ()
    held_out: HeldOut | None = None

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
    def image_size(self) -> int | tuple[int, int]:
        """Side of the images in pixels, or (height, width) if they are no squares."""
        return self.train.image_size

    @property
    def in_channels(self) -> int:
        """Number of image channels, 1 for gray and 3 for color."""
        return self.train.in_channels

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def preprocessing(self) -> Preprocessing:
        """What a model that learned from this data wants of images."""
        size = files.pair(self.image_size)
        classes = tuple(map(printable, self.classes))
        return Preprocessing(size, self.mean, self.std, classes=classes)

    def summary(self) -> str:
        """Return a table of images by class and part, and what else is to be known."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        parts = {name: split for name, split in parts.items() if split is not None}
        counts = torch.stack(
            [
                part.labels.bincount(minlength=self.num_classes)
                for part in parts.values()
            ]
        ).T
        rows = [*zip(self.classes, counts.tolist(), strict=True)]
        if len(rows) > MOST_ROWS:  # the rarest tell most
            rows = sorted(rows, key=lambda row: row[1][0])[: MOST_ROWS - 1]
            rest = counts.sum(0) - torch.tensor([row[1] for row in rows]).sum(0)
            others = f"{self.num_classes - len(rows):,} larger classes"
            rows.append((others, rest.tolist()))
        rows.append(("all", counts.sum(0).tolist()))
        names = [printable(name) for name, _ in rows]
        width = max(map(len, names))
        lines = [" " * width + "".join(f"{part:>12}" for part in parts)]
        for name, (_, row) in zip(names, rows, strict=True):
            lines.append(f"{name:{width}}" + "".join(f"{n:12,}" for n in row))
        kind = "gray" if self.in_channels == 1 else "color"
        height, width = files.pair(self.image_size)
        held = "in memory" if isinstance(self.train, MemorySplit) else "streamed"
        lines.append(f"{kind}, {width} x {height} pixels, {held}")
        return "\n".join([*lines, *self.notes])
