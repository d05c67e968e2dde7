"""Files of the datasets: checked, and read into uint8 tensors."""

import gzip
import os
import tarfile
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import CIFAR10, FashionMNIST, ImageFolder
from torchvision.datasets.utils import check_integrity
from torchvision.transforms import v2
from tqdm import tqdm

from vitutils.data.download import alone, fetch, tidy

# Class names, training images and labels, test images and labels.
Halves = tuple[list[str], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]

CORES = len(getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count()))(0))
GRAY_MODES = ("1", "L", "LA")  # Pillow's names; "I" and "F" have more than 8 bits
# Pillow knows more, among them PostScript, which is a program: it lets `gs` run it.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
LONGEST_SIDE = 2**16 - 1  # in pixels, as JPEG's; Pillow limits their product alone
OPENING = threading.Lock()  # as warnings.catch_warnings is not made for threads


def read_fashion_mnist(root: Path) -> Halves:
    """Read the archives in ``root/FashionMNIST/raw``, offline when they are there.

    Returns:
        Class names, training images and labels, test images and labels.
    """
    remedy = "in a clone of the book, `git checkout data` restores the archives"
    contents = []
    for name, md5 in FashionMNIST.resources:
        archive = root / "FashionMNIST" / "raw" / name
        official(FashionMNIST.mirrors[0] + name, archive, md5, remedy)
        content = bytearray(gzip.decompress(archive.read_bytes()))
        contents.append(torch.frombuffer(content, dtype=torch.uint8))
    halves = (  # behind headers of 16 and 8 bytes
        (images[16:].view(-1, 1, 28, 28), labels[8:].long())
        for images, labels in (contents[:2], contents[2:])
    )
    return FashionMNIST.classes, *halves


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
    if not (test := unpacked(kind, root)):
        official(mirror_url(mirror, kind), archive, kind.tgz_md5, remedy)
        test = unpack(archive, kind)
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
        RuntimeError: the file is corrupt, cannot be read, or could not be fetched; the
            message ends with ``remedy``.
    """

    def wrong(file: Path) -> str | None:
        right = check_integrity(file, md5)
        return None if right else f"is not the official archive (MD5 {md5})"

    if not path.exists():
        fetch(url, path, wrong, remedy)
        return
    try:
        fault = wrong(path)
    except OSError as error:
        raise RuntimeError(
            f"{path} cannot be read ({error.strerror}); {remedy}"
        ) from None
    if fault:
        raise RuntimeError(
            f"{path} is truncated or corrupt (its MD5 is not {md5}): move it away and "
            f"load again; {remedy}"
        )
    tidy(path)


def unpacked(kind: type[CIFAR10], root: Path) -> CIFAR10 | None:
    """Return the test half if each unpacked file has its MD5, None otherwise."""
    try:
        return kind(root, train=False)
    except (RuntimeError, OSError):
        return None


def unpack(archive: Path, kind: type[CIFAR10]) -> CIFAR10:
    """Unpack a checked archive beside it and return the test half.

    Raises:
        RuntimeError: it cannot be written, or holds what it should not.
    """
    folder = archive.parent
    try:
        with alone(archive):
            if test := unpacked(kind, folder):  # by another process, meanwhile
                return test
            with tarfile.open(archive, "r:gz") as tar:
                tar.extractall(folder, filter=within)
    except Exception as error:  # a malformed archive raises many kinds
        advice = f"move {archive} away and load again"
        if isinstance(error, OSError) and error.errno:  # the system's
            advice = "give root= a folder with free space that you may write to"
        raise RuntimeError(f"cannot unpack {archive} ({error}): {advice}") from None
    if test := unpacked(kind, folder):
        return test
    raise RuntimeError(
        f"{archive} holds other files than {kind.__name__}'s: move it away and load "
        "again"
    )


def within(member: tarfile.TarInfo, folder: str) -> tarfile.TarInfo:
    """Return what may be unpacked: a file within the folder, not one beside it."""
    member = tarfile.data_filter(member, folder)
    if member.isreg():
        Path(folder, member.name).unlink(missing_ok=True)  # to open a pipe has no end
    return member


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
        refuse_circles(folder / name)
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


def refuse_circles(folder: Path) -> None:
    """Refuse a link to a folder that contains it: to follow it has no end."""
    for root, names, _ in os.walk(folder, followlinks=True):
        for path in (Path(root, name) for name in names):
            if path.is_symlink() and path.resolve() in map(Path.resolve, path.parents):
                raise ValueError(
                    f"{path} leads back to a folder above: remove the link"
                )


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
    paths: Sequence[str | BytesIO],
    channels: int,
    size: int,
    transform: Callable | None = None,
) -> Tensor:
    """Decode images to uint8 (N, C, size, size), several at a time."""

    def read(path):
        def exact(image):
            if image.size != (size, size):
                raise ValueError(
                    f"{path} is {image.width}x{image.height} and others are "
                    f"{size}x{size}: give image_size to resize and crop all images"
                )
            return image

        return read_image(path, channels, transform or exact)

    images = torch.empty(len(paths), channels, size, size, dtype=torch.uint8)
    with ThreadPoolExecutor(CORES) as pool:
        decoded = pool.map(read, paths)
        for index, image in enumerate(tqdm(decoded, "images", len(paths), delay=1)):
            images[index] = image
    return images


def read_image(
    path: str | Path | BytesIO, channels: int, transform: Callable | None = None
) -> Tensor:
    """Decode an image to uint8 (C, H, W), after a transform of the Pillow image.

    The transform may make a tensor of it.

    Raises:
        RuntimeError: it does not decode, or not to ``channels`` of 8 bits.
    """
    image = open_image(path, "L" if channels == 1 else "RGB")
    image = transform(image) if transform else image
    return image if torch.is_tensor(image) else v2.functional.pil_to_tensor(image)


def open_image(path: str | Path | BytesIO, mode: str | None = None) -> Image.Image:
    """Open an image with Pillow; its pixels are read if they are to be "L" or "RGB".

    Args:
        path: a file's, or what an archive's file holds.
        mode: "L", "RGB", or None.

    Raises:
        RuntimeError: it is no image, is larger than Pillow or ``LONGEST_SIDE`` allow,
            or has not 8 bits a channel, or colors where gray is wanted.
    """
    try:
        # Opening a pipe would wait for somebody to write.
        if not isinstance(path, BytesIO) and not os.path.isfile(path):
            raise ValueError("it is no regular file")
        with OPENING, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=FORMATS)
        with image:
            if max(image.size) > LONGEST_SIDE:
                raise ValueError(f"a side of {max(image.size):,} pixels")
            if mode is None:
                return image
            image.load()
            if image.mode[0] in "IF" or (mode == "L" and image.mode not in GRAY_MODES):
                wanted = "8-bit gray as others" if mode == "L" else "8 bits a channel"
                raise ValueError(f"mode {image.mode}: convert it to {wanted}")
            return image if image.mode == mode else image.convert(mode)
    except Exception as error:  # Pillow raises many kinds, SyntaxError among them
        reason = str(error) or type(error).__name__
        raise RuntimeError(
            f"{path} cannot be read as an image ({reason}): replace it or move it away"
        ) from None
