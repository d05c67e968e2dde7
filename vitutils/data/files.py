"""Files of the datasets: checked, and read into uint8 tensors."""

import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import CIFAR10, FashionMNIST, ImageFolder
from torchvision.datasets.utils import check_integrity, extract_archive
from torchvision.transforms import v2
from tqdm import tqdm

from vitutils.data.download import fetch

# Class names, training images and labels, test images and labels.
Halves = tuple[list[str], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]

CORES = len(getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count()))(0))
GRAY_MODES = ("1", "L", "LA")  # Pillow's names; "I" and "F" have more than 8 bits


def read_fashion_mnist(root: Path) -> Halves:
    """Read ``root/FashionMNIST/raw`` through torchvision, offline when it is there.

    Returns:
        Class names, training images and labels, test images and labels.
    """
    archives = root / "FashionMNIST" / "raw"
    remedy = "in a clone of the book, `git checkout data` restores the archives"
    for name, md5 in FashionMNIST.resources:
        official(FashionMNIST.mirrors[0] + name, archives / name, md5, remedy)
    # torchvision unpacks beside the archives and later trusts what it finds there:
    # in a folder of its own, data/ may be read-only and nothing stale is read.
    with TemporaryDirectory() as folder:
        raw = Path(folder, "FashionMNIST", "raw")
        raw.mkdir(parents=True)
        for name, _ in FashionMNIST.resources:
            shutil.copyfile(archives / name, raw / name)
        train = FashionMNIST(folder, train=True, download=True)
        test = FashionMNIST(folder, train=False, download=True)
    halves = ((half.data[:, None].clone(), half.targets) for half in (train, test))
    return train.classes, *halves


def read_cifar(
    kind: type[CIFAR10], root: Path, mirror: str | Path | None = None
) -> Halves:
    """Read CIFAR through torchvision, downloading its archive where it is missing.

    Args:
        kind: torchvision's class, ``CIFAR10`` or ``CIFAR100``.
        root: folder of the archive and of the files unpacked from it.
        mirror: URL or path of the archive or of its folder; None for the official
            host.

    Returns:
        Class names, training images and labels, test images and labels.
    """
    archive = root / kind.filename
    remedy = (
        f"to use a copy of {kind.filename}, give its path or URL as mirror= or as "
        f"VITUTILS_CIFAR_MIRROR, or save it as {archive}; root= names another folder"
    )
    try:
        test = kind(root, train=False)  # checks the MD5 of every unpacked file
    except RuntimeError:
        official(mirror_url(mirror, kind), archive, kind.tgz_md5, remedy)
        unpack(archive, root)
        test = kind(root, train=False)
    train = kind(root, train=True)
    halves = (
        (torch.tensor(half.data.transpose(0, 3, 1, 2)), torch.tensor(half.targets))
        for half in (train, test)
    )
    return train.classes, *halves


def mirror_url(mirror: str | Path | None, kind: type[CIFAR10]) -> str:
    """Return the URL of CIFAR's archive at ``mirror``: a file or a folder of files."""
    if not mirror:
        return kind.url
    url = os.fspath(mirror)
    if "://" not in url:
        url = Path(url).expanduser().resolve().as_uri()
    is_archive = url.endswith(".gz") or Path(mirror).expanduser().is_file()
    return url if is_archive else f"{url.rstrip('/')}/{kind.filename}"


def official(url: str, path: Path, md5: str, remedy: str) -> None:
    """Make sure that ``path`` is the whole archive, fetching it if it is missing.

    Raises:
        RuntimeError: the file is corrupt, or could not be fetched; the message ends
            with ``remedy``.
    """

    def wrong(file: Path) -> str | None:
        right = check_integrity(file, md5)
        return None if right else f"is not the official archive (MD5 {md5})"

    if not path.exists():
        fetch(url, path, wrong, remedy)
    elif wrong(path):
        raise RuntimeError(
            f"{path} is truncated or corrupt (its MD5 is not {md5}): delete it and "
            f"load again; {remedy}"
        )


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a checked archive, or say what keeps it from being written."""
    try:
        extract_archive(archive, folder)
    except OSError as error:
        raise RuntimeError(
            f"cannot unpack {archive} ({error}): give root= a folder with free space "
            "that you may write to"
        ) from None


def scan_folder(folder: Path) -> tuple[list[str], dict[str, tuple[list[str], Tensor]]]:
    """List the images of ``folder/train``, ``folder/test`` and, if there, ``val``.

    Returns:
        Class names, and a dict of (paths, labels) for "train", "test" and, where
        there is ``val`` or ``validation``, "validation".

    Raises:
        FileNotFoundError: a folder is missing, or a class has no images.
        ValueError: there is one class alone, or the parts have different classes.
    """
    layout = "expected train/CLASS/* and test/CLASS/*, images in a folder per class"
    names = {"train": "train", "test": "test"}
    for name in ("val", "validation"):
        if (folder / name).is_dir():
            names["validation"] = name
    parts = {}
    for part, name in names.items():
        if not (folder / name).is_dir():
            raise FileNotFoundError(f"{folder} has no folder {name}/: {layout}")
        try:
            parts[part] = ImageFolder(folder / name)
        except FileNotFoundError as error:
            text = str(error).rstrip(".")
            raise FileNotFoundError(f"{folder / name}: {text}; {layout}") from None
    classes = parts["train"].classes
    if len(classes) < 2:
        raise ValueError(f"{folder}/train has one class alone, {classes[0]}: {layout}")
    for part, name in names.items():
        differing = {*classes} ^ {*parts[part].classes}
        if differing:
            raise ValueError(
                f"{folder}/train and {folder}/{name} have different classes: only one "
                f"of them has {', '.join(sorted(differing))}"
            )
    return classes, {
        part: ([path for path, _ in images.samples], torch.tensor(images.targets))
        for part, images in parts.items()
    }


def common_format(
    paths: Sequence[str], image_size: int | None = None
) -> tuple[int, int]:
    """Return channels (1 or 3) and side in pixels of a folder's images.

    There is one channel if all of about 100 images spread over ``paths`` are gray.
    """
    headers = [open_image(path) for path in paths[:: len(paths) // 100 + 1]]
    channels = 1 if all(image.mode in GRAY_MODES for image in headers) else 3
    width, height = headers[0].size
    if not image_size and width != height:
        raise ValueError(
            f"{paths[0]} is {width}x{height}, not square: give image_size to resize "
            "and crop all images"
        )
    return channels, image_size or width


def read_images(
    paths: Sequence[str], channels: int, size: int, transform: Callable | None = None
) -> Tensor:
    """Decode images to uint8 (N, C, size, size), several at a time."""

    def read(path):
        image = read_image(path, channels, transform)
        if image.shape[1:] != (size, size):
            raise ValueError(
                f"{path} is {image.shape[2]}x{image.shape[1]} and others are "
                f"{size}x{size}: give image_size to resize and crop all images"
            )
        return image

    images = torch.empty(len(paths), channels, size, size, dtype=torch.uint8)
    with ThreadPoolExecutor(CORES) as pool:
        decoded = pool.map(read, paths)
        for index, image in enumerate(tqdm(decoded, "images", len(paths), delay=1)):
            images[index] = image
    return images


def read_image(
    path: str | Path, channels: int, transform: Callable | None = None
) -> Tensor:
    """Decode an image to uint8 (C, H, W), after a transform of the Pillow image.

    The transform may make a tensor of it.

    Raises:
        RuntimeError: it does not decode, or not to ``channels`` of 8 bits.
    """
    image = open_image(path, decode=True)
    if image.mode[0] in "IF" or (channels == 1 and image.mode not in GRAY_MODES):
        wanted = "8-bit gray like the others" if channels == 1 else "8 bits a channel"
        raise RuntimeError(f"{path} has mode {image.mode}: convert it to {wanted}")
    mode = "L" if channels == 1 else "RGB"
    if image.mode != mode:
        image = image.convert(mode)
    image = transform(image) if transform else image
    return image if torch.is_tensor(image) else v2.functional.pil_to_tensor(image)


def open_image(path: str | Path, decode: bool = False) -> Image.Image:
    """Open an image with Pillow; its pixels are read if ``decode`` says so."""
    try:
        with Image.open(path) as image:
            if decode:
                image.load()
            return image
    except Exception as error:  # Pillow raises many kinds, SyntaxError among them
        raise RuntimeError(
            f"{path} does not decode as an image ({error}): replace or delete it"
        ) from None
