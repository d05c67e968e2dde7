"""Does a teacher stay worth its while? A larger student, 20 to 160 epochs, on a GPU.

    python -m experiments distillation_long --data FOLDER --workers 6

DeiT's authors find that a ViT with a teacher goes on gaining from longer training
(Touvron et al. 2021, section 5.3), and they train with augmentation far stronger than
that of the study ``distillation``. This one asks how the gain changes with the length
of training under such a recipe. All that follows was fixed before the runs.

**Data** as in ``distillation``: a seed draws 10,000 of the 45,000 training images of
CIFAR-10, what is chosen is chosen on the 5,000 validation images, and the test images
are read once a run, after its last epoch. Behind that stands a smaller part with all
45,000 images, at the rates found with 10,000.

**Models.** Students have patches of 4 pixels, width 192, six blocks, three heads and
MLPs of 768: 2.7 million parameters. A seed's teacher is a convnet of 1.6 million that
has learned for 40 epochs from the student's own images, by crops and flips alone.

**Recipe** of both arms: AdamW, batches of 512, bf16, decay 0.05, warm-up over a tenth
of the steps, cosine; crops of 35 to 100 % of the area, flips, RandAugment of magnitude
9, erasing 0.25, Mixup 0.8 or CutMix 1.0, smoothing 0.1, stochastic depth 0.1. For
speed, 64 images of a batch share RandAugment's two operations and the erased rectangle;
crop and flip are each image's own.

**Arms**: "none", and "token": DeiT's second token with hard distillation, read by both
heads. Each takes the best of three rates by validation at 40 epochs, ``TUNING_SEED``.
That rate serves every length, which may favor one length over another.

**Contrasts**: token - none, one for each length, three seeds, paired t intervals at
1 - 0.05 / 4, so that the four hold together at 95 %. With three seeds such an interval
is wide. The question itself, whether the gain shrinks or grows, is one number: the
slope of a seed's gain over the logarithm of the length to base 2, in points for each
doubling, mean of three seeds with its t interval at 95 %.
"""

import math
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from experiments.contrasts import Interval, corrected, paired
from experiments.distillation import head_of, loss_of, measured
from experiments.record import record, reload
from vitutils.data import DATA, Dataset, augmentation, load
from vitutils.data.splits import MemorySplit, generator, strengthen
from vitutils.deit import DistilledVisionTransformer
from vitutils.distill import ConvNet, Teacher
from vitutils.engine.checkpoints import load_model, save_model
from vitutils.engine.folder_run import FolderRun
from vitutils.engine.large_step import LargeStep
from vitutils.train import default_device, fit
from vitutils.vit import VisionTransformer

SEEDS, TUNING_SEED, ARMS, ALL = (0, 1, 2), 100, ("none", "token"), 45_000
RATES = (1e-3, 5e-4, 2e-3)
SETTINGS = {
    "images": 10_000,
    "lengths": (160, 80, 40, 20),  # in epochs; so packed, they end together
    "lengths with all images": (40, 20),
    "searched": 40,
    "student": {
        "patch_size": 4,
        "embed_dim": 192,
        "depth": 6,
        "num_heads": 3,
        "mlp_dim": 768,
        "stochastic_depth": 0.1,
    },
    "cnn": {"widths": (64, 128, 256, 512)},
    "recipe": {"batch_size": 512, "betas": (0.9, 0.99), "weight_decay": 0.05},
    "teacher": {"epochs": 40, "lr": 3e-3},
    "crops": (0.35, 1.0),
    "strengthened": {"randaugment": 9, "erase": 0.25},
    "mixed": {"mixup": 0.8, "cutmix": 1.0},
    "smoothing": 0.1,
    "group": 64,
}
TOY = SETTINGS | {  # to try the code
    "images": 300,
    "lengths": (2, 1),
    "lengths with all images": (),
    "searched": 1,
    "student": SETTINGS["student"] | {"embed_dim": 24, "depth": 1, "mlp_dim": 24},
    "cnn": {"widths": (4, 8)},
    "teacher": {"epochs": 1, "lr": 3e-3},
}
PARTS = ("teachers", "search", "lengths", "teachers of all", "lengths with all")
ABOUT = {
    "distillation_long": "what a teacher is worth to a larger student that learns for "
    "20 to 160 epochs: for a GPU"
}


def chosen_rate(runs: list[dict], arm: str) -> float:
    """Return the rate with which an arm is best by validation; of equals the first."""
    found = {
        row["task"]["lr"]: row["validation"]["accuracy"][head_of(row["task"])]
        for row in runs
        if (row["task"]["part"], row["task"]["arm"]) == ("search", arm)
    }
    return max(RATES, key=lambda rate: found.get(rate, -1))


def tasks_of(part: str, runs: list[dict], settings: dict) -> list[dict]:
    """Return the tasks of a part, each a dict that says all about one run."""
    whole = part.endswith("all")
    images = ALL if whole else settings["images"]
    lengths = settings["lengths with all images" if whole else "lengths"]

    def task(arm, seed, **more):
        return {"part": part, "arm": arm, "seed": seed, "images": images} | more

    if part.startswith("teachers"):
        seeds = SEEDS if whole else (TUNING_SEED, *SEEDS)
        return [task("teacher", seed) for seed in seeds if lengths]
    if part == "search":
        epochs = settings["searched"]
        every = product(RATES, ARMS)
        return [task(arm, TUNING_SEED, epochs=epochs, lr=lr) for lr, arm in every]
    return [
        task(arm, seed, epochs=epochs, lr=chosen_rate(runs, arm))
        for epochs, seed, arm in product(lengths, SEEDS, ARMS)
    ]


# ---- One run ----


def on_device(data: Dataset) -> Dataset:
    """Return the data with the training images on the device."""
    images = data.train.images.to(default_device())
    return replace(data, train=replace(data.train, images=images))


def drawn(data: Dataset, seed: int, images: int, crops: tuple) -> MemorySplit:
    """Return so many training images, those of a seed, to be cropped and flipped."""
    order = torch.randperm(len(data.train), generator=generator("images", seed))
    crop = partial(augmentation.random_resized_crop, scale=crops)
    return replace(data.train.subset(order[:images]), augment=crop)


def in_groups(
    images: Tensor, draws: torch.Generator, *, first, transform, group: int
) -> Tensor:
    """Augment a batch, then groups of it, each by one draw.

    As ``image_by_image``, which a processor does for one image after the other; a GPU
    is faster with many at a time. The order of the images is a new one in each epoch.
    """
    images = first(images, draws)
    seed = torch.randint(2**62, (), generator=draws).item()
    with torch.random.fork_rng(devices=[]):  # v2 draws from the global generator
        torch.default_generator.manual_seed(seed)
        return torch.cat([transform(some) for some in images.split(group)])


def train(task: dict, data: Dataset, settings: dict, folder: Path) -> dict:
    """Train a teacher or a student and measure it after its last epoch.

    One that was cut off goes on where it was: the folder keeps its state.
    """
    torch.set_num_threads(1)
    data, device, seed = on_device(data), default_device(), task["seed"]
    sizes = {"in_channels": data.in_channels, "num_classes": data.num_classes}
    split = drawn(data, seed, task["images"], settings["crops"])
    seen = replace(split.subset(min(2000, len(split))), augment=None)
    teacher, step = None, partial(LargeStep, precision="bf16")
    torch.manual_seed(seed)
    if task["arm"] == "teacher":
        model = ConvNet(**settings["cnn"], **sizes)
        how = settings["teacher"] | {"seed": 1000 + seed}
    else:
        two_tokens = task["arm"] == "token"
        cls = DistilledVisionTransformer if two_tokens else VisionTransformer
        sizes |= {"image_size": data.image_size}
        model = cls(**settings["student"], **sizes)
        teacher = Teacher(load_model(teacher_file(folder, task)))
        split = strengthen(split, **settings["strengthened"])
        groups = partial(in_groups, group=settings["group"], **split.augment.keywords)
        split = replace(split, augment=groups)
        mix = augmentation.mixing(data.num_classes, **settings["mixed"])
        step = partial(step, mix=mix)
        loss_fn = loss_of(task | {"smoothing": settings["smoothing"]}, teacher)
        how = {name: task[name] for name in ("seed", "epochs", "lr")}
        how |= {"loss_fn": loss_fn}
    glance = data.validation.subset(min(500, len(data.validation)))
    history = fit(
        model,
        replace(data, train=split, validation=glance),
        step=step,
        run=FolderRun(folder / "-".join(map(str, task.values())), resume=True),
        device=device,
        progress=False,
        **settings["recipe"],
        **how,
    )
    if task["arm"] == "teacher":
        save_model(model, teacher_file(folder, task))
    found = {
        "validation": measured(model, data.validation, teacher),
        "training": measured(model, seen, teacher),
        "images_per_second": round(history[-1]["images_per_second"]),
        "history": [
            [round(epoch[name], 4) for name in ("train_loss", "val_accuracy")]
            for epoch in history
        ],
    }
    if task["part"] == "search":
        return found
    return measured(model, data.test, teacher) | found


def teacher_file(folder: Path, task: dict) -> Path:
    return folder / f"teacher-{task['images']}-{task['seed']}.safetensors"


def perform(
    name: str,
    *,
    command: str,
    workers: int | None = None,
    data: str = "cifar10",
    toy: bool = False,
    folder: str | None = None,
) -> Path:
    """Run the study, as far as its record does not hold it; return its path."""
    path = (Path(folder) if folder else DATA / "results") / f"{name}.json"
    runs_at = (Path(folder) if folder else Path("runs")) / name
    settings = (TOY if toy else SETTINGS) | {"data": Path(data).name}
    runs = reload(path, settings)["runs"]
    run = partial(train, data=load(data), settings=settings, folder=runs_at)
    for part in PARTS:
        known = [row["task"] for row in runs]
        fresh = [t for t in tasks_of(part, runs, settings) if t not in known]
        how = {"settings": settings, "command": command, "workers": workers}
        runs = record(path, known + fresh, run, **how)["runs"]
    print(conclusion(runs, settings))
    return path


# ---- What follows from it ----


def accuracies(runs: list[dict], arm: str, epochs: int, images: int) -> list[float]:
    """Return an arm's test accuracies in per cent, seed by seed."""
    which = {"arm": arm, "epochs": epochs, "images": images}.items()
    tested = [row for row in runs if row["task"]["part"] != "search"]
    rows = [row for row in tested if which <= row["task"].items()]
    rows.sort(key=lambda row: row["task"]["seed"])
    return [100 * row["accuracy"][head_of(row["task"])] for row in rows]


def gains(
    runs: list[dict], settings: dict
) -> tuple[dict[int, Interval], Interval | None]:
    """Return token - none by length, and the change of it with each doubling.

    Lengths of which a seed is missing are left out; without two of them there is no
    change.
    """
    by_length, apart = {}, {}
    for epochs in sorted(settings["lengths"]):
        token, none = (
            accuracies(runs, arm, epochs, settings["images"])
            for arm in ("token", "none")
        )
        if len(token) == len(none) == len(SEEDS):
            sure = corrected(len(settings["lengths"]))
            by_length[epochs] = paired(token, none, sure)
            apart[epochs] = [a - b for a, b in zip(token, none, strict=True)]
    if len(apart) < 2:
        return by_length, None
    doublings = torch.tensor([math.log2(epochs) for epochs in apart])
    doublings = (doublings - doublings.mean()).double()
    table = torch.tensor([*apart.values()], dtype=torch.float64)  # (lengths, seeds)
    slopes = (doublings @ table / doublings.square().sum()).tolist()
    return by_length, paired(slopes, [0.0] * len(slopes))


def conclusion(runs: list[dict], settings: dict) -> str:
    """Return the contrasts, as far as their runs are there."""
    by_length, change = gains(runs, settings)
    lines = [
        f"{epochs} epochs: token - none {gain.mean:+.2f} ± {gain.half:.2f} points: "
        f"{gain.verdict}"
        for epochs, gain in by_length.items()
    ]
    if change:
        lines.append(f"a doubling: {change.mean:+.2f} ± {change.half:.2f} points")
    return "\n".join(lines) or "nothing is concluded yet"
