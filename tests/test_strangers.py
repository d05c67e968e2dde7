"""Files from strangers: a working model or one clear error, cheap, and no code run."""

import io
import json
import os
import resource
from collections import Counter
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import save_file
from test_pretrained import google_arrays, timm_small, torchvision_small
from timm.models.deit import VisionTransformerDistilled

from vitutils.__main__ import main
from vitutils.deit import DistilledVisionTransformer
from vitutils.distill import ConvNet
from vitutils.engine.checkpoints import is_checkpoint, load_model, load_state
from vitutils.engine.strangers import listed, reason, shown
from vitutils.pretrained import load_pretrained
from vitutils.vit import VisionTransformer

GB = 1 << 30
BIG = 10**9
warned = pytest.mark.filterwarnings("ignore")  # by torch, of odd pickles


def tries(count):
    """Try a test on so many files, the same ones each time."""
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=timedelta(seconds=10),
        suppress_health_check=[*HealthCheck],
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("strangers")


@pytest.fixture(autouse=True)
def no_code_and_little_memory(folder):
    """Whatever a test opens creates no file "marker" and takes no gigabyte."""
    peak = Path("/proc/self/clear_refs")
    if not peak.exists():  # elsewhere than on Linux
        yield
        return
    peak.write_text("5")  # the peak so far is forgotten
    before, limits = kept("VmHWM"), resource.getrlimit(resource.RLIMIT_AS)
    # What would take all memory fails instead, and is seen below.
    resource.setrlimit(resource.RLIMIT_AS, (kept("VmSize") + 4 * GB, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)
    assert kept("VmHWM") - before < GB
    assert not (folder / "marker").exists()


def kept(name):
    """Return a number of bytes that Linux knows of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(s.split()[1]) << 10 for s in lines if s.startswith(name))


def loaded(load, path):
    """Return what a file is loaded as, None after an error as it shall be."""
    try:
        return load(path)
    except ValueError as error:
        said = str(error)
    assert str(path) in said
    assert said.isprintable() and len(said) < 3000
    return None


@torch.no_grad()
def answers(model):
    """Ask a model for its answer to an image."""
    if isinstance(model, ConvNet):
        side = 2 ** len(model.config["widths"])
        shape = (model.config["in_channels"], side, side)
    else:
        shape = model.embeddings.image_shape
    assert model(torch.zeros(1, *shape)).shape == (1, model.config["num_classes"])


def test_a_strangers_words_are_shown_in_a_line_and_cut():
    assert [shown(words) for words in ("", "a\nb", "é", 3)] == [
        "''",
        r"'a\nb'",
        "é",
        "3",
    ]
    assert shown("a" * 80) == "a" * 80 and shown("a" * 81) == "a" * 80 + "..."
    assert listed("abcdef") == "a, b, c, d, e, f"
    assert listed("abcdefgh") == "a, b, c, d, e, f and 2 more"
    assert reason(ValueError("a" * 300)) == "a" * 300
    assert reason(ValueError("a" * 301)) == "a" * 300 + "..."
    assert reason(SafetensorError("cut")) == "cut"
    assert reason(KeyError("weight")) == "KeyError"


# ---- what may be wrong ----

NUMBERS = [BIG, 2**63, 10**400, -1, -4, 0, 1, 3, 4, 8, 0.5, 1.0, 2.0, -0.5, True, False]
NUMBERS += [float("nan"), float("inf")]
ODD = [*NUMBERS, None, "8", "", {}, {"a": 1}, [], [8, 8], [8, 8, 8], [BIG, BIG]]
ODD += [[-8, -8], [0, 8], [[8]], ["8", "8"], [None], [1] * 3000]
TEXTS = ["", "{", "[]", "null", "3", '"a"', "[" * 100_000, '{"a":' * 50_000, "9" * 5000]
TEXTS += ["NaN", '{"depth": 1e999}', r'{"\u001b[2J\n": 1}', f'{{"{"a" * 5000}": 1}}']
NAMES = ["a", "", "\n", "\x1b[2J", "é", "n" * 2000, "head.weight", "blocks.-1.x"]
NAMES += [f"{start}blocks.{BIG - 1}.norm1.weight" for start in ("", "encoder.")]
SHAPES = [(), (1,), (24,), (24, 1), (1, 24), (1, 1, 1), (0,), (24, 0), (0, BIG)]
SHAPES += [(4, 4, 4, 4), (1, 1, 1, 1, 1)]
KINDS = [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.int64]
KINDS += [torch.int8, torch.bool, torch.complex64]


def changed(draw, tensors):
    """Return tensors, one of them gone, renamed, of another shape, kind or value."""
    name, another = draw(st.sampled_from(sorted(tensors))), draw(st.sampled_from(NAMES))
    tensor = tensors[name]
    rest = {key: value for key, value in tensors.items() if key != name}
    match draw(st.sampled_from(["gone", "named", "more", "shape", "kind", "value"])):
        case "gone":
            return rest
        case "named":
            return rest | {another: tensor}
        case "more":
            return tensors | {another: tensor.clone()}
        case "shape":
            return rest | {name: torch.ones(draw(st.sampled_from(SHAPES)))}
        case "kind":
            return rest | {name: tensor.to(draw(st.sampled_from(KINDS)))}
        case "value":
            return rest | {name: tensor.float() * draw(st.sampled_from([1e38, np.nan]))}


def spoiled(draw, path):
    """Write a file again, some of its bytes others, gone, doubled or cut off."""
    content = bytearray(path.read_bytes())
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.integers(0, max(len(content) - 1, 0)))
        part = slice(place, place + draw(st.sampled_from([1, 2, 8, 100])))
        match draw(st.sampled_from(["bit", "byte", "fill", "gone", "doubled", "cut"])):
            case "bit":
                bit = 1 << draw(st.integers(0, 7))
                content[place : place + 1] = [content[place] ^ bit] if content else []
            case "byte":
                content[place : place + 1] = [draw(st.integers(0, 255))]
            case "fill":
                fill = draw(st.sampled_from([b"\xff", b"\0", b"9", b"("]))
                content[part] = fill * len(content[part])
            case "gone":
                del content[part]
            case "doubled":
                content[place:place] = content[part]
            case "cut":
                del content[place:]
    path.write_bytes(content)


class Code:
    """Pickled, it is a call."""

    def __init__(self, call, *arguments):
        self.call = call, arguments

    def __reduce__(self):
        return self.call


def objects(folder):
    """Return a strategy of what may be pickled, the worst included."""
    marker = str(folder / "marker")
    tensors = [torch.ones(3), torch.ones(1).expand(BIG), torch.tensor(1j)]
    tensors += [torch.ones(2).to_sparse(), torch.empty(BIG, device="meta")]
    calls = [
        Code(open, marker, "w"),
        Code(os.system, f"touch '{marker}'"),
        Code(exec, f"open({marker!r}, 'w')"),
        Code(torch.load, marker),
        Code(bytearray, 2 * BIG),
        Code(Counter, Code(bytearray, BIG // 10)),
        Code(torch.Tensor, BIG),
        Code(torch.Size, Code(bytearray, BIG // 10)),
    ]
    return st.recursive(
        st.sampled_from([None, 3, 1.5, "a", b"a", *tensors, *calls]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.tuples(inner)
            | st.dictionaries(st.sampled_from(["a", "model", "state_dict", 3]), inner)
        ),
        max_leaves=5,
    )


# ---- checkpoints ----

torch.manual_seed(0)
SIZES = {"image_size": 8, "patch_size": 4, "in_channels": 1, "num_classes": 2}
SIZES |= {"embed_dim": 8, "depth": 2, "num_heads": 2, "mlp_dim": 8}
MADE = [
    VisionTransformer(**SIZES),
    DistilledVisionTransformer(**SIZES),
    ConvNet(in_channels=1, num_classes=2, widths=(2, 3)),
]
CLASSES = ["", "VisionTransformer", "vitutils.vit", "os.system", "vitutils.mlp.MLP"]
CLASSES += ["vitutils.vit.VisionTransformer.tiny", "vitutils.vit.nn.Module", "\x1b[2J"]
CLASSES += ["vitutils.__main__.main", "vitutils.distill.Teacher", "a" * 5000]
CLASSES += ["vitutils.distill.ConvNet", "vitutils.deit.DistilledVisionTransformer"]


def told(model, **config):
    """Return what a checkpoint says of its model."""
    kind, config = type(model), json.dumps(model.config | config)
    return {"class": f"{kind.__module__}.{kind.__qualname__}", "config": config}


def write(path, tensors, metadata=None, new=True):
    """Write tensors as the ending of the path says."""
    if path.suffix == ".safetensors":
        tensors = {key: value.contiguous() for key, value in tensors.items()}
        save_file(tensors, path, metadata)
    elif path.suffix == ".npz":
        known = (torch.float8_e4m3fn, torch.bfloat16)  # to torch, not to NumPy
        tensors = {k: v.float() if v.dtype in known else v for k, v in tensors.items()}
        content = io.BytesIO()
        save = np.savez if new else np.savez_compressed
        save(content, **{key or "none": value for key, value in tensors.items()})
        path.write_bytes(content.getvalue())
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=new)


def opened(path):
    """Load a checkpoint as whoever has no idea what it is, and ask it."""
    is_checkpoint(path)
    model = loaded(load_model, path)
    if hasattr(model, "config"):
        answers(model)
    loaded(partial(load_pretrained, num_heads=2, trained_at=8), path)


@pytest.mark.slow(4)
@given(st.data())
@tries(500)
def test_a_checkpoint_that_tells_other_things(folder, data):
    draw, path = data.draw, folder / "model.safetensors"
    model = MADE[draw(st.integers(0, 2))]
    tensors, metadata, config = model.state_dict(), told(model), dict(model.config)
    for _ in range(draw(st.integers(1, 2))):
        match draw(st.sampled_from(["config", "class", "text", "gone", "tensors"])):
            case "config":
                name = draw(st.sampled_from([*config, "gone", "self"]))
                config[name] = draw(st.sampled_from(ODD))
                metadata["config"] = json.dumps(config)
            case "class":
                metadata["class"] = draw(st.sampled_from(CLASSES))
            case "text":
                metadata["config"] = draw(st.sampled_from(TEXTS))
            case "gone":
                metadata.pop(draw(st.sampled_from(["class", "config"])), None)
            case "tensors":
                tensors = changed(draw, tensors)
    write(path, tensors, metadata)
    opened(path)


@pytest.mark.slow(3)
@given(st.data())
@tries(150)
def test_a_spoiled_checkpoint(folder, data):
    path, model = folder / "model.safetensors", MADE[data.draw(st.integers(0, 2))]
    write(path, model.state_dict(), told(model))
    spoiled(data.draw, path)
    opened(path)


# ---- states of a run ----

STATE = {
    "model": MADE[0].state_dict(),
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "groups": [{"lr": 1}]},
    "history": [{"loss": 0.5}],
    "settings": {"betas": [0.9, 0.99], "init": None},
    "step": 3,
}


def same(a, b):
    """Compare two states, tensors and all."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return [*a] == [*b] and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@warned
@pytest.mark.slow(2)
@given(st.data())
@tries(500)
def test_a_spoiled_state_is_refused_or_the_same(folder, data):
    path = folder / "last.pt"
    torch.save(STATE, path)
    spoiled(data.draw, path)
    state = loaded(load_state, path)
    assert state is None or same(state, STATE)


@warned
@pytest.mark.slow(3)
@given(st.data())
@tries(200)
def test_a_state_of_other_things(folder, data):
    path, state = folder / "last.pt", data.draw(objects(folder))
    torch.save(state, path)
    assert loaded(load_state, path) is None or isinstance(state, dict)


# ---- others' weights ----

OTHERS = [
    timm_small(depth=1).state_dict(),
    timm_small(depth=1, init_values=0.1).state_dict(),
    timm_small(VisionTransformerDistilled, depth=1).state_dict(),
    torchvision_small().state_dict(),
    {k: torch.tensor(v) for k, v in google_arrays(timm_small(depth=1)).items()},
]
load_others = partial(loaded, partial(load_pretrained, num_heads=3, trained_at=32))


@warned
@pytest.mark.slow(3)
@pytest.mark.parametrize("suffix", ["pth", "safetensors", "npz"])
@given(st.data())
@tries(120)
def test_others_weights_of_another_form(folder, suffix, data):
    draw, path = data.draw, folder / f"weights.{suffix}"
    tensors = OTHERS[draw(st.integers(0, 4))]
    for _ in range(draw(st.integers(1, 2))):
        tensors = changed(draw, tensors)
    write(path, tensors, new=draw(st.booleans()))
    if (model := load_others(path)) is not None:
        answers(model)


@warned
@pytest.mark.slow(3)
@pytest.mark.parametrize("suffix", ["pth", "safetensors", "npz"])
@given(st.data())
@tries(80)
def test_others_weights_spoiled(folder, suffix, data):
    path = folder / f"weights.{suffix}"
    tensors = OTHERS[data.draw(st.integers(0, 4))]
    write(path, tensors, new=data.draw(st.booleans()))
    spoiled(data.draw, path)
    if (model := load_others(path)) is not None:
        answers(model)


@warned
@pytest.mark.slow(3)
@given(st.data(), st.booleans())
@tries(150)
def test_weights_with_other_things(folder, data, new):
    path, found = folder / "weights.pth", data.draw(objects(folder))
    if data.draw(st.booleans()):
        found = OTHERS[0] | {data.draw(st.sampled_from(["norm.bias", "a", 3])): found}
    torch.save(found, path, _use_new_zipfile_serialization=new)
    load_others(path)


# ---- the command ----


@pytest.fixture(scope="module")
def photos(folder):
    """A folder of dark and of light images."""
    for part in ("train", "test"):
        for name, light in (("dark", 0), ("light", 255)):
            (folder / "data" / part / name).mkdir(parents=True)
            for i in range(10):
                path = folder / "data" / part / name / f"{i}.png"
                Image.new("L", (8, 8), light).save(path)
    return folder / "data"


@pytest.mark.parametrize("option", ["--teacher", "--init"])
@pytest.mark.parametrize("fault", ["deep", "text", "class", "cut", "foreign", "code"])
def test_the_command_says_it_in_a_line(photos, folder, tmp_path, capsys, option, fault):
    path = tmp_path / f"w.{'pth' if fault in ('foreign', 'code') else 'safetensors'}"
    metadata = told(MADE[0], **({"depth": BIG} if fault == "deep" else {}))
    metadata |= {"text": {"config": "{"}, "class": {"class": "a.b"}}.get(fault, {})
    tensors = MADE[0].state_dict()
    if fault == "code":
        tensors["a"] = Code(open, str(folder / "marker"), "w")
    write(path, tensors, metadata)
    if fault == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    words = ["train", "--data", str(photos), "--folder", str(tmp_path / "run")]
    assert main([*words, option, str(path), "--device", "cpu"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(str(path)) and said.count("\n") == 1
