"""Networks that differ in one thing of their training, and what their maps point at.

    python -m experiments gaps                 # about ten minutes on one core

What chapter 16 asks: it takes patches away from a network that never saw an image with
a gap. Do its leads outlast a training with gaps, and other seeds? And is what differs
from the second network of chapter 9 due to the crops that this learned from?

The analysis, fixed before the runs:

- Arms: ``flips``, the shipped ViT's augmentation; ``crops``, that of the second network
  of chapter 9; ``gaps``, flips and, in each step, a random number of 0 to 8 of the
  16 patches removed, other ones in each image. Three seeds each, all else alike: the
  shape and the recipe of the shipped networks, two epochs, from new weights.
- On the chapters' 1,000 validation images, by which nothing is chosen: which share of
  the answers stays without four patches (two, in ``two``), removed or painted black,
  for the chapter's orders; ``another's`` is rollout of the next image with the same
  answer. ``empty`` and ``object`` take four random patches of a kind, in images that
  have four of both.
- Read: a lead over the random order, or of one order over another, is said of an arm
  where all its three seeds have the same sign, and of crops or gaps against flips
  where the three values of one arm are all above the three of the other. Of two equal
  arms the latter is seen in one of ten comparisons, so that one alone says little.
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.fashion_mnist import CROPS, RECIPE, VIT
from experiments.record import record
from vitutils.data import DATA, load
from vitutils.data.augmentation import flip
from vitutils.maps import attention_relevance, attention_rollout
from vitutils.train import fit
from vitutils.vit import VisionTransformer

ARMS, SEEDS = ("flips", "crops", "gaps"), (0, 1, 2)
SETTINGS = {"epochs": 2, "most": 8, "gone": 4, "images": 1000, "empty": 0.1}
BLACK = -0.28594463831829026 / 0.3529206728290604  # a pixel of 0, normalized
ABOUT = {"gaps": "chapter 16's networks, trained with crops, with gaps and without"}


class Gappy(VisionTransformer):
    """A ViT that, in training, gets each image without some of its patches."""

    def forward(self, images: Tensor, need_weights: bool = False) -> Tensor:
        """Return the logits; in eval mode those of the whole image."""
        if not self.training:
            return super().forward(images, need_weights=need_weights)
        count = torch.randint(SETTINGS["most"] + 1, ())
        return removed(self, images, first(torch.rand(len(images), 16), count))


def first(scores: Tensor, count: int | Tensor) -> Tensor:
    """Mark the patches with the highest scores: (B, 16) booleans."""
    return scores.argsort(dim=1, descending=True).argsort(dim=1) < count


def removed(model: nn.Module, images: Tensor, gone: Tensor) -> Tensor:
    """Mask patches by removing their tokens; return the logits."""
    tokens = model.embeddings(images)  # (B, 17, D)
    class_token = torch.ones_like(gone[:, :1])
    visible = torch.cat((class_token, ~gone), dim=1)  # (B, 17)
    tokens = tokens[visible].view(len(images), -1, tokens.shape[-1])
    tokens, _ = model.encoder(tokens, num_outputs=1)  # the class token
    return model.head(tokens[:, 0])


def painted(
    model: nn.Module, images: Tensor, gone: Tensor, value: float = BLACK
) -> Tensor:
    """Mask patches with a pixel value, or with black; return the logits."""
    mask = gone.unflatten(1, (1, 4, 4)).repeat_interleave(7, dim=2)
    mask = mask.repeat_interleave(7, dim=3)  # (B, 1, 28, 28)
    return model(images.masked_fill(mask, value))


def gradients(
    model: nn.Module, images: Tensor, classes: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the patches' tokens and a logit's gradients, (B, 16, D)."""
    tokens = model.embeddings(images).detach().requires_grad_()
    ends, _ = model.encoder(tokens, num_outputs=1)
    asked = model.head(ends[:, 0]).gather(1, classes[:, None]).sum()
    gradient = torch.autograd.grad(asked, tokens)[0]
    return tokens.detach()[:, 1:], gradient[:, 1:]


def next_alike(predicted: Tensor) -> Tensor:
    """Return for each image the next one of the same predicted class."""
    found = torch.empty_like(predicted)
    for c in predicted.unique():
        alike = (predicted == c).nonzero()[:, 0]
        found[alike] = alike.roll(-1)
    return found


def orders_of(
    model: nn.Module, images: Tensor, brightness: Tensor, empty: Tensor
) -> dict:
    """Return orders of the patches, (B, 16): the highest come first."""
    predicted = model(images).argmax(dim=1)
    same = (predicted[:, None] == predicted) * (1 - torch.eye(len(images)))
    rollout = attention_rollout(model, images).flatten(1)
    relevance = attention_relevance(model, images).flatten(1)
    _, gradient = gradients(model, images, predicted)
    generator = torch.Generator().manual_seed(0)
    chance = torch.rand(brightness.shape, generator=generator)
    return {
        "random": chance,
        "brightness": brightness,
        "gradient norm": gradient.norm(dim=-1),
        "rollout, another's": rollout[next_alike(predicted)],
        "rollout, class mean": same @ rollout,  # a sum: the same order
        "rollout": rollout,
        "relevance, class mean": same @ relevance,
        "relevance": relevance,
        "empty": chance + empty,
        "object": chance - 1.0 * empty,
    }


def judged(model: nn.Module, images: Tensor, brightness: Tensor) -> dict:
    """Return which share of the answers stays, in %, by way to erase and order."""
    empty = brightness <= SETTINGS["empty"]
    count = empty.sum(dim=1)
    both = (count >= 4) & (count <= 12)
    orders = orders_of(model, images, brightness, empty)
    with torch.no_grad():
        answers = model(images).argmax(dim=1)

        def share(erase, order, count):
            among = both if order in ("empty", "object") else both | True
            now = erase(model, images, first(orders[order], count)).argmax(dim=1)
            kept = 100.0 * (now == answers)[among].float().mean()
            return round(kept.item(), 1)

        stay = {}
        for erase in (removed, painted):
            its = {order: share(erase, order, SETTINGS["gone"]) for order in orders}
            its["two"] = {order: share(erase, order, 2) for order in orders}
            stay[erase.__name__] = its
    return stay


def trained(arm: str, seed: int, epochs: int = SETTINGS["epochs"]) -> VisionTransformer:
    """Train one network of the study; return it in eval mode."""
    torch.manual_seed(seed)
    model = (Gappy if arm == "gaps" else VisionTransformer)(**VIT)
    fashion = load("fashion_mnist")
    augment = CROPS if arm == "crops" else flip
    few = fashion.validation.subset(500)  # a glance: nothing is chosen by it
    fit(
        model,
        replace(fashion, train=replace(fashion.train, augment=augment), validation=few),
        epochs=epochs,
        seed=seed,
        device="cpu",
        progress=False,
        **RECIPE,
    )
    return model.eval()


def train(task: dict) -> dict:
    """Train one network; return its accuracy, and which answers stay."""
    model, fashion = trained(**task), load("fashion_mnist")
    images, labels = next(fashion.validation.batches(SETTINGS["images"]))
    pixels = images * fashion.std[0] + fashion.mean[0]
    with torch.no_grad():
        right = (model(images).argmax(dim=1) == labels).float().mean()
    stay = judged(model, images, F.avg_pool2d(pixels, 7).flatten(1))
    return {"accuracy": round(right.item(), 3), "stay": stay}


def tasks() -> list[dict]:
    """Return what is trained, one dict a run."""
    return [{"arm": arm, "seed": seed} for arm in ARMS for seed in SEEDS]


def perform(name: str, *, command: str, workers: int | None = None) -> Path:
    """Run the study; return the record's path."""
    path = DATA / "results" / f"{name}.json"
    keep = partial(record, path, settings=SETTINGS, command=command, workers=workers)
    keep(tasks(), train)
    return path
