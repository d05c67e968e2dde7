"""What students of ``experiments.distillation`` are worth on other images.

Beside DeiT's tables 6 and 7, small: a thousand labelled clothes or digits, drawn with
the seed, brought to the students' 32 x 32 pixels in color. Three ways to use a student:
the nearest neighbors of its class token, a linear classifier of that token, and the
whole student trained on. Controls: raw pixels, and a student that has learned nothing.
"""

from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitutils.data import DATA, load
from vitutils.data.splits import MemorySplit, generator

SETS = ("clothes", "digits")
IMAGES = 1000
RATE, EPOCHS = 3e-3, 30  # of fine-tuning, not tuned


@cache
def images_of(name: str) -> tuple[Tensor, Tensor]:
    """Return images, uint8 (N, 3, 32, 32), and labels (N,) of one of ``SETS``.

    Clothes are Fashion-MNIST's validation images: its test images are not read.
    """
    if name == "clothes":
        split = load("fashion_mnist").validation
        images, labels = F.pad(split.images, (2, 2, 2, 2)), split.labels
    else:
        with np.load(DATA / "digits" / "digits.npz") as held:
            small = torch.from_numpy(held["images"])[:, None]
            labels = torch.from_numpy(held["labels"]).long()
        bright = (small.int() * 255 // 16).to(torch.uint8)
        images = bright.repeat_interleave(4, dim=2).repeat_interleave(4, dim=3)
    return images.expand(-1, 3, -1, -1).contiguous(), labels


def splits(name: str, seed: int, **normalized) -> tuple[MemorySplit, MemorySplit]:
    """Return a thousand images to learn from, and up to 2,000 others."""
    images, labels = images_of(name)
    order = torch.randperm(len(labels), generator=generator(name, seed))
    parts = order[:IMAGES], order[IMAGES : IMAGES + 2000]
    return tuple(
        MemorySplit(labels=labels[i], images=images[i], augment=None, **normalized)
        for i in parts
    )


@torch.inference_mode()
def features(model: nn.Module | None, split: MemorySplit) -> Tensor:
    """Return class tokens behind the last norm, (N, D); without a model the pixels."""
    rows = []
    for images, _ in split.batches(500):
        if model is None:
            rows.append(images.flatten(1))
        else:
            tokens, _ = model.eval().encoder(model.embeddings(images))
            rows.append(tokens[:, 0])
    return torch.cat(rows).clone()


def neighbors(train: Tensor, labels: Tensor, test: Tensor, k: int = 5) -> Tensor:
    """Return what most of the k nearest training rows by cosine are, (N,)."""
    mean = train.mean(dim=0)
    train, test = (F.normalize(rows - mean) for rows in (train, test))
    nearest = (test @ train.T).topk(k).indices
    return labels[nearest].mode(dim=1).values


def linear(train: Tensor, labels: Tensor, test: Tensor, decay: float = 1e-2) -> Tensor:
    """Return what a linear classifier of standardized features says, (N,)."""
    mean, std = train.mean(dim=0), train.std(dim=0).clamp(min=1e-3)
    train, test = ((rows - mean) / std for rows in (train, test))
    if train.shape[1] > len(train):  # the best weights lie in the span of the rows
        span = torch.linalg.qr(train.T).Q
        train, test = train @ span, test @ span
    weight = torch.zeros(train.shape[1], 10, requires_grad=True)
    bias = torch.zeros(10, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=100, line_search_fn="strong_wolfe"
    )

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(train @ weight + bias, labels)
        loss = loss + decay / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return (test @ weight + bias).argmax(dim=1)
