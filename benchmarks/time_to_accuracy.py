"""Accuracy against seconds: the book's ViT beside timm's, both trained by ``fit``.

Same size, images, order, augmentation, recipe and number of epochs, on Fashion-MNIST
from its shipped archives; what differs is the code of the model. Runs take turns, one
at a time on one thread, and seconds are those of the processor, so that other work on
the machine does not count. Writes data/results/time_to_accuracy_cpu.json; a run that
was interrupted goes on.

    python benchmarks/time_to_accuracy.py        # about eight minutes on one core
"""

import statistics
import time
from dataclasses import replace
from functools import partial
from itertools import product

import torch
from timm.models import VisionTransformer as TimmViT

from experiments.fashion_mnist import RECIPE, VIT
from experiments.record import record
from vitutils.data import DATA, load
from vitutils.data.augmentation import flip
from vitutils.train import evaluate, fit
from vitutils.vit import VisionTransformer

MODELS = {
    "vitutils": partial(VisionTransformer, **VIT),
    "timm": partial(
        TimmViT,
        img_size=28,
        patch_size=7,
        in_chans=1,
        num_classes=10,
        embed_dim=64,
        depth=4,
        num_heads=4,
        mlp_ratio=2,
    ),
}
EPOCHS, SEEDS = (1, 3), (0, 1, 2)


def train(task):
    """Train one model; return its test accuracy in [0, 1] and processor seconds."""
    data = load("fashion_mnist")
    data = replace(data, train=replace(data.train, augment=flip))
    torch.manual_seed(task["seed"])
    model = MODELS[task["model"]]()
    start = time.process_time()
    fit(
        model,
        data,
        epochs=task["epochs"],
        seed=task["seed"],
        precision=task["precision"],
        device="cpu",
        progress=False,
        **RECIPE,
    )
    seconds = time.process_time() - start
    return {
        "accuracy": evaluate(model, data.test).accuracy,
        "processor_seconds": round(seconds, 1),
    }


def main():
    tasks = [
        {"model": model, "epochs": epochs, "precision": "fp32", "seed": seed}
        for seed, epochs, model in product(SEEDS, EPOCHS, MODELS)
    ]
    held = record(
        DATA / "results" / "time_to_accuracy_cpu.json",
        tasks,
        train,
        settings={"vit": VIT, "recipe": RECIPE},
        command="python benchmarks/time_to_accuracy.py",
        workers=1,
    )
    for epochs, model in product(EPOCHS, MODELS):
        rows = [
            row
            for row in held["runs"]
            if (row["task"]["epochs"], row["task"]["model"]) == (epochs, model)
        ]
        accuracy = [100 * row["accuracy"] for row in rows]
        seconds = statistics.mean(row["processor_seconds"] for row in rows)
        print(
            f"{model:9} {epochs} epochs: {seconds:5.1f} s, "
            f"{statistics.mean(accuracy):.1f} % of the test images (seeds "
            f"{', '.join(f'{value:.1f}' for value in accuracy)})"
        )


if __name__ == "__main__":
    main()
