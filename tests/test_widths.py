"""The study of chapter 3: what it runs, and that the record is its own."""

import json
import math
import re

import pytest
import torch

from experiments import widths
from vitutils.data import DATA

HELD = json.loads((DATA / "results" / "widths.json").read_text())


def test_the_record_is_of_these_tasks():
    tasks = widths.search()
    tasks += widths.tasks_of(widths.best_rates(HELD["runs"]), widths.SEEDS)
    assert [row["task"] for row in HELD["runs"]] == tasks
    assert HELD["settings"] == widths.SETTINGS
    one = r"python -m experiments widths( --workers \d+)?"
    assert re.fullmatch(f"{one}(; {one})*", HELD["command"])


def test_the_rate_is_chosen_on_other_seeds_and_a_failure_is_not_chosen():
    assert not set(widths.TUNING) & set(widths.SEEDS)
    runs = [{"task": task, "error": 0.5} for task in widths.search()]
    assert set(map(tuple, widths.best_rates(runs).values())) == {(0.005,)}
    for row in runs:
        row["error"] -= row["task"]["lr"] == 0.16
        if (row["task"]["lr"], row["task"]["seed"]) == (0.16, 101):
            row["error"] = None if row["task"]["arm"] == "attention" else 0.4
    rates = widths.best_rates(runs)
    assert rates.pop("attention") == [0.005]
    assert set(map(tuple, rates.values())) == {(0.16,)}


def test_an_arm_is_what_its_name_says():
    sizes = {
        arm: sum(p.numel() for p in widths.new_model(arm).parameters())
        for arm in widths.ARMS
    }
    assert sizes["MLP of 16, 400 steps"] == sizes["MLP of 16 set by hand"] == 280
    assert sizes["no activation"] == sizes["MLP of 32"] == sizes["MLP of 32, skip"]
    assert sizes["MLP of 32, read"] == sizes["MLP of 32"] + widths.D * (widths.D + 1)
    found, x = {}, torch.randn(2, 8, widths.D)
    for arm in widths.BLOCKS:
        torch.manual_seed(0)
        found[arm] = widths.new_model(arm)(x)
    assert len(found) == len({y.sum().item() for y in found.values()}) == 8
    for arm in ("MLP of 16", "MLP of 16, start x 4", "MLP of 32", "MLP of 32, skip"):
        torch.manual_seed(0)
        found[arm] = widths.new_model(arm)
    plain, larger = found["MLP of 16"], found["MLP of 16, start x 4"]
    assert torch.equal(larger.fc1.weight, 4 * plain.fc1.weight)
    torch.testing.assert_close(found["MLP of 32, skip"](x), found["MLP of 32"](x) + x)
    linear = widths.new_model("block, no norms, no attention, no GELU")
    zero, (a, b) = torch.zeros(1, 8, widths.D), x[:, None]
    gap = linear(a + b) - linear(a) - linear(b) + linear(zero)
    torch.testing.assert_close(gap, zero, atol=1e-5, rtol=0)


def test_a_constant_and_equal_weights_stand_in_for_attention():
    x = torch.randn(2, 8, widths.D)
    constant = widths.new_model("block, norms, one constant, no GELU")
    torch.testing.assert_close(constant(x)[:, :1], constant(x[:, :1]))
    bare = constant(x)
    constant.constant.data.zero_()
    assert not torch.allclose(constant(x), bare)
    block = widths.new_model("block, norms, equal weights, no GELU")
    equal, block.equal = block(x), False
    assert not torch.allclose(block(x), equal)
    for of in block.attn.qkv.parameters():  # without queries and keys they are equal
        of.data[: 2 * widths.D] = 0
    torch.testing.assert_close(block(x), equal)


WIDER = f"block, norms, equal weights, no GELU{widths.WIDE}"


def test_a_wider_arm_has_wider_tokens():
    assert widths.new_model(WIDER)(torch.randn(2, 8, 16)).shape == (2, 8, 16)
    narrow = widths.new_model(WIDER.removesuffix(widths.WIDE))
    assert narrow.read.in_features == widths.D


@pytest.mark.parametrize("arm", ["MLP of 16", "attention", widths.BLOCKS[0], WIDER])
def test_a_network_is_trained_and_measured(monkeypatch, arm):
    monkeypatch.setitem(widths.ARMS, arm, 3)
    task = {"arm": arm, "lr": 0.01, "seed": 0}
    results = widths.train(task)
    assert 0 < results["error"] < 10 and math.isfinite(results["error"])
    assert widths.train(task) == results
    assert widths.train(task | {"lr": math.inf}) == {"error": None}
