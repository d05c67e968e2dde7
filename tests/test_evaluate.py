"""vitutils evaluate: right numbers on any images, and a line for what goes wrong."""

import csv
import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small import CLASSES, photo, small
from torchvision import models, transforms
from torchvision.transforms import v2

from vitutils.cli import evaluate as command
from vitutils.cli.evaluate import (
    Fed,
    calibration_error,
    indices,
    labelled,
    main,
    measures,
    summary,
)
from vitutils.data import load
from vitutils.data.preprocessing import Preprocessing
from vitutils.data.splits import MemorySplit, StreamedSplit
from vitutils.engine.checkpoints import load_model, save_model
from vitutils.engine.published import PUBLISHED
from vitutils.train import Evaluation, evaluate


def photos(folder, names, each=4, start=0):
    """Write a folder of each class with so many photos; return them, class by class."""
    return [
        [photo(folder / name / f"{k}.png", start + i * each + k) for k in range(each)]
        for i, name in enumerate(names)
    ]


def judged(folder):
    return json.loads((folder / "evaluation.json").read_text())


@pytest.fixture
def weights(tmp_path):
    """The name of a small model's file."""
    small(tmp_path / "best.safetensors")
    return str(tmp_path / "best.safetensors")


def test_a_folder_is_judged_as_by_hand(tmp_path, capsys):
    model, wanted = small(tmp_path / "best.safetensors")
    groups = photos(tmp_path / "photos", sorted(CLASSES), each=9)
    fit = v2.Compose([v2.Resize(20, v2.InterpolationMode.BICUBIC), v2.CenterCrop(16)])
    rows = []
    for label, images in enumerate(groups):
        for image in images:
            pixels = v2.functional.pil_to_tensor(fit(image)).float() / 255
            pixels = v2.functional.normalize(pixels, [*wanted.mean], [*wanted.std])
            with torch.inference_mode():
                chances = model(pixels[None])[0].double().softmax(0)
            rows.append((label, chances))
    answers = [int(chances.argmax()) for _, chances in rows]
    right = [label == answer for (label, _), answer in zip(rows, answers, strict=True)]

    out = tmp_path / "out"
    words = ["--weights", str(tmp_path / "best.safetensors"), "--out", str(out)]
    assert main([str(tmp_path / "photos"), *words]) == 0
    found = judged(out)
    assert found["images"] == 27 and found["classes"] == 3
    assert 0 < sum(right) < 27
    assert found["top1"] == sum(right) / 27
    assert found["top5"] is None  # of three classes
    loss = -sum(math.log(chances[label]) for label, chances in rows) / 27
    assert found["negative_log_likelihood"] == pytest.approx(loss, rel=1e-4)
    for label, one in enumerate(found["per_class"]):
        hits = sum(r for (true, _), r in zip(rows, right, strict=True) if true == label)
        assert one["class"] == sorted(CLASSES)[label]
        assert (one["images"], one["right"]) == (9, hits)
        assert one["recall"] == hits / 9
        calls = answers.count(label)
        assert one["precision"] == (hits / calls if calls else None)
    with open(out / "confusion.csv", newline="", encoding="utf-8") as file:
        head, *lines = csv.reader(file)
    assert head[1:] == [line[0] for line in lines] == sorted(CLASSES)
    for label, line in enumerate(lines):
        mine = answers[9 * label : 9 * label + 9]
        assert [int(n) for n in line[1:]] == [mine.count(k) for k in range(3)]
    assert Image.open(out / "confusion.png").format == "PNG"
    said = capsys.readouterr().out
    assert f"top-1 {sum(right) / 27:.2%}" in said and "recall" in said
    assert f"{out}: evaluation.json, confusion.csv" in said


def test_calibration_is_that_of_the_source():
    def of(chances, labels):
        return calibration_error(torch.tensor(chances).log(), torch.tensor(labels))

    # One bin, (10/15, 11/15]: confidence 0.7, of which half is right.
    assert of([[0.7, 0.3], [0.3, 0.7]], [0, 0]) == pytest.approx(0.2)
    # Two bins, whose gaps do not cancel: 0.05 too modest and 0.7 too sure.
    assert of([[0.95, 0.05], [0.7, 0.3]], [0, 1]) == pytest.approx((0.05 + 0.7) / 2)
    assert of([[1.0, 0.0], [0.0, 1.0]], [0, 1]) == pytest.approx(0, abs=1e-6)
    # Both in (8/15, 9/15], where too modest and too sure cancel.
    both = of([[0.58, 0.42], [0.55, 0.45]], [0, 1])
    assert both == pytest.approx(abs(1 - 0.58 - 0.55) / 2, rel=1e-5)


def test_of_many_classes_those_of_least_recall_are_shown():
    rows = [
        {"class": f"kind {i}", "images": 4, "right": 1, "precision": None, "recall": i}
        for i in range(command.MOST_ROWS + 3)
    ]
    names = ["images", "images_per_second", "top1", "calibration_error"]
    result = dict.fromkeys([*names, "negative_log_likelihood"], 0.5)
    result |= {"data": "x", "part": "test", "top5": None, "classes": len(rows)}
    lines = summary(result | {"per_class": rows[::-1]}).splitlines()
    assert f"The {command.MOST_ROWS} classes of {len(rows)} with least recall:" in lines
    shown = [line.split()[1] for line in lines if line.startswith("kind")]
    assert shown == [*map(str, range(command.MOST_ROWS))]
    few = result | {"per_class": rows[: command.MOST_ROWS]}
    assert "least" not in summary(few) and f"kind {command.MOST_ROWS - 1}" in summary(
        few
    )


def test_five_answers_and_classes_without_images():
    logits = torch.arange(7.0).expand(3, 7)  # the best five: 6, 5, 4, 3, 2
    found = measures(Evaluation.of(logits, torch.tensor([6, 2, 1])), [*"abcdefg"])
    assert found["top1"] == 1 / 3 and found["top5"] == 2 / 3
    per_class = {one["class"]: one for one in found["per_class"]}
    assert per_class["g"]["precision"] == 1 / 3 and per_class["g"]["recall"] == 1
    assert per_class["a"]["precision"] is None and per_class["a"]["recall"] is None


@pytest.mark.slow(3)
def test_images_in_memory_are_judged_as_after_training(tmp_path):
    data = load("fashion_mnist")
    model, wanted = small(
        tmp_path / "best.safetensors",
        channels=1,
        size=28,
        classes=data.classes,
        num_classes=10,
    )
    words = ["--weights", str(tmp_path / "best.safetensors"), "--out", str(tmp_path)]
    assert main(["fashion_mnist", *words, "--split", "validation"]) == 0
    split = replace(data.validation, mean=wanted.mean, std=wanted.std)
    expected = evaluate(model, split)
    found = judged(tmp_path)
    assert found["top1"] == expected.accuracy
    assert found["negative_log_likelihood"] == expected.loss


@pytest.mark.slow(5)
def test_the_books_model_is_as_good_as_is_recorded(root, tmp_path):
    weights = root / "data" / "checkpoints" / "vit_fashion_mnist.safetensors"
    words = ["--weights", str(weights), "--out", str(tmp_path)]
    assert main(["fashion_mnist", *words]) == 0
    found = judged(tmp_path)
    assert found["top1"] == 0.8788
    assert [one["class"] for one in found["per_class"]] == [
        *load("fashion_mnist").classes
    ]
    readme = (weights.parent / "README.md").read_text()
    assert re.search(r"`vit_fashion_mnist` .*\| 87\.9 %", readme)


def of_timm():
    """Return timm's transform of an evaluation for one of its models."""
    config = timm.get_pretrained_cfg("vit_small_patch16_224.augreg_in1k").to_dict()
    return timm.data.create_transform(**timm.data.resolve_data_config(config))


def of_deit():
    """Return what DeiT's datasets.py makes of an image of an evaluation."""
    return transforms.Compose(
        [
            transforms.Resize(int(256 / 224 * 224), interpolation=3),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )


@pytest.mark.slow(2)
@pytest.mark.parametrize(
    ("name", "transform"),
    [
        ("vit_b_16", models.ViT_B_16_Weights.DEFAULT.transforms),
        ("deit_small_distilled_patch16_224", of_deit),
        ("augreg_s_16", of_timm),
    ],
)
def test_photos_become_what_the_publishers_evaluation_makes_of_them(
    root, tmp_path, name, transform
):
    paths = sorted((root / "data" / "photos").glob("*.*g"))
    for i, path in enumerate([*paths, *paths]):  # and the same, of odd sizes
        image = Image.open(path).convert("RGB")
        image = image.resize((427 + i, 333)) if i >= len(paths) else image
        place = tmp_path / "val" / f"class {i % 2}" / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        image.save(place)
    about = PUBLISHED[name]
    wanted = Preprocessing(
        (224, 224), about.mean, about.std, about.crop, about.interpolation
    )
    options = command_line(str(tmp_path / "val"), "--weights", name)
    split = labelled(options, wanted).split
    assert isinstance(split, StreamedSplit)  # which holds no pixels
    ((images, _),) = split.batches(100)
    change = transform()
    for path, image in zip(split.paths, images, strict=True):
        expected = change(Image.open(path))
        torch.testing.assert_close(image, expected, atol=2e-6, rtol=0)


def command_line(*words):
    """Return the options of a command line."""
    caught = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "run", lambda options: caught.append(options) or 0)
        main(words)
    return caught[0]


def test_classes_go_by_name_or_else_by_order(capsys):
    def of(classes, known):
        return indices(classes, known, command_line("photos", "--weights", "w"))

    assert of(["cat", "owl"], ["owl", "dog", "cat"]) == [2, 0]
    assert capsys.readouterr().err == ""
    assert of(["n01", "n02"], ["tench", "goldfish"]) == [0, 1]
    assert capsys.readouterr().err.count("\n") == 1
    assert of(["cat", "owl"], range(2)) == [0, 1]
    assert "have no names" in capsys.readouterr().err
    twice = ["crane", "crane"]  # as ImageNet has it, of a bird and a machine
    assert of(["crane", "cranium"], twice) == [0, 1]
    with pytest.raises(ValueError, match=r"photos has 2 classes .* w tells apart 3"):
        of(["cat", "emu"], ["owl", "dog", "cat"])


def test_labels_are_the_models_whatever_the_folders_order(tmp_path):
    small(tmp_path / "best.safetensors", classes=("owl", "dog", "cat"))
    photos(tmp_path / "photos", ["cat", "owl"])
    words = ["--weights", str(tmp_path / "best.safetensors"), "--out", str(tmp_path)]
    assert main([str(tmp_path / "photos"), *words]) == 0
    found = [(one["class"], one["images"]) for one in judged(tmp_path)["per_class"]]
    assert found == [("owl", 4), ("dog", 0), ("cat", 4)]


def test_a_class_with_a_strange_name_is_known_by_it(tmp_path, capsys):
    names = ["a\nb", os.fsdecode(b"caf\xe9")]
    photos(tmp_path / "photos", names)
    told = Preprocessing(
        (8, 8), (0.5,) * 3, (0.5,) * 3, classes=("caf\\udce9", "a\\nb")
    )
    options = command_line(str(tmp_path / "photos"), "--weights", "w")
    classes = labelled(options, told).classes
    capsys.readouterr()
    assert indices(classes, told.classes, options) == [1, 0]
    assert capsys.readouterr().err == ""


def test_the_part_is_the_test_or_what_there_is(tmp_path, weights, capsys):
    folder = tmp_path / "photos"
    wanted = small(tmp_path / "best.safetensors").preprocessing

    def count(*words):
        options = command_line(str(folder), "--weights", weights, *words)
        return len(labelled(options, wanted).split)

    photos(folder / "train", CLASSES, 5)
    photos(folder / "val", CLASSES, 3)
    assert count() == 9
    photos(folder / "test", CLASSES, 2)
    assert count() == 6
    assert [count("--split", p) for p in ("train", "validation")] == [15, 9]
    assert capsys.readouterr().err == ""


def held_out(folder, weights):
    """Return the images, labels and paths that are judged as held out."""
    options = command_line(str(folder), "--weights", weights, "--split", "validation")
    split = labelled(options, Preprocessing((8, 8), (0.0,) * 3, (1.0,) * 3)).split
    return *next(split.batches(99)), {*split.paths}


JUDGED = "--split validation judges those that were held out"


def test_a_part_that_training_held_out_is_the_same_here(tmp_path, weights, capsys):
    folder = tmp_path / "photos"
    photos(folder, CLASSES, each=12)
    kept = load(folder, image_size=8).validation
    (images, labels, _), (_, expected) = (
        held_out(folder, weights),
        next(kept.batches(9)),
    )
    assert torch.equal(labels, expected) and len(labels) == 3
    torch.testing.assert_close(images, kept.images / 255)
    assert "does not tell which images" in capsys.readouterr().err
    assert main([str(folder), "--weights", weights]) == 0
    assert JUDGED in capsys.readouterr().err


@pytest.mark.slow(1)
@pytest.mark.parametrize("part", ["", "train"])
def test_what_was_held_out_is_judged_whatever_became_of_the_folder(
    tmp_path, weights, capsys, part
):
    folder = tmp_path / "photos"
    photos(folder / part, CLASSES, each=12)
    data = load(folder, image_size=16)
    model = load_model(weights)
    save_model(model, weights, data.preprocessing, data.held_out)
    *_, first = held_out(folder, weights)
    assert capsys.readouterr().err == "" and len(first) == 3
    assert main([str(folder), "--weights", weights]) == 0
    assert JUDGED in capsys.readouterr().err
    gone, changed, *_ = sorted(first)
    photos(folder / part, CLASSES, each=15, start=99)
    for i, name in enumerate(sorted(CLASSES)):  # as they were, but for new ones
        for k in range(12):
            photo(folder / part / name / f"{k}.png", 12 * i + k)
    moved = folder.rename(tmp_path / "moved")
    *_, found = held_out(moved / part, weights)
    assert {path.replace("moved", "photos") for path in found} == first
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "of 3 images held out 0 are gone or changed, and of 36 in all" in err
    assert "there are 45 now" in err
    for path, size in ((gone, None), (changed, (40, 40))):
        place = Path(path.replace("photos", "moved"))
        place.unlink() if size is None else photo(place, 0, size)
    assert len(held_out(moved, weights)[2]) == 1
    assert "held out 2 are gone or changed" in capsys.readouterr().err
    photos(tmp_path / "others", CLASSES, each=20, start=500)
    words = [str(tmp_path / "others"), "--weights", weights]
    assert main(words) == 0  # another folder: all of it is new to the model
    assert capsys.readouterr().err == ""
    assert main([*words, "--split", "validation"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "none of the 3 images that the training" in err


def test_other_sizes_and_channels_are_converted():
    gray = torch.randint(256, (5, 1, 6, 6), dtype=torch.uint8)
    split = MemorySplit(labels=torch.tensor([0, 1, 1, 0, 1]), images=gray)
    split = replace(split, mean=(0.3,), std=(0.2,))
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    counted = torch.tensor([2, 0])  # what the model calls the split's classes
    for size in (6, 12):
        fed = Fed(split, counted, Preprocessing((size, size), mean, std))
        (first, _) = fed.batches(3, device="cpu")
        images, labels = first
        assert labels.tolist() == [2, 0, 0]
        change = v2.Resize((size, size)) if size != 6 else v2.Identity()
        expected = change(gray[:3].float() / 255).expand(-1, 3, -1, -1)
        expected = v2.functional.normalize(expected, [*mean], [*std])
        torch.testing.assert_close(images, expected, atol=1e-5, rtol=0)


def test_another_librarys_model_is_judged_too(tmp_path, capsys):
    file = tmp_path / "squeezed.pth"
    torch.save(models.squeezenet1_1(num_classes=3).state_dict(), file)
    photos(tmp_path / "photos", CLASSES, each=1)
    words = ["--weights", "torchvision/squeezenet1_1", "--file", str(file)]
    assert main([str(tmp_path / "photos"), *words]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("3 images") and "have no names" in err


def test_bad_input_is_a_line_that_says_what_to_do(tmp_path, weights, capsys):
    photos(tmp_path / "photos", CLASSES)
    photos(tmp_path / "four", ["a", "b", "c", "d"])
    photos(tmp_path / "torn", CLASSES)
    for name in ("dog/0.png", "owl/1.png"):
        (tmp_path / "torn" / name).write_bytes(b"torn")
    (tmp_path / "empty").mkdir()
    state = load_file(weights)
    state["head.bias"][0] = math.nan
    broken = str(tmp_path / "broken.safetensors")
    with safe_open(weights, framework="pt") as file:
        save_file(state, broken, file.metadata())
    ours = ["--weights", weights]
    for words, said in (
        (["photos"], "give --weights: a file"),
        (
            ["nowhere", *ours],
            r"nowhere is neither a folder of images nor one of the datasets fash",
        ),
        (["empty", *ours], "empty"),
        (["four", *ours], r"four has 4 classes \(a, b, c and 1 more\), .* apart 3"),
        (["fashion_mnist", *ours], "fashion_mnist has 10 classes"),
        (["torn", *ours], r"2 files cannot .*dog/0.png \(.*\); .*owl/1.png \(.*\): re"),
        (["best.safetensors", *ours], "best.safetensors is a file, which is neither"),
        (["photos", *ours, "--split", "test"], "has no part test, but train"),
        (["photos", "--weights", broken], "answers with NaN or infinity"),
    ):
        name = words[0] if words[0] == "fashion_mnist" else str(tmp_path / words[0])
        assert main([name, *words[1:]]) == 1
        err = capsys.readouterr().err
        last = err.splitlines()[-1]
        assert re.search(said, last), err
        assert not [line for line in err.splitlines() if "Traceback" in line]


def test_nothing_is_left_of_a_result_that_cannot_be_written(tmp_path, weights, capsys):
    photos(tmp_path / "photos", CLASSES)
    (tmp_path / "file").touch()
    words = ["--weights", weights, "--out", str(tmp_path / "file")]
    with pytest.raises(SystemExit):
        main([str(tmp_path / "photos"), *words])
    assert (tmp_path / "file").read_bytes() == b""
    assert "file" in capsys.readouterr().err
