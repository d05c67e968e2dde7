"""Choose settings, small: the runs behind a part of chapter 8.

    python -m experiments settings        # about half an hour of one core

Each arm changes one thing of ``BASE``, the ViT and the recipe of chapter 8, or takes
another model in its place. All learn from the same 8,000 images of Fashion-MNIST for
three epochs and are measured on the 6,000 validation images after the last one. The
test images are never read.

The analysis, fixed before the runs:

1. Each arm gets its own peak learning rate, the best of ``RATES`` (``MORE_RATES`` for
   models other than the ViT) from ``TUNING_SEED`` on validation. ``AT_BASE_RATE`` names
   arms that take the rate of the base instead.
2. An arm's result is the mean of its accuracies from ``SEEDS``, which are new.
3. All arms of the ViT have one standard deviation s, pooled over their seeds. The
   difference of an arm from the base is given with t * s * sqrt(2 / 3), t the 97.5 %
   quantile at the pooled degrees of freedom; unpaired. An interval is for a comparison
   named beforehand, and all are: arm against base. They are not corrected for their
   number, so that one of twenty is expected to miss.
4. The curve over the rate is of the base, every rate of ``MORE_RATES`` from ``SEEDS``.
   It does not enter s.

Added when these runs were done: ``LONG``, the arm that led and the base, with all
images and five epochs; ``BEYOND``, one more rate for those arms that lost and whose
best rate had been the lowest or the highest; the arms "linear fall" and "no warm-up",
with peaks of their own; "patch 28", the control of "patch 14"; "shifts too" among
``LONG``; and "cosine by epochs", chapter 8's pitfall, in the place of a milder one. It
is no setting: it stands beside the base alone, and not in s. The arms of a seed share
the order of the images, but compared in pairs the intervals are as wide.

Added later, as controls of two readings. "constant 0.004" stays at the base's peak, as
the pitfall's rate never comes to rest: what it loses is the missing fall's part of what
the pitfall loses, the rest is the swings'. ``MOVED`` trains "base" and "shifts too"
once more and measures them also on validation images moved by one pixel to the right,
with black behind them: read are the two drops, and which arm is better on moved images.
Neither enters s.

Added last, fixed before its runs: ``WHOLE``, all images for two epochs. ``WHOLE_ARMS``,
the ViT and the three simpler models, are tuned anew there, each at half, once and twice
its rate from above, by ``TUNING_SEED``, so that the grid of none ends at its best rate
from above; ``SEEDS`` measure. Read are the difference of each from the ViT, with the
interval of Welch's t over three seeds each, at two degrees of freedom, the fewest that
it can have, and whether the ViT's rate from the short runs is the best of its three.
"shifts too" was to stand beside them and was left out, unrun, for want of time.

Added after these were read, fixed before its runs: "patch 14" among ``WHOLE_ARMS``,
tuned like the others. It led the short runs, and chapter 8 trains it on all images, so
that the four others are now compared with it: the same interval, for four comparisons.
"""

import math
from dataclasses import replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from experiments.fashion_mnist import VIT
from experiments.record import record, reload
from vitutils.data import DATA, load
from vitutils.data.augmentation import flip, shift_and_flip
from vitutils.train import Step, evaluate, fit
from vitutils.vit import VisionTransformer

SEEDS, TUNING_SEED = (0, 1, 2), 100
RATES = (2e-3, 4e-3, 8e-3)
MORE_RATES = (1e-3, 2e-3, 4e-3, 8e-3, 16e-3)
BASE = {"betas": (0.9, 0.99), "label_smoothing": 0.1, "batch_size": 128}
IMAGES, EPOCHS = 8_000, 3
SETTINGS = {"vit": VIT, "recipe": BASE, "images": IMAGES, "epochs": EPOCHS}
SHAPES = {  # what changes of VIT
    "base": {},
    "width 32": {"embed_dim": 32, "mlp_dim": 64},
    "width 96": {"embed_dim": 96, "mlp_dim": 192},
    "depth 2": {"depth": 2},
    "depth 6": {"depth": 6},
    "patch 14": {"patch_size": 14},
    "patch 4": {"patch_size": 4},
    "patch 28": {"patch_size": 28},  # one patch: attention has no other to choose
}
RECIPES = {  # what changes of BASE
    "betas .9, .999": {"betas": (0.9, 0.999)},
    "constant rate": {"schedule": "constant"},
    "constant 0.004": {"schedule": "constant"},
    "cosine by epochs": {"schedule": "by epochs"},
    "linear fall": {"schedule": "linear"},
    "no warm-up": {"warmup": 0.0},
    "plain labels": {"label_smoothing": 0.0},
    "shifts too": {"augment": "shifts"},
}
AT_BASE_RATE = ("betas .9, .999", "cosine by epochs", "plain labels", "shifts too")
AT_BASE_RATE += ("constant 0.004",)
OTHERS = ("linear", "MLP", "CNN")
BEYOND = {"constant rate": 1e-3, "width 32": 16e-3, "patch 4": 16e-3}
LONG = {"seed": 0, "images": 54_000, "epochs": 5}
LONG_ARMS = ("patch 14", "base", "shifts too")
MOVED, MOVED_ARMS = {"moved": 1}, ("base", "shifts too")
WHOLE = {"images": 54_000, "epochs": 2} | MOVED
WHOLE_ARMS = ("base", "patch 14", *OTHERS)
ARMS = (*SHAPES, *RECIPES, *OTHERS)
ABOUT = {"settings": "chapter 8's rate, shape and recipe, one changed at a time"}


class Scheduled(Step):
    """A step whose rate follows another schedule than ``fit``'s after the climb."""

    def __init__(self, model, optimizer, schedule, *, after, steps, **kwargs):
        warmup = round(0.1 * steps)

        def share(t):  # of the peak rate
            return (t + 1) / (warmup + 1) if t < warmup else after(t, steps, warmup)

        schedule = LambdaLR(optimizer, share)
        super().__init__(model, optimizer, schedule, **kwargs)


def constant(t, steps, warmup):
    return 1.0


def by_epochs(t, steps, warmup):
    """Chapter 8's pitfall: the fall is as many steps long as the run has epochs."""
    return 0.5 * (1 + math.cos(math.pi * (t - warmup) / EPOCHS))


def linear(t, steps, warmup):
    return 1 - (t - warmup) / (steps - warmup)


SCHEDULES = {"constant": constant, "by epochs": by_epochs, "linear": linear}


def cnn():
    """Two convolutions with norms, then a linear layer."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 10),
    )


def new_model(arm):
    """Return the model of an arm, its weights as the global generator draws them."""
    if arm == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    if arm == "MLP":
        layers = (nn.Linear(784, 160), nn.GELU(), nn.Linear(160, 10))
        return nn.Sequential(nn.Flatten(), *layers)
    if arm == "CNN":
        return cnn()
    return VisionTransformer(**VIT | SHAPES.get(arm, {}))


@cache
def fashion(augment, images=IMAGES):
    """Return training images, the validation images, and no test images."""
    data = load("fashion_mnist")
    few = replace(data.train.subset(images), augment=augment)
    return replace(data, train=few, test=None)


def train(task):
    """Train one model and measure it after its last epoch.

    Args:
        task: arm (one of ARMS), lr, seed; images and epochs if not those of all;
            moved: pixels to the right, to measure the images moved as well.

    Returns:
        A dict: accuracy of the validation images in [0, 1], number of parameters,
        and accuracy_moved, where the task asks for it.
    """
    recipe = BASE | RECIPES.get(task["arm"], {})
    shifts = recipe.pop("augment", None) == "shifts"
    images, epochs = task.get("images", IMAGES), task.get("epochs", EPOCHS)
    data = fashion(shift_and_flip if shifts else flip, images)
    if schedule := recipe.pop("schedule", None):
        steps = epochs * data.train.num_batches(recipe["batch_size"])
        recipe["step"] = scheduled(SCHEDULES[schedule], steps)
    torch.manual_seed(task["seed"])
    model = new_model(task["arm"])
    few = replace(data, validation=data.validation.subset(500))  # a glance
    fit(
        model,
        few,
        epochs=epochs,
        lr=task["lr"],
        seed=task["seed"],
        device="cpu",
        progress=False,
        **recipe,
    )
    result = {
        "accuracy": round(evaluate(model, data.validation).accuracy, 4),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    if by := task.get("moved"):
        seen = replace(data.validation, images=moved(data.validation.images, by))
        result["accuracy_moved"] = round(evaluate(model, seen).accuracy, 4)
    return result


def moved(images, by):
    """Move images to the right, black behind them."""
    return F.pad(images, (by, -by))


def scheduled(after, steps):
    def step(*args, **kwargs):
        return Scheduled(*args, after=after, steps=steps, **kwargs)

    return step


def tuning_tasks():
    """Return the runs that choose each arm's rate."""
    tasks = [
        {"arm": arm, "lr": lr, "seed": TUNING_SEED}
        for arm in ARMS
        if arm not in AT_BASE_RATE
        for lr in (MORE_RATES if arm in OTHERS else RATES)
    ]
    beyond = [{"arm": arm, "lr": lr, "seed": TUNING_SEED} for arm, lr in BEYOND.items()]
    return tasks + beyond


def whole_tuning_tasks(rates):
    """Return the runs that choose each arm's rate for all images."""
    return [
        {"arm": arm, "lr": lr, "seed": TUNING_SEED} | WHOLE
        for arm in WHOLE_ARMS
        for lr in (rates[arm] / 2, rates[arm], 2 * rates[arm])
    ]


def chosen_rates(runs, whole=False):
    """Return the rate of each arm that the runs from ``TUNING_SEED`` choose."""
    best = {}
    for run in runs:
        task = run["task"]
        if task["seed"] == TUNING_SEED and ("images" in task) == whole:
            found = (run["accuracy"], task["lr"])
            best[task["arm"]] = max(best.get(task["arm"], found), found)
    rates = {arm: lr for arm, (_, lr) in best.items()}
    return rates | dict.fromkeys(AT_BASE_RATE, rates["base"])


def all_tasks(rates, whole_rates):
    """Return the runs of the study: those that choose, and those that measure."""
    measured = [{"arm": arm, "lr": rates[arm]} for arm in ARMS]
    curve = [{"arm": "base", "lr": lr} for lr in MORE_RATES if lr != rates["base"]]
    fresh = [task | {"seed": seed} for task in measured + curve for seed in SEEDS]
    long = [{"arm": arm} | LONG | {"lr": rates[arm]} for arm in LONG_ARMS]
    moved = [
        {"arm": arm, "lr": rates[arm], "seed": seed} | MOVED
        for arm in MOVED_ARMS
        for seed in SEEDS
    ]
    whole = [
        {"arm": arm, "lr": whole_rates[arm], "seed": seed} | WHOLE
        for arm in WHOLE_ARMS
        for seed in SEEDS
    ]
    short = [*tuning_tasks(), *fresh, *long, *moved]
    return [*short, *whole_tuning_tasks(rates), *whole]


def perform(name, *, command, workers=None):
    """Run the study, as far as its record does not hold it; return its path."""
    path = DATA / "results" / f"{name}.json"
    how = {"settings": SETTINGS, "command": command, "workers": workers}
    known = [run["task"] for run in reload(path, SETTINGS)["runs"]]
    tasks = tuning_tasks()
    tasks += [task for task in known if task not in tasks]
    held = record(path, tasks, train, **how)
    rates = chosen_rates(held["runs"])
    tasks += [task for task in whole_tuning_tasks(rates) if task not in tasks]
    held = record(path, tasks, train, **how)
    record(path, all_tasks(*chosen(held["runs"])), train, **how)
    return path


def chosen(runs):
    """Return the rates of the short runs, and those for all images."""
    return chosen_rates(runs), chosen_rates(runs, whole=True)
