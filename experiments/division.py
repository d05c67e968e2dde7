"""A soft dictionary with and without the division by the root of its width.

    python -m experiments division             # about a quarter of an hour on one core

What chapter 1 asks: does a model learn worse without the division, and is it the larger
first logits or the larger steps of the logits? The task and the model are those of the
chapter: one query over 16 keys with labels, 32 new examples a step, Adam.

The analysis, fixed before the runs:

- Arms: ``divided``; ``undivided``, which multiplies the query by the root again, so
  that the first logits are larger and a step of W_q or W_k moves them further, both by
  that factor; ``small start``, undivided with the first weights of W_q divided by it;
  ``small steps``, undivided with the rates of both W_q and W_k divided by it; and
  ``warm-up``, undivided with a rate that grows over the first 50 steps.
- Width 512, and 64 for the first two; four rates each, none of them chosen: all are
  reported. (The fifth of RATES was added afterwards, as ``small steps`` had been best
  at the highest of the four.)
- Eight seeds, the same for all arms. A run *has learned* if it answers 95 % of 2,000
  new examples. Reported: how many of the eight have, after 150 and after 300 steps.
- Two arms differ at a rate if one has at least five more such seeds than the other: of
  two equal arms this is seen in about two of a hundred pairs at most, at any rate.

Two things were added after all that. ``shared start``: the factor of ``small start``
is taken from both layers, its root from each of W_q and W_k; then a step of either
moves the logits further than in the divided layer by that root alone. And eight seeds
see little at width 64: MORE_SEEDS there, at the three rates in the middle.

A reader asked later, and this was fixed before the runs: is ``small steps`` held back
by what has nothing to do with the logits, the rate of values and readout, or by the end
of the grid? In ``own steps`` these keep a rate of REST, while W_q and W_k go on to four
times the highest rate, divided by the root as before; ``small steps`` goes as far. And
is a warm-up better that takes less of the time? It gets 25 and 10 steps, too, at the
rates where the layer learns without one. What is read: an arm makes up for the division
if at its best rate at least four seeds have learned after 150 steps, since by the rule
above it then does not differ from all eight.

The rule is for one pair: among dozens of pairs some differ by five by chance.

Eight seeds see little at width 512, too: with eight others ``small start`` did better
at 0.002. So MORE_SEEDS there as well, for both starts and ``own steps`` at their best
rates after 150 steps, and for ``divided`` beside the starts. Fixed before these runs:
of 32 seeds each, two arms differ by ten or more, as rare between equal arms as five of
eight.
"""

import math
from functools import partial
from itertools import product
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.record import record
from vitutils.attention import ScaledDotProductAttention
from vitutils.data import DATA

ARMS = ("divided", "undivided", "small start", "shared start", "small steps", "warm-up")
WIDTHS, RATES, SEEDS = (64, 512), (1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2), range(8)
MORE_SEEDS, MORE_RATES, REST = range(8, 32), (3.2e-2, 6.4e-2), 4e-3
SETTINGS = {"keys": 16, "features": 32, "batch": 32, "marks": [150, 300], "warmup": 50}
WARMUPS = {"warm-up": SETTINGS["warmup"], "warm-up 25": 25, "warm-up 10": 10}
ABOUT = {"division": "chapter 1's soft dictionary, divided by the root and not"}


class Lookup(nn.Module):
    """Answer a question by one query over the keys and their labels."""

    def __init__(self, d_k: int, factor: float) -> None:
        super().__init__()
        features = SETTINGS["features"]
        self.w_q, self.w_k = nn.Linear(features, d_k), nn.Linear(features, d_k)
        self.w_v, self.readout = nn.Linear(features + 10, 64), nn.Linear(64, 10)
        self.factor, self.attention = factor, ScaledDotProductAttention()

    def forward(self, question: Tensor, keys: Tensor, labels: Tensor) -> Tensor:
        """Return the logits of the ten labels, (B, 10)."""
        q = self.w_q(question)[:, None] * self.factor
        entries = torch.cat([keys, F.one_hot(labels, 10)], dim=-1)
        out, _ = self.attention(q, self.w_k(keys), self.w_v(entries))
        return self.readout(out[:, 0])


def examples(n: int) -> tuple[Tensor, ...]:
    """Return n questions, their keys and labels, and the answers."""
    count, features = SETTINGS["keys"], SETTINGS["features"]
    keys, labels = torch.randn(n, count, features), torch.randint(10, (n, count))
    row, asked = torch.arange(n), torch.randint(count, (n,))
    question = keys[row, asked] + 0.5 * torch.randn(n, features)
    return question, keys, labels, labels[row, asked]


def prepare(task: dict) -> tuple[Lookup, torch.optim.Optimizer]:
    """Return the model of an arm and its optimizer, with each layer's own rate."""
    arm, root = task["arm"], math.sqrt(task["d_k"])
    model = Lookup(task["d_k"], 1 if arm == "divided" else root)
    smaller = {"small start": (model.w_q,), "shared start": (model.w_q, model.w_k)}
    with torch.no_grad():
        for layer in (layers := smaller.get(arm, ())):
            for parameter in layer.parameters():
                parameter /= root ** (1 / len(layers))
    first = task["lr"] / (root if arm in ("small steps", "own steps") else 1)
    rest = REST if arm == "own steps" else task["lr"]
    groups = [
        {"params": layer.parameters(), "lr": lr}
        for layer, lr in zip(model.children(), (first, first, rest, rest), strict=False)
    ]
    return model, torch.optim.Adam(groups, fused=True)


def train(task: dict) -> dict:
    """Train one model; return its accuracy after each number of steps."""
    torch.manual_seed(task["seed"])
    model, optimizer = prepare(task)
    warmup = WARMUPS.get(task["arm"], 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min(1.0, (i + 1) / warmup)
    )
    found = {}
    for step in range(1, max(SETTINGS["marks"]) + 1):
        *given, answers = examples(SETTINGS["batch"])
        loss = F.cross_entropy(model(*given), answers)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step in SETTINGS["marks"]:
            found[str(step)] = score(model)
    return {"accuracy": found}


@torch.no_grad()
def score(model: Lookup, count: int = 2000) -> float:
    """Return the accuracy on new examples."""
    *given, answers = examples(count)
    right = model(*given).argmax(dim=-1) == answers
    return round(right.float().mean().item(), 4)


def tasks() -> list[dict]:
    """Return what is trained, one dict a run."""
    runs = [
        *product(WIDTHS[:1], ARMS[:2], RATES, SEEDS),
        *product(WIDTHS[:1], ARMS[:2], RATES[1:4], MORE_SEEDS),
        *product(WIDTHS[1:], ARMS, RATES, SEEDS),
        *product(WIDTHS[1:], ("own steps",), (*RATES[2:], *MORE_RATES), SEEDS),
        *product(WIDTHS[1:], ("small steps",), MORE_RATES, SEEDS),
        *product(WIDTHS[1:], ("warm-up 25", "warm-up 10"), RATES[1:4], SEEDS),
        *product(WIDTHS[1:], (ARMS[0], *ARMS[2:4]), RATES[1:2], MORE_SEEDS),
        *product(WIDTHS[1:], ("own steps",), MORE_RATES[:1], MORE_SEEDS),
    ]
    return [dict(zip(("d_k", "arm", "lr", "seed"), run, strict=True)) for run in runs]


def perform(name: str, *, command: str, workers: int | None = None) -> Path:
    """Run the study; return the record's path."""
    path = DATA / "results" / f"{name}.json"
    keep = partial(record, path, settings=SETTINGS, command=command, workers=workers)
    keep(tasks(), train)
    return path
