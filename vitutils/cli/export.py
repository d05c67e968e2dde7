"""Write a trained model for other programs.

    vitutils export --weights runs/photos-vit/best.safetensors
    vitutils export --weights runs/photos-vit/best.safetensors --int8
    vitutils export --weights deit_tiny_patch16_224 --format pt2 --out deit.pt2

The file takes batches of any size. Before it is left, its answers are compared with the
model's, in two batches of different sizes. FILE.json beside it says what images it
takes, and what its classes are called.

Formats:
  onnx         for ONNX Runtime, in any language, and for most others
               (needs: pip install onnx onnxruntime onnxscript)
  torchscript  for libtorch and older programs of PyTorch
  pt2          torch.export's, PyTorch's own format now

`vitutils evaluate` and `vitutils predict` take an .onnx file as --weights.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from vitutils.cli.commands import ended, load, make_parser, take_file
from vitutils.cli.options import file_name
from vitutils.engine.exported import ENDINGS, export, held_out_of, is_exported


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit status, 0 if the file was written."""
    parser = make_parser("export", __doc__)
    group = parser.add_argument_group("the file")
    group.add_argument("--format", choices=ENDINGS, default="onnx", help="its format")
    group.add_argument(
        "--out",
        type=file_name,
        help="its name; if not given, that of the weights with the format's ending: "
        "beside a file, for a published name here",
    )
    group.add_argument(
        "--int8",
        action="store_true",
        help="matrices in 8 bits, for a CPU: a smaller file, and other answers; "
        "`vitutils evaluate` measures what that costs. Of onnx alone",
    )
    return ended(run, parser.parse_args(arguments))


def run(options: argparse.Namespace) -> int:
    """Export the model that the options name."""
    ending = ENDINGS[options.format]
    if options.int8 and options.format != "onnx":
        raise ValueError(f"--int8 is of the format onnx, not of {options.format}")
    if options.weights and is_exported(options.weights):
        raise ValueError(f"{options.weights} is exported already: take what it is of")
    take_file(options, "weights")
    path = options.out or default_path(options)
    if path.suffix != ending:
        raise ValueError(f"--out {path}: the name of this format ends in {ending}")
    weights = load(options)
    difference = export(
        weights,
        path,
        kind=options.format,
        int8=options.int8,
        held_out=held_out_of(options.weights),
    )
    print(
        f"{path}: {path.stat().st_size / 1e6:.2f} MB, any batch size\n"
        f"  its logits of random images differ from the model's by {difference:.1e} "
        "at most"
    )
    print(f"{path}.json: the images that it takes, and its classes")
    return 0


def default_path(options: argparse.Namespace) -> Path:
    """Return where the file goes if nothing says so."""
    name = Path(options.weights or "model")
    stem = name.with_suffix("") if name.is_file() else Path(name.name)
    more = ".int8" if options.int8 else ""
    return stem.with_name(f"{stem.name}{more}{ENDINGS[options.format]}")
