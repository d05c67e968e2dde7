"""What other libraries' files look like: equal to each library's model, or refused."""

import argparse
import json
import math
import re
import socket
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from test_pretrained import (
    GIVEN,
    close,
    drawn,
    google_arrays,
    photos,
    saved,
    timm_small,
    torchvision_small,
)
from timm.models.deit import VisionTransformerDistilled
from torch import nn

from vitutils import data
from vitutils.data.preprocessing import Preprocessing
from vitutils.deit import DistilledVisionTransformer
from vitutils.engine import hubs
from vitutils.engine.checkpoints import load_model
from vitutils.engine.formats import (
    HEADS,
    SIDES,
    TIMM,
    WRAPPERS,
    Unplaced,
    grid_of,
    heads_of,
    rename,
    tidy_timm,
    tidy_torchvision,
    unwrap,
)
from vitutils.engine.hubs import is_hub, preprocessing_of, unlike
from vitutils.engine.weights import load_weights
from vitutils.maps import attention_maps
from vitutils.pretrained import convert, load_pretrained
from vitutils.train import evaluate
from vitutils.vit import VisionTransformer


@torch.no_grad()
def same(ours, theirs, size=32):
    """Hold our logits to theirs, which must be more than noise."""
    images = photos(*(size if isinstance(size, tuple) else (size,)))
    expected = theirs(images)
    close(ours(images), expected)
    assert expected.std() > 0.1


# ---- heads ----


@pytest.mark.parametrize(
    "width, depth, heads",
    [(192, 12, 3), (768, 12, 12), (1024, 24, 16), (1280, 32, 16), (1664, 48, 16)],
)
def test_heads_of_published_sizes(width, depth, heads):
    assert heads_of(width, depth) == heads  # width 1280 has heads of 80 features


@pytest.mark.parametrize(
    "width, depth, said",
    [(384, 12, r"\(6, 12\?\)"), (64, 3, r"\(1, 2, 4\?\)"), (25, 3, "heads$")],
)
def test_heads_that_no_table_tells_are_asked_for(width, depth, said):
    with pytest.raises(ValueError, match=f"give num_.*{said}"):
        heads_of(width, depth)


@pytest.mark.slow(1)
def test_the_books_own_weights_under_timms_names_are_as_right_as_before(tmp_path):
    """Heads of 64 features, one here, got 15.75 % of the test images, not 86.75."""
    own = data.DATA / "checkpoints" / "vit_fashion_mnist.safetensors"
    model = load_model(own)
    state = {rename(key, TIMM): value for key, value in model.state_dict().items()}
    path = saved(state, tmp_path / "theirs.pth")
    with pytest.raises(ValueError, match="heads unknown at width 64, depth 4"):
        load_pretrained(path, trained_at=28)
    theirs = load_pretrained(path, num_heads=4, trained_at=28)
    split = data.load("fashion_mnist").validation.subset(500)
    found = evaluate(theirs, split)
    close(found.logits, evaluate(model, split).logits)
    assert found.accuracy > 0.85


def test_heads_and_sides_are_those_of_timms_registry():
    """No published ViT of timm that ours can be has other heads or another side."""
    for name in (
        "vit_base_patch16_224",
        "vit_huge_patch14_224",
        "vit_small_patch8_224",
    ):
        with torch.device("meta"):
            model = timm.create_model(name)
        assert unlike(model) is None
        assert (
            model.blocks[0].attn.num_heads in HEADS[model.embed_dim, len(model.blocks)]
        )
        assert {*timm.get_pretrained_cfg(name).input_size[1:]} <= SIDES


# ---- positions ----


def test_positions_without_a_class_slot_as_in_deit_iii():
    theirs = timm_small(no_embed_class=True, init_values=0.1)
    cls, config, state = convert(theirs.state_dict(), **GIVEN)
    ours = cls(**config).eval()
    ours.load_state_dict(state)
    assert not state["embeddings.pos_embed"][:, 0].any()
    same(ours, theirs)


@pytest.mark.parametrize("without_slot", [True, False])
def test_register_tokens_of_timm_and_dinov2(tmp_path, without_slot):
    theirs = timm_small(reg_tokens=4, no_embed_class=without_slot)
    ours = load_pretrained(saved(theirs, tmp_path / "w.pth"), **GIVEN)
    assert ours.config["num_registers"] == 4
    same(ours, theirs)
    maps = attention_maps(ours, photos(32))  # of the patches alone
    assert maps.shape == (2, 4, 4)
    _, weights = ours(photos(32), need_weights=True)
    close(maps.flatten(1), weights[-1].mean(dim=1)[:, 0, 5:])
    # DINOv2's own files have a slot for the class and none for the registers.
    state = theirs.state_dict()
    slots = torch.zeros(1, 21, 24)
    slots[:, [0, *range(5, 21)]] = torch.randn(1, 17, 24)
    state |= {"register_tokens": state.pop("reg_token")}
    state |= {
        "pos_embed": slots[:, [0, *range(5, 21)]],
        "mask_token": torch.zeros(1, 24),
    }
    found = convert(state, **GIVEN)[2]["embeddings.pos_embed"]
    assert torch.equal(found, slots)


def test_dinov2_with_registers_answers_as_timms(tmp_path):
    kind, sizes = "vit_small_patch14_reg4_dinov2", {"embed_dim": 24, "depth": 2}
    theirs = timm.create_model(kind, img_size=28, num_classes=5, num_heads=3, **sizes)
    drawn(theirs)
    given = {"num_heads": 3, "trained_at": 28}
    same(load_pretrained(saved(theirs, tmp_path / "timm.pth"), **given), theirs, 28)
    # Meta's own file adds a row of positions to the class token, as timm has done.
    state = theirs.state_dict()
    row = torch.randn(1, 1, 24)
    state["cls_token"] = state["cls_token"] - row
    state["pos_embed"] = torch.cat((row, state["pos_embed"]), dim=1)
    state["register_tokens"] = state.pop("reg_token")
    state["mask_token"] = torch.zeros(1, 24)
    same(load_pretrained(saved(state, tmp_path / "meta.pth"), **given), theirs, 28)


def test_a_grid_that_nothing_tells_is_asked_for(tmp_path):
    theirs = timm_small(img_size=(64, 16))  # 8 x 2 patches
    path = saved(theirs, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"16 may be of images of 32 x 32.*trained_at"):
        load_pretrained(path, num_heads=3)
    ours = load_pretrained(path, num_heads=3, trained_at=(64, 16))
    assert ours.embeddings.grid == (8, 2)
    same(ours, theirs, (64, 16))
    with pytest.raises(ValueError, match="do not tell"):
        load_pretrained(path, num_heads=3, trained_at=24)


def test_a_side_is_taken_as_published_only_where_both_sides_are():
    def state(rows, *patch):
        shapes = {"cls_token": (1, 1, 4), "pos_embed": (1, rows, 4)}
        shapes["patch_embed.proj.weight"] = (4, 3, *patch)
        return {key: torch.ones(shape) for key, shape in shapes.items()}

    whole = tidy_timm(state(197, 16, 16), None)["pos_embed"]
    assert torch.equal(whole, torch.ones(1, 197, 4))
    lacking = tidy_timm(state(196, 16, 16), None)["pos_embed"]
    assert lacking.shape == whole.shape and not lacking[:, 0].any()
    with pytest.raises(Unplaced, match="196 may be of images of 224 x 112, 112 x 224"):
        tidy_timm(state(197, 16, 8), None)
    given = tidy_timm(state(197, 16, 8), (224, 112))["pos_embed"]
    assert torch.equal(given, whole)
    with pytest.raises(Unplaced, match="there are none for patches"):
        tidy_timm(state(1, 16, 16), None)


def test_patches_that_are_no_squares_fill_an_image():
    assert grid_of((64, 16), (8, 4)) == (8, 4) and grid_of(48, (16, 8)) == (3, 6)
    for size in ((64, 18), (60, 16)):
        with pytest.raises(ValueError, match="8 x 4 pixels do not fill"):
            grid_of(size, (8, 4))


# ---- heads of classes ----


def test_layers_of_torchvision_have_one_name():
    old = ["layer.mlp.linear_1.bias", "layer.mlp.linear_2.bias"]
    new = ["layer.mlp.0.bias", "layer.mlp.3.bias"]
    assert [*tidy_torchvision(dict.fromkeys(old))] == new
    heads = [f"heads.{n}.{k}" for n in ("pre_logits", "head") for k in ("weight", "b")]
    assert [*tidy_torchvision(dict.fromkeys(heads))] == heads


@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: nn.Sequential(nn.Dropout(), x)]
)
def test_torchvision_with_a_replaced_head(tmp_path, wrap):
    theirs = torchvision_small()
    theirs.heads = wrap(nn.Linear(24, 5))
    drawn(theirs)
    same(load_pretrained(saved(theirs, tmp_path / "w.pth"), num_heads=3), theirs)


def test_pre_logits_are_dropped_for_a_new_head_and_else_refused(tmp_path):
    arrays = google_arrays(timm_small())
    more = {"pre_logits/kernel": np.ones((24, 24)), "pre_logits/bias": np.ones(24)}
    np.savez(tmp_path / "w.npz", **arrays, **more)
    np.savez(tmp_path / "plain.npz", **arrays)
    for classes in (None, 7):
        with pytest.raises(
            ValueError, match=r"head has layers .*pre_logits.*num_classes"
        ):
            load_pretrained(tmp_path / "w.npz", num_classes=classes)
    new = load_pretrained(tmp_path / "w.npz", num_classes=3)
    plain = load_pretrained(tmp_path / "plain.npz")
    assert new.head.out_features == 3
    assert torch.equal(new.encoder.norm.weight, plain.encoder.norm.weight)


def test_a_head_of_zeros_is_no_head(tmp_path):
    state = timm_small().state_dict()
    state["head.weight"].zero_()
    path = saved(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="no trained head: give num_classes="):
        load_pretrained(path, **GIVEN)
    assert load_pretrained(path, **GIVEN, num_classes=7).head.weight.any()


@pytest.mark.parametrize(
    "others, said",
    [
        ({"global_pool": "avg", "fc_norm": True}, "fc_norm.*ours the class token"),
        ({"global_pool": "avg", "class_token": False}, "no class token"),
    ],
)
def test_a_head_that_reads_the_patches_is_refused(others, said):
    with pytest.raises(ValueError, match=said):
        convert(timm_small(**others).state_dict(), **GIVEN)


def test_the_decoder_of_maes_training_is_left_out():
    state = timm_small(num_classes=0).state_dict()
    more = {"mask_token": torch.ones(3), "decoder_blocks.0.norm1.bias": torch.ones(3)}
    convert(state | more, **GIVEN, num_classes=2)


# ---- wrappers ----


OPTIONS = {"lr": 0.1, "model": "vit", "output_dir": Path("runs"), "size": (2, 2)}
OPTIONS |= {"device": torch.device("cuda"), "dtype": torch.float16}


@pytest.mark.parametrize("args", [argparse.Namespace(**OPTIONS), {"lr": 1}])
def test_a_checkpoint_with_the_options_of_its_training(tmp_path, args):
    theirs = timm_small()
    found = {"model": theirs.state_dict(), "args": args, "epoch": 3, "model_ema": None}
    same(load_pretrained(saved(found, tmp_path / "w.pth"), **GIVEN), theirs)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "backbone.", "teacher.backbone.", "model.vit."]
)
def test_prefixes_are_taken_off(tmp_path, prefix):
    theirs = timm_small()
    state = {prefix + k: v for k, v in theirs.state_dict().items()}
    counters = {"n_averaged": torch.tensor(3)}
    same(load_pretrained(saved(state | counters, tmp_path / "w.pth"), **GIVEN), theirs)


def test_a_head_beside_its_backbone():
    state = timm_small().state_dict()
    where = {
        k: "module." if k.startswith("head") else "module.backbone." for k in state
    }
    assert unwrap({where[k] + k: v for k, v in state.items()}).keys() == state.keys()


@pytest.mark.parametrize(
    "raw, average",
    [
        ("model", "model_ema"),
        ("state_dict", "state_dict_ema"),
        ("student", "teacher"),
        ("model", "teacher"),
    ],
)
def test_of_raw_weights_and_averages_it_is_said_which_are_taken(tmp_path, raw, average):
    theirs, others = timm_small(), timm_small(init_values=0.3)
    found = {raw: theirs.state_dict(), average: others.state_dict()}
    path = saved(found, tmp_path / "w.pth")
    with pytest.warns(UserWarning, match=f"{average} is taken, which='{raw}'"):
        same(load_pretrained(path, **GIVEN), others)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # who chooses need not be told
        same(load_pretrained(path, **GIVEN, which=raw), theirs)
    with pytest.raises(ValueError, match=f"holds no momentum, but {average} or {raw}"):
        load_pretrained(path, **GIVEN, which="momentum")
    flat = {f"{w}.{k}": v for w in found for k, v in found[w].items()}
    if raw == "student":  # as Lightning writes a module of both
        path = saved(flat, tmp_path / "flat.pth")
        same(load_pretrained(path, **GIVEN, which=raw), theirs)
        with pytest.warns(UserWarning, match="teacher is taken, which='student'"):
            same(load_pretrained(path, **GIVEN), others)


def test_the_average_of_a_student_is_an_average():
    state = timm_small().state_dict()
    found = {f"model.{k}": v for k, v in state.items()}
    found |= {f"ema.student.{k}": v + 1 for k, v in state.items()}
    with pytest.warns(UserWarning, match="ema is taken"):
        weights = unwrap(found)
    assert torch.equal(weights["cls_token"], state["cls_token"] + 1)


@pytest.mark.parametrize("first", ["encoder_a", "student"])
def test_several_models_that_nothing_ranks_are_refused(first):
    state = timm_small().state_dict()
    found = {f"{w}.{k}": v for w in (first, "encoder_b") for k, v in state.items()}
    with pytest.raises(ValueError, match=rf"several models: {first}\., encoder_b\."):
        unwrap(found)


def test_a_contrastive_training_of_two_encoders():
    """MoCo v3's: a projection as head, a momentum encoder, counters of batch norms."""
    state = timm_small(num_classes=0).state_dict()
    more = {"head.0.weight": torch.ones(2), "head.1.num_batches_tracked": torch.ones(1)}
    found = {f"module.base_encoder.{k}": v for k, v in (state | more).items()}
    found |= {f"module.momentum_encoder.{k}": v + 1 for k, v in state.items()}
    found |= {"module.predictor.0.weight": torch.ones(2)}
    with pytest.warns(UserWarning, match="base_encoder is taken"):
        weights = unwrap(found)
    assert weights.keys() == {*state, "head.0.weight", "predictor.0.weight"}
    model = convert(weights, **GIVEN, num_classes=2)[2]
    assert torch.equal(model["embeddings.class_token"], state["cls_token"])


# ---- Hugging Face ----


def of_hugging_face(model, prefix):
    """Name a timm model's weights as transformers does."""
    state, found = model.state_dict(), {}
    for key in ("cls_token", "dist_token", "pos_embed"):
        name = {"dist_token": "distillation_token", "pos_embed": "position_embeddings"}
        if key in state:
            found[f"{prefix}embeddings.{name.get(key, key)}"] = state[key]
    layers = {"patch_embed.proj": "embeddings.patch_embeddings.projection"}
    layers |= {"norm": "layernorm"}
    for i in range(len(model.blocks)):
        block, layer = f"blocks.{i}.", f"encoder.layer.{i}."
        layers |= {
            f"{block}norm1": f"{layer}layernorm_before",
            f"{block}norm2": f"{layer}layernorm_after",
            f"{block}attn.proj": f"{layer}attention.output.dense",
            f"{block}mlp.fc1": f"{layer}intermediate.dense",
            f"{block}mlp.fc2": f"{layer}output.dense",
        }
        for end in ("weight", "bias"):
            parts = state[f"{block}attn.qkv.{end}"].chunk(3)
            for name, part in zip(("query", "key", "value"), parts, strict=True):
                found[f"{prefix}{layer}attention.attention.{name}.{end}"] = part
    for ours, theirs in layers.items():
        for end in ("weight", "bias"):
            found[f"{prefix}{theirs}.{end}"] = state[f"{ours}.{end}"]
    return found


CONFIG = {
    "model_type": "vit",
    "hidden_act": "gelu",
    "qkv_bias": True,
    "image_size": 32,
    "num_attention_heads": 3,
    "layer_norm_eps": 1e-12,
    "id2label": {str(i): f"kind {i}" for i in range(7)},
}
IMAGES = {
    "image_mean": [0.1, 0.2, 0.3],
    "image_std": [0.4, 0.5, 0.6],
    "size": {"height": 40, "width": 40},
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
    "resample": 3,
}


def folder_of(tmp_path, state, config, images=IMAGES, file="model.safetensors"):
    saved(state, tmp_path / file)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(images))
    return tmp_path


def with_heads(theirs, prefix, *names):
    state = of_hugging_face(theirs, prefix)
    for name, head in zip(names, ("head", "head_dist"), strict=False):
        for end in ("weight", "bias"):
            state[f"{name}.{end}"] = theirs.state_dict()[f"{head}.{end}"]
    return state


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_a_vit_of_transformers(tmp_path, file):
    theirs = timm_small(norm_layer=partial(nn.LayerNorm, eps=1e-12))
    state = with_heads(theirs, "vit.", "classifier")
    folder = folder_of(tmp_path, state, CONFIG, file=file)
    ours, told = load_weights(folder)
    assert ours.config["norm_eps"] == 1e-12
    same(ours, theirs)
    assert (told.mean, told.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (told.crop, told.interpolation) == (0.8, "bicubic")
    assert told.image_size == (32, 32) and told.classes[6] == "kind 6"
    same(load_pretrained(folder / file), theirs)  # by its config.json
    same(load_pretrained(folder, **GIVEN), theirs)  # what it says already
    with pytest.raises(ValueError, match="its num_heads is 3, not 4"):
        load_pretrained(folder, num_heads=4)


def test_an_epsilon_that_matters_is_kept(tmp_path):
    theirs = timm_small(norm_layer=partial(nn.LayerNorm, eps=0.1))
    state = with_heads(theirs, "vit.", "classifier")
    folder = folder_of(tmp_path, state, CONFIG | {"layer_norm_eps": 0.1})
    same(load_pretrained(folder), theirs)


def test_deits_of_transformers(tmp_path):
    theirs = timm_small(VisionTransformerDistilled)
    config = CONFIG | {"model_type": "deit", "layer_norm_eps": 1e-6}
    names = ("cls_classifier", "distillation_classifier")
    folder = folder_of(tmp_path, with_heads(theirs, "deit.", *names), config)
    ours = load_pretrained(folder)
    assert isinstance(ours, DistilledVisionTransformer)
    with torch.no_grad():
        first, second, _ = ours.both_heads(photos(32))
        close((first + second) / 2, theirs(photos(32)))
    # With the class token's head alone, the distillation token is like a register.
    folder_of(tmp_path, with_heads(theirs, "deit.", "classifier"), config)
    ours = load_pretrained(folder)
    assert type(ours) is VisionTransformer and ours.config["num_registers"] == 1
    close(ours(photos(32)), first)


def test_a_backbone_of_transformers_without_a_head(tmp_path):
    state = of_hugging_face(timm_small(), "") | {"pooler.dense.bias": torch.ones(24)}
    folder = folder_of(tmp_path, state, CONFIG)
    with pytest.raises(ValueError, match="no trained head: give num_classes="):
        load_pretrained(folder)
    assert load_pretrained(folder, num_classes=2)(photos(32)).shape == (2, 2)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"hidden_act": "gelu_new"}, "its hidden_act is gelu_new, ours gelu"),
        ({"qkv_bias": False}, "its qkv_bias is False, ours True"),
        ({"use_swiglu_ffn": True}, "its use_swiglu_ffn is True, ours False"),
        ({"model_type": "beit"}, "it is a beit, none of vit, deit"),
        ({"num_attention_heads": 0}, "its num_attention_heads is 0"),
        ({"image_size": [32]}, "its image_size is"),
        ({"image_size": [32, 0]}, "its image_size is"),
        ({"layer_norm_eps": math.inf}, "its layer_norm_eps is inf"),
    ],
)
def test_what_differs_in_a_config_is_named(tmp_path, changes, said):
    state = with_heads(timm_small(), "vit.", "classifier")
    with pytest.raises(ValueError, match=f"{tmp_path}: {said}"):
        load_pretrained(folder_of(tmp_path, state, CONFIG | changes))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"rescale_factor": 1 / 127.5}, "another range"),
        ({"resample": 0}, "no interpolation"),
        ({"size": {"longest_edge": 3}}, "KeyError"),
    ],
)
def test_images_that_ours_are_not_are_named(tmp_path, changes, said):
    folder = folder_of(tmp_path, {"a": torch.ones(1)}, CONFIG, IMAGES | changes)
    with pytest.raises(ValueError, match=f"does not say how images are made .*{said}"):
        preprocessing_of(folder)


def test_images_are_cropped_where_a_processor_crops_them_alone(tmp_path):
    images = IMAGES | {"do_center_crop": False}
    told = preprocessing_of(folder_of(tmp_path, {"a": torch.ones(1)}, CONFIG, images))
    assert (told.image_size, told.crop) == ((40, 40), 1.0)


def test_images_are_normalized_where_a_processor_normalizes_them_alone(tmp_path):
    images = IMAGES | {"do_normalize": False}
    told = preprocessing_of(folder_of(tmp_path, {"a": torch.ones(1)}, CONFIG, images))
    assert (told.mean, told.std) == ((0.0,) * 3, (1.0,) * 3)


def test_a_folder_that_lacks_a_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"has no config\.json"):
        load_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        load_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(ValueError, match=r"neither model\.safetensors nor pytorch"):
        load_pretrained(tmp_path)


def test_names_of_a_hub_and_of_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    hub = {n for n in ("google/vit", "a/w.pth", "runs/x", "vit_b_16", "x") if is_hub(n)}
    assert hub == {"google/vit"}


@pytest.mark.parametrize("cached", [True, False])
def test_a_hub_without_a_network_is_its_cache_or_one_line(
    tmp_path, monkeypatch, cached
):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    real = hub.hf_hub_download
    monkeypatch.setattr(
        hub, "hf_hub_download", lambda *a, **k: real(*a, **k, cache_dir=tmp_path)
    )
    if not cached:
        for read in (load_pretrained, load_weights):
            with pytest.raises(
                RuntimeError, match=r"^owner/vit: config\.json is"
            ) as no:
                read("owner/vit")
            assert "\n" not in str(no.value)
        return
    theirs = timm_small(norm_layer=partial(nn.LayerNorm, eps=1e-12))
    repository = tmp_path / "models--owner--vit"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text("a" * 40)
    (snapshot := repository / "snapshots" / ("a" * 40)).mkdir(parents=True)
    folder_of(snapshot, with_heads(theirs, "vit.", "classifier"), CONFIG)
    same(load_pretrained("owner/vit"), theirs)
    assert load_weights("owner/vit").preprocessing.classes[6] == "kind 6"


@pytest.mark.parametrize("size", [{"height": 40, "width": 40}, 40])
def test_photos_are_squashed_where_a_processor_squashes_them(tmp_path, size):
    folder = folder_of(tmp_path, {"a": torch.ones(1)}, CONFIG, IMAGES | {"size": size})
    told = preprocessing_of(folder)
    assert Preprocessing.from_json(told.to_json()) == told
    image = Image.fromarray(
        np.random.default_rng(0).integers(0, 256, (50, 90, 3), "u1")
    )
    square = image.resize((40, 40), Image.Resampling.BICUBIC).crop((4, 4, 36, 36))
    assert np.array_equal(told.fit(image), square)
    images = IMAGES | {"size": {"shortest_edge": 40}}
    kept = preprocessing_of(folder_of(tmp_path, {"a": torch.ones(1)}, CONFIG, images))
    wide = image.resize((72, 40), Image.Resampling.BICUBIC).crop((20, 4, 52, 36))
    assert np.array_equal(kept.fit(image), wide)
    assert "squash" not in kept.to_json()  # as files of version 0.2


@pytest.mark.parametrize("refused", [True, False])
def test_a_hub_that_cannot_be_reached_is_soon_told(monkeypatch, refused):
    """It was asked again for 24 s where connections are refused, 40 where none is."""
    hub = pytest.importorskip("huggingface_hub")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if refused:
            server.close()
        monkeypatch.setattr(hub.constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setattr(hubs, "PATIENCE", 0.3)
        began = time.perf_counter()
        with pytest.raises(RuntimeError, match="the hub could not be reached") as no:
            load_pretrained("nobody/no-such-vit")
    assert time.perf_counter() - began < 3 and "\n" not in str(no.value)


# ---- timm's own settings ----


@pytest.mark.slow(1)
def test_a_folder_of_timm(tmp_path):
    theirs = drawn(timm.create_model("vit_tiny_patch16_224", num_classes=3), std=0.05)
    told = {"input_size": [3, 224, 224], "mean": [0.5] * 3, "std": [0.2] * 3}
    config = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": told}
    folder = folder_of(tmp_path, theirs, config)
    same(load_pretrained(folder), theirs, 224)
    assert preprocessing_of(folder).std == (0.2, 0.2, 0.2)
    sizes = {"img_size": 64, "num_classes": 3, "in_chans": 3}
    theirs = drawn(timm.create_model("vit_tiny_patch16_224", **sizes), std=0.05)
    own = config | {"model_args": sizes}
    same(load_pretrained(folder_of(tmp_path, theirs, own)), theirs, 64)
    own["model_args"] = sizes | {"depth": 12}
    with pytest.raises(ValueError, match="arguments of its own: depth"):
        load_pretrained(folder_of(tmp_path, theirs, own))
    for kind in ("vit_base_patch16_rpn_224", "resnet18"):
        (tmp_path / "config.json").write_text(
            json.dumps(config | {"architecture": kind})
        )
        with pytest.raises(ValueError, match=r"no ViT|ours|no class token"):
            load_pretrained(folder)


def test_timms_models_of_imagenet_know_its_names(tmp_path):
    told = {"input_size": [3, 224, 224], "mean": [0.5] * 3, "std": [0.2] * 3}
    told |= {"num_classes": 1000, "tag": "augreg_in21k_ft_in1k"}
    config = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": told}
    folder = folder_of(tmp_path, {"a": torch.ones(1)}, config)
    assert preprocessing_of(folder).classes[281] == "tabby"
    told["tag"] = "augreg_in21k"
    folder_of(tmp_path, {"a": torch.ones(1)}, config)
    assert preprocessing_of(folder).classes == ()


# ---- what chapter 13 says ----

# What shows that a row of its table is true.
LOADS = {
    "torchvision's ViTs, with a replaced head too": [
        test_torchvision_with_a_replaced_head
    ],
    "timm's and DeiT's, DeiT III (no position for the class token), register tokens": [
        test_positions_without_a_class_slot_as_in_deit_iii,
        test_register_tokens_of_timm_and_dinov2,
        test_a_folder_of_timm,
    ],
    "DINOv2, with register tokens too; MAE, pretrained or with a head on the class "
    "token": [
        test_dinov2_with_registers_answers_as_timms,
        test_the_decoder_of_maes_training_is_left_out,
        test_a_head_that_reads_the_patches_is_refused,
    ],
    "Google's `.npz`": [test_pre_logits_are_dropped_for_a_new_head_and_else_refused],
    "Hugging Face's `vit`, `deit`, `dinov2`: a folder with `config.json`, or "
    "`OWNER/NAME` on its hub": [
        test_a_vit_of_transformers,
        test_deits_of_transformers,
        test_a_hub_without_a_network_is_its_cache_or_one_line,
    ],
    "a training's checkpoint: `model`, `state_dict`, `teacher`, averages, prefixes as "
    "`module.`": [
        test_a_checkpoint_with_the_options_of_its_training,
        test_prefixes_are_taken_off,
        test_of_raw_weights_and_averages_it_is_said_which_are_taken,
    ],
}


def test_what_the_book_says_that_loads_is_shown(root):
    page = (root / "book/api.md").read_text(encoding="utf-8")
    table = page[page.index("| what loads |") :].split("\n\n")[0]
    rows = re.findall(r"(?m)^\| ([^|]+) \|[^|]+\|[^|]+\|$", table)[1:]
    assert rows == [*LOADS]
    kinds = {kind.removesuffix("_with_registers") for kind in hubs.KINDS}
    assert kinds == {*re.findall(r"`([a-z0-9]+)`", rows[4])}
    assert {*re.findall(r"`([a-z_]+)`", rows[5])} <= {*WRAPPERS}
