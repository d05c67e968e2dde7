"""Chapter 3's networks on products of features, each at a rate found on a fine grid.

    python -m experiments widths

The task is the chapter's: multiply each of eight features by the next one. Adam, the
rate falling to zero along a cosine, fresh tokens in every step; the error is the mean
squared error over the variance of the products, 1 being that of a constant guess.

The analysis, fixed before the runs:

- Arms: MLPs of six widths; one of 2D units from the chapter's weights set by hand, and
  from random ones for 400 and for 3,000 steps; attention to a token and a learned one;
  an MLP without its activation; and blocks, with GELU and without it, of which norms
  and attention are taken away, one, the other or both. 200 steps where no other number
  is given.
- Each arm has its own rate: of RATES, a factor of about 1.4 apart, the one with the
  lowest mean error over three seeds (TUNING); of equals the smallest. A best rate at an
  end of the grid is said to be there.
- Reported: the errors of five other seeds at that rate (SEEDS), their mean, lowest and
  highest. Two arms differ only where these ranges do not overlap. (Of two equal arms
  they miss each other in 2 of the 252 ways in which ten errors fall into two fives.)

Asked after these runs had been seen:

- Arms other than the widths had been given every second rate at first, for want of
  time. Now all have all rates, and five seeds at a rate that so becomes the best.
- A block of no norms, no attention and GELU has an MLP of 32 with a skip about it and a
  layer that reads the sum, and a higher error than this MLP by itself. Which of the
  two costs it? One arm with each: it costs what lifts the range above the MLP's.
- Do 2D random units stay far from the weights set by hand because they start small? Two
  arms with both matrices 2 and 4 times as large at the start: the start matters if one
  of their ranges lies below that of 2D.
- Without GELU a block with norms errs less with attention than without. Do the weights
  do this, or what attention adds apart from them? One arm whose weights are all equal,
  and stay so. It errs less than a constant guess in first trials of two seeds, so
  another one adds no more than a learned constant in front of the second norm. The
  weights help where the range with them lies below that without, and the other tokens'
  mean where equal weights lie below the constant.
- Does a step of width still help at equal arithmetic beyond 4D? 4D for 400 steps costs
  as much as 8D for 200.
"""

import math
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.record import record, reload
from vitutils.attention import MultiHeadAttention
from vitutils.data import DATA
from vitutils.mlp import MLP

D = 8
WIDTHS = (4, 8, 16, 32, 64, 128)
BLOCKS = [
    f"block, {norms}, {attention}, {bend}"
    for bend in ("no GELU", "GELU")
    for norms in ("no norms", "norms")
    for attention in ("no attention", "attention")
]
ARMS = {f"MLP of {width}": 200 for width in WIDTHS}  # and its steps
ARMS |= {"MLP of 16 set by hand": 200}
ARMS |= {"MLP of 16, 400 steps": 400, "MLP of 16, 3000 steps": 3000}
ARMS |= {"attention": 200, "no activation": 200} | dict.fromkeys(BLOCKS, 200)
ARMS |= {"MLP of 32, skip": 200, "MLP of 32, read": 200}
ARMS |= {"MLP of 16, start x 2": 200, "MLP of 16, start x 4": 200}
ARMS |= {"block, norms, equal weights, no GELU": 200}
ARMS |= {"block, norms, one constant, no GELU": 200}
ARMS |= {"MLP of 32, 400 steps": 400}
WIDE = ", 16 features"  # in place of D
for kind in ("attention", "equal weights", "one constant"):
    ARMS |= {f"block, norms, {kind}, no GELU{WIDE}": 200}
RATES = (0.005, 0.007, 0.01, 0.014, 0.02, 0.028, 0.04)
RATES += (0.056, 0.08, 0.11, 0.16, 0.22, 0.32, 0.45)
TUNING, SEEDS = (100, 101, 102), (0, 1, 2, 3, 4)
SETTINGS = {"features": D, "batch": [32, 8], "s": 0.3}
ABOUT = {"widths": "chapter 3's networks on products, each at its own rate"}


def features(arm: str) -> int:
    """Return the width of an arm's tokens."""
    return 16 if arm.endswith(WIDE) else D


class Straight(MLP):
    """The MLP with chapter 3's mistake: no activation between its layers."""

    def forward(self, x: Tensor) -> Tensor:
        """Return new tokens (..., D), linear in the tokens (..., D)."""
        return self.fc2(self.fc1(x))


class WithConstant(nn.Module):
    """Attention from each token to itself and to one learned token."""

    def __init__(self) -> None:
        super().__init__()
        self.attn = MultiHeadAttention(embed_dim=D, num_heads=8)
        self.constant = nn.Parameter(torch.randn(D))

    def forward(self, x: Tensor) -> Tensor:
        """Return new tokens (..., D) for tokens (..., D)."""
        pairs = torch.stack((x, self.constant.expand_as(x)), dim=-2)
        y, _ = self.attn(pairs.flatten(0, -3))
        return y[:, 0].view_as(x)


class Skip(MLP):
    """An MLP whose output is added to the token."""

    def forward(self, x: Tensor) -> Tensor:
        """Return new tokens (..., D) for tokens (..., D)."""
        return x + super().forward(x)


class SmallBlock(nn.Module):
    """Attention and an MLP, then a linear layer to read the result."""

    def __init__(self, arm: str) -> None:
        super().__init__()
        kind, width = Straight if "no GELU" in arm else MLP, features(arm)
        self.attn = MultiHeadAttention(embed_dim=width, num_heads=4)
        self.mlp = kind(embed_dim=width, mlp_dim=4 * width)
        self.read = nn.Linear(width, width)
        self.attend, self.normed = "no attention" not in arm, "no norms" not in arm
        self.equal, self.constant = "equal weights" in arm, None
        if "one constant" in arm:
            self.constant = nn.Parameter(torch.randn(width))

    def norm(self, x: Tensor) -> Tensor:
        """Return tokens of mean 0 and deviation 1, or as they are."""
        return F.layer_norm(x, x.shape[-1:]) if self.normed else x

    def forward(self, x: Tensor) -> Tensor:
        """Return new tokens (B, N, D) for tokens (B, N, D)."""
        if self.constant is not None:
            x = x + self.constant
        elif self.equal:  # each token gets the mean of all values
            values = self.attn.qkv(self.norm(x)).chunk(3, dim=-1)[2]
            x = x + self.attn.proj(values.mean(dim=-2, keepdim=True))
        elif self.attend:
            x = x + self.attn(self.norm(x))[0]
        x = x + self.mlp(self.norm(x))
        return self.read(x)


def set_by_hand(s: float) -> MLP:
    """Return an MLP of 2D units that multiplies; the smaller s, the better."""
    single = torch.eye(D)
    sums = single + single.roll(1, dims=1)
    mlp, c = MLP(embed_dim=D, mlp_dim=2 * D), math.sqrt(math.pi / 2) / s**2
    with torch.no_grad():
        mlp.fc1.weight.copy_(s * torch.cat((single, sums)))
        mlp.fc2.weight.copy_(c * torch.cat((-sums, single), dim=1))
        mlp.fc1.bias.zero_()
        mlp.fc2.bias.zero_()
    return mlp


def new_model(arm: str) -> nn.Module:
    """Return the untrained network of an arm."""
    if arm.startswith("block"):
        return SmallBlock(arm)
    if arm == "attention":
        return WithConstant()
    if arm == "no activation":
        return Straight(embed_dim=D, mlp_dim=4 * D)
    if "by hand" in arm:
        return set_by_hand(SETTINGS["s"])
    width, _, kind = arm.removeprefix("MLP of ").partition(", ")
    mlp = (Skip if kind == "skip" else MLP)(embed_dim=D, mlp_dim=int(width))
    if kind.startswith("start"):
        for fc in (mlp.fc1, mlp.fc2):
            fc.weight.data *= int(kind.removeprefix("start x "))
    return nn.Sequential(mlp, nn.Linear(D, D)) if kind == "read" else mlp


def products(x: Tensor) -> Tensor:
    """Return each feature times the next one."""
    return x * x.roll(-1, dims=-1)


def train(task: dict) -> dict:
    """Train one network; return its error on 10,000 new tokens."""
    torch.manual_seed(task["seed"])
    model, steps = new_model(task["arm"]), ARMS[task["arm"]]
    width = features(task["arm"])
    optimizer = torch.optim.Adam(model.parameters(), lr=task["lr"], fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x = torch.randn(*SETTINGS["batch"], width)
        loss = F.mse_loss(model(x), products(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    x = torch.randn(1250, 8, width)
    with torch.no_grad():
        error = (F.mse_loss(model(x), products(x)) / products(x).var()).item()
    return {"error": float(f"{error:.4g}") if math.isfinite(error) else None}


def tasks_of(rates: dict, seeds: tuple[int, ...]) -> list[dict]:
    """Return the tasks of all arms; ``rates`` has those of each."""
    return [
        {"arm": arm, "lr": lr, "seed": seed}
        for arm in ARMS
        for lr in rates[arm]
        for seed in seeds
    ]


def search() -> list[dict]:
    """Return the tasks by which each arm's rate is chosen."""
    return tasks_of(dict.fromkeys(ARMS, RATES), TUNING)


def best_rates(runs: list[dict]) -> dict:
    """Return {arm: [rate]}, the best one in the search."""

    def mean(arm, lr):
        found = [
            math.inf if row["error"] is None else row["error"]
            for row in runs
            if (row["task"]["arm"], row["task"]["lr"]) == (arm, lr)
            and row["task"]["seed"] in TUNING
        ]
        return sum(found) / len(found)

    return {arm: [min(RATES, key=partial(mean, arm))] for arm in ARMS}


def perform(name: str, *, command: str, workers: int | None = None) -> Path:
    """Run the search, then the runs at the best rates; return the record's path."""
    path = DATA / "results" / f"{name}.json"
    keep = partial(record, path, settings=SETTINGS, command=command, workers=workers)
    held = [row["task"] for row in reload(path, SETTINGS)["runs"]]
    others = [task for task in held if task["seed"] in SEEDS]  # of a run before
    runs = keep(search() + others, train)["runs"]
    keep(search() + tasks_of(best_rates(runs), SEEDS), train)
    return path
