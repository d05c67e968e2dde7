"""Positions: which kinds help, and why those of some places become alike.

    python -m experiments positions --data FOLDER

What chapter 6 asks of its position embeddings. The analysis, fixed before the runs:

1. ``kinds``: how far does the chapter's judge, one block of width 32, come with each
   kind of positions if it is trained for longer than the page can wait? On the puzzle
   (are the 16 patches in order?) and on garments. AdamW at a constant rate, batches of
   64. Each arm has its own rate: of RATES the one with the highest accuracy at the end
   from TUNING_SEED, of equals the smallest; one at an end of the grid is said to be
   there. Reported: accuracy from SEEDS along the way (MOMENTS), on 3,000 validation
   images that chose no rate. Two arms differ only where the ranges of their seeds do
   not overlap. An arm has come to rest if its mean at the end is within 0.01 of its
   mean at half the updates; of others only what was reached is said.

2. ``alike``: a ViT of two blocks and width 32 learns from 32,000 images in one epoch.
   What changes is the pictures alone (PICTURES): as they are; half of them mirrored up
   and down; at each place the patch of another picture of the same class; their patches
   in a new order each time. Two reasons could make the positions of neighbors alike:
   places that show the same kinds of patches are trained alike, or patches that one
   picture shows together are. The third arm keeps the first and takes the second away
   but for what the class tells. The last takes both away: it is the control.

   Measured before and after training, in cosines of positions, each pair beside what it
   is compared with:
   ``neighbors``: mean of all places one step apart, and of all others;
   ``left_right``, ``up_down``: mean of places that mirroring exchanges, and of other
   places in the same row (column) just as far apart. Places one step apart are left
   out, being neighbors too, and so are distances at which there is no such other pair;
   of the rest each counts once, on both sides.

   An arm shows a likeness if the difference of all its seeds lies above that of all
   models of its data set and patch that saw new orders or were not trained yet. Of two
   arms one has more if the ranges of their seeds do not overlap. What will be read: do
   neighbors show a likeness with patches of other pictures, and less than as they are?
   Do up-down partners show one in pictures mirrored up and down alone? With patches of
   side 7 in place of 4, a grid of 4 by 4 as in the book's ViT for Fashion-MNIST, do
   neighbors show less?

   A first version, from the same seeds, kept differences alone: of these arms all but
   those with patches of other pictures or of side 7, and two more. Half of the pictures
   mirrored left to right added to the likeness of such partners on Fashion-MNIST, and
   on CIFAR-10 it did not; with patches in one other order the likeness moved along, as
   by symmetry it must.

   Asked for after all arms of Fashion-MNIST had been seen: with side 7 neighbors showed
   hardly less. Do they if the ViT has the sizes of the book's as well (BOOK)?

Before the first version, one run from seed 0 had been seen on each data set, and a
trial of twenty batches of every arm. Two runs of the search with twice the updates were
stopped, for want of time, and left out.
"""

from dataclasses import replace
from functools import cache, partial
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.record import record, reload
from vitutils.data import DATA, Dataset, load
from vitutils.data.augmentation import flip
from vitutils.embeddings import Embeddings
from vitutils.encoder import Encoder
from vitutils.train import fit
from vitutils.vit import VisionTransformer

LINEAR = "a linear map"  # of the pixels: no patches, no attention
POSITIONS = {  # standard deviation at the start, whether they are trained
    "learned": (0.02, True),
    "zeros": (0.0, True),
    "fixed": (0.02, False),
    "fixed, large": (1.0, False),
    "none": (0.0, False),
    "wrong order": (0.02, True),  # the pitfall of chapter 6
    LINEAR: None,
}
ARMS = {  # by task: how many updates, which positions
    "puzzle": (400, ("learned", "zeros", "fixed", "fixed, large", "none", LINEAR)),
    "garments": (800, ("learned", "fixed, large", "none", "wrong order", LINEAR)),
}
RATES, TUNING_SEED, SEEDS = (1e-3, 3e-3, 1e-2), 100, (0, 1, 2)
MOMENTS = (50, 100, 200, 400, 800)
PICTURES = ("as they are", "up-down", "other pictures", "new orders")
ALIKE_SEEDS = (1, 2, 3)
BOOK = {"embed_dim": 64, "mlp_dim": 128, "depth": 4}  # of its ViTs, in place of "vit"
SETTINGS = {
    "judge": {"embed_dim": 32, "num_heads": 4, "mlp_dim": 64, "depth": 1, "patch": 7},
    "vit": {"embed_dim": 32, "num_heads": 4, "mlp_dim": 64, "depth": 2, "patch": 4},
    "images": 32_000,
    "recipe": {"epochs": 1, "batch_size": 128, "lr": 4e-3, "betas": [0.9, 0.99]},
}
ABOUT = {"positions": "chapter 6's positions: which kinds help, which become alike"}


class WrongOrder(Embeddings):
    """Chapter 6's pitfall: the grid of features becomes a row without a turn."""

    def forward(self, images: Tensor) -> Tensor:
        """Return tokens of the right shape (B, N+1, D) that belong to no patch."""
        maps = self.proj(images)
        patches = maps.reshape(len(images), -1, maps.shape[1])
        first = self.first_tokens().expand(len(images), -1, -1)
        return torch.cat((first, patches), dim=1) + self.pos_embed


class Judge(nn.Module):
    """Chapter 6's judge: embeddings, one block, and a head on the class token."""

    def __init__(self, positions: str, answers: int) -> None:
        super().__init__()
        sizes = dict(SETTINGS["judge"])
        kind = WrongOrder if positions == "wrong order" else Embeddings
        self.embeddings = kind(
            image_size=28,
            patch_size=sizes.pop("patch"),
            in_channels=1,
            embed_dim=sizes["embed_dim"],
        )
        std, trained = POSITIONS[positions]
        nn.init.normal_(self.embeddings.pos_embed, std=std)
        self.embeddings.pos_embed.requires_grad_(trained)
        self.encoder = Encoder(**sizes)
        self.head = nn.Linear(sizes["embed_dim"], answers)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, answers)."""
        tokens, _ = self.encoder(self.embeddings(images), num_outputs=1)
        return self.head(tokens[:, 0])


def reorder(images: Tensor, order: Tensor, side: int) -> Tensor:
    """Put patch order[b, i] of image b at place i; order is (B, N) or (1, N)."""
    columns = F.unfold(images.float(), side, stride=side)
    order = order[:, None].expand_as(columns)
    return F.fold(columns.gather(2, order), images.shape[2:], side, stride=side)


def puzzle(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Shuffle the patches of about half of the images; return which."""
    label = torch.randint(2, (len(images),))
    order = torch.rand(len(images), 16).argsort(dim=1)
    order[label == 0] = torch.arange(16)
    return reorder(images, order, 7), label


def garments(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return images and classes as they are."""
    return images, labels


@cache
def data_of(name: str) -> Dataset:
    """Return a dataset; it is loaded once in a process."""
    return load(name)


def judged(task: dict) -> dict:
    """Train one judge at a constant rate; return its accuracies along the way."""
    make = {"puzzle": puzzle, "garments": garments}[task["on"]]
    answers = {"puzzle": 2, "garments": 10}[task["on"]]
    data, updates = data_of("fashion_mnist"), ARMS[task["on"]][0]
    half = slice(3000) if task["seed"] == TUNING_SEED else slice(3000, 6000)
    held = [part[half] for part in (data.validation.images, data.validation.labels)]
    torch.manual_seed(1)  # the same puzzles for every model
    held, right = make(held[0] / 255, held[1])
    torch.manual_seed(task["seed"])
    if task["positions"] == LINEAR:
        model = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, answers))
    else:
        model = Judge(task["positions"], answers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=task["lr"], fused=True)
    found = {}
    for update in range(1, updates + 1):
        chosen = torch.randint(len(data.train), (64,))
        images, labels = data.train.images[chosen] / 255, data.train.labels[chosen]
        images, labels = make(images, labels)
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if update in MOMENTS:
            with torch.no_grad():
                said = model(held).argmax(dim=1) == right
            found[str(update)] = round(said.float().mean().item(), 4)
    return {"accuracy": found}


def changed(
    images: Tensor, draw: torch.Generator, *, pictures: str, patch: int
) -> Tensor:
    """Return a batch of uint8 images as an arm of ``alike`` shows them."""
    if pictures == "up-down":
        return flip(images.mT, draw).mT
    if pictures == "new orders":
        places = images.shape[2] // patch * (images.shape[3] // patch)
        order = torch.rand(len(images), places, generator=draw).argsort(dim=1)
        return reorder(images, order, patch).to(images.dtype)
    return images


def of_other_pictures(images: Tensor, labels: Tensor, patch: int) -> Tensor:
    """Deal the patches of each place anew among the images of a class."""
    images, draw = images.clone(), torch.Generator().manual_seed(0)
    for label in labels.unique():
        chosen = (labels == label).nonzero().flatten()
        columns = F.unfold(images[chosen].float(), patch, stride=patch)
        dealt = torch.rand(len(columns), 1, columns.shape[2], generator=draw)
        columns = columns.gather(0, dealt.argsort(dim=0).expand_as(columns))
        whole = F.fold(columns, images.shape[2:], patch, stride=patch)
        images[chosen] = whole.to(images.dtype)
    return images


def likeness(places: Tensor, side: int) -> dict:
    """Return how alike some places of a grid are, each time beside others.

    Args:
        places: (side * side, D), the position of each place, row by row.

    Returns:
        {measure: [mean cosine of the places, mean cosine of the others]}.
    """
    units = F.normalize(places.detach(), dim=-1)
    cosines = units @ units.T
    row = torch.arange(side).repeat_interleave(side)
    column = torch.arange(side).repeat(side)
    apart = [(one[:, None] - one).abs() for one in (row, column)]
    steps = apart[0] + apart[1]
    found = {"neighbors": [[cosines[steps == 1].mean(), cosines[steps > 1].mean()]]}
    for name, along, across in (("left_right", column, 0), ("up_down", row, 1)):
        partners = along[:, None] + along == side - 1
        for far in range(2, side):
            same = (apart[across] == 0) & (apart[1 - across] == far)
            both = cosines[same & partners], cosines[same & ~partners]
            if all(map(len, both)):
                found.setdefault(name, []).append([some.mean() for some in both])
    means = {name: torch.tensor(rows).mean(dim=0) for name, rows in found.items()}
    return {k: [round(v, 4) for v in pair.tolist()] for k, pair in means.items()}


def alike(task: dict, *, folder: str) -> dict:
    """Train one ViT; return its accuracy and the likeness of its positions."""
    data = data_of(folder if task["data"] == "cifar10" else task["data"])
    pictures, patch = task["pictures"], task["patch"]
    show = partial(changed, pictures=pictures, patch=patch)
    train = replace(data.train.subset(SETTINGS["images"]), augment=show)
    if pictures == "other pictures":
        dealt = of_other_pictures(train.images, train.labels, patch)
        train = replace(train, images=dealt)
    shown = data.validation.subset(1000)
    if pictures == "new orders":
        mixed = show(shown.images, torch.Generator().manual_seed(0))
        shown = replace(shown, images=mixed)
    data = replace(data, train=train, validation=shown)
    channels, side = train.images.shape[1], train.images.shape[3] // patch
    sizes = SETTINGS["vit"] | (BOOK if "sizes" in task else {})
    del sizes["patch"]
    torch.manual_seed(task["seed"])
    model = VisionTransformer(
        image_size=patch * side,
        patch_size=patch,
        in_channels=channels,
        num_classes=10,
        **sizes,
    )
    places = model.embeddings.pos_embed[0, 1:]
    before = likeness(places, side)
    seed = {"seed": task["seed"], "device": "cpu", "progress": False}
    history = fit(model, data, **SETTINGS["recipe"], **seed)
    accuracy = round(history[-1]["val_accuracy"], 4)
    return {"accuracy": accuracy, "before": before, "after": likeness(places, side)}


def run(task: dict, *, folder: str) -> dict:
    """Run one task of either part."""
    return judged(task) if task["part"] == "kinds" else alike(task, folder=folder)


def search() -> list[dict]:
    """Return the tasks by which each arm's rate is chosen."""
    return tasks_of({(on, p): RATES for on in ARMS for p in ARMS[on][1]}, [TUNING_SEED])


def tasks_of(rates: dict, seeds: list[int] | tuple[int, ...]) -> list[dict]:
    """Return the tasks of all judges; ``rates`` has those of each arm."""
    return [
        {"part": "kinds", "on": on, "positions": kind, "lr": lr, "seed": seed}
        for (on, kind), some in rates.items()
        for lr in some
        for seed in seeds
    ]


def best_rates(runs: list[dict]) -> dict:
    """Return {(task, positions): [rate]}, the best one in the search."""
    found = {}
    for on, (updates, kinds) in ARMS.items():
        for kind in kinds:
            arm = {"on": on, "positions": kind, "seed": TUNING_SEED}
            scores = {
                row["task"]["lr"]: row["accuracy"][str(updates)]
                for row in runs
                if arm.items() <= row["task"].items()
            }
            found[on, kind] = [max(RATES, key=scores.get)]
    return found


def alike_tasks(data: str) -> list[dict]:
    """Return the tasks of the second part on one data set."""
    patch = SETTINGS["vit"]["patch"]
    arms = [{"pictures": pictures, "patch": patch} for pictures in PICTURES]
    if data == "fashion_mnist":
        plain = {"pictures": "as they are", "patch": 7}
        arms += [plain, plain | {"pictures": "new orders"}, plain | {"sizes": "book"}]
    return [
        {"part": "alike", "data": data, **arm, "seed": seed}
        for arm, seed in product(arms, ALIKE_SEEDS)
    ]


def perform(
    name: str, *, command: str, workers: int | None = None, data: str = "cifar10"
) -> Path:
    """Run both parts as far as the record does not hold them; return its path."""
    path = DATA / "results" / f"{name}.json"
    settings = SETTINGS | {"data": data}
    keep = partial(record, path, settings=settings, command=command, workers=workers)
    train = partial(run, folder=data)
    first = alike_tasks("fashion_mnist") + search()
    runs = reload(path, settings)["runs"]
    if len(runs) < len(first):
        runs = keep(first, train)["runs"]
    rest = tasks_of(best_rates(runs), SEEDS) + alike_tasks("cifar10")
    keep(first + rest, train)
    return path
