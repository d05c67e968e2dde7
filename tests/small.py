"""Small models with what they want of images, and photos, for tests of the commands."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from vitutils.data.preprocessing import Preprocessing
from vitutils.distill import ConvNet
from vitutils.engine.checkpoints import save_model
from vitutils.engine.weights import Weights
from vitutils.vit import VisionTransformer

CLASSES = ("cat", "dog", "owl")


def small(
    path: Path,
    kind: type = VisionTransformer,
    *,
    channels: int = 3,
    size: int = 16,
    classes: Sequence[str] = CLASSES,
    num_classes: int = len(CLASSES),
) -> Weights:
    """Save a small model of a kind, with loud answers, and return it."""
    torch.manual_seed(0)
    sizes = dict(image_size=size, patch_size=size // 2, embed_dim=8, depth=2)
    sizes |= dict(num_heads=2, mlp_dim=16)
    sizes = dict(widths=(4, 8)) if kind is ConvNet else sizes
    model = kind(**sizes, in_channels=channels, num_classes=num_classes).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    wanted = Preprocessing(
        (size, size),
        (0.5, 0.4, 0.3)[:channels],
        (0.2, 0.3, 0.4)[:channels],
        crop=0.8,
        interpolation="bicubic",
        classes=tuple(classes),
    )
    save_model(model, path, wanted)
    return Weights(model, wanted)


def photo(path: Path, seed: int, size: tuple[int, int] = (20, 26)) -> Image.Image:
    """Save a picture in color, of (height, width) pixels, and return it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (*size, 3), generator=generator, dtype=torch.uint8)
    image = Image.fromarray(pixels.numpy())
    image.save(path)
    return image
