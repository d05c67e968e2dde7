"""Time MultiHeadAttention's two ways: the fused kernel, and the explicit product.

``vitutils.engine.kernels.choose_explicit`` follows what this measures on a CPU. The
ways take turns, and a ratio is the median over rounds of the fused kernel's processor
time over the explicit product's in the same round: below 1 the kernel is faster.

    python benchmarks/attention.py --record data/results/attention_cpu.json
"""

import argparse
import shlex
import statistics
import sys
import time
from itertools import product
from pathlib import Path

import torch

from vitutils import attention
from vitutils.engine.machine import machine, write_json

WIDTHS = {64: 4, 192: 3}  # width to heads: the book's small model, ViT-Ti
TOKENS = (5, 17, 50, 65, 197)
DTYPES = ("fp32", "bf16")


def seconds(layer, x, dtype, training, calls=3):
    """Return the processor seconds of forward passes, with the way back or without."""
    start = time.process_time()
    for _ in range(calls):
        with (
            torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == "bf16"),
            torch.set_grad_enabled(training),
        ):
            out, _ = layer(x)
        if training:
            out.float().sum().backward()
    return time.process_time() - start


def ratio(layer, x, dtype, training, rounds):
    """Return the median and the quartiles of fused over explicit."""
    ratios = []
    for turn in range(rounds + 1):  # the first one warms up
        spent = {}
        for explicit in (True, False) if turn % 2 else (False, True):
            attention.choose_explicit = lambda k, e=explicit: e
            spent[explicit] = seconds(layer, x, dtype, training)
        ratios.append(spent[False] / spent[True])
    low, middle, high = statistics.quantiles(ratios[1:], n=4)
    return {"ratio": middle, "quartiles": [low, high]}


def main():
    """Print a row for each case, and record them all where that is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=13)
    parser.add_argument("--record", type=Path, help="a JSON file for the rows")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for dtype, width, tokens in product(DTYPES, WIDTHS, TOKENS):
        torch.manual_seed(0)
        layer = attention.MultiHeadAttention(embed_dim=width, num_heads=WIDTHS[width])
        x = torch.randn(max(2, 262_144 // (tokens * width)), tokens, width)
        for training in (False, True):
            row = {"dtype": dtype, "width": width, "tokens": tokens}
            row |= {"images": len(x), "training": training}
            row |= ratio(layer, x, dtype, training, args.rounds)
            rows.append(row)
            what = "training" if training else "forward "
            print(f"{dtype}  D {width:3}  N {tokens:3}  {what}  {row['ratio']:.2f}")
    if args.record:
        held = {"command": shlex.join(["python", *sys.argv]), "threads": 1}
        write_json(held | machine("torch") | {"rows": rows}, args.record)


if __name__ == "__main__":
    main()
