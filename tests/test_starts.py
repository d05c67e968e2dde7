"""The study of chapter 17's starts: what it runs, and that the record is its own."""

import json

import pytest
import torch

from experiments import starts
from vitutils.data import DATA
from vitutils.engine.checkpoints import load_model

HELD = json.loads((DATA / "results" / "starts.json").read_text())


def test_the_record_is_of_these_tasks():
    assert [row["task"] for row in HELD["runs"]] == starts.all_tasks()
    assert HELD["settings"] == starts.SETTINGS
    for row in starts.of(HELD["runs"], on="photographs"):
        assert len(row["hits"]) == len(row["neighbor"])
    for start in starts.STARTS:
        rows = starts.at_best_rate(HELD["runs"], on="digits", start=start)
        assert {row["task"]["lr"] for row in rows} == {1e-3}  # of the longer runs too
        rows = starts.of(HELD["runs"], on="photographs", start=start, lr=1e-3, seed=1)
        assert sum(len(row["hits"]) for row in rows) == 103


def test_the_rate_is_chosen_by_digits_that_are_neither_learned_nor_tested():
    runs = [
        {"task": task, "spare": 0.5, "test": float(task["lr"] == 1e-3)}
        for task in starts.all_tasks()
        if task["on"] == "digits"
    ]
    best = starts.at_best_rate(runs, on="digits", start="new")
    assert best == starts.of(runs, start="new", lr=3e-4)  # the smallest of equals
    for row in starts.of(runs, lr=3e-3):
        row["spare"] = 0.6
    best = starts.at_best_rate(runs, on="digits", start="new")
    assert best == starts.of(runs, start="new", lr=3e-3)


def test_a_start_has_the_trained_body_and_a_new_head():
    trained = load_model(starts.FILE).state_dict()
    made, new = (starts.beginning(start, 0).state_dict() for start in starts.STARTS)
    for key, value in made.items():
        assert torch.equal(value, new[key] if "head" in key else trained[key])
    assert not torch.equal(made["head.weight"], trained["head.weight"])


def test_a_shuffled_start_has_the_trained_numbers_in_other_places():
    trained = load_model(starts.FILE).state_dict()
    made, new = (starts.beginning(k, 0).state_dict() for k in ("shuffled", "new"))
    again = starts.beginning("shuffled", 1).state_dict()
    for key, value in made.items():
        if "head" in key:
            assert torch.equal(value, new[key])
        else:
            own, mixed = trained[key].flatten(), value.flatten()
            assert torch.equal(own.sort().values, mixed.sort().values)
            assert not torch.equal(own, mixed)
            assert not torch.equal(mixed, again[key].flatten())


def test_draws_share_no_digit():
    drawn = torch.cat([starts.labelled(draw) for draw in range(6)])
    assert sorted(drawn.tolist()) == list(range(600))


@pytest.mark.slow(5)
def test_each_kind_of_run_is_made_and_made_again(monkeypatch):
    monkeypatch.setitem(starts.SETTINGS, "steps", 2)
    task = starts.all_tasks()[0]
    results = starts.run(task)
    assert results.keys() == {"own", "spare", "test"}
    assert starts.run(task) == results
    monkeypatch.setitem(starts.SETTINGS, "epochs", 1)
    photos = next(task for task in starts.all_tasks() if task["on"] == "photographs")
    found = starts.run(photos)
    assert set(found["hits"]) <= {"0", "1"} and len(found["hits"]) == 26


def test_longer_runs_have_the_steps_of_their_task(monkeypatch):
    asked = []
    monkeypatch.setattr(starts, "digits", lambda: (torch.zeros(900), torch.zeros(900)))
    monkeypatch.setattr(starts, "correct", lambda model, *rows: torch.ones(2))
    monkeypatch.setattr(
        starts, "fine_tune", lambda *_, steps, **__: asked.append(steps)
    )
    tasks = [{"task": task} for task in starts.all_tasks()]
    starts.run(starts.of(tasks, on="digits")[0]["task"])
    for start, steps in starts.LONGER:
        starts.run(starts.of(tasks, on="longer", start=start, steps=steps)[0]["task"])
    assert asked == [320, 1000, 3000, 3000]
