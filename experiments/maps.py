"""How alike attention maps are in networks that differ in their seed alone (chapter 9).

    python -m experiments maps                 # about two minutes on one core

Chapter 9 asks whether a map shows what there is to see in an image, or how one network
mixes its tokens. Its two trained networks differ in recipe, length and accuracy, and
began with the same weights. Here the recipe stays, and the seed changes.

The analysis, fixed before the runs:

- Networks: three trained as ``gaps`` trains its arm ``flips``, but for one epoch, with
  seeds 0 to 2 for initial weights and order; these three before training, ``start``;
  three ``fresh`` ones, untrained, with seeds that none of the trained ones began with.
- Maps: the class token's in layer 4 (mean over heads) and by rollout, scaled to sum to
  1, of the first 250 validation images, by which nothing is chosen; each as it is, and
  ``centered``: without the network's mean over these images.
- Numbers: Spearman's rank correlation over the 16 patches. Of two networks, for the
  same image (``pair``). In one network, for an image and the next one of the ``same
  class`` or of an ``other class`` by the labels, and the first minus the second
  (``difference``). Each as a mean over images, half of its 95 % interval (1.96 standard
  errors), and the values below which a tenth and nine tenths of the images are.
- Read: that a map tells more of its network than of the image is said of a kind of
  maps if all three trained networks' ``same class`` are above all three pairs of
  trained ones. That training makes maps agree is said if the three pairs of trained
  ones are above the nine of a trained one and a fresh one, with centered maps. That a
  map depends on the class is said of a network if its difference's interval is above 0.
  (That the trained networks' differences in layer 4 are all above the fresh ones' was
  seen afterwards.)
"""

from functools import partial
from itertools import combinations, product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments import gaps
from experiments.fashion_mnist import VIT
from experiments.record import record
from vitutils.data import DATA, load
from vitutils.maps import attention_maps, attention_rollout
from vitutils.vit import VisionTransformer

SETTINGS = {"epochs": 1, "images": 250, "trained": (0, 1, 2), "fresh": (10, 11, 12)}
ABOUT = {"maps": "chapter 9's maps in networks of one recipe and other seeds"}


def rank_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Correlate the ranks of the patches in pairs of maps (B, N): (B,)."""
    a, b = [maps.argsort(dim=1).argsort(dim=1).float() for maps in (a, b)]
    middle = (a.shape[1] - 1) / 2
    return F.cosine_similarity(a - middle, b - middle)


def next_image(labels: Tensor, same_class: bool) -> Tensor:
    """Return for each image the next one's index: of its class, or not."""
    count = len(labels)
    after = (torch.arange(count) - torch.arange(count)[:, None]) % count
    wanted = ((labels[:, None] == labels) == same_class) & (after > 0)
    return after.masked_fill(~wanted, count).argmin(dim=1)


def summary(values: Tensor) -> dict:
    """Return mean, half of the 95 % interval, and the outer tenths, of (B,)."""
    half = 1.96 * values.std() / len(values) ** 0.5
    low, high = values.quantile(torch.tensor([0.1, 0.9]))
    found = {"mean": values.mean(), "half": half, "low": low, "high": high}
    return {name: round(value.item(), 3) for name, value in found.items()}


def maps_of(model: nn.Module, images: Tensor) -> dict:
    """Return maps (B, 16) that sum to 1, by kind, as they are and centered."""
    found = {}
    for kind, draw in (("layer 4", attention_maps), ("rollout", attention_rollout)):
        maps = draw(model, images).flatten(1)
        maps = maps / maps.sum(dim=1, keepdim=True)
        found |= {(kind, False): maps, (kind, True): maps - maps.mean(dim=0)}
    return found


def compared(models: dict, images: Tensor, labels: Tensor) -> list[dict]:
    """Compare the maps of networks, by name such as ``"fresh 10"``: rows of results."""
    drawn = {name: maps_of(model, images) for name, model in models.items()}
    alike, unlike = next_image(labels, True), next_image(labels, False)
    rows = []
    for kind, centered in product(("layer 4", "rollout"), (False, True)):
        its = {name: maps[kind, centered] for name, maps in drawn.items()}
        values = {}
        for name, maps in its.items():
            same = rank_correlation(maps, maps[alike])
            other = rank_correlation(maps, maps[unlike])
            values["same class", name] = same
            values["other class", name] = other
            values["difference", name] = same - other
        for a, b in combinations(its, 2):
            values["pair", a, b] = rank_correlation(its[a], its[b])
        rows += [
            {"map": kind, "centered": centered, "what": what, "networks": names}
            | summary(found)
            for (what, *names), found in values.items()
        ]
    return rows


def compare(task: dict) -> dict:
    """Train the networks; return their accuracy in %, and how alike their maps are."""
    models, starts = {}, {}
    for seed in task["trained"]:
        models[f"trained {seed}"] = gaps.trained("flips", seed, SETTINGS["epochs"])
        starts[f"start {seed}"] = untrained(seed)
    models |= starts | {f"fresh {seed}": untrained(seed) for seed in task["fresh"]}
    images, labels = next(load("fashion_mnist").validation.batches(SETTINGS["images"]))
    accuracy = {}
    with torch.no_grad():
        for name, model in models.items():
            right = (model(images).argmax(dim=1) == labels).float().mean()
            accuracy[name] = round(100 * right.item(), 1)
    return {"accuracy": accuracy, "rows": compared(models, images, labels)}


def untrained(seed: int) -> VisionTransformer:
    """Return a network of the shipped ones' shape with its initial weights."""
    torch.manual_seed(seed)
    return VisionTransformer(**VIT).eval()


def tasks() -> list[dict]:
    """Return what is run: one comparison of all networks."""
    return [{"trained": [*SETTINGS["trained"]], "fresh": [*SETTINGS["fresh"]]}]


def perform(name: str, *, command: str, workers: int | None = None) -> Path:
    """Run the study; return the record's path."""
    path = DATA / "results" / f"{name}.json"
    keep = partial(record, path, settings=SETTINGS, command=command, workers=workers)
    keep(tasks(), compare)
    return path
