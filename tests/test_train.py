"""fit, evaluate and what they are made of."""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from vitutils import processes
from vitutils import train as train_module
from vitutils.data.augmentation import flip, mixing
from vitutils.data.splits import MemorySplit
from vitutils.distill import ConvNet
from vitutils.engine import folder_run as run_module
from vitutils.engine.checkpoints import load_model, load_state, save_state
from vitutils.engine.folder_run import FolderRun
from vitutils.engine.large_step import LargeStep
from vitutils.engine.precision import MixedPrecision
from vitutils.train import (
    Run,
    Step,
    default_device,
    evaluate,
    fit,
    parameter_groups,
    random_state_kept,
    warmup_cosine,
)
from vitutils.vit import VisionTransformer


def bright_halves(count, seed):
    """Images of 8x8 pixels whose brighter half tells their class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count,), generator=generator)
    images = torch.randn(count, 1, 8, 8, generator=generator) * 0.5
    for image, label in zip(images, labels, strict=True):
        image[:, :, 4 * label : 4 * label + 4] += 2
    pixels = (128 + 25 * images).round().clamp(0, 255).to(torch.uint8)
    return MemorySplit(
        labels=labels, images=pixels, augment=None, mean=(0.5,), std=(0.1,)
    )


@pytest.fixture
def data():
    return SimpleNamespace(train=bright_halves(100, 0), validation=bright_halves(50, 1))


def small_vit(dropout=0.1):
    torch.manual_seed(0)
    return VisionTransformer(
        image_size=8,
        patch_size=4,
        in_channels=1,
        num_classes=2,
        embed_dim=16,
        depth=1,
        num_heads=2,
        mlp_dim=32,
        dropout=dropout,
    )


def same_weights(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


SETTINGS = dict(epochs=4, batch_size=16, lr=1.5e-2, device="cpu", progress=False)


def test_fit_learns_and_tells_each_epoch(data):
    history = fit(small_vit(), data, **SETTINGS)
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert [row["step"] for row in history] == [7, 14, 21, 28]
    assert history[-1]["train_loss"] < 0.7 * history[0]["train_loss"]
    assert history[-1]["val_accuracy"] > 0.9
    assert history[-1]["lr"] == pytest.approx(0, abs=1e-9)


def test_fit_keeps_the_best_by_validation_and_loads_it_without_pickle(data, tmp_path):
    model = small_vit()
    history = fit(model, data, run=FolderRun(tmp_path), **SETTINGS)
    best = load_model(tmp_path / "best.safetensors")
    assert best.config == model.config
    accuracy = evaluate(best, data.validation).accuracy
    assert accuracy == max(row["val_accuracy"] for row in history)


def test_the_best_checkpoint_is_not_overwritten_by_a_worse_epoch(data, tmp_path):
    model = small_vit()
    calls = []

    def loss_fn(logits, labels, images):
        """Learn in the first epoch, unlearn in the second."""
        calls.append(len(labels))
        sign = 1 if len(calls) <= 7 else -1
        return sign * nn.functional.cross_entropy(logits, labels)

    history = fit(
        model,
        data,
        run=FolderRun(tmp_path),
        loss_fn=loss_fn,
        warmup=0.0,
        **SETTINGS | {"epochs": 2, "lr": 2e-2},
    )
    assert history[1]["val_accuracy"] < history[0]["val_accuracy"]
    best = load_model(tmp_path / "best.safetensors")
    assert evaluate(best, data.validation).accuracy == history[0]["val_accuracy"]
    assert not same_weights(best, model)


@pytest.mark.parametrize("stop_at", [3, 7, 10, 27])
def test_an_interrupted_run_resumes_to_the_same_bits(data, tmp_path, stop_at):
    handler = signal.getsignal(signal.SIGINT)
    whole = small_vit()
    history = fit(whole, data, run=FolderRun(tmp_path / "whole"), **SETTINGS)

    steps = []

    def interrupt(logits, labels, images):
        steps.append(1)
        if len(steps) == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return nn.functional.cross_entropy(logits, labels)

    folder = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt, match=f"stopped after step {stop_at}") as cut:
        fit(small_vit(), data, run=FolderRun(folder), loss_fn=interrupt, **SETTINGS)
    assert str(cut.value).endswith(f"goes on from {folder}")
    load_model(folder / "best.safetensors")  # usable, however early it stopped

    resumed = VisionTransformer(**whole.config)  # other weights: the file's count
    again = fit(resumed, data, run=FolderRun(folder, resume=True), **SETTINGS)
    assert same_weights(whole, resumed)
    for row in (*history, *again):
        for name in ("seconds", "images_per_second", "waiting"):
            row.pop(name)
    assert again == history
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_setup_is_part_of_a_run(data, tmp_path):
    fit(small_vit(), data, run=FolderRun(tmp_path, setup={"crop": "flip"}), **SETTINGS)

    def again(setup):
        return FolderRun(tmp_path, resume=True, setup=setup)

    fit(small_vit(), data, run=again({"crop": "flip"}), **SETTINGS)
    for setup in (None, {"crop": "none"}):
        with pytest.raises(ValueError, match="has crop flip, not"):
            fit(small_vit(), data, run=again(setup), **SETTINGS)
    with pytest.raises(ValueError, match=f"has images {len(data.train)}, not 5"):
        few = SimpleNamespace(train=data.train.subset(5), validation=data.validation)
        fit(small_vit(), few, run=again({"crop": "flip"}), **SETTINGS)


@pytest.fixture
def as_if_two(monkeypatch):
    """Processes that say they are two, and that agree with themselves."""
    monkeypatch.setattr(processes, "count", lambda: 2)
    monkeypatch.setattr(processes, "total", lambda *values: values)
    monkeypatch.setattr(processes, "ask_first", lambda function, *args: function(*args))


def test_a_process_that_keeps_no_files_says_whose_state_counts(
    data, tmp_path, as_if_two, monkeypatch
):
    """It may be steps ahead of what the first process saved before it died."""
    monkeypatch.setattr(processes, "rank", lambda: 1)
    taken = []

    def loss_fn(logits, labels, images):
        taken.append(1)
        if len(taken) == 5:
            raise RuntimeError("connection closed by peer")
        return nn.functional.cross_entropy(logits, labels)

    said = "goes on from what the first process has saved in"
    with pytest.raises(RuntimeError, match=said):
        fit(small_vit(), data, run=FolderRun(tmp_path), loss_fn=loss_fn, **SETTINGS)


@pytest.mark.parametrize("steps", [0, 5])
def test_a_death_before_the_first_step_leaves_no_run(data, tmp_path, as_if_two, steps):
    taken = []

    def loss_fn(logits, labels, images):
        if len(taken) == steps:
            raise RuntimeError("connection closed by peer")
        taken.append(1)
        return nn.functional.cross_entropy(logits, labels)

    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(RuntimeError) as error:
        fit(small_vit(), data, run=FolderRun(tmp_path), loss_fn=loss_fn, **SETTINGS)
    said = f"stopped after step {steps}" if steps else "connection closed"
    assert str(error.value).startswith(said)
    assert str(error.value).endswith("connection closed by peer")
    assert (tmp_path / "last.pt").exists() == (steps > 0)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("epoch", [2, 4])
def test_a_signal_in_a_validation_ends_the_run(data, tmp_path, epoch, signum):
    """Also in the last one, after which nothing is left to do but the end."""

    class Interrupted(MemorySplit):
        def batches(self, *args, **more):
            told.append(1)
            if len(told) == epoch:
                signal.raise_signal(signum)
            return super().batches(*args, **more)

    told = []
    fields = {name: getattr(data.validation, name) for name in ("images", "labels")}
    fields |= {"mean": (0.5,), "std": (0.1,)}
    watched = SimpleNamespace(train=data.train, validation=Interrupted(**fields))
    whole, cut = small_vit(), small_vit()
    history = fit(whole, data, **SETTINGS)
    with pytest.raises(KeyboardInterrupt, match=f"stopped after step {7 * epoch};"):
        fit(cut, watched, run=FolderRun(tmp_path), **SETTINGS)
    again = fit(cut, data, run=FolderRun(tmp_path, resume=True), **SETTINGS)
    assert same_weights(whole, cut)
    assert [row["val_loss"] for row in again] == [row["val_loss"] for row in history]


def test_settings_and_a_models_config_are_compared_apart(data, tmp_path):
    class Odd(nn.Linear):
        """A model with a configuration of its own, which is no dict."""

        def __init__(self, config):
            super().__init__(64, 2)
            self.config = config

        def forward(self, images):
            return super().forward(images.flatten(1))

    fit(Odd({"lr": 7, "epochs": 1}), data, run=FolderRun(tmp_path), **SETTINGS)
    with pytest.raises(ValueError, match=r"has lr 0\.015, not 0\.02"):
        fit(
            Odd({"lr": 7, "epochs": 1}),
            data,
            run=FolderRun(tmp_path, resume=True),
            **SETTINGS | {"lr": 0.02},
        )
    with pytest.raises(ValueError, match="has epochs 1, not 2"):
        fit(
            Odd({"lr": 7, "epochs": 2}),
            data,
            run=FolderRun(tmp_path, resume=True),
            **SETTINGS,
        )
    for number, config in enumerate((["a list"], SimpleNamespace(lr=1), None)):
        fit(Odd(config), data, run=FolderRun(tmp_path / str(number)), **SETTINGS)


def test_the_callers_random_state_is_left_alone(data):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(small_vit_of_the_state(), data, **SETTINGS)
    assert torch.equal(torch.rand(3), expected)


def small_vit_of_the_state():
    """A model whose weights are drawn without a trace."""
    with torch.random.fork_rng():
        return small_vit()


def test_to_resume_needs_a_folder():
    with pytest.raises(TypeError, match="folder"):
        FolderRun(resume=True)


def test_a_state_that_is_none_is_named(data, tmp_path):
    save_state({"a": 1}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"no state of a run \(see its step, epoch"):
        fit(small_vit(), data, run=FolderRun(tmp_path, resume=True), **SETTINGS)


def test_a_model_that_diverged_in_the_last_step_is_not_kept(data, tmp_path):
    settings = SETTINGS | {"epochs": 1, "batch_size": len(data.train), "lr": 1e30}
    with pytest.raises(FloatingPointError, match="validation loss is nan at step 1"):
        fit(small_vit(), data, run=FolderRun(tmp_path), **settings)
    assert not (tmp_path / "best.safetensors").exists()


def test_the_climb_leaves_a_step_to_the_cosine(data):
    settings = SETTINGS | {"epochs": 1, "batch_size": len(data.train), "warmup": 0.99}
    assert fit(small_vit(), data, **settings)[0]["step"] == 1


def test_evaluate_leaves_every_module_in_its_mode(data):
    model = small_vit().train()
    model.head.eval()
    evaluate(model, data.validation)
    assert model.training and not model.head.training


@pytest.mark.slow(3)
def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    """A real process, killed without warning in its third epoch."""
    script = f"""
import sys, os
sys.path[:0] = [{os.path.dirname(__file__)!r}]
from test_train import SETTINGS, FolderRun, SimpleNamespace, bright_halves, fit
from test_train import nn, small_vit
data = SimpleNamespace(train=bright_halves(100, 0), validation=bright_halves(50, 1))
count = 0
def loss_fn(logits, labels, images):
    global count
    count += 1
    if count == 17:
        os.kill(os.getpid(), 9)
    return nn.functional.cross_entropy(logits, labels)
fit(small_vit(), data, run=FolderRun(sys.argv[1]), loss_fn=loss_fn, **SETTINGS)
"""
    folder = tmp_path / "killed"
    done = subprocess.run([sys.executable, "-c", script, str(folder)], timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert not list(folder.glob(".*.part"))
    data = SimpleNamespace(train=bright_halves(100, 0), validation=bright_halves(50, 1))
    resumed, whole = small_vit(), small_vit()
    fit(resumed, data, run=FolderRun(folder, resume=True), **SETTINGS)
    fit(whole, data, **SETTINGS)
    assert same_weights(whole, resumed)


def test_a_run_is_not_overwritten_nor_resumed_with_other_settings(data, tmp_path):
    fit(small_vit(), data, run=FolderRun(tmp_path), **SETTINGS)
    with pytest.raises(FileExistsError, match="resume=True"):
        fit(small_vit(), data, run=FolderRun(tmp_path), **SETTINGS)
    with pytest.raises(ValueError, match=r"has lr 0\.015, not 0\.02"):
        fit(
            small_vit(),
            data,
            run=FolderRun(tmp_path, resume=True),
            **SETTINGS | {"lr": 0.02},
        )


def test_a_corrupt_state_says_so(data, tmp_path):
    fit(small_vit(), data, run=FolderRun(tmp_path), **SETTINGS)
    last = tmp_path / "last.pt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"last\.pt is cut short or corrupt"):
        fit(small_vit(), data, run=FolderRun(tmp_path, resume=True), **SETTINGS)


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(data, tmp_path):
    model = small_vit()
    steps = []

    def loss_fn(logits, labels, images):
        steps.append(1)
        loss = nn.functional.cross_entropy(logits, labels)
        return loss * float("nan") if len(steps) == 9 else loss

    with pytest.raises(FloatingPointError, match=r"nan at step 9 \(epoch 2\)"):
        fit(model, data, loss_fn=loss_fn, run=FolderRun(tmp_path), **SETTINGS)
    assert all(p.isfinite().all() for p in model.parameters())
    assert load_model(tmp_path / "best.safetensors")


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": -1},
        {"lr": 0.0},
        {"warmup": 1.0},
        {"label_smoothing": 1.5},
        {"clip_norm": 0},
        {"seed": -1},
        {"seed": 2**40},
    ],
)
def test_settings_out_of_range_name_the_value(data, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        fit(small_vit(), data, **SETTINGS | wrong)


@pytest.mark.parametrize(("name", "value"), [("average", 1), ("accumulate", 0)])
def test_settings_of_a_large_step_out_of_range_name_the_value(data, name, value):
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        fit(small_vit(), data, step=partial(LargeStep, **{name: value}), **SETTINGS)


def test_unknown_precision_is_named(data):
    with pytest.raises(ValueError, match="precision is 'fp8'"):
        fit(small_vit(), data, step=partial(LargeStep, precision="fp8"), **SETTINGS)


def test_fit_runs_in_another_thread(data):
    """Signal handlers belong to the main thread; training does not need them."""
    histories = []
    thread = threading.Thread(
        target=lambda: histories.append(fit(small_vit(), data, **SETTINGS))
    )
    thread.start()
    thread.join(60)
    assert len(histories) == 1


def test_bf16_trains_and_keeps_fp32_weights(data):
    model = small_vit()
    history = fit(model, data, step=partial(LargeStep, precision="bf16"), **SETTINGS)
    assert history[-1]["val_accuracy"] > 0.9
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    with MixedPrecision("bf16", torch.device("cpu")).autocast():
        images, _ = next(data.train.batches(2))
        assert model(images).dtype == torch.bfloat16


def test_auto_precision_is_fp32_on_a_cpu():
    assert MixedPrecision("auto", torch.device("cpu")).dtype is None


def test_fit_is_blind_to_what_the_model_returns(data):
    """A model with a pair of outputs needs a loss, not another loop."""

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = small_vit()

        def forward(self, images):
            logits = self.vit(images)
            return (logits, logits) if self.training else logits

    def loss_fn(outputs, labels, images):
        assert images.shape[1:] == (1, 8, 8)
        return sum(nn.functional.cross_entropy(x, labels) for x in outputs) / 2

    history = fit(Pair(), data, loss_fn=loss_fn, **SETTINGS)
    assert history[-1]["val_accuracy"] > 0.9


def test_label_smoothing_is_in_the_loss(data):
    plain = fit(small_vit(), data, **SETTINGS)
    smooth = fit(small_vit(), data, label_smoothing=0.2, **SETTINGS)
    assert smooth[-1]["train_loss"] > plain[-1]["train_loss"] + 0.1


def test_a_batch_in_parts_gives_the_same_step(data):
    whole, parted = small_vit(dropout=0.0), small_vit(dropout=0.0)
    a = fit(whole, data, **SETTINGS)
    b = fit(
        parted, data, step=partial(LargeStep, accumulate=3), **SETTINGS
    )  # the last batch has 4 images
    assert b[-1]["train_loss"] == pytest.approx(a[-1]["train_loss"], rel=1e-3)
    one = evaluate(whole, data.validation).logits
    torch.testing.assert_close(
        evaluate(parted, data.validation).logits, one, atol=1e-3, rtol=1e-3
    )


def test_the_average_of_the_weights_is_what_is_kept(data, tmp_path):
    """By hand: after the first step the weights, then 0.8 of it and 0.2 of the new."""
    decay, by_hand = 0.8, []

    def loss_fn(logits, labels, images):
        weights = [p.detach().clone() for p in model.parameters()]
        if len(by_hand) == 0:
            by_hand.append(weights)  # as drawn
        elif len(by_hand) == 1:
            by_hand.append(weights)  # after the first step
        else:
            by_hand[1] = [
                decay * a + (1 - decay) * w
                for a, w in zip(by_hand[1], weights, strict=True)
            ]
        return nn.functional.cross_entropy(logits, labels)

    model = small_vit()
    settings = SETTINGS | {"epochs": 2}
    fit(
        model,
        data,
        step=partial(LargeStep, average=decay),
        loss_fn=loss_fn,
        run=FolderRun(tmp_path),
        **settings,
    )
    assert same_weights(load_model(tmp_path / "best.safetensors"), model)
    raw = small_vit()
    fit(raw, data, **settings)
    for a, w, found in zip(
        by_hand[1], raw.parameters(), model.parameters(), strict=True
    ):
        torch.testing.assert_close(decay * a + (1 - decay) * w, found.detach())


def test_mixed_labels_reach_the_loss(data):
    seen = []

    def loss_fn(logits, labels, images):
        seen.append(labels)
        return nn.functional.cross_entropy(logits, labels)

    mix = mixing(2, mixup=0.8, cutmix=1.0)
    history = fit(
        small_vit(), data, step=partial(LargeStep, mix=mix), loss_fn=loss_fn, **SETTINGS
    )
    assert all(labels.shape[1:] == (2,) for labels in seen)
    assert history[-1]["val_accuracy"] > 0.9


def test_a_long_epoch_is_saved_on_the_way(data, tmp_path, monkeypatch):
    monkeypatch.setattr(run_module, "SAVE_EVERY", 0)
    steps = []

    def loss_fn(logits, labels, images):
        steps.append(load_state(last)["step"] if last.exists() else None)
        return nn.functional.cross_entropy(logits, labels)

    last = tmp_path / "last.pt"
    fit(
        small_vit(),
        data,
        run=FolderRun(tmp_path),
        loss_fn=loss_fn,
        **SETTINGS | {"epochs": 1},
    )
    assert steps == [None, 1, 2, 3, 4, 5, 6]


def test_the_time_spent_waiting_for_images_is_measured(data):
    class Slow(MemorySplit):
        def _augmented(self, item, device="cpu"):
            time.sleep(0.05)
            return super()._augmented(item, device)

    fields = {name: getattr(data.train, name) for name in ("images", "labels")}
    slow = SimpleNamespace(
        train=Slow(augment=None, **fields), validation=data.validation
    )
    settings = SETTINGS | {"epochs": 1}
    quick, waiting = (fit(small_vit(), d, **settings)[0] for d in (data, slow))
    assert quick["waiting"] < waiting["waiting"] < 1
    assert waiting["images_per_second"] < 100 / (7 * 0.05)


def test_clipping_bounds_the_step(data):
    model = small_vit()
    norms = []
    amp = MixedPrecision("fp32", torch.device("cpu"))

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            grads = [p.grad for group in self.param_groups for p in group["params"]]
            norms.append(torch.stack([g.norm() for g in grads]).norm().item())
            return super().step(closure)

    optimizer = Spy(model.parameters(), lr=0.1)
    for images, labels in data.train.batches(50):
        optimizer.zero_grad()
        loss = 100 * nn.functional.cross_entropy(model(images), labels)
        amp.backward(loss)
        amp.step(optimizer, 1.0)
    assert norms == pytest.approx([1.0, 1.0], rel=1e-3)


def test_weights_decay_but_biases_norms_and_tokens_do_not():
    model = small_vit()
    decayed, kept = parameter_groups(model, 0.05)
    names = {id(p): n for n, p in model.named_parameters()}
    decayed_names = {names[id(p)] for p in decayed["params"]}
    kept_names = {names[id(p)] for p in kept["params"]}
    assert decayed["weight_decay"] == 0.05
    assert kept["weight_decay"] == 0.0
    assert decayed_names | kept_names == set(names.values())
    assert decayed_names == {
        "embeddings.proj.weight",
        "encoder.blocks.0.attn.qkv.weight",
        "encoder.blocks.0.attn.proj.weight",
        "encoder.blocks.0.mlp.fc1.weight",
        "encoder.blocks.0.mlp.fc2.weight",
        "head.weight",
    }


def rates(steps, warmup_steps):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = warmup_cosine(optimizer, steps=steps, warmup_steps=warmup_steps)
    values = []
    for _ in range(steps):
        values.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return [*values, scheduler.get_last_lr()[0]]


def test_the_rate_climbs_linearly_then_falls_as_a_cosine_to_zero():
    values = rates(steps=100, warmup_steps=10)
    climb = [2 * (1 + 10 * k / 10) / 11 for k in range(10)]
    cosine = [1 + math.cos(math.pi * k / 90) for k in range(91)]
    assert values == pytest.approx(climb + cosine, abs=1e-9)


def test_without_warmup_the_rate_starts_at_its_peak():
    assert rates(steps=10, warmup_steps=0)[0] == 2.0


def test_warmup_longer_than_the_run_is_refused():
    with pytest.raises(ValueError, match="warmup_steps 10"):
        rates(steps=10, warmup_steps=10)


def test_evaluate_counts_each_image_once_and_leaves_the_model_as_it_was(data):
    model = small_vit().train()
    result = evaluate(model, data.validation, batch_size=7)  # 50 = 7 * 7 + 1
    assert model.training
    model.eval()
    with torch.no_grad():
        logits = model(next(data.validation.batches(50))[0])
    right = (logits.argmax(1) == data.validation.labels).sum().item()
    assert result.accuracy == right / 50
    assert result.logits.shape == (50, 2)
    torch.testing.assert_close(result.logits, logits)
    loss = nn.functional.cross_entropy(logits, data.validation.labels).item()
    assert result.loss == pytest.approx(loss, rel=1e-5)


def test_tensorboard_has_loss_rate_and_accuracy(data, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = fit(small_vit(), data, run=FolderRun(tmp_path), **SETTINGS)
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {
        "train/loss",
        "train/lr",
        "validation/loss",
        "validation/accuracy",
    }
    assert len(events.Scalars("train/loss")) == 28
    accuracies = [e.value for e in events.Scalars("validation/accuracy")]
    assert accuracies == pytest.approx([row["val_accuracy"] for row in history])


def test_progress_prints_a_line_an_epoch(data, capsys):
    fit(small_vit(), data, **SETTINGS | {"progress": True})
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 4
    assert "accuracy" in lines[-1]


def test_seconds_count_on_over_a_resume(data, tmp_path):
    fit(small_vit(), data, run=FolderRun(tmp_path), **SETTINGS)
    before = time.perf_counter()
    history = fit(small_vit(), data, run=FolderRun(tmp_path, resume=True), **SETTINGS)
    assert len(history) == 4
    assert time.perf_counter() - before < 10


def test_a_run_is_begun_once(data):
    """A second fit would take up its counters, and neither optimizer nor schedule."""
    run = Run()
    fit(small_vit(), data, run=run, **SETTINGS)
    with pytest.raises(ValueError, match="begun already: take a new one"):
        fit(small_vit(), data, run=run, **SETTINGS)


# ---- what each argument of fit is for ----


@pytest.mark.parametrize("step", [Step, partial(LargeStep, precision="fp32")])
def test_fit_is_the_loop_that_one_would_write(data, step):
    recipe = dict(weight_decay=0.5, betas=(0.8, 0.95), clip_norm=0.2, seed=3)
    recipe |= dict(warmup=0.5, label_smoothing=0.3)
    model, twin = small_vit().eval(), small_vit()
    data.train = replace(data.train, augment=flip)
    settings = SETTINGS | {"epochs": 2, "batch_size": 40, "lr": 0.1}
    history = fit(model, data, step=step, **settings, **recipe)
    decayed, kept = (group["params"] for group in parameter_groups(twin, 0.0))
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.5}, {"params": kept, "weight_decay": 0}],
        betas=(0.8, 0.95),
        fused=True,
    )
    climb, fall = [1 / 4, 2 / 4, 3 / 4], [1, 3 / 4, 1 / 4]  # of a cosine in 3 steps
    losses = []
    for epoch in range(2):
        for images, labels in data.train.batches(40, seed=3, epoch=epoch):
            rate = 0.1 * [*climb, *fall][len(losses)]
            for group in optimizer.param_groups:
                group["lr"] = rate
            seed = 3 * 1_000_003 + len(losses)
            torch.manual_seed(seed)
            loss = nn.functional.cross_entropy(
                twin.train()(images), labels, label_smoothing=0.3
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([*decayed, *kept], 0.2)
            optimizer.step()
            losses.append(loss.item())
        row, found = history[epoch], evaluate(twin, data.validation)
        mean = sum(a * b for a, b in zip(losses[-3:], (0.4, 0.4, 0.2), strict=True))
        assert row["train_loss"] == pytest.approx(mean, rel=1e-5)
        assert row["val_loss"] == pytest.approx(found.loss, rel=1e-4)
        assert row["val_accuracy"] == found.accuracy
        assert row["lr"] == pytest.approx(0.1 * (1, 0)[epoch])
    assert model.training
    assert same_weights(model, twin)


def test_the_defaults_of_fit_are_those_of_the_recipe():
    given = dict(batch_size=128, lr=1e-3, weight_decay=0.05, betas=(0.9, 0.999))
    given |= dict(warmup=0.1, clip_norm=1.0, label_smoothing=0.0, seed=0)
    given |= dict(loss_fn=None, device=None, progress=True, step=Step, run=None)
    given |= dict(groups=parameter_groups)
    assert fit.__kwdefaults__ == given
    assert evaluate.__kwdefaults__ == {"batch_size": 500}


@pytest.mark.parametrize(
    "edge",
    [{"weight_decay": 0}, {"warmup": 0}, {"clip_norm": math.inf}, {"seed": 2**32 - 1}],
)
def test_settings_at_the_edge_are_in_range(data, edge):
    fit(small_vit(), data, **SETTINGS | {"epochs": 1} | edge)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"epochs": 0}, "epochs is 0, expected more than 0"),
        ({"weight_decay": -1}, "weight_decay is -1, expected 0 or more"),
        ({"weight_decay": math.nan}, "weight_decay is nan"),
        ({"lr": math.nan}, "lr is nan"),
        ({"warmup": -0.1}, "warmup is -0.1, expected 0 <= warmup < 1"),
        ({"label_smoothing": 1}, "label_smoothing is 1, expected 0 <= label_smoo"),
        ({"seed": 2**32}, r"seed is 4294967296, expected 0 <= seed < 2\*\*32"),
    ],
)
def test_what_is_out_of_range_says_what_would_not_be(data, wrong, expected):
    with pytest.raises(ValueError, match=f"^{expected}"):
        fit(small_vit(), data, **SETTINGS | wrong)


@pytest.mark.parametrize(
    ("cuda", "mps", "device"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_device_is_the_best_that_there_is(monkeypatch, cuda, mps, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert default_device() == device


def test_fit_takes_the_device_that_is_given_or_the_best(data, monkeypatch):
    def step(model, *args, **more):
        raise StopIteration(next(model.parameters()).device.type)

    monkeypatch.setattr(train_module, "default_device", lambda: "meta")
    for given, taken in ((None, "meta"), ("cpu", "cpu")):
        with pytest.raises(StopIteration, match=taken):
            fit(small_vit(), data, **SETTINGS | {"device": given}, step=step)


def test_the_random_state_of_the_device_in_use_is_kept_too(monkeypatch):
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: devices)
    assert random_state_kept(torch.device("cuda", 1)) == [torch.device("cuda", 1)]
    assert random_state_kept(torch.device("cpu")) == []


@pytest.mark.parametrize("make", [Step, LargeStep])
def test_an_update_tells_the_gradients_norm_as_it_was_before_clipping(make):
    model = nn.Linear(2, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    settings = {"loss_fn": lambda outputs, *_: outputs.sum(), "clip_norm": 0.5}
    step = make(model, optimizer, LambdaLR(optimizer, lambda _: 1.0), **settings)
    before = model.weight.detach().clone()
    batch = torch.tensor([[3.0, 4.0]]), torch.zeros(1)
    step.gradient(*batch) if make is Step else step.gradient((*batch, 1.0))
    norm = step.update()
    assert isinstance(norm, float) and norm == 5
    torch.testing.assert_close(before - model.weight, torch.tensor([[0.3, 0.4]]))


def test_no_token_decays_whoever_named_it_and_what_is_frozen_is_left_out():
    names = ("class_token", "distill_token", "pos_embed", "cls_token", "dist_token")
    model = nn.Module()
    for name in (*names, "weight", "frozen"):
        model.register_parameter(name, nn.Parameter(torch.zeros(1, 2, 3)))
    model.frozen.requires_grad_(False)
    decayed, kept = parameter_groups(model, 0.3)
    assert [id(p) for p in decayed["params"]] == [id(model.weight)]
    assert {id(p) for p in kept["params"]} == {id(getattr(model, n)) for n in names}


def test_a_climb_of_less_than_no_steps_is_refused():
    with pytest.raises(ValueError, match=r"warmup_steps -1 is not in \[0, 10\)"):
        rates(steps=10, warmup_steps=-1)


# ---- what a run remembers and tells ----


class Clock:
    """Instead of the module time: goes on when it is told, and not by itself."""

    def __init__(self):
        self.now = 1000.0

    def perf_counter(self):
        return self.now


def test_seconds_are_counted_of_steps_and_of_waiting_apart(data, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(train_module, "time", clock)

    class Slow(MemorySplit):
        def batches(self, *args, **more):
            assert more["device"] == torch.device("cpu")
            for batch in super().batches(*args, **more):
                clock.now += 3 / 16
                yield batch

    def loss_fn(logits, labels, images):
        clock.now += 1 / 16
        return nn.functional.cross_entropy(logits, labels)

    fields = {name: getattr(data.train, name) for name in ("images", "labels")}
    slow = SimpleNamespace(train=Slow(**fields), validation=data.validation)
    settings = SETTINGS | {"epochs": 2, "batch_size": 40}
    for number, row in enumerate(fit(small_vit(), slow, loss_fn=loss_fn, **settings)):
        assert row["seconds"] == 3 / 4 * (number + 1)
        assert row["images_per_second"] == 100 / (3 / 4)
        assert row["waiting"] == 3 / 4


def test_the_line_of_an_epoch_has_its_numbers(data, capsys):
    history = fit(small_vit(), data, **SETTINGS | {"epochs": 2, "progress": True})
    fit(small_vit(), data, **SETTINGS | {"epochs": 1})  # says nothing
    assert capsys.readouterr().out.splitlines() == [
        f"epoch   {row['epoch']}/2   train loss {row['train_loss']:.3f}   "
        f"validation loss {row['val_loss']:.3f}   accuracy {row['val_accuracy']:.1%}"
        for row in history
    ]


def test_a_loss_that_is_infinite_names_the_step_and_what_to_change(data):
    def loss_fn(logits, labels, images):
        return logits.sum() / 0

    with pytest.raises(FloatingPointError) as error:
        fit(small_vit(), data, loss_fn=loss_fn, warmup=0.2, **SETTINGS)
    assert str(error.value) in [
        f"the loss is {sign}inf at step 1 (epoch 1): try a lower lr than 0.015, or a "
        "longer warmup than 0.2"
        for sign in ("", "-")
    ]


def test_evaluate_learns_nothing_and_keeps_what_it_found_on_the_cpu(data):
    model = small_vit()
    found = evaluate(model, data.validation)
    assert not found.logits.requires_grad and found.logits.dtype == torch.float32
    assert found.logits.device.type == found.labels.device.type == "cpu"
    assert found.labels.tolist() == data.validation.labels.tolist()
    split = Half(data.validation)
    assert evaluate(model.bfloat16(), split).logits.dtype == torch.float32
    assert split.asked == (500, torch.device("cpu"))


class Half:
    """A split whose images come in bfloat16."""

    def __init__(self, split):
        self.split = split

    def batches(self, batch_size, *, device):
        self.asked = batch_size, device
        for images, labels in self.split.batches(batch_size, device=device):
            yield images.bfloat16(), labels


# ---- large steps ----


def test_each_part_of_each_step_has_draws_of_its_own(data):
    def drawn():
        draws = []

        def loss_fn(logits, labels, images):
            draws.append(torch.rand(()).item())
            return nn.functional.cross_entropy(logits, labels)

        step = partial(LargeStep, accumulate=2)
        settings = SETTINGS | {"epochs": 2, "batch_size": 40}
        fit(small_vit(), data, step=step, loss_fn=loss_fn, **settings)
        return draws

    first = drawn()
    assert len({*first}) == len(first) == 2 * 2 * 3
    assert drawn() == first


def test_a_large_step_is_resumed_with_its_own_average_and_precision(data, tmp_path):
    settings = SETTINGS | {"epochs": 1}

    def go_on(resume=True, **large):
        run = FolderRun(tmp_path, resume=resume)
        fit(small_vit(), data, run=run, step=partial(LargeStep, **large), **settings)

    go_on(resume=False, average=0.8, precision="bf16")
    for large, name in (
        ({"average": 0.9, "precision": "bf16"}, "average 0.8"),
        ({"average": 0.8, "precision": "fp32"}, "precision bf16"),
    ):
        with pytest.raises(ValueError, match=f"has {name}, not"):
            go_on(**large)
    go_on(average=0.8, precision="bf16", accumulate=2)  # as many parts as one likes


def test_an_averaged_run_that_is_cut_resumes_to_the_same_bits(data, tmp_path):
    """With an average of the weights, and of BatchNorm's statistics."""

    def net():
        torch.manual_seed(0)
        return ConvNet(in_channels=1, num_classes=2, widths=(4, 4))

    calls = []

    def interrupt(logits, labels, images):
        calls.append(1)
        if len(calls) == 10:
            raise KeyboardInterrupt
        return nn.functional.cross_entropy(logits, labels)

    settings = SETTINGS | {"epochs": 2, "step": partial(LargeStep, average=0.8)}
    whole, resumed = net(), net()
    fit(whole, data, **settings)
    with pytest.raises(KeyboardInterrupt):
        fit(net(), data, run=FolderRun(tmp_path), loss_fn=interrupt, **settings)
    fit(resumed, data, run=FolderRun(tmp_path, resume=True), **settings)
    assert same_weights(whole, resumed)
    raw = net()
    fit(raw, data, **settings | {"step": Step})
    mean, last = (dict(m.named_buffers()) for m in (whole, raw))
    for name in ("stages.1.running_mean", "stages.1.running_var"):
        assert not torch.allclose(mean[name], last[name], atol=1e-4)


def test_a_run_in_fp16_goes_on_with_the_scale_that_it_had_found(data, tmp_path):
    """One begun anew would leave out steps that the whole run takes."""
    calls, made = [], []

    def loss_fn(logits, labels, images):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        loss = nn.functional.cross_entropy(logits, labels)
        return loss + (0 * logits.sum()).sqrt() if len(calls) == 1 else loss

    def step(*args, **settings):
        made.append(LargeStep(*args, precision="fp16", **settings))
        return made[-1]

    settings = SETTINGS | {"epochs": 1, "loss_fn": loss_fn, "step": step}
    with pytest.raises(KeyboardInterrupt):
        fit(small_vit(), data, run=FolderRun(tmp_path), **settings)
    fit(small_vit(), data, run=FolderRun(tmp_path, resume=True), **settings)
    assert [one.amp.scaler.get_scale() for one in made] == [2**15, 2**15]


def test_validation_is_computed_in_the_precision_of_training(data):
    class Seen(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.dtypes = nn.Linear(64, 2), {True: set(), False: set()}

        def forward(self, images):
            logits = self.layer(images.flatten(1))
            self.dtypes[self.training].add(logits.dtype)
            return logits

    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16, "auto": torch.float32}
    for precision, dtype in kinds.items():
        model = Seen()
        step = partial(LargeStep, precision=precision)
        fit(model, data, step=step, **SETTINGS | {"epochs": 1})
        assert model.dtypes == {True: {dtype}, False: {dtype}}


def test_settings_of_a_large_step_at_the_edge_are_in_range(data):
    for large in ({"average": 0}, {"average": 0.999}, {"accumulate": 1}):
        fit(
            small_vit(),
            data,
            step=partial(LargeStep, **large),
            **SETTINGS | {"epochs": 1},
        )
    for large in ({"average": -0.1}, {"average": 1.0}, {"accumulate": -1}):
        ((name, value),) = large.items()
        with pytest.raises(ValueError, match=f"^{name} is {value}, expected"):
            fit(small_vit(), data, step=partial(LargeStep, **large), **SETTINGS)


# ---- precision ----


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16), ((7, 5), torch.float16)],
)
def test_auto_precision_asks_what_a_cuda_device_can(monkeypatch, capability, dtype):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.amp, "GradScaler", lambda device, enabled: enabled)
    amp = MixedPrecision("auto", torch.device("cuda"))
    assert amp.dtype == dtype
    assert amp.scaler == (dtype == torch.float16)


def test_fp16_scales_the_loss_clips_the_true_gradient_and_skips_what_overflows():
    amp = MixedPrecision("fp16", torch.device("cpu"))
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    amp.backward(weight.square().sum() / 2)
    assert weight.grad.tolist() == [3 * 2**16, 4 * 2**16]
    assert amp.step(optimizer, clip_norm=1.0) == pytest.approx(5)
    assert weight.tolist() == pytest.approx([2.4, 3.2])
    optimizer.zero_grad()
    amp.backward((weight * math.inf).sum())
    assert amp.step(optimizer, clip_norm=1.0) == 0
    assert weight.tolist() == pytest.approx([2.4, 3.2])
    assert amp.scaler.get_scale() == 2**15


def test_in_other_precisions_a_gradient_that_is_not_finite_is_told():
    amp = MixedPrecision("bf16", torch.device("cpu"))
    weight = nn.Parameter(torch.ones(2))
    amp.backward((weight * math.inf).sum())
    assert amp.step(torch.optim.SGD([weight], lr=1.0), clip_norm=1.0) == math.inf
