"""Datasets: what they hold, how batches come, and what each broken file says."""

import hashlib
import http.server
import io
import multiprocessing
import os
import pickle
import shutil
import tarfile
import tempfile
import threading
import time
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import ExifTags, Image
from torchvision.datasets import CIFAR10, FashionMNIST

from vitutils.data import DATA, download, files, load
from vitutils.data import datasets as data_module
from vitutils.data.augmentation import flip, shift_and_flip
from vitutils.data.splits import MemorySplit, StreamedSplit, generator


@pytest.fixture(scope="module")
def fashion():
    return load("fashion_mnist")


def random_split(n=50, channels=3, size=16, **fields):
    images = torch.randint(
        256, (n, channels, size, size), dtype=torch.uint8, generator=generator("test")
    )
    values = {"mean": (0.5,) * channels, "std": (0.25,) * channels}
    return MemorySplit(labels=torch.arange(n), images=images, **(values | fields))


def same(batches, others):
    pairs = list(zip(batches, others, strict=True))
    return all(torch.equal(a, b) for x, y in pairs for a, b in zip(x, y, strict=True))


# Fashion-MNIST


@pytest.mark.slow(2)
def test_fashion_mnist_is_whole(fashion):
    assert [len(fashion.train), len(fashion.validation), len(fashion.test)] == [
        54_000,
        6_000,
        10_000,
    ]
    assert fashion.name == "fashion_mnist"
    assert (fashion.image_size, fashion.in_channels, fashion.num_classes) == (28, 1, 10)
    assert fashion.classes[0] == "T-shirt/top" and fashion.classes[9] == "Ankle boot"
    assert fashion.train.images.dtype == torch.uint8
    assert fashion.train.images.shape == (54_000, 1, 28, 28)
    assert fashion.train.labels.dtype == torch.int64
    labels = torch.cat((fashion.train.labels, fashion.validation.labels))
    assert labels.bincount().tolist() == [6_000] * 10
    assert fashion.test.labels.bincount().tolist() == [1_000] * 10
    assert fashion.test.labels[:5].tolist() == [9, 2, 1, 1, 6]


@pytest.mark.slow(1)
def test_validation_is_held_out_of_train(fashion, tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, _ in FashionMNIST.resources:
        raw.joinpath(name).symlink_to(DATA / "FashionMNIST" / "raw" / name)
    official = FashionMNIST(tmp_path, download=True).data
    held = torch.cat((fashion.train.images, fashion.validation.images))[:, 0]

    def digests(images):
        return sorted(hashlib.md5(image).digest() for image in images.numpy())

    assert digests(held) == digests(official)  # each image once: none in both


@pytest.mark.slow(1)
def test_validation_is_the_same_each_time(fashion):
    # Pinned: another order would mix up runs recorded before and after it.
    assert fashion.validation.labels[:8].tolist() == [8, 3, 6, 4, 5, 3, 5, 8]
    again = load("fashion_mnist")
    assert torch.equal(again.validation.images, fashion.validation.images)
    assert again.train.images.data_ptr() != fashion.train.images.data_ptr()
    again.train.images.zero_()  # touches its own copy only
    assert fashion.train.images.any()


@pytest.mark.slow(2)
def test_mean_and_std_are_those_of_the_training_images(fashion):
    pixels = fashion.train.images.double() / 255
    assert fashion.mean == pytest.approx((pixels.mean().item(),), abs=1e-9)
    assert fashion.std == pytest.approx((pixels.std().item(),), abs=1e-6)
    # To the last bit, on every processor: by the digest of its data a run goes on.
    total = int(fashion.train.images.sum())
    assert fashion.mean == (total / (255 * fashion.train.images.numel()),)
    images = torch.cat([images for images, _ in fashion.train.batches(1000)])
    assert images.dtype == torch.float32
    assert abs(images.mean()) < 1e-4 and abs(images.std() - 1) < 1e-4


def test_load_writes_nothing_beside_the_archives(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, _ in FashionMNIST.resources:
        raw.joinpath(name).symlink_to(DATA / "FashionMNIST" / "raw" / name)
    (raw / "train-images-idx3-ubyte").write_bytes(b"left by an interrupted run")
    before = sorted(tmp_path.rglob("*"))
    for folder in (raw, raw.parent, tmp_path):
        folder.chmod(0o555)
    try:
        assert len(load("fashion_mnist", root=tmp_path).test) == 10_000
    finally:
        for folder in (tmp_path, raw.parent, raw):
            folder.chmod(0o755)
    assert sorted(tmp_path.rglob("*")) == before


def test_truncated_archive_is_named(tmp_path):
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    name = FashionMNIST.resources[0][0]
    whole = (DATA / "FashionMNIST" / "raw" / name).read_bytes()
    (raw / name).write_bytes(whole[:-1])
    with pytest.raises(RuntimeError, match="truncated or corrupt") as error:
        load("fashion_mnist", root=tmp_path)
    assert str(raw / name) in str(error.value)
    assert "move it away" in str(error.value) and "git checkout data" in str(
        error.value
    )


def test_missing_archive_without_network(tmp_path, monkeypatch):
    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(RuntimeError, match=r"is missing and .* check the network"):
        load("fashion_mnist", root=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_left_of_a_load_that_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", os.fspath(tmp_path))
    loading = multiprocessing.get_context("fork").Process(
        target=load, args=("fashion_mnist",)
    )
    loading.start()
    while loading.is_alive() and not list(tmp_path.rglob("*.gz")):
        time.sleep(0.01)
    loading.terminate()
    loading.join()
    assert list(tmp_path.iterdir()) == []


# Batches


def test_evaluation_is_in_order_and_not_augmented():
    split = random_split()
    batches = list(split.batches(16))
    assert [len(labels) for _, labels in batches] == [16, 16, 16, 2]
    assert split.num_batches(16) == 4
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert labels.tolist() == list(range(50))
    torch.testing.assert_close(images, (split.images / 255 - 0.5) / 0.25)


def test_channels_are_normalized_each_by_its_own():
    split = random_split(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    images, _ = next(split.batches(50))
    blue = (split.images[:, 2] / 255 - 0.3) / 0.7
    torch.testing.assert_close(images[:, 2], blue)


def test_training_covers_each_image_once_in_another_order_each_epoch():
    split = random_split()
    orders = [
        torch.cat([y for _, y in split.batches(16, seed=seed, epoch=epoch)]).tolist()
        for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


def test_start_gives_the_very_same_remaining_batches():
    split = random_split()
    torch.manual_seed(0)
    whole = list(split.batches(8, seed=3, epoch=5))
    torch.manual_seed(1)  # global random numbers play no part
    for start in range(8):
        assert same(whole[start:], split.batches(8, seed=3, epoch=5, start=start))


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_the_parts_of_a_batch_are_the_batch(parts):
    split = random_split(n=50, augment=None)
    batches = list(split.batches(16, seed=1))  # the last one has two images
    micro = list(split.micro_batches(16, parts=parts, mine=range(parts), seed=1))
    assert len(micro) == parts * len(batches)
    for i, (images, labels) in enumerate(batches):
        pieces = micro[parts * i : parts * (i + 1)]
        assert sum(share for *_, share in pieces) == pytest.approx(1)
        assert all(len(x) >= 1 for x, *_ in pieces)
        filled = [(x, y) for x, y, share in pieces if share > 0]
        assert torch.equal(torch.cat([x for x, _ in filled]), images)
        assert torch.equal(torch.cat([y for _, y in filled]), labels)


def test_a_part_is_the_same_whoever_asks_for_it():
    split = random_split(n=50)
    whole = list(split.micro_batches(16, parts=2, mine=(0, 1), seed=1, start=1))
    for part in (0, 1):
        alone = split.micro_batches(16, parts=2, mine=(part,), seed=1, start=1)
        for (a, b, _), (c, d, _) in zip(whole[part::2], alone, strict=True):
            assert torch.equal(a, c) and torch.equal(b, d)


def by_name(split, labels, *, epoch=0):
    """Return labels as letters: a is the first image of an epoch's order, and so on."""
    order = torch.randperm(len(split), generator=generator(1, epoch)).tolist()
    return "".join("abcdefghijk"[order.index(label)] for label in labels.tolist())


@pytest.mark.parametrize(
    ("repeats", "parts", "expected"),
    [
        (1, 1, ["abcdef", "ghijk"]),
        (3, 1, ["ababab", "cdcdc"]),  # aaabbb cccdd, in each batch copies apart
        (3, 2, ["aba", "bab", "cdc", "dc"]),
        (3, 3, ["ab", "ab", "ab", "cd", "cd", "c"]),  # to each part a copy
        (4, 2, ["aba", "baa", "bcb", "cc"]),  # aaaabb bbccc
    ],
)
def test_repeated_images_come_in_the_order_written_by_hand(repeats, parts, expected):
    split = random_split(n=11, repeats=repeats)
    found = split.micro_batches(6, parts=parts, mine=range(parts), seed=1)
    assert [by_name(split, labels) for _, labels, _ in found] == expected
    later = [by_name(split, y, epoch=5) for _, y in split.batches(6, seed=1, epoch=5)]
    assert len(set("".join(later))) == -(-11 // repeats)  # others of the images


def test_each_copy_of_an_image_has_a_draw_of_its_own():
    split = random_split(n=24, repeats=3)
    ((images, labels),) = split.batches(24, seed=0)
    assert len(labels.unique()) == 8 and len(images.flatten(1).unique(dim=0)) > 20
    assert split.num_batches(10) == 3
    ((_, plain),) = split.batches(24)
    assert plain.tolist() == [*range(24)]  # outside training nothing is repeated


def test_start_skips_repeated_images_too():
    split = random_split(repeats=3)
    whole = list(split.batches(8, seed=3, epoch=5))
    assert same(whole[4:], split.batches(8, seed=3, epoch=5, start=4))


def test_batches_leave_the_global_random_numbers_alone():
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    list(random_split().batches(8, seed=0))
    assert torch.equal(torch.rand(1), expected)


def test_crops_differ_by_epoch():
    split = random_split().subset([7])
    crops = {
        tuple(next(split.batches(1, seed=0, epoch=epoch))[0].flatten().tolist())
        for epoch in range(20)
    }
    assert len(crops) > 10


@pytest.mark.parametrize("channels, size", [(1, 28), (3, 32)])
def test_each_image_gets_a_window_of_its_own(channels, size):
    image = torch.randint(256, (channels, size, size), dtype=torch.uint8)
    B, pad = 400, size // 8
    augmented = shift_and_flip(image.expand(B, -1, -1, -1), generator(0))
    padded = F.pad(image, (pad,) * 4)
    windows = {}
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            window = padded[:, top : top + size, left : left + size]
            windows[window.numpy().tobytes()] = (top, left, False)
            windows[window.flip(-1).numpy().tobytes()] = (top, left, True)
    draws = [windows[crop.numpy().tobytes()] for crop in augmented]  # all are windows
    tops, lefts, flips = zip(*draws, strict=True)
    assert set(tops) == set(lefts) == set(range(2 * pad + 1))
    assert 0.4 < np.mean(flips) < 0.6
    assert abs(np.corrcoef(tops, lefts)[0, 1]) < 0.2
    assert len(set(draws)) > len(windows) / 2


def test_flip_mirrors_about_half_and_moves_nothing():
    images = random_split(n=200).images
    flipped = flip(images, generator(0))
    same = (flipped == images).flatten(1).all(1)
    mirrored = (flipped == images.flip(3)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 70 < mirrored.sum() < 130


def test_augment_can_be_replaced():
    split = random_split(n=8)
    plain = replace(split, augment=None)
    images, labels = next(plain.batches(8, seed=0))
    torch.testing.assert_close(images, (split.images[labels] / 255 - 0.5) / 0.25)
    dark = replace(split, augment=lambda images, generator: torch.zeros_like(images))
    assert next(dark.batches(8, seed=0))[0].eq(-2).all()
    assert not next(dark.batches(8))[0].eq(-2).all()  # evaluation stays as it is


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_device_changes_nothing():
    split = random_split()
    on_cpu = list(split.batches(16, seed=0))
    on_gpu = split.batches(16, seed=0, device="cuda")
    assert same(on_cpu, ((x.cpu(), y.cpu()) for x, y in on_gpu))
    resident = replace(split, images=split.images.cuda())
    batches = resident.batches(16, seed=0, device="cuda")
    assert same(on_cpu, ((x.cpu(), y.cpu()) for x, y in batches))


def test_the_pipeline_does_not_set_the_pace(fashion):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        begin = time.thread_time()
        count = sum(len(y) for _, y in fashion.train.batches(128, seed=0))
        rate = count / (time.thread_time() - begin)
    finally:
        torch.set_num_threads(threads)
    assert rate > 20_000, f"{rate:,.0f} images a second"


def test_wrong_batch_arguments():
    split = random_split()
    with pytest.raises(ValueError, match="batch_size 0"):
        split.batches(0)
    for start in (-1, 8):
        with pytest.raises(ValueError, match=f"start {start} is not between 0 and 7"):
            split.batches(8, start=start)


# Subsets


def test_subset_of_a_number_is_fixed_and_nested():
    split = random_split()
    few, more = split.subset(10), split.subset(20)
    assert len(few) == 10 and torch.equal(more.labels[:10], few.labels)
    assert few.labels.tolist() != list(range(10))
    assert torch.equal(few.images, split.images[few.labels])
    assert torch.equal(split.subset(10).images, few.images)


def test_subset_of_indices():
    split = random_split()
    for indices in ([4, 2, 4], range(3), np.array([1, 0]), torch.tensor([49])):
        part = split.subset(indices)
        assert part.labels.tolist() == list(indices)
        assert torch.equal(part.images, split.images[part.labels])
    part.images.zero_()
    assert split.images[49].any()  # a copy


@pytest.mark.parametrize(
    "which, message",
    [
        (0, "cannot take 0 of 50"),
        (51, "cannot take 51 of 50"),
        ([50], "50 do not fit 50 images"),
        ([-1], "from -1"),
        ([], "indices must be"),
        ([0.5], "indices must be"),
        ([True, False], "indices must be"),
    ],
)
def test_wrong_subsets(which, message):
    with pytest.raises(ValueError, match=message):
        random_split().subset(which)


def test_splits_and_datasets_are_frozen(fashion):
    with pytest.raises(FrozenInstanceError):
        fashion.train = fashion.test
    with pytest.raises(FrozenInstanceError):
        fashion.train.labels = fashion.test.labels


# Names and arguments


def test_unknown_name_lists_the_names(tmp_path):
    with pytest.raises(ValueError, match="fashion_mnist, cifar10, cifar100") as error:
        load("fashion-mnist")
    assert "fashion-mnist" in str(error.value)


def test_arguments_that_do_not_fit_the_dataset():
    with pytest.raises(ValueError, match="image_size is for folders"):
        load("fashion_mnist", image_size=32)
    with pytest.raises(ValueError, match="mirror is for cifar10 and cifar100"):
        load("fashion_mnist", mirror="http://127.0.0.1:9/")


def test_missing_data_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(data_module, "DATA", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"nowhere\): give root= .*--root"):
        load("fashion_mnist")


# CIFAR, a small one from a server on this machine


def cifar_archive(kind, monkeypatch, n=20):
    """Make a small archive and give its checksums to torchvision's class."""
    rng = np.random.default_rng(0)

    def batch(n):
        pixels = rng.integers(0, 256, (n, 3072), dtype=np.uint8)
        return {"data": pixels, "labels": [i % 3 for i in range(n)]}

    members = {name: pickle.dumps(batch(n)) for name, _ in kind.train_list}
    members["test_batch"] = pickle.dumps(batch(n // 2))
    members["batches.meta"] = pickle.dumps({"label_names": ["ant", "bee", "cow"]})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"{kind.base_folder}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))

    def md5(content):
        return hashlib.md5(content).hexdigest()

    train = [[name, md5(members[name])] for name, _ in kind.train_list]
    monkeypatch.setattr(kind, "train_list", train)
    test = [["test_batch", md5(members["test_batch"])]]
    monkeypatch.setattr(kind, "test_list", test)
    meta = kind.meta | {"md5": md5(members["batches.meta"])}
    monkeypatch.setattr(kind, "meta", meta)
    monkeypatch.setattr(kind, "tgz_md5", md5(buffer.getvalue()))
    return buffer.getvalue(), members


class Host:
    """A server that sends ``body`` under a Content-Length of ``length`` bytes."""

    def __init__(self, body):
        self.body, self.length, self.paths = body, len(body), []
        host = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                host.paths.append(self.path)
                if self.path == "/missing/cifar-10-python.tar.gz":
                    return self.send_error(404)
                self.send_response(200)
                self.send_header("Content-Length", str(host.length))
                self.end_headers()
                self.wfile.write(host.body)

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(
            target=self.server.serve_forever, args=(0.01,), daemon=True
        ).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def host(monkeypatch):
    monkeypatch.delenv("VITUTILS_CIFAR_MIRROR", raising=False)
    body, members = cifar_archive(CIFAR10, monkeypatch)
    host = Host(body)
    host.members = members
    monkeypatch.setattr(CIFAR10, "url", f"{host.url}/{CIFAR10.filename}")
    yield host
    host.server.shutdown()
    host.server.server_close()


def files_in(folder):
    return [path.name for path in folder.rglob("*") if path.is_file()]


def test_cifar_is_downloaded_once(host, tmp_path, capfd):
    data = load("cifar10", root=tmp_path)
    assert (len(data.train), len(data.validation), len(data.test)) == (90, 10, 10)
    assert data.classes == ("ant", "bee", "cow")
    assert (data.image_size, data.in_channels) == (32, 3)
    expected = pickle.loads(host.members["test_batch"])["data"].reshape(10, 3, 32, 32)
    assert np.array_equal(data.test.images.numpy(), expected)
    assert len(data.mean) == len(data.std) == 3
    assert "cifar-10-python.tar.gz" in capfd.readouterr().err  # the progress bar
    load("cifar10", root=tmp_path)
    assert host.paths == ["/cifar-10-python.tar.gz"]
    assert {path.name for path in tmp_path.iterdir()} == {
        CIFAR10.filename,
        CIFAR10.base_folder,
    }


def test_cifar_from_a_mirror(host, tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/")
    copy = tmp_path / "copies" / CIFAR10.filename
    copy.parent.mkdir()
    copy.write_bytes(host.body)
    renamed = copy.with_name("mine")
    renamed.write_bytes(host.body)
    mirrors = (f"{host.url}/a", f"{host.url}/a/{CIFAR10.filename}")
    for i, mirror in enumerate((*mirrors, copy, str(copy.parent), renamed)):
        assert len(load("cifar10", root=tmp_path / str(i), mirror=mirror).test) == 10
    monkeypatch.setenv("VITUTILS_CIFAR_MIRROR", str(copy))
    assert len(load("cifar10", root=tmp_path / "by environment").test) == 10


def test_cifar_unpacked_by_torchvision_needs_no_archive(host, tmp_path):
    with tarfile.open(fileobj=io.BytesIO(host.body)) as tar:
        tar.extractall(tmp_path, filter="data")
    assert len(load("cifar10", root=tmp_path).test) == 10
    assert host.paths == []


def test_cifar_unpacked_in_part_is_unpacked_again(host, tmp_path):
    load("cifar10", root=tmp_path)
    for name in ("data_batch_3", "batches.meta"):
        path = tmp_path / CIFAR10.base_folder / name
        path.write_bytes(path.read_bytes()[:100])
        assert len(load("cifar10", root=tmp_path).train) == 90
    assert len(host.paths) == 1


def test_of_two_processes_one_unpacks_for_both(host, tmp_path, monkeypatch):
    def slowly(source, target, size, *_):
        time.sleep(0.02)  # the file is there, and empty
        target.write(source.read(size))

    monkeypatch.setattr(tarfile, "copyfileobj", slowly)
    (tmp_path / CIFAR10.filename).write_bytes(host.body)
    context = multiprocessing.get_context("fork")
    loads = [
        context.Process(target=load, args=("cifar10",), kwargs={"root": tmp_path})
        for _ in range(2)
    ]
    for process in loads:
        process.start()
        time.sleep(0.01)
    for process in loads:
        process.join()
    assert [process.exitcode for process in loads] == [0, 0]


@pytest.mark.parametrize("kind", ["part", "etag", "lock"])
def test_what_a_killed_download_left_is_cleared(host, tmp_path, kind):
    (tmp_path / f".{kind}-{CIFAR10.filename}").write_bytes(b"x")
    (tmp_path / CIFAR10.filename).write_bytes(host.body)  # saved by hand, say
    load("cifar10", root=tmp_path)
    assert not list(tmp_path.glob(".*"))


def test_connection_that_breaks_half_way(host, tmp_path):
    host.body = host.body[: len(host.body) // 2]
    with pytest.raises(RuntimeError) as error:
        load("cifar10", root=tmp_path / "mistyped")
    message = str(error.value)
    assert "load again" in message and "VITUTILS_CIFAR_MIRROR" in message
    assert host.url in message and f"mistyped/{CIFAR10.filename}" in message
    assert list(tmp_path.iterdir()) == []  # nothing half-written stays


def test_wrong_checksum_is_not_kept(host, tmp_path):
    host.body = b"x" * host.length
    with pytest.raises(RuntimeError, match="is not the official archive") as error:
        load("cifar10", root=tmp_path)
    assert f"{host.length:,} of {host.length:,} bytes" in str(error.value)
    assert files_in(tmp_path) == []


def test_no_network_and_no_such_file_say_what_to_do(host, tmp_path):
    for mirror in ("http://127.0.0.1:9", f"{host.url}/missing", tmp_path / "none.gz"):
        with pytest.raises(RuntimeError, match="could not be downloaded") as error:
            load("cifar10", root=tmp_path, mirror=mirror)
        assert "VITUTILS_CIFAR_MIRROR" in str(error.value)
    with pytest.raises(RuntimeError, match="404"):
        load("cifar10", root=tmp_path, mirror=f"{host.url}/missing")
    assert files_in(tmp_path) == []


def test_host_that_stops_sending(host, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.3)
    silent = threading.Event()
    monkeypatch.setattr(
        http.server.BaseHTTPRequestHandler, "end_headers", lambda _: silent.wait(5)
    )
    try:
        with pytest.raises(RuntimeError, match="timed out"):
            load("cifar10", root=tmp_path)
    finally:
        silent.set()


def test_corrupt_archive_on_disk_is_named(host, tmp_path):
    (tmp_path / CIFAR10.filename).write_bytes(host.body[:-5])
    with pytest.raises(RuntimeError, match="truncated or corrupt") as error:
        load("cifar10", root=tmp_path)
    assert str(tmp_path / CIFAR10.filename) in str(error.value)
    assert host.paths == []


def test_root_that_cannot_be_written(host, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RuntimeError, match=r"cannot be written .* root="):
        load("cifar10", root=tmp_path / "file")


# Folders of images


def write_images(folder, modes=("RGB",), size=(8, 8), n=20, parts=("train", "test")):
    rng = np.random.default_rng(0)
    for part in parts:
        for label in ("cat", "dog"):
            path = folder / part / label
            path.mkdir(parents=True, exist_ok=True)
            for i in range(n):
                shape = (size[1], size[0]) + (
                    () if modes[i % len(modes)] == "L" else (3,)
                )
                pixels = rng.integers(0, 256, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(path / f"{i:03}.png")
    return folder


@pytest.mark.parametrize("mode, channels", [("RGB", 3), ("L", 1)])
def test_folder_is_held_in_memory(tmp_path, mode, channels):
    data = load(write_images(tmp_path, (mode,)))
    assert isinstance(data.train, MemorySplit)
    assert (len(data.train), len(data.validation), len(data.test)) == (36, 4, 40)
    assert data.classes == ("cat", "dog") and data.in_channels == channels
    assert data.image_size == 8 and data.name == tmp_path.name
    pixels = np.asarray(Image.open(tmp_path / "test" / "dog" / "000.png"))
    first_dog = data.test.images[20].permute(1, 2, 0).squeeze(-1)
    assert np.array_equal(first_dog.numpy(), pixels) and data.test.labels[20] == 1
    held = torch.cat((data.train.images, data.validation.images)).flatten(1)
    assert len(held.unique(dim=0)) == 40


def test_grey_images_among_colour_ones_become_colour(tmp_path):
    data = load(write_images(tmp_path, ("L", "RGB")))
    assert data.in_channels == 3
    gray = data.test.images[0]
    assert torch.equal(gray[0], gray[1]) and not torch.equal(*data.test.images[1, :2])


@pytest.mark.parametrize("name", ["val", "validation"])
def test_folder_with_its_own_validation(tmp_path, name):
    data = load(write_images(tmp_path, parts=("train", "test", name)))
    assert (len(data.train), len(data.validation)) == (40, 40)


def test_folder_by_relative_name(tmp_path, monkeypatch):
    write_images(tmp_path / "pets")
    monkeypatch.chdir(tmp_path)
    assert load("pets").name == load("pets", root=tmp_path).name == "pets"


def test_image_size_resizes_and_crops_the_center(tmp_path):
    write_images(tmp_path, size=(30, 20))
    left_half = np.zeros((20, 40, 3), np.uint8)
    left_half[:, 20:] = 255
    Image.fromarray(left_half).save(tmp_path / "test" / "cat" / "000.png")
    data = load(tmp_path, image_size=10)
    assert data.test.images.shape == (40, 3, 10, 10)
    columns = data.test.images[0, 0, 5]
    assert columns[:4].max() < 30 and columns[6:].min() > 225


def test_images_of_one_grey_level_do_not_divide_by_zero(tmp_path):
    write_images(tmp_path)
    for path in tmp_path.rglob("*.png"):
        Image.new("L", (8, 8), 7).save(path)
    images, _ = next(load(tmp_path).train.batches(8))
    assert images.isfinite().all()


@pytest.fixture
def streamed(tmp_path, monkeypatch):
    monkeypatch.setattr(data_module, "MEMORY_LIMIT", 1000)
    monkeypatch.setattr(files, "CORES", 2)
    return load(write_images(tmp_path, size=(30, 20)), image_size=16)


def test_large_folder_is_streamed(streamed, tmp_path, monkeypatch):
    assert isinstance(streamed.train, StreamedSplit)
    assert (streamed.image_size, streamed.in_channels) == (16, 3)
    monkeypatch.setattr(data_module, "MEMORY_LIMIT", 10**9)
    held = load(tmp_path, image_size=16)
    assert same(held.validation.batches(3), streamed.validation.batches(3))
    assert streamed.mean == held.mean and streamed.std == held.std
    assert streamed.train.subset(3).paths == streamed.train.subset(5).paths[:3]


def test_streamed_training_is_determined_by_seed_epoch_and_batch(streamed):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    whole = list(streamed.train.batches(8, seed=1, epoch=2))
    assert torch.equal(torch.rand(1), expected)  # the global ones are left alone
    assert same(whole[2:], streamed.train.batches(8, seed=1, epoch=2, start=2))
    assert not torch.equal(whole[0][0], next(streamed.train.batches(8, seed=2))[0])
    labels = torch.cat([labels for _, labels in whole])
    assert labels.bincount().tolist() == streamed.train.labels.bincount().tolist()


def test_each_streamed_image_gets_a_crop_of_its_own(streamed):
    twins = streamed.train.subset([0, 0])
    crops, _ = next(twins.batches(2, seed=0))
    assert not torch.equal(crops[0], crops[1])
    plain, _ = next(replace(twins, augment=None).batches(2, seed=0))
    assert torch.equal(plain[0], plain[1])
    assert torch.equal(plain, next(twins.batches(2))[0])


def test_streamed_image_that_does_not_decode(streamed):
    path = streamed.test.paths[5]
    with open(path, "wb") as file:
        file.write(b"not an image")
    with pytest.raises(RuntimeError, match="cannot be read") as error:
        list(streamed.test.batches(8))
    assert path in str(error.value) and "Traceback" not in str(error.value)
    other = streamed.test.paths[-1]
    with open(other, "wb"):
        pass
    with pytest.raises(RuntimeError, match="2 files cannot be read") as error:
        list(streamed.test.batches(2))
    assert f"{path} (" in str(error.value) and f"{other} (" in str(error.value)


def test_large_folder_needs_image_size(tmp_path, monkeypatch):
    monkeypatch.setattr(data_module, "MEMORY_LIMIT", 1000)
    with pytest.raises(ValueError, match="give image_size, say 8 "):
        load(write_images(tmp_path))


def remove(path, folders=False):
    for file in path.rglob("*.png"):
        file.unlink()
    for folder in path.iterdir() if folders else ():
        folder.rmdir()


def test_folder_errors(tmp_path):
    def broken(name, error, message, change, **kwargs):
        folder = write_images(tmp_path / name, n=3)
        change(folder)
        with pytest.raises(error, match=message) as raised:
            load(folder, **kwargs)
        assert str(folder) in str(raised.value)

    missing, wrong = FileNotFoundError, ValueError
    broken(
        "a",
        missing,
        "no folder train/.*train/CLASS",
        lambda folder: (folder / "train").rename(folder / "learn"),
    )
    broken(
        "b",
        missing,
        "test has no folder per class",
        lambda folder: remove(folder / "test", folders=True),
    )
    broken(
        "c",
        missing,
        "has no images of the classes dog; put some there, or move these folders",
        lambda folder: remove(folder / "train" / "dog"),
    )
    broken(
        "e",
        wrong,
        "only one of them has dog, horse",
        lambda folder: (folder / "test" / "dog").rename(folder / "test" / "horse"),
    )
    broken(
        "g",
        wrong,
        "001.png is 9x9 and others are 8x8: give image_size",
        lambda folder: Image.new("RGB", (9, 9)).save(folder / "train/dog/001.png"),
    )
    broken(
        "h",
        wrong,
        "001.png is 8x8 and others are 9x8: give image_size, say 8 ",
        lambda folder: Image.new("RGB", (9, 8)).save(folder / "train/cat/000.png"),
    )
    broken(
        "i",
        wrong,
        "train and .*training are one part",
        lambda folder: shutil.copytree(folder / "train", folder / "training"),
    )


@pytest.mark.parametrize("names", [(), ("train", "test")])
def test_folder_without_classes(tmp_path, names):
    for name in names:
        (tmp_path / name).mkdir()
    with pytest.raises(FileNotFoundError, match="expected train/CLASS") as error:
        load(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_images_that_do_not_decode_are_named(tmp_path):
    write_images(tmp_path, size=(64, 64))
    path = tmp_path / "train" / "dog" / "003.png"
    whole = path.read_bytes()
    for content in (b"", b"not an image", whole[: len(whole) // 2], whole[:60]):
        path.write_bytes(content)
        with pytest.raises(RuntimeError, match="cannot be read") as error:
            load(tmp_path)
        assert str(path) in str(error.value)
    Image.fromarray(np.zeros((64, 64), np.uint16)).save(path)
    with pytest.raises(RuntimeError, match="I;16"):
        load(tmp_path)


def test_all_that_do_not_decode_are_named_at_once(tmp_path):
    write_images(tmp_path, size=(64, 64), n=20)
    for i in range(20):
        path = tmp_path / "train" / "dog" / f"{i:03}.png"
        whole = path.read_bytes()
        path.write_bytes(whole[: 0 if i % 2 else -30])
    for size in (None, 32):
        with pytest.raises(RuntimeError) as error:
            load(tmp_path, image_size=size)
        said = str(error.value)
        assert said.startswith("20 files cannot be read as images: ")
        assert "dog/000.png (" in said and "and 17 more: replace them or" in said


def test_the_size_that_is_proposed_is_filled_by_patches(tmp_path):
    for side, proposed in ((121, 112), (300, 224), (9, 9)):
        folder = write_images(tmp_path / f"{side}", size=(side, side), n=1)
        path = folder / "train" / "dog" / "000.png"
        Image.new("RGB", (side, side + 9)).save(path)
        with pytest.raises(ValueError, match=f"give image_size, say {proposed} "):
            load(folder)


def test_one_colour_image_among_grey_ones_makes_all_colour(tmp_path):
    write_images(tmp_path, ("L",), n=100)  # more than are looked at for the size
    path = tmp_path / "train" / "dog" / "099.png"
    Image.new("RGB", (8, 8), (200, 0, 0)).save(path)
    data = load(tmp_path)
    assert data.in_channels == 3
    both = torch.cat((data.train.images, data.validation.images))
    grays = (both[:, 0] == both[:, 1]).flatten(1).all(1)
    assert grays.sum() == 199
    assert both[~grays][0, :, 0, 0].tolist() == [200, 0, 0]


def test_colors_of_many_images_are_looked_for_once(tmp_path, monkeypatch):
    """Until a file changes: its name, its size or its time."""
    monkeypatch.setattr(files, "MANY", 4)
    write_images(tmp_path, ("L",), n=2)
    path = tmp_path / "train" / "dog" / "001.png"
    (path.parent / "002.png").symlink_to("nowhere.png")
    index, seen = tmp_path / files.COLORS, []
    look = files.is_gray
    monkeypatch.setattr(files, "is_gray", lambda path: seen.append(path) or look(path))

    def channels():
        seen.clear()
        _, parts, skipped = files.scan_folder(tmp_path)
        assert not skipped  # the index is nothing of the user's
        every = [path for paths, _ in parts.values() for path in paths]
        return files.common_format(every, tmp_path)[0]

    assert (channels(), len(seen)) == (1, 9)
    assert (channels(), len(seen)) == (1, 0)
    path.rename(path.with_name("003.png"))
    assert (channels(), len(seen)) == (1, 9)
    path = path.with_name("003.png")
    about = path.stat()
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns + 1))
    assert (channels(), len(seen)) == (1, 9)
    monkeypatch.setattr(files, "headers", lambda *_: [(path, True, (8, 8))])
    for spoiled in ("", "[]", index.read_text().replace("true", "1")):
        index.write_text(spoiled)
        assert (channels(), len(seen)) == (1, 9)
        assert (channels(), len(seen)) == (1, 0)
    Image.new("RGB", (8, 8), (200, 0, 0)).save(path)
    assert channels() == 3 and seen
    assert (channels(), len(seen)) == (3, 0)
    monkeypatch.setattr(files, "MANY", 10)
    index.unlink()
    assert channels() == 3 and not index.exists()


def test_to_tell_colors_decodes_nothing(tmp_path, monkeypatch):
    """A PNG that is asked for its EXIF data is decoded, to the last row."""

    def refuse(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    for mode, ending in (("L", "png"), ("RGB", "png"), ("L", "jpg"), ("RGB", "jpg")):
        path = tmp_path / f"{mode}.{ending}"
        Image.new(mode, (8, 8)).save(path)
        assert files.is_gray(path) == (mode == "L")


def test_single_class(tmp_path):
    write_images(tmp_path, n=1)
    (tmp_path / "train" / "dog").joinpath("000.png").unlink()
    for part in ("train", "test"):
        remove(tmp_path / part / "dog")
        (tmp_path / part / "dog").rmdir()
    with pytest.raises(ValueError, match="has one class alone, cat"):
        load(tmp_path)


# What people's folders hold


def shades():
    """An image of 6 x 4 pixels, each of another color."""
    pixels = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3
    return Image.fromarray(pixels)


def in_bytes(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def write_folder(root, names):
    """Write an image, or the bytes given, to each name."""
    for name, content in names.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content or in_bytes(shades(), "PNG"))
    return root


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_upright_whichever_way_the_phone_was_held(
    tmp_path, monkeypatch, kind, orientation
):
    # The inverse of what a reader has to do, which is EXIF 2.3's table 4.6.4.
    turn = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    upright = shades().resize((48, 32))  # a JPEG keeps smooth colors well
    held = upright
    if orientation > 1:
        held = upright.transpose(turn[orientation])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    photo = in_bytes(held, kind, exif=exif.tobytes(), **options)
    names = ("train/a/0", "train/a/1", "train/b/0", "train/b/1")
    write_folder(tmp_path, dict.fromkeys(names, photo))
    right = torch.from_numpy(np.array(upright)).permute(2, 0, 1)
    data = load(tmp_path)
    assert data.image_size == (32, 48)
    far = (data.train.images.int() - right.int()).abs().max()
    assert far <= (12 if kind == "JPEG" else 0)
    monkeypatch.setattr(data_module, "MEMORY_LIMIT", 1)
    monkeypatch.setattr(files, "CORES", 1)
    streamed = load(tmp_path, image_size=(32, 48))
    assert same(data.validation.batches(2), streamed.validation.batches(2))


def test_broken_exif_data_breaks_no_photo(tmp_path):
    photo = in_bytes(shades(), "PNG", exif=b"Exif\0\0MM\0*\0\0\xff\xff\xff\xff")
    write_folder(tmp_path, {"0.png": photo})
    image = files.read_image(tmp_path / "0.png", 3)
    assert np.array_equal(image.permute(1, 2, 0), np.array(shades()))


def transparent(mode):
    """A red pixel, a half transparent one and one that is not to be seen."""
    image = Image.new("RGBA", (3, 1), (200, 0, 0, 255))
    image.putpixel((1, 0), (200, 0, 0, 51))
    image.putpixel((2, 0), (200, 0, 0, 0))
    if mode == "RGBA":
        return in_bytes(image, "PNG"), [(200, 0, 0), (244, 204, 204), (255, 255, 255)]
    if mode == "LA":
        image = Image.merge("LA", (image.getchannel(0), image.getchannel(3)))
        return in_bytes(image, "PNG"), [(200,) * 3, (244,) * 3, (255,) * 3]
    image = Image.new("P" if mode in ("P", "GIF") else mode, (3, 1))
    if image.mode == "P":
        image.putpalette([200, 0, 0, 9, 9, 9])
    image.putpixel((2, 0), 1 if mode != "RGB" else (1, 1, 1))
    clear = 1 if mode != "RGB" else (1, 1, 1)
    seen = (200, 0, 0) if image.mode == "P" else (0, 0, 0)
    kind = "GIF" if mode == "GIF" else "PNG"
    return in_bytes(image, kind, transparency=clear), [seen, seen, (255,) * 3]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "GIF", "RGB", "L"])
def test_what_is_transparent_shows_white(tmp_path, mode):
    content, right = transparent(mode)
    write_folder(tmp_path, {"0.png": content})
    image = files.read_image(tmp_path / "0.png", 3)
    assert image[:, 0].T.tolist() == [[*color] for color in right]


def test_files_of_programs_are_skipped_and_others_read_by_content(tmp_path):
    photo = in_bytes(shades(), "JPEG")
    heic = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(100)
    write_folder(
        tmp_path,
        {
            "train/a/0.png": b"",
            "train/a/1.JFIF": photo,
            "train/a/2.gif": in_bytes(shades(), "GIF"),
            "train/a/3.webp": in_bytes(shades(), "WEBP"),
            "train/a/4.avif": in_bytes(shades(), "AVIF"),
            "train/a/5": photo,
            "train/a/more/6.jpg_large": photo,
            "train/a/7.heic": heic,
            "train/a/8.HEIC": heic,
            "train/a/._0.png": b"\0\5\x16\7",
            "train/a/notes.md": b"no image",
            "train/a/Thumbs.db": b"no image",
            "train/a/.ipynb_checkpoints/0-checkpoint.png": b"",
            "train/b/0.png": b"",
            "train/b/1.png": b"",
            "train/.ipynb_checkpoints/0.png": b"",
            "train/__MACOSX/a/._0.png": b"\0\5\x16\7",
            "train/labels.csv": b"0,a",
            "val/a/0.png": b"",
            "val/b/0.png": b"",
            ".DS_Store": b"Bud1",
            "README.txt": b"read me",
        },
    )
    with pytest.warns(UserWarning, match=r"skipped 2 .HEIC.*magick"):
        data = load(tmp_path)
    assert data.classes == ("a", "b")
    assert data.train.labels.bincount().tolist() == [7, 2]
    assert data.notes == (
        "test: no images, so that the end is measured on the validation ones",
        "skipped 6 (hidden): .DS_Store, .ipynb_checkpoints, __MACOSX, ...",
        "skipped 1 (no part of the data): README.txt",
        f"skipped 2 ({files.HEIC}): 7.heic, 8.HEIC",
        "skipped 1 (no images): notes.md",
        "skipped 1 (beside the folders of classes): labels.csv",
    )


def test_a_photo_of_an_iphone_says_how_to_convert_it(tmp_path):
    write_folder(tmp_path, {"0.jpg": b"\0\0\0\x18ftypheic" + bytes(99)})
    with pytest.raises(RuntimeError, match=r"0.jpg .*HEIC.*magick"):
        files.read_image(tmp_path / "0.jpg", 3)


def test_a_class_without_images_says_what_was_skipped(tmp_path):
    write_folder(tmp_path, {"a/0.png": b"", "b/0.txt": b"no"})
    with pytest.raises(FileNotFoundError, match=r"classes b; skipped 1 .*: 0.txt"):
        load(tmp_path)


def test_held_out_images_are_of_each_class_but_the_only_one_of_none(tmp_path):
    counts = {"a": 31, "b": 10, "c": 9, "d": 2, "e": 1, "f": 1}
    names = [f"train/{k}/{i}.png" for k, count in counts.items() for i in range(count)]
    data = load(write_folder(tmp_path, dict.fromkeys(names, b"")))
    assert data.validation.labels.bincount(minlength=6).tolist() == [3, 1, 1, 1, 0, 0]
    assert data.train.labels.bincount().tolist() == [28, 9, 8, 1, 1, 1]
    assert torch.equal(load(tmp_path).validation.labels, data.validation.labels)


def test_many_images_of_many_classes_are_parted_and_named_at_once():
    """With a pass over all images for each class, a million took half a minute."""
    labels = torch.arange(2_000).repeat_interleave(100)
    paths = [f"photos/{label:05}/{i}.png" for i, label in enumerate(labels.tolist())]
    began = time.process_time()
    left, held_out = data_module.stratified(labels)
    names = data_module.name_keys(paths)
    assert time.process_time() - began < 1  # 0.2; it was 8
    assert labels[held_out].bincount().tolist() == [10] * 2_000
    assert torch.cat((left, held_out)).sort().values.equal(torch.arange(len(labels)))
    assert names[7] == data_module.name_keys(["a/00000/7.png", "a/2"])[0]


def test_no_two_images_of_a_class_leave_nothing_to_validate_on(tmp_path):
    write_folder(tmp_path, {"a/0.png": b"", "b/0.png": b""})
    with pytest.raises(ValueError, match="one training image of each class: add"):
        load(tmp_path)


@pytest.mark.parametrize(
    "parts, counts, notes",
    [
        (("train", "val", "test"), (20, 10, 10), 0),
        (("Train", "Valid", "Testing"), (20, 10, 10), 0),
        (("train", "test"), (18, 2, 10), 1),
        (("train", "val"), (20, 10, None), 1),
        (("train",), (18, 2, None), 2),
        ((".",), (18, 2, None), 2),
    ],
)
def test_layouts(tmp_path, parts, counts, notes):
    names = {}
    for part in parts:
        for i in range(10 if part in (".", *parts[:1]) else 5):
            names |= {f"{part}/car/{i}.png": b"", f"{part}/train/{i}.png": b""}
    data = load(write_folder(tmp_path, names))
    found = (data.train, data.validation, data.test)
    assert tuple(split and len(split) for split in found) == counts
    assert data.classes == ("car", "train") and len(data.notes) == notes


def test_images_of_one_size_need_not_be_square(tmp_path):
    names = [f"{k}/{i}.png" for k in "ab" for i in range(3)]
    data = load(write_folder(tmp_path, dict.fromkeys(names, b"")))
    assert data.image_size == data.train.image_size == (4, 6)
    assert "of 3x4x6" in repr(data.train)
    assert next(data.train.batches(2, seed=0))[0].shape == (2, 3, 4, 6)


@pytest.mark.parametrize("limit", [10**9, 1], ids=["in memory", "streamed"])
@pytest.mark.parametrize("size", [(20, 10), (10, 20)])
def test_images_are_brought_to_a_rectangle(tmp_path, monkeypatch, limit, size):
    monkeypatch.setattr(data_module, "MEMORY_LIMIT", limit)
    monkeypatch.setattr(files, "CORES", 1)
    columns = np.zeros((40, 40, 3), np.uint8)
    columns[:, 20:] = 255
    photo = in_bytes(Image.fromarray(columns), "PNG")
    names = [f"{k}/{i}.png" for k in "ab" for i in range(3)]
    write_folder(tmp_path, dict.fromkeys(names, photo))
    data = load(tmp_path, image_size=size)
    assert data.image_size == size
    for split, seed in ((data.train, 0), (data.validation, None)):
        images, _ = next(split.batches(2, seed=seed))
        assert images.shape == (2, 3, *size)
    row = images[0, 0, size[0] // 2]
    middle = size[1] // 2
    assert row[: middle - 2].max() < row.mean() < row[middle + 2 :].min()


def test_a_summary_tells_what_a_folder_holds(tmp_path):
    counts = {"bee": 12, "ant": 30}
    names = [f"train/{k}/{i}.png" for k, count in counts.items() for i in range(count)]
    names += ["test/ant/0.png", "test/bee/0.png", ".DS_Store"]
    said = load(write_folder(tmp_path, dict.fromkeys(names, b""))).summary()
    assert said.splitlines() == [
        "          train  validation        test",
        "ant          27           3           1",
        "bee          11           1           1",
        "all          38           4           2",
        "color, 6 x 4 pixels, in memory",
        "validation: a tenth of the training images of each class",
        "skipped 1 (hidden): .DS_Store",
    ]


def test_a_summary_of_many_classes_shows_the_rarest(tmp_path):
    split = random_split(n=60)
    labels = torch.cat([torch.arange(30), torch.arange(29), torch.tensor([3])])
    split = replace(split, labels=labels)
    names = [f"k{i}" for i in range(30)]
    data = data_module.assemble("many", names, train=split, validation=split)
    lines = data.summary().splitlines()
    assert len(lines) == 1 + data_module.MOST_ROWS + 1 + 1
    assert lines[1].split() == ["k29", "1", "1"]
    assert lines[-3].split() == ["11", "larger", "classes", "23", "23"]
    assert lines[-2].split() == ["all", "60", "60"]


def test_photos_open():
    names = {path.name for path in (DATA / "photos").iterdir()}
    assert {"astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg"} <= names
    for path in (DATA / "photos").glob("*.[jp][pn]g"):
        assert files.read_image(path, 3).shape[0] == 3
