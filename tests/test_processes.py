"""Several processes train as one would: forked ones, and torchrun's, on the CPU."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from test_train import SETTINGS, bright_halves, small_vit

from vitutils import processes
from vitutils.cli.train import told_before_the_end
from vitutils.data import augmentation
from vitutils.data.splits import generator
from vitutils.distill import ConvNet
from vitutils.engine.checkpoints import load_model, load_state
from vitutils.engine.folder_run import FolderRun
from vitutils.engine.large_step import LargeStep, evaluate_together
from vitutils.engine.precision import MixedPrecision
from vitutils.train import evaluate, fit

pytestmark = pytest.mark.xdist_group("processes")  # they share two runs


def trained(folder, *, stop=None, linger=0, resume=False):
    """Train with no random draw that the number of parts would change.

    Args:
        folder: the run's.
        stop: (rank, images, signal): after so many that one sends itself a signal.
        linger: seconds between an error and its message.
        resume: whether to go on with the folder's run.

    Returns:
        The weights, the history, what was seen, and what evaluation found.
    """
    data = SimpleNamespace(train=bright_halves(101, 0), validation=bright_halves(51, 1))
    model, seen = small_vit(dropout=0.0), []

    def loss_fn(logits, labels, images):
        seen.extend(images.flatten(1).sum(1).tolist())
        if stop and processes.rank() == stop[0] and len(seen) > stop[1]:
            os.kill(os.getpid(), stop[2])
        return torch.nn.functional.cross_entropy(logits, labels)

    run, settings = FolderRun(folder, resume=resume), SETTINGS | {"epochs": 3}
    try:
        history = fit(model, data, step=LargeStep, run=run, loss_fn=loss_fn, **settings)
    except BaseException:
        time.sleep(linger)  # torchrun's SIGTERM comes before the message
        raise
    amp = MixedPrecision("fp32", torch.device("cpu"))
    found = evaluate_together(model, data.validation, amp)
    return {
        "weights": model.state_dict(),
        "history": history,
        "seen": seen,
        "logits": found.logits,
        "labels": found.labels,
    }


def assert_same(a, b, **tolerance):
    """All weights are close but the keys' biases.

    They shift a query's logits alike, and softmax does not mind: their gradient is zero
    but for rounding, of which AdamW, dividing by its size, makes whole steps.
    """
    for name, value in a["weights"].items():
        found = b["weights"][name]
        if name.endswith("qkv.bias"):
            (q, _, v), (found_q, _, found_v) = value.chunk(3), found.chunk(3)
            value, found = torch.cat((q, v)), torch.cat((found_q, found_v))
        torch.testing.assert_close(found, value, **tolerance)


@pytest.fixture(scope="session")
def one(tmp_path_factory):
    """A run of one process."""
    return trained(tmp_path_factory.mktemp("one") / "run")


# ---- torchrun ----


def train_two(folder, **options):
    """Let torchrun run this file as two processes; return what came of them."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return subprocess.run(
        [*run, "--nproc-per-node=2", __file__, folder, json.dumps(options)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def main(folder, options):
    with processes.joined(), told_before_the_end():
        found = trained(folder, **json.loads(options))
        torch.save(found, f"{folder}-{processes.rank()}.pt")


@pytest.fixture(scope="session")
def two(tmp_path_factory):
    """The same run of two processes."""
    folder = tmp_path_factory.mktemp("two") / "run"
    done = train_two(folder)
    assert done.returncode == 0, done.stderr
    return folder, [torch.load(f"{folder}-{rank}.pt") for rank in range(2)]


@pytest.mark.slow(12)
def test_two_processes_give_the_weights_of_one(one, two):
    _, (first, second) = two
    assert_same(first, second, atol=0, rtol=0)
    assert_same(one, first, atol=1e-4, rtol=1e-4)
    for a, b in zip(one["history"], first["history"], strict=True):
        assert b["train_loss"] == pytest.approx(a["train_loss"], rel=1e-4)
        assert b["val_accuracy"] == a["val_accuracy"]
        assert b["step"] == a["step"]


@pytest.mark.slow(3)
def test_each_image_is_seen_once_an_epoch(one, two):
    _, both = two
    epoch = len(one["seen"]) // 3
    assert epoch == 101
    shares = [process["seen"][: len(process["seen"]) // 3] for process in both]
    assert {len(share) for share in shares} == {50, 51}  # 6 of 16 and one of 5
    together = torch.tensor([value for share in shares for value in share])
    alone = torch.tensor(one["seen"][:epoch])
    torch.testing.assert_close(together.sort()[0], alone.sort()[0])


@pytest.mark.slow(3)
def test_evaluation_counts_each_image_once_in_order(one, two):
    _, both = two
    for process in both:
        assert process["logits"].shape == (51, 2)  # 51 does not divide by 2
        assert torch.equal(process["labels"], one["labels"])
        torch.testing.assert_close(
            process["logits"], one["logits"], atol=1e-3, rtol=1e-3
        )


@pytest.mark.slow(3)
def test_only_the_first_process_writes(two):
    folder, _ = two
    names = sorted(path.name.split(".")[0] for path in folder.glob("[!.]*"))
    assert names == ["best", "events", "last"]
    load_model(folder / "best.safetensors")


@pytest.mark.slow(13)
def test_a_process_that_dies_ends_the_run_and_leaves_a_checkpoint(one, tmp_path):
    folder = tmp_path / "run"
    start = time.monotonic()
    done = train_two(folder, stop=(1, 70, signal.SIGKILL), linger=2)
    assert done.returncode != 0
    assert time.monotonic() - start < 120
    assert "SIGKILL" in done.stderr or "exitcode" in done.stderr
    assert "goes on from" in done.stderr
    assert not list(folder.glob(".*.part"))
    load_model(folder / "best.safetensors")
    assert load_state(folder / "last.pt")["step"] >= 7
    assert_same(one, trained(folder, resume=True), atol=1e-4, rtol=1e-4)


ALONE = """
from pathlib import Path
import torch
from torch.nn.parallel import DistributedDataParallel
from vitutils import processes

def main():
    net = DistributedDataParallel(torch.nn.Linear(1, 1))
    net(torch.ones(1, 1)).sum().backward()

def threads():
    return sum(1 for _ in Path("/proc/self/task").iterdir())

before = threads()
with processes.joined():
    main()
    assert threads() > before
assert threads() == before
"""


@pytest.mark.slow(4)
@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_no_thread_outlives_the_processes_together():
    """A thread that is left can abort the process as it ends; one shows it."""
    alone = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        env=os.environ | alone | {"MASTER_PORT": f"{free_port()}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


# ---- who am I? ----


def test_settings_differ_where_one_alone_is_a_dict():
    nested = {"crop": {"scale": 1}}
    for before, now in ((nested, {"crop": None}), ({"crop": None}, nested)):
        found = processes.difference(before, now)
        assert found == ("crop", before["crop"], now["crop"])
    assert processes.difference(nested, {"crop": {"scale": 1}}) is None


def test_alone_every_question_has_its_plain_answer():
    assert (processes.count(), processes.rank()) == (1, 0)
    assert processes.total(2.0, 0.0) == (2.0, 0.0)
    assert processes.share(5).tolist() == [0, 1, 2, 3, 4]
    rows = torch.rand(5, 2)
    assert processes.gather(rows, 5) is rows
    model = torch.nn.Linear(2, 2)
    assert processes.replicate(model) is model
    assert processes.ask_first(max, 1, 2) == 2
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(
    ("local", "device"), [({}, 1), ({"LOCAL_RANK": "0"}, 0)], ids=["untold", "told"]
)
def test_each_process_takes_a_gpu_though_nobody_tells_it_which(
    monkeypatch, local, device
):
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", **local}.items():
        monkeypatch.setenv(name, value)
    if not local:
        monkeypatch.delenv("LOCAL_RANK", raising=False)
    taken, begun = [], []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(
            processes.dist, name, lambda *backends: begun.append(backends)
        )
    with processes.joined():
        assert taken == [device]
    assert begun == [("cpu:gloo,cuda:nccl",), ()]


# ---- two processes in a second: forked from this one, which has imported torch ----


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def in_two(folder, work):
    """Return what ``work(rank)`` returns in each of two processes that are joined."""
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{free_port()}"}

    def run(rank):
        torch.set_num_threads(1)
        os.environ.update(place, RANK=f"{rank}", LOCAL_RANK="0", WORLD_SIZE="2")
        with processes.joined():
            torch.save(work(rank), folder / f"{rank}.pt")

    fork = multiprocessing.get_context("fork").Process
    both = [fork(target=run, args=(rank,)) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(60)
    assert [process.exitcode for process in both] == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_every_question_has_one_answer_in_both(tmp_path):
    def work(rank):
        norm = torch.nn.BatchNorm1d(3)
        norm.running_mean.fill_(rank + 1)
        processes.copy_buffers(norm)
        return {
            "who": (processes.rank(), processes.count()),
            "total": processes.total(1.0 + rank, 0.1),
            "share": processes.share(5).tolist(),
            "gathered": processes.gather(10 * processes.share(5)[:, None], 5).tolist(),
            "buffers": norm.running_mean.tolist(),
            "asked": processes.ask_first(lambda number: 7 * number + rank, 2),
        }

    first, second = in_two(tmp_path, work)
    assert (first.pop("who"), second.pop("who")) == ((0, 2), (1, 2))
    assert (first.pop("share"), second.pop("share")) == ([0, 2, 4], [1, 3, 0])
    gathered = [[0], [10], [20], [30], [40]]
    expected = {"total": (3.0, 0.2), "gathered": gathered, "buffers": [1, 1, 1]}
    assert first == second == expected | {"asked": 14}


def test_the_firsts_error_is_everybodys_and_nobody_waits(tmp_path):
    def work(rank):
        def fail():
            if rank == 0:
                raise OSError("a full disk")

        with pytest.raises(OSError, match="a full disk"):
            processes.ask_first(fail)
        processes.expect_same({"seed": 1, "data": {"images": "same"}})
        with pytest.raises(ValueError) as error:
            processes.expect_same({"seed": 1, "data": {"images": rank}})
        return str(error.value)

    first, second = in_two(tmp_path, work)
    assert first == "another process has other settings or data than the first"
    assert second == "images is 0 in the first process, and 1 here"


def test_an_error_of_the_first_process_is_raised_in_all(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last.pt").touch()

    def work(rank):
        with pytest.raises(FileExistsError, match="resume=True") as error:
            trained(tmp_path / "run")
        return str(error.value)

    first, second = in_two(tmp_path, work)
    assert first == second


def test_gradients_are_averaged_at_the_last_part_of_a_step(tmp_path):
    def work(rank):
        torch.manual_seed(rank)  # the first's weights count
        net = processes.replicate(torch.nn.Linear(2, 1, bias=False))
        found = {"weights": net.module.weight.detach().clone(), "gradients": []}
        for last in (False, True):
            with processes.not_yet(net, last=last):
                net(torch.full((1, 2), 1.0 + rank)).sum().backward()
            found["gradients"].append(net.module.weight.grad[0].tolist())
        return found

    first, second = in_two(tmp_path, work)
    assert torch.equal(first["weights"], second["weights"])
    assert first["gradients"] == [[1, 1], [3, 3]]  # of 2 and 4
    assert second["gradients"] == [[2, 2], [3, 3]]


@pytest.mark.parametrize("parts", [1, 2])  # of each process's share of a step
def test_two_processes_take_the_steps_of_one(tmp_path, parts):
    """With all that is random, an average, and a last batch of one image."""
    images, validation = bright_halves(33, 0), bright_halves(9, 1)
    images = replace(images, augment=augmentation.shift_and_flip)
    data = SimpleNamespace(train=images, validation=validation)
    mix = augmentation.mixing(2, mixup=0.8, cutmix=1.0)
    settings = SETTINGS | {"epochs": 2}

    def train(accumulate):
        model = small_vit(dropout=0.1)
        step = partial(LargeStep, average=0.5, mix=mix, accumulate=accumulate)
        history = fit(model, data, step=step, **settings)
        rows = [[row["train_loss"], row["val_loss"]] for row in history]
        amp = MixedPrecision("fp32", torch.device("cpu"))
        found = evaluate_together(model, validation, amp)
        return {
            "weights": model.state_dict(),
            "losses": rows,
            "logits": found.logits,
            "labels": found.labels,
        }

    alone = train(accumulate=2 * parts)
    first, second = in_two(tmp_path, lambda rank: train(accumulate=parts))
    assert_same(first, second, atol=0, rtol=0)
    assert_same(alone, first, atol=1e-4, rtol=1e-4)
    for name in ("losses", "logits", "labels"):
        torch.testing.assert_close(first[name], alone[name], atol=1e-4, rtol=1e-4)
        assert torch.equal(*map(torch.as_tensor, (first[name], second[name])))


def test_the_copies_of_an_image_fall_on_both_processes(tmp_path):
    train = replace(bright_halves(7, 0), labels=torch.arange(7), repeats=3)
    data = SimpleNamespace(train=train, validation=bright_halves(9, 1))

    def work(_):
        seen = []

        def loss_fn(logits, labels, images):
            seen.append(labels.tolist())
            return logits.square().mean()

        settings = {"epochs": 1, "batch_size": 6, "device": "cpu", "progress": False}
        fit(small_vit(), data, step=LargeStep, loss_fn=loss_fn, **settings)
        return {"seen": seen}

    a, b, c, *_ = torch.randperm(7, generator=generator(0, 0)).tolist()
    assert work(0)["seen"] == [[a, b, a, b, a, b], [c]]  # of the order aaabbbc
    first, second = in_two(tmp_path, work)
    assert first["seen"] == [[a, b, a], [c]]
    assert second["seen"] == [[b, a, b], [c]]  # that c counts nothing: it is no copy


def test_two_processes_validate_with_the_firsts_running_statistics(tmp_path):
    """Each has BatchNorm's of its own images, but one model is kept."""
    data = SimpleNamespace(train=bright_halves(64, 0), validation=bright_halves(9, 1))

    class Counted(ConvNet):
        def forward(self, images):
            if not self.training:
                counts.append(len(images))
            return super().forward(images)

    def work(rank):
        torch.manual_seed(0)
        net = Counted(in_channels=1, num_classes=2, widths=(4, 4))
        settings = SETTINGS | {"epochs": 1}
        (row,) = fit(net, data, step=LargeStep, **settings)
        found = {
            "told": row["val_loss"],
            "weights": net.state_dict(),
            "seen": [*counts],
        }
        return found | {"found": evaluate(net, data.validation).loss}

    counts = []
    first, second = in_two(tmp_path, work)
    assert_same(first, second, atol=0, rtol=0)
    assert first["seen"] == second["seen"] == [5]  # of 9, a half
    assert first["told"] == second["told"] == pytest.approx(first["found"], rel=1e-5)


def test_a_signal_to_one_process_ends_both_after_the_same_step(tmp_path):
    data = SimpleNamespace(train=bright_halves(64, 0), validation=bright_halves(9, 1))

    def work(rank):
        steps = []

        def loss_fn(logits, labels, images):
            steps.append(1)
            if rank == 1 and len(steps) == 3:
                signal.raise_signal(signal.SIGTERM)
            return torch.nn.functional.cross_entropy(logits, labels)

        run, settings = FolderRun(tmp_path / "run"), SETTINGS | {"epochs": 2}
        with pytest.raises(KeyboardInterrupt, match="stopped after step 3"):
            fit(small_vit(), data, step=LargeStep, run=run, loss_fn=loss_fn, **settings)
        return len(steps)

    assert in_two(tmp_path, work) == [3, 3]
    assert load_state(tmp_path / "run" / "last.pt")["step"] == 3


@pytest.mark.slow(2)
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 2)])
def test_a_run_goes_on_with_as_many_processes_or_others(tmp_path, before, after):
    def cut(rank):
        stop = (0, 150 // before, signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt, match="goes on from"):
            trained(tmp_path / "run", stop=stop)

    def go_on(rank):
        return trained(tmp_path / "run", resume=True)

    def at_once(rank):
        return trained(tmp_path / "whole")

    in_some = {1: lambda folder, work: [work(0)], 2: in_two}
    in_some[before](tmp_path, cut)
    assert 7 <= load_state(tmp_path / "run" / "last.pt")["step"] < 14  # second epoch
    again, *_ = in_some[after](tmp_path, go_on)
    whole, *_ = in_some[after](tmp_path, at_once)
    tolerance = 0 if before == after else 1e-4  # 0: to the very bits
    assert_same(whole, again, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"data": 5}, "training images is of SHA-256"),
        ({"seed": 5}, "seed is 0 in the first process, and 5 here"),
        ({"patience": 2}, "patience is None in the first process, and 2 here"),
    ],
    ids=["data", "settings", "patience"],
)
def test_two_processes_of_other_data_or_settings_do_not_begin(tmp_path, odd, said):
    """Where one machine's folder lacks a file, or a command differs."""

    def work(rank):
        own = {"data": 0, "seed": 0, "patience": None} | (odd if rank == 1 else {})
        train, validation = bright_halves(64, own["data"]), bright_halves(9, 1)
        data = SimpleNamespace(train=train, validation=validation)
        run = FolderRun(tmp_path / "run", patience=own["patience"])
        settings = SETTINGS | {"seed": own["seed"]}
        with pytest.raises(ValueError) as error:
            fit(small_vit(), data, step=LargeStep, run=run, **settings)
        return str(error.value)

    first, second = in_two(tmp_path, work)
    assert first == "another process has other settings or data than the first"
    assert second.startswith(said)
    assert not (tmp_path / "run").exists()


if __name__ == "__main__":
    main(*sys.argv[1:])
