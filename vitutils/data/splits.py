"""Splits of a dataset: images in memory or on disk that come in normalized batches."""

import hashlib
import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info

from vitutils.data import files
from vitutils.data.augmentation import center_crop, image_by_image, shift_and_flip
from vitutils.data.shards import size_of

SEED = 0  # of the images held out for validation and of the order of subset(n)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class Split:
    """Labelled images in batches: what splits share, wherever the images are.

    Attributes:
        labels: true classes, int64 (N,).
        mean, std: normalize the images in [0, 1], one value a channel.
        repeats: times that an image comes, if it comes, in an epoch of training, each
            time augmented anew; see ``strengthen``.
    """

    labels: Tensor
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    repeats: int = 1

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self):
        height, width = files.pair(self.image_size)
        return f"<{len(self):,} images of {self.in_channels}x{height}x{width}>"

    def digest(self) -> str:
        """Return what differs where the images, their order or the labels differ.

        Streamed images count by the names and sizes of their files.
        """
        found = hashlib.sha256(self.labels.cpu().numpy().tobytes())
        found.update(
            repr((self.image_size, self.in_channels, self.mean, self.std)).encode()
        )
        self._add_images(found)
        return f"of SHA-256 {found.hexdigest()[:16]}"

    def num_batches(self, batch_size: int) -> int:
        """Return the number of batches in one pass over the images.

        Raises:
            ValueError: ``batch_size`` is not positive.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size {batch_size} is not positive")
        return -(-len(self) // batch_size)

    def batches(
        self,
        batch_size: int,
        *,
        seed: int | None = None,
        epoch: int = 0,
        start: int = 0,
        device: torch.device | str = "cpu",
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every image once, in batches; the last one may be smaller.

        In training with ``repeats``, a share of the images comes so many times each.

        Args:
            batch_size: number of images B in a batch.
            seed: None for the images as they are, in order; an int for shuffled
                and augmented ones. Seed and epoch alone determine the order; with
                a batch's index they determine its augmentation.
            epoch: number of the pass; each has another order.
            start: number of batches to skip without preparing them; the remaining
                ones do not change.
            device: where the batches go.

        Returns:
            An iterator of normalized images, float32 (B, C, H, W), and labels (B,).

        Raises:
            ValueError: ``batch_size`` is not positive, or ``start`` is no number of
                batches.
        """
        parts = self.micro_batches(
            batch_size, seed=seed, epoch=epoch, start=start, device=device
        )
        return ((images, labels) for images, labels, _ in parts)

    def micro_batches(
        self,
        batch_size: int,
        *,
        parts: int = 1,
        mine: Sequence[int] = (0,),
        seed: int | None = None,
        epoch: int = 0,
        start: int = 0,
        device: torch.device | str = "cpu",
    ) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Cut each batch into parts and yield mine of them, one after the other.

        So that processes share a batch, or one process computes it bit by bit.

        Args:
            batch_size, seed, epoch, start, device: as for ``batches``.
            parts: number of parts; they are as equal as can be. Each has an
                augmentation of its own, whoever yields it.
            mine: indices of the parts to yield.

        Returns:
            An iterator of images, labels and the share of the batch that they are:
            the shares of all parts add up to 1. A part of a batch that has fewer
            images than parts may be empty: it comes as one image with a share of 0.

        Raises:
            ValueError: as for ``batches``.
        """
        total = self.num_batches(batch_size)
        if not 0 <= start <= total:
            raise ValueError(f"start {start} is not between 0 and {total} batches")
        if seed is None:
            order = torch.arange(len(self))
        else:
            seed = int(seed)  # NumPy's 3 is 3
            order = torch.randperm(len(self), generator=generator(seed, epoch))
            order = order.repeat_interleave(self.repeats)[: len(self)]
        rows, keys, shares = [], [], []
        for index, batch in enumerate(order.split(batch_size)):
            if seed is not None:
                # Copies apart, so that they come to different parts, and hardly an
                # image is mixed with itself where neighbors are (see ``mixing``).
                batch = torch.cat(
                    [batch[i :: self.repeats] for i in range(self.repeats)]
                )
            pieces = batch.tensor_split(parts)
            for part in mine if index >= start else ():
                piece = pieces[part]
                rows.append(piece if len(piece) else batch[:1])
                number = index * parts + part
                keys.append(None if seed is None else (seed, epoch, number))
                shares.append(len(piece) / len(batch))
        return self._normalized(rows, keys, shares, device)

    def _normalized(self, rows, keys, shares, device):
        device = torch.device(device)
        mean = 255 * torch.tensor(self.mean, device=device).view(-1, 1, 1)
        std = 255 * torch.tensor(self.std, device=device).view(-1, 1, 1)
        pixels = self._pixels(rows, keys, device)
        for row, pixel, share in zip(rows, pixels, shares, strict=True):
            images = pixel.to(device, non_blocking=True).float().sub_(mean).div_(std)
            yield images, self.labels[row].to(device), share

    def subset(self, which: int | Sequence[int] | Tensor) -> "Split":
        """Return a smaller split of the same kind.

        Args:
            which: indices of the images, or how many to take: the first of one fixed
                shuffled order, so that a larger subset contains a smaller one.

        Raises:
            ValueError: there are not so many images, or no such indices.
        """
        if isinstance(which, int):
            if not 1 <= which <= len(self):
                raise ValueError(f"cannot take {which} of {len(self)} images")
            which = torch.randperm(len(self), generator=generator(SEED))[:which]
        which = torch.as_tensor(which)
        is_int = which.dtype in (torch.int64, torch.int32)
        if not is_int or which.ndim != 1 or not len(which):
            raise ValueError(
                f"indices must be one or more ints in a row, not {which!r}"
            )
        if which.min() < 0 or which.max() >= len(self):
            raise ValueError(
                f"indices from {which.min()} to {which.max()} do not fit "
                f"{len(self)} images"
            )
        return self._take(which)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class MemorySplit(Split):
    """Images held in memory, uint8 (N, C, H, W), on the CPU or another device.

    Attributes:
        images: all of them, uint8 (N, C, H, W).
        augment: turns a batch of uint8 images, with a CPU generator, into one to train
            on; None leaves the images as they are.
        workers: processes that augment ahead of time, from images on the CPU; 0: it is
            done here, when a batch is asked for.
    """

    images: Tensor
    augment: Callable | None = shift_and_flip
    workers: int = 0

    @property
    def image_size(self) -> int | tuple[int, int]:
        """Side of the images in pixels, or (height, width) if they are no squares."""
        return files.unpair(self.images.shape[2:])

    @property
    def in_channels(self) -> int:
        """Number of image channels, 1 for gray and 3 for color."""
        return self.images.shape[1]

    def _take(self, which):
        return replace(self, images=self.images[which], labels=self.labels[which])

    def _add_images(self, digest):
        digest.update(self.images.cpu().contiguous().numpy())

    def _pixels(self, rows, keys, device):
        if self.workers and self.augment and any(keys):
            yield from ahead(self._augmented, rows, keys, device, self.workers)
            return
        for row, key in zip(rows, keys, strict=True):
            yield self._augmented((row, key), device)

    def _augmented(self, item, device="cpu"):
        row, key = item
        pixels = self.images.index_select(0, row.to(self.images.device)).to(device)
        return self.augment(pixels, generator(*key)) if key and self.augment else pixels

    def pixel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation of each channel, pixels in [0, 1].

        They are made of whole numbers, and so to the last bit the same on every
        processor: a run is known by them when it goes on elsewhere.
        """
        values, means, deviations = torch.arange(256), [], []
        for plane in self.images.unbind(1):
            counts = plane.flatten().bincount(minlength=256)
            n, total = int(counts.sum()), int(counts @ values)
            squares = int(counts @ values**2)
            means.append(total / (255 * n))
            deviation = math.sqrt((n * squares - total**2) / n**2) / 255
            # One even gray has no deviation: dividing by a gray level does no harm.
            deviations.append(max(deviation, 1 / 255))
        return tuple(means), tuple(deviations)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class StreamedSplit(Split):
    """Images decoded from ``paths`` batch by batch, in several processes.

    Attributes:
        paths: files of the images.
        image_size: side in pixels, or (height, width), to which an image is brought.
        in_channels: number of image channels: 1 for gray, 3 for color.
        augment: turns one decoded Pillow image of any size into one of ``image_size``
            to train on, as torchvision's v2 transforms do, with torch's global random
            numbers; None takes the image as outside training.
        fit: the same outside training, without random numbers; None takes the center.
        workers: processes that decode and augment ahead of time; 0: it is done here,
            when a batch is asked for; None: as many as there are cores, at most 8.
    """

    paths: list[str]
    image_size: int | tuple[int, int]
    in_channels: int
    augment: Callable | None
    fit: Callable | None = None
    workers: int | None = None

    def _take(self, which):
        paths = [self.paths[index] for index in which.tolist()]
        return replace(self, paths=paths, labels=self.labels[which])

    def _add_images(self, digest):
        for path in self.paths:
            name = os.path.join(*path.split(os.sep)[-2:])
            digest.update(f"{name} {size_of(path)} ".encode())

    def _pixels(self, rows, keys, device):
        faults = []
        workers = min(files.CORES, 8) if self.workers is None else self.workers
        for pixels in ahead(self._decode, rows, keys, device, workers):
            if isinstance(pixels, files.Unreadable):
                faults += pixels.args
                if any(keys):  # the rest of an epoch of training would take long
                    break
            elif not faults:
                yield pixels
        if faults:
            raise files.Unreadable(*faults)

    def _decode(self, item):
        row, key = item
        transform = self.fit or center_crop(self.image_size)
        paths = [self.paths[index] for index in row.tolist()]
        images, faults = [], []
        with torch.random.fork_rng(devices=[]):  # it may be the training process's
            if key and self.augment:
                transform = self.augment
                torch.default_generator.manual_seed(generator(*key).initial_seed())
            for path in paths:
                try:
                    images.append(files.read_image(path, self.in_channels, transform))
                except files.Unreadable as error:
                    faults += error.args
        # Raised here, it would arrive with a worker's traceback.
        return files.Unreadable(*faults) if faults else torch.stack(images)

    def pixel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation by channel, of at most 2,000 images."""
        sample = self.subset(min(len(self), 2000))
        fit = center_crop(self.image_size)
        pixels = files.read_images(sample.paths, self.in_channels, self.image_size, fit)
        return MemorySplit(labels=sample.labels, images=pixels).pixel_statistics()


def strengthen(
    split: Split,
    *,
    randaugment: int = 0,
    erase: float = 0.0,
    repeats: int = 1,
    workers: int | None = None,
) -> Split:
    """Return a training split that augments more than by crop and flip.

    Args:
        split: a training split of ``vitutils.data``; its own augmentation comes first.
        randaugment: magnitude, in [0, 30], of two random operations on each image;
            0: none.
        erase: probability, in [0, 1], that a rectangle of an image is painted over.
            It and what operations leave empty get the training images' mean color.
        repeats: times that a batch holds an image, each time augmented by a draw of its
            own. An epoch is as long as ever, so that it sees one of so many images.
        workers: processes that augment images, and decode streamed ones, ahead of
            time; 0: the training process does it; None: 0 for images held in memory,
            for streamed ones as many as there are cores, at most 8.

    Returns:
        A split of the same kind.

    Raises:
        ValueError: a setting is out of range.

    Source: Cubuk et al. (2020), section 3; Zhong et al. (2020), section 3; Hoffer et
    al. (2020), section 3, with epochs as in DeiT's code (its ``RASampler``).
    """
    from torchvision.transforms import v2

    check_strength(randaugment, erase, repeats, workers)
    split = replace(split, repeats=repeats)
    if workers is not None:
        split = replace(split, workers=workers)
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
    elif steps:
        steps = [split.augment, v2.PILToTensor(), *steps]
        split = replace(split, augment=v2.Compose(steps))
    return split


def check_strength(
    randaugment: int, erase: float, repeats: int, workers: int | None
) -> None:
    """Raise a ValueError that names the argument of ``strengthen`` out of range."""
    if randaugment not in range(31):
        raise ValueError(f"randaugment {randaugment} is no whole number in [0, 30]")
    if not 0 <= erase <= 1:
        raise ValueError(f"erase {erase} is no probability in [0, 1]")
    if repeats < 1:
        raise ValueError(f"repeats {repeats} is less than 1")
    if workers is not None and workers < 0:
        raise ValueError(f"workers {workers} is negative")


def ahead(
    make: Callable, rows: list[Tensor], keys: list, device: torch.device, workers: int
) -> Iterator:
    """Yield ``make((row, key))`` for each, made by processes ahead of time.

    Raises:
        OSError: they have no memory to share with this one.
    """
    made = DataLoader(
        list(zip(rows, keys, strict=True)),
        batch_size=None,  # an item is a whole batch, which one worker makes
        collate_fn=partial(shared, make),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # the global one stays as it is
    )
    for found in made:
        if isinstance(found, OSError):
            raise found
        yield found


def shared(make: Callable, item: Any) -> Any:
    """Make a batch, in a worker in memory that it shares, or return why it cannot.

    Left to the worker's queue, a batch for which there is none never arrives.
    """
    found = make(item)
    if torch.is_tensor(found) and get_worker_info():
        try:
            found.share_memory_()
        except RuntimeError as error:
            return OSError(
                f"the workers have no memory to share ({error}): give /dev/shm more, "
                "as docker run --shm-size does, or take fewer workers (--workers 0)"
            )
    return found


def generator(*key: int) -> torch.Generator:
    """Return a CPU generator for a key such as (seed, epoch, batch index)."""
    return torch.Generator().manual_seed(random.Random(str(key)).getrandbits(63))
