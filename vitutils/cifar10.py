"""CIFAR-10 with and without a teacher: the runs behind chapter 14.

    python -m vitutils.cifar10 --data cifar10

Trains the teacher, then students by four methods from three seeds, each by
``python -m vitutils.train``, and writes data/results/cifar10.json and the best ViT and
DeiT to data/checkpoints. A study that was interrupted goes on where it was.
"""

import argparse
import shlex
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from itertools import product
from pathlib import Path

from vitutils import command
from vitutils.checkpoint import load_model, save_model
from vitutils.data import DATA
from vitutils.record import record

SEEDS = (0, 1, 2)
TEACHER = "--model convnet --epochs 10 --lr 3e-3"
STUDENT = "--epochs 8 --lr 3e-3 --embed-dim 64 --depth 4 --num-heads 4 --mlp-dim 128"
METHODS = {
    "none": "--model vit",
    "soft": "--model vit --distillation soft",
    "hard": "--model vit --distillation hard",
    "token": "--model deit --distillation hard",
}
FILES = Path("runs", "cifar10")


def train(task, *, data):
    """Run the command of a task; return the command and what it measured."""
    name = f"{task['method']}-{task['seed']}"
    words = ["cifar10", "--data", data, "--seed", str(task["seed"]),
             "--precision", "bf16", "--device", "cpu"]  # fmt: skip
    if task["method"] == "teacher":
        words += TEACHER.split()
    else:
        words += [*STUDENT.split(), *METHODS[task["method"]].split()]
        if task["method"] != "none":
            words += ["--teacher", str(FILES / "teacher-0" / "best.safetensors")]
    words += ["--folder", str(FILES / name)]
    options = command.options_of([*words, "--resume"])
    Path(options.folder).mkdir(parents=True, exist_ok=True)
    with (
        open(FILES / f"{name}.log", "a", encoding="utf-8") as log,
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        result = command.run(options)
    kept = ("parameters", "processes", "history")
    found = {k: v for k, v in result.items() if k in kept or k.startswith("test_")}
    return {"command": shlex.join(["python", "-m", "vitutils.train", *words])} | found


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="cifar10", help="cifar10, or a folder of its "
                        "images: train/CLASS/* and test/CLASS/*")  # fmt: skip
    parser.add_argument("--workers", type=int, help="runs at a time (one a core)")
    options = parser.parse_args()
    run = partial(train, data=options.data)
    teacher = {"method": "teacher", "seed": 0}
    print(f"teacher: see {FILES}/teacher-0.log")
    run(teacher)  # on all cores; once it is there, this takes seconds
    students = [
        {"method": method, "seed": seed} for seed, method in product(SEEDS, METHODS)
    ]
    held = record(
        DATA / "results" / "cifar10.json",
        [teacher, *students],
        run,
        settings={
            "data": options.data,
            "teacher": TEACHER,
            "student": STUDENT,
            "methods": METHODS,
        },
        workers=options.workers,
    )
    ship(held["runs"])


def ship(runs):
    """Write the best ViT and DeiT by validation accuracy, in fp16."""
    for method, name in (("none", "vit_cifar10"), ("token", "deit_cifar10")):
        best = max(
            (row for row in runs if row["task"]["method"] == method),
            key=lambda row: max(epoch["val_accuracy"] for epoch in row["history"]),
        )
        path = FILES / f"{method}-{best['task']['seed']}" / "best.safetensors"
        save_model(
            load_model(path).half(), DATA / "checkpoints" / f"{name}.safetensors"
        )


if __name__ == "__main__":
    main()
