"""What a model wants of images: their size, their normalization, and their classes."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from vitutils.data import files
from vitutils.data.augmentation import shorten


@dataclass(frozen=True)
class Preprocessing:
    """How images become what a model was trained on, and what its answers are called.

    Attributes:
        image_size: (height, width) in pixels.
        mean, std: normalize images in [0, 1], one value a channel: one for a model of
            gray images, three for one of color.
        crop: share of an image's height and width that is left, in (0, 1]: 0.875 is
            the center of 224 pixels of an image resized to 256.
        interpolation: how images are resized, "bilinear" or "bicubic".
        classes: names of the classes, in the order of the logits; empty if unknown.
    """

    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float = 1.0
    interpolation: str = "bilinear"
    classes: tuple[str, ...] = ()

    def read(self, path: str | Path | BytesIO) -> Tensor:
        """Return an image file as the model wants it, (C, height, width).

        Raises:
            RuntimeError: it is no image that can be read, or no gray one where the
                model wants that.
        """
        pixels = files.read_image(path, len(self.mean), self.fit)
        return self.normalize(pixels[None])[0]

    def fit(self, image: Image.Image) -> Image.Image:
        """Resize an image so that it covers the crop, and cut out the center."""
        image = shorten(image)
        height, width = (side / self.crop for side in self.image_size)
        scale = max(height / image.height, width / image.width)
        size = [round(scale * image.height), round(scale * image.width)]
        kind = v2.InterpolationMode(self.interpolation)
        image = v2.functional.resize(image, size, kind)
        return v2.functional.center_crop(image, list(self.image_size))

    def normalize(self, pixels: Tensor) -> Tensor:
        """Normalize pixels from 0 to 255, (B, C, height, width)."""
        mean, std = self._constants(pixels)
        return (pixels.float() / 255 - mean) / std

    def convert(self, images: Tensor, wanted: "Preprocessing") -> Tensor:
        """Turn images normalized for this model into those that another one wants.

        Args:
            images: normalized by this mean and std, (B, C, height, width).
            wanted: the other model's.

        Returns:
            Images of its size and channels, normalized by its mean and std.
        """
        mean, std = self._constants(images)
        images = images * std + mean  # in [0, 1]
        if len(wanted.mean) > images.shape[1]:
            images = images.expand(-1, len(wanted.mean), -1, -1)
        if images.shape[2:] != wanted.image_size:
            images = F.interpolate(
                images, wanted.image_size, mode="bicubic", antialias=True
            )
        mean, std = wanted._constants(images)
        return (images - mean) / std

    def _constants(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = torch.tensor([self.mean, self.std], device=images.device)
        return mean.view(-1, 1, 1), std.view(-1, 1, 1)
