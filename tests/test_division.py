"""The study of chapter 1: what it runs, and that the record is its own."""

import json
import math

import pytest
import torch
import torch.nn.functional as F

from experiments import division
from vitutils.data import DATA


def test_the_record_is_of_these_tasks():
    held = json.loads((DATA / "results" / "division.json").read_text())
    assert [row["task"] for row in held["runs"]] == division.tasks()
    assert held["settings"] == division.SETTINGS
    assert held["command"].startswith("python -m experiments division")


@pytest.mark.parametrize(("seeds", "gap"), [(8, 5), (32, 10)])
def test_the_rule_is_seldom_met_by_equal_arms(seeds, gap):
    chances = torch.linspace(0.01, 0.99, 99)[:, None]
    count = torch.arange(seeds + 1.0)
    each = torch.distributions.Binomial(seeds, chances).log_prob(count).exp()
    pairs = each[:, :, None] * each[:, None]  # of two arms with so many seeds each
    apart = (count[:, None] - count).abs()
    assert (pairs * (apart >= gap)).sum(dim=(1, 2)).max() < 0.022


def losses(arms, steps=3):
    """Return the losses of some steps from the same start."""
    found = []
    for model, optimizer in arms:
        torch.manual_seed(1)
        for _ in range(steps):
            *given, answers = division.examples(8)
            loss = F.cross_entropy(model(*given), answers)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found.append(loss.item())
    return found


def test_both_changes_undone_are_the_divided_layer():
    arms = []
    for arm in ("divided", "small start"):
        torch.manual_seed(0)
        arms.append(division.prepare({"d_k": 64, "arm": arm, "lr": 1e-2}))
    arms[1][1].param_groups[0]["lr"] /= math.sqrt(64)  # W_q takes smaller steps, too
    one, other = losses(arms)
    assert one == pytest.approx(other, rel=1e-3)


def test_arms_differ_in_what_they_are_named_for():
    starts, rates = {}, {}
    for arm in (*division.ARMS, "own steps"):
        torch.manual_seed(0)
        task = {"d_k": 64, "arm": arm, "lr": 1e-2}
        model, optimizer = division.prepare(task)
        logits = model.w_q.weight @ model.w_k.weight.T
        starts[arm] = model.factor * logits.norm().item()
        rates[arm] = [round(1e-2 / g["lr"]) for g in optimizer.param_groups]
    for arm in ("small start", "shared start"):
        assert starts[arm] == pytest.approx(starts["divided"])
    assert starts["small steps"] == pytest.approx(8 * starts["divided"])
    assert starts["own steps"] == starts["small steps"]
    assert rates.pop("small steps") == [8, 8, 1, 1]
    assert rates.pop("own steps") == [8, 8, 2, 2]  # 1e-2 by REST is 2.5
    assert {tuple(r) for r in rates.values()} == {(1, 1, 1, 1)}


@pytest.mark.slow(1)
def test_a_model_is_trained_and_scored(monkeypatch):
    monkeypatch.setitem(division.SETTINGS, "marks", [1, 2])
    task = {"d_k": 64, "arm": "warm-up 10", "lr": 1e-2, "seed": 0}
    found = division.train(task)
    assert found == division.train(task)
    assert found != division.train(task | {"arm": "undivided"})
    assert {*found["accuracy"]} == {"1", "2"}
