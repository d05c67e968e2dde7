"""The studies of chapters 8 and 12: what they run, and that the records are theirs."""

import json
import os
import re
from dataclasses import replace
from functools import cache

import pytest
import torch

from experiments import cifar10, fashion_mnist, settings
from experiments import deit_tables as experiments
from experiments.command import MODULES, main
from experiments.deit_tables import SEEDS, SETTINGS, STUDIES
from vitutils.data import DATA, load

SMALL = {"images": 64, "epochs": 1, "augment": "flips"}


@cache
def few_to_measure_on():
    """Fashion-MNIST with a tenth of its test images."""
    data = load("fashion_mnist")
    return replace(data, test=data.test.subset(1000))


@pytest.fixture
def few(monkeypatch):
    """Let the studies measure on few images."""
    monkeypatch.setattr(experiments, "load", lambda name: few_to_measure_on())
    experiments.fashion.cache_clear()
    yield
    experiments.fashion.cache_clear()


@pytest.fixture
def teacher(few, monkeypatch, tmp_path):
    """A teacher that has hardly learned, kept in a folder of its own."""
    monkeypatch.setattr(experiments, "CHECKPOINTS", tmp_path)
    cls, sizes, _ = experiments.TEACHERS["cnn"]
    monkeypatch.setitem(experiments.TEACHERS, "small", (cls, sizes, SMALL))
    experiments.trained_teacher.cache_clear()
    yield "small"
    experiments.trained_teacher.cache_clear()


@pytest.mark.parametrize("study", STUDIES)
def test_tasks_are_plain_and_all_different(study):
    _, tasks = STUDIES[study]()
    texts = [json.dumps(task, sort_keys=True) for task in tasks]
    assert len(set(texts)) == len(tasks)
    if study != "search":
        for seed in SEEDS:
            ours = [task for task in tasks if task["seed"] == seed]
            assert len(ours) * len(SEEDS) == len(tasks)


@pytest.mark.parametrize("name", experiments.TEACHERS)
def test_the_teachers_of_the_records_come_with_the_book(name):
    model = experiments.trained_teacher(name).model
    assert (experiments.CHECKPOINTS / f"teacher_{name}.safetensors").is_file()
    assert isinstance(model, experiments.TEACHERS[name][0])


@pytest.mark.parametrize("study", STUDIES)
def test_the_record_in_the_book_is_of_these_tasks(study):
    held = json.loads((DATA / "results" / f"{study}.json").read_text())
    _, tasks = STUDIES[study]()
    assert [row["task"] for row in held["runs"]] == tasks
    assert held["settings"] == json.loads(json.dumps(SETTINGS))
    command = rf"python -m (vitutils\.)?experiments {study}( --workers \d+)?"
    assert re.fullmatch(command, held["command"])


@pytest.mark.slow(2)
def test_all_images_are_more_than_the_training_split():
    whole = experiments.fashion("flips", 60_000)
    part = experiments.fashion("flips", 54_000)
    assert (len(whole.train), len(part.train)) == (60_000, 54_000)
    assert whole.train.images.sum() == sum(
        split.images.sum() for split in (part.train, part.validation)
    )
    with pytest.raises(ValueError, match="cannot take 60001 of 60000 images"):
        experiments.fashion("flips", 60_001)


def test_the_search_never_reads_the_test_images():
    _, tasks = STUDIES["search"]()
    assert {task["split"] for task in tasks} == {"validation"}
    assert not {task["seed"] for task in tasks} & set(SEEDS)


@pytest.mark.slow(2)
@pytest.mark.parametrize("method", experiments.METHODS)
def test_a_student_is_trained_and_measured(teacher, method):
    task = SMALL | {"teacher": teacher, "method": method, "seed": 3}
    results = experiments.train_student(task)
    heads = {"class"}
    if method in ("token", "two_class"):
        heads |= {"distill", "both"}
        assert len(results["similarity"]) == experiments.VIT["depth"] + 1
    assert results["accuracy"].keys() == heads | {"teacher"}
    assert all(0 <= value <= 1 for value in results["accuracy"].values())
    count = len(heads) + 1
    assert len(results["disagreement"]) == count * (count - 1) / 2
    assert experiments.train_student(task) == results
    json.dumps(results)


@pytest.mark.slow(3)
def test_methods_and_seeds_make_a_difference(teacher):
    task = SMALL | {"teacher": teacher, "seed": 3}
    answers = [
        experiments.train_student(task | change)["disagreement"]["class, teacher"]
        for change in (
            {"method": "none"},
            {"method": "soft", "balance": 0.9},
            {"method": "hard"},
            {"method": "none", "seed": 4},
        )
    ]
    assert len(set(answers)) == 4


def test_measures_are_counted_by_hand(teacher):
    split = experiments.fashion("flips").test.subset(700)
    model = experiments.trained_teacher(teacher).model
    opposite = torch.nn.Sequential(model, torch.nn.Linear(10, 10, bias=False))
    with torch.no_grad():
        opposite[1].weight.copy_(-torch.eye(10))
    found = experiments.measure(opposite, split, experiments.trained_teacher(teacher))
    with torch.no_grad():
        logits = torch.cat([model(images) for images, _ in split.batches(700)])
    for name, answers in (("teacher", logits.argmax(1)), ("class", logits.argmin(1))):
        right = (answers == split.labels).float().mean().item()
        assert found["accuracy"][name] == pytest.approx(right, abs=1e-4)
    assert found["disagreement"] == {"class, teacher": 1.0}


def test_a_teacher_is_trained_once(teacher, tmp_path):
    first = experiments.trained_teacher(teacher)
    path = tmp_path / "teacher_small.safetensors"
    before = path.stat().st_mtime_ns
    experiments.trained_teacher.cache_clear()
    again = experiments.trained_teacher(teacher)
    assert path.stat().st_mtime_ns == before
    weights = zip(first.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


@pytest.mark.slow(2)
def test_a_cnn_a_vit_and_a_deit_learn_from_the_same_images(few):
    results = experiments.train_three(SMALL | {"seed": 0})
    assert results["accuracy"].keys() == {"cnn", "vit", "deit"}


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--help"], 0, "table_3: None, soft, hard"),
        (["table_9"], 2, "invalid choice: 'table_9'"),
        (["table_3", "--data", "x"], 2, "--data is not for table_3"),
    ],
)
def test_the_command_says_what_it_takes(arguments, code, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    captured = capsys.readouterr()
    assert stopped.value.code == code
    assert words in " ".join((captured.out + captured.err).split())


def test_the_command_records_itself_and_says_what_is_wrong(monkeypatch, capsys):
    asked = []

    def perform(name, *, command, workers, data):
        asked.append((name, {"command": command, "workers": workers, "data": data}))
        raise ValueError("the record is full")

    monkeypatch.setattr(cifar10, "perform", perform)
    assert main(["cifar10", "--workers", "1", "--data", "a b"]) == 1
    command = "python -m experiments cifar10 --workers 1 --data 'a b'"
    expected = {"command": command, "workers": 1, "data": "a b"}
    assert asked == [("cifar10", expected)]
    assert capsys.readouterr().err == "the record is full\n"


def test_every_study_is_one_of_the_command():
    others = {"distillation", "fashion_mnist", "settings", "trails", "wirings"}
    assert MODULES.keys() == {*STUDIES, *cifar10.STUDIES, *others}


@pytest.mark.slow(2)
def test_the_study_of_the_two_models_goes_on_where_it_was_stopped(
    monkeypatch, tmp_path, capsys
):
    def stop(name):
        raise KeyboardInterrupt

    data = load("fashion_mnist")
    few = {half: getattr(data, half).subset(64) for half in ("train", "validation")}
    data = replace(data, **few, test=data.test.subset(64))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fashion_mnist, "DATA", tmp_path)
    monkeypatch.setattr(fashion_mnist, "load", lambda name: data)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fashion_mnist, "trained_teacher", stop)
        fashion_mnist.perform("fashion_mnist", command="x")
    files = [f"{name}.safetensors" for name in fashion_mnist.MODELS]
    assert os.listdir(tmp_path / "checkpoints") == files[:1]
    capsys.readouterr()
    fashion_mnist.perform("fashion_mnist", command="x")
    assert capsys.readouterr().out.count("validation loss") == 7  # the second's epochs
    assert sorted(os.listdir(tmp_path / "checkpoints")) == sorted(files)
    assert os.listdir(tmp_path / "runs") == []


def test_the_record_of_settings_is_of_its_tasks():
    held = json.loads((DATA / "results" / "settings.json").read_text())
    tasks = settings.all_tasks(settings.chosen_rates(held["runs"]))
    assert [row["task"] for row in held["runs"]] == tasks
    assert held["settings"] == json.loads(json.dumps(settings.SETTINGS))
    assert len({json.dumps(task, sort_keys=True) for task in tasks}) == len(tasks)
    assert settings.TUNING_SEED not in settings.SEEDS


def test_an_arm_takes_the_rate_that_its_tuning_runs_choose():
    tasks = settings.tuning_tasks()
    runs = [{"task": task, "accuracy": -abs(task["lr"] - 3e-3)} for task in tasks]
    runs[0]["accuracy"] = 1.0  # the base's lowest rate
    rates = settings.chosen_rates(runs)
    assert set(rates) == set(settings.ARMS)
    assert {rates[arm] for arm in ("base", *settings.AT_BASE_RATE)} == {2e-3}
    assert rates["depth 2"] in (2e-3, 4e-3)


@pytest.mark.slow(3)
@pytest.mark.parametrize(
    "arm", ["patch 14", "constant rate", "no warm-up", "shifts too", "linear"]
)
def test_an_arm_of_settings_is_trained_and_measured(arm):
    task = {"arm": arm, "lr": 4e-3, "seed": 3, "images": 256, "epochs": 1}
    results = settings.train(task)
    assert 0 < results["accuracy"] < 1 and results["parameters"] > 1000
    assert settings.train(task) == results


def test_the_other_schedules_climb_as_the_first():
    rates = []
    for after in (settings.constant, settings.stretched, settings.linear):
        optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        step = settings.scheduled(after, 100)
        made = step(torch.nn.Linear(1, 1), optimizer, None, loss_fn=None, clip_norm=1)
        values = []
        for _ in range(100):
            values.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            made.schedule.step()
        rates.append(values)
    for values in rates:
        assert values[:10] == [(t + 1) / 11 for t in range(10)]
    assert set(rates[0][10:]) == {1.0}
    assert min(rates[1]) < 1e-3 < 0.05 < rates[1][-1] < 0.1
