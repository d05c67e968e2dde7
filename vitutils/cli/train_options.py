"""The options of `vitutils train`: what it takes, and what makes sense together.

The text below is what --help begins with.
"""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from vitutils.cli.options import (
    Parser,
    add_options,
    dashed,
    folder_name,
    positive,
    probability,
    sides,
)
from vitutils.cli.parts import (
    AUGMENT,
    CROPS,
    DROP,
    MODELS,
    NORMALIZATION,
    OF_TEACHER,
    SOFT,
    VIT,
)
from vitutils.cli.presets import DEFAULTS, PRESETS
from vitutils.data import load
from vitutils.data.augmentation import mixing
from vitutils.data.datasets import NAMED
from vitutils.data.splits import strengthen
from vitutils.distill import ConvNet, soft_distillation
from vitutils.engine.checkpoints import load_state
from vitutils.engine.folder_run import FolderRun
from vitutils.engine.large_step import LargeStep
from vitutils.engine.published import PUBLISHED
from vitutils.engine.weights import load_weights
from vitutils.train import fit
from vitutils.vit import VisionTransformer

ABOUT = """Train a model of the book on any data of vitutils.data.

    vitutils train fashion_mnist
    vitutils train cifar10 --model convnet --folder runs/cnn
    vitutils train cifar10 --model deit --teacher runs/cnn/best.safetensors
    vitutils train imagenet_deit_small --data imagenet --model deit \\
        --teacher torchvision/regnet_y_16gf
    torchrun --nproc-per-node=8 -m vitutils train imagenet_deit_small --data imagenet

`python -m vitutils train` is the same command. A preset sets options, and each can be
overridden. The folder of a run, runs/DATA-MODEL if --folder names none, gets the best
weights by validation accuracy (best.safetensors), what --resume needs (last.pt),
TensorBoard's curves, and in the end result.json.
"""
# Options by the piece that takes them, as in parts.py.
MIX = ("mixup", "cutmix")
FIT = ("epochs", "batch_size", "lr", "weight_decay", "betas", "warmup", "clip_norm")
FIT += ("label_smoothing", "device")
LARGE_STEP = ("average", "accumulate", "precision")
NEEDS = {
    "init": (*NORMALIZATION, "trained_at", "freeze"),
    "teacher": ("distillation", "teacher_weights", *OF_TEACHER),
}
TOLD = {"model", "widths", *VIT} - {"num_heads", *DROP}  # by --init


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's options."""
    parser = Parser("train", ABOUT)
    parser.add_argument(
        "preset",
        nargs="?",
        metavar="PRESET or FOLDER",
        help=f"{', '.join(PRESETS)}: options by name; or what --data takes",
    )

    group = parser.add_argument_group("data")
    group.add_argument(
        "--data",
        help="fashion_mnist, cifar10, cifar100, or a folder of train/CLASS/* with "
        "val/CLASS/*, test/CLASS/* or both, or of CLASS/* alone; WebDataset's shards "
        "*.tar may stand for the folders of classes",
    )
    add_options(group, load, ["root"])
    group.add_argument(
        "--image-size",
        type=sides,
        help="side in pixels, or HEIGHTxWIDTH, to which a folder's images are resized "
        "and center-cropped; if not given, all must have one size",
    )
    group.add_argument(
        "--images", type=positive, help="train on so many images; all if not given"
    )
    group.add_argument(
        "--crop",
        choices=CROPS,
        help="augmentation of images in memory: mirror them, also shift them, or "
        "resize a part too; shift if not given. Streamed: resized",
    )
    add_options(group, strengthen, AUGMENT)
    add_options(group, mixing, MIX)

    group = parser.add_argument_group("model")
    group.add_argument("--model", choices=MODELS, default="vit", help="kind of model")
    group.add_argument(
        "--init",
        help="start from a trained model, which also tells kind and sizes: a file, "
        f"torchvision/NAME or timm/NAME of a ViT, or one of {', '.join(PUBLISHED)}",
    )
    add_options(group, load_weights, NORMALIZATION)
    trained_at = "side in pixels, or HEIGHTxWIDTH, of the images that {} was trained "
    trained_at += "on, where nothing tells it; that of the data if not given"
    group.add_argument("--trained-at", type=sides, help=trained_at.format("--init"))
    readers = {int: positive, float: probability}
    add_options(group, VisionTransformer, VIT, readers)
    add_options(group, ConvNet, ["widths"], readers)

    group = parser.add_argument_group("teacher")
    group.add_argument(
        "--teacher",
        help="trained model that the student learns from: as for --init, or any "
        "classifier, torchvision/NAME or timm/NAME",
    )
    group.add_argument(
        "--teacher-weights",
        help="file with weights of such a classifier; the library's if not given",
    )
    for name in NORMALIZATION:
        group.add_argument(
            f"--teacher-{name}",
            type=float,
            nargs="+",
            help=f"{name} of the teacher's images, where its file does not tell it",
        )
    group.add_argument(
        "--teacher-num-heads",
        type=positive,
        help="its attention heads, where its file does not tell them",
    )
    group.add_argument(
        "--teacher-trained-at", type=sides, help=trained_at.format("the teacher")
    )
    group.add_argument(
        "--distillation", choices=("hard", "soft"), help="its loss; hard if not given"
    )
    add_options(group, soft_distillation, SOFT)

    group = parser.add_argument_group("training")
    add_options(group, fit, FIT)
    add_options(group, LargeStep, LARGE_STEP, readers)
    group.add_argument(
        "--freeze",
        action="store_true",
        default=None,
        help="train the head alone, and leave the rest of --init as it is",
    )
    group.add_argument(
        "--layer-decay",
        type=float,
        help="learning rate of a block as a share of the next one's, as 0.75: lower "
        "ones learn more slowly; one rate for all if not given",
    )
    group.add_argument(
        "--class-weights",
        choices=["balanced"],
        help="let the images of rare classes count more, so that all classes count "
        "the same; each image counts the same if not given",
    )
    add_options(group, FolderRun, ["patience"], {int: positive})
    group.add_argument(
        "--seed", type=int, default=0, help="of weights, order and augmentation"
    )
    group.add_argument(
        "--compile", action="store_true", help="torch.compile the model first"
    )

    group = parser.add_argument_group("files")
    add_options(group, FolderRun, ["folder", "resume"], {str: folder_name})
    group.add_argument(
        "--debug", action="store_true", help="show where an error came from"
    )
    parser.set_defaults(**DEFAULTS)
    return parser


def options_of(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line, or exit with what is wrong with it."""
    parser = make_parser()
    preset = parser.parse_known_args(arguments)[0].preset
    parser.set_defaults(**PRESETS.get(preset, {}))
    options = parser.parse_args(arguments)
    if preset not in (None, *PRESETS):
        is_folder = os.path.isdir(Path(options.root or "", preset))
        is_data = preset in NAMED or is_folder
        if options.data and is_data:
            parser.error(f"{preset} and --data {options.data} are two data: give one")
        if not is_data:
            known = ", ".join(dict.fromkeys([*NAMED, *PRESETS]))
            parser.error(f"{preset} is neither a folder nor one of {known}")
        options.preset, options.data = None, preset
    if options.data is None:
        if options.resume:
            place = options.folder or "--folder, which is not given,"
            parser.error(f"{place} holds no run to resume: give the folder of one")
        parser.error("which data? give a folder, a dataset's name or a preset")
    blank = argparse.Namespace(**dict.fromkeys(vars(options)))  # hides the defaults
    given = vars(parser.parse_args(arguments, blank))
    given = {name for name, value in given.items() if value is not None}
    if given.intersection(SOFT) and options.distillation != "soft":
        parser.error("--temperature and --balance are of --distillation soft")
    if options.class_weights and options.teacher:
        parser.error("--class-weights is for labels alone: leave out --teacher")
    if options.freeze and options.layer_decay is not None:
        parser.error("--layer-decay is for what --freeze leaves as it is: leave it out")
    for name in sorted(given) if options.init is None else ():
        if name in VIT and options.model == "convnet":
            parser.error(f"a convnet has no {dashed(name)}: leave it out")
        if name == "widths" and options.model != "convnet":
            parser.error("--widths are of --model convnet: leave them out")
    for needed, names in NEEDS.items():
        for name in names:
            if getattr(options, name) and not getattr(options, needed):
                parser.error(f"{dashed(name)} needs --{needed}")
    if options.init:
        for name in sorted(given & TOLD):
            parser.error(
                f"the checkpoint of --init tells the model's kind and sizes: "
                f"leave out {dashed(name)}"
            )
        for name in {*TOLD, "num_heads"} - given:
            setattr(options, name, None)
    if options.folder is None:
        kind = options.model or Path(options.init).stem
        options.folder = Path(f"runs/{Path(options.data).absolute().name}-{kind}")
    return options


def with_those_of_the_run(arguments: Sequence[str]) -> list[str]:
    """Put before words that resume a run, and name no data, those that began it."""
    options = make_parser().parse_known_args(arguments)[0]
    if options.resume and options.folder and not (options.data or options.preset):
        last = options.folder / "last.pt"
        if last.exists():
            words = load_state(last).get("arguments", [])
            if not isinstance(words, list) or {*map(type, words)} - {str}:
                raise ValueError(
                    f"{last} is no state of a run (see its arguments): take another "
                    "folder"
                )
            return [*words, *arguments]
    return [*arguments]
