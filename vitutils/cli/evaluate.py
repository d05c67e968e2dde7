"""Measure a trained model on labelled images.

    vitutils evaluate photos --weights runs/photos-vit/best.safetensors --out judged
    vitutils evaluate imagenet/val --weights deit_small_distilled_patch16_224
    vitutils evaluate fashion_mnist --weights best.onnx

Images become what the weights want: their size, crop, interpolation and normalization.
With a published name and ImageNet's folder val/ this is the standard evaluation.

It prints the share of right first answers (top-1) and of images whose class is among
the first five (top-5), the negative log-likelihood, the expected calibration error, by
how much the model's confidence misses its accuracy (15 bins, Guo et al. 2017), and for
each class precision, the share of right ones among the images called so, and recall,
the share of its images that are called so. --out writes all of it to evaluation.json,
and the confusion matrix to confusion.csv and confusion.png.
"""

import argparse
import csv
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import torch
from torch import Tensor
from tqdm import tqdm

from vitutils import plot
from vitutils.cli.commands import ended, load, make_parser
from vitutils.cli.options import add_options, folder_name
from vitutils.cli.parts import device_of
from vitutils.data import files
from vitutils.data import load as load_dataset
from vitutils.data.datasets import NAMED, HeldOut, folder_of, stratified
from vitutils.data.preprocessing import Preprocessing, printable
from vitutils.data.splits import Split, StreamedSplit
from vitutils.engine.checkpoints import is_checkpoint
from vitutils.engine.exported import held_out_of
from vitutils.engine.machine import write_json
from vitutils.engine.strangers import listed, shown
from vitutils.engine.writing import write_atomically
from vitutils.train import Evaluation, fit
from vitutils.train import evaluate as answers_of

BINS = 15
MOST_ROWS = 20  # of the table that is printed


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit status, 0 if all images were judged."""
    parser = make_parser("evaluate", __doc__)
    add_options(parser, fit, ["device"])
    parser.add_argument(
        "data",
        help=f"{', '.join(NAMED)}, or a folder: of CLASS/*, or of parts such as "
        "test/CLASS/* and val/CLASS/*. Folders of classes bear the names of the "
        "model's classes, or are as many and count in alphabetical order",
    )
    group = parser.add_argument_group("images")
    group.add_argument(
        "--split",
        choices=("test", "validation", "train"),
        help="which part of the data; if not given, test, else validation, else all "
        "images there are. Where training held out a tenth, validation is that",
    )
    add_options(group, load_dataset, ["root"])
    group.add_argument(
        "--out", type=folder_name, metavar="DIR", help="folder for the results"
    )
    return ended(run, parser.parse_args(arguments))


def run(options: argparse.Namespace) -> int:
    """Judge the model that the options name, and say how good it is."""
    if options.data not in NAMED:
        folder_of(options.data, options.root)  # before a model may be fetched
    device = device_of(options)
    model, wanted = load(options)
    model.to(device)
    part, split, classes = labelled(options, wanted)
    known = wanted.classes
    if not known:
        black = torch.zeros(1, len(wanted.mean), *wanted.image_size, device=device)
        with torch.inference_mode():
            known = range(model(black).shape[1])
    rows = indices(classes, known, options)
    known = wanted.classes or classes
    fed = Fed(split, torch.tensor(rows), wanted)
    began = time.perf_counter()
    small = max(wanted.image_size) < 100
    found = answers_of(model, fed, batch_size=500 if small else 50)
    seconds = time.perf_counter() - began
    if not found.logits.isfinite().all():
        raise ValueError(
            f"{options.weights} answers with NaN or infinity: it is broken"
        )
    result = {
        "data": options.data,
        "part": part,
        "weights": options.weights,
        "images_per_second": len(found.labels) / seconds,
        **measures(found, known),
    }
    print(summary(result))
    if options.out:
        keep(options.out, result, confusion(found), known)
        print(f"{options.out}: evaluation.json, confusion.csv, confusion.png")
    return 0


class Labelled(NamedTuple):
    """Images with their classes.

    Attributes:
        part: of the data: "train", "validation" or "test".
        split: the images.
        classes: their names, in the order of the split's labels.
    """

    part: str
    split: Split
    classes: Sequence[str]


def labelled(options: argparse.Namespace, wanted: Preprocessing) -> Labelled:
    """Return the images that the options name.

    Raises:
        ValueError: the folder is not there, or has no such part.
    """
    if options.data in NAMED:
        data = load_dataset(options.data, root=options.root)
        part = options.split or "test"
        return Labelled(part, getattr(data, part), data.classes)
    folder = folder_of(options.data, options.root)
    classes, parts, skipped = files.scan_folder(folder)
    for words in files.told(skipped):
        print(words, file=sys.stderr)
    part, known = options.split, held_out_of(options.weights)
    if part is None:
        part = next(name for name in ("test", "validation", "train") if name in parts)
        learned = is_checkpoint(options.weights)
        if part == "train" and known:
            learned = bool(known.rows(parts[part][0]))
        if part == "train" and learned:
            print(
                f"all images of {folder} are judged: of a folder that a model learned "
                "from, --split validation judges those that were held out",
                file=sys.stderr,
            )
    if part == "validation" and part not in parts and "train" in parts:
        paths, labels = parts["train"]
        rows = rows_held_out(paths, labels, known, options)
        parts[part] = [paths[row] for row in rows.tolist()], labels[rows]
    if part not in parts:
        raise ValueError(
            f"{folder} has no part {part}, but {' and '.join(parts)}: give another "
            "--split"
        )
    paths, labels = parts[part]
    split = StreamedSplit(
        labels=labels,
        paths=paths,
        image_size=files.unpair(wanted.image_size),
        in_channels=len(wanted.mean),
        augment=None,
        mean=wanted.mean,
        std=wanted.std,
        fit=wanted.fit,
    )
    return Labelled(part, split, [*map(printable, classes)])


def rows_held_out(
    paths: Sequence[str],
    labels: Tensor,
    known: HeldOut | None,
    options: argparse.Namespace,
) -> Tensor:
    """Return the indices of the images that training held out; say what differs.

    Raises:
        ValueError: none of them is there.
    """
    if known is None:
        print(
            f"{options.weights} does not tell which images its training held out: "
            "judged are those that a training on the folder as it is now would hold "
            "out",
            file=sys.stderr,
        )
        return stratified(labels)[1]
    count = len(known.files)
    if not (rows := known.rows(paths)):
        raise ValueError(
            f"{options.data} has none of the {count:,} images that the training "
            f"of {options.weights} held out: give the folder that it learned from, or "
            "leave out --split to judge all images"
        )
    if (gone := count - len(rows)) or len(paths) != known.images:
        print(
            f"{options.data} is not as it was in training: of {count:,} images "
            f"held out {gone:,} are gone or changed, and of {known.images:,} in all "
            f"there are {len(paths):,} now; new ones are not judged",
            file=sys.stderr,
        )
    return torch.tensor(rows)


class Fed:
    """A split whose images come as a model wants them, and its labels as it counts.

    Args:
        split: of ``vitutils.data``.
        labels: what the model calls each of the split's classes, (num_classes,).
        wanted: what it wants of images.
    """

    def __init__(self, split: Split, labels: Tensor, wanted: Preprocessing) -> None:
        self.split, self.labels, self.wanted = split, labels, wanted
        self.own = Preprocessing(files.pair(split.image_size), split.mean, split.std)
        size, channels = self.own.image_size, split.in_channels
        if (size, channels) == (wanted.image_size, len(wanted.mean)):
            self.split = replace(split, mean=wanted.mean, std=wanted.std)
            self.own = wanted  # nothing to convert

    def batches(
        self, batch_size: int, *, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every image once, and show how many are done."""
        with tqdm(total=len(self.split), unit=" images", delay=2, leave=False) as bar:
            for images, labels in self.split.batches(batch_size, device=device):
                yield self.own.convert(images, self.wanted), self.labels[labels.cpu()]
                bar.update(len(labels))


def indices(
    classes: Sequence[str], known: Sequence[str], options: argparse.Namespace
) -> list[int]:
    """Return the model's index of each class of the data: by its name, or in order.

    Raises:
        ValueError: the names are others, and so is their number.
    """
    if all(known.count(name) == 1 for name in classes):
        return [known.index(name) for name in classes]
    if len(classes) != len(known):
        raise ValueError(
            f"{options.data} has {len(classes)} classes ({listed(classes, 3)}), "
            f"{options.weights} tells apart {len(known)} ({listed(known, 3)}): name "
            "the folders as the model names its classes, or take other weights"
        )
    others = f"are others than the model's ({listed(known, 3)})"
    if isinstance(known, range):
        others = "may be others than the model's, which have no names"
    print(
        f"the classes of {options.data} ({listed(classes, 3)}) {others}: both are "
        "counted in their order",
        file=sys.stderr,
    )
    return [*range(len(known))]


def measures(found: Evaluation, classes: Sequence[str]) -> dict[str, Any]:
    """Return how good answers are, all of it as plain values for JSON.

    Args:
        found: logits and labels.
        classes: the model's classes.

    Returns:
        A dict: images, classes, top1, top5 (None for five classes or fewer),
        negative_log_likelihood, calibration_error, and per_class, a list of dicts.
        Shares are in [0, 1]; None where there is nothing to divide by.
    """
    matrix = confusion(found)
    right, true, called = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    top5 = None
    if len(classes) > 5:
        first = found.logits.topk(5, dim=1).indices
        top5 = (first == found.labels[:, None]).any(1).double().mean().item()
    return {
        "images": len(found.labels),
        "classes": len(classes),
        "top1": found.accuracy,
        "top5": top5,
        "negative_log_likelihood": found.loss,
        "calibration_error": calibration_error(found.logits, found.labels),
        "per_class": [
            {
                "class": name,
                "images": n,
                "right": r,
                "precision": r / c if c else None,
                "recall": r / n if n else None,
            }
            for name, n, r, c in zip(
                classes, true.tolist(), right.tolist(), called.tolist(), strict=True
            )
        ],
    }


def confusion(found: Evaluation) -> Tensor:
    """Count the images by true class (row) and answer (column), (K, K)."""
    count = found.logits.shape[1]
    pairs = found.labels * count + found.logits.argmax(dim=1)
    return pairs.bincount(minlength=count**2).view(count, count)


def calibration_error(logits: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Return by how much confidence misses accuracy: 0 for a well calibrated model.

    Args:
        logits: (N, num_classes).
        labels: true classes, (N,).
        bins: of equal width, into which images go by the probability of their answer.

    Returns:
        The mean over the images of |accuracy - mean confidence| of their bin.

    Source: Guo et al. (2017), section 2, equation 3.
    """
    confidence, answers = logits.double().softmax(dim=1).max(dim=1)
    # Bin m holds what is above (m - 1) / bins, up to m / bins.
    which = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = (answers == labels).double() - confidence
    sums = torch.zeros(bins, dtype=torch.double).index_add(0, which, gap)
    return (sums.abs().sum() / len(labels)).item()


def summary(result: dict[str, Any]) -> str:
    """Return the result as people read it."""
    five = "" if result["top5"] is None else f"   top-5 {result['top5']:.2%}"
    lines = [
        f"{result['images']:,} images ({result['part']} of "
        f"{shown(result['data'], 300)}), {result['images_per_second']:,.0f} a second",
        f"top-1 {result['top1']:.2%}{five}",
        f"negative log-likelihood {result['negative_log_likelihood']:.4f}   "
        f"expected calibration error {result['calibration_error']:.2%}",
        "",
    ]
    rows = [row for row in result["per_class"] if row["images"]]
    if len(rows) > MOST_ROWS:
        rows = sorted(rows, key=lambda row: row["recall"])[:MOST_ROWS]
        lines[-1] = (
            f"\nThe {MOST_ROWS} classes of {result['classes']} with least recall:"
        )
    names = [shown(row["class"], 40) for row in rows]
    width = max(map(len, names))
    lines.append(f"{'':{width}}  images   right  precision  recall")
    for name, row in zip(names, rows, strict=True):
        precision = "-" if row["precision"] is None else f"{row['precision']:.1%}"
        lines.append(
            f"{name:{width}} {row['images']:7,} {row['right']:7,} {precision:>10}"
            f" {row['recall']:7.1%}"
        )
    return "\n".join(lines)


def keep(
    folder: Path, result: dict[str, Any], matrix: Tensor, classes: Sequence[str]
) -> None:
    """Write the result, and the confusion matrix as a table and a picture."""
    write_json(result, folder / "evaluation.json")

    def table(part: Path) -> None:
        with open(part, "w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["true class, by answer", *classes])
            for name, counts in zip(classes, matrix.tolist(), strict=True):
                rows.writerow([name, *counts])

    write_atomically(folder / "confusion.csv", table)
    with plt.rc_context():
        plot.use_style()
        fig = plot.confusion(matrix, classes)
        write_atomically(folder / "confusion.png", lambda part: fig.savefig(part))
        plt.close(fig)
