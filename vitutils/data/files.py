"""Files of the datasets: checked, and read into uint8 tensors."""

import gzip
import os
import re
import tarfile
import threading
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from tqdm import tqdm

from vitutils.data.download import alone, fetch, tidy
from vitutils.data.index import kept
from vitutils.data.shards import content, scan_shards
from vitutils.engine.machine import CORES

if TYPE_CHECKING:
    from torchvision.datasets import CIFAR10  # where it is used: it takes long

# Class names, training images and labels, test images and labels.
Halves = tuple[list[str], tuple[Tensor, Tensor], tuple[Tensor, Tensor]]

GRAY_MODES = ("1", "L", "LA")  # Pillow's names; "I" and "F" have more than 8 bits
# Pillow knows more, among them PostScript, which is a program: it lets `gs` run it.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
GROUND = "white"  # what is seen through transparent pixels
# Folders' names, in any case, by the part of the data that they hold.
PARTS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
LAYOUT = (
    "expected train/CLASS/* with test/CLASS/*, val/CLASS/* or both, or CLASS/* alone: "
    "images in a folder per class, or train/*.tar and so on: WebDataset's shards"
)
# Names, beside all that start with a dot, of what programs leave in people's folders.
HIDDEN = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "Thumbs.db", "desktop.ini")
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx")
HEIC = "HEIC, to be converted to JPEG first: magick mogrify -format jpg *.heic"
UNREAD = (HEIC, "no images")  # why a file in a class's folder is skipped
COLORS = ".colors.index.json"  # in a folder of MANY images: whether all are gray
MANY = 10_000
FORM = 1  # of that file: another one where other images are gray
FEW = 3  # files that are named of many
LONGEST_SIDE = 2**16 - 1  # in pixels, as JPEG's; Pillow limits their product alone
OPENING = threading.Lock()  # as warnings.catch_warnings is not made for threads


class Unreadable(RuntimeError):
    """Files that cannot be read as images: its arguments are pairs (path, reason)."""

    def __str__(self):
        if len(self.args) == 1:
            path, reason = self.args[0]
            return (
                f"{path} cannot be read as an image ({reason}): replace it or move it "
                "away"
            )
        words = "; ".join(f"{path} ({reason})" for path, reason in self.args[:FEW])
        more = f" and {len(self.args) - FEW:,} more" if len(self.args) > FEW else ""
        return (
            f"{len(self.args):,} files cannot be read as images: {words}{more}: "
            "replace them or move them away"
        )


class SizeNeeded(ValueError):
    """Images are to be resized: its arguments are why, and a side that would do."""

    def __str__(self):
        why, size = self.args
        words = "x".join(map(str, size)) if isinstance(size, tuple) else size
        return (
            f"{why}: give image_size, say {words} (--image-size {words}), to resize "
            "and crop all"
        )


def read_fashion_mnist(root: Path) -> Halves:
    """Read the archives in ``root/FashionMNIST/raw``, offline when they are there.

    Returns:
        Class names, training images and labels, test images and labels.
    """
    from torchvision.datasets import FashionMNIST

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
    kind: "type[CIFAR10]", root: Path, mirror: str | Path | None = None
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


def mirror_url(mirror: str | Path | None, kind: "type[CIFAR10]") -> str:
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

    from torchvision.datasets.utils import check_integrity

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


def unpacked(kind: "type[CIFAR10]", root: Path) -> "CIFAR10 | None":
    """Return the test half if each unpacked file has its MD5, None otherwise."""
    try:
        return kind(root, train=False)
    except (RuntimeError, OSError):
        return None


def unpack(archive: Path, kind: "type[CIFAR10]") -> "CIFAR10":
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


class Listing(NamedTuple):
    """What a folder of images holds.

    Attributes:
        classes: names, in the order of the labels.
        parts: (paths, labels) for "train", "validation" and "test", as far as there.
        skipped: paths of what is left out, by the reason.
    """

    classes: list[str]
    parts: dict[str, tuple[list[str], Tensor]]
    skipped: dict[str, list[str]]


def scan_folder(folder: Path) -> Listing:
    """List the images of a folder, by part and class.

    The parts lie in ``train``, ``val`` and ``test`` (see ``PARTS``), each with a folder
    per class. A folder with folders of images alone is one part, "train". A file is an
    image by its ending or, where that is no image's, by its content. Hidden files and
    folders, and files that are no images, are left out and listed.

    Raises:
        FileNotFoundError: a class has no images, or there is no class.
        ValueError: there is one class alone, two folders are one part, the parts have
            different classes, or a link leads back to a folder above.
    """
    skipped = defaultdict(list)
    parts = {
        part: scan_classes(place, skipped)
        for part, place in find_parts(folder, skipped).items()
    }
    first = next(iter(parts))
    classes = [*parts[first]]
    if len(classes) < 2:
        raise ValueError(f"{folder} has one class alone, {classes[0]}: {LAYOUT}")
    for part, found in parts.items():
        if differing := {*classes} ^ {*found}:
            raise ValueError(
                f"the parts {first} and {part} of {folder} have different classes: "
                f"only one of them has {', '.join(sorted(differing))}"
            )
    listed = {}
    for part, found in parts.items():
        counts = torch.tensor([len(paths) for paths in found.values()])
        labels = torch.arange(len(classes)).repeat_interleave(counts)
        listed[part] = [*chain(*found.values())], labels
    return Listing(classes, listed, dict(skipped))


def find_parts(folder: Path, skipped: dict[str, list[str]]) -> dict[str, str]:
    """Return the folder of each part; that of the classes is "train" where none is."""
    entries = entries_of(folder)
    folders = [e for e in entries if not is_hidden(e.name) and e.is_dir()]
    named = {}
    for part, names in PARTS.items():
        paths = [e.path for e in folders if e.name.lower() in names]
        if len(paths) > 1:
            raise ValueError(f"{' and '.join(paths)} are one part: move one away")
        if paths:
            named[part] = paths[0]
    # "train" may also be a class, as of vehicles: it then holds images, not folders.
    within = [*chain(*map(os.scandir, named.values()))]
    is_part = any(e.is_dir() and not is_hidden(e.name) for e in within)
    if not is_part and not shards_of(within):
        return {"train": os.fspath(folder)}
    for entry in entries:
        if entry.path not in named.values():
            reason = "hidden" if is_hidden(entry.name) else "no part of the data"
            skipped[reason].append(entry.path)
    return named


def scan_classes(folder: str, skipped: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return the images' paths for each class: each is a folder, with those within.

    Without any such folder they are those of the shards.
    """
    found, entries = {}, entries_of(folder)
    if shards := shards_of(entries):
        return scan_shards(shards, has_ending, skipped)
    with tqdm(desc=f"files of {folder}", unit="", delay=1) as bar:
        for entry in entries:
            if is_hidden(entry.name):
                skipped["hidden"].append(entry.path)
            elif entry.is_dir():
                found[entry.name] = [*images_within(entry.path, skipped, bar)]
            else:
                skipped["beside the folders of classes"].append(entry.path)
    if not found:
        raise FileNotFoundError(f"{folder} has no folder per class: {LAYOUT}")
    if empty := [name for name, paths in found.items() if not paths]:
        words = f"{folder} has no images of the classes {', '.join(empty)}"
        advice = "put some there, or move these folders away"
        if len(empty) == len(found):
            advice = LAYOUT
        raise FileNotFoundError("; ".join([words, *told(skipped), advice]))
    return found


def shards_of(entries: Sequence[os.DirEntry]) -> list[str]:
    """Return the tar files of a folder that holds no folders.

    Raises:
        ValueError: they bear the names of several parts of the data.
    """
    seen = [entry for entry in entries if not is_hidden(entry.name)]
    if any(entry.is_dir() for entry in seen):
        return []
    paths = [entry.path for entry in seen if entry.name.lower().endswith(".tar")]
    names = [os.path.basename(path).lower() for path in paths]
    words = {word for name in names for word in re.split(r"[\W\d_]+", name)}
    named = [part for part, names in PARTS.items() if words.intersection(names)]
    if len(named) > 1:
        raise ValueError(
            f"{os.path.dirname(paths[0])} has shards of {' and '.join(named)} side by "
            "side: move them into folders train, val and test"
        )
    return paths


def images_within(
    folder: str, skipped: dict[str, list[str]], bar: tqdm | None = None
) -> Iterator[str]:
    """Yield the paths of a folder's images, then of those in the folders within."""
    if os.path.islink(folder):
        path = Path(folder)
        if path.resolve() in map(Path.resolve, path.parents):
            raise ValueError(f"{path} leads back to a folder above: remove the link")
    entries = entries_of(folder)
    if bar is not None:
        bar.update(len(entries))
    folders = []
    for entry in entries:
        if is_hidden(entry.name):
            skipped["hidden"].append(entry.path)
        elif entry.is_dir():
            folders.append(entry)
        elif has_ending(entry.name):
            yield entry.path
        else:
            try:
                header(entry.path)
                yield entry.path
            except Unreadable:
                skipped[UNREAD[not is_heic(entry.path)]].append(entry.path)
    for entry in folders:
        yield from images_within(entry.path, skipped, bar)


def entries_of(folder: str | Path) -> list[os.DirEntry]:
    """Return what lies in a folder, by name, without the index of its colors."""
    found = (entry for entry in os.scandir(folder) if entry.name != COLORS)
    return sorted(found, key=lambda entry: entry.name)


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is a program's own and not for people."""
    return name.startswith(".") or name in HIDDEN


def has_ending(name: str) -> bool:
    """Return whether a file is an image by its ending."""
    return os.path.splitext(name)[1].lower() in endings()


@cache
def endings() -> frozenset[str]:
    """Return the endings of names, as ".jpg", of the images that are read."""
    known = Image.registered_extensions().items()
    return frozenset(ending for ending, kind in known if kind in FORMATS)


def told(skipped: dict[str, list[str]]) -> list[str]:
    """Return for each reason how many files were left out, with the first names."""
    words = []
    for reason, paths in skipped.items():
        names = [os.path.basename(path) for path in paths[:FEW]]
        names += ["..."] * (len(paths) > FEW)
        names = os.fsencode(", ".join(names)).decode(errors="replace")
        words.append(f"skipped {len(paths):,} ({reason}): {names}")
    return words


def common_format(
    paths: Sequence[str], folder: Path, image_size: tuple[int, int] | None = None
) -> tuple[int, tuple[int, int]]:
    """Return channels (1 or 3) and (height, width) in pixels of a folder's images.

    There is one channel if all are gray (see ``all_gray``). The size is ``image_size``,
    or that of about 100 images spread over ``paths``. Those that cannot be read are
    passed over.

    Raises:
        Unreadable: none of them can be read as an image.
        SizeNeeded: they have no size in common.
    """
    faults = []
    found = [*headers(paths[:: len(paths) // 100 + 1], faults)]
    if not found:
        raise Unreadable(*faults)
    spread, kinds, sizes = zip(*found, strict=True)
    if image_size is None:
        for path, size in zip(spread, sizes, strict=True):
            if size != sizes[0]:
                raise different(path, size, sizes)
    channels = 1 if all(kinds) and all_gray(paths, folder) else 3
    return channels, image_size or sizes[0]


def all_gray(paths: Sequence[str], folder: Path) -> bool:
    """Return whether all images of a folder are gray, as are those that are none.

    Of many images, the answer is kept in the folder, in ``COLORS``, and read from there
    as long as no file has another name, size or time.
    """

    def look():
        return all(map(is_gray, tqdm(paths, "colors of images", delay=1)))

    if len(paths) < MANY:
        return look()
    stamp = [FORM, digest_of(paths, folder)]
    return kept(folder / COLORS, stamp, look, lambda found: type(found) is bool)


def is_gray(path: str) -> bool:
    """Return whether a file has no colors, by its header alone: nothing is decoded."""
    with suppress(Unreadable), opened(path) as image:
        return image.mode in GRAY_MODES
    return True


def digest_of(paths: Sequence[str], folder: Path) -> str:
    """Return a digest of the files' names, from a folder on, sizes and times."""
    digest, start = sha256(), len(os.fspath(folder))
    for file in dict.fromkeys(getattr(path, "archive", path) for path in paths):
        size = time = 0
        with suppress(OSError):  # a link that leads nowhere
            about = os.stat(file)
            size, time = about.st_size, about.st_mtime_ns
        digest.update(b"%s\0%d %d\n" % (os.fsencode(file[start:]), size, time))
    return digest.hexdigest()


def headers(paths: Iterable[str], faults: list) -> Iterator[tuple]:
    """Yield path and header of each image, and add what is none to ``faults``."""
    for path in paths:
        try:
            yield path, *header(path)
        except Unreadable as error:
            faults += error.args


def different(
    path: str, size: tuple[int, int], sizes: Sequence[tuple[int, int]]
) -> SizeNeeded:
    """Return what to raise for an image whose size is not the first of ``sizes``."""
    (height, width), (others, wide) = size, sizes[0]
    words = f"{path} is {width}x{height} and others are {wide}x{others}"
    return SizeNeeded(words, proposed(sizes))


def proposed(sizes: Sequence[tuple[int, int]]) -> int:
    """Return a side for images of some sizes: 224, or less where most have less.

    Patches of 16 pixels fill it, unless images are smaller than one.
    """
    shorter = sorted(map(min, sizes))
    side = min(224, shorter[len(shorter) // 2])
    return side // 16 * 16 or side


def read_images(
    paths: Sequence[str | BytesIO],
    channels: int,
    size: int | tuple[int, int],
    transform: Callable | None = None,
) -> Tensor:
    """Decode images to uint8 (N, C, height, width), several at a time.

    Raises:
        Unreadable: some cannot be decoded; it names them all.
        SizeNeeded: one has another size, and there is no transform.
    """
    height, width = size = pair(size)

    def read(path):
        def exact(image):
            found = image.height, image.width
            if found != size:
                raise different(path, found, [size, found])
            return image

        try:
            return read_image(path, channels, transform or exact)
        except Unreadable as error:
            faults.extend(error.args)
            return 0

    faults = []
    images = torch.empty(len(paths), channels, height, width, dtype=torch.uint8)
    with ThreadPoolExecutor(CORES) as pool:
        decoded = pool.map(read, paths)
        for index, image in enumerate(tqdm(decoded, "images", len(paths), delay=1)):
            images[index] = image
    if faults:
        raise Unreadable(*sorted(faults))
    return images


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) of a size that may be the side of a square."""
    return (size, size) if isinstance(size, int) else tuple(size)


def unpair(size: tuple[int, int]) -> int | tuple[int, int]:
    """Return the side of a square, (height, width) of what is none."""
    return size[0] if size[0] == size[1] else tuple(size)


def read_image(
    path: str | Path | BytesIO, channels: int, transform: Callable | None = None
) -> Tensor:
    """Decode an image to uint8 (C, H, W), after a transform of the Pillow image.

    It is turned upright as its EXIF data say, what is transparent shows a white ground,
    and of an animation there is the first picture. The transform may make a tensor.

    Args:
        path: a file's, or what an archive's file holds.
        channels: 1 for gray, which colors become too, or 3.
        transform: called with the Pillow image.

    Raises:
        Unreadable: it does not decode, or not to 8 bits a channel.
    """
    from torchvision.transforms import v2

    image = decode(path, "L" if channels == 1 else "RGB")
    image = transform(image) if transform else image
    return image if torch.is_tensor(image) else v2.functional.pil_to_tensor(image)


def decode(path: str | Path | BytesIO, mode: str) -> Image.Image:
    """Return an image of Pillow's of mode "L" or "RGB"; see ``read_image``."""
    with opened(path) as image:
        image.load()
        if image.mode[0] in "IF":
            raise ValueError(f"mode {image.mode}: convert it to 8 bits a channel")
        with suppress(Exception):  # what breaks in EXIF data breaks no pixels
            ImageOps.exif_transpose(image, in_place=True)
        if image.mode == "P" and image.palette is None:
            raise ValueError("it has no palette")
        if image.has_transparency_data:
            image = image.convert("RGBA")
            ground = Image.new("RGBA", image.size, GROUND)
            image = Image.alpha_composite(ground, image)
        return image if image.mode == mode else image.convert(mode)


def header(path: str | Path) -> tuple[bool, tuple[int, int]]:
    """Return whether an image is gray, and (height, width) in pixels, upright.

    Raises:
        Unreadable: it is no image.
    """
    with opened(path) as image:
        width, height = image.size
        with suppress(Exception):
            turn = image.getexif().get(ExifTags.Base.Orientation, 1)
            if turn > 4 and image.format != "TIFF":  # whose sides are upright already
                width, height = height, width
        return image.mode in GRAY_MODES, (height, width)


@contextmanager
def opened(path: str | Path | BytesIO) -> Iterator[Image.Image]:
    """Open an image with Pillow, and close it.

    Raises:
        Unreadable: it is no image, or larger than Pillow or ``LONGEST_SIDE`` allow;
            or an error came from what was done with it.
    """
    try:
        held = content(path)
        # Opening a pipe would wait for somebody to write.
        if not isinstance(held, BytesIO) and not os.path.isfile(held):
            raise ValueError("it is no regular file")
        with OPENING, warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(held, formats=FORMATS)
        with image:
            if max(image.size) > LONGEST_SIDE:
                raise ValueError(f"a side of {max(image.size):,} pixels")
            yield image
    except Exception as error:  # Pillow raises many kinds, SyntaxError among them
        reason = HEIC if is_heic(path) else str(error) or type(error).__name__
        raise Unreadable((str(path), reason)) from None


def is_heic(path: str | Path | BytesIO) -> bool:
    """Return whether a file, whatever its name, is a photo as iPhones take it."""
    if isinstance(path, BytesIO) or not os.path.isfile(path):
        return False
    with suppress(OSError), open(path, "rb") as file:
        start = file.read(32)
        return start[4:8] == b"ftyp" and any(brand in start for brand in HEIC_BRANDS)
    return False
