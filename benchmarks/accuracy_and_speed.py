r"""Time DeiT beside convolutional networks, as DeiT's figure 1 and table 5 do.

Accuracies are published ones, on ImageNet at 224 pixels (Touvron et al. 2021, table 5);
images a second are measured here, forward, with random weights, which cost as much as
any. Models take turns within a round, so that a machine that speeds up or slows down
does so for all; a rate is the median over rounds. Convolutional networks are timed with
channels first and last, as processors may prefer either. Ours computes in the last
block the tokens alone that its heads read; the others compute all tokens.

    python benchmarks/accuracy_and_speed.py
    python benchmarks/accuracy_and_speed.py --device cuda --dtype bf16 --batch 256 \
        --record data/results/accuracy_and_speed_cuda.json
"""

import argparse
import math
import shlex
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import timm
import torch
import torchvision
from throughput import DTYPES, make_step, seconds_a_call, warm_up
from torch import nn

from vitutils.data import DATA
from vitutils.deit import DistilledVisionTransformer
from vitutils.engine.machine import machine, write_json
from vitutils.vit import VisionTransformer

PUBLISHED = {  # top-1 accuracy in per cent, images a second on a V100
    "ResNet-50": (76.2, 1226.1),
    "RegNetY-4GF": (80.0, 1156.7),
    "EfficientNet-B0": (77.1, 2694.3),
    "DeiT-Ti": (72.2, 2536.5),
    "DeiT-S": (79.8, 940.4),
    "DeiT-B": (81.8, 292.3),
    "DeiT-Ti, distilled": (74.5, 2529.5),
    "DeiT-S, distilled": (81.2, 936.2),
    "DeiT-B, distilled": (83.4, 290.9),
}
SIZES = {"Ti": "tiny", "S": "small", "B": "base"}
PACKAGES = ("torch", "torchvision", "timm")
LAST = ", channels last"


def builders() -> dict[str, dict[str, Callable[[], nn.Module]]]:
    """Return by name of a network, then by library, what builds it."""
    found = {
        "ResNet-50": {"torchvision": torchvision.models.resnet50},
        "EfficientNet-B0": {"torchvision": torchvision.models.efficientnet_b0},
        "RegNetY-4GF": {"timm": lambda: timm.create_model("regnety_040")},
    }
    for libraries in found.values():
        libraries |= {library + LAST: build for library, build in libraries.items()}
    for size, name in SIZES.items():
        for cls, kind, end in (
            (VisionTransformer, "", ""),
            (DistilledVisionTransformer, "_distilled", ", distilled"),
        ):
            theirs = f"deit_{name}{kind}_patch16_224"
            found[f"DeiT-{size}{end}"] = {
                "ours": getattr(cls, name),
                "timm": lambda theirs=theirs: timm.create_model(theirs),
            }
    return found


def measure(args: argparse.Namespace) -> list[dict]:
    """Return a row a network: its accuracy, and images a second by library."""
    images = torch.randn(args.batch, 3, 224, 224, device=args.device)
    steps = {}
    known = builders()
    for name in args.networks:
        for library, build in known[name].items():
            last = torch.channels_last if library.endswith(LAST) else None
            order = {"memory_format": last or torch.contiguous_format}
            with torch.device(args.device):
                model = build().to(**order)
            step = make_step(
                model, "forward", DTYPES[args.dtype], images.to(**order), None
            )
            once = warm_up(step, args.device)
            steps[name, library] = step, max(1, math.ceil(args.seconds / once))
    rates = {which: [] for which in steps}
    names = list(steps)
    for turn in range(args.rounds):
        at = turn % len(names)
        for which in names[at:] + names[:at]:
            seconds = seconds_a_call(*steps[which], args.device)
            rates[which].append(args.batch / seconds)
    rows = {}
    for (name, library), values in rates.items():
        accuracy, v100 = PUBLISHED[name]
        row = {"network": name, "accuracy": accuracy, "images_per_second_v100": v100}
        row = rows.setdefault(name, row | {"images_per_second": {}, "range": {}})
        row["images_per_second"][library] = round(statistics.median(values), 1)
        row["range"][library] = [round(min(values), 1), round(max(values), 1)]
    return list(rows.values())


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--networks", nargs="+", choices=PUBLISHED, default=list(PUBLISHED)
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--batch", type=int, default=8, help="images a step (8)")
    parser.add_argument("--rounds", type=int, default=5, help="turns a network (5)")
    parser.add_argument(
        "--seconds", type=float, default=0.5, help="of a turn, at least one step (0.5)"
    )
    parser.add_argument(
        "--record",
        type=Path,
        default=DATA / "results" / "accuracy_and_speed_cpu.json",
        help="where the rows go, as JSON",
    )
    return parser


def main() -> None:
    args = make_parser().parse_args()
    torch.manual_seed(0)
    rows = measure(args)
    record = {
        "command": shlex.join(["python", *sys.argv]),
        **machine(*PACKAGES, device=args.device),
        "threads": torch.get_num_threads(),
        "dtype": args.dtype,
        "batch": args.batch,
        "rounds": args.rounds,
        "rows": rows,
    }
    write_json(record, args.record)
    for row in rows:
        rates = row["images_per_second"].items()
        each = "  ".join(f"{library} {rate:.1f}" for library, rate in rates)
        print(f"{row['network']:20} {row['accuracy']:.1f} %  {each}")


if __name__ == "__main__":
    main()
