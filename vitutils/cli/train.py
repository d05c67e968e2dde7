"""Train a model of the book on any data of vitutils.data.

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

import argparse
import math
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitutils import processes
from vitutils.cli.commands import ERRORS, take_file, told, warnings_as_lines
from vitutils.cli.options import (
    Parser,
    add_options,
    dashed,
    folder_name,
    picked,
    positive,
    probability,
    sides,
)
from vitutils.cli.parts import (
    AUGMENT,
    CROPS,
    DROP,
    FROM_DATA,
    MODELS,
    NORMALIZATION,
    SOFT,
    VIT,
    build,
    content,
    device_of,
    load_data,
    load_teacher,
    make_model,
    teacher_loss,
)
from vitutils.cli.presets import DEFAULTS, PRESETS
from vitutils.data import Dataset, load
from vitutils.data.augmentation import check_mixing, mixing
from vitutils.data.datasets import NAMED
from vitutils.data.splits import check_strength, strengthen
from vitutils.deit import DistilledVisionTransformer
from vitutils.distill import ConvNet, check_soft, soft_distillation
from vitutils.engine.checkpoints import load_model, load_state
from vitutils.engine.fine_tuning import (
    balanced_cross_entropy,
    check_layer_decay,
    freeze,
    layer_groups,
)
from vitutils.engine.folder_run import FolderRun
from vitutils.engine.hubs import is_hub, preprocessing_of
from vitutils.engine.large_step import LargeStep, evaluate_together
from vitutils.engine.libraries import LIBRARIES
from vitutils.engine.machine import machine, write_json
from vitutils.engine.precision import MixedPrecision
from vitutils.engine.published import PUBLISHED, find
from vitutils.engine.weights import load_weights
from vitutils.train import check_settings, fit, parameter_groups
from vitutils.vit import VisionTransformer

MIX = ("mixup", "cutmix")
FIT = ("epochs", "batch_size", "lr", "weight_decay", "betas", "warmup", "clip_norm")
FIT += ("label_smoothing", "device")
LARGE_STEP = ("average", "accumulate", "precision")
# What a resumed run shares beside the arguments of `fit`.
SETUP = ("data", "image_size", "crop", "randaugment", "erase", "repeats", *MIX)
SETUP += ("init", "teacher", "teacher_weights", "distillation", *SOFT, *NORMALIZATION)
SETUP += ("freeze", "layer_decay", "class_weights")
RECIPE = (*FIT[:-1], "seed", "average", "precision")
FILES = ("init", "teacher", "teacher_weights")  # compared by what they hold
NEEDS = {
    "init": (*NORMALIZATION, "freeze"),
    "teacher": ("distillation", "teacher_weights", "teacher_mean", "teacher_std"),
}
TOLD = {"model", "widths", *VIT} - {"num_heads", *DROP}  # by --init


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's options."""
    parser = Parser("train", __doc__)
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
        is_folder = Path(options.root or "", preset).is_dir()
        if options.data or not (preset in NAMED or is_folder):
            known = ", ".join(dict.fromkeys([*NAMED, *PRESETS]))
            parser.error(f"{preset} is neither a folder nor one of {known}")
        options.preset, options.data = None, preset
    if options.data is None:
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
        for name in given.intersection(TOLD):
            parser.error(
                f"the checkpoint of --init tells the model's kind and sizes: "
                f"leave out {dashed(name)}"
            )
        for name in {*TOLD, "num_heads"} - given:
            setattr(options, name, None)
    if options.folder is None:
        kind = options.model or Path(options.init).stem
        options.folder = Path(f"runs/{Path(options.data).name}-{kind}")
    return options


def with_those_of_the_run(arguments: Sequence[str]) -> list[str]:
    """Put before words that resume a run, and name no data, those that began it."""
    options = make_parser().parse_known_args(arguments)[0]
    if options.resume and options.folder and not (options.data or options.preset):
        last = options.folder / "last.pt"
        if last.exists():
            return [*load_state(last).get("arguments", ()), *arguments]
    return [*arguments]


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit status, 0 if the run came to its end."""
    sys.stderr = sys.stderr or StringIO()  # closed, as by 2>&-
    try:
        arguments = with_those_of_the_run(arguments)
    except ERRORS as error:  # last.pt is no state of a run
        return told(error, status=1, debug="--debug" in arguments)
    options = options_of(arguments)
    try:
        with processes.joined(), told_before_the_end(), warnings_as_lines():
            try:
                run(options, arguments)
            except KeyboardInterrupt as stopped:
                return told(stopped, status=130)
            except ERRORS as error:
                return told(error, status=1, debug=options.debug)
    except ERRORS as error:  # the processes did not come together
        return told(error, status=1, debug=options.debug)
    return 0


def command_line(arguments: Sequence[str]) -> str:
    """Return how this run is started, to be recorded with it."""
    program = ["python"]
    if processes.count() > 1:
        here = os.environ.get("LOCAL_WORLD_SIZE", str(processes.count()))
        program = ["torchrun", f"--nproc-per-node={here}"]
    return shlex.join([*program, "-m", "vitutils", "train", *arguments])


@contextmanager
def told_before_the_end() -> Iterator[None]:
    """Let each of several processes say why it ends, though torchrun ends them all.

    It sends SIGTERM to all as soon as one has failed: one that is about to say what
    went wrong must not be cut short.
    """
    if processes.count() == 1:
        yield
        return

    def end(signum, frame):
        if sys.exc_info()[0] is None:  # else an error is on its way to be told
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def check(options: argparse.Namespace) -> None:
    """Raise an error for options that cannot be, whatever data and model are."""
    check_settings(picked(options, (*FIT, "seed")))
    check_strength(**picked(options, AUGMENT))
    check_mixing(**picked(options, MIX))
    check_soft(**picked(options, SOFT))
    if options.layer_decay is not None:
        check_layer_decay(options.layer_decay)
    for name in filter(None, (options.init, options.teacher)):
        if name.partition("/")[0] not in LIBRARIES:
            processes.ask_first(preprocessing_of if is_hub(name) else find, name)


def check_model(options: argparse.Namespace, model: nn.Module) -> None:
    """Raise a ValueError for options that are none of a model's."""
    if isinstance(model, DistilledVisionTransformer) and options.teacher is None:
        raise ValueError(
            "a deit learns from a teacher: give --teacher, or train a vit instead"
        )
    if options.layer_decay is not None:
        check_layer_decay(options.layer_decay, model)


def planned(options: argparse.Namespace) -> dict[str, Any]:
    """Return what the options tell of the model before the data are known.

    The model itself is built without memory: its class knows what sizes go together.

    Raises:
        ValueError: there is no such model, or it takes other options.
    """
    size = options.image_size or options.patch_size
    with torch.device("meta"):
        model = build(options, dict(zip(FROM_DATA, (size, 3, 2), strict=True)))
    check_model(options, model)
    config = {k: v for k, v in model.config.items() if k not in FROM_DATA}
    return {"model": type(model).__name__, "config": config}


def run(options: argparse.Namespace, arguments: Sequence[str]) -> dict[str, Any]:
    """Train, and return the result: the folder is the run's from first to last.

    Args:
        options: what ``options_of`` returns.
        arguments: the words of the command line, for the run's record.
    """
    take_file(options, "init", "teacher")
    setup = picked(options, SETUP) | {"data": Path(options.data).name}
    setup |= {name: content(setup[name]) for name in FILES}
    device = device_of(options)
    check(options)
    expected = {"recipe": picked(options, RECIPE) | {"betas": [*options.betas]}}
    if not options.init:  # which tells the model otherwise
        expected["model"] = planned(options)
    folder_run = FolderRun(
        **picked(options, ("folder", "resume", "patience")),
        setup=setup,
        expected=expected,
        arguments=arguments,
    )
    with folder_run.owned():
        data = load_data(options)
        if data.test is not None:
            folder_run.setup["test images"] = data.test.digest()
        if processes.rank() == 0:
            print(data.summary(), flush=True)
        teacher = load_teacher(options, data)
        folder_run.setup["teacher's weights"] = teacher and teacher.digest()
        loss_fn = teacher_loss(options, data, teacher)
        torch.manual_seed(options.seed)
        model = make_model(options, data).to(device)
        check_model(options, model)
        if options.freeze:
            freeze(model)
        if options.class_weights:
            loss_fn = balanced_cross_entropy(
                data.train.labels, data.num_classes, options.label_smoothing
            )
        groups = parameter_groups
        if options.layer_decay is not None:
            groups = partial(layer_groups, **picked(options, ("lr", "layer_decay")))
        if options.compile:
            model.compile()
        mix = mixing(data.num_classes, **picked(options, MIX))
        history = fit(
            model,
            data,
            **picked(options, FIT) | {"device": device},
            seed=options.seed,
            loss_fn=loss_fn,
            groups=groups,
            step=partial(LargeStep, **picked(options, LARGE_STEP), mix=mix),
            run=folder_run,
        )
        return measured(options, command_line(arguments), data, device, history)


def measured(
    options: argparse.Namespace,
    command: str,
    data: Dataset,
    device: torch.device,
    history: list[dict],
) -> dict[str, Any]:
    """Measure a run's best weights on the test images; keep and return the result.

    Where there are no test images, the result is what validation found.
    """
    folder = Path(options.folder)
    best = processes.ask_first(load_model, folder / "best.safetensors").to(device)
    answering = {} if data.test is None else {"test_accuracy": best}
    if answering and isinstance(best, DistilledVisionTransformer):
        answering |= {
            "test_accuracy_class_head": OneHead(best, 0),
            "test_accuracy_distillation_head": OneHead(best, 1),
        }
    amp = MixedPrecision(options.precision, device)
    found = {
        name: evaluate_together(module, data.test, amp).accuracy
        for name, module in answering.items()
    }
    result = {
        "command": command,
        "options": {  # JSON knows no infinity
            k: str(v) if v == math.inf or isinstance(v, Path) else v
            for k, v in vars(options).items()
        },
        "processes": processes.count(),
        "parameters": sum(p.numel() for p in best.parameters()),
        **machine("torch", "torchvision", device=device.type),
        "seconds": history[-1]["seconds"],
        **found,
        "history": history,
    }
    if processes.rank() == 0:
        write_json(result, folder / "result.json")
        last = history[-1]
        accuracy = found.get("test_accuracy", max(r["val_accuracy"] for r in history))
        print(
            f"{accuracy:.2%} of the {'test' if found else 'validation'} images\n"
            f"{last['seconds']:.0f} s, {last['images_per_second']:,.0f} images a "
            f"second, {last['waiting']:.1%} of the time waiting for images\n"
            f"All that was measured: {folder}/result.json"
        )
        if fault := not_learned(history, data.validation.labels):
            print(
                f"{fault}: try a lower --lr than {options.lr:g}, such as "
                f"{options.lr / 10:g}, and more --epochs or images",
                file=sys.stderr,
            )
        weights = shlex.quote(f"{folder}/best.safetensors")
        print(
            f"The best model is {weights}. Try it on a photo:\n"
            f"  vitutils predict PHOTO --weights {weights}"
        )
    return result


def not_learned(history: list[dict], labels: Tensor) -> str | None:
    """Return in words why a run seems to have learned nothing, None if it did.

    Args:
        history: of the run.
        labels: of the validation images, (N,).
    """
    first, last = history[0]["train_loss"], history[-1]["train_loss"]
    if len(history) > 1 and last >= first:
        return f"the training loss ended at {last:.3g} and began at {first:.3g}"
    best = max(row["val_accuracy"] for row in history)
    share = (labels.bincount().max() / len(labels)).item()
    if best <= share + 1e-6:
        return (
            f"the best validation accuracy, {best:.1%}, is no more than always naming "
            "the largest class would have"
        )
    return None


class OneHead(nn.Module):
    """A distilled model that answers with its class head, 0, or the other one, 1."""

    def __init__(self, model: DistilledVisionTransformer, index: int) -> None:
        super().__init__()
        self.model, self.index = model, index

    def forward(self, images: Tensor) -> Tensor:
        return self.model.both_heads(images)[self.index]
