"""The augmentation of long runs."""

import math
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader

from vitutils.data import files, splits
from vitutils.data.augmentation import (
    center_crop,
    crop_and_flip,
    flip,
    image_by_image,
    mixing,
    random_resized_crop,
    shift_and_flip,
)
from vitutils.data.splits import MemorySplit, StreamedSplit, generator, strengthen


@pytest.fixture
def split():
    pixels = torch.randint(256, (40, 3, 16, 16), generator=generator(0))
    return MemorySplit(
        labels=torch.arange(40) % 4,
        images=pixels.to(torch.uint8),
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.2, 0.2),
    )


def epoch(split, **others):
    parts = list(split.batches(16, seed=3, **others))
    return torch.cat([images for images, _ in parts])


def test_the_seed_decides_and_the_global_generator_stays(split):
    strong = strengthen(split, randaugment=9, erase=0.5)
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = epoch(strong)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    assert torch.equal(epoch(strong), first)
    assert not torch.equal(epoch(strong, epoch=1), first)
    assert not torch.equal(epoch(split), first)


def test_each_image_has_a_draw_of_its_own(split):
    same = replace(split, images=split.images[:1].expand(40, -1, -1, -1), augment=None)
    images = epoch(strengthen(same, randaugment=9))
    assert len(images.flatten(1).unique(dim=0)) > 20


def test_workers_make_the_same_images(split):
    strong = strengthen(split, randaugment=9, erase=0.5)
    ahead = strengthen(split, randaugment=9, erase=0.5, workers=2)
    assert torch.equal(epoch(ahead), epoch(strong))
    assert torch.equal(epoch(ahead, start=1), epoch(strong)[16:])


@pytest.mark.timeout(60)
def test_workers_without_shared_memory_end_a_run(split, monkeypatch):
    def full(tensor):
        raise RuntimeError("unable to allocate shared memory")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(OSError, match=r"to allocate .* docker run --shm-size"):
        epoch(strengthen(split, erase=0.5, workers=1))


def test_outside_training_images_stay_as_they_are(split):
    strong = strengthen(split, randaugment=9, erase=1.0, workers=2)
    (plain, _), *_ = split.batches(16)
    (found, _), *_ = strong.batches(16)
    assert torch.equal(found, plain)


def test_a_rectangle_gets_the_mean_color(split):
    erased = epoch(strengthen(replace(split, augment=None), erase=1.0))
    plain = epoch(replace(split, augment=None))
    changed = (erased != plain).any(dim=1)  # (40, 16, 16)
    for image, mask in zip(erased, changed, strict=True):
        rows, columns = mask.any(1).sum(), mask.any(0).sum()
        assert 0 < mask.sum() <= rows * columns < 16 * 16
        assert image[:, mask].abs().max() < 0.02  # the mean, but for whole gray levels


def test_streamed_images_too(tmp_path, split, monkeypatch):
    paths = []
    for i, image in enumerate(split.images[:6]):
        paths.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(image.permute(1, 2, 0).numpy()).resize((40, 30)).save(paths[-1])
    streamed = StreamedSplit(
        labels=torch.arange(6),
        paths=paths,
        image_size=16,
        in_channels=3,
        augment=crop_and_flip(16),
        mean=split.mean,
        std=split.std,
    )
    strong = strengthen(streamed, randaugment=9, erase=1.0)
    ((images, _),) = strong.batches(6, seed=0)
    ((again, _),) = strong.batches(6, seed=0)
    ((plain, _),) = streamed.batches(6, seed=0)
    assert images.shape == (6, 3, 16, 16)
    assert torch.equal(images, again)
    assert not torch.equal(images, plain)
    asked = []

    def make(*arguments, **given):
        asked.append(given["num_workers"])
        return DataLoader(*arguments, **given)

    monkeypatch.setattr(splits, "DataLoader", make)
    monkeypatch.setattr(files, "CORES", 2)
    before = torch.get_rng_state()
    for workers in (0, 1):
        others = strengthen(streamed, randaugment=9, erase=1.0, workers=workers)
        ((again, _),) = others.batches(6, seed=0)
        assert torch.equal(images, again)
        assert torch.equal(torch.get_rng_state(), before)
    assert others.workers == 1 and strengthen(others).workers == 1
    next(streamed.batches(6))
    assert asked == [0, 1, 2]


@pytest.mark.parametrize("channels", [1, 3])
def test_gray_images_too(split, channels):
    split = replace(
        split,
        images=split.images[:, :channels],
        mean=split.mean[:channels],
        std=split.std[:channels],
    )
    assert epoch(strengthen(split, randaugment=9, erase=1.0)).shape[1] == channels


@pytest.mark.parametrize(
    "wrong",
    [
        {"randaugment": 31},
        {"randaugment": 2.5},
        {"erase": 1.5},
        {"repeats": 0},
        {"workers": -1},
    ],
)
def test_settings_out_of_range_name_the_value(split, wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} {value}"):
        strengthen(split, **wrong)


@pytest.mark.parametrize("settings", [{"mixup": 0.8}, {"cutmix": 1.0}])
def test_labels_are_mixed_as_the_images_are(settings):
    """Images that are all of one number a class: their mean tells the mixture."""
    labels = torch.tensor([0, 1] * 8)
    images = labels.float().view(-1, 1, 1, 1).expand(-1, 1, 16, 16)
    torch.manual_seed(0)
    mixed, soft = mixing(2, **settings)(images, labels)
    torch.testing.assert_close(soft.sum(1), torch.ones(16))
    torch.testing.assert_close(mixed.mean(dim=(1, 2, 3)), soft[:, 1])
    assert 0 < soft[0, 1] < 1


@pytest.mark.parametrize("way", ["mixup", "cutmix"])
def test_alpha_says_how_evenly_two_images_share(way):
    """From Beta(alpha, alpha): near 0 one of them has all, with more it is half."""
    images, labels = torch.zeros(2, 1, 16, 16), torch.arange(2)
    torch.manual_seed(0)
    spread = []
    for alpha in (0.1, 1, 10):
        mix = mixing(2, **{way: alpha})
        shares = [mix(images, labels)[1][0, 0].item() for _ in range(200)]
        spread.append(np.std(shares))
    assert spread[0] > 1.3 * spread[1] > 1.3**2 * spread[2]


def test_with_both_each_comes_in_turn():
    images = torch.rand(8, 1, 16, 16)
    mix = mixing(10, mixup=0.8, cutmix=1.0)
    torch.manual_seed(0)
    cut = [
        torch.isin(mix(images, torch.arange(8))[0], images).all().item()
        for _ in range(40)
    ]
    assert 10 < sum(cut) < 30


def test_nothing_to_mix_is_nothing():
    assert mixing(10) is None
    for way, alpha in product(("mixup", "cutmix"), (-1, math.nan, math.inf)):
        with pytest.raises(ValueError, match=f"^{way} {alpha} is not a number from 0"):
            mixing(10, **{way: alpha})


# Crops: of images that are as bright as their place, so that each crop tells its own.

SIDE = 64


def places(count):
    """Images (count, 2, 64, 64) of four times the column, and four times the row."""
    ramp = (4 * torch.arange(SIDE)).expand(SIDE, SIDE).to(torch.uint8)
    return torch.stack((ramp, ramp.T)).expand(count, -1, -1, -1)


def measured(crops):
    """Return centers and sides (B, 2), x before y, as shares of the image's side.

    A side is negative in a mirrored crop.
    """
    across, down = crops.double().div(4).unbind(1)
    centers, sides = [], []
    for lines in (across, down.transpose(1, 2)):
        assert (lines - lines[:, :1]).abs().max() <= 0.25  # neither turned nor sheared
        inner = lines[:, 0, 8:-8]  # at the edge of the image pixels are repeated
        left, right = inner[:, :16].mean(1), inner[:, -16:].mean(1)
        middle, step = (left + right) / 2, (right - left) / 32
        line = middle[:, None] + step[:, None] * (torch.arange(48) - 23.5)
        assert (inner - line).abs().max() < 0.3  # rounded to a quarter
        centers.append((middle + 0.5) / SIDE)
        sides.append(step)
    return torch.stack(centers, dim=1), torch.stack(sides, dim=1)


def evenly(values, low, high):
    """Tell whether values are drawn evenly between two limits, up to both."""
    slack = 0.03 * (high - low)
    ends = abs(values.min() - low) < slack and abs(values.max() - high) < slack
    return ends and abs(values.mean() - (low + high) / 2) < 2 * slack


def test_a_resized_crop_has_any_place_area_and_shape_and_half_are_mirrored():
    """Each image by draws of its own, none of which tells of another."""
    crops = random_resized_crop(places(1000), generator(0), scale=(0.2, 0.5))
    assert crops.dtype == torch.uint8 and crops.shape == (1000, 2, SIDE, SIDE)
    centers, sides = measured(crops)
    width, height = sides.abs().unbind(1)
    mirrored = sides[:, 0] < 0
    assert 0.45 < mirrored.double().mean() < 0.55
    assert (sides[:, 1] > 0).all()  # none stands on its head
    area, shape = width * height, (width / height).log()
    x, y = ((centers - sides.abs() / 2) / (1 - sides.abs())).unbind(1)
    assert evenly(area, 0.2, 0.5)
    assert evenly(shape, math.log(3 / 4), math.log(4 / 3))
    assert evenly(x, 0, 1) and evenly(y, 0, 1)
    draws = torch.stack((area, shape, x, y, mirrored.double()))
    assert (np.corrcoef(draws) - np.eye(5)).max() < 0.15


def test_a_crop_of_the_whole_area_has_one_side_of_the_image_and_no_more():
    centers, sides = measured(
        random_resized_crop(places(300), generator(0), scale=(1, 1))
    )
    width, height = sides.abs().unbind(1)
    assert torch.allclose(
        torch.maximum(width, height), torch.ones(()).double(), atol=0.01
    )
    assert (torch.minimum(width, height) < 0.9).any()
    assert (centers - sides.abs() / 2 > -0.01).all()
    assert (centers + sides.abs() / 2 < 1.01).all()


def test_by_default_a_twentieth_to_all_of_the_image_is_left():
    _, sides = measured(random_resized_crop(places(1000), generator(0)))
    assert evenly(sides.abs().prod(dim=1), 0.05, 1)


@pytest.mark.parametrize("level", [7, 255])
def test_an_even_image_stays_as_it_is(level):
    images = torch.full((200, 1, 9, 13), level, dtype=torch.uint8)
    assert torch.equal(random_resized_crop(images, generator(0)), images)


def test_crops_of_photos_have_any_place_and_half_are_mirrored():
    transform, (image,) = crop_and_flip(SIDE), places(1)
    torch.manual_seed(0)
    centers, sides = measured(torch.stack([transform(image) for _ in range(300)]))
    assert 0.4 < (sides[:, 0] < 0).double().mean() < 0.6
    assert (sides[:, 1] > 0).all()
    for x, side in zip(centers.unbind(1), sides.abs().unbind(1), strict=True):
        assert x[side < 0.7].min() < 0.4 and x[side < 0.7].max() > 0.6
    assert sides.abs().prod(1).min() < 0.15 and sides.abs().prod(1).max() > 0.9


def test_the_center_of_a_photo_is_as_high_as_the_photo():
    ramp = torch.arange(0, 250, 2).to(torch.uint8)  # 125 columns, 50 of them shown
    found = center_crop(25)(ramp.expand(1, 50, 125)).double()
    assert found.shape == (1, 25, 25)
    torch.testing.assert_close(found[0, 0], found[0, -1])
    expected = 2 * (37.5 + 2 * torch.arange(25).double() + 0.5)
    assert (found[0, 0] - expected).abs().max() < 3


def test_images_that_are_no_squares_are_shifted_both_ways_and_half_mirrored():
    """By an eighth of the height, each by a draw of its own; what comes in is black."""
    H, W, pad = 16, 40, 2
    rows, columns = torch.arange(1, H + 1), torch.arange(1, W + 1)
    image = torch.stack((rows[:, None].expand(H, W), columns.expand(H, W)))
    image = image.to(torch.uint8)
    windows = {}
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            window = F.pad(image, (pad,) * 4)[:, top : top + H, left : left + W]
            windows[window.numpy().tobytes()] = (top, left, False)
            windows[window.flip(2).numpy().tobytes()] = (top, left, True)
    shifted = shift_and_flip(image.expand(400, -1, -1, -1), generator(0))
    draws = [windows[each.numpy().tobytes()] for each in shifted]
    assert set(draws) == set(windows.values())


@pytest.mark.parametrize(
    "augment",
    [
        flip,
        shift_and_flip,
        random_resized_crop,
        partial(image_by_image, first=flip, transform=crop_and_flip(16)),
    ],
    ids=["flip", "shift", "resized", "image by image"],
)
def test_the_generator_alone_decides(augment, split):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    found = augment(split.images, generator(0))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(8)
    assert torch.equal(augment(split.images, generator(0)), found)
    assert not torch.equal(augment(split.images, generator(1)), found)
    one = generator(0)
    assert torch.equal(augment(split.images, one), found)
    assert not torch.equal(augment(split.images, one), found)  # drawn from, not read


@pytest.mark.parametrize("augment", [flip, shift_and_flip, random_resized_crop])
def test_images_stay_on_their_device(augment, split):
    assert augment(split.images.to("meta"), generator(0)).device.type == "meta"


def test_a_batch_is_augmented_first_and_then_image_by_image():
    images = torch.arange(12, dtype=torch.uint8).view(3, 1, 2, 2)

    def first(batch, generator):
        return batch + 1

    found = image_by_image(images, generator(0), first=first, transform=lambda x: 2 * x)
    assert torch.equal(found, 2 * (images + 1))


def test_no_image_of_any_batch_has_anothers_draw():
    one = generator(0)

    def draw(image):
        return torch.randint(2**40, ())

    images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    batches = [
        image_by_image(images, one, first=None, transform=draw) for _ in range(200)
    ]
    assert len(torch.cat(batches).unique()) == 3 * 200
