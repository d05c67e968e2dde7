"""What the commands share: the weights that they use, and how they end."""

import argparse
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Every command comes to need it, and PyTorch's optimizers the compiler that it brings.
# An import in the middle of a command can swallow Ctrl-C; here start, in
# vitutils.__main__, still sees to it.
import torchvision  # noqa: F401

from vitutils import processes
from vitutils.cli.options import Parser, sides
from vitutils.data.files import pair
from vitutils.engine.exported import is_exported, load_exported
from vitutils.engine.published import PUBLISHED
from vitutils.engine.weights import Weights, load_weights, model_file

ERRORS = (ValueError, OSError, RuntimeError, FloatingPointError, ImportError)


def make_parser(name: str, description: str) -> argparse.ArgumentParser:
    """Return the parser of a command that uses weights, with what says which."""
    parser = Parser(name, description)
    group = parser.add_argument_group("weights")
    group.add_argument(
        "--weights",
        help="a checkpoint of `vitutils train`, such as runs/NAME/best.safetensors; "
        "another library's file; an .onnx file of `vitutils export`; torchvision/NAME "
        "or timm/NAME, a classifier of these; or a published name, fetched once: "
        f"{', '.join(PUBLISHED)}",
    )
    group.add_argument(
        "--file", help="weights of your own for torchvision/NAME or timm/NAME"
    )
    group.add_argument(
        "--mean",
        type=float,
        nargs="+",
        help="what the model's images, in [0, 1], are normalized with, a value a "
        "channel; where the weights do not say it",
    )
    group.add_argument("--std", type=float, nargs="+", help="the same for --mean")
    group.add_argument(
        "--num-heads", type=int, help="attention heads, where the file does not say"
    )
    group.add_argument(
        "--image-size",
        type=sides,
        help="side of its images in pixels, or HEIGHTxWIDTH, where nothing says it",
    )
    parser.add_argument(
        "--debug", action="store_true", help="show where an error came from"
    )
    return parser


def load(options: argparse.Namespace) -> Weights:
    """Return the model that the options name, with what it wants of images."""
    if options.weights is None:
        raise ValueError(
            "which model? give --weights: a file, such as the best.safetensors of "
            f"`vitutils train`, or one of {', '.join(PUBLISHED)}"
        )
    given = {
        "num_heads": options.num_heads,
        "image_size": options.image_size and pair(options.image_size),
        "mean": options.mean and tuple(options.mean),
        "std": options.std and tuple(options.std),
    }
    if not is_exported(options.weights):
        take_file(options, "weights")
        found = load_weights(options.weights, weights=options.file, **given)
    elif options.file:
        raise ValueError(f"{options.weights} holds its weights: leave out --file")
    else:
        found = load_exported(options.weights)
    told = getattr(found.model, "config", {}) | vars(found.preprocessing)
    for name, value in given.items():
        if value not in (None, own := told.get(name)):
            gap = "x" if name == "image_size" else " "
            words = gap.join(map(str, own)) if isinstance(own, tuple) else own
            tells = f"tells its own {name}, {words}" if own else f"has no {name}"
            raise ValueError(
                f"{options.weights} {tells}: leave out --{name.replace('_', '-')}"
            )
    return found


def take_file(options: argparse.Namespace, *names: str) -> None:
    """Let options that name a run's folder name its best model, and say so."""
    for name in names:
        value = getattr(options, name)
        if value is not None and (path := model_file(value)) != value:
            setattr(options, name, str(path))
            if processes.rank() == 0:
                print(f"{value} is a run's folder: {path} is taken", file=sys.stderr)


def ended(run: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    """Run a command and return its exit status; what goes wrong is told in a line."""
    try:
        with warnings_as_lines():
            return run(options)
    except KeyboardInterrupt as stopped:
        return told(stopped, status=130)
    except ERRORS as error:
        return told(error, status=1, debug=options.debug)


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """Show of a warning its words alone, and not where in the code it came up."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda words, *_, **__: print(words, file=sys.stderr)
        yield


def in_a_line(error: BaseException) -> str:
    """Return what an error says."""
    if isinstance(error, OSError) and error.strerror:  # the system's words
        return f"{error.filename or 'the system'}: {error.strerror}"
    return " ".join(str(error).split()) or "stopped"


def told(error: BaseException, *, status: int, debug: bool = False) -> int:
    """Say what went wrong, and return the status.

    Raises:
        OSError: what is printed cannot be written; ``vitutils.__main__.main`` says so.
    """
    if isinstance(error, OSError) and not error.filename:
        sys.stdout.flush()
    text = in_a_line(error)
    if debug:
        text = "".join(traceback.format_exception(error)).rstrip()
    if processes.count() > 1:  # it may be wrong on one machine alone
        text = f"process {processes.rank()}: {text}"
    print(text, file=sys.stderr, flush=True)
    return status
