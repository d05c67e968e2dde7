"""The study of chapter 6: what it runs, and that the record is its own."""

import json

import pytest
import torch
import torch.nn.functional as F

from experiments import positions
from vitutils.data import DATA

HELD = json.loads((DATA / "results" / "positions.json").read_text())


def test_the_record_is_of_these_tasks():
    rates = positions.best_rates(HELD["runs"])
    tasks = positions.alike_tasks("fashion_mnist") + positions.search()
    tasks += positions.tasks_of(rates, positions.SEEDS)
    tasks += positions.alike_tasks("cifar10") + positions.afterwards()
    assert [row["task"] for row in HELD["runs"]] == tasks
    folder = HELD["settings"]["data"]
    assert HELD["settings"] == positions.SETTINGS | {"data": folder}
    command = f"python -m experiments positions --data {folder} --workers "
    assert HELD["command"] == f"{command}{HELD['workers']}"


def test_the_rate_is_chosen_on_another_seed_and_the_smallest_of_equals():
    assert positions.TUNING_SEED not in positions.SEEDS
    accuracy = {"400": 0.5, "800": 0.5}
    runs = [{"task": task, "accuracy": accuracy} for task in positions.search()]
    assert set(map(tuple, positions.best_rates(runs).values())) == {(1e-3,)}
    better = {"400": 0.6, "800": 0.4}  # at the end of the one, half way of the other
    for row in runs:
        if row["task"]["lr"] == 1e-2:
            row["accuracy"] = better
    for (on, _), rates in positions.best_rates(runs).items():
        assert rates == [1e-2 if on == "puzzle" else 1e-3]


def test_likeness_is_counted_by_hand():
    side = 5
    row = torch.arange(side).repeat_interleave(side)
    column = torch.arange(side).repeat(side)
    mirrored = F.one_hot(torch.minimum(column, side - 1 - column)).float()
    found = positions.likeness(mirrored, side)
    assert found["left_right"] == 1.0  # of partners alike, of others not
    assert found["up_down"] == 0.0  # a column is alike all the way
    turned = positions.likeness(F.one_hot(torch.minimum(row, 4 - row)).float(), side)
    assert (turned["left_right"], turned["up_down"]) == (0.0, 1.0)
    torch.manual_seed(0)
    drawn = positions.likeness(torch.randn(side * side, 500), side)
    assert all(abs(value) < 0.1 for value in drawn.values())
    near = [(r - r[:, None]).abs() for r in (row, column)]
    near = torch.exp(-sum(near).float())  # of which each place has a vector
    assert positions.likeness(near, side)["neighbors"] > 0.3


def test_the_pictures_of_each_arm():
    torch.manual_seed(0)
    images = torch.randint(256, (20, 1, 28, 28), dtype=torch.uint8)

    def shown(pictures, seed=0):
        draw = torch.Generator().manual_seed(seed)
        return positions.changed(images, draw, pictures=pictures)

    assert torch.equal(shown("as they are"), images)
    for pictures, axis in (("left-right", 3), ("up-down", 2)):
        turned = images.flip(axis)
        same = (shown(pictures) == images).flatten(1).all(dim=1)
        other = (shown(pictures) == turned).flatten(1).all(dim=1)
        assert same.any() and other.any() and (same ^ other).all()
    order = positions.fixed_order(images)
    patches = F.unfold(images.float(), 4, stride=4)
    mixed = F.unfold(shown("one order").float(), 4, stride=4)
    assert torch.equal(mixed, patches[:, :, order])
    assert torch.equal(shown("one order", 1), shown("one order"))
    assert not torch.equal(shown("new orders", 1), shown("new orders"))


@pytest.mark.slow(2)
@pytest.mark.parametrize("on, kind", [("puzzle", "none"), ("garments", "wrong order")])
def test_a_judge_is_trained_and_measured(monkeypatch, on, kind):
    monkeypatch.setitem(positions.ARMS, on, (4, [kind]))
    monkeypatch.setattr(positions, "MOMENTS", (2, 4))
    task = {"part": "kinds", "on": on, "positions": kind, "lr": 1e-3, "seed": 0}
    results = positions.run(task, folder="")
    assert list(results["accuracy"]) == ["2", "4"]
    assert positions.run(task, folder="") == results


@pytest.mark.slow(2)
def test_a_reordered_vit_is_measured_where_its_patches_come_from(monkeypatch):
    monkeypatch.setitem(positions.SETTINGS, "images", 256)
    task = {"part": "alike", "data": "fashion_mnist", "seed": 0}
    results = positions.run(task | {"pictures": "one order"}, folder="")
    assert results["before"] != results["after"] != results["after, by source"]
    plain = positions.run(task | {"pictures": "as they are"}, folder="")
    assert plain["before"] == results["before"] and len(plain) == 3


@pytest.mark.slow(1)
def test_mirrored_pictures_have_mean_patches_alike():
    task = {"part": "pictures", "data": "fashion_mnist", "pictures": "up-down"}
    found = positions.run(task, folder="")["mean patch"]
    plain = positions.run(task | {"pictures": "as they are"}, folder="")["mean patch"]
    assert found.keys() == plain.keys() == {"neighbors", "left_right", "up_down"}
    assert found["up_down"] > plain["up_down"]
