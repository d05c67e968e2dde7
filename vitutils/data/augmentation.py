"""Augmentation: of batches of small images, of photos, of labels.

torchvision is imported where it is used: that takes as long as importing torch.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def shift_and_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift and mirror each image by a draw of its own, to augment small images.

    A shift goes up to an eighth of the height each way and fills with zeros, which
    are black; half of the images are mirrored, left to right.

    Args:
        images: uint8 (B, C, H, W), on any device.
        generator: a CPU ``torch.Generator``, so that no draw depends on the device.

    Returns:
        Augmented images, uint8 (B, C, H, W).

    Source: He et al. (2016), section 4.2, where 32 x 32 pixels are padded by 4.
    """
    B, C, H, W = images.shape
    pad = H // 8
    top, left = torch.randint(2 * pad + 1, (2, B, 1), generator=generator)
    mirrored = torch.rand(B, 1, generator=generator) < 0.5
    across = torch.arange(W)
    rows = top + torch.arange(H)  # (B, H)
    columns = left + torch.where(mirrored, across.flip(0), across)  # (B, W)
    rows, columns = rows.to(images.device), columns.to(images.device)
    # One gather over flattened pixels is several times as fast as slicing each image.
    pixels = rows[:, :, None] * (W + 2 * pad) + columns[:, None]  # (B, H, W)
    pixels = pixels.view(B, 1, H * W).expand(B, C, H * W)
    padded = F.pad(images, (pad, pad, pad, pad)).flatten(2)
    return padded.gather(2, pixels).view(B, C, H, W)


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images, left to right, and shift none.

    For short runs: what is never shifted is learned sooner, and less well.

    Args:
        images: uint8 (B, C, H, W), on any device.
        generator: a CPU ``torch.Generator``, as for ``shift_and_flip``.

    Returns:
        Augmented images, uint8 (B, C, H, W).
    """
    mirrored = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return torch.where(mirrored.to(images.device), images.flip(3), images)


def random_resized_crop(
    images: Tensor,
    generator: torch.Generator,
    *,
    scale: tuple[float, float] = (0.05, 1.0),
) -> Tensor:
    """Enlarge a random part of each image to the whole, and mirror half of them.

    A crop's area is a share of the image's drawn from ``scale``, its sides are in a
    ratio between 3/4 and 4/3, its place is any within the image. It is resampled
    bilinearly, each image by a draw of its own.

    Args:
        images: uint8 (B, C, H, W), on any device.
        generator: a CPU ``torch.Generator``, as for ``shift_and_flip``.
        scale: smallest and largest share of the area, in (0, 1].

    Returns:
        Augmented images, uint8 (B, C, H, W).

    Source: Szegedy et al. (2015), section 6.
    """
    B = len(images)
    area, ratio, y, x, mirror = torch.rand(5, B, generator=generator)
    area = scale[0] + (scale[1] - scale[0]) * area
    ratio = torch.exp((2 * ratio - 1) * math.log(4 / 3))
    height = (area / ratio).sqrt().clamp(max=1)
    width = (area * ratio).sqrt().clamp(max=1)
    # Where the crop's center lies, the image reaching from -1 to 1.
    y, x = (2 * y - 1) * (1 - height), (2 * x - 1) * (1 - width)
    zero, width = torch.zeros(B), torch.where(mirror < 0.5, -width, width)
    theta = torch.stack((width, zero, x, zero, height, y), dim=1).view(B, 2, 3)
    grid = F.affine_grid(theta.to(images.device), images.shape, align_corners=False)
    crops = F.grid_sample(
        images.float(), grid, padding_mode="border", align_corners=False
    )
    return crops.round_().to(torch.uint8)


def crop_and_flip(size: int | tuple[int, int]) -> Callable:
    """Return the usual augmentation of photos: a part, resized, and a mirror image.

    Args:
        size: side of the result in pixels, or (height, width).

    Source: Szegedy et al. (2015), section 6.
    """
    from torchvision.transforms import v2

    return v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()])


def center_crop(size: int | tuple[int, int]) -> Callable:
    """Return the transform that resizes an image to cover a size, and crops the center.

    Args:
        size: side of the result in pixels, or (height, width).
    """
    from torchvision.transforms import v2

    size = (size, size) if isinstance(size, int) else size
    return v2.Compose([shorten, partial(cover, size=size), v2.CenterCrop(size)])


def cover(
    image: Image.Image | Tensor, size: tuple[int, int], interpolation: str = "bilinear"
) -> Image.Image | Tensor:
    """Resize an image so that it just covers (height, width), as v2.Resize a square."""
    from torchvision.transforms import v2

    height, width = size
    rows, columns = v2.functional.get_size(image)
    if height * columns >= width * rows:
        size = [height, max(width, int(height * columns / rows))]
    else:
        size = [max(height, int(width * rows / columns)), width]
    kind = v2.InterpolationMode(interpolation)
    return v2.functional.resize(image, size, kind)


def shorten(image: Image.Image | Tensor) -> Image.Image | Tensor:
    """Cut off the ends of a strip more than 16 times as long as it is wide.

    Resized first and cropped then, a line of pixels would take gigabytes.
    """
    from torchvision.transforms import v2

    sides = v2.functional.get_size(image)
    longest = 16 * min(sides)
    if max(sides) <= longest:
        return image
    return v2.functional.center_crop(image, [min(side, longest) for side in sides])


def image_by_image(
    images: Tensor,
    generator: torch.Generator,
    *,
    first: Callable | None,
    transform: Callable,
) -> Tensor:
    """Augment a batch, then each image of it by a draw of its own.

    Args:
        images: uint8 (B, C, H, W).
        generator: a CPU ``torch.Generator``.
        first: augments the batch, or None.
        transform: a transform of torchvision's v2, of one uint8 image (C, H, W).

    Returns:
        Augmented images, uint8 (B, C, H, W), on the CPU.
    """
    if first is not None:
        images = first(images, generator)
    seed = torch.randint(2**62, (), generator=generator).item()
    with torch.random.fork_rng(devices=[]):  # v2 draws from the global generator
        torch.default_generator.manual_seed(seed)
        return torch.stack([transform(image) for image in images.cpu()])


def mixing(
    num_classes: int, *, mixup: float = 0.0, cutmix: float = 0.0
) -> Callable | None:
    """Return what mixes the images of a batch in pairs, and their labels likewise.

    Args:
        num_classes: number of classes K.
        mixup, cutmix: alpha of the Beta distribution that the share of the first image
            is drawn from; 0: not used. With both, one of them is drawn for each batch.

    Returns:
        ``mix(images, labels)`` for ``fit``, labels (B) become probabilities (B, K);
        None if neither is used.

    Raises:
        ValueError: an alpha is negative, or no number.

    Source: Zhang et al. (2018), section 2; Yun et al. (2019), section 3.
    """
    from torchvision.transforms import v2

    check_mixing(mixup=mixup, cutmix=cutmix)
    ways = [
        cls(alpha=float(alpha), num_classes=num_classes)
        for alpha, cls in ((mixup, v2.MixUp), (cutmix, v2.CutMix))
        if alpha
    ]
    return v2.RandomChoice(ways) if ways else None


def check_mixing(**alphas: float) -> None:
    """Raise a ValueError that names the argument of ``mixing`` that is out of range."""
    for name, alpha in alphas.items():
        if not 0 <= alpha < math.inf:
            raise ValueError(f"{name} {alpha} is not a number from 0 on")
