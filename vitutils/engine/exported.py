"""Models for other programs: written, checked against the model, and read again."""

import json
import logging
import math
import shutil
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vitutils.data.datasets import HeldOut
from vitutils.data.preprocessing import Preprocessing
from vitutils.engine.checkpoints import (
    as_held_out,
    existing,
    in_utf8,
    is_checkpoint,
    read_held_out,
)
from vitutils.engine.machine import write_json
from vitutils.engine.strangers import reason
from vitutils.engine.weights import Weights
from vitutils.engine.writing import write_atomically

Format = Literal["onnx", "torchscript", "pt2"]
ENDINGS = {"onnx": ".onnx", "torchscript": ".torchscript", "pt2": ".pt2"}
NEEDED = ("onnx", "onnxruntime", "onnxscript")
BATCHES = (3, 1)  # sizes that a file must answer before it is left


def export(
    weights: Weights,
    path: str | Path,
    *,
    kind: Format = "onnx",
    int8: bool = False,
    held_out: HeldOut | None = None,
) -> float:
    """Write a model with a free batch size, once it answers as the model does.

    A file PATH.json beside it says what images it takes.

    Args:
        weights: the model, on the CPU and in eval mode, and its preprocessing.
        path: the file to write. It is replaced whole or not touched.
        kind: the format.
        int8: whether an ONNX file keeps its matrices in 8 bits, a scale for each; the
            numbers that they multiply become 8 bits as they come.
        held_out: which images the model's training held out, if that is known.

    Returns:
        The largest difference between the file's logits and the model's, for random
        images in two batches of different sizes.

    Raises:
        ValueError: int8 in another format, or the file's answers are not the model's.
        RuntimeError: what writes ONNX is not installed.
        OSError: the file could not be written.
    """
    if int8 and kind != "onnx":
        raise ValueError(f"int8 is of the format onnx, not of {kind}")
    model, preprocessing = weights
    images = torch.randn(
        BATCHES[0],
        len(preprocessing.mean),
        *preprocessing.image_size,
        generator=torch.Generator().manual_seed(0),
    )
    differences = []
    with (
        TemporaryDirectory() as folder,
        warnings.catch_warnings(action="ignore"),  # of what is deprecated, and shapes
        torch.no_grad(),
    ):
        file = Path(folder, f"model{ENDINGS[kind]}")
        try:
            run = WRITERS[kind](model, images, file)
            if int8:
                run = quantize(file)
        except OSError as error:  # it says not where there is no space
            error.filename = error.filename or str(file)
            raise
        for size in BATCHES:
            wanted = model(images[:size])
            found = run(images[:size])
            fits = found.shape == wanted.shape
            most = (found - wanted).abs().max().item() if fits else math.inf
            enough = math.inf if int8 else 1e-4 * max(1, wanted.abs().max().item())
            if not (fits and most <= enough):
                raise ValueError(
                    f"the {kind} file answers a batch of {size} otherwise than the "
                    f"model, by up to {most:.3g}: it is not left"
                )
            differences.append(most)
        write_atomically(path, lambda part: shutil.copyfile(file, part))
    about = {
        "format": kind,
        "input": ["batch", *images.shape[1:]],
        "output": "logits: their softmax is the probabilities",
        "preprocessing": json.loads(preprocessing.to_json()),
        "held_out": held_out and held_out._asdict(),
    }
    write_json(about, f"{path}.json")
    return max(differences)


def write_onnx(model: nn.Module, images: Tensor, path: Path) -> Callable:
    """Write ONNX by torch's exporter; return what runs it."""
    session_of = runtime()
    torch.onnx.export(
        model,
        (images,),
        path,
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        input_names=["images"],
        output_names=["logits"],
        external_data=False,
        verbose=False,
    )
    return runner(session_of(path))


def quantize(path: Path) -> Callable:
    """Replace the matrices of an ONNX file by 8 bits; return what runs it."""
    from onnxruntime.quantization import quantize_dynamic

    logging.disable(logging.WARNING)  # it advises to optimize the file before
    try:
        quantize_dynamic(path, path)
    finally:
        logging.disable(logging.NOTSET)
    return runner(runtime()(path))


def write_torchscript(model: nn.Module, images: Tensor, path: Path) -> Callable:
    """Trace a model; return what was read back."""
    held = BytesIO()  # torch itself would abort the process where the disk is full
    torch.jit.save(torch.jit.trace(model, images, check_trace=False), held)
    path.write_bytes(held.getvalue())
    return torch.jit.load(path)


def write_pt2(model: nn.Module, images: Tensor, path: Path) -> Callable:
    """Write torch.export's format; return what was read back."""
    batch = torch.export.Dim("batch")
    held = BytesIO()  # as above
    torch.export.save(
        torch.export.export(model, (images,), dynamic_shapes=({0: batch},)), held
    )
    path.write_bytes(held.getvalue())
    return torch.export.load(path).module()


WRITERS = {"onnx": write_onnx, "torchscript": write_torchscript, "pt2": write_pt2}


def runtime() -> Callable[[Path], Any]:
    """Return what makes a session of ONNX Runtime of a file, on the CPU."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise RuntimeError(
            f"the format onnx needs {' and '.join(missing)}: pip install "
            f"{' '.join(missing)}"
        )
    import onnxruntime

    def session(path: Path) -> Any:
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        return onnxruntime.InferenceSession(
            path, settings, providers=["CPUExecutionProvider"]
        )

    return session


def runner(session: Any) -> Callable[[Tensor], Tensor]:
    """Return a function from images to logits."""
    name = session.get_inputs()[0].name
    return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])


class Exported(nn.Module):
    """An ONNX file as a module: images in, logits out.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.run = runner(runtime()(path))
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)  # the CPU

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of images (B, C, height, width)."""
        return self.run(images)


def is_exported(path: str | Path) -> bool:
    """Tell whether a name is that of an ONNX file."""
    return Path(path).suffix == ENDINGS["onnx"]


def load_exported(path: str | Path) -> Weights:
    """Load an ONNX file that ``export`` wrote, with what it wants of images.

    Raises:
        FileNotFoundError: it is missing, or PATH.json beside it.
        ValueError: one of the two is not what ``export`` writes.
    """
    path = existing(in_utf8(path))
    about = Path(f"{path}.json")
    if not about.is_file():
        raise FileNotFoundError(
            f"{about} is missing, which says what images {path.name} takes: put it "
            "back, or export the model again"
        )
    try:
        said = json.loads(about.read_text(encoding="utf-8"))["preprocessing"]
        preprocessing = Preprocessing.from_json(json.dumps(said))
        model = Exported(path)
    except RuntimeError:  # ONNX Runtime is not there
        raise
    except Exception as error:  # it raises many kinds of its own
        raise ValueError(
            f"{path} and {about} are not what `vitutils export` writes "
            f"({reason(error)}): export the model again"
        ) from error
    return Weights(model, preprocessing)


def held_out_of(name: str | Path) -> HeldOut | None:
    """Return which images the training of a model's file held out, if it says so.

    Args:
        name: as in ``load_weights``, or an ONNX file that ``load_exported`` reads.

    Raises:
        ValueError: what it says is malformed.
    """
    if is_exported(name):
        about = json.loads(Path(f"{name}.json").read_text(encoding="utf-8"))
        return as_held_out(json.dumps(about.get("held_out")), name)
    return read_held_out(name) if is_checkpoint(name) else None
