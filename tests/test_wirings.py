"""The study of chapter 4: what it runs, and that the record is its own."""

import json
import re

import pytest
import torch
from torch import nn

from experiments import wirings
from vitutils.data import DATA
from vitutils.encoder import Block

HELD = json.loads((DATA / "results" / "wirings.json").read_text())


def test_the_record_is_of_these_tasks():
    rates = wirings.best_rates(HELD["runs"])
    tasks = wirings.search() + wirings.tasks_of(rates, wirings.SEEDS)
    tasks += wirings.afterwards()
    assert [row["task"] for row in HELD["runs"]] == tasks
    assert HELD["settings"] == wirings.SETTINGS
    assert re.fullmatch(
        r"python -m experiments wirings( --workers \d+)?", HELD["command"]
    )


def test_the_rate_is_chosen_on_other_seeds_and_the_smallest_of_equals():
    assert not set(wirings.TUNING) & set(wirings.SEEDS)
    runs = [{"task": task, "accuracy": 0.5} for task in wirings.search()]
    assert set(map(tuple, wirings.best_rates(runs).values())) == {(3e-4,)}
    for row in runs:
        row["accuracy"] += row["task"]["lr"] == 3e-3
    assert set(map(tuple, wirings.best_rates(runs).values())) == {(3e-3,)}


def test_pre_norm_is_the_block_of_the_book():
    block, x = Block(embed_dim=8, num_heads=2, mlp_dim=16), torch.randn(2, 5, 8)
    torch.testing.assert_close(wirings.step(block, x, "pre-norm"), block(x)[0])
    found = [wirings.step(block, x, wiring) for wiring in wirings.WIRINGS]
    for i, one in enumerate(found):
        assert not any(torch.allclose(one, other) for other in found[:i])


@pytest.mark.slow(2)
def test_a_stack_is_trained_and_measured(monkeypatch):
    monkeypatch.setitem(wirings.SETTINGS, "steps", 3)
    task = {"wiring": "pre-norm", "warmup": 30, "depth": 2, "lr": 1e-3, "seed": 0}
    results = wirings.train(task)
    assert 0 <= results["accuracy"] <= 1
    assert wirings.train(task) == results
    assert wirings.train(task | {"warmup": 0}) != results
    assert wirings.rounded(float("nan")) is None


def test_a_layer_scale_of_zero_leaves_the_stream_as_it_is():
    model = wirings.Counter("residual alone", 2, scale=1.0)
    plain = wirings.Counter("residual alone", 2)
    assert len(model.state_dict()) == len(plain.state_dict()) + 4
    for module in model.modules():
        if isinstance(module, wirings.LayerScale):
            nn.init.zeros_(module.scale)
    sequences = wirings.sample(3)[0]
    torch.testing.assert_close(model.tokens(sequences), model.symbols(sequences))
