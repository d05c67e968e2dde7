"""The study of a teacher's worth over the length of training: tasks and conclusions.

tests/test_gpu.py runs it whole, at toy size.
"""

from functools import partial

import pytest
import torch
from torchvision.transforms import v2

from experiments import distillation_long as study
from vitutils.data.augmentation import flip


def row(task, accuracy):
    name = "both" if task["arm"] == "token" else "class"
    measured = {"accuracy": {name: accuracy}}
    return {"task": task} | measured | {"validation": measured}


def every_run(accuracy):
    runs = []
    for part in study.PARTS:
        tasks = study.tasks_of(part, runs, study.SETTINGS)
        runs += [row(task, accuracy(task)) for task in tasks]
    return runs


def test_each_length_has_both_arms_of_every_seed_and_a_teacher_of_its_images():
    runs = [run["task"] for run in every_run(lambda task: 0.5)]
    taught = {(t["images"], t["seed"]) for t in runs if t["arm"] == "teacher"}
    students = [task for task in runs if task["part"].startswith("lengths")]
    assert {(t["images"], t["seed"]) for t in students} < taught
    count = len(study.SEEDS) * len(study.ARMS)
    for images, lengths in ((10_000, (20, 40, 80, 160)), (45_000, (20, 40))):
        for epochs in lengths:
            which = {"images": images, "epochs": epochs}.items()
            assert sum(which <= task.items() for task in students) == count


def test_each_arm_takes_its_own_best_rate_from_a_seed_used_nowhere_else():
    best = {"none": 2e-3, "token": 5e-4}
    runs = every_run(lambda task: 0.6 if task.get("lr") == best.get(task["arm"]) else 0)
    for run in runs:
        task = run["task"]
        if task["part"] == "search":
            assert task["seed"] == study.TUNING_SEED
        elif task["part"].startswith("lengths"):
            assert task["seed"] in study.SEEDS and task["lr"] == best[task["arm"]]


def test_gains_by_length_and_their_change_with_each_doubling():
    def accuracy(task):
        if task["arm"] != "token":
            return 0.5 + 0.01 * task["seed"]
        gain = {20: 0.04, 40: 0.03, 80: 0.02, 160: 0.01}[task["epochs"]]
        return 0.5 + 0.01 * task["seed"] + gain + 0.001 * task["seed"]

    runs = every_run(accuracy)
    by_length, change = study.gains(runs, study.SETTINGS)
    means = {epochs: gain.mean for epochs, gain in by_length.items()}
    assert means == pytest.approx({20: 4.1, 40: 3.1, 80: 2.1, 160: 1.1})
    assert change.mean == pytest.approx(-1) and change.half == pytest.approx(0)
    # 0, 0.1 and 0.2 beside the mean: deviation 0.1, and t at 1 - 0.05 / 8 with two.
    half = 8.860 * 0.1 / 3**0.5
    assert by_length[20].half == pytest.approx(half, rel=1e-3)
    last = runs.index(next(r for r in runs if r["task"].get("epochs") == 160))
    by_length, _ = study.gains(runs[:last] + runs[last + 1 :], study.SETTINGS)
    assert [*by_length] == [20, 40, 80]  # of 160 epochs a run is missing
    assert "160" not in study.conclusion(runs[:last], study.SETTINGS)


def test_groups_of_a_batch_share_a_draw_and_keep_their_order():
    images = torch.randint(256, (10, 3, 8, 8), dtype=torch.uint8)
    shift = v2.RandomAffine(0, translate=(0.4, 0.4))
    augment = partial(study.in_groups, first=flip, transform=shift, group=4)
    before = torch.random.get_rng_state()
    found = augment(images, torch.Generator().manual_seed(1))
    assert torch.equal(before, torch.random.get_rng_state())
    again = augment(images, torch.Generator().manual_seed(1))
    assert torch.equal(found, again) and found.shape == images.shape
    draws = torch.Generator().manual_seed(1)
    flipped = flip(images, draws)
    seed = torch.randint(2**62, (), generator=draws).item()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = [shift(flipped[:4]), shift(flipped[4:8]), shift(flipped[8:])]
    assert torch.equal(found, torch.cat(parts))
