r"""Time VisionTransformer beside its peers: forward and training step, as ratios.

Every model has the same configuration, weights in fp32, and the same optimizer;
bf16 means autocast. The models take turns within a round, so that a machine
that speeds up or slows down does so for all; a ratio is the median over rounds
of our images a second over the peer's in the same round. The peers are timm,
torchvision, vit-pytorch and transformers; one that is not installed is left out.
vit-pytorch's SimpleViT is shown beside them: it has a token less and no biases in its
attention, so that it does less work. Ours computes in the last block the class token
alone, which is all that the head reads, and the peers compute all tokens.

    python benchmarks/throughput.py --rounds 7
    python benchmarks/throughput.py --device cuda --dtypes bf16 --compile timm \
        --limit 160 --record data/results/throughput_cuda.json
"""

import argparse
import importlib.metadata
import math
import shlex
import statistics
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import VisionTransformer as TorchvisionViT
from tqdm import tqdm

from vitutils.engine.machine import machine, write_json
from vitutils.vit import VisionTransformer


class Size(NamedTuple):
    """A model's configuration, and how many images a step has on each device."""

    image_size: int
    patch_size: int
    width: int
    depth: int
    heads: int
    classes: int
    cpu_batch: int
    cuda_batch: int


SIZES = {
    "28px_patch7": Size(28, 7, 64, 4, 4, 10, 128, 4096),
    "32px_patch4": Size(32, 4, 192, 9, 3, 10, 64, 2048),
    "tiny_224": Size(224, 16, 192, 12, 3, 1000, 16, 512),
    "small_224": Size(224, 16, 384, 12, 6, 1000, 8, 512),
    "base_224": Size(224, 16, 768, 12, 12, 1000, 4, 256),
}
USUAL = {  # sizes that are measured if none is named
    "cpu": ("28px_patch7", "32px_patch4", "tiny_224", "base_224"),
    "cuda": ("base_224", "32px_patch4", "small_224", "tiny_224"),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SMALLER = "vit-pytorch simple"  # no class token: not of the same configuration
PACKAGES = ("torch", "torchvision", "timm", "vit-pytorch", "transformers")
LAST_BLOCK = "ours computes the class token alone, the peers all tokens"


class Logits(torch.nn.Module):
    """transformers' ViT, returning plain logits like the others."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images).logits


def ours(size: Size) -> nn.Module:
    return VisionTransformer(
        image_size=size.image_size,
        patch_size=size.patch_size,
        num_classes=size.classes,
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.heads,
        mlp_dim=4 * size.width,
    )


def timm_vit(size: Size) -> nn.Module:
    from timm.models import VisionTransformer as TimmViT

    return TimmViT(
        img_size=size.image_size,
        patch_size=size.patch_size,
        num_classes=size.classes,
        embed_dim=size.width,
        depth=size.depth,
        num_heads=size.heads,
    )


def torchvision_vit(size: Size) -> nn.Module:
    return TorchvisionViT(
        image_size=size.image_size,
        patch_size=size.patch_size,
        num_classes=size.classes,
        hidden_dim=size.width,
        num_layers=size.depth,
        num_heads=size.heads,
        mlp_dim=4 * size.width,
    )


def vit_pytorch_vit(size: Size, kind: str = "ViT") -> nn.Module:
    import vit_pytorch

    return getattr(vit_pytorch, kind)(
        image_size=size.image_size,
        patch_size=size.patch_size,
        num_classes=size.classes,
        dim=size.width,
        depth=size.depth,
        heads=size.heads,
        mlp_dim=4 * size.width,
        dim_head=size.width // size.heads,
    )


def transformers_vit(size: Size) -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=size.image_size,
        patch_size=size.patch_size,
        hidden_size=size.width,
        num_hidden_layers=size.depth,
        num_attention_heads=size.heads,
        intermediate_size=4 * size.width,
        num_labels=size.classes,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return Logits(ViTForImageClassification(config))


PEERS: dict[str, Callable[[Size], nn.Module]] = {
    "timm": timm_vit,
    "torchvision": torchvision_vit,
    "vit-pytorch": vit_pytorch_vit,
    SMALLER: lambda size: vit_pytorch_vit(size, "SimpleViT"),
    "transformers": transformers_vit,
}


def installed_peers() -> list[str]:
    """Return the names of the peers whose package can be imported."""
    found = []
    for name, build in PEERS.items():
        try:
            build(SIZES["28px_patch7"])
        except ImportError:
            continue
        found.append(name)
    return found


def build_models(size: Size, peers: list[str], device: str) -> dict[str, nn.Module]:
    """Return {name: model}, all of the same configuration, ours first."""
    torch.manual_seed(0)
    with torch.device(device):
        models = {"ours": ours(size)} | {name: PEERS[name](size) for name in peers}
    return {name: model.to(device) for name, model in models.items()}


def make_step(
    model: nn.Module, mode: str, dtype: torch.dtype, images: Tensor, labels: Tensor
) -> Callable[[], None]:
    """Return a function of no arguments: one forward pass or training step."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    mixed = dtype != torch.float32
    amp = torch.autocast(images.device.type, dtype=dtype, enabled=mixed)

    def forward():
        with torch.inference_mode(), amp:
            model(images)

    def train():
        with amp:
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    model.train(mode == "train")
    return {"forward": forward, "train": train}[mode]


def seconds_a_call(call: Callable[[], object], repeats: int, device: str) -> float:
    """Return the mean seconds of a call over ``repeats`` calls in a row."""
    # A GPU works on while the calls return: its clock is read when it has done all.
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronize()
    return (time.perf_counter() - start) / repeats


def warm_up(call: Callable[[], object], device: str) -> float:
    """Call until it gets no faster: all is compiled. Return seconds of a call."""
    seconds_a_call(call, 2, device)
    before, once = math.inf, seconds_a_call(call, 1, device)
    while once < 0.8 * before:
        before, once = once, seconds_a_call(call, 1, device)
    return once


def peak_flops(dtype: torch.dtype, device: str) -> float:
    """Return the machine's matrix-multiply rate, FLOP/s: the best of a few."""
    side, repeats = (8192, 10) if device == "cuda" else (2048, 1)
    a = torch.randn(side, side, dtype=dtype, device=device)
    seconds_a_call(lambda: a @ a, 1, device)
    best = min(seconds_a_call(lambda: a @ a, repeats, device) for _ in range(5))
    return 2 * side**3 / best


def forward_flops(model: nn.Module, images: Tensor) -> int:
    """Count our model's FLOPs; the counter cannot see into the fused kernels."""
    plain = sdpa_kernel(SDPBackend.MATH)
    with plain, FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    return counter.get_total_flops()


def measure(
    name: str,
    mode: str,
    dtype_name: str,
    compiled: bool,
    *,
    peers: list[str],
    args: argparse.Namespace,
) -> dict:
    """Return one row: medians, ratios to each peer, share of the peak."""
    torch.compiler.reset()  # what earlier rows have compiled
    size, dtype = SIZES[name], DTYPES[dtype_name]
    batch = args.batch or (size.cuda_batch if args.device == "cuda" else size.cpu_batch)
    models = build_models(size, peers, args.device)
    side = size.image_size
    images = torch.randn(batch, 3, side, side, device=args.device)
    labels = torch.randint(size.classes, (batch,), device=args.device)
    flops = forward_flops(models["ours"], images) * (3 if mode == "train" else 1)
    steps, repeats, failed = {}, {}, {}
    for who, model in models.items():
        if compiled:
            model.compile()
        step = make_step(model, mode, dtype, images, labels)
        try:
            once = warm_up(step, args.device)
        except Exception as error:  # a peer's fault shall not cost the row
            if who == "ours":
                raise
            failed[who] = short(error)
            continue
        steps[who], repeats[who] = step, max(1, round(args.seconds / once))
    rates = {who: [] for who in steps}
    peaks = []
    names = list(steps)
    for turn in range(args.rounds):
        for who in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds = seconds_a_call(steps[who], repeats[who], args.device)
            rates[who].append(batch / seconds)
        peaks.append(peak_flops(dtype, args.device))
    ratios = {
        who: statistics.median(a / b for a, b in zip(rates["ours"], peer, strict=True))
        for who, peer in rates.items()
        if who != "ours"
    }
    alike = [ratio for who, ratio in ratios.items() if who != SMALLER]
    median = {who: statistics.median(values) for who, values in rates.items()}
    row = {
        "size": name,
        "mode": mode,
        "dtype": dtype_name,
        "compiled": compiled,
        "batch": batch,
        "images_per_second": {k: round(v, 1) for k, v in median.items()},
        "ratio_to": {k: round(v, 3) for k, v in ratios.items()},
        "ratio_to_best_peer": round(min(alike), 3) if alike else None,
        "share_of_peak": round(
            median["ours"] / batch * flops / statistics.median(peaks), 3
        ),
    }
    return row | ({"failed": failed} if failed else {})


def short(error: Exception) -> str:
    """Return an error's kind and the start of what it says."""
    return f"{type(error).__name__}: {error}"[:500]


def show(row: dict) -> str:
    """Return a row as a line of text."""
    ratios = "  ".join(f"{name} {value:.2f}" for name, value in row["ratio_to"].items())
    best = row["ratio_to_best_peer"]
    return (
        f"{row['size']:12} {row['dtype']} {row['mode']:8}"
        f"{'compiled' if row['compiled'] else '':9}"
        f"{row['images_per_second']['ours']:9.0f} images/s  "
        f"{row['share_of_peak']:4.0%} of peak  "
        f"best peer {'-' if best is None else f'{best:.2f}'}  ({ratios})"
    )


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, help="of models")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument(
        "--modes", nargs="+", choices=("forward", "train"), default=["forward", "train"]
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, help="images a step (default: by size)")
    parser.add_argument(
        "--compile",
        nargs="*",
        choices=PEERS,
        metavar="PEER",
        help="then also with torch.compile, for all or for these peers",
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns a model (5)")
    parser.add_argument(
        "--seconds", type=float, default=0.5, help="of a turn, at least one step (0.5)"
    )
    parser.add_argument(
        "--limit", type=float, default=math.inf, help="seconds; then no row is begun"
    )
    parser.add_argument(
        "--record", type=Path, help="write the rows as JSON here, after each"
    )
    return parser


def main() -> int:
    """Measure row by row; return 1 if one failed."""
    start = time.perf_counter()
    args = make_parser().parse_args()
    peers = installed_peers()
    packages = importlib.metadata.packages_distributions()
    there = [p for p in PACKAGES if p.replace("-", "_") in packages]
    sizes = args.sizes or USUAL[args.device]
    ways = (False,) if args.compile is None else (False, True)
    todo = [
        (size, mode, dtype, compiled)  # what is compiled takes longest: it comes last
        for compiled, size, dtype, mode in product(ways, sizes, args.dtypes, args.modes)
    ]
    record = {
        "command": shlex.join(["python", *sys.argv]),
        **machine(*there, device=args.device),
        "threads": torch.get_num_threads(),
        "rounds": args.rounds,
        "last_block": LAST_BLOCK,
        "missing": [name for name in PEERS if name not in peers],
        "failed": [],
        "not_begun": [],
        "rows": [],
    }
    if args.device == "cuda":
        record["cuda"] = torch.version.cuda
    for task in tqdm(todo, disable=None):
        if time.perf_counter() - start > args.limit:
            record["not_begun"].append(task)
        else:
            compiled_ones = task[-1] and args.compile
            chosen = [p for p in peers if not compiled_ones or p in compiled_ones]
            try:
                row = measure(*task, peers=chosen, args=args)
            except Exception as error:  # one row's fault shall not cost the others
                record["failed"].append([*task, short(error)])
                tqdm.write(f"{' '.join(map(str, task))}: {short(error)}")
            else:
                record["rows"].append(row)
                tqdm.write(show(row))
        if args.record:
            write_json(record, args.record)
    return 1 if record["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
