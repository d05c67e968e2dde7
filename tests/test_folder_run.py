"""A run owns its folder, and goes on with what it was made from alone."""

import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from test_train import SETTINGS, bright_halves, same_weights, small_vit
from torch import nn

from vitutils import processes
from vitutils import train as train_module
from vitutils.cli import train as command
from vitutils.cli.train import main
from vitutils.data import load
from vitutils.data.splits import MemorySplit
from vitutils.distill import ConvNet
from vitutils.engine import folder_run as run_module
from vitutils.engine.checkpoints import load_state, save_model, save_state
from vitutils.engine.curves import Curves
from vitutils.engine.exported import load_exported
from vitutils.engine.folder_run import FolderRun
from vitutils.engine.large_step import LargeStep
from vitutils.engine.weights import load_weights
from vitutils.train import Step, fit

FILES = ("last.pt", "best.safetensors", "result.json")
SHORT = {**SETTINGS, "epochs": 2}


@pytest.fixture
def data():
    return SimpleNamespace(train=bright_halves(100, 0), validation=bright_halves(50, 1))


def snapshot(folder):
    """Return the files of a folder by name, with what is in them."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def writable_run(folder, data, **changed):
    fit(small_vit(), data, run=FolderRun(folder), **SHORT | changed)
    (folder / "result.json").write_text("{}")
    return snapshot(folder)


# ---- a folder and its owner ----


@pytest.mark.parametrize("left", FILES)
@pytest.mark.parametrize("resume", [False, True])
def test_whatever_is_left_of_a_run_stays_as_it_is(data, tmp_path, left, resume):
    writable_run(tmp_path, data)
    for name in {*FILES} - {left}:
        (tmp_path / name).unlink()
    before = snapshot(tmp_path)
    with pytest.raises((FileExistsError, ValueError), match="take another folder"):
        fit(small_vit(), data, run=FolderRun(tmp_path, resume=resume), **SHORT)
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("resume", [False, True])
def test_two_runs_do_not_share_a_folder(data, tmp_path, resume):
    folder = tmp_path / "run"
    refused = []

    def loss_fn(logits, labels, images):
        if not refused:
            with pytest.raises(FileExistsError, match="another run is at work in"):
                fit(small_vit(), data, run=FolderRun(folder, resume=resume), **SHORT)
            refused.append(True)
        return nn.functional.cross_entropy(logits, labels)

    whole, watched = small_vit(), small_vit()
    fit(whole, data, **SHORT)
    fit(watched, data, run=FolderRun(folder), loss_fn=loss_fn, **SHORT)
    assert refused and same_weights(whole, watched)
    assert {*FILES[:2]} <= {path.name for path in folder.iterdir()}


def test_the_lock_ends_with_a_run_however_that_ends(data, tmp_path):
    def fail(logits, labels, images):
        raise MemoryError

    with pytest.raises(MemoryError):
        fit(small_vit(), data, run=FolderRun(tmp_path), loss_fn=fail, **SHORT)
    fit(small_vit(), data, run=FolderRun(tmp_path), **SHORT)
    fit(small_vit(), data, run=FolderRun(tmp_path, resume=True), **SHORT)


def test_what_follows_a_run_can_keep_its_folder(data, tmp_path):
    run = FolderRun(tmp_path / "run")
    with run.owned():
        fit(small_vit(), data, run=run, **SHORT)
        with pytest.raises(FileExistsError, match="another run is at work"):
            fit(small_vit(), data, run=FolderRun(run.folder, resume=True), **SHORT)
    fit(small_vit(), data, run=FolderRun(run.folder, resume=True), **SHORT)


def test_a_run_that_has_not_begun_leaves_no_folder(tmp_path):
    folder = tmp_path / "runs" / "one"
    with pytest.raises(ValueError, match="no data"), FolderRun(folder).owned():
        raise ValueError("no data")
    assert [*tmp_path.iterdir()] == []
    kept = tmp_path / "mine"
    kept.mkdir()
    with pytest.raises(ValueError, match="no data"), FolderRun(kept).owned():
        raise ValueError("no data")
    assert [*tmp_path.rglob("*")] == [kept]


def test_a_run_that_ends_between_its_first_files_goes_on(data, tmp_path, monkeypatch):
    """The best model of the first epoch is there, and no state of that epoch."""

    def die(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
        patch.setattr(FolderRun, "keep_model", keep_and(die))
        fit(small_vit(), data, run=FolderRun(tmp_path), **SHORT)
    assert {path.name for path in tmp_path.glob("*.[ps]*")} == {*FILES[:2]}
    whole, resumed = small_vit(), small_vit()
    fit(whole, data, **SHORT)
    fit(resumed, data, run=FolderRun(tmp_path, resume=True), **SHORT)
    assert same_weights(whole, resumed)


def keep_and(then):
    """Return what keeps a run's model, and then does something."""
    keep = FolderRun.keep_model
    return lambda run: then(keep(run))


# ---- what a run goes on with ----


def test_other_images_labels_or_classes_are_no_way_on(data, tmp_path):
    data.classes = ("left", "right")
    writable_run(tmp_path, data)
    before = snapshot(tmp_path)
    train, validation = data.train, data.validation
    moved = train.images.roll(1, dims=0)
    small = replace(train, images=train.images[:, :, :4, :])
    for changed, name in (
        ({"train": replace(train, images=moved)}, "training images"),
        ({"train": replace(train, labels=1 - train.labels)}, "training images"),
        ({"train": small}, "training images"),
        ({"validation": bright_halves(50, 2)}, "validation images"),
        ({"validation": replace(validation, std=(0.2,))}, "validation images"),
        ({"classes": ("right", "left")}, "classes"),
    ):
        other = SimpleNamespace(**vars(data) | changed)
        with pytest.raises(ValueError, match=f"has {name} .*, not "):
            fit(small_vit(), other, run=FolderRun(tmp_path, resume=True), **SHORT)
    assert snapshot(tmp_path) == before
    fit(small_vit(), data, run=FolderRun(tmp_path, resume=True), **SHORT)


FORGED = {
    "step": {"step": 9},
    "epoch": {"epoch": 1},
    "batch": {"batch": -1},
    "images": {"images": 3},
    "loss": {"loss": math.nan},
    "seconds": {"seconds": -1.0},
    "best": {"best": math.nan},
    "history": {"history": [{"lr": math.inf}]},
    "schedule": {"schedule": {"last_epoch": 3}},
    "optimizer": {"optimizer": {"state": {0: {"exp_avg": torch.zeros(1)}}}},
    "the optimizer is of": {"optimizer": {"state": {0: {"step": torch.tensor(1e9)}}}},
    "the optimizer has": {"optimizer": {"state": {0: {"exp_avg_sq": "negative"}}}},
}


def forged(held, changes):
    """Return a part of a state with changes, dict by dict, row by row."""
    if isinstance(changes, list):
        return [forged(*pair) for pair in zip(held, changes * len(held), strict=True)]
    if isinstance(changes, dict):
        return held | {name: forged(held[name], changes[name]) for name in changes}
    return -held.abs() - 1 if changes == "negative" else changes


@pytest.mark.parametrize("named", FORGED)
def test_a_state_that_cannot_be_is_no_way_on(data, tmp_path, named):
    writable_run(tmp_path, data)
    state = load_state(tmp_path / "last.pt")
    save_state(forged(state, FORGED[named]), tmp_path / "last.pt")
    before = snapshot(tmp_path)
    with pytest.raises(ValueError, match=rf"last\.pt .*{named}.*: take another folder"):
        fit(small_vit(), data, run=FolderRun(tmp_path, resume=True), **SHORT)
    assert snapshot(tmp_path) == before


def test_a_model_of_nan_is_no_way_on(data, tmp_path):
    writable_run(tmp_path, data)
    state = load_state(tmp_path / "last.pt")
    next(iter(state["model"].values())).fill_(math.nan)
    save_state(state, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"last\.pt .* model has NaN.*: take another"):
        fit(small_vit(), data, run=FolderRun(tmp_path, resume=True), **SHORT)


def test_who_reads_a_run_may_go_away(data, tmp_path, monkeypatch):
    def gone(*_):
        raise BrokenPipeError

    monkeypatch.setattr(run_module.tqdm, "write", gone)
    told = SHORT | {"progress": True}
    history = fit(small_vit(), data, run=FolderRun(tmp_path), **told)
    assert len(history) == SHORT["epochs"]


def test_a_name_that_weights_cannot_have_is_refused_at_once(data, tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(ValueError, match="is no name in UTF-8"):
        fit(small_vit(), data, run=FolderRun(folder), **SHORT)
    assert not folder.exists()
    for load_it in (load_weights, load_exported):
        with pytest.raises(ValueError, match="is no name in UTF-8"):
            load_it(folder)


def test_a_run_that_was_refused_is_refused_again(data, tmp_path):
    """Also within one hold on the folder, where what it holds is read once."""
    before = writable_run(tmp_path, data)
    run = FolderRun(tmp_path, resume=True)
    with run.owned():
        for _ in range(2):
            with pytest.raises(ValueError, match="has lr"):
                fit(small_vit(), data, run=run, **SHORT | {"lr": 0.5})
    assert snapshot(tmp_path) == before


def test_a_folder_stays_the_same_where_the_process_goes_elsewhere(
    data, tmp_path, monkeypatch
):
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    before = writable_run(tmp_path / "there" / "run", data)
    monkeypatch.chdir(tmp_path / "here")
    run = FolderRun("run")
    with run.owned():
        monkeypatch.chdir(tmp_path / "there")
        fit(small_vit(), data, run=run, **SHORT)
    assert snapshot(tmp_path / "there" / "run") == before
    assert (tmp_path / "here" / "run" / "last.pt").exists()


def test_numbers_of_numpy_are_settings_like_others(data, tmp_path):
    """As from a sweep over np.logspace, for a run that is to go on."""
    data.classes = np.array(["left", "right"])
    odd = {"lr": np.float64(1.5e-2), "seed": np.int64(3)}
    whole, resumed = small_vit(), small_vit()
    fit(whole, data, **SHORT | {"seed": 3})
    with pytest.raises(KeyboardInterrupt):
        loss_fn = stopping(9, interrupt)
        run = FolderRun(tmp_path, setup={"from": tmp_path})
        fit(small_vit(), data, run=run, loss_fn=loss_fn, **SHORT | odd)
    for place in (str(tmp_path), tmp_path):
        run = FolderRun(tmp_path, resume=True, setup={"from": place})
        fit(resumed, data, run=run, **SHORT | {"seed": 3})
        assert same_weights(whole, resumed)


def test_other_parameters_that_learn_are_no_way_on(data, tmp_path):
    def frozen(name):
        model = small_vit()
        model.get_parameter(name).requires_grad_(False)
        return model

    fit(frozen("head.bias"), data, run=FolderRun(tmp_path), **SHORT)
    run = FolderRun(tmp_path, resume=True)
    with pytest.raises(ValueError, match="has learning parameters"):
        fit(frozen("encoder.norm.bias"), data, run=run, **SHORT)
    run = FolderRun(tmp_path, resume=True)
    fit(frozen("head.bias"), data, run=run, **SHORT)


@pytest.mark.parametrize("clip_norm", [1.0, math.inf])
def test_in_fp16_a_gradient_that_no_scale_helps_ends_the_run(
    data, tmp_path, monkeypatch, clip_norm
):
    """One that overflows now and then is left out, and the run goes on."""
    monkeypatch.setattr(run_module, "SAVE_EVERY", 0)
    bad = set()
    steps = []

    def loss_fn(logits, labels, images):
        steps.append(1)
        loss = nn.functional.cross_entropy(logits, labels)
        return loss + (0 * logits.sum()).sqrt() if len(steps) in bad else loss

    half = partial(LargeStep, precision="fp16")
    settings = SETTINGS | {"epochs": 6, "clip_norm": clip_norm}
    more = {"loss_fn": loss_fn, "step": half, **settings}
    bad |= {1, 2, 9}
    model = small_vit()
    run = FolderRun(tmp_path / "now and then")
    fit(model, data, run=run, **more | {"epochs": 2})  # 14 steps
    assert all(value.isfinite().all() for value in model.state_dict().values())
    bad |= {*range(100)}
    steps.clear()
    with pytest.raises(FloatingPointError, match="the gradient is nan at step 26 "):
        fit(small_vit(), data, run=FolderRun(tmp_path / "always"), **more)
    kept = load_state(tmp_path / "always" / "last.pt")["model"]
    assert all(value.isfinite().all() for value in kept.values())


def turn_into_a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (Path.unlink, "is gone"),
        (turn_into_a_folder, "is gone"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "is not the best"),
        (
            lambda path: save_model(ConvNet(in_channels=1, num_classes=2), path),
            r"is not the best model of the run so far \(missing: .*; left over: ",
        ),
    ],
    ids=["gone", "a folder", "cut short", "another model"],
)
def test_a_best_model_that_is_none_is_missed_at_the_start(data, tmp_path, spoil, said):
    writable_run(tmp_path, data)
    spoil(tmp_path / "best.safetensors")
    steps = []
    with pytest.raises(ValueError, match=rf"best\.safetensors {said}"):
        fit(
            small_vit(),
            data,
            run=FolderRun(tmp_path, resume=True),
            loss_fn=lambda *_: steps.append(1),
            **SHORT,
        )
    assert steps == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"step": "three"},
        {"history": None},
        {"history": [1]},
        {"history": [{"val_loss": 0.5, "val_accuracy": "high"}]},
        {"best": 1},
        {"settings": []},
        {"settings": {}},
        {"model": {}},
        {"model": None},
        {"model": {"head.weight": torch.ones(1)}},
        {"optimizer": {"state": {}}},
        {"schedule": 3},
    ],
)
def test_a_state_with_a_wrong_part_says_so(data, tmp_path, wrong):
    writable_run(tmp_path, data)
    last = tmp_path / "last.pt"
    save_state(load_state(last) | wrong, last)
    with pytest.raises(ValueError, match="take another folder"):
        fit(small_vit(), data, run=FolderRun(tmp_path, resume=True), **SHORT)


def test_a_gradient_that_is_not_finite_ends_the_run_before_it_is_kept(data, tmp_path):
    steps = []

    def loss_fn(logits, labels, images):
        steps.append(1)
        loss = nn.functional.cross_entropy(logits, labels)
        if len(steps) == 9:  # finite itself, but the slope of a root at 0 is not
            loss = loss + (0 * logits.sum()).sqrt()
        return loss

    with pytest.raises(
        FloatingPointError, match=r"^the gradient is nan at step 9 \(epo"
    ):
        fit(small_vit(), data, run=FolderRun(tmp_path), loss_fn=loss_fn, **SHORT)
    kept = load_state(tmp_path / "last.pt")
    assert kept["step"] == 7
    assert all(value.isfinite().all() for value in kept["model"].values())
    whole, resumed = small_vit(), small_vit()
    fit(whole, data, **SHORT)
    fit(resumed, data, run=FolderRun(tmp_path, resume=True), **SHORT)
    assert same_weights(whole, resumed)


def test_a_full_disk_is_named_with_the_file(data, tmp_path, monkeypatch):
    """A limit on the size of files is as good as a disk that is full."""
    monkeypatch.setattr(FolderRun, "save", lambda run: None)  # the curves' turn
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        with pytest.raises(OSError, match=r"cannot write .*events\.out"):
            fit(small_vit(), data, run=FolderRun(tmp_path), **SHORT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


# ---- the command ----


TINY = "--epochs=2 --batch-size=16 --lr=1e-2 --device=cpu --patch-size=4 --embed-dim=16"
TINY = [*TINY.split(), "--depth=1", "--num-heads=2", "--mlp-dim=32"]


def halves(root, size=8, classes=("lower", "upper")):
    """Write a folder of images whose upper or lower half is bright."""
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 20), ("test", 5)):
        for number, name in enumerate(classes):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = torch.randint(100, (size, size, 3), generator=generator)
                pixels[: size // 2] += 120 * number
                image = Image.fromarray(pixels.to(torch.uint8).numpy())
                image.save(root / part / name / f"{i}.png")
    return root


def test_the_command_goes_on_with_the_same_content_alone(tmp_path, capsys):
    data, run = halves(tmp_path / "a" / "halves"), tmp_path / "run"
    teacher = tmp_path / "teacher.safetensors"
    net = ConvNet(in_channels=3, num_classes=2, widths=(4, 4))
    save_model(net, teacher, load(data).preprocessing)
    words = ["--data", str(data), "--folder", str(run), "--teacher", str(teacher)]
    words += [*TINY[:4], "--model", "convnet", "--widths", "4", "4"]
    assert main(words) == 0
    before = snapshot(run)
    kept = teacher.read_bytes()
    torch.manual_seed(1)
    save_model(ConvNet(**net.config), teacher, load(data).preprocessing)
    capsys.readouterr()
    assert main([*words, "--resume"]) == 1
    assert "has teacher of SHA-256" in capsys.readouterr().err
    teacher.write_bytes(kept)
    larger = halves(tmp_path / "b" / "halves", size=12)
    renamed = halves(tmp_path / "c" / "halves", classes=("dark", "light"))
    for other, said in ((larger, "training images"), (renamed, "classes")):
        assert main([*words, "--resume", "--data", str(other)]) == 1
        assert f"has {said}" in capsys.readouterr().err
    for path in (data / "test").glob("*/0.png"):
        Image.new("RGB", (8, 8)).save(path)
    assert main([*words, "--resume"]) == 1
    assert "has test images of SHA-256" in capsys.readouterr().err
    assert snapshot(run) == before


def test_a_start_of_another_content_is_refused(tmp_path, capsys):
    data, run = halves(tmp_path / "halves"), tmp_path / "run"
    start = tmp_path / "start.safetensors"
    words = ["--data", str(data), "--folder", str(run), *TINY]
    assert main([*words[:2], "--folder", str(tmp_path / "first"), *TINY]) == 0
    shutil.copy(tmp_path / "first" / "best.safetensors", start)
    words = ["--data", str(data), "--folder", str(run), "--init", str(start)]
    words += TINY[:4]
    assert main(words) == 0
    model, told = load_weights(start)
    nn.init.zeros_(model.head.bias)
    save_model(model, start, told)
    capsys.readouterr()
    assert main([*words, "--resume"]) == 1
    assert "has init of SHA-256" in capsys.readouterr().err


def test_other_data_are_refused_before_they_are_loaded(tmp_path, capsys, monkeypatch):
    data, run = halves(tmp_path / "halves"), tmp_path / "run"
    words = ["--folder", str(run), *TINY]
    assert main(["--data", str(data), *words]) == 0
    monkeypatch.setattr(command, "load_data", lambda options: pytest.fail("loaded"))
    capsys.readouterr()
    assert main(["--data", "cifar10", *words, "--resume"]) == 1
    assert "has data halves, not cifar10" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "meta"], "cannot compute on the device 'meta'"),
        (["--device", "nonsense"], "cannot compute on the device 'nonsense'"),
        (["--model", "convnet", "--widths", *"222222"], "6 widths halve images of 8"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_left(tmp_path, capsys, words, said):
    data, run = halves(tmp_path / "halves"), tmp_path / "run"
    assert main(["--data", str(data), "--folder", str(run), *TINY[:4], *words]) == 1
    assert said in capsys.readouterr().err
    assert not run.exists()


@pytest.mark.slow(4)
@pytest.mark.parametrize("closed", ["1", "2"])
def test_a_closed_output_does_not_end_a_run(tmp_path, closed):
    data = halves(tmp_path / "halves")
    words = [sys.executable, "-m", "vitutils", "train", "--data", str(data), *TINY]
    line = f'exec "$@" {closed}>&-'
    done = subprocess.run(["sh", "-c", line, "sh", *words], cwd=tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "runs" / "halves-vit" / "result.json").exists()


@pytest.mark.slow(10)
def test_of_two_commands_at_once_one_is_refused(tmp_path):
    data, run = halves(tmp_path / "halves"), tmp_path / "run"
    words = [sys.executable, "-m", "vitutils", "train", "--data", str(data), *TINY]
    words += ["--folder", str(run), "--epochs", "40", "--resume"]
    both = [
        subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1]
    refused = next(s for s, p in zip(said, both, strict=True) if p.returncode)
    assert "another run is at work" in refused and refused.count("\n") == 1


# ---- what is kept, counted and told ----


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on when it is told, and not by itself."""
    clock = SimpleNamespace(now=1000.0)
    clock.perf_counter = lambda: clock.now
    for module in (train_module, run_module):
        monkeypatch.setattr(module, "time", clock)
    return clock


def stopping(at, how):
    """Return a loss_fn that does something in its at-th call."""
    steps = []

    def loss_fn(logits, labels, images):
        steps.append(1)
        if len(steps) == at:
            how()
        return nn.functional.cross_entropy(logits, labels)

    return loss_fn


def fail(error):
    raise error


def interrupt():
    signal.raise_signal(signal.SIGINT)


def test_a_run_that_is_cut_counts_its_time_as_if_it_were_not(data, tmp_path, clock):
    class Slow(MemorySplit):
        def batches(self, *args, **more):
            for batch in super().batches(*args, **more):
                clock.now += 3 / 16
                yield batch

    def taking_time(loss_fn):
        def timed(*args):
            clock.now += 1 / 16
            return loss_fn(*args)

        return timed

    fields = {name: getattr(data.train, name) for name in ("images", "labels")}
    slow = SimpleNamespace(train=Slow(**fields), validation=data.validation)
    settings = SHORT | {"batch_size": 20}

    def trained(run, stop_at=0):
        loss_fn = taking_time(stopping(stop_at, interrupt))
        return fit(small_vit(), slow, run=run, loss_fn=loss_fn, **settings)

    whole = trained(FolderRun(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        trained(FolderRun(tmp_path / "cut"), stop_at=9)
    clock.now += 1000  # until somebody goes on
    again = trained(FolderRun(tmp_path / "cut", resume=True))
    assert [row["seconds"] for row in whole] == [5 / 4, 10 / 4]
    assert again[0] == whole[0]
    assert again[1] == whole[1]


def test_of_equally_accurate_models_the_first_of_the_lowest_loss_is_kept(
    data, tmp_path, monkeypatch
):
    told = [(0.5, 1.0), (0.7, 0.9), (0.7, 0.9), (0.7, 0.8), (0.6, 0.1), (0.8, 2.0)]
    kept = []

    class Told(Step):
        def validate(self, split):
            accuracy, loss = told[run.epoch]
            return super().validate(split)._replace(accuracy=accuracy, loss=loss)

    monkeypatch.setattr(run_module, "save_model", lambda *_: kept.append(run.epoch))
    run = FolderRun(tmp_path)
    fit(small_vit(), data, run=run, step=Told, **SETTINGS | {"epochs": 6})
    assert kept == [1, 2, 4, 6]


def test_what_changes_no_weight_may_differ_when_a_run_goes_on(data, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fit(
            small_vit(),
            data,
            run=FolderRun(tmp_path),
            loss_fn=stopping(9, interrupt),
            betas=(0.9, 0.99),
            **SHORT,
        )
    other = SHORT | {"progress": True, "device": "cpu:0", "betas": [0.9, 0.99]}
    run = FolderRun(tmp_path, resume=True)
    assert len(fit(small_vit(), data, run=run, **other)) == 2


def test_a_run_that_ends_before_a_model_was_kept_goes_on(data, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "SAVE_EVERY", -1)
    loss_fn = stopping(4, lambda: fail(MemoryError))
    with pytest.raises(MemoryError):
        fit(small_vit(), data, run=FolderRun(tmp_path), loss_fn=loss_fn, **SHORT)
    assert not (tmp_path / "best.safetensors").exists()
    whole, resumed = small_vit(), small_vit()
    fit(whole, data, **SHORT)
    fit(resumed, data, run=FolderRun(tmp_path, resume=True), **SHORT)
    assert same_weights(whole, resumed)


def test_an_error_of_a_single_process_is_raised_as_it_is(data, tmp_path):
    loss_fn = stopping(9, lambda: fail(RuntimeError("out of memory")))
    with pytest.raises(RuntimeError, match=r"^out of memory$"):
        fit(small_vit(), data, run=FolderRun(tmp_path), loss_fn=loss_fn, **SHORT)
    assert load_state(tmp_path / "last.pt")["step"] == 7  # of the first epoch's end


@pytest.mark.parametrize("count", [1, 2])
def test_a_second_ctrl_c_ends_one_process_at_once_and_several_after_the_step(
    data, tmp_path, monkeypatch, count
):
    """Of several, torchrun tells each what the terminal has told it already."""
    monkeypatch.setattr(processes, "count", lambda: count)
    monkeypatch.setattr(processes, "ask_first", lambda function, *args: function(*args))
    monkeypatch.setattr(processes, "total", lambda *values: values)

    def twice():
        interrupt()
        interrupt()

    with pytest.raises(KeyboardInterrupt) as error:
        fit(
            small_vit(),
            data,
            run=FolderRun(tmp_path),
            loss_fn=stopping(3, twice),
            **SHORT,
        )
    assert str(error.value).startswith("stopped after step 3" if count == 2 else "")
    assert load_state(tmp_path / "last.pt")["step"] == (3 if count == 2 else 1)


def test_the_bar_shows_images_and_goes_on_where_it_was(
    data, tmp_path, monkeypatch, capsys
):
    bars = []

    class Bar:
        def __init__(self, **settings):
            self.settings, self.shown = settings, settings["initial"]
            bars.append(self)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, number):
            self.shown += number

        def write(self, line):
            print(line)

    monkeypatch.setattr(run_module, "tqdm", Bar)
    loss_fn = stopping(9, interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(small_vit(), data, run=FolderRun(tmp_path), loss_fn=loss_fn, **SHORT)
    told = SHORT | {"progress": True}
    fit(small_vit(), data, run=FolderRun(tmp_path, resume=True), **told)
    monkeypatch.setattr(processes, "rank", lambda: 1)
    fit(small_vit(), data, run=FolderRun(tmp_path / "second"), **told)
    shown = {"total": 200, "leave": False, "unit": " images", "unit_scale": True}
    assert [bar.settings for bar in bars] == [
        shown | {"initial": 0, "disable": True},
        shown | {"initial": 100 + 2 * 16, "disable": None},  # None: in terminals only
        shown | {"initial": 0, "disable": True},
    ]
    assert [bar.shown for bar in bars] == [132, 200, 200]
    (line,) = capsys.readouterr().out.splitlines()  # above the bar, by the first alone
    assert line.startswith("epoch   2/2   train loss")


def test_a_process_that_is_not_the_first_keeps_and_tells_nothing(
    data, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(processes, "rank", lambda: 1)
    told = SHORT | {"progress": True}
    fit(small_vit(), data, run=FolderRun(tmp_path / "run"), **told)
    assert [*tmp_path.iterdir()] == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("how", ["whole", "cut"])
def test_the_curves_are_closed_when_a_run_ends(data, tmp_path, monkeypatch, how):
    closed = []
    monkeypatch.setattr(Curves, "close", lambda self: closed.append(self.path.parent))
    loss_fn = stopping(9 if how == "cut" else 0, interrupt)
    expected = pytest.raises(KeyboardInterrupt) if how == "cut" else nullcontext()
    with expected:
        fit(small_vit(), data, run=FolderRun(tmp_path), loss_fn=loss_fn, **SHORT)
    assert closed == [tmp_path]


def test_a_run_that_is_refused_leaves_the_lock_of_the_one_at_work(tmp_path):
    run = FolderRun(tmp_path / "run")
    with run.owned():
        with pytest.raises(FileExistsError), FolderRun(run.folder).owned():
            pass
        assert (run.folder / ".lock").exists()
    assert not run.folder.exists()


@pytest.mark.parametrize(("stop_at", "kept_at"), [(3, [3]), (9, [7])])
def test_a_run_that_is_cut_keeps_the_best_model_so_far(
    data, tmp_path, monkeypatch, stop_at, kept_at
):
    kept = []
    monkeypatch.setattr(run_module, "save_model", lambda *_: kept.append(run.step))
    run = FolderRun(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(small_vit(), data, run=run, loss_fn=stopping(stop_at, interrupt), **SHORT)
    assert kept == kept_at


def test_a_state_without_a_setup_does_not_go_on_with_one(data, tmp_path):
    writable_run(tmp_path, data)
    last = tmp_path / "last.pt"
    save_state(load_state(last) | {"settings": {}}, last)
    run = FolderRun(tmp_path, resume=True, setup={"crop": "flip"})
    with pytest.raises(ValueError, match="has crop none, not flip: resume it"):
        fit(small_vit(), data, run=run, **SHORT)


def test_the_curves_of_a_run_that_was_killed_have_each_step_once(data, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loss_fn = stopping(5, lambda: fail(MemoryError))  # the state is of the first step
    with pytest.raises(MemoryError):
        fit(small_vit(), data, run=FolderRun(tmp_path), loss_fn=loss_fn, **SHORT)
    fit(small_vit(), data, run=FolderRun(tmp_path, resume=True), **SHORT)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [*range(14)]


def test_curves_have_numbers_by_step_and_say_from_where_they_count_anew(tmp_path):
    from tensorboard.backend.event_processing import event_file_loader
    from tensorboard.compat.proto.event_pb2 import SessionLog

    def said(event):
        if not event.summary.value:
            return event.step, event.file_version or event.session_log.status
        (number,) = event.summary.value
        return event.step, number.tag, number.simple_value

    files = []
    for name, since in (("first", {}), ("again", {"since": 1})):
        (tmp_path / name).mkdir()
        curves = Curves(tmp_path / name, **since)
        curves.add("loss", 0.5, 1)
        curves.add("rate", 0.25, 2)
        curves.close()
        with pytest.raises(ValueError, match="closed file"):
            curves.add("loss", 0.5, 3)
        loader = event_file_loader.LegacyEventFileLoader(str(curves.path))
        events = [*loader.Load()]
        assert all(abs(event.wall_time - time.time()) < 60 for event in events)
        files.append([said(event) for event in events])
    numbers = [(1, "loss", 0.5), (2, "rate", 0.25)]
    version, start = (0, "brain.Event:2"), (1, SessionLog.START)
    assert files == [[version, *numbers], [version, start, *numbers]]
