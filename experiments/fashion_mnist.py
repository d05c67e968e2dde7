"""Train the two small models that ship in data/checkpoints, on Fashion-MNIST.

    python -m experiments fashion_mnist        # about five minutes on two cores

The ViT is that of chapter 8, trained longer; the DeiT is the same with the teacher of
``experiments.deit_tables`` and hard distillation. Prints what the model cards say.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch

from experiments.deit_tables import RECIPE, VIT, trained_teacher
from vitutils.data import DATA, load
from vitutils.data.augmentation import flip
from vitutils.deit import DistilledVisionTransformer
from vitutils.distill import hard_distillation
from vitutils.engine.checkpoints import load_model, save_model
from vitutils.engine.folder_run import FolderRun
from vitutils.engine.machine import machine
from vitutils.train import evaluate, fit
from vitutils.vit import VisionTransformer

MODELS = {
    "vit_fashion_mnist": VisionTransformer,
    "deit_fashion_mnist": DistilledVisionTransformer,
}
RUNS = Path("runs")
ABOUT = {"fashion_mnist": "the two small models of data/checkpoints"}


def perform(name, *, command, workers=None):
    """Train the models on all cores, whatever ``workers`` says; return their folder."""
    data = load("fashion_mnist")
    data = replace(data, train=replace(data.train, augment=flip))
    print(json.dumps({"command": command} | machine("torch", "torchvision")))
    for file, cls in MODELS.items():
        loss_fn = None
        if cls is DistilledVisionTransformer:
            teacher = trained_teacher("cnn")
            accuracy = evaluate(teacher.model, data.test).accuracy
            print(f"teacher: {accuracy:.4f} of the test images")
            loss_fn = teacher.teaches(hard_distillation)
        torch.manual_seed(0)
        folder = RUNS / file
        history = fit(
            cls(**VIT),
            data,
            epochs=7,
            seed=0,
            loss_fn=loss_fn,
            run=FolderRun(folder, resume=True),
            device="cpu",
            **RECIPE,
        )
        model = load_model(folder / "best.safetensors")
        test = evaluate(model, data.test).accuracy
        path = DATA / "checkpoints" / f"{file}.safetensors"
        save_model(model, path, data.preprocessing)
        seconds = history[-1]["seconds"]
        validation = max(row["val_accuracy"] for row in history)
        print(
            f"{file}: {validation:.4f} of validation, {test:.4f} of the test images, "
            f"{seconds:.0f} s"
        )
    for file in MODELS:  # whose runs have come to their end
        shutil.rmtree(RUNS / file)
    return DATA / "checkpoints"
