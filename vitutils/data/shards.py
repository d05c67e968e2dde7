"""Shards as WebDataset writes them: tar archives of images and their classes."""

import os
import re
import tarfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

from tqdm import tqdm

from vitutils.data.index import kept

# A sample's KEY and what it holds, as in WebDataset's ``base_plus_ext``.
NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)
# Why an image is skipped, by what stands for its class.
SKIPPED = {"": "without a class", None: "beside the image of a sample"}
FORM = 1  # of an index: another one where other members are images


class Member(str):
    """The name of an image in an archive, ARCHIVE/NAME, and where it lies there.

    Args:
        archive: the tar file.
        name: of the image in it.
        offset, size: of its bytes.
    """

    __slots__ = ("archive", "offset", "size")

    def __new__(cls, archive: str, name: str, offset: int, size: int) -> "Member":
        member = super().__new__(cls, f"{archive}/{name}")
        member.archive, member.offset, member.size = archive, offset, size
        return member

    def __getnewargs__(self):
        name = self[len(self.archive) + 1 :]
        return self.archive, name, self.offset, self.size


def content(path: str) -> str | BytesIO:
    """Return what an archive holds of a member, and any other path as it is."""
    if not isinstance(path, Member):
        return path
    with open(path.archive, "rb") as file:
        file.seek(path.offset)
        return BytesIO(file.read(path.size))


def size_of(path: str) -> int:
    """Return the size of a file or of a member in bytes."""
    return path.size if isinstance(path, Member) else os.path.getsize(path)


def scan_shards(
    archives: Sequence[str],
    is_image: Callable[[str], bool],
    skipped: dict[str, list[str]],
) -> dict[str, list[str]]:
    """Return the images of archives for each class, which a file KEY.cls names.

    What an archive holds is kept beside it, in ``.NAME.tar.index.json``, and read from
    there as long as the archive has the same size and time. Where that cannot be
    written, archives are scanned each time.

    Args:
        archives: tar files, not compressed. As in WebDataset, a sample is what shares
            a KEY, the name up to its first dot. Its image is KEY.jpg, or has another
            image's ending; any other, as KEY.mask.png, is none of its own.
        is_image: tells it by the name.
        skipped: gets the images of no sample, and those without a class.

    Raises:
        ValueError: an archive is not whole, a sample has two images or two classes, or
            none of the images has a class.
    """
    found = defaultdict(list)
    for archive in tqdm(archives, "shards", delay=1):
        for *place, label in indexed(archive, is_image):
            known = skipped[SKIPPED[label]] if label in SKIPPED else found[label]
            known.append(Member(archive, *place))
    if not found:
        raise ValueError(
            f"{archives[0]}: none of its images KEY.jpg has a file KEY.cls with the "
            "name or number of its class"
        )
    numbers = all(name.isdecimal() for name in found)
    return {name: found[name] for name in sorted(found, key=int if numbers else str)}


def indexed(archive: str, is_image: Callable[[str], bool]) -> list[list]:
    """Return what ``scan`` does, kept in a file beside the archive."""
    about = os.stat(archive)
    stamp = [FORM, about.st_size, about.st_mtime_ns]
    index = Path(archive).with_name(f".{os.path.basename(archive)}.index.json")
    return kept(
        index,
        stamp,
        lambda: scan(archive, is_image),
        lambda rows: all(is_row(row, about.st_size) for row in rows),
    )


def is_row(row: object, size: int) -> bool:
    """Tell whether this may be a row of the index of an archive of so many bytes."""
    match row:
        case [str(), int(start), int(length), str() | None]:
            return 0 <= start <= start + length <= size
    return False


def scan(archive: str, is_image: Callable[[str], bool]) -> list[list]:
    """Return [name, offset, size, class] of each image; see ``SKIPPED``."""
    others, samples = [], defaultdict(lambda: ([], []))
    try:
        if not os.path.isfile(archive):  # as a pipe, which has no end
            raise ValueError("it is no regular file")
        with tarfile.open(archive, "r:") as tar:
            for member in filter(tarfile.TarInfo.isreg, tar):
                if member.size < 0:  # where older Pythons turn back for ever
                    raise ValueError(f"{member.name} has {member.size} bytes")
                if not (parts := NAME.fullmatch(member.name)):
                    continue
                key, field = parts.groups()
                images, classes = samples[key]
                if field.lower() == "cls":
                    words = tar.extractfile(member).read(1000)
                    classes.append(words.decode().strip())
                elif is_image(member.name):
                    rows = others if "." in field else images
                    rows.append([member.name, member.offset_data, member.size])
            tar.fileobj.seek(tar.offset)  # tarfile takes what is broken for the end
            if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise ValueError(f"after {tar.offset:,} bytes it is cut or broken")
    except Exception as error:  # tarfile raises many kinds
        raise ValueError(
            f"{archive} is not a whole tar file, without compression ({error})"
        ) from error
    found = [[*row, None] for row in others]
    for key, (images, classes) in samples.items():
        if len(images) > 1:
            words = " and ".join(name for name, *_ in images)
            raise ValueError(
                f"{archive}: the sample {key} has several images, {words}: leave one, "
                "or name the others as KEY.mask.png, which is none of a sample's own"
            )
        if len(classes) > 1:
            raise ValueError(f"{archive}: the sample {key} has several files KEY.cls")
        found += [[*row, *(classes or [""])] for row in images]
    return found
