"""Say what photos show: the best classes of a model, with their probabilities.

    vitutils predict cat.jpg --weights deit_small_distilled_patch16_224
    vitutils predict holiday/ --weights runs/photos-vit/best.safetensors --top 3
    vitutils predict 'scans/**/*.png' --weights best.safetensors --json > answers.jsonl
    vitutils predict cat.jpg --weights best.safetensors --attention maps

An image is a file (JPEG, PNG, WebP, TIFF, GIF, BMP ...), a folder, which stands for all
images in it, or a pattern. What is missing or cannot be read is named, the others go
on, and the exit status is 1. Probabilities are what the model says, which is often too
sure, and of its own classes alone: it knows no others.
"""

import argparse
import glob
import json
import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from vitutils import maps, plot
from vitutils.cli.commands import ended, in_a_line, load, make_parser
from vitutils.cli.options import add_options, folder_name, positive
from vitutils.cli.parts import device_of
from vitutils.data import files
from vitutils.data.preprocessing import Preprocessing
from vitutils.engine.strangers import shown
from vitutils.engine.writing import write_atomically
from vitutils.train import fit

BATCH = 32
SAVED = {"dpi": 300, "bbox_inches": "tight"}
MAPS = {
    "last": maps.attention_maps,
    "rollout": maps.attention_rollout,
    "relevance": maps.attention_relevance,
}


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit status, 0 if every image was read."""
    parser = make_parser("predict", __doc__)
    add_options(parser, fit, ["device"])
    parser.add_argument("images", nargs="+", help="files, folders, or patterns")
    group = parser.add_argument_group("answers")
    group.add_argument(
        "--top", type=positive, default=5, help="how many classes to name of an image"
    )
    group.add_argument(
        "--json", action="store_true", help="print a line of JSON for each image"
    )
    group.add_argument(
        "--attention",
        type=folder_name,
        metavar="DIR",
        help="folder for a PNG of each image with a map of its patches beside it",
    )
    group.add_argument(
        "--map",
        choices=MAPS,
        help="what it shows: last, to what the class token attends in the last layer, "
        "a mean of the heads; rollout, in all layers together; relevance, what speaks "
        "for the class named first; if not given, rollout",
    )
    return ended(run, parser.parse_args(arguments))


def run(options: argparse.Namespace) -> int:
    """Answer for each image; return 1 if one could not be read."""
    if options.map and not options.attention:
        raise ValueError(
            f"--map {options.map} says what is drawn: give --attention DIR too"
        )
    kind = options.map or "rollout"
    paths, missing = expanded(options.images)
    for words in missing:
        print(words, file=sys.stderr, flush=True)
    if not paths:
        return 1
    device = device_of(options)
    weights = load(options)
    model, wanted = weights.model.to(device), weights.preprocessing
    if options.attention and not hasattr(model, "embeddings"):
        raise ValueError(
            f"{options.weights} is no ViT of this book, whose attention could be "
            "drawn: leave out --attention"
        )
    taken = {Path(path).resolve() for path in paths}  # no map over a photo
    read = colored = 0
    for start in range(0, len(paths), BATCH):
        found = readable(paths[start : start + BATCH], wanted)
        if not found:
            continue
        read += len(found)
        colored += len(wanted.mean) == 1 and sum(
            not files.header(path)[0] for path in found
        )
        images = torch.stack([*found.values()]).to(device)
        with torch.inference_mode():
            chances = model(images).float().softmax(dim=1).cpu()
        best = chances.topk(min(options.top, chances.shape[1]), dim=1)
        looks = MAPS[kind](model, images).cpu() if options.attention else None
        for row, path in enumerate(found):
            answer = {
                "image": path,
                "classes": [
                    {"class": class_name(wanted, index), "probability": chance}
                    for chance, index in zip(
                        best.values[row].tolist(),
                        best.indices[row].tolist(),
                        strict=True,
                    )
                ],
            }
            if looks is not None:
                target = free_name(options.attention, Path(path), kind, taken)
                draw(target, images[row].cpu(), looks[row], answer, wanted)
                answer["map"] = str(target)
            print(json.dumps(answer) if options.json else text(answer), flush=True)
    if colored:
        print(
            f"{colored:,} of {read:,} images are in color: the model, which learned "
            "from gray ones, saw them in gray",
            file=sys.stderr,
        )
    return int(read < len(paths) or bool(missing))


def expanded(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return what words of the command line mean.

    Returns:
        The files, each once, in order; and a line for each word that means none.
    """
    found, missing = [], []
    for word in words:
        path = Path(word).expanduser()
        kind = "is no file"
        try:
            if path.is_dir():
                kind, skipped = "are no images in the folder", defaultdict(list)
                meant = [*files.images_within(str(path), skipped)]
                meant += skipped[files.HEIC]  # to be named as what cannot be read
            elif os.path.lexists(path):
                meant = [str(path)]
            else:
                meant = sorted(glob.glob(str(path), recursive=True))
                meant = [name for name in meant if not Path(name).is_dir()]
        except (OSError, ValueError) as error:  # without rights, links in a circle
            missing.append(shown(in_a_line(error), 1000))
            continue
        if not meant:
            missing.append(f"there {kind} {shown(word, 300)}")
        found += meant
    return [*dict.fromkeys(found)], missing


def readable(paths: Sequence[str], wanted: Preprocessing) -> dict[str, Tensor]:
    """Return by path those images that can be read; say of the others why not."""

    def read(path: str) -> Tensor | RuntimeError:
        try:
            return wanted.read(path)
        except RuntimeError as error:
            return error

    found = {}
    with ThreadPoolExecutor(files.CORES) as pool:
        for path, image in zip(paths, pool.map(read, paths), strict=True):
            if torch.is_tensor(image):
                found[path] = image
            else:
                print(shown(image, 1000), file=sys.stderr, flush=True)
    return found


def class_name(wanted: Preprocessing, index: int) -> str | int:
    """Return what a class is called: its number where nothing says more."""
    return wanted.classes[index] if wanted.classes else index


def text(answer: dict[str, Any]) -> str:
    """Return an answer as people read it."""
    lines = [shown(answer["image"], 1000)]
    for one in answer["classes"]:
        lines.append(f"  {one['probability']:7.2%}  {shown(one['class'])}")
    if "map" in answer:
        lines.append(f"  map: {shown(answer['map'], 1000)}")
    return "\n".join(lines)


def free_name(folder: Path, image: Path, kind: str, taken: set[Path]) -> Path:
    """Return where the map of an image goes, a place that is then taken."""
    for number in count(1):
        more = f"-{number}" if number > 1 else ""
        path = folder / f"{image.stem}-{kind}{more}.png"
        if path.resolve() not in taken:
            taken.add(path.resolve())
            return path


def draw(
    path: Path,
    image: Tensor,
    weights: Tensor,
    answer: dict[str, Any],
    wanted: Preprocessing,
) -> None:
    """Draw an image as the model sees it, and beside it a map of its patches."""
    best = answer["classes"][0]
    titles = [Path(answer["image"]).name, f"{best['class']}, {best['probability']:.0%}"]
    with plt.rc_context():
        plot.use_style()
        fig = plot.attention_on_images(
            image[None],
            weights[None],
            titles=[name.replace("$", r"\$") for name in titles],
            columns=2,
            beside=True,
            mean=wanted.mean,
            std=wanted.std,
        )
        write_atomically(path, lambda part: fig.savefig(part, **SAVED))
        plt.close(fig)
