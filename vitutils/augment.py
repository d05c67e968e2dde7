"""The augmentation of long runs, all of it torchvision's."""

from dataclasses import replace
from functools import partial

import torch
from torchvision.transforms import v2

from vitutils.splits import MemorySplit


def strengthen(split, *, randaugment=0, erase=0.0, workers=0):
    """Return a training split that augments more than by crop and flip.

    Args:
        split: a training split of ``vitutils.data``; its own augmentation comes first.
        randaugment: magnitude, in [0, 30], of two random operations on each image;
            0: none.
        erase: probability, in [0, 1], that a rectangle of an image is painted over.
            It and what operations leave empty get the training images' mean color.
        workers: processes that augment ahead of time, for images held in memory; 0:
            the training process does it. Streamed images have theirs anyway.

    Returns:
        A split of the same kind.

    Raises:
        ValueError: a setting is out of range.

    Source: Cubuk et al. (2020), section 3; Zhong et al. (2020), section 3.
    """
    if randaugment not in range(31):
        raise ValueError(f"randaugment {randaugment} is no whole number in [0, 30]")
    if not 0 <= erase <= 1:
        raise ValueError(f"erase {erase} is no probability in [0, 1]")
    if workers < 0:
        raise ValueError(f"workers {workers} is negative")
    color = [255 * value for value in split.mean]
    steps = []
    if randaugment:
        steps.append(v2.RandAugment(magnitude=randaugment, fill=color))
    if erase:
        steps.append(v2.RandomErasing(erase, value=color))
    if isinstance(split, MemorySplit):
        if steps:
            augment = partial(
                image_by_image, first=split.augment, transform=v2.Compose(steps)
            )
            split = replace(split, augment=augment)
        return replace(split, workers=workers)
    if steps:
        steps = [split.augment, v2.PILToTensor(), *steps]
        split = replace(split, augment=v2.Compose(steps))
    return split


def image_by_image(images, generator, *, first, transform):
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


def mixing(num_classes, *, mixup=0.0, cutmix=0.0):
    """Return what mixes the images of a batch in pairs, and their labels likewise.

    Args:
        num_classes: number of classes K.
        mixup, cutmix: alpha of the Beta distribution that the share of the first image
            is drawn from; 0: not used. With both, one of them is drawn for each batch.

    Returns:
        ``mix(images, labels)`` for ``fit``, labels (B) become probabilities (B, K);
        None if neither is used.

    Raises:
        ValueError: an alpha is negative.

    Source: Zhang et al. (2018), section 2; Yun et al. (2019), section 3.
    """
    ways = []
    for name, alpha, cls in (
        ("mixup", mixup, v2.MixUp),
        ("cutmix", cutmix, v2.CutMix),
    ):
        if alpha < 0:
            raise ValueError(f"{name} {alpha} is negative")
        if alpha:
            ways.append(cls(alpha=alpha, num_classes=num_classes))
    return v2.RandomChoice(ways) if ways else None
