"""Published weights: equal to each library's own model, or an error that helps."""

import hashlib
import http.server
import os
import pickle
import re
import threading
import zipfile
from functools import partial

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from timm.models.deit import VisionTransformerDistilled
from torchvision.models import VisionTransformer as TorchvisionViT

from vitutils.data import download
from vitutils.deit import DistilledVisionTransformer
from vitutils.engine.checkpoints import save_model
from vitutils.engine.published import PUBLISHED, Published, fault, file_name
from vitutils.pretrained import (
    at_image_size,
    convert,
    load_pretrained,
    rename,
    renormalize,
    resize_positions,
)
from vitutils.vit import VisionTransformer

SMALL = {"image_size": 32, "patch_size": 8, "num_classes": 7}
TIMM_SMALL = {
    "img_size": 32,
    "patch_size": 8,
    "num_classes": 7,
    "embed_dim": 24,
    "depth": 3,
    "num_heads": 3,
    "mlp_ratio": 40 / 24,
}
GIVEN = {"num_heads": 3, "trained_at": 32}  # what no shape tells
close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)


@pytest.fixture(autouse=True)
def own_folders(tmp_path, monkeypatch):
    """No test reads or fills the caches of whoever runs it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("VITUTILS_WEIGHTS", raising=False)


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no network here")

    monkeypatch.setattr(download, "urlopen", refuse)


def drawn(model, std=0.2):
    """Move each parameter, norms, biases and zeros too, and return the model."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += std * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def photos(height, width=None, channels=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, channels, height, width or height, generator=generator)


def torchvision_small():
    return drawn(
        TorchvisionViT(num_layers=3, num_heads=3, hidden_dim=24, mlp_dim=40, **SMALL)
    )


def timm_small(cls=timm.models.VisionTransformer, **others):
    return drawn(cls(**TIMM_SMALL | others))


def saved(model, path):
    """Write a state dict as its authors would; return the path as text."""
    state = model if isinstance(model, dict) else model.state_dict()
    if path.suffix == ".safetensors":
        save_file({k: v.contiguous() for k, v in state.items()}, path)
    else:
        torch.save(state, path)
    return str(path)


def google_arrays(model):
    """Lay a timm model's weights out as Google's files do."""
    heads, state = model.blocks[0].attn.num_heads, model.state_dict()
    state = {key: value.numpy() for key, value in state.items()}
    arrays = {
        "cls": state["cls_token"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
    }

    def dense(name, layer):
        arrays[f"{name}/kernel"] = state[f"{layer}.weight"].T
        arrays[f"{name}/bias"] = state[f"{layer}.bias"]

    def norm(name, layer):
        arrays[f"{name}/scale"] = state[f"{layer}.weight"]
        arrays[f"{name}/bias"] = state[f"{layer}.bias"]

    for i in range(len(model.blocks)):
        block, layer = f"Transformer/encoderblock_{i}", f"blocks.{i}"
        norm(f"{block}/LayerNorm_0", f"{layer}.norm1")
        norm(f"{block}/LayerNorm_2", f"{layer}.norm2")
        dense(f"{block}/MlpBlock_3/Dense_0", f"{layer}.mlp.fc1")
        dense(f"{block}/MlpBlock_3/Dense_1", f"{layer}.mlp.fc2")
        attention = f"{block}/MultiHeadDotProductAttention_1"
        weights = np.split(state[f"{layer}.attn.qkv.weight"], 3)
        biases = np.split(state[f"{layer}.attn.qkv.bias"], 3)
        width = weights[0].shape[0]
        per_head = (heads, width // heads)
        names = ("query", "key", "value")
        for name, weight, bias in zip(names, weights, biases, strict=True):
            arrays[f"{attention}/{name}/kernel"] = weight.T.reshape(width, *per_head)
            arrays[f"{attention}/{name}/bias"] = bias.reshape(per_head)
        out = state[f"{layer}.attn.proj.weight"].T.reshape(*per_head, width)
        arrays[f"{attention}/out/kernel"] = out
        arrays[f"{attention}/out/bias"] = state[f"{layer}.attn.proj.bias"]
    norm("Transformer/encoder_norm", "norm")
    dense("head", "head")
    return arrays


@torch.no_grad()
def both(ours, theirs, images):
    """Return our logits and theirs; a distilled timm model averages logits."""
    if isinstance(ours, DistilledVisionTransformer):
        first, second, _ = ours.both_heads(images)
        return (first + second) / 2, theirs(images)
    return ours(images), theirs(images)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize(
    "make",
    [
        torchvision_small,
        timm_small,
        partial(timm_small, VisionTransformerDistilled),
        partial(timm_small, init_values=0.1),  # LayerScale
        partial(timm_small, img_size=(16, 24), patch_size=(4, 6), in_chans=1),
    ],
    ids=["torchvision", "timm", "deit", "layer scale", "rectangles"],
)
def test_small_models_give_the_same_logits(make, suffix, tmp_path):
    theirs = make()
    size = theirs.patch_embed.img_size if hasattr(theirs, "patch_embed") else 32
    path = saved(theirs, tmp_path / f"w.{suffix}")
    ours = load_pretrained(path, num_heads=3, trained_at=size)
    distilled = isinstance(theirs, VisionTransformerDistilled)
    assert isinstance(ours, DistilledVisionTransformer) == distilled
    assert not ours.training
    assert all(p.requires_grad and p.is_contiguous() for p in ours.parameters())
    images = photos(*ours.embeddings.image_shape[1:], ours.config["in_channels"])
    logits, expected = both(ours, theirs, images)
    close(logits, expected)
    assert expected.std() > 0.1


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: torchvision.models.vit_b_16(), marks=pytest.mark.slow),
        lambda: timm.create_model("vit_tiny_patch16_224"),
        lambda: timm.create_model("deit_tiny_distilled_patch16_224"),
        lambda: timm.create_model(
            "vit_small_patch14_dinov2", num_classes=10, img_size=224
        ),
    ],
    ids=["vit_b_16", "vit_tiny", "deit_tiny_distilled", "dinov2_vits14"],
)
def test_real_sizes_give_the_same_logits(make):
    theirs = drawn(make(), std=0.02)
    heads = 6 if hasattr(theirs, "embed_dim") and theirs.embed_dim == 384 else None
    cls, config, state = convert(theirs.state_dict(), num_heads=heads)
    ours = cls(**config).eval()
    ours.load_state_dict(state)
    logits, expected = both(ours, theirs, photos(224)[:1])
    close(logits, expected)
    assert expected.std() > 0.1


@pytest.mark.parametrize("size", ["small", "real"])
def test_googles_files_give_the_logits_of_timms_own_loader(size, tmp_path):
    def make():
        if size == "small":
            return timm.models.VisionTransformer(**TIMM_SMALL).eval()
        return timm.create_model("vit_tiny_patch16_224").eval()

    theirs, side = make(), 32 if size == "small" else 224
    path = tmp_path / "weights.npz"
    np.savez(path, **google_arrays(drawn(make(), std=0.2 if side == 32 else 0.02)))
    theirs.load_pretrained(str(path))
    ours = load_pretrained(path)  # the file tells the heads
    logits, expected = both(ours, theirs, photos(side))
    close(logits, expected)
    assert expected.std() > 0.1


def test_names_of_dinov2_and_of_old_torchvision_files():
    dinov2 = timm_small(init_values=0.1, num_classes=0).state_dict()
    given = GIVEN | {"num_classes": 5}
    expected = convert(dinov2, **given)[2]
    found = convert(dinov2 | {"mask_token": torch.zeros(1, 24)}, **given)[2]
    for key in expected.keys() - {"head.weight"}:  # which is drawn
        assert torch.equal(found[key], expected[key])
    new = torchvision_small().state_dict()
    names = {".mlp.0.": ".mlp.linear_1.", ".mlp.3.": ".mlp.linear_2."}
    old = {rename(key, names): value for key, value in new.items()}
    assert old.keys() != new.keys()
    found, expected = (convert(state, **GIVEN)[2] for state in (old, new))
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@pytest.mark.parametrize(
    "wrappers", [["model"], ["state_dict"], ["state_dict", "model"]]
)
def test_what_wraps_the_weights_is_taken_off_and_half_precision_widened(
    tmp_path, wrappers
):
    theirs = timm_small()
    state = {key: value.half() for key, value in theirs.state_dict().items()}
    wrapped = state
    for wrapper in wrappers:
        wrapped = {wrapper: wrapped, "epoch": 3}
    path = saved(wrapped, tmp_path / "w.pth")
    ours = load_pretrained(path, **GIVEN)
    assert {p.dtype for p in ours.parameters()} == {torch.float32}
    theirs.load_state_dict({key: value.float() for key, value in state.items()})
    close(*both(ours, theirs, photos(32)))


@pytest.mark.parametrize(
    "make", [timm_small, partial(timm_small, VisionTransformerDistilled)]
)
def test_another_number_of_classes_draws_new_heads_and_keeps_the_rest(make, tmp_path):
    path = saved(make(), tmp_path / "w.pth")
    old = load_pretrained(path, **GIVEN)
    torch.manual_seed(0)
    new = load_pretrained(path, **GIVEN, num_classes=200)
    assert new.config["num_classes"] == 200
    for name, parameter in new.named_parameters():
        if name.endswith("bias") and name.startswith("head"):
            assert parameter.shape == (200,) and not parameter.any()
        elif name.startswith("head"):
            assert parameter.shape == (200, 24) and 0.015 < parameter.std() < 0.025
        else:
            assert torch.equal(parameter, old.get_parameter(name))
    same = load_pretrained(path, **GIVEN, num_classes=7)
    assert torch.equal(same.head.weight, old.head.weight)


def test_a_file_without_a_head_wants_num_classes(tmp_path):
    path = saved(timm_small(num_classes=0), tmp_path / "w.pth")
    with pytest.raises(ValueError, match="no trained head: give num_classes="):
        load_pretrained(path, **GIVEN)
    model = load_pretrained(path, **GIVEN, num_classes=4)
    assert model(photos(32)).shape == (2, 4)


@pytest.mark.parametrize(
    "old, new",
    [
        ((4, 4), (8, 8)),
        ((6, 6), (4, 4)),
        ((4, 4), (3, 7)),
        ((3, 5), (5, 3)),
        ((4, 4), (4, 4)),
    ],
)
@pytest.mark.parametrize("first", [1, 2])
def test_positions_equal_timms_resampling(old, new, first):
    positions = torch.randn(1, first + old[0] * old[1], 6)
    expected = resample_abs_pos_embed(
        positions, [*new], old_size=[*old], num_prefix_tokens=first
    )
    found = resize_positions(positions, old, new)
    close(found, expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(found[:, :first], positions[:, :first])
    if old == new:
        close(found, positions, atol=0, rtol=0)


def test_positions_that_do_not_fill_the_grid_name_the_numbers():
    with pytest.raises(ValueError, match=r"15 positions .* 4 x 4"):
        resize_positions(torch.zeros(1, 15, 2), (4, 4), (8, 8))


@pytest.mark.parametrize("cls", [VisionTransformer, DistilledVisionTransformer])
def test_a_model_at_another_image_size(cls):
    model = cls(embed_dim=24, depth=2, num_heads=3, mlp_dim=40, **SMALL)
    model.head.weight.requires_grad_(False)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = torch.get_rng_state()
    wide = at_image_size(model, (48, 24))
    assert torch.equal(torch.get_rng_state(), state)  # nothing was drawn
    assert wide.config == model.config | {"image_size": (48, 24)}
    assert wide.training and wide.embeddings.grid == (6, 3)
    assert model.config["image_size"] == 32
    for key, value in wide.state_dict().items():
        if key != "embeddings.pos_embed":
            assert torch.equal(value, before[key])
    assert wide.eval()(torch.zeros(2, 3, 48, 24)).shape == (2, 7)
    with torch.no_grad():
        for parameter in wide.parameters():
            parameter.zero_()
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not at_image_size(model.eval(), 32).training
    with pytest.raises(ValueError, match="image_size 30x30"):
        at_image_size(model, 30)
    with pytest.raises(ValueError, match="image_size 4x4"):
        at_image_size(model, 4)


def test_loading_at_another_image_size_equals_timms(tmp_path):
    theirs = timm_small()
    path = saved(theirs, tmp_path / "w.pth")
    ours = load_pretrained(path, image_size=48, **GIVEN)
    theirs.set_input_size(48)
    close(*both(ours, theirs, photos(48)))
    assert not ours.training


@pytest.mark.parametrize(
    "make, gone",
    [
        (torchvision_small, "encoder.layers.encoder_layer_1.ln_2.bias"),
        (torchvision_small, "encoder.pos_embedding"),
        (torchvision_small, "heads.head.bias"),
        (timm_small, "blocks.1.norm1.weight"),
        (timm_small, "blocks.0.mlp.fc1.bias"),
        (partial(timm_small, init_values=0.1), "blocks.2.attn.proj.bias"),
        (partial(timm_small, VisionTransformerDistilled), "head_dist.weight"),
    ],
)
def test_a_missing_key_is_named(make, gone):
    state = make().state_dict()
    del state[gone]
    with pytest.raises(ValueError, match=f"missing: {gone}"):
        convert(state, **GIVEN)


@pytest.mark.parametrize(
    "gone, named",
    [
        ("Transformer/encoderblock_1/LayerNorm_2/scale",) * 2,
        (
            "Transformer/encoderblock_2/MultiHeadDotProductAttention_1/key/bias",
            "left over: .*encoderblock_2/MultiHeadDotProductAttention_1/query/bias",
        ),
    ],
)
def test_a_missing_key_of_google_is_named(gone, named):
    state = {k: torch.tensor(v) for k, v in google_arrays(timm_small()).items()}
    del state[gone]
    with pytest.raises(ValueError, match=named):
        convert(state)


@pytest.mark.parametrize(
    "make, more",
    [
        (torchvision_small, "encoder.layers.encoder_layer_0.extra.weight"),
        (timm_small, "blocks.0.attn.q_norm.weight"),
        (timm_small, "mask_tokens"),
        (partial(timm_small, num_classes=0), "norm.bias2"),
        (partial(timm_small, init_values=0.1), "blocks.0.ls3.gamma"),
    ],
)
def test_a_key_left_over_is_named(make, more):
    state = make().state_dict() | {more: torch.zeros(3)}
    with pytest.raises(ValueError, match=f"left over: {more}"):
        convert(state, **GIVEN, num_classes=7)


def test_many_faults_are_counted_and_all_kinds_named():
    state = timm_small().state_dict()
    state["norm.bias"] = torch.zeros(25)
    del state["norm.weight"]
    state |= {f"extra.{i}": torch.zeros(1) for i in range(9)}
    with pytest.raises(ValueError) as caught:
        convert(state, **GIVEN)
    assert str(caught.value) == (
        "missing: norm.weight; left over: extra.0, extra.1, extra.2, extra.3, extra.4, "
        "extra.5 and 3 more; of another shape: norm.bias (25,) for (24,)"
    )


def test_names_of_nobody_and_sizes_that_cannot_be_read():
    with pytest.raises(ValueError, match=r"names in it \(module\.cls_token, .*no ViT"):
        convert({f"module.{k}": v for k, v in timm_small().state_dict().items()})
    state = timm_small().state_dict()
    state["pos_embed"] = state["pos_embed"][:, :-2]
    with pytest.raises(ValueError, match=r"its 15 positions .* \(14 may be of images"):
        convert(state, **GIVEN)


def test_heads_that_contradict_googles_file_are_named():
    state = {k: torch.tensor(v) for k, v in google_arrays(timm_small()).items()}
    assert convert(state, **GIVEN)[1] == convert(state)[1]
    with pytest.raises(ValueError, match="its weights have 3 heads, not 4"):
        convert(state, num_heads=4)


def test_a_file_of_the_book_itself_points_to_load_model(tmp_path):
    model = VisionTransformer(embed_dim=24, depth=2, num_heads=3, mlp_dim=40, **SMALL)
    save_model(model, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match=r"w\.safetensors: .*checkpoints\.load_model"):
        load_pretrained(tmp_path / "w.safetensors")


def test_the_callers_weights_stay_as_they_are():
    state = timm_small(init_values=0.1).state_dict()
    before = {key: value.clone() for key, value in state.items()}
    convert(state, **GIVEN, num_classes=11)
    assert state.keys() == before.keys()
    assert all(torch.equal(state[key], before[key]) for key in before)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError) as caught:
        load_pretrained("vit_b_17")
    for name in ("vit_b_17", *PUBLISHED):
        assert name in str(caught.value)


@pytest.mark.parametrize("suffix", ["pth", "safetensors", "npz"])
def test_a_truncated_file_is_named(suffix, tmp_path):
    path = tmp_path / f"w.{suffix}"
    if suffix == "npz":
        np.savez(path, **google_arrays(timm_small()))
    else:
        saved(timm_small(), path)
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(ValueError, match=rf"w\.{suffix}: not a whole file of weights"):
        load_pretrained(path)


class Code:
    """Pickled, it is a call that leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
def test_code_in_a_file_is_refused_and_not_run(tmp_path):
    trace, state = tmp_path / "trace", timm_small().state_dict()
    for protocol in (2, 4):  # each with other words for what it asks for
        path = tmp_path / f"{protocol}.pth"
        torch.save(state | {"code": Code(trace)}, path, pickle_protocol=protocol)
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"code": Code(trace)}, 2))
    code = np.array([Code(trace)], dtype=object)
    np.savez(tmp_path / "w.npz", **google_arrays(timm_small()), code=code)
    for name in ("2.pth", "4.pth", "old.pth", "w.npz"):
        with pytest.raises(ValueError, match="not a whole file of weights alone"):
            load_pretrained(tmp_path / name)
    assert not trace.exists()


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "changes, said",
    [
        (
            {f"blocks.{10**9}.norm1.weight": torch.ones(24)},
            f"left over: blocks.{10**9}",
        ),
        (
            {"patch_embed.proj.weight": torch.ones(24, 3, 8)},
            "proj.weight is of rank 3, not 4",
        ),
        ({"patch_embed.proj.weight": torch.ones(0, 3, 8, 8)}, "its embed_dim is 0"),
        ({"patch_embed.proj.weight": torch.ones(24, 3, 0, 8)}, "shapes of no ViT"),
        ({"pos_embed": torch.ones(24)}, "pos_embed is of rank 1, not 3"),
        ({"pos_embed": torch.ones(1, 1, 24)}, "there are none for patches"),
        ({"head.weight": torch.tensor(1.0)}, "head.weight is of rank 0"),
        ({"blocks.0.mlp.fc1.bias": torch.tensor(1.0)}, "fc1.bias is of rank 0"),
        ({"blocks.0.ls1.gamma": torch.tensor(1.0)}, "shapes of no ViT"),
        ({"norm.bias": torch.ones(24, dtype=torch.int64)}, "'norm.bias' .torch.int64"),
        ({"norm.bias": torch.ones(24, dtype=torch.complex64)}, "torch.complex64"),
        ({"norm.bias": torch.ones(24).to(torch.float8_e5m2)}, "tensor"),
        ({"norm.bias": 3, 4: torch.ones(24)}, r"'norm.bias' .int., 4 .torch.float32"),
        (
            {"norm.bias": torch.ones(1).expand(10**9)},
            "would take far more than the file",
        ),
        ({"model": torch.ones(3)}, "it holds a Tensor, no dict"),
        ({"state_dict": [3]}, "it holds a list, no dict"),
    ],
)
def test_weights_of_no_vit_are_refused_in_a_line(tmp_path, changes, said):
    path = saved(timm_small().state_dict() | changes, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=f"{path}: .*{said}") as caught:
        load_pretrained(path, **GIVEN)
    assert str(caught.value).isprintable()


def test_what_is_no_file_of_weights_alone_says_what_would_be(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"save the model's state_dict\(\) instead"):
        load_pretrained(tmp_path / "model.pth")
    path = saved(torchvision.models.resnet18().state_dict(), tmp_path / "cnn.pth")
    with pytest.raises(ValueError, match=r"torchvision/NAME .* --teacher-weights"):
        load_pretrained(path)


def test_fewer_positions_than_first_tokens_are_named(tmp_path):
    tokens = dict.fromkeys(("pos_embed", "dist_token"), torch.ones(1, 1, 24))
    path = saved(timm_small().state_dict() | tokens, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"its 1 positions .*there are none for"):
        load_pretrained(path, num_heads=3)


def test_names_that_nobody_gave_come_before_what_to_do(tmp_path):
    path = saved({"a": torch.ones(1), "b\n": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(
        ValueError, match=r"in it \(a, 'b\\n'\) are of no ViT .*load_model$"
    ):
        load_pretrained(path)


def test_scales_do_not_multiply_small_weights_to_large_ones(tmp_path):
    state = timm_small(init_values=0.1).state_dict()
    state["blocks.0.ls1.gamma"] = torch.ones(200_000)
    state["blocks.0.attn.proj.weight"] = torch.ones(1, 200_000)  # 160 GB if multiplied
    state["blocks.0.attn.proj.bias"] = torch.ones(1)
    with pytest.raises(ValueError, match=r"of another shape: blocks\.0\.attn\.proj"):
        load_pretrained(saved(state, tmp_path / "w.pth"), **GIVEN)


@pytest.mark.timeout(20)
def test_many_blocks_of_one_number_make_no_deep_model(tmp_path):
    more = {f"blocks.{i}.norm1.bias": torch.ones(1) for i in range(5000)}
    path = saved(timm_small().state_dict() | more, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="its depth is 5000, with 5041 tensors"):
        load_pretrained(path, **GIVEN)


@pytest.mark.parametrize("packed", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
@pytest.mark.parametrize("suffix", ["pth", "npz"])
def test_a_file_that_unpacks_to_far_more_than_its_size_is_refused(
    tmp_path, suffix, packed
):
    path = tmp_path / f"w.{suffix}"
    if suffix == "pth":
        torch.save(timm_small().state_dict(), path)
    else:
        np.savez(path, **google_arrays(timm_small()))
    with zipfile.ZipFile(path, "a", packed) as file:
        file.writestr("w/data/99" if suffix == "pth" else "a.npy", bytes(10_000_000))
    with pytest.raises(ValueError, match=r"it (would unpack to 10,\d|is packed as)"):
        load_pretrained(path, **GIVEN)


def test_a_file_packed_as_neither_numpy_nor_torch_would_is_refused(tmp_path):
    np.savez(path := tmp_path / "w.npz", **google_arrays(timm_small()))
    with zipfile.ZipFile(path, "a", zipfile.ZIP_BZIP2) as file:
        file.writestr("a.npy", b"1")
    with pytest.raises(ValueError, match="it is packed as neither"):
        load_pretrained(path)


def test_a_file_of_an_old_form_loads_and_each_of_its_parts_is_looked_at(tmp_path):
    """As torch wrote before 1.6: pickles in a row."""
    theirs, path = timm_small(), tmp_path / "w.pth"
    torch.save(theirs.state_dict(), path, _use_new_zipfile_serialization=False)
    ours = load_pretrained(path, **GIVEN)
    close(*both(ours, theirs, photos(32)))

    class Memory:
        def __reduce__(self):
            return bytearray, (3,)

    parts = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, {}, []]
    for place in range(5):
        asking = [*parts[:place], Memory(), *parts[place + 1 :]]
        path.write_bytes(b"".join(pickle.dumps(part, 2) for part in asking))
        with pytest.raises(ValueError, match="it asks for __builtin__ bytearray"):
            load_pretrained(path)


def test_weights_that_were_saved_on_a_gpu_load_without_one(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
        path = saved(timm_small(), tmp_path / "w.pth")
    model = load_pretrained(path, **GIVEN)
    assert {p.device.type for p in model.parameters()} == {"cpu"}


def test_weights_that_numpy_compressed_load(tmp_path):
    theirs = google_arrays(timm_small())
    arrays = {key: value.round(1) for key, value in theirs.items()}  # few numbers
    np.savez_compressed(path := tmp_path / "w.npz", **arrays)
    assert path.stat().st_size < sum(value.nbytes for value in arrays.values()) / 2
    assert load_pretrained(path).config["num_heads"] == 3


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A web server with one published checkpoint, named by its hash."""
    folder = tmp_path / "site"
    folder.mkdir()
    path = folder / "toy.pth"
    saved(timm_small(embed_dim=192, depth=12, img_size=224, patch_size=56), path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path = path.rename(folder / f"toy-{digest[:8]}.pth")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def copyfile(self, source, target):
            content = source.read()
            if self.path.startswith("/cut"):  # short of the length that was promised
                content = content[:-1000]
            target.write(content)

    handler = partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{path.name}"
        monkeypatch.setitem(PUBLISHED, "toy", Published(url))
        yield path
        server.shutdown()


def cached(tmp_path):
    return sorted(p.name for p in (tmp_path / "torch/hub/checkpoints").glob("*"))


def test_a_published_file_is_fetched_once(site, tmp_path, capsys):
    model = load_pretrained("toy")
    assert cached(tmp_path) == [site.name]
    kept = site.rename(tmp_path / "elsewhere.pth")
    again = load_pretrained("toy")  # the server has it no more
    expected = load_pretrained(kept)
    close(model(photos(224)), expected(photos(224)))
    close(again(photos(224)), expected(photos(224)))


def test_counters_are_no_fault_of_a_published_file(tmp_path):
    """As of BatchNorm in torchvision's; what is no weight at all is one."""
    path = tmp_path / "w.pth"
    saved({"bn1.num_batches_tracked": torch.tensor(3)}, path)
    assert fault(path) is None
    saved({"bn1.running_mean": 3}, path)
    assert fault(path).startswith("is not a whole file of weights alone")


def test_a_warm_cache_needs_no_network(site, tmp_path, no_network):
    cache = tmp_path / "torch/hub/checkpoints"
    cache.mkdir(parents=True)
    (cache / site.name).write_bytes(site.read_bytes())
    load_pretrained("toy")


def test_another_file_than_the_published_one_is_not_kept(site, tmp_path, capsys):
    site.write_bytes(site.read_bytes() + b"x")
    with pytest.raises(RuntimeError, match=r"toy.* sent .*, which has another hash"):
        load_pretrained("toy")
    assert cached(tmp_path) == []


def test_half_a_file_without_a_hash_is_not_kept(site, tmp_path, monkeypatch, capsys):
    whole = site.rename(site.with_name("cut.pth"))
    url = PUBLISHED["toy"].url.replace(site.name, whole.name)
    monkeypatch.setitem(PUBLISHED, "toy", Published(url))
    with pytest.raises(RuntimeError, match=r"\d of [\d,]+ bytes came"):
        load_pretrained("toy")
    assert cached(tmp_path) == []


def test_a_spoiled_cache_is_named(site, tmp_path, no_network):
    cache = tmp_path / "torch/hub/checkpoints"
    cache.mkdir(parents=True)
    (cache / site.name).write_bytes(site.read_bytes()[:-100])
    with pytest.raises(ValueError, match=f"{site.name} is not the published file"):
        load_pretrained("toy")
    (cache / site.name).unlink()
    os.mkfifo(cache / site.name)  # to open it would wait for ever
    with pytest.raises(ValueError, match=f"{site.name} is not the published file"):
        load_pretrained("toy")


def test_without_network_the_error_says_what_to_do(no_network, tmp_path):
    with pytest.raises(RuntimeError) as caught:
        load_pretrained("dinov2_vits14")
    for words in (
        "could not be downloaded",
        "no network here",
        PUBLISHED["dinov2_vits14"].url,
        "VITUTILS_WEIGHTS",
    ):
        assert words in str(caught.value)
    assert cached(tmp_path) == []


@pytest.mark.parametrize(
    "file, found",
    [
        ("toy.pth", True),
        ("toy_file.pth", True),  # its own name
        ("toy.safetensors", True),
        ("toy_fp16.safetensors", True),
        ("toy_reg4.safetensors", False),  # another model
        ("toyish.safetensors", False),
        ("toy.txt", False),
        ("toy.pth.part", False),
    ],
)
def test_a_folder_of_weights_comes_first(
    file, found, tmp_path, monkeypatch, no_network
):
    folder = tmp_path / "weights"
    folder.mkdir()
    saved(
        timm_small(embed_dim=192, depth=12, img_size=224, patch_size=56), folder / file
    )
    monkeypatch.setenv("VITUTILS_WEIGHTS", str(folder))
    monkeypatch.setitem(PUBLISHED, "toy", Published("https://example.org/toy_file.pth"))
    if found:
        assert load_pretrained("toy").config["embed_dim"] == 192
    else:
        with pytest.raises(RuntimeError, match="could not be downloaded"):
            load_pretrained("toy")


def test_a_folder_of_weights_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("VITUTILS_WEIGHTS", str(tmp_path / "wights"))
    with pytest.raises(ValueError, match=r"VITUTILS_WEIGHTS is .*wights, .* no folder"):
        load_pretrained("dinov2_vits14")


def test_published_files_have_names_of_their_own_and_hashes_where_known():
    names = [*map(file_name, PUBLISHED.values())]
    assert len({*names}) == len(names)
    assert all(one.url.startswith("https://") for one in PUBLISHED.values())
    hashed = [name for name in names if re.search(r"-[0-9a-f]{8}\.(pth|safe)", name)]
    assert len(hashed) == 10  # neither Google nor DINOv2 publishes any
    timms = timm.create_model("deit_tiny_distilled_patch16_224").default_cfg["url"]
    assert PUBLISHED["deit_tiny_distilled_patch16_224"].url == timms
    assert PUBLISHED["vit_b_16"].url == torchvision.models.ViT_B_16_Weights.DEFAULT.url


def test_published_addresses_equal_those_that_timm_knows():
    for ours, theirs in {
        "augreg_ti_16": "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        "augreg_s_16": "vit_small_patch16_224.augreg_in21k_ft_in1k",
        "augreg_b_16": "vit_base_patch16_224.augreg_in21k_ft_in1k",
        "dinov2_vits14": "vit_small_patch14_dinov2.lvd142m",
        "dinov2_vitb14": "vit_base_patch14_dinov2.lvd142m",
        **{name: f"{name}.fb_in1k" for name in PUBLISHED if "deit" in name},
    }.items():
        config = timm.models.get_pretrained_cfg(theirs)
        assert PUBLISHED[ours].url == config.url
        assert (PUBLISHED[ours].mean, PUBLISHED[ours].std) == (config.mean, config.std)
    name = "vit_small_patch16_224.augreg_in21k_ft_in1k"
    ours, theirs = PUBLISHED[name], timm.models.get_pretrained_cfg(name)
    assert ours.url.startswith(f"https://huggingface.co/{theirs.hf_hub_id}/resolve/")
    assert (ours.mean, ours.std) == (theirs.mean, theirs.std)


def test_the_digits_are_as_their_page_says(root):
    with np.load(root / "data/digits/digits.npz", allow_pickle=False) as file:
        assert file.files == ["images", "labels"]
        images, labels = file["images"], file["labels"]
    assert (images.shape, images.dtype) == ((1797, 8, 8), np.uint8)
    assert (labels.shape, labels.dtype) == ((1797,), np.uint8)
    assert (images.min(), images.max()) == (0, 16)
    counts = np.bincount(labels)
    assert (len(counts), counts.min(), counts.max()) == (10, 174, 183)
    page = (root / "data/digits/README.md").read_text(encoding="utf-8")
    assert all(words in page for words in ("1,797", "174 to 183", "CC BY 4.0"))


def test_a_model_that_takes_images_normalized_otherwise_answers_as_before():
    model = drawn(VisionTransformer(embed_dim=24, depth=1, num_heads=3, **SMALL))
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def normalized(mean, std):
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
        return (pixels - mean) / std

    old = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    new = (0.1, 0.0, 0.7), (1.0, 0.5, 0.25)
    with torch.no_grad():
        expected = model(normalized(*old))
    renormalize(model, old=old, new=new)
    assert all(p.requires_grad for p in model.parameters())
    with torch.no_grad():
        close(model(normalized(*new)), expected)
