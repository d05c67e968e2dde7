"""What a run is made of, by the options of a command: data, model, teacher."""

import argparse
import hashlib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from vitutils import processes
from vitutils.cli.options import dashed, picked
from vitutils.data import CIFAR, Dataset, augmentation, load
from vitutils.data.files import SizeNeeded, pair, unpair
from vitutils.data.preprocessing import Preprocessing
from vitutils.data.splits import MemorySplit, strengthen
from vitutils.deit import DistilledVisionTransformer
from vitutils.distill import ConvNet, Teacher, hard_distillation, soft_distillation
from vitutils.engine.weights import Converting, Weights, adapted, load_weights
from vitutils.pretrained import at_image_size
from vitutils.train import default_device
from vitutils.vit import VisionTransformer

MODELS = {
    "vit": VisionTransformer,
    "deit": DistilledVisionTransformer,
    "convnet": ConvNet,
}
CROPS = {
    "none": None,
    "flip": augmentation.flip,
    "shift": augmentation.shift_and_flip,
    "resized": partial(augmentation.random_resized_crop, scale=(0.08, 1.0)),
}
# Options by the piece that takes them.
AUGMENT = ("randaugment", "erase", "repeats", "workers")
FROM_DATA = ("image_size", "in_channels", "num_classes")
VIT = tuple(n for n in signature(VisionTransformer).parameters if n not in FROM_DATA)
DROP = ("dropout", "stochastic_depth")
SOFT = ("temperature", "balance")
NORMALIZATION = ("mean", "std")
OF_TEACHER = tuple(
    f"teacher_{name}" for name in (*NORMALIZATION, "num_heads", "trained_at")
)
COLORS = {1: "gray images", 3: "color"}


def device_of(options: argparse.Namespace) -> torch.device:
    """Return the device to train on, or say that there is none of that name."""
    name = options.device or default_device()
    try:
        torch.ones(1, device=name).item()
    except (RuntimeError, AssertionError) as error:  # the latter without CUDA
        raise ValueError(
            f"this machine cannot compute on the device {name!r}: leave out --device, "
            "or name another one"
        ) from error
    return torch.device(name)


def load_data(options: argparse.Namespace) -> Dataset:
    """Load the data with the augmentation that the options want."""
    found = partial(
        load, options.data, root=options.root, image_size=options.image_size
    )
    if options.data in CIFAR:
        processes.ask_first(lambda: found() and None)  # one downloads, then all read
    with warnings.catch_warnings():  # the summary says it too
        warnings.filterwarnings("ignore", ".*: skipped")
        try:
            data = found()
        except SizeNeeded as error:
            raise SizeNeeded(error.args[0], fitting(options, error.args[1])) from error
    train = data.train
    if options.images is not None:
        train = train.subset(options.images)
    if isinstance(train, MemorySplit):
        train = replace(train, augment=CROPS[options.crop or "shift"])
    elif options.crop not in (None, "resized"):
        raise ValueError(
            f"crop {options.crop} is for images in memory: streamed ones are resized"
        )
    train = strengthen(train, **picked(options, AUGMENT))
    if options.workers and train.augment is None:
        raise ValueError("nothing is augmented (--crop none): leave out --workers")
    if options.workers is None or isinstance(train, MemorySplit):
        return replace(data, train=train)
    judged = {"validation": data.validation, "test": data.test}
    for part, split in judged.items():
        if split is not None:
            judged[part] = replace(split, workers=options.workers)
    return replace(data, train=train, **judged)


def fitting(options: argparse.Namespace, side: int) -> int | tuple[int, int]:
    """Return the size that --init has its images in, or a side that patches fill."""
    if options.init is None:
        return side // options.patch_size * options.patch_size or side
    given = picked(options, ("num_heads", *NORMALIZATION))
    size = options.trained_at and pair(options.trained_at)
    weights = load_together(options.init, num_classes=2, image_size=size, **given)
    return unpair(weights.preprocessing.image_size)


def make_model(options: argparse.Namespace, data: Dataset) -> nn.Module:
    """Build the model for the data's images and classes, or load where it starts."""
    if options.init is not None:
        return start(options, data)
    if options.model == "convnet" and (
        min(pair(data.image_size)) < 2 ** len(options.widths)
    ):
        raise ValueError(
            f"{len(options.widths)} widths halve images of {data.image_size} pixels to "
            "nothing: give fewer --widths"
        )
    return build(options, {name: getattr(data, name) for name in FROM_DATA})


def build(options: argparse.Namespace, from_data: Mapping[str, Any]) -> nn.Module:
    """Build the model of the options; ``from_data`` is what ``FROM_DATA`` names."""
    names = VIT
    if options.model == "convnet":  # which takes images of any size
        names = ("widths",)
        from_data = {k: v for k, v in from_data.items() if k != "image_size"}
    return MODELS[options.model](**from_data, **picked(options, names))


def load_together(name: str, **given: Any) -> Weights:
    """Load weights in each process, once the first one has fetched them for all."""
    if processes.count() > 1:
        with torch.random.fork_rng(devices=[]):  # a new head is drawn, here once more
            processes.ask_first(lambda: load_weights(name, **given) and None)
    return load_weights(name, **given)


def start(options: argparse.Namespace, data: Dataset) -> nn.Module:
    """Load a model to start from, and fit it to the data and to the training.

    It takes the data's images, and answers as it did on those that it knows.
    """
    heads = options.num_heads
    weights = load_together(
        options.init,
        num_classes=data.num_classes,
        num_heads=heads,
        image_size=pair(options.trained_at or data.image_size),
        **picked(options, NORMALIZATION),
    )
    config = getattr(weights.model, "config", {})
    if "in_channels" not in config:
        kind = type(weights.model).__name__
        raise ValueError(
            f"{options.init} is a {kind}: start from a model of the book, or from one "
            "of another library that it can be"
        )
    check_not_told(options, weights, "init", "")
    model = adapted(weights, data.preprocessing)
    if processes.rank() == 0 and config["in_channels"] != data.in_channels:
        print(
            f"{options.init}: its first layer, for {COLORS[config['in_channels']]}, is "
            f"folded into one for {COLORS[data.in_channels]}"
        )
    changed = {"num_classes": data.num_classes}
    if isinstance(model, VisionTransformer):
        model = at_image_size(model, data.image_size)
        changed |= picked(options, DROP)
    elif found := [name for name in DROP if getattr(options, name)]:
        raise ValueError(
            f"{options.init} is a convnet, which has no {dashed(found[0])}: leave it "
            "out, or give 0 where a preset sets it"
        )
    if model.config | changed == model.config:
        return model
    state = model.state_dict()
    if model.config["num_classes"] != data.num_classes:
        state = {k: v for k, v in state.items() if not k.startswith("head")}
    fresh = type(model)(**model.config | changed)
    fresh.load_state_dict(fresh.state_dict() | state)
    return fresh


def check_not_told(
    options: argparse.Namespace, weights: Weights, source: str, prefix: str
) -> None:
    """Raise a ValueError for heads or a size of images that weights tell otherwise."""
    told = {
        "num_heads": getattr(weights.model, "config", {}).get("num_heads"),
        "trained_at": weights.preprocessing.image_size,
    }
    for name, words in {"num_heads": "heads", "trained_at": "image size"}.items():
        given = getattr(options, prefix + name)
        given = pair(given) if given and name == "trained_at" else given
        if given not in (None, told[name]):
            raise ValueError(
                f"{getattr(options, source)} tells its {words}: leave out "
                f"{dashed(prefix + name)}"
            )


def content(name: str | None) -> str | None:
    """Return what a file holds, as a digest, or the name of what is no file."""
    if name is None or not Path(name).is_file():
        return name
    with open(name, "rb") as file:
        return f"of SHA-256 {hashlib.file_digest(file, 'sha256').hexdigest()[:16]}"


def load_teacher(options: argparse.Namespace, data: Dataset) -> Weights | None:
    """Load the teacher, if any, and see that it knows the data's classes."""
    if options.teacher is None:
        return None
    weights = load_together(
        options.teacher,
        weights=options.teacher_weights,
        num_heads=options.teacher_num_heads,
        image_size=pair(options.teacher_trained_at or data.image_size),
        mean=options.teacher_mean,
        std=options.teacher_std,
    )
    check_not_told(options, weights, "teacher", "teacher_")
    model, wanted = weights
    with torch.no_grad():
        blank = torch.zeros(1, len(wanted.mean), *wanted.image_size)
        known = model(blank).shape[1]
    if known != data.num_classes:
        raise ValueError(
            f"the teacher {options.teacher} knows {known} classes, {data.name} has "
            f"{data.num_classes}"
        )
    own, others = wanted.classes, data.preprocessing.classes
    if own != others and sorted(own) == sorted(others):
        raise ValueError(
            f"the teacher {options.teacher} has the classes of {data.name} in another "
            f"order, from {own[0]} to {own[-1]}"
        )
    if processes.rank() == 0:
        print(f"teacher {options.teacher}: {described(wanted)}")
    return weights


def described(wanted: Preprocessing) -> str:
    """Return in words how a model's images are made."""
    mean, std = (
        " ".join(f"{value:.3g}" for value in values)
        for values in (wanted.mean, wanted.std)
    )
    height, width = wanted.image_size
    return f"images of {height} x {width} pixels, mean {mean}, std {std}"


def teacher_loss(
    options: argparse.Namespace, data: Dataset, weights: Weights | None
) -> Callable | None:
    """Return the loss of a student, None for a model that learns from labels alone."""
    if weights is None:
        return None
    teacher = Teacher(Converting(weights, data.preprocessing))
    if options.distillation == "soft":
        loss = partial(soft_distillation, **picked(options, SOFT))
    else:
        loss = hard_distillation
    learn = teacher.teaches(loss)
    smoothing = options.label_smoothing
    if not smoothing:
        return learn

    def learn_smoothed(outputs, labels, images):
        if labels.ndim == 1:
            labels = F.one_hot(labels, data.num_classes).float()
        labels = (1 - smoothing) * labels + smoothing / data.num_classes
        return learn(outputs, labels, images)

    return learn_smoothed
