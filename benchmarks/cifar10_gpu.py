"""CIFAR-10 in the minutes that a GPU is there for: a teacher, a ViT, and a DeiT.

Images and augmentation stay on the device. The first fifth of the time is the
teacher's; ViT and DeiT share the rest and get equally many epochs, as many as fit by
the time that an epoch of each takes. What each has come to is recorded at once.

    python benchmarks/cifar10_gpu.py --data cifar10-jpeg.tar.xz --seconds 210 \
        --record data/results/cifar10_gpu.json
"""

import argparse
import copy
import io
import shlex
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from vitutils.cli.train import OneHead
from vitutils.data import Dataset, files, load
from vitutils.data.augmentation import mixing, random_resized_crop, shift_and_flip
from vitutils.data.datasets import assemble
from vitutils.data.splits import MemorySplit
from vitutils.deit import DistilledVisionTransformer
from vitutils.distill import ConvNet, Teacher, hard_distillation
from vitutils.engine.checkpoints import load_model
from vitutils.engine.folder_run import FolderRun
from vitutils.engine.large_step import LargeStep, evaluate_together
from vitutils.engine.machine import machine, write_json
from vitutils.engine.precision import MixedPrecision
from vitutils.train import default_device, fit
from vitutils.vit import VisionTransformer

PRECISION = "bf16"
TEACHER = {"widths": (128, 256, 512, 512)}
STUDENT = dict(patch_size=4, embed_dim=384, depth=9, num_heads=6, mlp_dim=1536)
TEACHER_RECIPE = dict(batch_size=512, lr=3e-3, label_smoothing=0.1)
STUDENT_RECIPE = dict(batch_size=1024, lr=1e-3, weight_decay=0.05)
MIX = dict(mixup=0.8, cutmix=1.0)
SCALE = (0.25, 1.0)  # of the students' crops
TOY = (
    {"widths": (8, 16)},
    STUDENT | dict(embed_dim=32, depth=2, num_heads=2, mlp_dim=64),
)
TEACHERS_SHARE = 0.2  # of the time for training
RESERVE = 0.08  # share of the time that is not planned for


@dataclass
class Plan:
    """A model to be trained, on what and how: what ``fit`` takes.

    Attributes:
        name: teacher, vit or deit.
        model, data, recipe, loss_fn: for ``fit``.
        mix: for ``LargeStep``.
    """

    name: str
    model: nn.Module
    data: Dataset
    recipe: dict
    loss_fn: Callable | None = None
    mix: Callable | None = None

    def fit(self, model: nn.Module, *, epochs: int, **more) -> list[dict]:
        """Train a model by this plan; return its history."""
        return fit(
            model,
            self.data,
            epochs=epochs,
            loss_fn=self.loss_fn,
            step=partial(LargeStep, precision=PRECISION, mix=self.mix),
            **self.recipe,
            **more,
        )

    def seconds_an_epoch(self, folder: Path, device: str) -> float:
        """Train a copy of the model for two epochs; return what the second took."""
        probe = copy.deepcopy(self.model)
        run = FolderRun(folder / f"{self.name}-probe")
        history = self.fit(probe, epochs=2, device=device, progress=False, run=run)
        return history[1]["seconds"] - history[0]["seconds"]


def read_archive(path: Path) -> Dataset:
    """Read an archive of train/CLASS/* and test/CLASS/* as ``load`` reads its folder.

    60,000 files are not unpacked for it, which takes longer than to read them.
    """
    images = {}
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile():
                part, kind, file = member.name.split("/")[-3:]
                content = archive.extractfile(member).read()
                images[part, kind, file] = io.BytesIO(content)
    classes = sorted({kind for _, kind, _ in images})
    splits = {}
    for part in ("train", "test"):
        keys = sorted(key for key in images if key[0] == part)
        labels = torch.tensor([classes.index(kind) for _, kind, _ in keys])
        pixels = files.read_images([images[key] for key in keys], 3, 32)
        splits[part] = MemorySplit(labels=labels, images=pixels)
    return assemble("cifar10", classes, **splits)


def load_data(name: str, images: int | None, device: str) -> Dataset:
    """Load the data, and put all images on the device."""
    is_archive = Path(name).is_file()
    data = read_archive(Path(name)) if is_archive else load(Path(name).expanduser())
    train = data.train if images is None else data.train.subset(images)
    parts = {"train": train, "validation": data.validation, "test": data.test}
    return replace(
        data,
        **{
            k: replace(part, images=part.images.to(device)) for k, part in parts.items()
        },
    )


def measured(plan: Plan, folder: Path, device: str) -> dict[str, float]:
    """Return the test accuracy of a run's best weights by validation, and by head."""
    best = load_model(folder / "best.safetensors").to(device)
    answering = {"test_accuracy": best}
    if isinstance(best, DistilledVisionTransformer):
        answering |= {
            "test_accuracy_class_head": OneHead(best, 0),
            "test_accuracy_distillation_head": OneHead(best, 1),
        }
    amp = MixedPrecision(PRECISION, torch.device(device))
    return {
        name: evaluate_together(model, plan.data.test, amp).accuracy
        for name, model in answering.items()
    }


def train(plan: Plan, epochs: int, folder: Path, device: str, seed: int) -> dict:
    """Train by a plan; return what is recorded of it."""
    print(f"{plan.name}: {epochs} epochs", flush=True)
    start = time.perf_counter()
    run = FolderRun(folder / plan.name)
    history = plan.fit(plan.model, epochs=epochs, seed=seed, device=device, run=run)
    seconds = time.perf_counter() - start
    found = measured(plan, folder / plan.name, device)
    print(f"{plan.name}: {found['test_accuracy']:.2%} of the test images", flush=True)
    return {
        "name": plan.name,
        "config": plan.model.config,
        "parameters": sum(p.numel() for p in plan.model.parameters()),
        "recipe": plan.recipe | {"precision": PRECISION, "epochs": epochs},
        "seconds": round(seconds, 1),
        **found,
        "history": history,
    }


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        default="cifar10",
        help="cifar10, a folder of train/CLASS/* and test/CLASS/*, or a tar archive "
        "of such a folder (cifar10)",
    )
    parser.add_argument("--images", type=int, help="train on so many (all)")
    parser.add_argument(
        "--seconds", type=float, default=210, help="for all, loading included (210)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights and draws (0)")
    parser.add_argument("--device", help="cuda, if there is one, else the CPU")
    parser.add_argument("--toy", action="store_true", help="tiny models, for a trial")
    parser.add_argument("--folder", type=Path, default=Path("runs/cifar10_gpu"))
    parser.add_argument("--record", type=Path, help="write the results as JSON here")
    return parser


def main() -> None:
    """Train the three, one after the other, and record each at once."""
    args = make_parser().parse_args()
    device = args.device or default_device()
    end = time.perf_counter() + args.seconds
    data = load_data(args.data, args.images, device)
    sizes = {"in_channels": data.in_channels, "num_classes": data.num_classes}
    teachers, students = TOY if args.toy else (TEACHER, STUDENT)
    students = students | sizes | {"image_size": data.image_size}
    record = {
        "command": shlex.join(["python", *sys.argv]),
        **machine("torch", "torchvision", device=device),
        "data": Path(args.data).name,
        "images": len(data.train),
        "augmentation": {
            "teacher": "shift_and_flip",
            "students": {"random_resized_crop": {"scale": SCALE}} | MIX,
        },
        "seed": args.seed,
        "seconds_to_load": round(args.seconds - (end - time.perf_counter()), 1),
        "runs": [],
    }

    def augmented(augment: Callable) -> Dataset:
        return replace(data, train=replace(data.train, augment=augment))

    def train_all(plans: list[Plan], share: float) -> None:
        """Train models for equally many epochs, in a share of the time that is left."""
        until = time.perf_counter() + share * (end - time.perf_counter())
        each = [plan.seconds_an_epoch(args.folder, device) for plan in plans]
        left = (1 - RESERVE) * (until - time.perf_counter())
        epochs = max(1, int(left / sum(each)))
        for plan, seconds in zip(plans, each, strict=True):
            row = train(plan, epochs, args.folder, device, args.seed)
            record["runs"].append(row | {"seconds_an_epoch_before": seconds})
            if args.record:
                write_json(record, args.record)

    torch.manual_seed(args.seed)
    convnet = ConvNet(**teachers, **sizes)
    shifted = augmented(shift_and_flip)
    train_all([Plan("teacher", convnet, shifted, TEACHER_RECIPE)], TEACHERS_SHARE)

    teacher = Teacher(load_model(args.folder / "teacher" / "best.safetensors"))
    rest = {
        "data": augmented(partial(random_resized_crop, scale=SCALE)),
        "recipe": STUDENT_RECIPE,
        "mix": mixing(data.num_classes, **MIX),
    }
    torch.manual_seed(args.seed)
    vit = VisionTransformer(**students)
    torch.manual_seed(args.seed)
    deit = DistilledVisionTransformer(**students)
    learn = teacher.teaches(hard_distillation)
    train_all(
        [Plan("vit", vit, **rest), Plan("deit", deit, loss_fn=learn, **rest)], 1.0
    )


if __name__ == "__main__":
    main()
