"""CIFAR-10 with and without a teacher: the runs behind chapter 15.

    python -m experiments cifar10

Trains the teacher, then students by four methods from three seeds, each by
``python -m vitutils train``. In ``cifar10_hour`` the teacher, ViTs and DeiTs get more
epochs (with one seed an hour in all on two cores), and the best ViT and DeiT are
written to data/checkpoints.
"""

import shlex
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from itertools import product
from pathlib import Path

from experiments.record import record, reload
from vitutils.cli.train import options_of, run
from vitutils.data import DATA
from vitutils.engine.checkpoints import save_model
from vitutils.engine.weights import load_weights

STUDENT = "--lr 3e-3 --embed-dim 64 --depth 4 --num-heads 4 --mlp-dim 128"
METHODS = {
    "none": "--model vit",
    "soft": "--model vit --distillation soft",
    "hard": "--model vit --distillation hard",
    "token": "--model deit --distillation hard",
}
STUDIES = {
    "cifar10": {
        "teacher": "--model convnet --epochs 10 --lr 3e-3",
        "student": f"--epochs 8 {STUDENT}",
        "methods": METHODS,
        "seeds": (0, 1, 2),
    },
    "cifar10_hour": {
        "teacher": "--model convnet --epochs 40 --lr 3e-3",
        "student": f"--compile --epochs 60 {STUDENT}",
        "methods": {method: METHODS[method] for method in ("none", "token")},
        "seeds": (0, 1, 2),
    },
}
ABOUT = {
    "cifar10": "CIFAR-10 for minutes: four ways to learn, three seeds",
    "cifar10_hour": "CIFAR-10 for an hour: with and without a teacher, three seeds",
}
RUNS = Path("runs")


def tasks(study):
    """Return the runs of a study: the teacher's, then the students', seed by seed."""
    settings = STUDIES[study]
    students = product(settings["seeds"], settings["methods"])
    return [
        {"method": "teacher", "seed": 0},
        *({"method": method, "seed": seed} for seed, method in students),
    ]


def train(task, *, study, data):
    """Run the command of a task of a study; return it and what it measured."""
    settings, files = STUDIES[study], RUNS / study
    name = f"{task['method']}-{task['seed']}"
    words = ["cifar10", "--data", data, "--seed", str(task["seed"])]
    words += ["--precision", "bf16", "--device", "cpu"]
    if task["method"] == "teacher":
        words += settings["teacher"].split()
    else:
        words += settings["student"].split()
        words += settings["methods"][task["method"]].split()
        if task["method"] != "none":
            words += ["--teacher", str(files / "teacher-0" / "best.safetensors")]
    words += ["--folder", str(files / name)]
    command = shlex.join(["python", "-m", "vitutils", "train", *words])
    options = options_of([*words, "--resume"])
    Path(options.folder).mkdir(parents=True, exist_ok=True)
    with (
        open(files / f"{name}.log", "a", encoding="utf-8") as log,
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        result = run(options, command)
    kept = ("parameters", "processes", "history")
    found = {k: v for k, v in result.items() if k in kept or k.startswith("test_")}
    return {"command": command} | found


def perform(name, *, command, workers=None, data="cifar10"):
    """Run one of STUDIES, as far as its record does not hold it; return its path."""
    train_one = partial(train, study=name, data=data)
    teacher, *students = tasks(name)
    settings = STUDIES[name] | {"data": data}
    del settings["seeds"]
    path = DATA / "results" / f"{name}.json"
    held = reload(path, settings)
    if [row["task"] for row in held["runs"]] == tasks(name):
        raise ValueError(f"{path} holds all runs: to make them again, move it away")
    print(f"teacher: see {RUNS / name}/teacher-0.log")
    train_one(teacher)  # on all cores; once it is there, this takes seconds
    held = record(
        path,
        [teacher, *students],
        train_one,
        settings=settings,
        command=command,
        workers=workers,
    )
    if name == "cifar10_hour":
        ship(held["runs"], RUNS / name)
    return path


def ship(runs, files):
    """Write the best ViT and DeiT by validation accuracy, in fp16."""
    for method, name in (("none", "vit_cifar10"), ("token", "deit_cifar10")):
        best = max(
            (row for row in runs if row["task"]["method"] == method),
            key=lambda row: max(epoch["val_accuracy"] for epoch in row["history"]),
        )
        path = files / f"{method}-{best['task']['seed']}" / "best.safetensors"
        model, wanted = load_weights(path)
        save_model(model.half(), DATA / "checkpoints" / f"{name}.safetensors", wanted)
