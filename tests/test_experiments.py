"""Studies with small records: what they run, and that the records are theirs."""

import copy
import json
import os
from dataclasses import replace

import pytest
import torch

from experiments import cifar10, fashion_mnist, published, settings, trails
from experiments.command import MODULES, main
from experiments.students import both_learn_the_labels, measure
from vitutils.data import DATA, load
from vitutils.deit import DistilledVisionTransformer
from vitutils.vit import VisionTransformer


@pytest.fixture
def few(monkeypatch, tmp_path):
    """Fashion-MNIST with few images, and a folder of its own for what it teaches."""
    data = load("fashion_mnist")
    parts = {half: getattr(data, half).subset(64) for half in ("train", "test")}
    data = replace(data, **parts, validation=data.validation.subset(500))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fashion_mnist, "DATA", tmp_path)
    monkeypatch.setattr(fashion_mnist, "load", lambda name: data)
    return data


@pytest.mark.parametrize("name", fashion_mnist.TEACHERS)
def test_the_teachers_come_with_the_book(name):
    assert (DATA / "checkpoints" / f"teacher_{name}.safetensors").is_file()
    model = fashion_mnist.trained_teacher(name).model
    assert isinstance(model, fashion_mnist.TEACHERS[name][0])


@pytest.mark.slow(2)
def test_a_teacher_is_trained_once(few, tmp_path):
    first = fashion_mnist.trained_teacher("cnn")
    path = tmp_path / "checkpoints" / "teacher_cnn.safetensors"
    before = path.stat().st_mtime_ns
    again = fashion_mnist.trained_teacher("cnn")
    assert path.stat().st_mtime_ns == before
    weights = zip(first.model.parameters(), again.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


@pytest.mark.slow(1)
def test_measures_are_counted_by_hand():
    split = load("fashion_mnist").test.subset(700)
    teacher = fashion_mnist.trained_teacher("cnn")
    opposite = torch.nn.Sequential(
        teacher.model, torch.nn.Linear(10, 10, bias=False).requires_grad_(False)
    )
    opposite[1].weight.copy_(-torch.eye(10))
    found = measure(opposite, split, teacher)
    with torch.no_grad():
        logits = torch.cat([teacher(images) for images, _ in split.batches(700)])
    for name, answers in (("teacher", logits.argmax(1)), ("class", logits.argmin(1))):
        right = (answers == split.labels).float().mean().item()
        assert found["accuracy"][name] == pytest.approx(right, abs=1e-4)
    assert found["disagreement"] == {"class, teacher": 1.0}


@pytest.mark.slow(1)
def test_of_two_heads_each_and_their_mean_are_measured():
    torch.manual_seed(0)
    model = DistilledVisionTransformer(**fashion_mnist.VIT)
    split = load("fashion_mnist").test.subset(300)
    found = measure(model, split, fashion_mnist.trained_teacher("cnn"))
    assert [*found["accuracy"]] == ["class", "distill", "both", "teacher"]
    assert len(found["disagreement"]) == 6
    assert len(found["similarity"]) == fashion_mnist.VIT["depth"] + 1
    with torch.no_grad():
        images, _ = next(split.batches(300))
        model.eval()
        *pair, _ = model.both_heads(images)
    apart = (pair[0].argmax(1) != pair[1].argmax(1)).double().mean().item()
    assert found["disagreement"]["class, distill"] == pytest.approx(apart, abs=1e-4)


def test_the_control_teaches_both_heads_the_labels():
    outputs = torch.randn(2, 6, 10).unbind()
    labels = torch.randint(10, (6,))
    parts = [torch.nn.functional.cross_entropy(head, labels) for head in outputs]
    loss = both_learn_the_labels(outputs, labels, None)
    torch.testing.assert_close(loss, (parts[0] + parts[1]) / 2)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--help"], 0, "settings: "),
        (["table_9"], 2, "invalid choice: 'table_9'"),
        (["settings", "--data", "x"], 2, "--data is not for settings"),
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
    others = {"distillation", "distillation_long", "division", "fashion_mnist"}
    others |= {"looks", "positions", "published", "settings", "trails", "widths"}
    others |= {"gaps", "maps", "starts", "wirings"}
    assert MODULES.keys() == {*cifar10.STUDIES, *others}


@pytest.mark.parametrize(
    "name, shared", [("trails", trails.SETTINGS), ("looks", trails.LOOKS)]
)
def test_the_records_of_chapter_5_are_those_of_its_studies(name, shared):
    held = json.loads((DATA / "results" / f"{name}.json").read_text())
    assert held["settings"] == json.loads(json.dumps(shared))
    assert [run["task"] for run in held["runs"]] == trails.tasks(name)


@pytest.mark.slow(2)
def test_the_study_of_the_small_models_goes_on_where_it_was_stopped(
    monkeypatch, few, tmp_path, capsys
):
    fits = []

    def stop(*arguments, **settings):
        fits.append(arguments)
        if len(fits) == 4:  # two teachers and the ViT are done
            raise KeyboardInterrupt
        return fit(*arguments, **settings)

    fit = fashion_mnist.fit
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fashion_mnist, "fit", stop)
        fashion_mnist.perform("fashion_mnist", command="x")
    files = [f"{name}.safetensors" for name in fashion_mnist.MODELS]
    teachers = [f"teacher_{name}.safetensors" for name in fashion_mnist.TEACHERS]
    there = tmp_path / "checkpoints"
    assert sorted(os.listdir(there)) == sorted([*teachers, files[0]])
    capsys.readouterr()
    fashion_mnist.perform("fashion_mnist", command="x")
    assert (
        capsys.readouterr().out.count("validation loss") == 7
    )  # the last one's epochs
    assert sorted(os.listdir(there)) == sorted([*teachers, *files])
    assert os.listdir(tmp_path / "runs") == []


def test_the_record_of_settings_is_of_its_tasks():
    held = json.loads((DATA / "results" / "settings.json").read_text())
    tasks = settings.all_tasks(*settings.chosen(held["runs"]))
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
    tasks = settings.whole_tuning_tasks(rates)
    runs += [{"task": task, "accuracy": -task["lr"]} for task in tasks]
    whole = {arm: rates[arm] / 2 for arm in settings.WHOLE_ARMS}
    whole |= dict.fromkeys(settings.AT_BASE_RATE, whole["base"])
    assert settings.chosen(runs) == (rates, whole)


@pytest.mark.slow(3)
@pytest.mark.parametrize(
    "arm", ["patch 14", "constant rate", "no warm-up", "shifts too"]
)
def test_an_arm_of_settings_is_trained_and_measured(arm, monkeypatch):
    def few(*given, whole=settings.fashion):
        data = whole(*given)
        return replace(data, validation=data.validation.subset(500))

    monkeypatch.setattr(settings, "fashion", few)
    task = {"arm": arm, "lr": 4e-3, "seed": 3, "images": 256, "epochs": 1}
    results = settings.train(task)
    assert 0 < results["accuracy"] < 1 and results["parameters"] > 1000
    assert settings.train(task) == results


def test_a_model_of_settings_is_measured_on_moved_images_too():
    images = torch.arange(6).view(1, 1, 2, 3)
    assert settings.moved(images, 1).tolist() == [[[[0, 0, 1], [0, 3, 4]]]]
    task = {"arm": "linear", "lr": 4e-3, "seed": 3, "images": 256, "epochs": 1}
    found = settings.train(task | settings.MOVED)
    assert 0 < found.pop("accuracy_moved") < found["accuracy"] < 1
    assert found == settings.train(task)


def test_the_other_schedules_climb_as_the_first():
    rates = []
    for after in (settings.constant, settings.by_epochs, settings.linear):
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
    period = 2 * settings.EPOCHS
    assert rates[1][10:80:period] == pytest.approx([1.0] * len(rates[1][10:80:period]))
    assert rates[1][10 + settings.EPOCHS : 80 : period] == pytest.approx([0.0] * 12)


def test_the_record_of_a_published_network_is_of_its_tasks():
    held = json.loads((DATA / "results" / "published.json").read_text())
    assert [row["task"] for row in held["runs"]] == published.all_tasks()
    assert published.SETTINGS.items() <= held["settings"].items()
    for row in held["runs"][:-1]:
        counts = {name: hits.count("1") for name, hits in row["hits"].items()}
        assert counts == row["right"]
        assert {len(hits) for hits in row["hits"].values()} == {row["photographs"]}


def test_a_photograph_is_given_the_class_of_the_nearest_other_one():
    places = torch.tensor([[0.0, 0], [0, 1], [5, 5], [5, 6], [0, 2]])
    assert published.neighbors(places, torch.tensor([0, 0, 1, 1, 1])).sum() == 4


def test_each_fold_is_judged_by_a_classifier_that_has_not_seen_it():
    labels = torch.arange(40) % 2
    apart = torch.stack((labels, 1 - labels), dim=1).float()
    assert published.folds(apart, labels).sum() == 40
    assert published.folds(torch.eye(40), labels).sum() < 30  # learned by heart


def test_a_part_is_judged_by_the_reader_that_is_best_on_the_others(monkeypatch):
    part = published.divided(20)

    def linear(train, labels, test, decay):
        assert not {*train[:, 1].tolist()} & {*test[:, 1].tolist()}
        return test[:, 0]

    def reader(right):  # of no use but for the photographs that it names
        return torch.stack((right.long(), part), dim=1)

    monkeypatch.setattr(published, "linear", linear)
    found, labels = {i: reader(part == i) for i in (0, 1)}, torch.ones(20)
    readers = published.linears(found, labels)
    assert published.chosen(readers, labels, 0).sum() == 0
    found[2] = reader(part != 2)
    readers = published.linears(found, labels)
    assert published.chosen(readers, labels, 0).sum() == 16


def test_a_kernel_tells_what_no_line_does_and_reads_no_label_that_it_is_to_tell():
    torch.manual_seed(0)
    rows = torch.randn(80, 2)
    labels = (rows[:, 0] * rows[:, 1] > 0).long()
    known = torch.arange(80) % 2 == 0
    hidden = torch.where(known, labels, 1 - labels)
    readers = published.kernels({"rows": rows}, hidden)
    assert len(readers) == 9
    said = readers[3](known, ~known)
    assert (said == labels[~known]).float().mean() > 0.85


def test_an_outline_is_where_it_is_not_white():
    images = torch.ones(2, 3, 28, 28)
    images[0, :, :14] = -1
    found = published.outline(images).view(2, 14, 14)
    assert found[0, :7].eq(1).all() and found[0, 7:].eq(0).all()
    assert found[1].eq(0).all()


@pytest.mark.slow(2)
@pytest.mark.parametrize("arm", ["as loaded", "12 heads", "GELU by tanh", "shuffled"])
def test_an_arm_changes_what_its_name_says(arm, monkeypatch):
    made = VisionTransformer(
        image_size=28,
        patch_size=14,
        num_classes=1,
        embed_dim=24,
        depth=1,
        num_heads=6,
        mlp_dim=8,
    )
    asked = {}

    def load_pretrained(path, **given):
        asked.update(given)
        return copy.deepcopy(made)

    monkeypatch.setattr(published, "find", lambda name: "path")
    monkeypatch.setattr(published, "load_pretrained", load_pretrained)
    model = published.network(arm)
    assert asked["num_heads"] == (12 if arm == "12 heads" else 6)
    by_tanh = model.encoder.blocks[0].mlp.act.approximate == "tanh"
    assert by_tanh == (arm == "GELU by tanh")
    same = [
        torch.equal(a, b)
        for a, b in zip(model.parameters(), made.parameters(), strict=True)
    ]
    sorted_same = all(
        torch.equal(a.flatten().sort().values, b.flatten().sort().values)
        for a, b in zip(model.parameters(), made.parameters(), strict=True)
    )
    assert sorted_same and all(same) == (arm != "shuffled")
