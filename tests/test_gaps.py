"""The study of chapter 16: what it runs, and that the record is its own."""

import json
from dataclasses import replace

import pytest
import torch

from experiments import gaps
from experiments.fashion_mnist import VIT
from vitutils.data import DATA, load


def test_the_record_is_of_these_tasks():
    held = json.loads((DATA / "results" / "gaps.json").read_text())
    assert [row["task"] for row in held["runs"]] == gaps.tasks()
    assert held["settings"] == gaps.SETTINGS
    assert held["command"].startswith("python -m experiments gaps")


def test_a_network_with_gaps_misses_patches_in_training_alone():
    torch.manual_seed(0)
    model, images = gaps.Gappy(**VIT), torch.randn(2, 1, 28, 28)
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for _ in range(200):
        model(images)
    assert {x.shape[1] for x in seen} == set(range(9, 18))
    seen.clear()
    model.eval()(images, need_weights=True)
    assert seen[0].shape[1] == 17


def test_nothing_removed_is_the_whole_image():
    model, images = gaps.Gappy(**VIT).eval(), torch.randn(2, 1, 28, 28)
    none = torch.zeros(2, 16).bool()
    for erase in (gaps.removed, gaps.painted):
        torch.testing.assert_close(erase(model, images, none), model(images))


def test_black_is_a_pixel_of_zero():
    fashion = load("fashion_mnist")
    assert -fashion.mean[0] / fashion.std[0] == gaps.BLACK
    images, _ = next(fashion.validation.batches(20))
    assert images.min().item() == pytest.approx(gaps.BLACK)


def test_another_image_has_the_same_answer():
    answers = torch.tensor([1, 0, 1, 0, 1])
    assert gaps.next_alike(answers).tolist() == [2, 3, 4, 1, 0]


@pytest.mark.slow(3)
def test_a_network_is_trained_and_judged(monkeypatch):
    def few(name):
        found = load(name)
        return replace(found, train=found.train.subset(64))

    monkeypatch.setattr(gaps, "load", few)
    monkeypatch.setitem(gaps.SETTINGS, "images", 20)
    found = {arm: gaps.train({"arm": arm, "seed": 0}) for arm in gaps.ARMS}
    assert found["gaps"] == gaps.train({"arm": "gaps", "seed": 0})
    assert found["gaps"] != found["flips"] != found["crops"]
    assert {*found["gaps"]["stay"]} == {"removed", "painted"}
