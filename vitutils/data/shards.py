"""Shards as WebDataset writes them: tar archives of images and their classes."""

import os
import tarfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from io import BytesIO

from tqdm import tqdm


class Member(str):
    """The name of an image in an archive, ARCHIVE/NAME, and where it lies there.

    Args:
        archive: the tar file.
        name: of the image in it.
        offset, size: of its bytes.
    """

    def __new__(cls, archive: str, name: str, offset: int, size: int) -> "Member":
        member = super().__new__(cls, os.path.join(archive, name))
        member.place = archive, name, offset, size
        return member

    def __getnewargs__(self):
        return self.place


def content(path: str) -> str | BytesIO:
    """Return what an archive holds of a member, and any other path as it is."""
    if not isinstance(path, Member):
        return path
    archive, _, offset, size = path.place
    with open(archive, "rb") as file:
        file.seek(offset)
        return BytesIO(file.read(size))


def size_of(path: str) -> int:
    """Return the size of a file or of a member in bytes."""
    return path.place[3] if isinstance(path, Member) else os.path.getsize(path)


def scan_shards(
    archives: Sequence[str],
    is_image: Callable[[str], bool],
    skipped: dict[str, list[str]],
) -> dict[str, list[str]]:
    """Return the images of archives for each class, which a file KEY.cls names.

    Args:
        archives: tar files, not compressed. KEY is what stands before the first dot
            in the name of an image.
        is_image: tells it by the name.
        skipped: gets the images without a class.

    Raises:
        ValueError: an archive is not whole, or none of its images has a class.
    """
    found = defaultdict(list)
    for archive in tqdm(archives, "shards", delay=1):
        images, classes = {}, {}
        try:
            with tarfile.open(archive, "r:") as tar:
                for member in filter(tarfile.TarInfo.isreg, tar):
                    folder, name = os.path.split(member.name)
                    stem, _, ending = name.partition(".")
                    key = os.path.join(folder, stem)
                    if ending == "cls":
                        words = tar.extractfile(member).read(1000)
                        classes[key] = words.decode().strip()
                    elif is_image(name):
                        place = member.offset_data, member.size
                        images[key] = Member(archive, member.name, *place)
        except (tarfile.TarError, OSError, UnicodeDecodeError) as error:
            raise ValueError(
                f"{archive} is not a whole tar file, without compression ({error})"
            ) from error
        for key, image in images.items():
            name = classes.get(key)
            (found[name] if name else skipped["without a class"]).append(image)
    if not found:
        raise ValueError(
            f"{archives[0]}: none of its images KEY.jpg has a file KEY.cls with the "
            "name or number of its class"
        )
    numbers = all(name.isdecimal() for name in found)
    return {name: found[name] for name in sorted(found, key=int if numbers else str)}
