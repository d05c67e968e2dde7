"""Train a model of the book on any data of vitutils.data.

    python -m vitutils.train fashion_mnist
    python -m vitutils.train cifar10 --model convnet --folder runs/cnn
    python -m vitutils.train cifar10 --model deit --teacher runs/cnn/best.safetensors
    torchrun --nproc-per-node=8 -m vitutils.train imagenet_deit_small --data imagenet

A preset sets options, and each can be overridden. The folder of a run gets the best
weights by validation accuracy (best.safetensors), what --resume needs (last.pt),
TensorBoard's curves, and in the end result.json.
"""

import argparse
import math
import re
import shlex
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from vitutils import processes
from vitutils.data import CIFAR, augmentation, load
from vitutils.data.augmentation import mixing
from vitutils.data.splits import MemorySplit, strengthen
from vitutils.deit import DistilledVisionTransformer
from vitutils.distill import ConvNet, Teacher, hard_distillation, soft_distillation
from vitutils.engine.checkpoints import load_model
from vitutils.engine.machine import machine, write_json
from vitutils.engine.published import PUBLISHED, find
from vitutils.pretrained import at_image_size, load_pretrained, renormalize
from vitutils.train import default_device, evaluate, fit
from vitutils.vit import VisionTransformer

ERRORS = (ValueError, OSError, RuntimeError, FloatingPointError)
MODELS = {
    "vit": VisionTransformer,
    "deit": DistilledVisionTransformer,
    "convnet": ConvNet,
}
CROPS = {
    "none": None,
    "flip": augmentation.flip,
    "shift": augmentation.shift_and_flip,
    "resized": partial(augmentation.random_resized_crop, scale=(0.08, 1.0)),
}
SETUP = (  # what a resumed run shares beside the arguments of ``fit``
    "crop",
    "randaugment",
    "erase",
    "mixup",
    "cutmix",
    "init",
    "teacher",
    "distillation",
    "temperature",
    "balance",
)
TOLD = ("model", "patch_size", "embed_dim", "depth", "mlp_dim", "widths")  # by --init
PRESETS = {
    # The checkpoint of data/checkpoints, and the teacher's sizes there.
    "fashion_mnist": {
        "data": "fashion_mnist",
        "crop": "flip",
        "epochs": 7,
        "patch_size": 7,
        "embed_dim": 64,
        "depth": 4,
        "num_heads": 4,
        "mlp_dim": 128,
        "lr": 3e-3,
        "beta2": 0.99,
        "widths": [16, 32, 64, 64],
    },
    # The students and the teacher of vitutils.cifar10.
    "cifar10": {
        "data": "cifar10",
        "epochs": 8,
        "patch_size": 4,
        "embed_dim": 64,
        "depth": 4,
        "num_heads": 4,
        "mlp_dim": 128,
        "lr": 3e-3,
        "beta2": 0.99,
        "widths": [32, 64, 128, 256],
    },
    # Touvron et al. (2021), table 9, without its repeated augmentation.
    "imagenet_deit_small": {
        "image_size": 224,
        "epochs": 300,
        "patch_size": 16,
        "embed_dim": 384,
        "depth": 12,
        "num_heads": 6,
        "mlp_dim": 1536,
        "batch_size": 1024,
        "lr": 1e-3,
        "warmup": 5 / 300,
        "clip_norm": math.inf,
        "crop": "resized",
        "randaugment": 9,
        "mixup": 0.8,
        "cutmix": 1.0,
        "erase": 0.25,
        "label_smoothing": 0.1,
        "stochastic_depth": 0.1,
    },
}


def options_of(arguments):
    """Parse a command line; see ``main``."""
    parser = argparse.ArgumentParser(
        prog="python -m vitutils.train",
        description=__doc__,
        formatter_class=HelpWithDefaults,
        allow_abbrev=False,
    )
    parser.add_argument("preset", nargs="?", choices=PRESETS, help="options by name")

    add = parser.add_argument_group("data").add_argument
    add(
        "--data",
        help="fashion_mnist, cifar10, cifar100, or a folder of "
        "train/CLASS/* and test/CLASS/*",
    )
    add("--root", help="folder that holds the data; the book's data if not given")
    add("--image-size", type=count, help="side, pixels: a folder's images are resized")
    add("--images", type=count, help="train on so many images; all if not given")
    add(
        "--crop",
        choices=CROPS,
        help="augmentation of images in memory: mirror them, "
        "also shift them, or resize a part too; shift "
        "if not given. Streamed: resized",
    )
    add("--randaugment", type=int, default=0, help="magnitude, 0 to 30")
    add("--erase", type=float, default=0.0, help="probability of random erasing")
    add("--mixup", type=float, default=0.0, help="alpha of Mixup")
    add("--cutmix", type=float, default=0.0, help="alpha of CutMix")
    add(
        "--workers",
        type=int,
        default=0,
        help="processes that augment images in memory; 0: the trainer",
    )

    add = parser.add_argument_group("model").add_argument
    add("--model", choices=MODELS, default="vit", help="kind of model")
    add(
        "--init",
        help="start from a checkpoint, which also tells kind and sizes: a "
        f"file, or one of {', '.join(PUBLISHED)}",
    )
    add("--patch-size", type=count, default=16, help="side, pixels")
    add("--embed-dim", type=count, default=192, help="features of a token")
    add("--depth", type=count, default=12, help="blocks")
    add(
        "--num-heads",
        type=count,
        default=3,
        help="attention heads; with --init, of a file that does not tell",
    )
    add("--mlp-dim", type=count, default=768, help="hidden features of the MLP")
    add("--dropout", type=probability, default=0.0, help="probability")
    add(
        "--stochastic-depth",
        type=probability,
        default=0.0,
        help="probability of skipping the last block",
    )
    add(
        "--widths",
        type=count,
        nargs="+",
        default=[32, 64, 128],
        help="channels of the convnet's stages",
    )

    add = parser.add_argument_group("teacher").add_argument
    add("--teacher", help="checkpoint of this book that the student learns from")
    add("--distillation", choices=("hard", "soft"), help="its loss; hard if not given")
    add("--temperature", type=float, help="of soft distillation; 3 if not given")
    add(
        "--balance",
        type=float,
        help="share of the teacher in soft distillation, in [0, 1]; 0.1 if not given",
    )

    add = parser.add_argument_group("training").add_argument
    add("--epochs", type=int, default=10, help="passes over the training images")
    add("--batch-size", type=int, default=128, help="images a step, in all processes")
    add("--lr", type=float, default=1e-3, help="peak learning rate, a step")
    add("--weight-decay", type=float, default=0.05, help="of AdamW")
    add("--beta2", type=float, default=0.999, help="of AdamW")
    add("--warmup", type=float, default=0.1, help="share of the steps, in [0, 1)")
    add("--clip-norm", type=float, default=1.0, help="largest gradient norm, or inf")
    add("--label-smoothing", type=float, default=0.0, help="in [0, 1)")
    add(
        "--average",
        type=float,
        default=0.0,
        help="decay of the weights' moving average, in [0, 1); 0: none",
    )
    add(
        "--accumulate",
        type=int,
        default=1,
        help="parts in which a process computes its batch",
    )
    add(
        "--precision",
        default="auto",
        choices=("auto", "fp32", "bf16", "fp16"),
        help="auto: mixed on CUDA",
    )
    add("--compile", action="store_true", help="torch.compile the model first")
    add("--device", help="cuda, mps or cpu; the first that is there if not given")
    add("--seed", type=int, default=0, help="of weights, order and augmentation")

    add = parser.add_argument_group("files").add_argument
    add("--folder", help="of this run; runs/DATA-MODEL if not given")
    add("--resume", action="store_true", help="go on with the run in the folder")

    preset = parser.parse_known_args(arguments)[0].preset
    parser.set_defaults(**PRESETS.get(preset, {}))
    options = parser.parse_args(arguments)
    if options.data is None:
        parser.error("which data? give a preset or --data")
    blank = argparse.Namespace(**dict.fromkeys(vars(options)))  # hides the defaults
    given = vars(parser.parse_args(arguments, blank))
    given = {name for name, value in given.items() if value is not None}
    if given & {"temperature", "balance"} and options.distillation != "soft":
        parser.error("--temperature and --balance are of --distillation soft")
    if options.distillation and not options.teacher:
        parser.error("--distillation needs a --teacher")
    if options.init:
        for name in given.intersection(TOLD):
            parser.error(
                f"the checkpoint of --init tells the model's kind and sizes: "
                f"leave out --{name.replace('_', '-')}"
            )
        for name in {*TOLD, "num_heads"} - given:
            setattr(options, name, None)
    if options.folder is None:
        kind = options.model or Path(options.init).stem
        options.folder = f"runs/{Path(options.data).name}-{kind}"
    return options


def count(text):
    """Read a number of things from the command line."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def probability(text):
    """Read a probability below 1 from the command line."""
    if not 0 <= (number := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return number


class HelpWithDefaults(
    argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter
):
    """Show the defaults, but not where there is none."""

    def _get_help_string(self, action):
        if action.default in (None, False):
            return action.help
        return super()._get_help_string(action)


def main(arguments=None):
    """Run the command; return its exit status, 0 if the run came to its end."""
    options = options_of(arguments)
    try:
        with processes.joined():
            try:
                run(options)
            except KeyboardInterrupt as stopped:
                return told(stopped, status=130)
            except ERRORS as error:
                return told(error, status=1)
    except ERRORS as error:  # the processes did not come together
        return told(error, status=1)
    return 0


def told(error, *, status):
    """Say what went wrong, in the words of the command line."""
    text = (str(error) or "stopped").replace("resume=True", "--resume")
    text = re.sub(r"\b(image|num)_(size|heads)=", r"--\1-\2 ", text)
    if processes.count() > 1:  # it may be wrong on one machine alone
        text = f"process {processes.rank()}: {text}"
    print(text, file=sys.stderr, flush=True)
    return status


def run(options):
    """Train, measure the best weights on the test images, keep and return results."""
    data = load_data(options)
    loss_fn = teacher_loss(options, data)
    device = options.device or default_device()
    torch.manual_seed(options.seed)
    model = make_model(options, data).to(device)
    if isinstance(model, DistilledVisionTransformer) and loss_fn is None:
        raise ValueError(
            "a deit learns from a teacher: give --teacher"
            + ("" if options.init else ", or take --model vit")
        )
    if options.compile:
        model.compile()
    history = fit(
        model,
        data,
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.lr,
        weight_decay=options.weight_decay,
        betas=(0.9, options.beta2),
        warmup=options.warmup,
        clip_norm=options.clip_norm,
        label_smoothing=options.label_smoothing,
        loss_fn=loss_fn,
        mix=mixing(data.num_classes, mixup=options.mixup, cutmix=options.cutmix),
        average=options.average,
        accumulate=options.accumulate,
        precision=options.precision,
        seed=options.seed,
        folder=options.folder,
        resume=options.resume,
        setup={name: getattr(options, name) for name in SETUP} | {"data": data.name},
        device=device,
    )
    folder = Path(options.folder)
    best = processes.ask_first(load_model, folder / "best.safetensors").to(device)
    answering = {"test_accuracy": best}
    if isinstance(best, DistilledVisionTransformer):
        answering |= {
            "test_accuracy_class_head": OneHead(best, 0),
            "test_accuracy_distillation_head": OneHead(best, 1),
        }
    found = {
        name: evaluate(module, data.test, precision=options.precision).accuracy
        for name, module in answering.items()
    }
    result = {
        "command": shlex.join(["python", *sys.orig_argv[1:]]),
        "options": {  # JSON knows no infinity
            k: str(v) if v == math.inf else v for k, v in vars(options).items()
        },
        "processes": processes.count(),
        "parameters": sum(p.numel() for p in model.parameters()),
        **machine("torch", "torchvision", device=torch.device(device).type),
        "seconds": history[-1]["seconds"],
        **found,
        "history": history,
    }
    if processes.rank() == 0:
        write_json(result, folder / "result.json")
        print(
            f"{found['test_accuracy']:.2%} of the test images, "
            f"{history[-1]['seconds']:.0f} s, "
            f"{history[-1]['images_per_second']:,.0f} images a second, "
            f"{history[-1]['waiting']:.1%} of the time waiting for images; "
            f"see {folder}/result.json"
        )
    return result


class OneHead(nn.Module):
    """A distilled model that answers with its class head, 0, or the other one, 1."""

    def __init__(self, model, index):
        super().__init__()
        self.model, self.index = model, index

    def forward(self, images):
        return self.model.both_heads(images)[self.index]


def load_data(options):
    """Load the data with the augmentation that the options want."""
    found = partial(
        load, options.data, root=options.root, image_size=options.image_size
    )
    if options.data in CIFAR:
        processes.ask_first(lambda: found() and None)  # one downloads, then all read
    data = found()
    train = data.train
    if options.images is not None:
        train = train.subset(options.images)
    if isinstance(train, MemorySplit):
        train = replace(train, augment=CROPS[options.crop or "shift"])
    elif options.crop not in (None, "resized"):
        raise ValueError(
            f"crop {options.crop} is for images in memory: streamed ones are resized"
        )
    train = strengthen(
        train,
        randaugment=options.randaugment,
        erase=options.erase,
        workers=options.workers,
    )
    return replace(data, train=train)


def make_model(options, data):
    """Build the model for the data's images and classes, or load where it starts."""
    if options.init is not None:
        return start(options, data)
    sizes = {"in_channels": data.in_channels, "num_classes": data.num_classes}
    if options.model == "convnet":
        return ConvNet(widths=options.widths, **sizes)
    return MODELS[options.model](
        image_size=data.image_size,
        patch_size=options.patch_size,
        embed_dim=options.embed_dim,
        depth=options.depth,
        num_heads=options.num_heads,
        mlp_dim=options.mlp_dim,
        dropout=options.dropout,
        stochastic_depth=options.stochastic_depth,
        **sizes,
    )


def start(options, data):
    """Load a checkpoint and fit it to the data and to the options of training."""
    heads = options.num_heads
    try:
        model = load_model(options.init)
    except (FileNotFoundError, ValueError):  # no checkpoint of this book
        processes.ask_first(find, options.init)  # one downloads, then all read
        model = load_pretrained(
            options.init, num_classes=data.num_classes, num_heads=heads
        )
    if heads not in (None, model.config.get("num_heads")):
        raise ValueError(f"{options.init} tells its heads: leave out --num-heads")
    expect_channels(model, data, options.init)
    if published := PUBLISHED.get(options.init):
        wanted = published.mean, published.std
        renormalize(model, old=wanted, new=(data.mean, data.std))
    changed = {"num_classes": data.num_classes}
    if isinstance(model, VisionTransformer):
        model = at_image_size(model, data.image_size)
        changed |= {
            "dropout": options.dropout,
            "stochastic_depth": options.stochastic_depth,
        }
    if model.config | changed == model.config:
        return model
    state = model.state_dict()
    if model.config["num_classes"] != data.num_classes:
        state = {k: v for k, v in state.items() if not k.startswith("head")}
    fresh = type(model)(**model.config | changed)
    fresh.load_state_dict(fresh.state_dict() | state)
    return fresh


def expect_channels(model, data, name):
    """Raise a ValueError if a checkpoint's images are gray and the data's are not."""
    wanted = model.config["in_channels"]
    if wanted != data.in_channels:
        raise ValueError(
            f"{name} wants images of {wanted} channels, {data.name} has "
            f"{data.in_channels}"
        )


def teacher_loss(options, data):
    """Return the loss of a student, None for a model that learns from labels alone."""
    if options.teacher is None:
        return None
    model = load_model(options.teacher)
    expect_channels(model, data, options.teacher)
    teacher = Teacher(model)
    if options.distillation == "soft":
        given = {"temperature": options.temperature, "balance": options.balance}
        given = {name: value for name, value in given.items() if value is not None}
        loss = partial(soft_distillation, **given)
    else:
        loss = hard_distillation
    learn = teacher.teaches(loss)
    smoothing = options.label_smoothing
    if not smoothing:
        return learn

    def learn_smoothed(outputs, labels, images):
        if labels.ndim == 1:
            labels = F.one_hot(labels, data.num_classes).float()
        labels = (1 - smoothing) * labels + smoothing / data.num_classes
        return learn(outputs, labels, images)

    return learn_smoothed
