"""Models from anywhere, with what they want of images."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torchvision.models import ViT_B_16_Weights
from torchvision.transforms import v2

from vitutils.data.preprocessing import Preprocessing
from vitutils.distill import ConvNet
from vitutils.engine.checkpoints import save_model
from vitutils.engine.published import PUBLISHED, Published
from vitutils.engine.weights import load_weights

GRAY = Preprocessing((8, 8), (0.3,), (0.2,))
COLOR = Preprocessing((8, 8), (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))


def photo(height, width):
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8))


def timm_vit(**sizes):
    """A ViT of timm with 24 features and 3 heads, which its file does not tell."""
    torch.manual_seed(0)
    sizes = {"img_size": 8, "patch_size": 4, "num_classes": 2} | sizes
    sizes = {"embed_dim": 24, "depth": 1, "num_heads": 3} | sizes
    return timm.models.VisionTransformer(**sizes).eval()


# ---- images as a model wants them ----


@pytest.mark.parametrize("size", [(300, 400), (501, 333), (256, 256), (40, 37)])
def test_a_photo_is_read_as_torchvision_evaluates_its_weights(tmp_path, size):
    photo(*size).save(tmp_path / "photo.png")
    told = PUBLISHED["vit_b_16"]
    mine = Preprocessing(
        (224, 224), told.mean, told.std, told.crop, told.interpolation
    ).read(tmp_path / "photo.png")
    theirs = ViT_B_16_Weights.IMAGENET1K_V1.transforms()(photo(*size))
    torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "name",
    ["vit_small_patch16_224.augreg_in21k_ft_in1k", "augreg_ti_16", "augreg_b_16"],
)
def test_a_photo_is_read_as_timm_evaluates_its_weights(tmp_path, name):
    photo(300, 401).save(tmp_path / "photo.png")
    told = PUBLISHED[name]
    mine = Preprocessing(
        (224, 224), told.mean, told.std, told.crop, told.interpolation
    ).read(tmp_path / "photo.png")
    config = timm.get_pretrained_cfg("vit_small_patch16_224.augreg_in21k_ft_in1k")
    settings = timm.data.resolve_data_config(pretrained_cfg=config.to_dict())
    theirs = timm.data.create_transform(**settings)(photo(300, 401))
    torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=0)


def test_crops_of_the_publishers_evaluations():
    """DeiT resizes to int(size / 0.875) in its main.py, DINOv2 to 256 for 224."""
    for name, told in PUBLISHED.items():
        if "deit" in name or "dino" in name:
            assert (told.crop, told.interpolation) == (0.875, "bicubic")


@pytest.mark.parametrize("given, wanted", [(GRAY, COLOR), (COLOR, GRAY)])
def test_images_of_one_model_are_turned_into_those_of_another(given, wanted):
    pixels = torch.randint(256, (4, len(given.mean), 8, 8), dtype=torch.uint8)
    turned = given.convert(given.normalize(pixels), wanted)
    as_read = v2.functional.rgb_to_grayscale(pixels, 3)  # rounds to 8 bits
    if wanted is GRAY:
        weights = torch.tensor([0.299, 0.587, 0.114]).view(-1, 1, 1)
        as_read = (pixels * weights).sum(1, keepdim=True)
    else:
        as_read = pixels.expand(-1, 3, -1, -1)
    torch.testing.assert_close(turned, wanted.normalize(as_read), atol=1e-5, rtol=0)


def test_images_that_fit_are_left_to_the_last_bit():
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(COLOR.convert(images, COLOR), images)


def test_images_are_resized_within_black_and_white():
    large = Preprocessing((12, 20), (0.0,), (1.0,), interpolation="bicubic")
    images = GRAY.normalize(255 * torch.eye(8).expand(1, 1, 8, 8))
    turned = GRAY.convert(images, large)
    assert turned.shape == (1, 1, 12, 20)
    assert turned.min() == 0 and turned.max() <= 1


# ---- what files tell ----


def test_a_published_name_and_its_file_are_the_same(tmp_path, monkeypatch):
    theirs = timm_vit()
    path = tmp_path / "toy_vit-official.pth"
    torch.save(theirs.state_dict(), path)
    toy = Published("https://example.org/toy_vit-official.pth", mean=(0.1, 0.2, 0.3))
    monkeypatch.setitem(PUBLISHED, "toy", toy)
    monkeypatch.setenv("VITUTILS_WEIGHTS", str(tmp_path))
    by_name, by_file = (load_weights(n, num_heads=3) for n in ("toy", path))
    assert by_name.preprocessing == by_file.preprocessing
    assert by_file.preprocessing.mean == (0.1, 0.2, 0.3)
    assert by_file.preprocessing.crop == 0.875
    for name, value in by_name.model.state_dict().items():
        assert torch.equal(by_file.model.state_dict()[name], value)


def test_published_weights_know_the_names_of_imagenet(tmp_path, monkeypatch):
    torch.save(timm_vit(num_classes=1000).state_dict(), tmp_path / "toy.pth")
    monkeypatch.setitem(PUBLISHED, "toy", Published("https://example.org/toy.pth"))
    monkeypatch.setenv("VITUTILS_WEIGHTS", str(tmp_path))
    names = load_weights("toy", num_heads=3).preprocessing.classes
    assert len(names) == 1000
    assert (names[0], names[281], names[999]) == ("tench", "tabby", "toilet tissue")
    assert not load_weights("toy", num_heads=3, num_classes=7).preprocessing.classes


def test_a_file_that_says_nothing_is_asked_about(tmp_path):
    torch.save(timm_vit().state_dict(), tmp_path / "theirs.pth")
    path = tmp_path / "theirs.pth"
    with pytest.raises(
        ValueError, match=r"theirs\.pth does not say .*\(--mean, --std\)"
    ):
        load_weights(path, num_heads=3)
    with pytest.raises(ValueError, match="wants images of 3 channels"):
        load_weights(path, num_heads=3, mean=[0.5], std=[0.5])
    with pytest.raises(ValueError, match="no std of images"):
        load_weights(path, num_heads=3, mean=[0.5] * 3, std=[0.0] * 3)
    told = load_weights(path, num_heads=3, mean=[0.5] * 3, std=[0.2] * 3).preprocessing
    assert told == Preprocessing((8, 8), (0.5,) * 3, (0.2,) * 3)


def test_an_old_checkpoint_is_asked_about(tmp_path):
    path = tmp_path / "old.safetensors"
    save_model(ConvNet(in_channels=1, num_classes=2, widths=[4]), path)
    with pytest.raises(ValueError, match="does not say how its images are norm"):
        load_weights(path)
    with pytest.raises(ValueError, match="does not say how large its images are"):
        load_weights(path, mean=[0.3], std=[0.2])
    told = load_weights(path, mean=[0.3], std=[0.2], image_size=(8, 8)).preprocessing
    assert told == GRAY


def test_what_a_file_tells_is_not_said_otherwise(tmp_path):
    path = tmp_path / "new.safetensors"
    save_model(ConvNet(in_channels=1, num_classes=2, widths=[4]), path, GRAY)
    assert load_weights(path).preprocessing == GRAY
    assert load_weights(path, mean=[0.3], std=[0.2]).preprocessing == GRAY
    with pytest.raises(ValueError, match=r"tells its own std, 0\.2: leave out std"):
        load_weights(path, std=[0.21])
