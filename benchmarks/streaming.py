"""Time StreamedSplit beside torchvision's ImageFolder and DataLoader, on the same data.

Both decode, crop, resize, mirror and normalize the same JPEG photos for training, with
the same number of worker processes and in batches of the same size. They take turns
within a round, so that a machine that speeds up or slows down does so for both; the
ratio is the median over rounds of our images a second over torchvision's.

    python benchmarks/streaming.py --rounds 5
    python benchmarks/streaming.py --folder imagenet
"""

import argparse
import io
import random
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from vitutils.data import DATA, datasets, files, load
from vitutils.engine.machine import machine, write_json


def write_photos(folder: Path, number: int) -> None:
    """Write parts of the book's photos as JPEG files, about as large as ImageNet's."""
    rng = random.Random(0)
    sources = [*(DATA / "photos").glob("*.[jp][pn]g")]
    photos = [Image.open(path).convert("RGB").resize((1000, 750)) for path in sources]
    for index in range(number):
        left, top = rng.randrange(500), rng.randrange(375)
        part = rng.choice(photos).crop((left, top, left + 500, top + 375))
        name = "test" if index % 10 == 0 else "train"
        path = folder / name / f"class{index // 10 % 10}" / f"{index:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        file = io.BytesIO()
        part.save(file, "JPEG", quality=90)
        path.write_bytes(file.getvalue())


def rate(batches: Iterable) -> float:
    """Return the images a second of a pass."""
    began, count = time.perf_counter(), 0
    for images, labels in batches:
        assert images.dtype == torch.float32 and len(images) == len(labels)
        count += len(images)
    return count / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--folder", type=Path, help="photos; some are made if not given"
    )
    parser.add_argument("--images", type=int, default=1000, help="number of them")
    parser.add_argument("--size", type=int, default=224, help="side in pixels")
    parser.add_argument("--batch", type=int, default=64, help="images a batch")
    parser.add_argument("--rounds", type=int, default=5, help="passes of each")
    parser.add_argument("--record", type=Path, help="write the rates as JSON here")
    options = parser.parse_args()
    datasets.MEMORY_LIMIT = 0
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        if options.folder is None:
            write_photos(folder, options.images)
        began = time.perf_counter()
        train = load(folder, image_size=options.size).train
        print(f"load: {time.perf_counter() - began:.1f} s for {len(train):,} images")
        theirs = ImageFolder(
            folder / "train",
            v2.Compose(
                [
                    v2.RandomResizedCrop(options.size),
                    v2.RandomHorizontalFlip(),
                    v2.PILToTensor(),
                    v2.ToDtype(torch.float32, scale=True),
                    v2.Normalize(train.mean, train.std),
                ]
            ),
        )
        workers = min(files.CORES, 8)
        loader = DataLoader(theirs, options.batch, shuffle=True, num_workers=workers)
        ours, others = [], []
        for number in range(options.rounds):
            ours.append(rate(train.batches(options.batch, seed=number)))
            others.append(rate(loader))
        ratio = statistics.median(a / b for a, b in zip(ours, others, strict=True))
        rates = [f"{statistics.median(rates):.0f}" for rates in (ours, others)]
        print(
            f"{workers} workers, images a second: vitutils {rates[0]}, torchvision "
            f"{rates[1]}, ratio {ratio:.2f}"
        )
        if options.record:
            record = {
                "command": shlex.join(["python", *sys.argv]),
                **machine("torch", "torchvision"),
                "images": len(train),
                "size": options.size,
                "workers": workers,
                "images_per_second": {
                    "vitutils": [round(each, 1) for each in ours],
                    "torchvision": [round(each, 1) for each in others],
                },
                "ratio": round(ratio, 3),
            }
            write_json(record, options.record)


if __name__ == "__main__":
    main()
