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
    tasks += positions.alike_tasks("cifar10")
    assert [row["task"] for row in HELD["runs"]] == tasks
    folder = HELD["settings"]["data"]
    assert HELD["settings"] == positions.SETTINGS | {"data": folder}
    command = f"python -m experiments positions --data {folder} --workers "
    made_by = HELD["command"].split("; ")
    assert all(one.startswith(command) for one in made_by)
    assert f"{command}{HELD['workers']}" in made_by


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
    assert found["left_right"] == [1.0, 0.0]  # of partners alike, of others not
    assert found["up_down"] == [1.0, 1.0]  # a column is alike all the way
    turned = positions.likeness(F.one_hot(torch.minimum(row, 4 - row)).float(), side)
    assert (turned["left_right"], turned["up_down"]) == ([1.0, 1.0], [1.0, 0.0])
    torch.manual_seed(0)
    drawn = positions.likeness(torch.randn(side * side, 500), side)
    assert all(abs(value) < 0.1 for pair in drawn.values() for value in pair)
    near = [(r - r[:, None]).abs() for r in (row, column)]
    near = torch.exp(-sum(near).float())  # of which each place has a vector
    alike, others = positions.likeness(near, side)["neighbors"]
    assert alike - others > 0.3
    assert list(positions.likeness(torch.randn(16, 8), 4)) == ["neighbors"]


def test_the_pictures_of_each_arm():
    torch.manual_seed(0)
    images = torch.randint(256, (20, 1, 28, 28), dtype=torch.uint8)

    def shown(pictures, seed=0):
        draw = torch.Generator().manual_seed(seed)
        return positions.changed(images, draw, pictures=pictures, patch=7)

    assert torch.equal(shown("as they are"), images)
    turned, found = images.flip(2), shown("up-down")
    same = (found == images).flatten(1).all(dim=1)
    other = (found == turned).flatten(1).all(dim=1)
    assert same.any() and other.any() and (same ^ other).all()
    mixed = shown("new orders")
    assert not torch.equal(shown("new orders", 1), mixed)
    patches = [F.unfold(x.float(), 7, stride=7).sum(dim=1) for x in (images, mixed)]
    assert torch.equal(*(one.sort(dim=1).values for one in patches))


def test_patches_of_other_pictures_stay_in_place_and_class():
    labels = torch.arange(60) % 3
    images = torch.arange(60).view(60, 1, 1, 1).expand(60, 1, 28, 28).byte()
    dealt = positions.of_other_pictures(images, labels, 7)
    assert dealt.dtype == images.dtype
    assert torch.equal(dealt % 3, images % 3)
    givers = F.unfold(dealt.float(), 7, stride=7)
    assert (givers == givers[:, :1]).all()  # a patch is of one picture
    givers = givers[:, 0]
    whole = torch.arange(60.0)[:, None].expand(60, 16)
    assert torch.equal(givers.sort(dim=0).values, whole)  # each is used once
    assert (givers == whole).float().mean() < 0.2
    assert (givers[:, :1] == givers[:, 1:]).float().mean() < 0.2


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
def test_a_vit_is_measured_before_and_after(monkeypatch):
    monkeypatch.setitem(positions.SETTINGS, "images", 256)
    task = {"part": "alike", "data": "fashion_mnist", "patch": 7, "seed": 0}
    plain = positions.run(task | {"pictures": "as they are"}, folder="")
    other = positions.run(task | {"pictures": "other pictures"}, folder="")
    assert plain["before"] == other["before"] and plain["after"] != other["after"]
    large = positions.run(
        task | {"pictures": "as they are", "sizes": "book"}, folder=""
    )
    assert large["before"] != plain["before"] != plain["after"]
