"""Files are whole or absent, and load back without pickle."""

import os
import stat

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn

from vitutils.engine import checkpoints
from vitutils.engine.checkpoints import load_model, load_state, save_model, save_state
from vitutils.vit import VisionTransformer


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


def test_a_full_disk_is_named_by_the_file(model, tmp_path, monkeypatch):
    def fail(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoints, "save_file", fail)
    with pytest.raises(OSError, match=r"cannot write .*model\.safetensors .*full"):
        save_model(model, tmp_path / "model.safetensors")
    assert not [*tmp_path.iterdir()]


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


@pytest.mark.parametrize("name", ["os.system", "vitutilsx.Model", "subprocess.run"])
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
    "metadata",
    [
        {"class": "vitutils.vit.VisionTransformer"},
        {"class": "vitutils.vit.VisionTransformer", "config": '{"gone": 1}'},
        {"class": "vitutils.vit.VisionTransformer", "config": '{"depth": 1}'},
        {"class": "vitutils.gone.Model", "config": "{}"},
    ],
)
def test_a_file_of_another_version_is_named(tmp_path, metadata):
    path = tmp_path / "model.safetensors"
    save_file({}, path, metadata)
    with pytest.raises(ValueError, match=r"model\.safetensors is not of this version"):
        load_model(path)


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
