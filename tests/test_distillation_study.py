"""The study of what a teacher is worth: its tasks, its choices and its conclusions."""

import json

import pytest
import torch

from experiments import distillation as study
from experiments import transfer
from experiments.command import main
from experiments.contrasts import Interval, corrected, paired, t_quantile, unpaired
from vitutils.data.datasets import Dataset
from vitutils.data.splits import MemorySplit, generator
from vitutils.distill import Teacher, hard_distillation
from vitutils.engine.large_step import LargeStep

NOTHING = study.choices([])


def every_task(chosen=NOTHING):
    return [task for part in study.PARTS for task in study.tasks_of(part, chosen)]


# ---- Intervals ----


@pytest.mark.parametrize(
    ("share", "freedom", "expected"),
    [
        (0.975, 1, 12.706),
        (0.975, 4, 2.776),
        (0.975, 9, 2.262),
        (1 - 0.05 / 6, 9, 2.933),
    ],
)
def test_quantiles_are_those_of_the_tables(share, freedom, expected):
    assert t_quantile(share, freedom) == pytest.approx(expected, abs=1e-3)


def test_a_paired_interval_worked_out_by_hand():
    b = [70.0, 74.0, 71.0, 75.0, 72.0]
    a = [x + d for x, d in zip(b, (1.0, 2.0, 2.0, 1.5, 2.5), strict=True)]
    found = paired(a, b)
    assert found == pytest.approx((1.8, 2.776 * (1.3 / 4) ** 0.5 / 5**0.5), abs=1e-3)
    assert paired(a, b, 0.98).half > found.half
    with pytest.raises(ValueError, match="1 pairs have no spread"):
        paired([1.0], [2.0])


def test_an_unpaired_interval_worked_out_by_hand():
    a, b = [75.0, 76.0, 77.0, 78.0, 79.0], [74.0, 75.0, 76.0, 77.0, 78.0]
    assert unpaired(a, b) == pytest.approx((1.0, 2.306), abs=1e-3)  # 8 of freedom
    assert paired(a, b) == (1.0, 0.0)
    assert unpaired([1.0, 1.0], [2.0, 2.0]) == (-1.0, 0.0)


def test_verdicts_and_what_three_intervals_cost():
    words = [Interval(mean, 0.5).verdict for mean in (0.6, -0.6, 0.5, 0.0)]
    assert words == ["found", "reversed", "not shown", "not shown"]
    assert corrected(3) == pytest.approx(1 - 0.05 / 3)


# ---- What there is to do ----


def test_tasks_are_plain_and_all_different():
    texts = [json.dumps(task, sort_keys=True) for task in every_task()]
    assert len(set(texts)) == len(texts)


def test_choices_and_results_share_no_seed():
    for part in study.PARTS:
        seeds = {task["seed"] for task in study.tasks_of(part, NOTHING)}
        if part in study.CHOOSING:
            assert seeds <= {study.TUNING_SEED}
        elif part != "teachers":
            assert study.TUNING_SEED not in seeds


def test_each_arm_has_a_search_of_the_same_size():
    tasks = study.tasks_of("search", NOTHING) + study.tasks_of("soft", NOTHING)
    for arm in study.ARMS:
        assert len([task for task in tasks if task["arm"] == arm]) == 3


def test_beyond_the_end_of_three_rates_one_more_is_tried():
    assert study.tasks_of("search, further", NOTHING) == []  # the middle one
    best = {"none": 6e-3, "hard": 1.5e-3}
    runs = [
        row(t, 0.6 if t["lr"] == best.get(t["arm"], 3e-3) else 0.5)
        for t in study.tasks_of("search", NOTHING)
    ]
    further = study.tasks_of("search, further", study.choices(runs))
    assert [(t["arm"], t["lr"]) for t in further] == [
        ("none", 1.2e-2),
        ("hard", 7.5e-4),
    ]
    runs += [row(t, 0.7 if t["arm"] == "none" else 0.4) for t in further]
    chosen = study.choices(runs)
    assert (chosen["none"]["lr"], chosen["hard"]["lr"]) == (1.2e-2, 1.5e-3)
    swapped = [(t["arm"], t["lr"]) for t in study.tasks_of("rates", chosen)]
    pairs = [("hard", 1.2e-2), ("none", 1.5e-3), ("token", 1.5e-3), ("hard", 3e-3)]
    assert swapped == 5 * pairs


def test_the_papers_temperature_may_win():
    runs = [row(t, 0.6) for t in study.tasks_of("search", NOTHING)]
    runs += [row(t, 0.5) for t in study.tasks_of("soft", study.choices(runs))]
    assert study.PAPER.items() <= study.choices(runs)["soft, tuned"].items()


def test_the_main_part_has_ten_seeds_for_each_primary_contrast():
    tasks = study.tasks_of("main", NOTHING)
    for arm in {arm for pair in study.PRIMARY for arm in pair}:
        assert [t["seed"] for t in tasks if t["arm"] == arm] == [*range(10)]
    assert {t.get("teacher", "same") for t in tasks} == {"same"}


def test_arms_without_a_teacher_have_none():
    for task in every_task():
        if task["part"] not in ("transfer", "finer"):
            assert ("teacher" in task) == (task["arm"] not in study.UNTAUGHT)


def row(task, accuracy):
    accuracies = {"class": accuracy, "both": accuracy, "teacher": accuracy + 0.1}
    return {"task": task, "accuracy": accuracies}


def test_validation_chooses_and_each_arm_for_itself():
    runs = [
        row(task, 0.6 if task["augment"] == "crops" else 0.5)
        for task in study.tasks_of("augmentation", NOTHING)
    ]
    tasks = study.tasks_of("search", study.choices(runs))
    assert {task["augment"] for task in tasks} == {"crops"}
    wanted = dict(
        zip(study.ARMS, (6e-3, 3e-3, 1.5e-3, None, 6e-3, 1.5e-3), strict=True)
    )
    runs += [row(t, 0.55 if t["lr"] == wanted[t["arm"]] else 0.5) for t in tasks]
    chosen = study.choices(runs)
    assert {arm: chosen[arm]["lr"] for arm in study.ARMS} == wanted | {
        "soft, tuned": 1.5e-3  # that of soft
    }
    runs += [
        row(task, task["temperature"] * task["balance"])
        for task in study.tasks_of("soft", chosen)
    ]
    chosen = study.choices(runs)
    assert chosen["soft, tuned"] == {
        "augment": "crops",
        "lr": 1.5e-3,
        "temperature": 3.0,
        "balance": 0.9,
    }
    assert chosen["soft"]["balance"] == 0.1


def test_the_two_heads_of_an_arm_choose_together():
    tasks = [t for t in study.tasks_of("search", NOTHING) if t["arm"] == "token"]
    runs = [row(task, 0.5) for task in tasks]
    runs[1]["accuracy"]["class"] = 0.9  # one head alone
    runs[2]["accuracy"]["both"] = 0.6
    assert study.choices(runs)["token"]["lr"] == tasks[2]["lr"]


def test_the_plan_fits_into_two_hours_of_two_cores():
    text = study.planned([])
    (so_far,) = [line for line in text.splitlines() if line.startswith("so far")]
    assert float(so_far.split()[2]) <= 225
    done = study.tasks_of("augmentation", NOTHING)
    assert "to do   0    0 min" in study.planned([row(t, 0.5) for t in done])


# ---- One run ----


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The study on a few images of noise, in seconds."""
    pixels = torch.randint(256, (260, 3, 32, 32), generator=generator("noise"))
    labels = torch.arange(260) % 10
    split = MemorySplit(
        labels=labels, images=pixels.to(torch.uint8), mean=(0.5,) * 3, std=(0.3,) * 3
    )
    parts = [split.subset(list(some)) for some in (range(200), range(200, 260))]
    noise = Dataset("noise", parts[0], parts[1], parts[1], tuple("0123456789"))
    monkeypatch.setattr(study, "cifar", lambda data: noise)
    monkeypatch.setattr(study, "RUNS", tmp_path)
    monkeypatch.setattr(
        study, "STUDENT", study.STUDENT | {"patch_size": 16, "depth": 1}
    )
    monkeypatch.setattr(study, "CNN", study.CNN | {"widths": (8, 8)})
    for name, value in {"IMAGES": 90, "EPOCHS": 2, "BATCH": 40}.items():
        monkeypatch.setattr(study, name, value)
    monkeypatch.setattr(study, "RECIPE", study.RECIPE | {"batch_size": 40})
    teachers = {name: {"images": 90, "epochs": 1} for name in study.TEACHERS}
    monkeypatch.setattr(study, "TEACHERS", teachers)
    return noise


def shorter(part, **which):
    chosen = study.choices([])
    chosen["token"]["lr"] = 6e-3
    tasks = study.tasks_of(part, chosen)
    return next(task for task in tasks if which.items() <= task.items())


@pytest.mark.slow(4)  # together
@pytest.mark.parametrize(
    "task",
    [
        *({"part": "main", "arm": arm} for arm in study.ARMS),
        {"part": "more", "arm": "token"},
        {"part": "controls", "arm": "none", "smoothing": 0.1},
        {"part": "controls", "arm": "hard", "whole": True},
        {"part": "controls", "arm": "hard", "dealt": True},
        {"part": "rates", "arm": "two class tokens"},
        {"part": "crops", "arm": "hard"},
        {"part": "SGD", "arm": "none"},
        {"part": "recipe", "arm": "none", "randaugment": 9},
        {"part": "few", "arm": "none", "cutmix": 1.0},
    ],
    ids=lambda task: " ".join(map(str, task.values())),
)
def test_each_kind_of_run_measures_and_again_the_same(small, task):
    task = shorter(**task)
    found = study.run(task, "noise")
    assert all(0 <= value <= 1 for value in found["accuracy"].values())
    assert study.run(task, "noise") == found
    if task["arm"] in study.TWO_TOKENS:
        assert {"class", "distill", "both"} <= found["accuracy"].keys()


def test_what_chooses_never_reads_the_test_images(small, monkeypatch):
    blind = Dataset("noise", small.train, small.validation, None, small.classes)
    monkeypatch.setattr(study, "cifar", lambda data: blind)
    chosen = study.choices([])
    chosen["hard"]["lr"] = 6e-3  # an end, from which the search goes on
    for part in (*study.CHOOSING, "teachers"):
        study.run(study.tasks_of(part, chosen)[0], "noise")


def test_the_arms_of_a_seed_share_images_and_seeds_do_not(small):
    first, again, other = (study.drawn("noise", seed, "flips") for seed in (0, 0, 1))
    assert torch.equal(first.images, again.images)
    assert len(first) == 90 and not torch.equal(first.labels, other.labels)
    few = study.drawn("noise", 0, "flips", 9)
    assert torch.equal(few.images, first.images[:9])


def test_a_noted_teacher_says_of_each_crop_what_it_would_say(small):
    model, answers = study.trained_teacher("same", 3, "shifts", "noise")
    asked, noted = Teacher(model), study.Noted(model, answers)
    apart = []

    def loss_fn(outputs, labels, images):
        with torch.autocast("cpu", torch.bfloat16):
            live, read = asked(images).half().float(), noted(images)
        apart.append((live - read).abs().max().item())
        return outputs.square().mean()

    torch.manual_seed(3)
    student = study.VisionTransformer(**study.STUDENT)
    train = study.drawn("noise", 3, "shifts")
    settings = {"seed": 3, "epochs": 2, "lr": 1e-3, "step": LargeStep}
    study.learn(student, train, "noise", loss_fn=loss_fn, **settings)
    assert len(apart) == 6 and max(apart) == 0
    assert noted.at == len(answers) == 2 * 90


def test_dealt_answers_stay_with_their_label_and_leave_their_image(small):
    train = study.drawn("noise", 3, "flips")
    labels = torch.cat(
        [labels for e in (0, 1) for _, labels in train.batches(40, seed=3, epoch=e)]
    )
    answers = torch.stack([labels, torch.arange(len(labels))], dim=1)
    found = study.dealt(answers, train, 3)
    assert torch.equal(found[:, 0], labels)
    assert torch.equal(found[:, 1].sort().values, answers[:, 1])
    assert (found[:, 1] != answers[:, 1]).float().mean() > 0.7


def test_a_student_may_teach_the_next_and_is_trained_again_if_it_is_gone(
    small, monkeypatch, tmp_path
):
    monkeypatch.setattr(study, "DATA", tmp_path)
    found = study.run(shorter("controls", arm="hard", teacher="student"), "noise")
    saved = study.load_model(study.student_file("none", 0))
    right = study.evaluate(saved, small.test).accuracy
    assert found["accuracy"]["teacher"] == pytest.approx(right, abs=1e-4)


@pytest.mark.parametrize("by", ["labels", "teacher", "teacher at 32"])
def test_a_student_learns_on_from_larger_images(small, by):
    study.run(shorter("main", arm="token", seed=0), "noise")
    task = shorter("finer", arm="token", by=by, size=48, seed=0)
    found = study.run(task | {"epochs": 1}, "noise")
    assert {"class", "distill", "both", "teacher"} == found["accuracy"].keys()
    assert study.run(task | {"epochs": 1}, "noise") == found
    large = study.enlarged(small.test, 48)
    assert large.image_size == 48
    assert torch.equal(study.enlarged(small.test, 32).images, small.test.images)


def test_a_teacher_can_be_asked_at_the_size_that_it_has_learned():
    asked = []
    study.at_its_size(lambda images: asked.append(images.shape))(
        torch.rand(2, 3, 48, 48)
    )
    assert asked == [(2, 3, 32, 32)]


def test_a_teacher_learns_from_other_crops_than_it_judges(small, monkeypatch):
    seeds = []
    monkeypatch.setattr(
        study, "fit", lambda *args, seed, **settings: seeds.append(seed) or []
    )
    study.run(shorter("main", arm="hard", seed=0), "noise")
    assert seeds == [1000, 0]


def test_where_the_crops_are_others_the_teacher_is_asked_anew():
    main_one = shorter("main", arm="hard")
    assert study.is_noted(main_one)
    assert study.is_noted(shorter("lengths", arm="hard", epochs=study.EPOCHS // 2))
    for changed in (
        {"epochs": 2 * study.EPOCHS},
        {"teacher": "more"},
        {"repeats": 3},
        {"mixup": 0.8},
    ):
        assert not study.is_noted(main_one | changed)


def test_answers_that_come_with_the_labels_are_hard_distillation():
    torch.manual_seed(0)
    logits, teacher = torch.randn(6, 10), torch.randn(6, 10)
    labels = torch.randint(10, (6,))
    both = labels + 10 * teacher.argmax(dim=1)
    expected = hard_distillation(logits, labels, teacher)
    torch.testing.assert_close(study.whole_image(logits, both), expected)


def test_smooth_labels_are_those_of_pytorch():
    logits, labels = torch.randn(6, 10), torch.randint(10, (6,))
    loss_fn = study.loss_of({"arm": "none", "smoothing": 0.1}, None)
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(loss_fn(logits, labels, None), expected)


# ---- Transfer ----


def test_neighbors_and_a_line_find_classes_that_lie_apart():
    labels = torch.arange(60) % 3
    generator_ = torch.Generator().manual_seed(0)
    rows = 4 * torch.eye(3, 8)[labels] + torch.randn(60, 8, generator=generator_)
    for way in (transfer.neighbors, transfer.linear):
        assert (way(rows[:40], labels[:40], rows[40:]) == labels[40:]).all()


def test_other_images_come_in_the_students_format():
    for name in transfer.SETS:
        train, test = transfer.splits(name, 0, mean=(0.5,) * 3, std=(0.2,) * 3)
        assert train.images.shape == (1000, 3, 32, 32) and len(test) >= 797
        assert train.images.max() == 255
        assert len(train.labels.unique()) == 10


# ---- The whole ----


def test_the_study_goes_on_where_it_was_and_concludes_at_the_end(
    monkeypatch, tmp_path, capsys
):
    made = []

    def record(path, tasks, run, **how):
        held = study.reload(path, how["settings"])
        known = [r["task"] for r in held["runs"]]
        for task in tasks:
            if task not in known:
                made.append(task)
                gain = {"hard": 0.02, "token": 0.03}.get(task["arm"], 0.0)
                value = 0.5 + gain + 0.001 * task["seed"]
                held["runs"].append(row(task, value))
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(held))
        return held

    monkeypatch.setattr(study, "DATA", tmp_path)
    monkeypatch.setattr(study, "record", record)
    arguments = ["distillation", "--data", "copy", "--parts", "main"]
    assert main([*arguments, "--plan"]) == 0 and not made
    assert main(arguments) == 0
    parts = list(dict.fromkeys(task["part"] for task in made))
    assert parts == ["augmentation", "teachers", "search", "soft", "main"]
    said = capsys.readouterr().out
    assert "hard - none: +2.00 ± 0.00 points paired" in said and "found" in said
    assert "of which gap hard closes 20%" in said
    count = len(made)
    assert main(arguments) == 0 and len(made) == count  # all is there
    assert main([*arguments[:3], "--parts", "SGD"]) == 0
    assert [t["part"] for t in made[count:]] == 4 * ["SGD rates"] + 3 * ["SGD"]
    assert main(["distillation", "--parts", "nine"]) == 1
    assert "no part nine" in capsys.readouterr().err


def test_a_seed_that_stands_twice_is_an_error():
    runs = [row(task, 0.5) for task in study.tasks_of("main", NOTHING)]
    with pytest.raises(ValueError, match="a seed twice"):
        study.conclusion(runs + runs[:1])


def test_nothing_is_concluded_before_all_seeds_are_there():
    runs = [row(task, 0.5) for task in study.tasks_of("main", NOTHING)]
    assert "found" not in study.conclusion(runs)
    assert "nothing is concluded" in study.conclusion(runs[:-1])
