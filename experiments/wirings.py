"""Five wirings of the same block, trained at 4 and 12 blocks, each at its own rate.

    python -m experiments wirings              # about twenty minutes on one core

What chapter 4 asks: does a stack learn, and what do the residual and the norm do for
it? The task, the model and the wirings are those of the chapter: each of eight tokens
says how many others show its symbol, none, one or more (48 % say none). A stack
without positions, width 32, closed by a norm in every wiring, so that no other thing
changes; Adam, 100 steps of 64 new sequences, no clipping.

The analysis, fixed before the runs:

- Arms: the five wirings at a constant rate; post-norm and pre-norm once more with a
  warm-up over the first 30 steps. All at 4 and at 12 blocks.
- Each arm has its own rate: of four (RATES), the one with the highest mean accuracy
  over two seeds (TUNING); of equals the smallest. A best rate at an end of the grid is
  said to be there.
- Reported: accuracy on 1,000 new sequences of four other seeds at that rate (SEEDS),
  each one, their mean, lowest and highest. Two arms differ only where these ranges do
  not overlap; other differences are not spoken of.
- Beside it, before and after training, the mean cosine of tokens of different symbols
  in one sequence, after the last block: 1 means that they have become alike.

Asked after these runs had been seen (AFTERWARDS), and so told apart from them: is it
the wiring, the time or the start that keeps twelve blocks of post-norm from learning?
The four seeds again, once with 400 steps at 3e-4, and once each wiring with
100 steps at 1e-3 from PyTorch's default weights, which are smaller. And is a stack
without a residual unable to learn, or only late? Four blocks of plain and of the norm
alone, 1,500 steps at 1e-3. Does LayerScale let twelve blocks of the residual alone
learn from Xavier's weights, in 100 steps at 3e-3, and does it do so from 1, where it
changes nothing at first? And do eight without it stay at chance, from which the
chapter's third exercise starts? These eight have all four rates; the other arms have
one, not tuned, so those can show that a stack learns; of one that does not they say
little.
"""

import math
from functools import partial
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.record import record, reload
from vitutils.data import DATA
from vitutils.encoder import Block
from vitutils.vit import init_linear

WIRINGS = ("plain", "norm alone", "residual alone", "post-norm", "pre-norm")
ARMS = [(wiring, 0) for wiring in WIRINGS] + [("post-norm", 30), ("pre-norm", 30)]
DEPTHS, RATES = (4, 12), (3e-4, 1e-3, 3e-3, 1e-2)
TUNING, SEEDS = (100, 101), (0, 1, 2, 3)
AFTERWARDS = [{"wiring": "post-norm", "lr": 3e-4, "steps": 400}]
AFTERWARDS += [{"wiring": w, "lr": 1e-3, "start": "default"} for w in WIRINGS]
AFTERWARDS += [
    {"wiring": w, "depth": 4, "lr": 1e-3, "steps": 1500} for w in WIRINGS[:2]
]
AFTERWARDS += [{"wiring": "residual alone", "lr": 3e-3, "scale": 1e-5}]
AFTERWARDS += [{"wiring": "residual alone", "depth": 8, "lr": lr} for lr in RATES]
AFTERWARDS += [{"wiring": "residual alone", "lr": 3e-3, "scale": 1.0}]
SETTINGS = {"embed_dim": 32, "num_heads": 2, "mlp_dim": 128, "steps": 100, "batch": 64}
ABOUT = {"wirings": "chapter 4's five wirings of a block, at 4 and 12 blocks"}


class LayerScale(nn.Module):
    """Multiply each feature by a learned number.

    Source: Touvron et al. (2021), *Going deeper*, section 2.
    """

    def __init__(self, embed_dim: int, initial: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((embed_dim,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of x, (..., D), each times its number."""
        return self.scale * x


class Counter(nn.Module):
    """Symbols to tokens, a stack of blocks in one wiring, three classes.

    Args:
        scale: what LayerScale starts with, behind each part; None: there is none.
    """

    def __init__(
        self, wiring: str, depth: int, start: str = "xavier", scale: float | None = None
    ) -> None:
        super().__init__()
        sizes = {k: SETTINGS[k] for k in ("embed_dim", "num_heads", "mlp_dim")}
        self.wiring = wiring
        self.symbols = nn.Embedding(10, sizes["embed_dim"])
        self.blocks = nn.ModuleList(Block(**sizes) for _ in range(depth))
        self.norm = nn.LayerNorm(sizes["embed_dim"], eps=1e-6)
        self.head = nn.Linear(sizes["embed_dim"], 3)
        if start == "xavier":
            self.apply(init_linear)
        for block in self.blocks if scale else ():
            for part, last in ((block.attn, "proj"), (block.mlp, "fc2")):
                scaled = LayerScale(sizes["embed_dim"], scale)
                setattr(part, last, nn.Sequential(getattr(part, last), scaled))

    def tokens(self, sequences: Tensor) -> Tensor:
        """Return the tokens after the last block, (B, N, D)."""
        x = self.symbols(sequences)
        for block in self.blocks:
            x = step(block, x, self.wiring)
        return x

    def forward(self, sequences: Tensor) -> Tensor:
        """Return the logits, (B, N, 3)."""
        return self.head(self.norm(self.tokens(sequences)))


def step(block: Block, x: Tensor, wiring: str) -> Tensor:
    """Pass x through the parts of one block, wired in one of five ways."""
    parts = ((block.norm1, lambda t: block.attn(t)[0]), (block.norm2, block.mlp))
    for norm, part in parts:
        if wiring == "plain":
            x = part(x)
        elif wiring == "norm alone":
            x = part(norm(x))
        elif wiring == "residual alone":
            x = x + part(x)
        elif wiring == "post-norm":
            x = norm(x + part(x))
        else:
            x = x + part(norm(x))
    return x


def sample(count: int) -> tuple[Tensor, Tensor]:
    """Return sequences of eight symbols, and 0, 1 or 2: others like each."""
    sequences = torch.randint(10, (count, 8))
    same = sequences[:, :, None] == sequences[:, None]
    return sequences, (same.sum(dim=-1) - 1).clamp(max=2)


@torch.no_grad()
def likeness(model: Counter, sequences: Tensor) -> float:
    """Return the mean cosine of tokens of different symbols in one sequence."""
    tokens = F.normalize(model.tokens(sequences), dim=-1)
    different = sequences[:, :, None] != sequences[:, None]
    return (tokens @ tokens.mT)[different].mean().item()


def train(task: dict) -> dict:
    """Train one stack; return its accuracy, its last losses and its tokens' cosine."""
    torch.manual_seed(task["seed"])
    model = Counter(
        task["wiring"], task["depth"], task.get("start", "xavier"), task.get("scale")
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=task["lr"], fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1.0, (i + 1) / max(1, task["warmup"]))
    )
    losses, before = [], likeness(model, sample(100)[0])
    for _ in range(task.get("steps", SETTINGS["steps"])):
        sequences, counts = sample(SETTINGS["batch"])
        loss = F.cross_entropy(model(sequences).flatten(0, 1), counts.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    sequences, counts = sample(1000)
    with torch.no_grad():
        right = model(sequences).argmax(dim=-1) == counts
    return {
        "accuracy": round(right.float().mean().item(), 4),
        "loss": rounded(sum(losses[-10:]) / 10),
        "cosine": {
            "before": rounded(before),
            "after": rounded(likeness(model, sequences[:100])),
        },
    }


def rounded(value: float) -> float | None:
    """Return what JSON can hold: None for a run that ended in NaN."""
    return round(value, 4) if math.isfinite(value) else None


def tasks_of(rates: dict, seeds: tuple[int, ...]) -> list[dict]:
    """Return the tasks of all arms; ``rates`` has those of each."""
    return [
        {"wiring": wiring, "warmup": warmup, "depth": depth, "lr": lr, "seed": seed}
        for depth, (wiring, warmup) in product(DEPTHS, ARMS)
        for lr in rates[wiring, warmup, depth]
        for seed in seeds
    ]


def search() -> list[dict]:
    """Return the tasks by which each arm's rate is chosen."""
    every = {(*arm, depth): RATES for arm, depth in product(ARMS, DEPTHS)}
    return tasks_of(every, TUNING)


def best_rates(runs: list[dict]) -> dict:
    """Return {(wiring, warmup, depth): [rate]}, the best one in the search."""

    def mean(wiring, warmup, depth, lr):
        arm = {"wiring": wiring, "warmup": warmup, "depth": depth, "lr": lr}
        found = [
            row["accuracy"]
            for row in runs
            if row["task"]["seed"] in TUNING and arm.items() <= row["task"].items()
        ]
        return sum(found) / len(found)

    return {
        (*arm, depth): [max(RATES, key=partial(mean, *arm, depth))]
        for arm, depth in product(ARMS, DEPTHS)
    }


def afterwards() -> list[dict]:
    """Return the tasks that were asked for after the others had been seen."""
    same = {"warmup": 0, "depth": 12}
    return [same | arm | {"seed": seed} for arm in AFTERWARDS for seed in SEEDS]


def perform(name: str, *, command: str, workers: int | None = None) -> Path:
    """Run the search, then the runs at the best rates; return the record's path."""
    path = DATA / "results" / f"{name}.json"
    keep = partial(record, path, settings=SETTINGS, command=command, workers=workers)
    runs = reload(path, SETTINGS)["runs"]
    if len(runs) < len(search()):
        runs = keep(search(), train)["runs"]
    keep(search() + tasks_of(best_rates(runs), SEEDS) + afterwards(), train)
    return path
