"""Models from anywhere, with what they want of images."""

import re
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import models
from torchvision.models import ViT_B_16_Weights
from torchvision.transforms import v2

from vitutils.cli.parts import make_model
from vitutils.cli.train import main, options_of
from vitutils.data import load
from vitutils.data.augmentation import mixing
from vitutils.data.preprocessing import Preprocessing
from vitutils.distill import ConvNet, Teacher, hard_distillation
from vitutils.engine import formats, libraries
from vitutils.engine.checkpoints import save_model
from vitutils.engine.libraries import alike, as_ours
from vitutils.engine.published import PUBLISHED, Published
from vitutils.engine.weights import Converting, Weights, load_weights
from vitutils.pretrained import at_image_size
from vitutils.vit import VisionTransformer

TINY = "--epochs=1 --batch-size=6 --images=6 --device=cpu --patch-size=4 --embed-dim=16"
TINY = [*TINY.split(), "--depth=1", "--num-heads=2", "--mlp-dim=32"]
GRAY = Preprocessing((8, 8), (0.3,), (0.2,))
COLOR = Preprocessing((8, 8), (0.5, 0.4, 0.3), (0.1, 0.2, 0.3))


@pytest.fixture(autouse=True)
def small_files_are_published(monkeypatch):
    monkeypatch.setattr(formats, "SIDES", {8, *formats.SIDES})


def photo(height, width):
    generator = np.random.default_rng(0)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8))


def timm_vit(cls=timm.models.VisionTransformer, **sizes):
    """A ViT of timm with 24 features and 3 heads, which its file does not tell."""
    torch.manual_seed(0)
    sizes = {"img_size": 8, "patch_size": 4, "num_classes": 2} | sizes
    sizes = {"embed_dim": 24, "depth": 1, "num_heads": 3} | sizes
    return cls(**sizes).eval()


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


@pytest.mark.parametrize("size", [24, (24, 36), (36, 24), (7, 25)])
def test_a_photo_is_read_as_the_data_that_a_model_learned_from(tmp_path, size):
    """A model of the book predicts on what it would see in its own test images."""
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            for i, sides in enumerate([(37, 53), (61, 29), (24, 24), (90, 91)]):
                photo(*sides).save(tmp_path / part / name / f"{i}.png")
    data = load(tmp_path, image_size=size)
    images, _ = next(data.test.batches(8))
    paths = sorted((tmp_path / "test").glob("*/*.png"))
    read = torch.stack([data.preprocessing.read(path) for path in paths])
    torch.testing.assert_close(read, images, atol=1e-5, rtol=0)


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
        ValueError, match=r"theirs\.pth does not say .*\(--mean and --std"
    ):
        load_weights(path, num_heads=3)
    with pytest.raises(ValueError, match="wants images of 3 channels"):
        load_weights(path, num_heads=3, mean=[0.5], std=[0.5])
    with pytest.raises(ValueError, match="no std of images"):
        load_weights(path, num_heads=3, mean=[0.5] * 3, std=[0.0] * 3)
    for mean, std in (([124, 116, 104], [0.2] * 3), ([0.5] * 3, [58, 57, 57])):
        with pytest.raises(ValueError, match=r"(mean|std) of images, in \[0, 1\], is"):
            load_weights(path, num_heads=3, mean=mean, std=std)
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


# ---- a start on other images ----


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return folders(channels): 8x8 photos of two classes, in color or gray."""
    found = {}
    for channels in (1, 3):
        root = found[channels] = tmp_path_factory.mktemp(f"{channels}channels")
        generator = np.random.default_rng(channels)
        for part, count in (("train", 12), ("test", 4)):
            for number, name in enumerate(("dark", "light")):
                (root / part / name).mkdir(parents=True)
                for i in range(count):
                    shape = (8, 8, 3)[: 3 if channels == 3 else 2]
                    pixels = generator.integers(0, 150, shape, np.uint8) + 100 * number
                    image = Image.fromarray(pixels.astype(np.uint8))
                    image.save(root / part / name / f"{i}.png")
    return found


def started(folder, *words):
    """Return the model that a run starts from, and images of its data."""
    words = ["--data", str(folder), *map(str, words)]
    data = load(folder)
    images, _ = next(data.test.batches(8))
    return make_model(options_of(words), data).eval(), images, data.preprocessing


def vit(in_channels, **sizes):
    torch.manual_seed(in_channels)
    sizes = {"image_size": 8, "patch_size": 4, "num_classes": 2} | sizes
    sizes = {"embed_dim": 16, "depth": 1, "num_heads": 2, "mlp_dim": 32} | sizes
    return VisionTransformer(in_channels=in_channels, **sizes).eval()


def test_a_start_by_name_by_file_and_by_a_file_of_ours_is_one(
    folders, tmp_path, monkeypatch
):
    """Wrong mean and std moved the logits by up to 0.59 without a word."""
    theirs = timm_vit()
    for weight in (theirs.patch_embed.proj.weight, theirs.head.weight):
        weight.data *= 10  # as large as after a training
    torch.save(theirs.state_dict(), tmp_path / "toy.pth")
    monkeypatch.setitem(PUBLISHED, "toy", Published("https://example.org/toy.pth"))
    monkeypatch.setenv("VITUTILS_WEIGHTS", str(tmp_path))
    mean, std = PUBLISHED["toy"].mean, PUBLISHED["toy"].std
    (other := tmp_path / "renamed.pth").write_bytes((tmp_path / "toy.pth").read_bytes())
    ours = tmp_path / "ours.safetensors"
    toy, told = load_weights("toy", num_heads=3)
    save_model(toy, ours, told)
    heads = ["--num-heads", 3]
    for words in (
        ["toy", *heads],
        [tmp_path / "toy.pth", *heads],
        [other, *heads, "--mean", *mean, "--std", *std],
        [ours],
    ):
        model, images, own = started(folders[3], "--init", *words)
        wanted = own.convert(images, Preprocessing((8, 8), mean, std))
        with torch.no_grad():
            torch.testing.assert_close(model(images), theirs(wanted), atol=1e-5, rtol=0)
    assert (model(images) - theirs(images)).abs().max() > 0.05  # as it was


@pytest.mark.parametrize("known", [1, 3])
@pytest.mark.parametrize("given", [1, 3])
def test_a_start_answers_on_other_images_as_on_its_own(
    folders, tmp_path, capsys, known, given
):
    """Gray images are color ones with like channels; colors have a luminance."""
    path = tmp_path / "start.safetensors"
    told = {1: GRAY, 3: COLOR}[known]
    save_model(first := vit(known), path, told)
    model, images, own = started(folders[given], "--init", path)
    assert model.config["in_channels"] == given
    expected = first(own.convert(images, told))
    torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=0)
    said = {(3, 1): "for color, is folded into one for gray images"}
    said[1, 3] = "for gray images, is folded into one for color"
    printed = capsys.readouterr().out
    assert (said[known, given] in printed) if known != given else printed == ""


@pytest.mark.parametrize("known", [1, 3])
@pytest.mark.parametrize("given", [1, 3])
def test_a_convnet_starts_on_other_images_but_for_their_edges(
    folders, tmp_path, known, given
):
    path = tmp_path / "start.safetensors"
    torch.manual_seed(0)
    first = ConvNet(in_channels=known, num_classes=2, widths=(4, 4)).eval()
    first.stages[1].running_mean.uniform_()
    told = {1: GRAY, 3: COLOR}[known]
    save_model(first, path, told)
    model, images, own = started(folders[given], "--init", path)
    expected = first.stages[:2](own.convert(images, told))
    within = (..., slice(1, -1), slice(1, -1))
    torch.testing.assert_close(
        model.stages[:2](images)[within], expected[within], atol=1e-5, rtol=0
    )


def test_the_books_own_checkpoint_starts_on_other_data(folders, root):
    path = root / "data/checkpoints/vit_fashion_mnist.safetensors"
    trained, told = load_weights(path)
    # Of another size too: positions resampled, and 10 classes become 2.
    words = ["--data", str(folders[1]), "--image-size", "14", "--init", str(path)]
    data = load(folders[1], image_size=14)
    model = make_model(options_of(words), data).eval()
    images, _ = next(data.test.batches(8))
    wanted = at_image_size(trained, 14)
    turned = data.preprocessing.convert(images, replace(told, image_size=(14, 14)))
    torch.testing.assert_close(
        model.embeddings(images), wanted.embeddings(turned), atol=1e-5, rtol=0
    )


# ---- a teacher from anywhere, and other libraries' models ----


@pytest.fixture(scope="module")
def regnet(tmp_path_factory):
    """Return torchvision's smallest RegNet for two classes, and a file of it."""
    torch.manual_seed(0)
    model = models.regnet_y_400mf(num_classes=2).eval()
    path = tmp_path_factory.mktemp("regnet") / "mine.pth"
    torch.save({"model": model.state_dict()}, path)
    return model, path


@pytest.mark.slow(2)
def test_torchvisions_models_load_with_the_weights_of_a_file(regnet, tmp_path):
    theirs, path = regnet
    model, told = load_weights("torchvision/regnet_y_400mf", weights=path)
    assert told.image_size == (224, 224) and told.mean == (0.485, 0.456, 0.406)
    assert told.crop == 224 / 232 and not told.classes and not model.training
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(images), theirs(images))
    save_file(theirs.state_dict(), other := tmp_path / "mine.safetensors")
    given = {"mean": [0.5] * 3, "std": [0.2] * 3}
    model, told = load_weights("torchvision/regnet_y_400mf", weights=other, **given)
    assert (told.mean, told.std) == ((0.5,) * 3, (0.2,) * 3)
    torch.testing.assert_close(model(images), theirs(images))
    with pytest.raises(ValueError, match="wants 3 values of mean"):
        load_weights("torchvision/regnet_y_400mf", weights=other, mean=[0.5], std=[0.2])
    with pytest.raises(
        ValueError, match=r"no weights of torchvision/alexnet: .*Missing"
    ):
        load_weights("torchvision/alexnet", weights=path)


def test_torchvisions_own_weights_are_looked_for_where_published_ones_are(
    tmp_path, monkeypatch
):
    torch.manual_seed(0)
    theirs = models.squeezenet1_1().eval()
    torch.save(theirs.state_dict(), tmp_path / "squeezenet1_1.pth")
    monkeypatch.setenv("VITUTILS_WEIGHTS", str(tmp_path))
    model, told = load_weights("torchvision/squeezenet1_1")
    assert (told.crop, told.interpolation) == (0.875, "bilinear")
    assert told.classes[281] == "tabby"
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model(images), theirs(images))


def test_a_vit_of_torchvision_whose_head_was_replaced_loads_by_name(
    tmp_path, monkeypatch
):
    sizes = {"num_layers": 1, "num_heads": 3, "hidden_dim": 24, "mlp_dim": 48}
    small = partial(models.VisionTransformer, image_size=224, patch_size=112, **sizes)
    monkeypatch.setattr(models, "get_model", lambda name, **given: small(**given))
    theirs = small().eval()
    theirs.heads = torch.nn.Linear(24, 5)
    torch.save(theirs.state_dict(), path := tmp_path / "mine.pth")
    model, told = load_weights("torchvision/vit_b_16", weights=path)
    assert isinstance(model, VisionTransformer) and told.image_size == (224, 224)
    images = torch.randn(2, 3, 224, 224)
    torch.testing.assert_close(model(images), theirs(images), atol=1e-5, rtol=0)


def test_what_several_gpus_and_compiling_put_before_names_is_taken_off(tmp_path):
    torch.manual_seed(0)
    theirs = models.squeezenet1_1(num_classes=2).eval()
    state = {f"module._orig_mod.{k}": v for k, v in theirs.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 3}, path := tmp_path / "mine.pth")
    model, _ = load_weights("torchvision/squeezenet1_1", weights=path)
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(model(images), theirs(images))


@pytest.mark.slow(2)
def test_old_files_of_torchvision_load(tmp_path):
    """DenseNet's have other names, and none of 2017 counts batches."""
    torch.manual_seed(0)
    theirs = models.densenet121(num_classes=3).eval()
    old = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key): value
        for key, value in theirs.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "old.pth")
    model, _ = load_weights("torchvision/densenet121", weights=tmp_path / "old.pth")
    images = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(model(images), theirs(images))


def test_inception_turns_images_as_its_own_weights_want_it(tmp_path, monkeypatch):
    built = {}

    def build(name, **given):
        built.update(given, name=name)
        return models.squeezenet1_1()

    torch.save(models.squeezenet1_1().state_dict(), tmp_path / "toy.pth")
    monkeypatch.setattr(models, "get_model", build)
    load_weights("torchvision/googlenet", weights=tmp_path / "toy.pth")
    assert built["transform_input"] is True


@pytest.mark.parametrize("file", ["not a file", b"\x80\x04cos\nsystem\n(S'true'\ntR."])
def test_code_in_weights_of_other_libraries_is_not_run(tmp_path, file):
    path = tmp_path / "evil.pth"
    path.write_bytes(file.encode() if isinstance(file, str) else file)
    for name in ("torchvision/resnet18", "timm/resnet18"):
        with pytest.raises(ValueError, match=r"evil\.pth: not a whole file of weights"):
            load_weights(name, weights=path)
        with pytest.raises(FileNotFoundError, match=r"no file gone\.pth"):
            load_weights(name, weights="gone.pth")


def test_timms_models_load_with_the_weights_of_a_file(tmp_path):
    torch.manual_seed(0)
    theirs = timm.create_model("resnet10t", num_classes=3).eval()
    torch.save(theirs.state_dict(), path := tmp_path / "mine.pth")
    model, told = load_weights("timm/resnet10t.c3_in1k", weights=path)
    config = timm.get_pretrained_cfg("resnet10t.c3_in1k")
    assert (told.mean, told.std) == (config.mean, config.std)
    assert told.crop == config.crop_pct and told.image_size == config.input_size[1:]
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(model(images), theirs(images))


def test_a_vit_of_another_library_becomes_ours_where_ours_answers_the_same(tmp_path):
    """With heads that no shape tells; and stays theirs where ours would differ."""
    ours = as_ours(theirs := timm_vit(), COLOR)
    assert isinstance(ours, VisionTransformer)
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(ours(images), theirs(images), atol=1e-5, rtol=0)
    for theirs in (
        timm_vit(class_token=False, global_pool="avg"),
        timm_vit(global_pool="avg", fc_norm=False),
        timm_vit(act_layer=torch.nn.ReLU),
        timm_vit(Mirrored),
    ):
        assert as_ours(theirs, COLOR) is theirs


def test_a_name_that_is_not_there_is_answered_with_those_like_it():
    assert alike("vit", ["vit_b_16", "alexnet"]) == "perhaps vit_b_16"
    assert alike("beit", ["mlp", "alexnet"]) == "it has mlp, alexnet"


def test_timm_without_a_network_or_absent_is_one_line(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def fail(*_, **__):
        raise OSError("no route\nto host")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(RuntimeError, match="timm/resnet18 could not be fetched") as no:
        load_weights("timm/resnet18")
    assert str(no.value).isprintable() and "model.safetensors is not" in str(no.value)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match="timm/resnet18 needs timm: pip install timm"):
        load_weights("timm/resnet18")


class Mirrored(timm.models.VisionTransformer):
    """A ViT of timm that looks at images in a mirror."""

    def forward(self, images):
        return super().forward(images.flip(3))


class Recorded(torch.nn.Module):
    """A teacher that remembers what it was shown."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2))
        self.shown = []

    def forward(self, images):
        self.shown.append(images)
        return images.mean(dim=(1, 2, 3))[:, None] * self.weight


@pytest.mark.parametrize("given", [1, 3])
def test_a_teacher_gets_the_students_images_as_it_wants_them(folders, given):
    """Of its size, channels and normalization, and mixed or cut as the student's."""
    data = load(folders[given])
    wanted = Preprocessing((12, 12), (0.3, 0.5, 0.7), (0.1, 0.2, 0.3))
    teacher = Teacher(Converting(Weights(Recorded(), wanted), data.preprocessing))
    images, labels = next(data.train.batches(8, seed=0))
    mixed, soft = mixing(2, mixup=0.8, cutmix=1.0)(images, labels)
    learn = teacher.teaches(hard_distillation)
    learn(torch.zeros(8, 2), soft, mixed)
    (shown,) = teacher.model.model.shown
    assert shown.shape == (8, 3, 12, 12)
    mean, std = torch.tensor([wanted.mean, wanted.std]).view(2, 3, 1, 1)
    small = torch.nn.functional.interpolate(shown * std + mean, (8, 8), mode="area")
    own, spread = torch.tensor([data.mean, data.std]).view(2, given, 1, 1)
    light = (mixed * spread + own).mean(dim=(2, 3)).expand(-1, 3)
    torch.testing.assert_close(small.mean(dim=(2, 3)), light, atol=0.02, rtol=0)


@pytest.mark.slow(2)
@pytest.mark.parametrize(
    "words",
    [
        "",
        "--distillation soft --temperature 2 --mixup 0.8 --cutmix 1 --crop resized",
        "--model deit --label-smoothing 0.1 --randaugment 5 --erase 0.5",
    ],
)
def test_a_regnet_of_torchvision_teaches(folders, regnet, tmp_path, capsys, words):
    theirs, path = regnet
    words = [*words.split(), "--teacher=torchvision/regnet_y_400mf"]
    words += ["--data", str(folders[1]), "--teacher-weights", str(path)]
    words += ["--folder", str(tmp_path / "run"), *TINY]
    assert main(words) == 0
    said = "images of 224 x 224 pixels, mean 0.485 0.456 0.406, std 0.229 0.224 0.225"
    assert said in capsys.readouterr().out
    # The run goes on with the same teacher alone, whatever its file is called.
    state = theirs.state_dict()
    other = tmp_path / "other.pth"
    torch.save(state | {"fc.bias": state["fc.bias"] + 1}, other)
    assert main([*words, "--resume", "--teacher-weights", str(other)]) == 1
    assert "has teacher_weights of SHA-256" in capsys.readouterr().err
    assert main([*words, "--resume", "--teacher-mean", *["0.5"] * 3]) == 1
    assert "has teacher's weights of SHA-256" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a-published-vit", "timm/test_resnet", "a folder"])
def test_a_teacher_is_from_anywhere(folders, tmp_path, monkeypatch, capsys, name):
    words = ["--data", str(folders[1]), "--folder", str(tmp_path / "run"), *TINY]
    if name == "a-published-vit":
        state = timm_vit(embed_dim=64, num_heads=1).state_dict()
        torch.save(state, tmp_path / f"{name}.pth")
        entry = Published("https://example.org/vit.pth", *[(0.5,) * 3] * 2)
        monkeypatch.setitem(PUBLISHED, name, entry)
        monkeypatch.setenv("VITUTILS_WEIGHTS", str(tmp_path))
        said = "images of 8 x 8 pixels, mean 0.5 0.5 0.5, std 0.5 0.5 0.5"
    elif name == "timm/test_resnet":
        theirs = timm.create_model("test_resnet", num_classes=2)
        torch.save(theirs.state_dict(), path := tmp_path / "mine.pth")
        words += ["--teacher-weights", str(path)]
        said = "images of 160 x 160 pixels, mean 0.5 0.5 0.5, std 0.5 0.5 0.5"
    else:
        (tmp_path / name).mkdir()
        save_model(vit(3), tmp_path / name / "best.safetensors", COLOR)
        name = str(tmp_path / name)
        said = "images of 8 x 8 pixels, mean 0.5 0.4 0.3, std 0.1 0.2 0.3"
    assert main([*words, "--teacher", name]) == 0
    assert said in capsys.readouterr().out


def test_deits_own_teacher_is_known(monkeypatch):
    """RegNetY-16GF, here without its 84 million weights."""
    asked = []
    monkeypatch.setattr(libraries, "read_file", lambda path: asked.append(path) or {})
    monkeypatch.setattr(libraries, "filled", lambda build, *_: torch.nn.Identity())
    _, told = load_weights("torchvision/regnet_y_16gf", weights="regnet.pth")
    best = models.RegNet_Y_16GF_Weights.DEFAULT.transforms()
    assert asked == ["regnet.pth"] and [*told.image_size] == best.crop_size * 2
    assert [*told.mean] == best.mean and told.interpolation == best.interpolation.value


def test_a_teacher_of_other_classes_is_named(folders, tmp_path, capsys):
    torch.manual_seed(0)
    theirs = models.squeezenet1_1(num_classes=7)
    torch.save(theirs.state_dict(), path := tmp_path / "seven.pth")
    words = ["--teacher=torchvision/squeezenet1_1", "--teacher-weights", str(path)]
    words += ["--data", str(folders[3]), "--folder", str(tmp_path / "run"), *TINY]
    assert main(words) == 1
    said = f"teacher torchvision/squeezenet1_1 knows 7 classes, {folders[3].name} has 2"
    assert said in capsys.readouterr().err
