"""Train a model of the book: `vitutils train`, whose options are in train_options.py.

``options_of`` reads a command line, and ``run`` does what the options say. The folder
of the run gets the best model, what --resume needs, the curves and result.json.
"""

import argparse
import math
import os
import shlex
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitutils import processes
from vitutils.cli.commands import ERRORS, take_file, told, warnings_as_lines
from vitutils.cli.options import picked
from vitutils.cli.parts import (
    AUGMENT,
    FROM_DATA,
    NORMALIZATION,
    OF_TEACHER,
    SOFT,
    build,
    content,
    device_of,
    load_data,
    load_teacher,
    make_model,
    teacher_loss,
)
from vitutils.cli.train_options import (
    FIT,
    LARGE_STEP,
    MIX,
    options_of,
    with_those_of_the_run,
)
from vitutils.data import Dataset
from vitutils.data.augmentation import check_mixing, mixing
from vitutils.data.datasets import NAMED, folder_of
from vitutils.data.files import find_parts
from vitutils.data.splits import check_strength
from vitutils.deit import DistilledVisionTransformer
from vitutils.distill import check_soft
from vitutils.engine.checkpoints import load_model
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
from vitutils.engine.published import find
from vitutils.train import check_settings, fit, parameter_groups

# What a resumed run shares beside the arguments of `fit`.
SETUP = ("data", "image_size", "crop", "randaugment", "erase", "repeats", *MIX)
SETUP += ("init", "teacher", "teacher_weights", "distillation", *SOFT, *NORMALIZATION)
SETUP += ("trained_at", *OF_TEACHER[2:], "freeze", "layer_decay", "class_weights")
RECIPE = (*FIT[:-1], "seed", "average", "precision")
FILES = ("init", "teacher", "teacher_weights")  # compared by what they hold


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit status, 0 if the run came to its end."""
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
    if options.data not in NAMED:
        place = folder_of(options.data, options.root)
        flat = find_parts(place, defaultdict(list)) == {"train": str(place)}
        if flat and place.resolve() in options.folder.resolve().parents:
            raise ValueError(
                f"--folder {options.folder} lies among the classes of {options.data}: "
                "give one elsewhere"
            )
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
