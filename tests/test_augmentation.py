"""The augmentation of long runs."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from vitutils.data.augmentation import crop_and_flip, mixing
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


def test_streamed_images_too(tmp_path, split):
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
    [{"randaugment": 31}, {"randaugment": 2.5}, {"erase": 1.5}, {"workers": -1}],
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
    with pytest.raises(ValueError, match="mixup -1"):
        mixing(10, mixup=-1)
