"""Shards: tar archives of images, learned from and judged as folders are."""

import gzip
import io
import json
import os
import pickle
import re
import tarfile
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from small import CLASSES, small
from test_processes import in_two

from vitutils.cli import evaluate
from vitutils.data import datasets, files, load
from vitutils.data.shards import content, scan_shards, size_of
from vitutils.data.splits import MemorySplit, StreamedSplit
from vitutils.engine.checkpoints import load_model, save_model
from vitutils.engine.large_step import LargeStep, evaluate_together
from vitutils.engine.precision import MixedPrecision
from vitutils.train import fit
from vitutils.vit import VisionTransformer


def write_shard(path, members):
    """Write (name, bytes) to a tar file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, held in members:
            (about := tarfile.TarInfo(name)).size = len(held)
            tar.addfile(about, io.BytesIO(held))
    return path


def sample(number, label, folder=""):
    """Return the members of an image of one even gray, which tells its number."""
    file = io.BytesIO()
    files.Image.fromarray(np.full((16, 16, 3), number, np.uint8)).save(file, "PNG")
    key = f"{folder}{number:04}"
    return [(f"{key}.png", file.getvalue()), (f"{key}.cls", f"{label}".encode())]


def write_shards(folder, counts=(("train", 40), ("val", 9)), names=(*CLASSES,)):
    """Write parts in shards of ten samples; return the numbers of each part."""
    number, numbers = 0, {}
    for part, count in counts:
        numbers[part] = range(number, number := number + count)
        for first in numbers[part][::10]:
            some = [n for n in range(first, first + 10) if n in numbers[part]]
            found = [m for n in some for m in sample(n, names[n % 3], "photos.of/")]
            write_shard(folder / part / f"{first:05}.tar", found)
    return numbers


def numbers_in(batches, split):
    """Return the number of each image, and its label."""
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (split.mean, split.std))
    found = []
    for images, labels, *_ in batches:
        grays = (images * std + mean)[:, 0, 8, 8] * 255
        found += zip(grays.round().int().tolist(), labels.tolist(), strict=True)
    return found


@pytest.mark.parametrize("limit", [10**9, 1000], ids=["in memory", "streamed"])
def test_each_sample_comes_once_with_its_class(tmp_path, monkeypatch, limit):
    monkeypatch.setattr(datasets, "MEMORY_LIMIT", limit)
    monkeypatch.setattr(files, "CORES", 1)
    numbers = write_shards(tmp_path)
    data = load(tmp_path, image_size=16)
    assert isinstance(data.train, StreamedSplit if limit == 1000 else MemorySplit)
    assert data.classes == tuple(sorted(CLASSES))
    for split, part in ((data.train, "train"), (data.validation, "val")):
        expected = {(n, data.classes.index(CLASSES[n % 3])) for n in numbers[part]}
        found = numbers_in(split.batches(7), split)
        assert {*found} == expected and len(found) == len(expected)
    # Two processes, and one that goes on after a batch.
    order = {"batch_size": 8, "seed": 1, "epoch": 3}
    split = datasets.replace(data.train, augment=None)
    halves = [split.micro_batches(**order, parts=2, mine=[k]) for k in (0, 1)]
    seen = Counter(n for half in halves for n, _ in numbers_in(half, split))
    assert seen == Counter(numbers["train"])
    rest = numbers_in(split.batches(**order, start=1), split)
    assert rest == numbers_in(split.batches(**order), split)[8:]


def test_classes_that_are_numbers_keep_their_order(tmp_path):
    write_shards(tmp_path, names=("2", "10", "1"))
    assert load(tmp_path).classes == ("1", "2", "10")


def test_a_sample_is_what_stands_before_the_first_dot(tmp_path):
    png = [sample(number, "")[0][1] for number in range(5)]
    members = [
        ("x/1.cls", b"cat\n"),
        ("x/1.PNG", png[0]),
        ("x/1.json", b"{}"),
        ("x/1.mask.png", b"mask"),
        ("x/._1.png", b"what macOS adds"),
        ("y/1.png", png[1]),  # another one: its folder counts
        ("y/1.cls", b"dog"),
        ("y/2.png", png[2]),
        ("y/3.png", png[3]),
        ("y/3.cls", b" "),
        ("y/4.other.cls", b"cat"),
        ("y/4.png", png[4]),
    ]
    path = str(write_shard(tmp_path / "a.tar", members))
    with tarfile.open(path, "a") as tar:
        for name, kind in (("x/5.png", tarfile.DIRTYPE), ("x/6.png", tarfile.SYMTYPE)):
            (about := tarfile.TarInfo(name)).type = kind
            tar.addfile(about)
    skipped = defaultdict(list)
    found = scan_shards([path], files.has_ending, skipped)
    assert found == {"cat": [f"{path}/x/1.PNG"], "dog": [f"{path}/y/1.png"]}
    assert skipped == {
        "without a class": [f"{path}/y/{number}.png" for number in (2, 3, 4)],
        "beside the image of a sample": [f"{path}/x/1.mask.png"],
    }
    read = [*found["cat"], *found["dog"], *skipped["without a class"]]
    for member, held in zip(read, png, strict=True):
        for same in (member, pickle.loads(pickle.dumps(member))):
            assert content(same).read() == held and size_of(same) == len(held)
    assert content(path) == path and size_of(path) == os.path.getsize(path)


def test_of_two_images_or_classes_none_is_chosen(tmp_path):
    (image, png), (label, name) = sample(7, "cat")
    for more, said in (
        (
            [("0007.webp", png)],
            "0007 has several images, 0007.png and 0007.webp: leave",
        ),
        ([(image, png)], "0007 has several images, 0007.png and 0007.png: leave"),
        ([(label, b"dog")], "0007 has several files KEY.cls"),
    ):
        members = [*sample(1, "dog"), (image, png), (label, name), *more]
        path = str(write_shard(tmp_path / "a.tar", members))
        with pytest.raises(ValueError, match=f"{path}: the sample {said}"):
            scan_shards([path], files.has_ending, defaultdict(list))


def test_what_an_archive_holds_is_read_once(tmp_path, monkeypatch):
    members = [
        *sample(1, "cat"),
        *sample(2, "dog"),
        ("2.mask.png", b""),
        sample(3, 0)[0],
    ]
    path = write_shard(tmp_path / "a.tar", members)
    opened, open_it = [], tarfile.open
    monkeypatch.setattr(
        tarfile, "open", lambda *args: opened.append(args) or open_it(*args)
    )

    def scanned():
        opened.clear()
        skipped = defaultdict(list)
        found = scan_shards([str(path)], files.has_ending, skipped)
        read = {name: [content(m).read() for m in found[name]] for name in found}
        return found, skipped, read

    first = scanned()
    assert len(opened) == 1 and len(first[1]) == 2
    assert scanned() == first and not opened
    (index,) = set(tmp_path.iterdir()) - {path}
    assert index.name.startswith(".")
    # Another archive of the same name, and whatever else the file may hold.
    write_shard(path, [*sample(4, "owl"), *members])
    second = scanned()
    assert opened and [*second[0]] == ["cat", "dog", "owl"]
    kept, rows = json.loads(index.read_text())
    for spoiled in (
        index.read_text()[:-9],
        "[]",
        "[" * 10**5,
        json.dumps([kept, [["1.png", 0, 10**15, "cat"]]]),
        json.dumps([kept, [["1.png", -1, 10, "cat"]]]),
        json.dumps([kept, [["1.png", "0", 10, ["cat"]]]]),
        json.dumps([[0, *kept[1:]], rows[:1]]),
        json.dumps([[*kept[:2], kept[2] + 1], rows[:1]]),
    ):
        index.write_text(spoiled)
        index.with_name(f"{index.name}.1").touch()  # of a process that died here
        assert scanned() == second and opened
        assert {*tmp_path.iterdir()} == {path, index}
        assert scanned() == second and not opened
    # A folder that cannot be written to.
    index.unlink()

    def refused(*_, **__):
        raise PermissionError

    monkeypatch.setattr(type(path), "write_text", refused)
    assert scanned() == second and opened and [*tmp_path.iterdir()] == [path]


@pytest.mark.slow(4)
def test_two_processes_learn_from_each_sample_once_an_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "MEMORY_LIMIT", 0)
    monkeypatch.setattr(files, "CORES", 1)
    (tmp_path / "runs").mkdir()
    numbers = write_shards(tmp_path / "photos", counts=[("train", 41), ("val", 9)])

    def work(_):
        data = load(tmp_path / "photos", image_size=16)
        train = datasets.replace(data.train, augment=None)
        seen = []

        def loss_fn(logits, labels, images):
            seen.append(numbers_in([(images, labels)], train))
            return torch.nn.functional.cross_entropy(logits, labels)

        data = datasets.replace(data, train=train)
        torch.manual_seed(0)
        model = VisionTransformer(
            image_size=16,
            patch_size=8,
            num_classes=3,
            embed_dim=8,
            depth=1,
            num_heads=1,
            mlp_dim=8,
        )
        settings = {"epochs": 2, "batch_size": 8, "device": "cpu", "progress": False}
        fit(model, data, step=LargeStep, loss_fn=loss_fn, **settings)
        amp = MixedPrecision("fp32", torch.device("cpu"))
        judged = evaluate_together(model, data.validation, amp)
        return {
            "seen": seen,
            "labels": judged.labels,
            "expected": data.validation.labels,
        }

    both = in_two(tmp_path / "runs", work)
    classes = sorted(CLASSES)
    expected = {(n, classes.index(CLASSES[n % 3])): 1 for n in numbers["train"]}
    for epoch in range(2):
        steps = [half["seen"][6 * epoch :][:6] for half in both]
        assert all(len(half) == 6 for half in steps)
        assert Counter(
            n for half in steps for step in half[:5] for n in step
        ) + Counter(steps[0][5]) == Counter(
            expected
        )  # the last batch is one image: the second's counts 0
    for half in both:
        assert torch.equal(half["labels"], half["expected"])


@pytest.mark.parametrize(
    "names, order",
    [
        (("10", "cat", "2"), ["10", "2", "cat"]),
        (("10", "\u00b2", "2"), ["10", "2", "\u00b2"]),  # a digit, but no number
        (("dog", "owl", "cat"), ["cat", "dog", "owl"]),
    ],
)
def test_classes_are_in_alphabetical_order_unless_all_are_numbers(
    tmp_path, names, order
):
    members = [m for n, name in enumerate(names) for m in sample(n, name)]
    path = str(write_shard(tmp_path / "a.tar", members))
    assert [*scan_shards([path], files.has_ending, defaultdict(list))] == order


def test_what_was_held_out_of_shards_is_judged(tmp_path, capsys):
    write_shards(tmp_path / "photos", counts=[("train", 40)])
    small(weights := tmp_path / "best.safetensors")
    data = load(tmp_path / "photos")
    save_model(load_model(weights), weights, data.preprocessing, data.held_out)
    words = [str(tmp_path / "photos"), "--weights", str(weights)]
    assert evaluate.main([*words, "--split", "validation"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{len(data.validation)} images") and err == ""


@pytest.mark.timeout(60)
def test_what_is_wrong_with_shards_is_said_in_a_line(tmp_path):
    good = [*sample(1, "cat"), *sample(2, "dog")]
    whole = write_shard(tmp_path / "whole.tar", good).read_bytes()
    bare = [member for member in good if member[0].endswith("png")]
    latin = [*good[:3], ("2.cls", "tr\u00fcb".encode("latin-1"))]
    torn = [("1.png", b"torn"), *good, ("1.cls", b"cat")]
    (back := tarfile.TarInfo("1.png")).size = -512  # it ends where it begins
    back = tarfile.TarInfo("0.cls").tobuf() + back.tobuf(tarfile.GNU_FORMAT)
    for number, (name, held, said) in enumerate(
        [
            ("a.tar", whole[:700], "a.tar is not a whole tar file"),
            ("a.tar", whole[:2148], "after 2,048 bytes it is cut or broken"),
            ("a.tar", whole[:2048], "after 2,048 bytes it is cut or broken"),
            ("a.tar", whole[:2048] + b"x" + whole[2049:], "2,048 bytes it is cut or"),
            ("a.tar", b"\x1f\x8b" + whole, "a.tar is not a whole tar file"),
            ("a.tar", gzip.compress(whole), "whole tar file, without compression"),
            ("a.tar", latin, "a.tar is not a whole tar file"),
            ("a.tar", back + whole, "a.tar is not a whole tar file"),
            ("a.tar", bare, "none of its images KEY.jpg has a file KEY.cls"),
            ("a.tar", torn, r"a.tar/1.png cannot be read as an image"),
            ("a.tar", sample(1, "cat"), "one class alone, cat"),
            ("x-train-0.tar", good, "shards of train and validation side by side"),
        ]
    ):
        folder = tmp_path / f"{number}"
        if isinstance(held, bytes):
            folder.mkdir()
            (folder / name).write_bytes(held)
        else:
            write_shard(folder / name, held)
        if "train" in name:
            write_shard(folder / "x-val-0.tar", held)
        with pytest.raises((ValueError, RuntimeError)) as error:
            load(folder)
        assert re.search(said, str(error.value)) and "\n" not in str(error.value)


@pytest.mark.timeout(10)
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="makes pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    archive = write_shard(tmp_path / "a.tar", [*sample(1, "cat"), *sample(2, "dog")])
    os.mkfifo(tmp_path / ".a.tar.index.json")
    assert [*scan_shards([f"{archive}"], files.has_ending, {})] == ["cat", "dog"]
    os.mkfifo(tmp_path / "b.tar")
    with pytest.raises(ValueError, match=r"b\.tar is not a whole tar file.* regular"):
        load(tmp_path)


def test_an_archive_beside_folders_of_classes_is_none_of_the_data(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in (1, 2):
            (tmp_path / name / f"{number}.png").write_bytes(sample(number, 0)[0][1])
    write_shard(tmp_path / "backup.tar", sample(9, "owl"))
    data = load(tmp_path)
    assert data.classes == ("cat", "dog") and "backup.tar" in data.summary()
