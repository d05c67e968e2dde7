"""Images and archives from strangers: read right, or refused in one line."""

import gzip
import io
import os
import pickle
import random
import resource
import socket
import stat
import sys
import tarfile
import zlib
from contextlib import contextmanager, suppress
from datetime import timedelta
from hashlib import md5
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageOps
from test_data import cifar_archive
from torchvision.datasets import CIFAR10, FashionMNIST
from torchvision.transforms import v2

from vitutils.data import datasets as data_module
from vitutils.data import files, load
from vitutils.data.augmentation import center_crop, crop_and_flip
from vitutils.data.splits import strengthen

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="reads its memory in /proc"),
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
]
NUMBERS = (0, 1, 2, 255, 9_000, 32_767, 65_535, 10**6, 2**31 - 1, 2**32 - 1)

# The same mutations each time, without a file that remembers which failed.
each = settings(
    max_examples=500,
    derandomize=True,
    database=None,
    deadline=timedelta(seconds=10),
    suppress_health_check=[*HealthCheck],
)


@pytest.fixture(autouse=True)
def little_memory():
    """Fail where this process's memory grows by a gigabyte, if only for a moment."""

    def peak():
        text = Path("/proc/self/status").read_text()
        return 1024 * int(text.partition("VmHWM:")[2].split()[0])

    Path("/proc/self/clear_refs").write_text("5")  # what it has now is the peak
    before = peak()
    yield
    assert peak() - before < 10**9


@contextmanager
def address_space(limit):
    """Let this process and its workers take so many bytes more and no others."""
    text = Path("/proc/self/status").read_text()
    size = 1024 * int(text.partition("VmSize:")[2].split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def pictures():
    """Yield files of small images in each format and several of its kinds."""
    rng = random.Random(0)
    color = Image.frombytes("RGB", (24, 16), rng.randbytes(24 * 16 * 3))
    clear = Image.frombytes("RGBA", (24, 16), rng.randbytes(24 * 16 * 4))
    deep = Image.frombytes("I;16", (24, 16), rng.randbytes(24 * 16 * 2))
    palette = color.quantize(16)
    sideways = Image.Exif()
    sideways[ExifTags.Base.Orientation] = 6
    for image, kind, options in (
        (color, "PNG", {}),
        (clear, "PNG", {}),
        (deep, "PNG", {}),
        (palette, "PNG", {"transparency": 3}),
        (palette, "PNG", {"save_all": True, "append_images": [palette, palette]}),
        (color, "JPEG", {}),
        (color, "JPEG", {"progressive": True, "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}),
        (color.convert("CMYK"), "JPEG", {}),
        (color, "MPO", {"save_all": True, "append_images": [color]}),
        (palette, "GIF", {"save_all": True, "append_images": [palette, color]}),
        (color, "WEBP", {}),
        (clear, "WEBP", {"lossless": True}),
        (color, "WEBP", {"save_all": True, "append_images": [clear, color]}),
        (color, "BMP", {}),
        (palette, "BMP", {}),
        (color, "TIFF", {}),
        (color, "TIFF", {"compression": "tiff_lzw"}),
        (color, "TIFF", {"compression": "jpeg"}),
        (palette, "TIFF", {"compression": "tiff_deflate"}),
        (color, "PPM", {}),
        (clear, "AVIF", {}),
        (color, "JPEG", {"exif": sideways.tobytes()}),
    ):
        file = io.BytesIO()
        image.save(file, kind, **options)
        yield file.getvalue()


@st.composite
def mutants(draw, seeds):
    """A file of ``seeds`` with bytes changed, cut off or repeated, or other numbers."""
    content = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 2))):
        last = len(content)
        at = draw(st.integers(0, min(last, 64)) | st.integers(0, last))
        count = draw(st.integers(1, 64))
        changes = ["bytes", "bytes", "number", "number", "cut", "drop", "repeat"]
        change = draw(st.sampled_from(changes))
        event(change)
        if change == "bytes":
            new = draw(st.binary(min_size=1, max_size=4))
            content[at : at + len(new)] = new
        elif change == "number":
            size = draw(st.sampled_from([2, 4]))
            number = draw(st.sampled_from(NUMBERS)) % 256**size
            order = draw(st.sampled_from(["big", "little"]))
            content[at : at + size] = number.to_bytes(size, order)
        elif change == "cut":
            del content[at:]
        elif change == "drop":
            del content[at : at + count]
        else:
            content[at:at] = content[at : at + count] * draw(st.integers(1, 200))
    return bytes(content)


def png_with_checksums(content):
    """Return a PNG whose chunks have their checksums, so that they are read."""
    content, at = bytearray(content), 8
    while at + 12 <= len(content):
        end = at + 8 + int.from_bytes(content[at : at + 4])
        checksum = zlib.crc32(content[at + 4 : end])
        content[end : end + 4] = checksum.to_bytes(4)
        at = end + 4
    return bytes(content)


def tar_with_checksums(content):
    """Return a tar archive whose headers have their checksums, as a PNG's chunks."""
    content = bytearray(content)
    for at in range(0, len(content) - 511, 512):
        if content[at + 257 : at + 262] == b"ustar":
            content[at + 148 : at + 156] = b" " * 8
            total = sum(content[at : at + 512])
            content[at + 148 : at + 156] = b"%06o\0 " % total
    return bytes(content)


def one_line(error, path):
    """Return whether an error says in one line what is wrong with a file."""
    return str(path) in str(error) and "\n" not in str(error)


# ---- images ----

PICTURES = [*pictures()]
PNGS = [picture for picture in PICTURES if picture[:4] == b"\x89PNG"]
IMAGES = mutants(PICTURES) | mutants(PNGS).map(png_with_checksums)


@pytest.mark.slow(4)
@each
@given(content=IMAGES)
def test_an_image_is_read_as_pillow_does_or_refused(tmp_path, content):
    path = tmp_path / "image.png"
    path.write_bytes(content)
    try:
        image = files.read_image(path, 3)
    except RuntimeError as error:
        event("refused")
        assert one_line(error, path)
        return
    with Image.open(path) as right:
        right.load()
        with suppress(Exception):
            right = ImageOps.exif_transpose(right)
        if right.has_transparency_data:
            right = right.convert("RGBA")
            right = Image.alpha_composite(Image.new("RGBA", right.size, "white"), right)
        assert np.array_equal(image.permute(1, 2, 0), right.convert("RGB"))
    for transform in (center_crop(8), crop_and_flip(8)):
        assert files.read_image(path, 3, transform).shape == (3, 8, 8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (folder / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (16, 16), (i, 9, 9)).save(folder / name / f"{i}.png")
    return folder


@pytest.mark.slow(4)
@each
@given(content=IMAGES, size=st.sampled_from([None, 8]))
def test_a_folder_with_a_broken_image_is_loaded_or_refused(folder, content, size):
    (folder / "train" / "cat" / "0.png").write_bytes(content)
    try:
        data = load(folder, image_size=size)
    except (RuntimeError, ValueError) as error:
        event("refused")
        assert one_line(error, folder)
        return
    assert data.image_size == (size or 16)
    images, _ = next(data.train.batches(2, seed=0))
    assert images.isfinite().all()


def test_an_image_without_its_palette_is_refused(tmp_path):
    path, picture = tmp_path / "image.png", PNGS[3]
    start = picture.index(b"PLTE") - 4
    end = start + 12 + int.from_bytes(picture[start : start + 4])
    path.write_bytes(picture[:start] + picture[end:])
    with pytest.raises(RuntimeError, match="cannot be read as an image") as error:
        files.read_image(path, 3)
    assert one_line(error.value, path)


def strip_of(width, height):
    file = io.BytesIO()
    Image.new("RGB", (width, height), (200, 100, 50)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("sides", [(1, 60_000), (60_000, 1), (3, 20_000)])
def test_a_strip_is_brought_to_a_square_in_little_memory(tmp_path, sides):
    path = tmp_path / "strip.png"
    path.write_bytes(strip_of(*sides))
    for transform in (center_crop(224), crop_and_flip(224)):
        with address_space(500 * 2**20):
            image = files.read_image(path, 3, transform)
        assert image.shape == (3, 224, 224)
        assert torch.equal(image[:, 0, 0], torch.tensor([200, 100, 50]).byte())


@pytest.mark.slow(3)
@pytest.mark.parametrize("limit", [10**9, 1000], ids=["in memory", "streamed"])
def test_a_folder_of_strips_trains_in_little_memory(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(data_module, "MEMORY_LIMIT", limit)
    for name in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / name).mkdir(parents=True)
        for i, sides in enumerate([(1, 60_000), (60_000, 1), (300, 200)]):
            (tmp_path / name / f"{i}.png").write_bytes(strip_of(*sides))
    with address_space(2**31):
        data = load(tmp_path, image_size=224)
        train = strengthen(data.train, randaugment=9, erase=0.5)
        for split, seed in ((train, 0), (data.test, None)):
            images, _ = next(split.batches(6, seed=seed))
            assert images.shape[1:] == (3, 224, 224) and images.isfinite().all()


@pytest.mark.parametrize(
    "sides", [(40, 30), (30, 40), (32, 2), (5, 80), (7, 7), (1, 1)]
)
def test_an_ordinary_image_is_cropped_bit_by_bit_as_ever(sides):
    width, height = sides
    pixels = random.Random(0).randbytes(3 * width * height)
    image = Image.frombytes("RGB", sides, pixels)
    for size in (3, 8, 20):
        plain = v2.Compose([v2.Resize(size), v2.CenterCrop(size)])
        assert center_crop(size)(image).tobytes() == plain(image).tobytes()


def test_a_long_strip_is_cropped_about_as_if_it_were_resized_whole():
    ramp = np.linspace(0, 255, 400).astype(np.uint8)
    image = Image.fromarray(np.broadcast_to(ramp, (10, 400)))
    plain = v2.Compose([v2.Resize(20), v2.CenterCrop(20)])
    ours, whole = np.array(center_crop(20)(image)), np.array(plain(image))
    assert np.abs(ours.astype(int) - whole).max() <= 1


@pytest.mark.parametrize(
    "sides, words",
    [
        ((10_000, 9_000), "90000000 pixels"),  # Pillow warns
        ((20_000, 20_000), "400000000 pixels"),  # it refuses
        ((1, 70_000), "a side of 70,000 pixels"),
    ],
)
def test_an_image_of_too_many_pixels_is_refused_in_one_line(
    tmp_path, recwarn, sides, words
):
    path = tmp_path / "large.png"
    content = bytearray(PNGS[0])  # Pillow reads the sides before it misses pixels
    content[16:24] = b"".join(side.to_bytes(4) for side in sides)
    path.write_bytes(png_with_checksums(content))
    for transform in (None, center_crop(8)):
        with pytest.raises(RuntimeError, match=words) as error:
            files.read_image(path, 3, transform)
        assert one_line(error.value, path)
    assert not recwarn.list


def pipe(path):
    os.mkfifo(path)


def bound(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(path))


def device(path):
    path.symlink_to("/dev/zero")


def nothing(path):
    path.symlink_to("nowhere")


def unreadable(path):
    path.symlink_to("/proc/self/mem")  # root may read what has no permissions


@pytest.mark.timeout(10)
@pytest.mark.parametrize("make", [pipe, bound, device, nothing, unreadable])
@pytest.mark.parametrize("place", ["train/cat/0.png", "test/dog/z.png"])
def test_what_is_no_file_is_refused(folder, make, place):
    path = folder / place
    path.unlink(missing_ok=True)
    make(path)
    try:
        with pytest.raises(RuntimeError, match="cannot be read") as error:
            load(folder, image_size=8)
        assert one_line(error.value, path)
    finally:
        path.unlink()
        Image.new("RGB", (16, 16)).save(folder / "train" / "cat" / "0.png")


def test_a_folder_named_like_an_image_is_a_folder(folder):
    (folder / "train" / "cat" / "z.png").mkdir()
    try:
        assert len(load(folder, image_size=8).test) == 4
    finally:
        (folder / "train" / "cat" / "z.png").rmdir()


@pytest.mark.timeout(10)
def test_links_in_a_circle_are_refused(folder):
    links = [folder / "train" / "cat" / name for name in ("a", "b")]
    for target in ("..", folder / "train" / "dog"):
        for link in links:
            link.symlink_to(target)
        back = folder / "train" / "dog" / "back"
        back.symlink_to(folder / "train" / "cat")
        try:
            with pytest.raises(ValueError, match="leads back to") as error:
                load(folder, image_size=8)
            assert one_line(error.value, folder)
        finally:
            for link in (*links, back):
                link.unlink()


def test_an_image_that_is_a_program_is_not_run(tmp_path, monkeypatch):
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch '{tmp_path}/ran'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    path = tmp_path / "image.png"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EOF\n")
    with pytest.raises(RuntimeError, match="cannot be read") as error:
        files.read_image(path, 3)
    assert one_line(error.value, path)
    assert not (tmp_path / "ran").exists()


# ---- archives ----


@pytest.fixture(scope="module")
def cifar():
    """A small CIFAR-10 as a tar file; torchvision knows its checksums."""
    with pytest.MonkeyPatch.context() as patch:
        content, _ = cifar_archive(CIFAR10, patch, n=2)
        yield gzip.decompress(content)


def load_cifar(folder, archive):
    """Load CIFAR from an archive in a folder, as if it were the official one."""
    path = folder / "data" / CIFAR10.filename
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(archive)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CIFAR10, "tgz_md5", md5(archive).hexdigest())
        return load("cifar10", root=path.parent)


@pytest.mark.slow(3)
@each
@given(drawn=st.data())
def test_an_archive_is_unpacked_or_refused(tmp_path, cifar, drawn):
    archive = drawn.draw(mutants([cifar]) | mutants([gzip.compress(cifar, 1)]))
    if drawn.draw(st.booleans()):
        archive = tar_with_checksums(archive)
    if archive[:2] != b"\x1f\x8b":
        archive = gzip.compress(archive, 1)
    with TemporaryDirectory(dir=tmp_path) as folder:
        try:
            data = load_cifar(Path(folder), archive)
        except RuntimeError as error:
            event("refused")
            assert one_line(error, CIFAR10.filename)
        else:
            assert data.test.labels.tolist() == [0]
        assert os.listdir(folder) == ["data"]


@pytest.fixture(scope="module")
def fashion(tmp_path_factory):
    """A folder and archives of a small Fashion-MNIST; torchvision knows their sums."""
    rng = random.Random(0)
    images = b"\0\0\x08\x03" + bytes(12) + rng.randbytes(10 * 28 * 28)
    labels = b"\0\0\x08\x01" + bytes(4) + bytes(range(10))
    archives = [gzip.compress(images), gzip.compress(labels)] * 2
    names = [name for name, _ in FashionMNIST.resources]
    sums = [md5(archive).hexdigest() for archive in archives]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FashionMNIST, "resources", [*zip(names, sums, strict=True)])
        raw = tmp_path_factory.mktemp("fashion") / "FashionMNIST" / "raw"
        raw.mkdir(parents=True)
        archives = dict(zip(names, archives, strict=True))
        for name, archive in archives.items():
            (raw / name).write_bytes(archive)
        yield raw, archives


@pytest.mark.slow(4)
@each
@given(drawn=st.data())
def test_no_other_archive_of_fashion_mnist_is_read(fashion, drawn):
    raw, archives = fashion
    name = drawn.draw(st.sampled_from([*archives]))
    archive = drawn.draw(mutants([archives[name]]))
    (raw / name).write_bytes(archive)
    if archive == archives[name]:
        assert len(load("fashion_mnist", root=raw.parents[1]).test) == 10
        return
    with pytest.raises(RuntimeError, match="is truncated or corrupt") as error:
        load("fashion_mnist", root=raw.parents[1])
    assert one_line(error.value, raw / name)
    (raw / name).write_bytes(archives[name])


def member(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    info.size = 4 if kind == tarfile.REGTYPE else 0
    return info


@pytest.mark.parametrize(
    "members",
    [
        [member("../evil")],
        [member("{}/evil")],
        [member("link", tarfile.SYMTYPE, ".."), member("link/evil")],
        [member("link", tarfile.SYMTYPE, "/etc/passwd")],
        [member("link", tarfile.LNKTYPE, "../secret")],
        [member("pipe", tarfile.FIFOTYPE)],
        [member("device", tarfile.CHRTYPE)],
    ],
    ids=lambda members: members[-1].name,
)
def test_nothing_is_unpacked_outside_the_folder(tmp_path, cifar, members):
    (tmp_path / "secret").write_text("kept")
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        for info in members:
            info.name = info.name.format(tmp_path)
            tar.addfile(info, io.BytesIO(b"evil"))
    with pytest.raises(
        RuntimeError, match=r"move .* away and load again|move it away"
    ) as error:
        load_cifar(tmp_path, file.getvalue())
    assert one_line(error.value, tmp_path / "data" / CIFAR10.filename)
    assert sorted(os.listdir(tmp_path)) == ["data", "secret"]
    kinds = {stat.S_IFMT(path.lstat().st_mode) for path in tmp_path.rglob("*")}
    assert kinds == {stat.S_IFDIR, stat.S_IFREG}


def test_a_foreign_pickle_in_an_archive_is_not_opened(tmp_path, cifar):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (os.fspath(tmp_path / "ran"),)

    content = pickle.dumps(Evil())
    file = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(cifar)) as whole,
        tarfile.open(fileobj=file, mode="w:gz") as tar,
    ):
        for info in whole:
            old = whole.extractfile(info)
            if info.name.endswith("data_batch_2"):
                info.size, old = len(content), io.BytesIO(content)
            tar.addfile(info, old)
    with pytest.raises(RuntimeError, match="holds other files"):
        load_cifar(tmp_path, file.getvalue())
    assert not (tmp_path / "ran").exists()


@pytest.mark.timeout(10)
@pytest.mark.parametrize("make", [pipe, device, nothing, unreadable])
def test_an_archive_that_is_no_file_is_refused(tmp_path, monkeypatch, make):
    path = tmp_path / CIFAR10.filename
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/")
    make(path)
    with pytest.raises(RuntimeError) as error:
        load("cifar10", root=tmp_path)
    assert one_line(error.value, path)


@pytest.mark.timeout(10)
@pytest.mark.parametrize("make", [pipe, nothing])
def test_an_unpacked_file_that_is_none_is_unpacked_again(tmp_path, cifar, make):
    with tarfile.open(fileobj=io.BytesIO(cifar)) as tar:
        tar.extractall(tmp_path / "data", filter="data")
    path = tmp_path / "data" / CIFAR10.base_folder / "data_batch_3"
    path.unlink()
    make(path)
    assert load_cifar(tmp_path, gzip.compress(cifar)).test.labels.tolist() == [0]
    assert path.is_file() and not path.is_symlink()
