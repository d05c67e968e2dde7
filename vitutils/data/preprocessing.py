"""What a model wants of images: their size, their normalization, and their classes."""

import json
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vitutils.data import files
from vitutils.data.augmentation import cover, shorten

LUMINANCE = (0.299, 0.587, 0.114)  # red, green, blue in a gray value, as Pillow has it


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
        squash: whether images of any shape are squashed into the square before the
            crop, as Hugging Face's ViTs want it; else they keep their shape.

    Raises:
        ValueError: a value is none of these.
    """

    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float = 1.0
    interpolation: str = "bilinear"
    classes: tuple[str, ...] = ()
    squash: bool = False

    def __post_init__(self):
        mean, std = self.mean, self.std
        names = isinstance(self.classes, tuple) and map(is_name, self.classes)
        right = {
            "image_size": is_row(self.image_size, (int,), 1, 4096, lengths=(2,)),
            "mean": is_row(mean, (int, float), 0, 1),
            "std": is_row(std, (int, float), 1e-6, 1) and len(mean) == len(std),
            "crop": is_row((self.crop,), (int, float), 0.1, 1),
            "interpolation": self.interpolation in ("bilinear", "bicubic"),
            "classes": names and all(names),
            "squash": isinstance(self.squash, bool),
        }
        if wrong := [name for name, fits in right.items() if not fits]:
            value = ascii(getattr(self, wrong[0]))
            unit = ", in [0, 1]," if wrong[0] in ("mean", "std") else ""
            raise ValueError(
                f"no {wrong[0]} of images{unit} is {value[:80]}"
                f"{'...' * (len(value) > 80)}"
            )

    @classmethod
    def from_json(cls, text: str) -> "Preprocessing":
        """Return what ``to_json`` has written.

        Raises:
            Exception: of many kinds, if it has written nothing like that.
        """
        found = json.loads(text)
        rows = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items()}
        return cls(**rows)

    def to_json(self) -> str:
        """Return all values as JSON, the same text for the same values."""
        told = asdict(self)
        if not self.squash:
            del told["squash"]  # which version 0.2 does not know
        return json.dumps(told)

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
        from torchvision.transforms import v2

        # 232.0 pixels may be a bit less in floats
        height, width = (int(side / self.crop + 1e-6) for side in self.image_size)
        if self.squash:
            kind = v2.InterpolationMode(self.interpolation)
            image = v2.functional.resize(image, [height, width], kind)
        else:
            image = cover(shorten(image), (height, width), self.interpolation)
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
        resized = images.shape[2:] != wanted.image_size
        if not resized and (self.mean, self.std) == (wanted.mean, wanted.std):
            return images  # to the last bit
        mean, std = self._constants(images)
        images = images * std + mean  # in [0, 1]
        if len(wanted.mean) > images.shape[1]:
            images = images.expand(-1, len(wanted.mean), -1, -1)
        elif len(wanted.mean) < images.shape[1]:
            images = torch.einsum("bchw,c->bhw", images, images.new_tensor(LUMINANCE))
            images = images[:, None]
        if resized:
            images = F.interpolate(
                images, wanted.image_size, mode=wanted.interpolation, antialias=True
            ).clamp(0, 1)
        mean, std = wanted._constants(images)
        return (images - mean) / std

    def _constants(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = torch.tensor([self.mean, self.std], device=images.device)
        return mean.view(-1, 1, 1), std.view(-1, 1, 1)


def is_row(
    value: object,
    kinds: tuple[type, ...],
    low: float,
    high: float,
    lengths: tuple[int, ...] = (1, 3),
) -> bool:
    """Tell whether this is a tuple of numbers of such kinds, from low to high."""
    return (
        isinstance(value, tuple)
        and len(value) in lengths
        and all(type(n) in kinds and low <= n <= high for n in value)
    )


def is_name(value: object) -> bool:
    """Tell whether this is a name that can be shown in a line."""
    return isinstance(value, str) and 0 < len(value) <= 1000 and value.isprintable()


def printable(name: str) -> str:
    """Return a name that can be shown in a line: what cannot is written as escapes."""
    return name if is_name(name) else ascii(name)[1:-1][:1000]
