"""python -m vitutils train: its options, presets, files and errors."""

import inspect
import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partialmethod
from typing import Literal

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from small import small
from torch import nn

import vitutils
from experiments import cifar10
from vitutils import processes
from vitutils.__main__ import main as main_of_all
from vitutils.cli import predict
from vitutils.cli.options import dashed, explained, how_to_read
from vitutils.cli.parts import CROPS, DROP, VIT, load_data, make_model
from vitutils.cli.presets import PRESETS
from vitutils.cli.train import main, not_learned, options_of, told, told_before_the_end
from vitutils.data import DATA, datasets, load
from vitutils.data.preprocessing import Preprocessing
from vitutils.data.splits import StreamedSplit
from vitutils.deit import DistilledVisionTransformer
from vitutils.distill import ConvNet
from vitutils.engine.checkpoints import load_model, load_state, save_model, save_state
from vitutils.engine.exported import held_out_of
from vitutils.engine.folder_run import FolderRun
from vitutils.engine.published import PUBLISHED, Published
from vitutils.engine.weights import load_weights
from vitutils.mlp import MLP
from vitutils.pretrained import resize_positions
from vitutils.train import evaluate
from vitutils.vit import VisionTransformer

SHORT = ["--epochs=2", "--batch-size=16", "--lr=1e-2", "--device=cpu"]
TINY = [
    *SHORT,
    "--patch-size=4",
    "--embed-dim=16",
    "--depth=1",
    "--num-heads=2",
    "--mlp-dim=32",
]
NET = [*SHORT, "--model", "convnet", "--widths", "4", "4"]

TOLD = Preprocessing((8, 8), (0.5,) * 3, (0.25,) * 3)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Two classes of 8x8 pixels: the upper or the lower half is bright."""
    root = tmp_path_factory.mktemp("halves")
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 40), ("test", 11)):
        for name in ("lower", "upper"):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(100, (8, 8, 3), generator=generator)
                pixels[slice(0, 4) if name == "upper" else slice(4, 8)] += 120
                image = Image.fromarray(pixels.to(torch.uint8).numpy())
                image.save(root / part / name / f"{i}.png")
    return root


@pytest.fixture(scope="session")
def teacher(folder):
    path = folder / "teacher"
    options = ["--folder", str(path), *TINY, "--epochs", "15"]
    assert main(["--data", str(folder), *options]) == 0
    return path / "best.safetensors"


def test_a_run_keeps_its_best_weights_and_its_result(folder, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["--data", str(folder), "--folder", str(run), "--seed", "1", *TINY]
    assert main(words) == 0
    result = json.loads((run / "result.json").read_text())
    assert result["options"]["seed"] == 1
    assert result["processes"] == 1
    assert [row["epoch"] for row in result["history"]] == [1, 2]
    assert all(row["images_per_second"] > 0 for row in result["history"])
    assert all(0 < row["waiting"] < 1 for row in result["history"])
    best = load_model(run / "best.safetensors")
    assert isinstance(best, VisionTransformer)
    told = load_weights(run / "best.safetensors").preprocessing
    assert told == load(folder).preprocessing and told.classes == ("lower", "upper")
    assert result["test_accuracy"] == evaluate(best, load(folder).test).accuracy
    said = capsys.readouterr().out
    assert "of the test images" in said
    *_, line = said.splitlines()
    *command, photo, _, weights = shlex.split(line)
    assert (command, photo) == (["vitutils", "predict"], "PHOTO")
    assert predict.main([str(folder / "test/upper/0.png"), "--weights", weights]) == 0
    assert "upper" in capsys.readouterr().out
    assert main(words) == 1
    assert (
        "resume it (resume=True, or --resume in the command line)"
        in capsys.readouterr().err
    )
    assert main([*words, "--resume"]) == 0


def test_a_run_goes_on_with_its_own_options_alone(folder, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(folder, other, ignore=lambda *_: ["teacher"])
    words = ["--data", str(folder), "--folder", str(tmp_path / "run"), *TINY]
    assert main(words) == 0
    before = (tmp_path / "run" / "result.json").read_text()
    for changed, error in (
        (["--images", "50"], "has images 72, not 50"),
        (["--mixup", "0.8"], "has mixup 0.0, not 0.8"),
        (["--embed-dim", "32"], "has embed_dim 16, not 32"),
        (["--data", str(other)], f"has data {folder.name}, not other"),
        (
            ["--repeats=3", "--lr=1", "--depth=2", "--seed=5", "--average=0.9"],
            "has lr 0.01, not 1.0; seed 0, not 5; average 0.0, not 0.9; depth 1, not "
            "2; repeats 1, not 3: resume",
        ),
    ):
        assert main([*words, *changed, "--resume"]) == 1
        assert error in capsys.readouterr().err
    assert main([*words[:4], *NET, "--resume"]) == 1
    assert "has model VisionTransformer, not ConvNet" in capsys.readouterr().err
    assert (tmp_path / "run" / "result.json").read_text() == before


def test_a_run_goes_on_without_being_told_again(folder, tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    assert main([str(folder), "--folder", str(run), *TINY, "--epochs", "3"]) == 0
    whole = (run / "best.safetensors").read_bytes()
    shutil.rmtree(run)
    with monkeypatch.context() as patch:
        patch.setattr(FolderRun, "one_is_to_stop", lambda run: run.step == 7)
        assert main([str(folder), "--folder", str(run), *TINY, "--epochs", "3"]) == 130
    capsys.readouterr()
    assert main(["--folder", str(run), "--resume", "--lr", "2"]) == 1
    assert "has lr 0.01, not 2.0: resume" in capsys.readouterr().err
    assert main(["--folder", str(run), "--resume"]) == 0
    assert (run / "best.safetensors").read_bytes() == whole
    words = json.loads((run / "result.json").read_text())["command"]
    assert f"train {folder} --folder {run}" in words
    for wrong in (None, "train", [3]):
        save_state(load_state(run / "last.pt") | {"arguments": wrong}, run / "last.pt")
        assert main(["--folder", str(run), "--resume"]) == 1
        said = capsys.readouterr().err
        assert "last.pt is no state of a run (see its arguments)" in said


@pytest.mark.parametrize("words", ["--lr=100", "--lr=1e-30"])
def test_a_run_that_learns_nothing_says_so(folder, tmp_path, capsys, words):
    run = ["--folder", str(tmp_path / "run")]
    assert main([str(folder), *run, *TINY, words, "--clip-norm=inf"]) == 0
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "try a lower --lr than" in err


def test_what_a_run_that_learns_nothing_is():
    labels = torch.tensor([0, 0, 0, 1])

    def of(losses, accuracy):
        rows = [{"train_loss": loss, "val_accuracy": accuracy} for loss in losses]
        return not_learned(rows, labels)

    assert of([2.0, 1.0], 1.0) is None and of([2.0], 1.0) is None
    assert "ended at 2 and began at 2" in of([2.0, 1.0, 2.0], 1.0)
    assert "75.0%, is no more" in of([2.0, 1.0], 0.75)


def test_the_size_of_a_start_is_proposed(teacher, tmp_path, capsys):
    for name, side in (("a/1", 121), ("a/2", 130), ("b/1", 121), ("b/2", 121)):
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, 121)).save(path)
    words = [str(tmp_path / "photos"), "--folder", str(tmp_path / "run"), *SHORT]
    for more, said in (
        (["--init", str(teacher)], "(--image-size 8)"),
        ([], "(--image-size 112)"),
        (["--patch-size", "14"], "(--image-size 112)"),
        (["--patch-size", "10"], "(--image-size 110)"),
    ):
        assert main([*words, *more]) == 1
        err = capsys.readouterr().err
        assert said in err and err.count("\n") == 1


def test_a_runs_folder_stands_for_its_best_model(folder, teacher, tmp_path, capsys):
    run = teacher.parent
    words = [str(folder), "--folder", str(tmp_path / "run"), *SHORT, "--init", str(run)]
    assert main(words) == 0
    assert f"{run} is a run's folder: {teacher} is taken\n" in capsys.readouterr().err
    image = str(folder / "test/upper/0.png")
    assert predict.main([image, "--weights", str(run)]) == 0
    assert capsys.readouterr().err == f"{run} is a run's folder: {teacher} is taken\n"
    for name, said in (
        ("last.pt", "is for --resume: take best.safetensors beside it"),
        ("best.pt2", "is for other programs: take the weights that it was exported"),
        ("best.torchscript", "is for other programs"),
    ):
        assert predict.main([image, "--weights", str(run / name)]) == 1
        assert said in capsys.readouterr().err
    words[-1] = str(run / "best.onnx")
    assert main(words) == 1
    assert "best.onnx is for other programs" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        "--depth=1 --num-heads=5",
        "--epochs=0",
        "--erase=2",
        "--cutmix=-1",
        "--layer-decay=0",
        "--model=convnet --layer-decay=0.5",
        "--model=deit",
        "--teacher=no",
        "--init=no",
    ],
)
def test_options_are_checked_before_the_data_are_read(tmp_path, monkeypatch, words):
    monkeypatch.setattr("vitutils.cli.train.load_data", lambda options: pytest.fail())
    words = ["fashion_mnist", "--folder", str(tmp_path / "run"), *words.split()]
    assert main(words) == 1


def test_a_folder_without_test_images_is_measured_by_validation(
    folder, tmp_path, capsys
):
    run = tmp_path / "run"
    shutil.copytree(folder / "train", tmp_path / "photos")
    words = ["--data", str(tmp_path / "photos"), "--folder", str(run), *TINY]
    assert main([*words, "--image-size", "8x12"]) == 0
    said = capsys.readouterr().out
    assert "lower          36           4" in said.splitlines()
    assert "color, 12 x 8 pixels, in memory" in said
    assert "test: no images" in said
    result = json.loads((run / "result.json").read_text())
    assert "test_accuracy" not in result
    best = max(row["val_accuracy"] for row in result["history"])
    assert f"{best:.2%} of the validation images" in said
    data = load(tmp_path / "photos", image_size=(8, 12))
    assert evaluate(load_model(run / "best.safetensors"), data.validation).accuracy == (
        best
    )
    assert held_out_of(run / "best.safetensors") == data.held_out
    assert main([*words, "--image-size", "8x12", "--resume"]) == 0


def test_a_summary_comes_first_and_skipped_files_once(
    folder, tmp_path, capsys, recwarn
):
    shutil.copytree(folder / "train", tmp_path / "photos")
    (tmp_path / "photos" / "upper" / "IMG.heic").write_bytes(b"\0\0\0\x18ftypheic")
    run = str(tmp_path / "run")
    words = ["--data", str(tmp_path / "photos"), "--folder", run, *TINY]
    assert main(words) == 0
    said = capsys.readouterr()
    assert said.out.index("IMG.heic") < said.out.index("epoch   1/2")
    assert not [w for w in recwarn if "heic" in str(w.message)]


FINE = ["--freeze", "--layer-decay=0.5", "--class-weights=balanced", "--patience=9"]


@pytest.mark.slow(1)
def test_a_fine_tuning_goes_on_bit_by_bit(folder, teacher, tmp_path, monkeypatch):
    words = ["--data", str(folder), *SHORT, "--init", str(teacher), *FINE[1:]]
    assert main([*words, "--folder", str(tmp_path / "whole")]) == 0
    cut = [*words, "--folder", str(tmp_path / "cut")]
    with monkeypatch.context() as patch:
        patch.setattr(FolderRun, "one_is_to_stop", lambda run: run.step == 7)
        assert main(cut) == 130
    assert main([*cut, "--resume", "--layer-decay=0.6"]) == 1
    assert main([*cut, "--resume"]) == 0
    whole, cut = (tmp_path / name / "best.safetensors" for name in ("whole", "cut"))
    assert whole.read_bytes() == cut.read_bytes()


@pytest.mark.parametrize("model", ["vit", "convnet"])
def test_a_frozen_model_learns_with_its_head_alone(folder, tmp_path, model):
    start, run = tmp_path / "start", tmp_path / "run"
    sizes = {"vit": TINY, "convnet": NET}[model]
    words = ["--data", str(folder), *sizes, "--epochs=1"]
    assert main([*words, "--folder", str(start)]) == 0
    init = start / "best.safetensors"
    words = ["--data", str(folder), *SHORT, "--init", str(init), "--freeze"]
    assert main([*words, "--folder", str(run), "--average=0.5"]) == 0
    before, after = load_model(init), load_model(run / "best.safetensors")
    changed = {
        name
        for name, value in after.state_dict().items()
        if not torch.equal(value, before.state_dict()[name])
    }
    assert changed == {"head.weight", "head.bias"}


def test_a_run_ends_where_patience_does(folder, tmp_path, capsys):
    words = ["--data", str(folder), "--folder", str(tmp_path), *TINY]
    words += ["--lr=1e-30", "--epochs=6", "--patience"]  # it learns nothing
    assert main([*words, "2"]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert len(result["history"]) == 3
    assert "no better in 2 epochs: the run ends" in capsys.readouterr().out
    assert main([*words, "2", "--resume"]) == 0
    assert (
        json.loads((tmp_path / "result.json").read_text())["history"]
        == (result["history"])
    )
    assert main([*words, "4", "--resume"]) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    assert len(result["history"]) == 5


@pytest.mark.parametrize("batch", [1, 5000])
def test_rectangles_are_learned_judged_and_drawn(folder, tmp_path, batch, capsys):
    run, maps = str(tmp_path / "run"), tmp_path / "maps"
    words = ["train", str(folder), "--folder", run, "--image-size=8x12", *TINY]
    words += ["--images=7", "--epochs=1", f"--batch-size={batch}"]
    assert main_of_all(words) == 0
    model = load_model(tmp_path / "run" / "best.safetensors")
    assert [*model.config["image_size"]] == [8, 12]
    weights = ["--weights", run]
    assert main_of_all(["evaluate", str(folder), *weights]) == 0
    capsys.readouterr()
    photo = str(folder / "test" / "lower" / "0.png")
    drawn = ["predict", photo, *weights, "--attention", str(maps), "--json"]
    assert main_of_all(drawn) == 0
    answer = json.loads(capsys.readouterr().out)
    chances = [one["probability"] for one in answer["classes"]]
    assert len(chances) == 2 and sum(chances) == pytest.approx(1)
    assert [str(path) for path in maps.iterdir()] == [answer["map"]]


def test_results_are_json_whatever_the_options(folder, tmp_path):
    words = ["--data", str(folder), "--folder", str(tmp_path), *TINY]
    assert main([*words, "--clip-norm", "inf"]) == 0

    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    text = (tmp_path / "result.json").read_text()
    assert json.loads(text, parse_constant=refuse)["options"]["clip_norm"] == "inf"


def test_a_start_takes_the_options_of_training(folder, teacher):
    words = ["--data", str(folder), *SHORT, "--init", str(teacher)]
    model = make_model(options_of([*words, "--stochastic-depth", "0.5"]), load(folder))
    assert model.config["stochastic_depth"] == 0.5
    for name, value in load_model(teacher).state_dict().items():
        assert torch.equal(model.state_dict()[name], value)


@pytest.mark.slow(2)
def test_everything_that_is_optional_at_once(folder, teacher, tmp_path):
    run = tmp_path / "run"
    words = [
        "--model=deit",
        "--crop=resized",
        "--randaugment=9",
        "--erase=0.25",
        "--repeats=3",
        "--mixup=0.8",
        "--cutmix=1.0",
        "--workers=1",
        "--stochastic-depth=0.1",
        "--dropout=0.1",
        "--average=0.9",
        "--accumulate=2",
        "--precision=bf16",
        "--label-smoothing=0.1",
        "--distillation=soft",
    ]
    words += ["--teacher", str(teacher), "--folder", str(run)]
    assert main(["--data", str(folder), *TINY, *words]) == 0
    best = load_model(run / "best.safetensors")
    assert isinstance(best, DistilledVisionTransformer)
    assert best.config["stochastic_depth"] == 0.1
    result = json.loads((run / "result.json").read_text())
    heads = {name for name in result if name.startswith("test_accuracy")}
    assert heads == {
        "test_accuracy",
        "test_accuracy_class_head",
        "test_accuracy_distillation_head",
    }


@pytest.mark.slow(2)
def test_a_student_learns_what_the_teacher_says(folder, teacher, tmp_path):
    """Soft distillation with all of the balance on the teacher never reads a label."""
    words = [
        "--data",
        str(folder),
        "--teacher",
        str(teacher),
        *TINY,
        "--epochs",
        "15",
        "--distillation",
        "soft",
        "--balance",
        "1",
        "--temperature",
        "1",
        "--folder",
        str(tmp_path / "run"),
    ]
    assert main(words) == 0
    test = load(folder).test
    student = evaluate(load_model(tmp_path / "run" / "best.safetensors"), test)
    answers = evaluate(load_model(teacher), test).logits.argmax(1)
    assert 0 < answers.double().mean() < 1
    assert (student.logits.argmax(1) == answers).double().mean() > 0.8


@pytest.mark.slow(3)
def test_a_compiled_model_is_kept_as_the_plain_one(folder, tmp_path, monkeypatch):
    eager = partialmethod(nn.Module.compile, backend="eager")  # traces, no C++
    monkeypatch.setattr(nn.Module, "compile", eager)
    run = tmp_path / "run"
    words = ["--data", str(folder), "--folder", str(run), *TINY, "--epochs", "1"]
    assert main([*words, "--compile"]) == 0
    assert {*load_model(run / "best.safetensors").state_dict()} == {
        *VisionTransformer(image_size=8, patch_size=4, depth=1).state_dict()
    }


def test_a_run_starts_from_a_checkpoint_of_another_size_and_other_classes(
    folder, tmp_path
):
    torch.manual_seed(0)
    first = VisionTransformer(
        image_size=16,
        patch_size=4,
        num_classes=5,
        embed_dim=16,
        depth=1,
        num_heads=2,
        mlp_dim=32,
    )
    told = Preprocessing((16, 16), (0.5,) * 3, (0.25,) * 3)
    save_model(first, tmp_path / "first.safetensors", told)
    options = options_of(
        ["--data", str(folder), *SHORT, "--init", str(tmp_path / "first.safetensors")]
    )
    model = make_model(options, load(folder))
    assert model.config["image_size"] == 8
    assert model.head.out_features == 2
    expected = resize_positions(first.embeddings.pos_embed, (4, 4), (2, 2))
    assert torch.equal(model.embeddings.pos_embed, expected)
    for name, value in first.encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], value)


@pytest.mark.slow(2)
def test_the_study_of_cifar10_runs_commands(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small = "--batch-size 16 --epochs 1"
    tiny = cifar10.STUDIES["cifar10"] | {
        "teacher": f"{small} --model convnet --widths 4 4",
        "student": f"{small} --embed-dim 16 --depth 1",
    }
    monkeypatch.setitem(cifar10.STUDIES, "cifar10", tiny)
    for method in ("teacher", "none", "soft", "hard", "token"):
        task = {"method": method, "seed": 0}
        result = cifar10.train(task, study="cifar10", data=str(folder))
        again = cifar10.train(task, study="cifar10", data=str(folder))
        assert again == result  # it goes on, and there is nothing left to do
        words = result["command"].split()
        assert words[:5] == ["python", "-m", "vitutils", "train", "cifar10"]
        assert ("--teacher" in words) == (method in ("soft", "hard", "token"))
        assert ("test_accuracy_class_head" in result) == (method == "token")
        assert 0 <= result["test_accuracy"] <= 1 and len(result["history"]) == 1


@pytest.mark.parametrize("study", cifar10.STUDIES)
def test_the_record_of_cifar10_is_of_these_runs(study):
    held = json.loads((DATA / "results" / f"{study}.json").read_text())
    assert [row["task"] for row in held["runs"]] == cifar10.tasks(study)
    for name in ("teacher", "student", "methods"):
        assert held["settings"][name] == cifar10.STUDIES[study][name]
    for row in held["runs"]:
        name = f"{row['task']['method']}-{row['task']['seed']}"
        assert f"--seed {row['task']['seed']} " in row["command"]
        assert row["command"].endswith(f"--folder runs/{study}/{name}")
        epochs = int(re.search(r"--epochs (\d+)", row["command"])[1])
        assert len(row["history"]) == epochs


def test_the_best_of_the_study_ship_in_half_precision(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "DATA", tmp_path)
    runs = []
    for method, seed, accuracy in (
        ("none", 0, 0.5),
        ("none", 1, 0.7),
        ("none", 2, 0.6),
        ("token", 0, 0.1),
    ):
        torch.manual_seed(seed)
        cls = VisionTransformer if method == "none" else DistilledVisionTransformer
        model = cls(image_size=8, patch_size=4, embed_dim=16, depth=1, num_heads=2)
        path = tmp_path / f"{method}-{seed}" / "best.safetensors"
        save_model(model, path, TOLD)
        epochs = [{"val_accuracy": accuracy}, {"val_accuracy": 0.1}]
        runs.append({"task": {"method": method, "seed": seed}, "history": epochs})
    cifar10.ship(runs, tmp_path)
    vit, told = load_weights(tmp_path / "checkpoints" / "vit_cifar10.safetensors")
    assert told == TOLD
    best = load_model(tmp_path / "none-1" / "best.safetensors")
    for name, value in best.state_dict().items():
        assert vit.state_dict()[name].dtype == torch.float32
        assert torch.equal(vit.state_dict()[name], value.half().float())
    deit = load_model(tmp_path / "checkpoints" / "deit_cifar10.safetensors")
    assert isinstance(deit, DistilledVisionTransformer)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_set_options_and_each_can_be_overridden(preset):
    more = ["--data", "imagenet"] if "data" not in PRESETS[preset] else []
    options = vars(options_of([preset, *more, "--epochs", "2"]))
    assert options["epochs"] == 2
    for name, value in PRESETS[preset].items():
        if name != "epochs":
            assert options[name] == value


def test_presets_build_the_models_that_they_name(root):
    class Data:
        image_size, in_channels, num_classes = 224, 3, 1000

    words = ["imagenet_deit_small", "--data", "imagenet"]
    small = make_model(options_of(words), Data)
    count = sum(p.numel() for p in small.parameters())
    assert count == 22_050_664  # Touvron et al. (2021), table 1: 22M
    convnet = make_model(options_of([*words, "--model", "convnet"]), Data)
    assert isinstance(convnet, ConvNet)


def test_the_page_of_the_recipe_says_what_the_preset_does(root):
    text = (root / "book" / "recipe.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\|[^|`]*`--([a-z-]+)[^|]*\|[^|]*\| ([^|]*?) \|", text, re.M)
    said = {option.replace("-", "_"): value for option, value in rows}
    words = ["imagenet_deit_small", "--data", "imagenet"]
    does = vars(options_of(words))
    assert said.pop("crop") == "yes" and does["crop"] == "resized"
    assert said.pop("repeats") == "yes" and does["repeats"] == 3
    assert said.pop("warmup") == f"{does['warmup'] * does['epochs']:.0f} epochs"
    assert (said.pop("clip_norm"), does["clip_norm"]) == ("no", float("inf"))
    assert len(said) >= 10
    for name, value in said.items():
        number = 0 if value == "no" else float(value.split(" / ")[0])
        assert does[name] == number, name


def test_deit_crops_as_in_the_paper_also_in_memory(folder):
    words = ["imagenet_deit_small", "--data", str(folder), "--image-size", "8"]
    train = load_data(options_of(words)).train
    assert train.augment.keywords["first"] is CROPS["resized"]
    assert CROPS["resized"].keywords["scale"] == (0.08, 1.0)
    assert train.repeats == 3


def test_a_world_without_a_rank_is_one_process(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")  # some clusters set it for their own ends
    monkeypatch.delenv("RANK", raising=False)
    assert main(["--data", str(folder), "--folder", str(tmp_path), *TINY]) == 0


@pytest.mark.parametrize(
    "words, error",
    [
        ("--epochs 0", "epochs is 0"),
        ("--model deit", "a deit learns from a teacher"),
        ("--teacher nowhere.safetensors", "nowhere.safetensors is no file"),
        ("--randaugment 99", "randaugment 99"),
        ("--embed-dim 15", "2 heads do not divide embed_dim 15"),
        ("--images 99999", "cannot take 99999 of 72 images"),
        ("--distillation soft --balance 2 --teacher TEACHER", "balance 2.0"),
        ("--teacher GRAY", "gray.safetensors knows 3 classes, FOLDER has 2"),
        ("--teacher OLD", "old.safetensors does not say how its images are normalized"),
        ("--teacher TEACHER --teacher-std 1 1 1", "tells its own std"),
        ("--teacher TEACHER --teacher-weights OLD", "weights beside it are for torch"),
        ("--teacher SWAPPED", "has the classes of FOLDER in another order, from upper"),
        ("--weight-decay -1", "weight_decay is -1.0"),
        ("--lr 1e30 --batch-size 999 --epochs 1", "the validation loss is nan"),
        ("--precision fp16 --lr nan", "lr is nan"),
        ("--mixup nan", "mixup nan is not a number"),
        ("--seed -1", "seed is -1"),
        ("--layer-decay 1.5", "layer_decay 1.5 is not in"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    folder, teacher, tmp_path, capsys, words, error
):
    files = {"TEACHER": teacher}
    for name in ("GRAY", "OLD", "SWAPPED"):
        files[name] = tmp_path / f"{name.lower()}.safetensors"
    gray = ConvNet(in_channels=1, num_classes=3, widths=(4, 4))
    save_model(gray, files["GRAY"], Preprocessing((8, 8), (0.5,), (0.25,)))
    save_model(load_model(teacher), files["OLD"])
    swapped = replace(load(folder).preprocessing, classes=("upper", "lower"))
    save_model(load_model(teacher), files["SWAPPED"], swapped)
    for name, path in files.items():
        words = words.replace(name, str(path))
    run = str(tmp_path / "run")
    assert main(["--data", str(folder), "--folder", run, *TINY, *words.split()]) == 1
    captured = capsys.readouterr()
    assert error.replace("FOLDER", folder.name) in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    "words, error",
    [
        ("--init nowhere", "nowhere is no file and none of"),
        ("--init OLD", "old.safetensors does not say how its images are normalized"),
        ("--init TEACHER --mean .5 .5 .5", "tells its own mean"),
        ("--init torchvision/vit_b_15", "no classifier vit_b_15: perhaps vit_b_16"),
        ("--init timm/resnet19", "timm has no resnet19: perhaps resnet"),
        (
            "--init timm/resnet18.x_in1k",
            "timm has no resnet18.x_in1k: perhaps resnet18",
        ),
        ("--init TEACHER --num-heads 4", "tells its heads: leave out --num-heads"),
        ("--init TEACHER --trained-at 9", "tells its image size: leave out --trained"),
        ("--init ODD", "heads unknown at width 24, depth 1: give num_heads"),
        ("--init MLP", "mlp.safetensors holds a MLP, no model of images"),
        ("--init DEIT", "a deit learns from a teacher: give --teacher"),
        ("--init NO_JSON", "no_json.safetensors is not of this version of vitutils"),
    ],
)
def test_what_is_wrong_with_a_start_is_said_in_a_line(
    folder, teacher, tmp_path, capsys, words, error
):
    old, odd = tmp_path / "old.safetensors", tmp_path / "odd.pth"
    save_model(ConvNet(in_channels=3, num_classes=2, widths=(4, 4)), old)
    torch.save(timm_vit().state_dict(), odd)
    mlp, no_json = tmp_path / "mlp.safetensors", tmp_path / "no_json.safetensors"
    told = {"class": "vitutils.mlp.MLP", "config": '{"embed_dim": 2, "mlp_dim": 2}'}
    save_file(MLP(embed_dim=2, mlp_dim=2).state_dict(), mlp, told)
    save_file({}, no_json, told | {"config": "{"})
    small(deit := tmp_path / "deit.safetensors", DistilledVisionTransformer)
    files = {"TEACHER": teacher, "OLD": old, "ODD": odd, "DEIT": deit}
    for name, path in {**files, "MLP": mlp, "NO_JSON": no_json}.items():
        words = words.replace(name, str(path))
    run = str(tmp_path / "run")
    words = ["--data", str(folder), "--folder", run, *SHORT, *words.split()]
    assert main(words) == 1
    captured = capsys.readouterr()
    assert error in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("option", ["--dropout", "--stochastic-depth"])
def test_a_start_that_drops_nothing_takes_no_such_option(
    folder, tmp_path, capsys, option
):
    convnet, size = ConvNet(in_channels=3, num_classes=2, widths=(4, 4)), (8, 8)
    told = Preprocessing(size, (0.5,) * 3, (0.25,) * 3)
    save_model(convnet, start := str(tmp_path / "start.safetensors"), told)
    words = ["--data", str(folder), "--folder", str(tmp_path / "run"), *SHORT]
    words += ["--init", start]
    assert main([*words, option, "0.5"]) == 1
    said = capsys.readouterr().err
    assert f"start.safetensors is a convnet, which has no {option}: leave" in said
    assert said.count("\n") == 1
    assert main([*words, option, "0"]) == 0


def test_workers_decode_what_is_streamed_and_augment_what_is_not(
    folder, tmp_path, monkeypatch
):
    words = ["--data", str(folder), "--image-size=8", *TINY]
    data = load_data(options_of([*words, "--workers=3"]))
    assert (data.train.workers, data.validation.workers) == (3, 0)
    assert load_data(options_of(words)).train.workers == 0
    plain = options_of([*words, "--workers=3", "--crop=none"])
    with pytest.raises(
        ValueError, match=r"augmented \(--crop none\): leave out --work"
    ):
        load_data(plain)
    plain.erase = 0.5
    assert load_data(plain).train.workers == 3
    monkeypatch.setattr(datasets, "MEMORY_LIMIT", 1000)
    for more, expected in ((["--workers=3"], 3), (["--workers=0"], 0), ([], None)):
        data = load_data(options_of([*words, *more]))
        for split in (data.train, data.validation, data.test):
            assert isinstance(split, StreamedSplit) and split.workers == expected
    shutil.copytree(folder / "train", photos := tmp_path / "photos")
    data = load_data(options_of([str(photos), "--image-size=8", "--workers=1"]))
    assert data.test is None and data.validation.workers == 1


def timm_vit():
    """A ViT of timm, which tells no number of heads."""
    return timm.models.VisionTransformer(
        img_size=8, patch_size=4, num_classes=2, embed_dim=24, depth=1, num_heads=3
    )


def test_a_start_takes_what_its_file_does_not_tell(folder, tmp_path):
    torch.manual_seed(0)
    theirs = timm_vit().eval()
    torch.save(theirs.state_dict(), tmp_path / "odd.pth")
    words = ["cifar10", "--data", str(folder), "--init", str(tmp_path / "odd.pth")]
    words += ["--mean", "0.5", "0.4", "0.3", "--std", "0.1", "0.2", "0.3"]
    options = options_of([*words, "--num-heads", "3"])
    assert options.embed_dim is None  # the file's, whatever the preset says
    data = load(folder)
    model = make_model(options, data).eval()
    images, _ = next(data.test.batches(4))
    as_wanted = data.preprocessing.convert(
        images, Preprocessing((8, 8), (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))
    )
    torch.testing.assert_close(model(images), theirs(as_wanted), atol=1e-5, rtol=1e-5)


def test_a_start_and_a_teacher_were_trained_at_sizes_of_their_own(
    folder, tmp_path, capsys
):
    """A file that tells neither heads nor size, and images of another size."""
    torch.manual_seed(0)
    theirs = timm.models.VisionTransformer(
        img_size=(24, 8),
        patch_size=4,
        num_classes=2,
        embed_dim=24,
        depth=1,
        num_heads=3,
    ).eval()
    torch.save(theirs.state_dict(), tmp_path / "odd.pth")
    odd, told = str(tmp_path / "odd.pth"), ["--mean", *[".5"] * 3, "--std", *[".2"] * 3]
    words = ["--data", str(folder), "--init", odd, *told, "--num-heads=3"]
    data = load(folder)
    model = make_model(options_of([*words, "--trained-at=24x8"]), data)
    assert model.config["image_size"] == 8 and model.config["num_heads"] == 3
    with pytest.raises(ValueError, match="in a training --trained-at or --teacher-"):
        make_model(options_of(words), data)
    words = ["--data", str(folder), *TINY, "--folder", str(tmp_path / "run")]
    words += ["--teacher", odd, *[word.replace("--", "--teacher-") for word in told]]
    words += ["--teacher-num-heads=3", "--teacher-trained-at"]
    assert main([*words, "24x8"]) == 0
    assert f"teacher {odd}: images of 24 x 8 pixels" in capsys.readouterr().out
    assert main([*words, "24x8", "--resume", "--teacher-num-heads=4"]) == 1
    assert "has teacher_num_heads 3, not 4" in capsys.readouterr().err


def test_what_a_checkpoint_tells_cannot_be_said_again(folder, teacher, capsys):
    words = ["--data", str(folder), "--init", str(teacher), "--model", "deit"]
    with pytest.raises(SystemExit):
        options_of(words)
    assert "leave out --model" in capsys.readouterr().err


def test_published_weights_answer_as_before_on_images_of_the_data(
    folder, tmp_path, monkeypatch
):
    """Their normalization is folded in: no later reader need know of it."""
    torch.manual_seed(0)
    theirs = timm_vit().eval()
    torch.save(theirs.state_dict(), tmp_path / "toy.pth")
    published = Published("https://example.org/toy.pth")
    monkeypatch.setitem(PUBLISHED, "toy", published)
    monkeypatch.setenv("VITUTILS_WEIGHTS", str(tmp_path))
    words = ["--data", str(folder), "--init", "toy", "--num-heads=3"]
    options = options_of(words)
    data = load_data(options)
    model = make_model(options, data).eval()
    images, _ = next(data.test.batches(4))
    mean, std = torch.tensor([data.mean, data.std]).view(2, 3, 1, 1)
    wanted = torch.tensor([published.mean, published.std]).view(2, 3, 1, 1)
    as_published = (images * std + mean - wanted[0]) / wanted[1]
    torch.testing.assert_close(
        model(images), theirs(as_published), atol=1e-5, rtol=1e-5
    )


def test_each_of_several_processes_says_what_is_wrong(monkeypatch, capsys):
    """A file may be missing on one machine alone, and its first process elsewhere."""
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "rank", lambda: 1)
    assert told(ValueError("no file"), status=1) == 1
    assert capsys.readouterr().err == "process 1: no file\n"


def test_unknown_options_and_those_without_effect_are_refused(capsys):
    for words in (
        [],
        ["cifar11"],
        ["cifar10", "--model", "resnet"],
        ["--epoch", "3"],
        ["cifar10", "--depth", "0"],
        ["cifar10", "--dropout", "9"],
        ["cifar10", "--image-size", "8x8x8"],
        ["cifar10", "--image-size", "8x0"],
        ["cifar10", "--freeze"],
        ["cifar10", "--patience", "0"],
        ["cifar10", "--average", "1"],
        ["cifar10", "--accumulate", "0"],
        ["cifar10", "--teacher", "cnn", "--class-weights", "balanced"],
        ["cifar10", "--distillation", "hard"],  # the teacher is forgotten
        ["cifar10", "--teacher", "cnn", "--balance", "0.5"],
        ["cifar10", "--teacher-weights", "cnn.pth"],
        ["cifar10", "--teacher-mean", "0.5"],
        ["cifar10", "--mean", "0.5"],  # of what?
        ["cifar10", "--widths", "4"],
        ["cifar10", "--model", "convnet", "--depth", "3"],
        ["cifar10", "--init", "a.pth", "--freeze", "--layer-decay", "0.5"],
        ["cifar10", "--folder", __file__],
        [__file__],
        ["cifar100", "--data", "cifar10"],
    ):
        with pytest.raises(SystemExit) as stopped:
            options_of(words)
        assert stopped.value.code == 2
        said = capsys.readouterr().err
        assert said.startswith("vitutils train: ") and said.count("\n") == 1


@pytest.mark.parametrize("command", ["train", "predict", "evaluate", "export"])
def test_an_empty_word_is_refused(command, capsys):
    """A shell passes it on for a variable that is not set; as a path it is here."""
    for words in ([""], ["cifar10", "--weights", ""], ["cifar10", "--folder="]):
        with pytest.raises(SystemExit):
            main_of_all([command, *words])
        assert (
            "is empty: is a variable of the shell not set?" in capsys.readouterr().err
        )


@pytest.mark.parametrize("name", ["x" * 256, "~nobody-of-that-name/x"])
def test_a_name_that_cannot_be_is_a_line(tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        options_of([name])
    assert "is neither a folder nor one of" in capsys.readouterr().err
    assert options_of(["cifar10", "--folder", name]).folder.name == name.split("/")[-1]
    assert main_of_all(["predict", "a.png", "--weights", name]) == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    "words, said",
    [
        (["--resume"], "--folder, which is not given, holds no run to resume"),
        (["--resume", "--folder", "nowhere"], "nowhere holds no run to resume"),
        (["cifar10x", "--data", "cifar10"], "cifar10x is neither a folder nor one of"),
        (["cifar100", "--data", "cifar10"], "cifar100 and --data cifar10 are two data"),
    ],
)
def test_what_the_data_and_the_run_are_is_said_once(capsys, words, said):
    with pytest.raises(SystemExit):
        options_of(words)
    assert said in capsys.readouterr().err


def test_a_run_does_not_become_a_class(folder, tmp_path, monkeypatch, capsys):
    photos = shutil.copytree(folder / "train", tmp_path / "photos")
    monkeypatch.chdir(photos)
    assert options_of(["."]).folder.name == "photos-vit"
    for words in ([".", *TINY], [str(photos), "--folder", "lower/run", *TINY]):
        assert main(words) == 1
        assert "lies among the classes of" in capsys.readouterr().err
    assert sorted(path.name for path in photos.iterdir()) == ["lower", "upper"]
    parted = shutil.copytree(folder, tmp_path / "parted")  # no folder of classes
    assert main([str(parted), "--folder", str(parted / "run"), *TINY]) == 0


def test_options_of_one_kind_of_model_are_refused_for_another(capsys):
    sizes = dict.fromkeys(VIT, "8") | dict.fromkeys((*DROP, "norm_eps"), "0.5")
    kinds = {"--model=convnet": sizes}
    kinds |= {kind: {"widths": "8"} for kind in ("--model=vit", "--model=deit")}
    told = {k: v for k, v in sizes.items() if k not in ("num_heads", *DROP)}
    kinds["--init=start"] = told | {"widths": "8", "model": "vit"}
    for kind, options in kinds.items():
        for name, value in options.items():
            with pytest.raises(SystemExit) as stopped:
                options_of(["cifar10", kind, dashed(name), value])
            assert stopped.value.code == 2
            said = capsys.readouterr().err
            assert dashed(name) in said and "leave" in said and said.count("\n") == 1


def test_help_explains_every_option(capsys):
    with pytest.raises(SystemExit) as stopped:
        main_of_all(["train", "--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "torchrun" in said
    for name in vars(options_of(["cifar10"])):
        assert name.replace("_", "-") in said


@pytest.mark.slow(8)
def test_torchrun_runs_the_command_unchanged(folder, tmp_path):
    run = tmp_path / "run"
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node=2",
            "-m",
            "vitutils",
            "train",
            "--data",
            str(folder),
            "--folder",
            str(run),
            *TINY,
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "result.json").read_text())["processes"] == 2
    assert done.stdout.count("of the test images") == 1
    assert done.stdout.count("epoch   1/2") == 1


def test_a_result_tells_the_command_that_made_it(folder, tmp_path):
    """Also where Python calls it, whose own command line is another one."""
    words = ["--data", str(folder), "--folder", str(tmp_path / "a b"), *TINY]
    assert main_of_all(["train", *words]) == 0
    result = json.loads((tmp_path / "a b" / "result.json").read_text())
    assert shlex.split(result["command"]) == [
        "python",
        "-m",
        "vitutils",
        "train",
        *words,
    ]


def test_debug_shows_where_an_error_came_from(folder, tmp_path, capsys):
    words = ["--data", str(folder), "--folder", str(tmp_path), *TINY, "--epochs=0"]
    assert main(words) == 1
    assert "Traceback" not in capsys.readouterr().err
    assert main([*words, "--debug"]) == 1
    said = capsys.readouterr().err
    assert "Traceback" in said and "train.py" in said and "epochs is 0" in said
    (tmp_path / "last.pt").write_bytes(b"torn")
    for more, expected in (([], False), (["--debug"], True)):
        words = ["--folder", str(tmp_path), "--resume", *more]
        assert main(words) == 1
        said = capsys.readouterr().err
        assert ("Traceback (" in said) == expected and "last.pt" in said


def test_a_checkpoint_of_another_version_says_so_as_a_start(folder, tmp_path, capsys):
    path = tmp_path / "old.safetensors"
    config = json.dumps({"embed_dim": 16, "gone": True})
    save_file({}, path, {"class": "vitutils.vit.VisionTransformer", "config": config})
    words = ["--data", str(folder), "--folder", str(tmp_path / "run"), *SHORT]
    assert main([*words, "--init", str(path)]) == 1
    said = capsys.readouterr().err
    assert "old.safetensors is not of this version of vitutils" in said
    assert "torchvision" not in said


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--help"], 0, "train"),
        (["--version"], 0, vitutils.__version__),
        ([], 2, "usage: vitutils COMMAND"),
        (["trian"], 2, "there is no command 'trian'"),
    ],
)
def test_the_command_without_a_command(capsys, words, status, said):
    assert main_of_all(words) == status
    captured = capsys.readouterr()
    assert said in (captured.err if status else captured.out)


def test_options_are_read_off_a_signature_and_its_docstring():
    def function(
        a: int = 3,
        b: float | None = None,
        c: tuple[float, float] = (0.5, 1.0),
        d: Sequence[int] = (1,),
        e: bool = False,
        f: Literal["x", "y"] = "x",
        g: int | tuple[int, int] = 2,
    ):
        """Do something.

        Args:
            a, b: two numbers,
                100 % plain.
            c: ``a`` pair; None: none.

        Returns:
            Nothing.
        """

    said = explained(function)
    assert said == {
        "a": "two numbers, 100 %% plain",
        "b": "two numbers, 100 %% plain",
        "c": "a pair; if not given: none",
    }
    read = {k: how_to_read(v.annotation) for k, v in signature(function).items()}
    assert read == {
        "a": {"type": int},
        "b": {"type": float},
        "c": {"type": float, "nargs": 2},
        "d": {"type": int, "nargs": "+"},
        "e": {"action": "store_true"},
        "f": {"choices": ("x", "y")},
        "g": {"type": int},
    }


def signature(function):
    return inspect.signature(function).parameters


def test_sigterm_does_not_cut_short_what_is_about_to_be_said(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 2)
    before = signal.getsignal(signal.SIGTERM)
    said = []
    with pytest.raises(ValueError, match="first"), told_before_the_end():
        try:
            raise ValueError("first")
        finally:
            signal.raise_signal(signal.SIGTERM)
            said.append("first")
    assert said == ["first"]
    with pytest.raises(KeyboardInterrupt), told_before_the_end():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
