"""The laboratory in a notebook: a model of one's own runs, breaks and shows itself.

*Run*, *Break* and *Look* of the book's page, computed in the browser, without a kernel
and without a network. Where scripts do not run there is a static picture instead: what
the class token attends to in the last layer.
"""

import base64
import copy
import hashlib
import json
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from vitutils.plot.common import check_count, pixels
from vitutils.plot.explorer import HERE, Explorer, static_picture

BOOK = "https://vision-transformers-piece-by-piece.github.io/book/"
STATIC = HERE / "static" / "lab"
SHARED = "globalThis.lab ??= {};\n"  # of the page's scripts: here `lab` is a constant
OURS = ":is(.laboratory, #laboratory)"  # in style sheets, as strong as #laboratory is
MANTISSA = 13  # bits that are kept: logits are then within 0.001 of the model's
MOST = 3_000_000  # parameters: more would take seconds an answer, and megabytes

PAGE = """<style>
{css}</style>
<div class="laboratory" data-laboratory="{id}" data-lm-suppress-shortcuts="true">
<img alt="{alt}" width="{width}" style="max-width: 100%; height: auto; \
background: none; padding: 0; filter: none" src="data:image/png;base64,{png}">
<p>The laboratory computes where scripts run. This is the first image, and what its \
class token attends to in the last layer (mean of the heads).</p>
</div>
<script>
((data) => {{
  const open = (root) => {{
const lab = {{}};
{script}
  }};
  for (const root of document.querySelectorAll(`[data-laboratory="${{data.id}}"]`)) {{
    if (!root.started) open(root);
    root.started = true;
  }}
}})({data});
</script>
"""


class Laboratory(Explorer):
    """A laboratory, which a notebook displays.

    Attributes:
        html: all of it, for a page of one's own.
    """


def laboratory(
    model: nn.Module,
    images: ArrayLike,
    *,
    classes: Sequence[str],
    labels: Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Laboratory:
    """Make a laboratory in which a reader runs a model and takes it apart.

    The output holds all parameters, about three bytes each, and every image.

    Args:
        model: a ``VisionTransformer`` or ``DistilledVisionTransformer`` for square
            images and patches, without registers.
        images: (B, C, H, W), uint8, or floats in [0, 1], or normalized floats together
            with their ``mean`` and ``std``; the page keeps 8 bits of a pixel.
        classes: a name for each class.
        labels: the images' classes, to count right answers by. Three images of each
            class are shown then, and all counted.
        mean, std: what the model's images are normalized with, one number per channel.

    Returns:
        A ``Laboratory``: the same arguments give the same bytes.

    Raises:
        ValueError: a model that the page cannot compute, or images, classes or labels
            that do not fit it.
    """
    model = copy.deepcopy(model).cpu().float().eval()
    check_model(model)
    channels, height, width = expected = model.embeddings.image_shape
    rows, columns = model.embeddings.grid
    images = torch.as_tensor(images).detach().cpu()
    if images.ndim != 4 or images.shape[1:] != expected:
        raise ValueError(
            f"images have shape {tuple(images.shape)}, the model expects "
            f"(B, {channels}, {height}, {width})"
        )
    check_count("classes", classes, model.config["num_classes"])
    check_count("labels", labels, len(images))
    labels = None if labels is None else [int(label) for label in labels]
    if labels and not 0 <= min(labels) <= max(labels) < len(classes):
        raise ValueError(
            f"labels run from {min(labels)} to {max(labels)}, there are "
            f"{len(classes)} classes"
        )
    pictures = pixels(images, mean, std)  # (B, H, W, 3)
    colors = np.rint(255 * pictures[..., :channels].transpose(0, 3, 1, 2))
    mean, std = mean or (0.0,) * channels, std or (1.0,) * channels
    channel = torch.tensor([mean, std]).view(2, -1, 1, 1)
    first = (torch.from_numpy(colors[:1]) / 255 - channel[0]) / channel[1]
    with torch.no_grad():
        weights = model(first, need_weights=True)[1][-1][0]  # (h, N, N)
    seen = weights[:, 0, -rows * columns :].mean(dim=0).view(rows, columns)
    png, drawn = static_picture(pictures[0], seen.numpy())
    sizes = {"image_size": height, "patch_size": height // rows}
    sizes |= {"distilled": hasattr(model, "head_dist")}
    header = {"config": model.config | sizes, "classes": list(classes)}
    header |= {"mean": list(mean), "std": list(std)}
    shown = {"side": height, "channels": channels, "labels": labels}
    shown |= {"names": [f"image {i + 1}" for i in range(len(images))]}
    data = {
        "book": BOOK,
        "model": packed(header, planes(model)),
        "images": packed(shown, colors.astype(np.uint8).tobytes()),
    }
    name = hashlib.sha256(json.dumps(data).encode()).hexdigest()[:12]
    alt = f"An image in {rows} x {columns} patches, and what its class token attends to"
    page = PAGE.format(
        id=name,
        css=(STATIC / "lab.css").read_text("utf-8").replace("#laboratory", OURS),
        alt=alt,
        png=base64.b64encode(png).decode(),
        width=drawn,
        script=script(),
        data=json.dumps({"id": name} | data).replace("<", "\\u003c"),
    )
    parts = f"{model.config['depth']} blocks, {count(model):,} parameters"
    return Laboratory(page, f"Laboratory: {parts}, {len(images)} images")


def check_model(model: nn.Module) -> None:
    """Raise a ValueError unless the page can compute the model."""
    if not hasattr(model, "embeddings") or not hasattr(model, "config"):
        raise ValueError(
            f"a {type(model).__name__} is no VisionTransformer of vitutils"
        )
    _, height, width = model.embeddings.image_shape
    rows, columns = model.embeddings.grid
    eps = model.config["norm_eps"]
    faults = {
        "images or patches that are no squares": (height, rows) != (width, columns),
        "registers": model.config["num_registers"] > 0,
        f"norm_eps {eps}": eps != 1e-6,
        f"{count(model):,} parameters (at most {MOST:,})": count(model) > MOST,
    }
    if found := [fault for fault, is_so in faults.items() if is_so]:
        raise ValueError(f"the laboratory computes no model with {', '.join(found)}")


def count(model: nn.Module) -> int:
    """Return the number of a model's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def rounded(numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return numbers as the page has them."""
    spare = 23 - MANTISSA
    whole = numbers.astype("<f4").view("<u4") + np.uint32(1 << spare - 1)
    return (whole >> spare << spare).view("<f4")


def planes(model: nn.Module) -> bytes:
    """Return a model's parameters, in order of their names, as three planes.

    A plane holds the first, second or third byte of each rounded float32.
    """
    tensors = [value.ravel() for _, value in sorted(model.state_dict().items())]
    bits = rounded(torch.cat(tensors).numpy()).view("<u4")
    return b"".join((bits >> n & 255).astype(np.uint8).tobytes() for n in (24, 16, 8))


def deflated(data: bytes) -> bytes:
    """Return data, compressed by the best of zlib's strategies.

    Mantissas repeat by chance alone: a search for repetitions there only costs.
    """
    strategies = zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE
    tries = [zlib.compressobj(9, wbits=15, memLevel=7, strategy=s) for s in strategies]
    return min((each.compress(data) + each.flush() for each in tries), key=len)


def packed(header: dict, data: bytes) -> dict:
    """Return a file of the laboratory as a notebook holds it."""
    return {"header": header, "bytes": base64.b64encode(deflated(data)).decode()}


def script() -> str:
    """Return the page's scripts as the body of a function of ``root`` and ``data``."""
    names = ("vit.js", "state.js", "notebook.js", "views.js")
    texts = [(STATIC / name).read_text("utf-8").replace(SHARED, "") for name in names]
    return "\n".join([*texts[:3], "lab.own(root, data);", texts[3]])
