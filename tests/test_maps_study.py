"""The study of chapter 9: what it runs, and that the record is its own."""

import json
from dataclasses import replace

import pytest
import torch

from experiments import gaps, maps
from vitutils.data import DATA, load


def test_the_record_is_of_this_task():
    held = json.loads((DATA / "results" / "maps.json").read_text())
    assert [row["task"] for row in held["runs"]] == maps.tasks()
    assert held["settings"] == json.loads(json.dumps(maps.SETTINGS))
    assert held["command"].startswith("python -m experiments maps")


def test_ranks_are_correlated():
    a = torch.tensor([[1.0, 2, 3, 4], [1, 2, 3, 4], [1, 2, 3, 4]])
    b = torch.tensor([[0.0, 0.1, 7, 9], [4, 3, 2, 1], [2, 1, 3, 4]])
    expected = torch.tensor([1.0, -1.0, 0.8])
    torch.testing.assert_close(maps.rank_correlation(a, b), expected)


def test_the_next_image_is_of_the_class_or_not():
    labels = torch.tensor([1, 0, 1, 0, 1])
    assert maps.next_image(labels, True).tolist() == [2, 3, 4, 1, 0]
    assert maps.next_image(labels, False).tolist() == [1, 2, 3, 4, 1]


def test_a_network_agrees_with_itself_and_not_with_another():
    images, labels = torch.randn(20, 1, 28, 28), torch.arange(20) % 4
    models = {"a": maps.untrained(3), "b": maps.untrained(3), "c": maps.untrained(4)}
    rows = maps.compared(models, images, labels)
    pairs = [row for row in rows if row["what"] == "pair"]
    alike = {row["mean"] for row in pairs if row["networks"] == ["a", "b"]}
    assert len(pairs) == 3 * 4 and alike == {1.0}
    assert all(row["mean"] < 0.9 for row in pairs if "c" in row["networks"])


def test_centered_maps_have_no_mean():
    found = maps.maps_of(maps.untrained(0), torch.randn(8, 1, 28, 28))
    for kind in ("layer 4", "rollout"):
        torch.testing.assert_close(found[kind, False].sum(dim=1), torch.ones(8))
        torch.testing.assert_close(found[kind, True].mean(dim=0), torch.zeros(16))


@pytest.mark.slow(3)
def test_networks_are_trained_and_compared(monkeypatch):
    def few(name):
        found = load(name)
        return replace(found, train=found.train.subset(64))

    monkeypatch.setattr(gaps, "load", few)
    monkeypatch.setitem(maps.SETTINGS, "images", 20)
    found = maps.compare({"trained": [0, 1], "fresh": [10]})
    assert [*found["accuracy"]] == [
        "trained 0",
        "trained 1",
        "start 0",
        "start 1",
        "fresh 10",
    ]
    assert found == maps.compare({"trained": [0, 1], "fresh": [10]})
