"""Files are whole or absent, and load back without pickle."""

import json
import os
import stat
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from vitutils.data import load
from vitutils.data.datasets import HeldOut
from vitutils.data.preprocessing import Preprocessing
from vitutils.distill import ConvNet
from vitutils.engine import checkpoints
from vitutils.engine.checkpoints import (
    is_checkpoint,
    load_model,
    load_state,
    read_held_out,
    read_preprocessing,
    save_model,
    save_state,
)
from vitutils.vit import VisionTransformer

BIG = 10**9
VIT = "vitutils.vit.VisionTransformer"
TOLD = {"image_size": [8, 8], "mean": [0.3], "std": [0.2], "classes": ["cat", "dog"]}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VisionTransformer(
        image_size=8,
        patch_size=4,
        in_channels=1,
        num_classes=2,
        embed_dim=16,
        depth=1,
        num_heads=2,
        mlp_dim=32,
    )


def test_a_model_comes_back_the_same(model, tmp_path):
    path = tmp_path / "new" / "model.safetensors"
    save_model(model, path)
    again = load_model(path)
    assert type(again) is VisionTransformer
    assert not again.training
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(again(images), model.eval()(images))
    assert [p.name for p in path.parent.iterdir()] == ["model.safetensors"]


def test_a_file_older_than_an_argument_loads_with_its_default(model, tmp_path):
    del model.config["stochastic_depth"]
    save_model(model, tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    assert again.config == model.config | {"stochastic_depth": 0.0}
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(again(images), model.eval()(images))


@pytest.mark.parametrize("name", ["vit", "deit"])
def test_the_books_own_models_load_whatever_arguments_they_know(root, name):
    model = load_model(root / f"data/checkpoints/{name}_fashion_mnist.safetensors")
    assert model.config["stochastic_depth"] == 0.0
    assert model(torch.zeros(2, 1, 28, 28)).shape == (2, 10)


def test_a_checkpoint_tells_what_its_model_wants_of_images(model, tmp_path):
    """To the last bit: 0.1 + 0.2 is no short decimal."""
    path = tmp_path / "model.safetensors"
    told = Preprocessing(
        (8, 8), (0.1 + 0.2,), (1 / 3,), 0.875, "bicubic", ('a "cat"', "Köter \u732b")
    )
    save_model(model, path, told)
    assert read_preprocessing(path, model.config) == told
    save_model(model, path)
    assert read_preprocessing(path, model.config) is None


def test_names_of_other_classes_than_the_models_are_not_kept(model, tmp_path):
    path = tmp_path / "model.safetensors"
    told = Preprocessing((8, 8), (0.5,), (0.5,), classes=("a", "b", "c"))
    save_model(model, path, told)
    assert read_preprocessing(path, model.config).classes == ()


def test_the_same_model_makes_the_same_bytes(model, tmp_path):
    """safetensors alone writes the metadata in another order each time."""
    told, made = Preprocessing((8, 8), (0.5,), (0.5,)), set()
    for _ in range(8):
        save_model(model, tmp_path / "model.safetensors", told)
        made.add((tmp_path / "model.safetensors").read_bytes())
    assert len(made) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "[" * 100_000,
        "{}",
        *(
            json.dumps(TOLD | changed)
            for changed in (
                {"mean": None},
                {"mean": 0.3},
                {"mean": [float("nan")]},
                {"mean": [10**400]},
                {"mean": [True]},
                {"mean": ["0.3"]},
                {"mean": [0.3] * 2},
                {"mean": [0.3] * 3},
                {"mean": [0.3] * 3, "std": [0.2] * 3},
                {"std": [0.0]},
                {"std": [-0.2]},
                {"std": [float("inf")]},
                {"std": [1e-300]},
                {"image_size": 8},
                {"image_size": [8]},
                {"image_size": [8, 9]},
                {"image_size": [8.0, 8.0]},
                {"image_size": [0, 8]},
                {"image_size": [BIG, BIG]},
                {"crop": 0},
                {"crop": 1.1},
                {"crop": 1e-9},
                {"interpolation": "lanczos8"},
                {"interpolation": ["bilinear"]},
                {"classes": "ab"},
                {"classes": ["a"]},
                {"classes": ["a", 1]},
                {"classes": ["a", ""]},
                {"classes": ["a", "\x1b[2J\n"]},
                {"classes": ["a", "b" * 10_000]},
                {"gone": 1},
                {"\x1b[2J" * 1000: 1},
            )
        ),
    ],
)
def test_a_checkpoint_that_tells_nonsense_of_its_images_is_named(tmp_path, model, text):
    path = tmp_path / "model.safetensors"
    save_file(model.state_dict(), path, {"preprocessing": text})
    with pytest.raises(ValueError, match=f"{path} says of its images") as caught:
        read_preprocessing(path, model.config)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "said",
    [
        "{",
        "[" * 100_000,
        *map(
            json.dumps,
            (
                [],
                {"images": 3},
                {"images": 3, "files": {}},
                {"images": 1, "files": {"a": "1"}},
                {"images": "3", "files": {"a": "1"}},
                {"images": 3, "files": 1},
                {"images": 3, "files": {"a": "1"}, "\x1b[2J" * 1000: 1},
            ),
        ),
    ],
)
def test_a_checkpoint_that_tells_nonsense_of_what_was_held_out_is_named(
    model, tmp_path, said
):
    path = tmp_path / "model.safetensors"
    save_file(model.state_dict(), path, {"held_out": said})
    with pytest.raises(ValueError, match=f"{path} says of the images held") as caught:
        read_held_out(path)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600


def test_what_was_held_out_comes_back(model, tmp_path):
    path, held_out = tmp_path / "model.safetensors", HeldOut(3, {"a": "1", "b": "2"})
    save_model(model, path, held_out=held_out)
    assert read_held_out(path) == held_out
    save_model(model, path)
    assert read_held_out(path) is None


def test_a_run_keeps_what_its_data_tells(tmp_path, root):
    data = load("fashion_mnist")
    assert data.preprocessing == Preprocessing(
        (28, 28), data.mean, data.std, classes=data.classes
    )
    for path in (root / "data/checkpoints").glob("*_fashion_mnist.safetensors"):
        found = read_preprocessing(path, load_model(path).config)
        assert found == data.preprocessing
    for path in (root / "data/checkpoints").glob("*.safetensors"):
        found = read_preprocessing(path, load_model(path).config)
        assert len(found.classes) == 10


def test_a_failed_write_leaves_the_old_file(model, tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    before = path.read_bytes()

    def fail(tensors, part, metadata):
        part.write_bytes(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(checkpoints, "save_file", fail)
    with pytest.raises(OSError, match="no space"):
        save_model(model, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.safetensors"]


@pytest.mark.parametrize("kind", [SafetensorError, RuntimeError])
def test_a_full_disk_is_named_by_the_file(model, tmp_path, monkeypatch, kind):
    """safetensors and torch each have an error of their own for it."""

    def fail(*_):
        raise kind("No space left on device")

    monkeypatch.setattr(checkpoints, "save_file", fail)
    with pytest.raises(OSError, match=r"cannot write .*model\.safetensors .*full"):
        save_model(model, tmp_path / "model.safetensors")
    assert not [*tmp_path.iterdir()]


def test_a_file_is_on_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    path, asked = tmp_path / "a" / "new" / "last.pt", []
    monkeypatch.setattr(os, "fsync", lambda _: asked.append(path.exists()))
    save_state({"step": 3}, path)
    assert asked == [False] and path.exists()


@pytest.mark.skipif(os.name != "posix", reason="asks for processes by number")
def test_what_processes_that_died_have_left_beside_a_file_is_removed(tmp_path):
    """And no other's: of one at work, of another file, of nobody."""
    path = tmp_path / "last[1].pt"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()

    def left(number, name=path.name):
        folder = tmp_path / f".{name}.{number}.part"
        folder.mkdir()
        (folder / name).write_bytes(b"half of it")
        return folder

    gone = [left(dead.pid), left(os.getpid())]
    kept = {left(dead.pid, "last1.pt"), *map(left, (os.getppid(), "mine", 10**30, ""))}
    save_state({"step": 3}, path)
    assert not any(folder.exists() for folder in gone)
    assert {*tmp_path.iterdir()} == kept | {path}
    assert load_state(path) == {"step": 3}


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*gone\.safetensors"):
        load_model(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("keep", [0, 5, 500, -10])
def test_a_truncated_file_says_so(model, tmp_path, keep):
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        load_model(path)


def test_weights_of_a_foreign_model_are_not_guessed(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(nn.Linear(2, 2), path)
    with pytest.raises(ValueError, match="does not name a model of vitutils"):
        load_model(path)


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "subprocess.run",
        "vitutilsx.Model",
        "vitutils.gone.Model",
        "vitutils.__main__.main",
        "vitutils.vit.nn.Module",
        "vitutils.vit.VisionTransformer.tiny",
        "vitutils.train.fit",
        "vitutils.train.Evaluation",
        "",
    ],
)
def test_a_file_cannot_make_us_import_other_code(tmp_path, name):
    path = tmp_path / "model.safetensors"
    save_file({}, path, {"class": name, "config": "{}"})
    with pytest.raises(ValueError, match="does not name a model of vitutils"):
        load_model(path)


def test_only_modules_are_built_from_a_file(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(
        {}, path, {"class": "vitutils.engine.checkpoints.save_state", "config": "{}"}
    )
    with pytest.raises(ValueError, match="does not name a model of vitutils"):
        load_model(path)


@pytest.mark.parametrize(
    "config, said",
    [
        (None, "its config is no dict: None"),
        ("{", "Expecting property name"),
        ("[]", r"its config is no dict: \[\]"),
        ("[" * 100_000, "maximum recursion depth"),
        ("9" * 5000, "Exceeds the limit"),
        ('{"gone": 1}', "unexpected keyword argument 'gone'"),
        ('{"depth": 0}', "missing: embeddings.class_token"),
    ],
)
def test_a_file_of_another_version_is_named(tmp_path, config, said):
    path = tmp_path / "model.safetensors"
    save_file({}, path, {"class": VIT} | ({} if config is None else {"config": config}))
    with pytest.raises(ValueError, match=rf"{path} is not of this version .*{said}"):
        load_model(path)


def rewritten(path, config, **tensors):
    """Write a checkpoint again, its config and tensors changed."""
    with checkpoints.safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    metadata["config"] = json.dumps(json.loads(metadata["config"]) | config)
    save_file(load_file(path) | tensors, path, metadata)
    return path


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "name, value",
    [
        *(("depth", value) for value in (BIG, 3, -1, 1.0, True, "1", None)),
        *(("image_size", value) for value in (BIG, 0, -8, 8.0, "8", [8], [-8, -8])),
        *(("num_heads", value) for value in (0, -2, 2.0, 3, BIG, "2", True, [2])),
        *(("patch_size", value) for value in (0, -4, [4, 0])),
        *(("embed_dim", value) for value in (BIG, 10**30, 0, {})),
        ("num_classes", BIG),
        ("mlp_dim", BIG),
        *(("dropout", value) for value in (float("nan"), -1, "0", [0.1])),
        ("stochastic_depth", float("inf")),
        ("", 1),
        ("\x1b[2J\n" + "a" * 1000, 1),
    ],
)
def test_sizes_that_the_weights_do_not_have_are_refused(model, tmp_path, name, value):
    save_model(model, path := tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=f"{path} is not of this version") as caught:
        load_model(rewritten(path, {name: value}))
    assert str(caught.value).isprintable() and len(str(caught.value)) < 1000


def test_sizes_are_compared_before_any_memory_is_taken(model, tmp_path, monkeypatch):
    save_model(model, path := tmp_path / "model.safetensors")
    devices, build = set(), nn.Linear.__init__

    def noted(self, *sizes, **more):
        devices.add(torch.get_default_device().type)
        build(self, *sizes, **more)

    monkeypatch.setattr(nn.Linear, "__init__", noted)
    with pytest.raises(ValueError, match="is not of this version"):
        load_model(rewritten(path, {"mlp_dim": 64}))
    assert devices == {"meta"}


@pytest.mark.parametrize("widths", [[], [4, 0], [BIG], [4] * 9999, 4, "4", [4.0]])
def test_widths_that_the_weights_do_not_have_are_refused(tmp_path, widths):
    path = tmp_path / "model.safetensors"
    save_model(ConvNet(in_channels=1, num_classes=2, widths=[4]), path)
    assert load_model(path).config["widths"] == [4]
    with pytest.raises(ValueError, match="is not of this version"):
        load_model(rewritten(path, {"widths": widths}))


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", [VIT, "vitutils.deit.DistilledVisionTransformer"])
def test_many_empty_weights_make_no_deep_model(tmp_path, kind):
    path, depth = tmp_path / "model.safetensors", 5000
    names = [f"encoder.blocks.{i}.norm1.weight" for i in range(depth)]
    config = json.dumps({"depth": depth})
    save_file(
        dict.fromkeys(names, torch.ones(0)), path, {"class": kind, "config": config}
    )
    with pytest.raises(ValueError, match="its depth is 5000, with 5000 tensors"):
        load_model(path)


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.complex64])
def test_weights_that_are_no_floats_are_refused(model, tmp_path, kind):
    save_model(model, path := tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=rf"not of floats: head.bias {kind}"):
        load_model(rewritten(path, {}, **{"head.bias": model.head.bias.to(kind)}))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_any_value_and_precision_load(model, tmp_path, kind):
    save_model(model, path := tmp_path / "model.safetensors")
    bias = torch.tensor([float("nan"), 1.5], dtype=kind)
    again = load_model(rewritten(path, {}, **{"head.bias": bias}))
    assert again.head.bias.isnan().tolist() == [True, False]
    assert again.head.bias.dtype == torch.float32


@pytest.mark.parametrize(
    "metadata, wanted",
    [
        ({"class": VIT, "config": "{"}, True),  # for load_model to say
        ({"class": "another library's"}, False),
        ({"format": "pt"}, False),
        (None, False),
    ],
)
def test_a_checkpoint_is_known_by_what_it_says_of_itself(tmp_path, metadata, wanted):
    save_file({}, path := tmp_path / "model.safetensors", metadata)
    assert is_checkpoint(path) is wanted
    save_file({}, other := tmp_path / "model.pth", metadata)
    assert not is_checkpoint(other)
    path.write_bytes(b"\xff" * 100)
    assert not is_checkpoint(path)
    (folder := tmp_path / "folder.safetensors").mkdir()
    assert not any(map(is_checkpoint, (tmp_path, folder, folder / "no.safetensors")))


def test_files_are_for_others_to_read_too(model, tmp_path):
    before = os.umask(0o022)
    try:
        save_model(model, tmp_path / "model.safetensors")
    finally:
        os.umask(before)
    mode = (tmp_path / "model.safetensors").stat().st_mode
    assert stat.S_IMODE(mode) == 0o644


def test_states_refuse_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    path = tmp_path / "state.pt"
    torch.save(Evil(), path)
    with pytest.raises(ValueError, match="cut short or corrupt"):
        load_state(path)
    save_state({"step": 3, "weights": torch.ones(2)}, path)
    assert load_state(path)["step"] == 3


def test_a_state_with_one_bit_flipped_is_refused(tmp_path):
    save_state({"weights": torch.zeros(1000)}, path := tmp_path / "last.pt")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # torch.load sees nothing
    path.write_bytes(content)
    assert torch.load(path, weights_only=True)["weights"].any()
    with pytest.raises(ValueError, match=r"cut short or corrupt .*another checksum"):
        load_state(path)


@pytest.mark.parametrize("state", [[1], 3, None, torch.ones(2)])
def test_a_state_that_is_no_dict_is_refused(tmp_path, state):
    save_state(state, path := tmp_path / "last.pt")
    with pytest.raises(
        ValueError, match=rf"{path} is .*holds a {type(state).__name__}"
    ):
        load_state(path)


def test_a_state_of_an_old_form_is_refused(tmp_path):
    path = tmp_path / "last.pt"
    torch.save({"step": 3}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="cut short or corrupt"):
        load_state(path)


@pytest.mark.parametrize("load", [load_model, load_state])
def test_no_error_advises_to_delete_a_file(tmp_path, load):
    path = tmp_path / "file"
    path.write_bytes(b"PK\3\4 and no more")
    with pytest.raises(ValueError, match="file") as caught:
        load(path)
    assert "delete" not in str(caught.value)


def test_a_listings_class_is_saved_as_the_packages(model, tmp_path):
    """A chapter that runs a listing defines the class again, in __main__."""
    listed = type("VisionTransformer", (VisionTransformer,), {"__module__": "__main__"})
    twin = listed(**model.config)
    twin.load_state_dict(model.state_dict())
    save_model(twin, tmp_path / "model.safetensors")
    again = load_model(tmp_path / "model.safetensors")
    assert type(again) is VisionTransformer
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(again(images), model.eval()(images))


def test_a_class_of_the_readers_own_is_not_taken_for_the_packages(model, tmp_path):
    class Changed(VisionTransformer):
        """As a reader may change a listing: it has a weight more."""

        def __init__(self, **sizes):
            super().__init__(**sizes)
            self.more = nn.Parameter(torch.zeros(1))

    Changed.__module__, Changed.__name__ = "__main__", "VisionTransformer"
    save_model(Changed(**model.config), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="does not name a model of vitutils"):
        load_model(tmp_path / "model.safetensors")


def test_a_class_of_another_module_is_not_taken_for_the_packages(model, tmp_path):
    class Other(VisionTransformer):
        """Only its name is the package's."""

    Other.__module__, Other.__name__ = "elsewhere", "VisionTransformer"
    save_model(Other(**model.config), tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"does not name a model .*elsewhere\."):
        load_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["VisionTransformer", "Teacher"])
def test_a_class_of_the_readers_own_may_have_arguments_of_its_own(tmp_path, name):
    class Changed(nn.Linear):
        """As a reader may change a listing: its constructor takes other things."""

    Changed.__module__, Changed.__name__ = "__main__", name
    model = Changed(2, 2)
    model.config = {"norm": "rms"}
    save_model(model, tmp_path / "model.safetensors")
    assert load_file(tmp_path / "model.safetensors").keys() == {"weight", "bias"}
