"""Train the four small models that ship in data/checkpoints, on Fashion-MNIST.

    python -m experiments fashion_mnist        # about five minutes on two cores

First two that teach, a convnet and a ViT, if they are not there yet. Then the ViT of
chapter 8, trained longer, and a DeiT, the same with hard distillation by the convnet.
Prints what the model cards say.
"""

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from vitutils.data import DATA, load
from vitutils.data.augmentation import flip, random_resized_crop
from vitutils.deit import DistilledVisionTransformer
from vitutils.distill import ConvNet, Teacher, hard_distillation
from vitutils.engine.checkpoints import load_model, save_model
from vitutils.engine.folder_run import FolderRun
from vitutils.engine.machine import machine
from vitutils.train import evaluate, fit
from vitutils.vit import VisionTransformer

VIT = {
    "image_size": 28,
    "patch_size": 7,
    "in_channels": 1,
    "num_classes": 10,
    "embed_dim": 64,
    "depth": 4,
    "num_heads": 4,
    "mlp_dim": 128,
}
CNN = {"in_channels": 1, "num_classes": 10, "widths": (16, 32, 64, 64)}
RECIPE = {"lr": 3e-3, "betas": (0.9, 0.99), "batch_size": 128}
TEACHERS = {"cnn": (ConvNet, CNN, 6), "vit": (VisionTransformer, VIT, 5)}  # epochs
CROPS = partial(random_resized_crop, scale=(0.3, 1.0))  # of what teachers learn
MODELS = {
    "vit_fashion_mnist": VisionTransformer,
    "deit_fashion_mnist": DistilledVisionTransformer,
}
RUNS = Path("runs")
ABOUT = {"fashion_mnist": "the four small models of data/checkpoints"}


def trained_teacher(name: str) -> Teacher:
    """Return a teacher; one that data/checkpoints lacks is trained first."""
    path = DATA / "checkpoints" / f"teacher_{name}.safetensors"
    if not path.exists():
        data = load("fashion_mnist")
        few = data.validation.subset(500)  # a glance: nothing is chosen by it
        cropped = replace(data.train, augment=CROPS)
        cls, sizes, epochs = TEACHERS[name]
        torch.manual_seed(0)
        model = cls(**sizes)
        fit(
            model,
            replace(data, train=cropped, validation=few),
            epochs=epochs,
            device="cpu",
            progress=False,
            **RECIPE,
        )
        save_model(model, path, data.preprocessing)
    return Teacher(load_model(path))


def perform(name, *, command, workers=None):
    """Train the models on all cores, whatever ``workers`` says; return their folder."""
    data = load("fashion_mnist")
    data = replace(data, train=replace(data.train, augment=flip))
    print(json.dumps({"command": command} | machine("torch", "torchvision")))
    teachers = {kind: trained_teacher(kind) for kind in TEACHERS}
    for kind, teacher in teachers.items():
        accuracy = evaluate(teacher.model, data.test).accuracy
        print(f"teacher_{kind}: {accuracy:.4f} of the test images")
    for file, cls in MODELS.items():
        loss_fn = None
        if cls is DistilledVisionTransformer:
            loss_fn = teachers["cnn"].teaches(hard_distillation)
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
