"""What trained weights and positions are worth as a start, for chapter 17.

    VITUTILS_WEIGHTS=FOLDER python -m experiments starts --workers 1   # about an hour

Few labels: the ViT that has learned CIFAR-10 against new weights of the same sizes, in
two tasks. In one, 100 labelled digits of 8 by 8 pixels, brought to 32 by 32; in the
other, three quarters of the 103 photographs of ``data/stamps`` at 32 pixels, by the
command that the chapter shows, with and without ``--init``.

Positions: the book's ViT for Fashion-MNIST at 42 pixels, with positions resampled from
28 pixels, with zeros for patches, or with new ones.

The analysis, fixed before the runs:

- Digits: three draws of 100 labels, each with two seeds (of new weights, head and
  order), 320 steps. Each start has three rates, and reports the one with the highest
  mean accuracy on the 197 digits that are neither drawn nor tested; of equals the
  smallest. Reported: the accuracy on the 1,000 test digits by run, and the paired
  leads, whose interval is over the draws, two runs averaged.
- Longer, planned when the digits' runs above had been seen, in which new weights had
  half of the test digits right: are 320 steps too few for them? They get 1,000 and
  3,000, which tells whether 3,000 reach a plateau, and trained weights get 3,000 too,
  the schedule stretched, at the rate that served both starts best, once for each draw,
  with the draw's number as the seed. Reported: the accuracy on the test digits by run,
  and the leads of trained weights, with 320 steps and with 3,000, over new ones with
  3,000, paired by draw. (Of two runs of draw 0, trained weights at 1,000 and at 3,000
  steps, the results were seen before this plan had its last form.)
- Photographs: each quarter (every fourth photograph of the list, from 0, 1, 2 or 3) is
  once the test set, so that each photograph is judged once for each seed. Two seeds at
  the chapter's rate, one of them at three times that rate too. Reported: the share of
  the 103 that each start gets right, and the lead, paired by photograph, with a 95 %
  interval over photographs, seeds averaged. Beside both, the nearest one by pixels.
- Ways, planned when the photographs' runs above had been seen, on the same quarters:
  of the trained start the head alone learns (frozen, at three rates), or each block's
  rate is half that of the one above (decayed, at two). Two seeds each. Reported: the
  share of the 103 at each rate, and beside it the lead, paired by photograph, of
  training all weights at the chapter's rate.
- Shuffled, planned when all of the runs above and the first one of the next part had
  been seen, fixed before any of these: do trained weights help by what they have
  learned, or by how large they are? A third start has the trained weights with the
  numbers of each tensor in random places, other ones for each seed, and a new head. It
  gets what the two starts of the digits got: 320 steps, the same draws, seeds and
  rates, and the rate chosen in the same way. Reported: its accuracy, and the lead of
  trained weights over it, paired by draw.
- Published, planned when all of the runs above but those of shuffled weights, and those
  of ``experiments.published``, had been seen: the ViT-S/14 in the form of DINOv2 that
  ``experiments.published`` keeps frozen, at 126 pixels, on the same quarters. All its
  weights are trained by ``fine_tune``, which the chapter shows, 50 steps of 16
  photographs (ten epochs), in mixed precision (bf16). So are its shuffled weights, at
  the same two rates, and new weights of the same sizes, at two rates that suit them;
  one seed, and no photograph is held out. Beside them, on the same quarters,
  classifiers of ``experiments.published``: of the frozen tokens linearly and by kernel,
  of the pixels by kernel. Each reads one of three inputs, with three decays, or with
  nine pairs of width and decay for a kernel, chosen among the three quarters that it
  learns from (from two of them, judged by the third, in turns). Reported: the share of
  the 103 at each rate and by each classifier; and the leads of fine-tuning at each of
  its rates over new and over shuffled weights, each at the rate that serves the judged
  photographs best (which favors them), over the frozen tokens, linearly and by kernel,
  and over the pixels: paired by photograph, ten 95 % intervals that hold together.
  (There is no time for more rates and seeds. Five earlier runs of trained weights were
  seen and thrown away: one context of autocast around all steps had kept the first
  step's weights in bf16 for all others. Without its cache, the training loss at 1e-4
  was seen to fall to 0.03, and no accuracy on a quarter that is set aside.)
- Positions: 1,536 images, eight epochs of 48 steps at one rate, not tuned, two seeds.
  Reported: the accuracy on 500 validation images after each epoch, by run.
"""

import contextlib
import hashlib
import io
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.published import NAME as PUBLISHED_NAME
from experiments.published import (
    SIDE,
    chosen_by_part,
    kernels,
    linears,
    network,
    of_pixels,
    of_tokens,
)
from experiments.record import record
from vitutils.__main__ import main
from vitutils.data import DATA, load
from vitutils.data.augmentation import flip
from vitutils.data.splits import MemorySplit
from vitutils.engine.checkpoints import load_model
from vitutils.engine.published import PUBLISHED, find
from vitutils.engine.weights import load_weights
from vitutils.pretrained import at_image_size
from vitutils.train import evaluate, fit, warmup_cosine
from vitutils.vit import VisionTransformer

ABOUT = {"starts": "trained and new weights as a start, with few labels"}
FILE = DATA / "checkpoints" / "vit_cifar10.safetensors"
POSITIONED = "vit_fashion_mnist.safetensors"
SETTINGS = {"weights": FILE.name, "steps": 320, "batch": 8, "epochs": 10}
STARTS, RATES = ("trained", "new"), (3e-4, 1e-3, 3e-3)
WAYS = {  # to train the trained one: the command's options, and rates
    "frozen": (["--freeze"], (3e-3, 1e-2, 3e-2)),
    "decayed": (["--layer-decay", "0.5"], (1e-3, 3e-3)),
}
PUBLISHED_STEPS = 50  # ten epochs of 16 photographs
FOR_PUBLISHED = {  # rates for a start of the published network's sizes
    "trained": (3e-5, 1e-4),
    "new": (3e-4, 1e-3),
    "shuffled": (3e-5, 1e-4),
}
READ = (("pixels", "kernel"), ("frozen", "kernel"), ("frozen", "linear"))
DRAWS, SEEDS, QUARTERS = range(3), range(2), range(4)
LONGER = (("new", 1000), ("new", 3000), ("trained", 3000))  # starts and steps
MEAN, STD = (0.491, 0.482, 0.447), (0.245, 0.243, 0.261)  # of CIFAR-10


def digits() -> tuple[Tensor, Tensor]:
    """Return the digits as small photographs, (1797, 3, 32, 32), and their labels."""
    with np.load(DATA / "digits" / "digits.npz") as held:
        labels = torch.from_numpy(held["labels"]).long()
        pixels = torch.from_numpy(held["images"][:, None]) / 16
    images = F.interpolate(pixels, (32, 32), mode="bicubic").clamp(0, 1)
    mean, std = torch.tensor([MEAN, STD]).view(2, 3, 1, 1)
    return (images - mean) / std, labels


def labelled(draw: int) -> Tensor:
    """Return which 100 of the first 600 digits have a label in a draw, 0 to 5."""
    rng = torch.Generator().manual_seed(0)
    return torch.randperm(600, generator=rng).view(6, 100)[draw]


def beginning(start: str, seed: int) -> VisionTransformer:
    """Return new weights, or trained or shuffled ones with a new head."""
    trained = load_model(FILE)
    torch.manual_seed(seed)
    model = VisionTransformer(**trained.config)  # all its weights are new
    if start != "new":
        body = {  # the head stays new, as the classes are others
            key: shuffled(value) if start == "shuffled" else value
            for key, value in trained.state_dict().items()
            if "head" not in key
        }
        model.load_state_dict(model.state_dict() | body)
    return model


def shuffled(value: Tensor) -> Tensor:
    """Return the numbers of a tensor in random places."""
    return value.flatten()[torch.randperm(value.numel())].view_as(value)


def fine_tune(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    steps: int,
    lr: float,
    seed: int,
    batch: int = 8,
) -> None:
    """Train all weights on a few images, in batches drawn with the seed."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=lr, weight_decay=0.05, fused=True
    )
    schedule = warmup_cosine(optimizer, steps=steps, warmup_steps=steps // 10)
    rng = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(steps):
        rows = torch.randperm(len(images), generator=rng)[:batch]
        loss = F.cross_entropy(model(images[rows]), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()


@torch.inference_mode()
def correct(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return which images a model classifies correctly."""
    found = torch.cat([model(part).argmax(dim=1) for part in images.split(100)])
    return found == labels


def on_digits(task: dict) -> dict:
    """Fine-tune on a draw's digits; return the accuracy on three kinds of digits."""
    images, labels = digits()
    mine = labelled(task["draw"])
    model = beginning(task["start"], task["seed"])
    fine_tune(
        model,
        images[mine],
        labels[mine],
        steps=task.get("steps", SETTINGS["steps"]),
        lr=task["lr"],
        seed=task["seed"],
        batch=SETTINGS["batch"],
    )
    parts = {"own": mine, "spare": slice(600, 797), "test": slice(797, None)}
    found = {k: correct(model, images[rows], labels[rows]) for k, rows in parts.items()}
    return {name: round(hits.double().mean().item(), 5) for name, hits in found.items()}


@contextlib.contextmanager
def set_aside(quarter: int) -> Iterator[None]:
    """Work where a folder, photos, has a quarter of the photographs as its test set."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        for number, stamp in enumerate(sorted((DATA / "stamps").glob("*/*.jpg"))):
            part = "test" if number % 4 == quarter else "train"
            target = Path("photos", part, stamp.parent.name)
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(stamp, target)
        yield


def on_photographs(task: dict) -> dict:
    """Run the chapter's command on three quarters; return which others are right."""
    with set_aside(task["quarter"]):
        config = load_model(FILE).config
        words = ["train", "--data", "photos", "--device", "cpu", "--folder", "run"]
        words += ["--epochs", str(SETTINGS["epochs"]), "--batch-size", "16"]
        words += ["--lr", str(task["lr"]), "--seed", str(task["seed"])]
        words += ["--image-size", "32"]
        if task["start"] != "new":
            words += ["--init", str(FILE)]
            options, _ = WAYS.get(task["start"], ([], ()))
            words += options
        else:
            for key in ("patch_size", "embed_dim", "depth", "num_heads", "mlp_dim"):
                words += [f"--{key.replace('_', '-')}", str(config[key])]
        with contextlib.redirect_stdout(io.StringIO()):
            if main(words):
                raise RuntimeError(f"vitutils {' '.join(words)} failed")
        model, images = load_weights(Path("run", "best.safetensors"))
        parts = load(Path("photos"), image_size=32)
        test = images.normalize(parts.test.images)
        known = [parts.train, parts.validation]
        rows = torch.cat([images.normalize(part.images) for part in known])
        kinds = torch.cat([part.labels for part in known])
        near = torch.cdist(test.flatten(1), rows.flatten(1)).argmin(dim=1)
        found = {
            "hits": correct(model, test, parts.test.labels),
            "neighbor": kinds[near] == parts.test.labels,
        }
    return {k: "".join(str(int(hit)) for hit in hits) for k, hits in found.items()}


@cache
def quarters(size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the photographs quarter by quarter, as the runs of ``photographs`` do.

    Returns:
        (103, 3, size, size) in [0, 1], their labels and the quarter of each.
    """
    tests = []
    for quarter in QUARTERS:
        with set_aside(quarter):
            tests.append(load(Path("photos"), image_size=size).test)
    images = torch.cat([test.images for test in tests]) / 255
    part = [k for k, test in enumerate(tests) for _ in test.labels]
    labels = torch.cat([test.labels for test in tests])
    return images, labels, torch.tensor(part)


def with_published(task: dict) -> dict:
    """Return which photographs the published network, or a rival, gets right."""
    images, labels, part = quarters(SIDE)
    source = PUBLISHED[PUBLISHED_NAME]
    mean, std = torch.tensor([source.mean, source.std]).view(2, 1, 3, 1, 1)
    images, start = (images - mean) / std, task["start"]
    if "read" in task:
        found = of_pixels(images, task["read"]) if start == "pixels" else {}
        if start == "frozen":
            model = network("as loaded")
            with torch.no_grad():
                rows = [model.encoder(model.embeddings(x))[0] for x in images.split(20)]
            found = of_tokens(torch.cat(rows))
        readers = {"kernel": kernels, "linear": linears}[task["read"]]
        hits = chosen_by_part(readers(found, labels), labels, part)
    else:
        model = network("as loaded")
        torch.manual_seed(task["seed"])
        made = VisionTransformer(**model.config | {"num_classes": 4})
        if start != "new":
            body = {
                key: shuffled(value) if start == "shuffled" else value
                for key, value in model.state_dict().items()
                if "head" not in key
            }
            made.load_state_dict(made.state_dict() | body)
        test = part == task["quarter"]
        # The cache would keep the first step's weights for all others.
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            fine_tune(
                made,
                images[~test],
                labels[~test],
                steps=PUBLISHED_STEPS,
                lr=task["lr"],
                seed=task["seed"],
                batch=16,
            )
        hits = correct(made, images[test], labels[test])
    found = {"hits": "".join(str(int(hit)) for hit in hits)}
    if start in ("trained", "shuffled", "frozen"):
        file = find(PUBLISHED_NAME).read_bytes()
        found["sha256"] = hashlib.sha256(file).hexdigest()
    return found


def enlarged(split: MemorySplit, size: int) -> MemorySplit:
    """Return a split with its images resampled to so many pixels a side."""
    images = split.images.float()
    images = F.interpolate(images, (size, size), mode="bicubic", antialias=True)
    return replace(split, images=images.round().clamp(0, 255).to(torch.uint8))


def on_positions(task: dict) -> dict:
    """Train at 42 pixels; return the accuracy before and after each epoch."""
    data = load("fashion_mnist")
    train = replace(data.train.subset(1536), augment=flip)
    held_out = data.validation.subset(500)
    data = replace(data, train=enlarged(train, 42), validation=enlarged(held_out, 42))
    model = at_image_size(load_model(DATA / "checkpoints" / POSITIONED), 42)
    patches = model.embeddings.pos_embed.data[:, 1:]
    torch.manual_seed(task["seed"])
    if task["positions"] == "zero":
        nn.init.zeros_(patches)
    if task["positions"] == "new":
        nn.init.trunc_normal_(patches, std=0.02)
    found = [evaluate(model, data.validation).accuracy]
    history = fit(
        model, data, epochs=8, batch_size=32, lr=1e-3, seed=task["seed"], progress=False
    )
    return {"accuracy": found + [row["val_accuracy"] for row in history]}


def run(task: dict) -> dict:
    """Run one task of any kind."""
    kinds = {"digits": on_digits, "longer": on_digits, "positions": on_positions}
    kinds["published"] = with_published
    return kinds.get(task["on"], on_photographs)(task)


def all_tasks() -> list[dict]:
    """Return the tasks of all parts."""
    digits = [
        {"on": "digits", "start": start, "lr": lr, "draw": draw, "seed": seed}
        for start, lr, draw, seed in product(STARTS, RATES, DRAWS, SEEDS)
    ]
    photographs = [
        {"on": "photographs", "start": start, "lr": lr, "quarter": k, "seed": seed}
        for start, k, (lr, seed) in product(
            STARTS, QUARTERS, ((1e-3, 0), (1e-3, 1), (3e-3, 0))
        )
    ]
    positions = [
        {"on": "positions", "positions": arm, "seed": seed}
        for arm, seed in product(("resampled", "zero", "new"), SEEDS)
    ]
    ways = [
        {"on": "photographs", "start": way, "lr": lr, "quarter": k, "seed": seed}
        for way, (_, rates) in WAYS.items()
        for lr, seed, k in product(rates, SEEDS, QUARTERS)
    ]
    longer = [
        {"on": "longer", "start": start, "steps": steps, "lr": 1e-3}
        | {"draw": draw, "seed": draw}
        for (start, steps), draw in product(LONGER, DRAWS)
    ]
    mixed = [
        {"on": "digits", "start": "shuffled", "lr": lr, "draw": draw, "seed": seed}
        for lr, draw, seed in product(RATES, DRAWS, SEEDS)
    ]
    published = [
        {"on": "published", "start": start, "read": read} for start, read in READ
    ]
    published += [
        {"on": "published", "start": start, "lr": lr, "quarter": k, "seed": 0}
        for start, rates in FOR_PUBLISHED.items()
        for lr, k in product(rates, QUARTERS)
    ]
    parts = digits, photographs, positions, ways, longer, mixed, published
    return [task for part in parts for task in part]


def of(runs: list[dict], **kind) -> list[dict]:
    """Return the runs whose task is of a kind."""
    return [row for row in runs if kind.items() <= row["task"].items()]


def at_best_rate(runs: list[dict], **kind) -> list[dict]:
    """Return the runs of a kind that have the rate which serves the spare digits best.

    Args:
        runs: of the record.
        kind: what their tasks share, "on" and "start".
    """
    rows = [of(runs, lr=lr, **kind) for lr in RATES]
    return max(rows, key=lambda rows: fmean(row["spare"] for row in rows))


def perform(name: str, *, command: str, workers: int | None = None) -> Path:
    """Run all tasks; return the record's path."""
    path = DATA / "results" / f"{name}.json"
    record(path, all_tasks(), run, settings=SETTINGS, command=command, workers=workers)
    return path
