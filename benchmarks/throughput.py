r"""Time VisionTransformer beside its peers: forward and training step, as ratios.

Every model has the same configuration, weights in fp32, and the same optimizer;
bf16 means autocast. The models take turns within a round, so that a machine
that speeds up or slows down does so for all; a ratio is the median over rounds
of our images a second over the peer's in the same round. The peers are timm,
torchvision, vit-pytorch and transformers. vit-pytorch's SimpleViT is shown beside
them: it has a token less and no biases in its attention, so that it does less work.

    python benchmarks/throughput.py --rounds 7
    python benchmarks/throughput.py --device cuda --sizes base_224 --dtypes bf16 \
        --batch 128 --compile --record data/results/throughput_cuda.json
"""

import argparse
import shlex
import statistics
import sys
import time
from itertools import product
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
import vit_pytorch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import VisionTransformer as TorchvisionViT
from tqdm import tqdm
from transformers import ViTConfig, ViTForImageClassification

from vitutils.engine.machine import machine, write_json
from vitutils.vit import VisionTransformer

# name: image_size, patch_size, embed_dim, depth, num_heads, classes, batch on a CPU
SIZES = {
    "28px_patch7": (28, 7, 64, 4, 4, 10, 128),
    "32px_patch4": (32, 4, 192, 9, 3, 10, 64),
    "tiny_224": (224, 16, 192, 12, 3, 1000, 16),
    "base_224": (224, 16, 768, 12, 12, 1000, 4),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SMALLER = "vit-pytorch simple"  # no class token: not of the same configuration
PACKAGES = ("torch", "torchvision", "timm", "vit-pytorch", "transformers")


class Logits(torch.nn.Module):
    """transformers' ViT, returning plain logits like the others."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(images).logits


def build_models(image_size, patch_size, width, depth, heads, classes, device):
    """Return {name: model}, all of the same configuration, ours first."""
    torch.manual_seed(0)
    simple = dict(
        image_size=image_size,
        patch_size=patch_size,
        num_classes=classes,
        dim=width,
        depth=depth,
        heads=heads,
        mlp_dim=4 * width,
        dim_head=width // heads,
    )
    config = ViTConfig(
        image_size=image_size,
        patch_size=patch_size,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        num_labels=classes,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    models = {
        "ours": VisionTransformer(
            image_size=image_size,
            patch_size=patch_size,
            num_classes=classes,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            mlp_dim=4 * width,
        ),
        "timm": timm.models.VisionTransformer(
            img_size=image_size,
            patch_size=patch_size,
            num_classes=classes,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
        ),
        "torchvision": TorchvisionViT(
            image_size=image_size,
            patch_size=patch_size,
            num_classes=classes,
            hidden_dim=width,
            num_layers=depth,
            num_heads=heads,
            mlp_dim=4 * width,
        ),
        "vit-pytorch": vit_pytorch.ViT(**simple),
        SMALLER: vit_pytorch.SimpleViT(**simple),
        "transformers": Logits(ViTForImageClassification(config)),
    }
    return {name: model.to(device) for name, model in models.items()}


def make_step(model, mode, dtype, images, labels):
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


def seconds_a_call(call, repeats, device):
    """Return the mean seconds of a call over ``repeats`` calls in a row."""
    synchronize = torch.cuda.synchronize if device == "cuda" else lambda: None
    synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronize()
    return (time.perf_counter() - start) / repeats


def peak_flops(dtype, device):
    """Return the machine's matrix-multiply rate, FLOP/s: the best of a few."""
    side = 8192 if device == "cuda" else 2048
    a = torch.randn(side, side, dtype=dtype, device=device)
    seconds_a_call(lambda: a @ a, 1, device)
    best = min(seconds_a_call(lambda: a @ a, 1, device) for _ in range(5))
    return 2 * side**3 / best


def forward_flops(model, images):
    """Count our model's FLOPs; the counter cannot see into the fused kernels."""
    plain = sdpa_kernel(SDPBackend.MATH)
    with plain, FlopCounterMode(display=False) as counter, torch.no_grad():
        model(images)
    return counter.get_total_flops()


def measure(size, mode, dtype_name, compiled, args):
    """Return one row: medians, ratios to each peer, share of the peak."""
    torch.compiler.reset()  # what earlier rows have compiled
    *shape, batch = SIZES[size]
    batch = args.batch or batch
    dtype = DTYPES[dtype_name]
    models = build_models(*shape, args.device)
    images = torch.randn(batch, 3, shape[0], shape[0], device=args.device)
    labels = torch.randint(shape[5], (batch,), device=args.device)
    flops = forward_flops(models["ours"], images) * (3 if mode == "train" else 1)
    steps, repeats = {}, {}
    for name, model in models.items():
        if compiled:
            model.compile()
        steps[name] = make_step(model, mode, dtype, images, labels)
        seconds_a_call(steps[name], 2, args.device)
        once = seconds_a_call(steps[name], 1, args.device)
        repeats[name] = max(1, round(args.seconds / once))
    rates = {name: [] for name in models}
    peaks = []
    names = list(models)
    for turn in range(args.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds = seconds_a_call(steps[name], repeats[name], args.device)
            rates[name].append(batch / seconds)
        peaks.append(peak_flops(dtype, args.device))
    ratios = {
        name: statistics.median(a / b for a, b in zip(rates["ours"], peer, strict=True))
        for name, peer in rates.items()
        if name != "ours"
    }
    best_peer = min(ratio for name, ratio in ratios.items() if name != SMALLER)
    median = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "size": size,
        "mode": mode,
        "dtype": dtype_name,
        "compiled": compiled,
        "batch": batch,
        "images_per_second": {k: round(v, 1) for k, v in median.items()},
        "ratio_to": {k: round(v, 3) for k, v in ratios.items()},
        "ratio_to_best_peer": round(best_peer, 3),
        "share_of_peak": round(
            median["ours"] / batch * flops / statistics.median(peaks), 3
        ),
    }


def show(row):
    ratios = "  ".join(f"{name} {value:.2f}" for name, value in row["ratio_to"].items())
    return (
        f"{row['size']:12} {row['dtype']} {row['mode']:8}"
        f"{'compiled' if row['compiled'] else '':9}"
        f"{row['images_per_second']['ours']:9.0f} images/s  "
        f"{row['share_of_peak']:4.0%} of peak  "
        f"best peer {row['ratio_to_best_peer']:.2f}  ({ratios})"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument(
        "--modes", nargs="+", choices=("forward", "train"), default=["forward", "train"]
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.add_argument("--batch", type=int, help="images a step (default: by size)")
    parser.add_argument(
        "--compile", action="store_true", help="also with torch.compile, for all"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns a model (5)")
    parser.add_argument(
        "--seconds", type=float, default=0.5, help="of a turn, at least one step (0.5)"
    )
    parser.add_argument("--record", type=Path, help="write the rows as JSON here")
    args = parser.parse_args()
    rows = []
    ways = (False, True) if args.compile else (False,)
    todo = product(args.sizes, args.dtypes, args.modes, ways)
    for size, dtype, mode, compiled in tqdm([*todo], disable=None):
        rows.append(measure(size, mode, dtype, compiled, args))
        tqdm.write(show(rows[-1]))
    if args.record:
        record = {
            "command": shlex.join(["python", *sys.argv]),
            **machine(*PACKAGES, device=args.device),
            "threads": torch.get_num_threads(),
            "rounds": args.rounds,
            "rows": rows,
        }
        write_json(record, args.record)


if __name__ == "__main__":
    main()
