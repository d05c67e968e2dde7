"""vitutils export: files that answer as the model does, at any batch size, or none."""

import json
import warnings
from pathlib import Path
from typing import get_args

import pytest
import torch
from small import CLASSES, photo, small

from vitutils.cli import evaluate, predict
from vitutils.cli.export import main
from vitutils.data import load
from vitutils.deit import DistilledVisionTransformer
from vitutils.distill import ConvNet
from vitutils.engine import exported
from vitutils.engine.checkpoints import load_model, save_model
from vitutils.engine.exported import export, held_out_of, load_exported
from vitutils.vit import VisionTransformer

close = torch.testing.assert_close


def reader(kind, path):
    """Return what runs a file, with the library that it is for."""
    if kind == "torchscript":
        return torch.jit.load(path)
    if kind == "pt2":
        return torch.export.load(path).module()
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return lambda images: torch.tensor(
        session.run(["logits"], {"images": images.numpy()})[0]
    )


@pytest.mark.slow(4)
@pytest.mark.parametrize(
    ("kind", "cls"),
    [
        ("onnx", VisionTransformer),
        ("torchscript", DistilledVisionTransformer),
        ("pt2", DistilledVisionTransformer),
        ("pt2", ConvNet),
    ],
)
def test_a_file_answers_batches_of_any_size(tmp_path, capsys, kind, cls):
    model, wanted = small(tmp_path / "best.safetensors", cls)
    words = ["--weights", str(tmp_path / "best.safetensors"), "--format", kind]
    assert main(words) == 0
    path = tmp_path / f"best.{kind}"
    assert str(path) in capsys.readouterr().out
    run = reader(kind, path)
    for size in (1, 2, 7):
        images = torch.randn(size, 3, 16, 16)
        with torch.inference_mode():
            close(run(images), model(images), atol=1e-4, rtol=1e-4)
    about = json.loads((tmp_path / f"best.{kind}.json").read_text())
    assert about["input"] == ["batch", 3, 16, 16]
    assert about["preprocessing"] == json.loads(wanted.to_json())
    assert {p.name for p in tmp_path.iterdir()} == {
        "best.safetensors",
        path.name,
        f"{path.name}.json",
    }


def test_a_small_file_is_written_and_its_difference_told(tmp_path, monkeypatch):
    weights = small(tmp_path / "best.safetensors", ConvNet)
    path = tmp_path / "a.torchscript"
    with warnings.catch_warnings(action="error"):  # what the exporters warn of is ours
        assert export(weights, path, kind="torchscript") < 1e-5
    images = torch.randn(7, 3, 16, 16)
    with torch.inference_mode():
        close(torch.jit.load(path)(images), weights.model(images))
    about = json.loads((tmp_path / "a.torchscript.json").read_text())
    assert about["input"] == ["batch", 3, 16, 16]

    def write(model, images, path):
        path.write_bytes(b"nearly right")
        return lambda images: model(images) - 5e-5 * (len(images) == 1)

    monkeypatch.setitem(exported.WRITERS, "torchscript", write)
    told = export(weights, path, kind="torchscript")
    assert told == pytest.approx(5e-5, rel=0.1)


def test_an_onnx_file_is_a_model_with_its_preprocessing(tmp_path):
    onnx = pytest.importorskip("onnx")
    _, wanted = small(tmp_path / "best.safetensors")
    weight = torch.randn(3 * 16 * 16, len(CLASSES))
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Flatten", ["images"], ["pixels"]),
            onnx.helper.make_node("MatMul", ["pixels", "weight"], ["logits"]),
        ],
        "linear",
        [onnx.helper.make_tensor_value_info("images", kind, ["batch", 3, 16, 16])],
        [onnx.helper.make_tensor_value_info("logits", kind, ["batch", len(CLASSES)])],
        [onnx.numpy_helper.from_array(weight.numpy(), "weight")],
    )
    opset = onnx.helper.make_opsetid("", 17)
    made = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    onnx.save(made, path := tmp_path / "linear.onnx")
    about = {"preprocessing": json.loads(wanted.to_json())}
    (tmp_path / "linear.onnx.json").write_text(json.dumps(about))
    model, told = load_exported(path)
    images = torch.randn(5, 3, 16, 16)
    close(model(images), images.flatten(1) @ weight, atol=1e-4, rtol=1e-4)
    assert told == wanted and held_out_of(path) is None


@pytest.mark.slow(6)
def test_an_onnx_file_predicts_and_is_evaluated_like_the_model(tmp_path, capsys):
    best = str(tmp_path / "best.safetensors")
    small(tmp_path / "best.safetensors", DistilledVisionTransformer)
    for i, name in enumerate(CLASSES * 4):
        photo(tmp_path / "photos" / name / f"{i}.png", i)
    data = load(tmp_path / "photos", image_size=16)
    model = load_model(best)
    save_model(model, best, data.preprocessing, data.held_out)
    assert main(["--weights", best]) == 0
    answers, judged = [], []
    for weights in (best, str(tmp_path / "best.onnx")):
        capsys.readouterr()
        words = [str(tmp_path / "photos"), "--weights", weights]
        assert predict.main([*words, "--json"]) == 0
        lines = capsys.readouterr().out.splitlines()
        answers.append([json.loads(line)["classes"][0] for line in lines])
        assert evaluate.main([*words, "--out", str(tmp_path / "out")]) == 0
        assert "--split validation judges those" in capsys.readouterr().err
        judged.append(json.loads((tmp_path / "out" / "evaluation.json").read_text()))
    for ours, theirs in zip(*answers, strict=True):
        assert ours["class"] == theirs["class"]
        assert ours["probability"] == pytest.approx(theirs["probability"], abs=1e-5)
    assert judged[0]["per_class"] == judged[1]["per_class"]
    losses = [one["negative_log_likelihood"] for one in judged]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_runs_folder_gets_the_file_beside_its_best_model(tmp_path):
    small(tmp_path / "best.safetensors")
    assert main(["--weights", str(tmp_path), "--format", "torchscript"]) == 0
    assert (tmp_path / "best.torchscript").is_file()


@pytest.mark.slow(6)
def test_8_bits_make_a_smaller_file_with_nearly_the_same_answers(tmp_path, root):
    best = root / "data" / "checkpoints" / "vit_fashion_mnist.safetensors"
    path = tmp_path / "a.onnx"
    assert main(["--weights", str(best), "--int8", "--out", str(path)]) == 0
    assert path.stat().st_size < 0.7 * best.stat().st_size
    images = torch.randn(50, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    rough = load_exported(path).model(images)
    with torch.inference_mode():
        exact = load_model(best)(images)
    assert 0 < (exact - rough).abs().mean() < 0.1 * exact.abs().mean()


@pytest.mark.parametrize("fault", [lambda x: x + 0.01, lambda x: x[:1] + 0 * x])
def test_a_file_with_other_answers_is_not_left(tmp_path, capsys, monkeypatch, fault):
    weights = small(tmp_path / "best.safetensors")

    def write(model, images, path):
        path.write_bytes(b"wrong")
        return lambda images: fault(model(images))

    monkeypatch.setitem(exported.WRITERS, "pt2", write)
    (tmp_path / "best.pt2").write_bytes(b"older")
    words = ["--weights", str(tmp_path / "best.safetensors"), "--format", "pt2"]
    assert main(words) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "otherwise than the model" in err
    assert (tmp_path / "best.pt2").read_bytes() == b"older"
    assert not (tmp_path / "best.pt2.json").exists()
    assert weights.model.training is False


def test_8_bits_may_differ_but_not_in_shape(tmp_path, monkeypatch):
    weights = small(tmp_path / "best.safetensors")

    def quantize(path):
        path.write_bytes(b"one answer for all")
        return lambda images: weights.model(images)[:1]

    monkeypatch.setitem(exported.WRITERS, "onnx", lambda *_: None)
    monkeypatch.setattr(exported, "quantize", quantize)
    with pytest.raises(ValueError, match="answers a batch of 3 otherwise"):
        export(weights, tmp_path / "a.onnx", int8=True)
    assert not (tmp_path / "a.onnx").exists()


def test_without_the_packages_a_line_names_them(tmp_path, capsys, monkeypatch):
    small(tmp_path / "best.safetensors")
    monkeypatch.setattr(
        exported, "find_spec", lambda name: name == "onnxruntime" or None
    )
    assert main(["--weights", str(tmp_path / "best.safetensors")]) == 1
    assert capsys.readouterr().err == (
        "the format onnx needs onnx and onnxscript: pip install onnx onnxscript\n"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["best.safetensors"]


def test_each_format_has_an_ending_and_a_writer():
    formats = {*get_args(exported.Format)}
    assert exported.ENDINGS.keys() == exported.WRITERS.keys() == formats


def test_what_an_exporter_refuses_is_no_full_disk(tmp_path, capsys, monkeypatch):
    def write(model, images, path):
        raise RuntimeError("no operator for that")

    small(tmp_path / "best.safetensors")
    monkeypatch.setitem(exported.WRITERS, "pt2", write)
    words = ["--weights", str(tmp_path / "best.safetensors"), "--format", "pt2"]
    assert main(words) == 1
    assert capsys.readouterr().err == "no operator for that\n"


@pytest.mark.parametrize(
    "kind", [pytest.param("pt2", marks=pytest.mark.slow(1)), "torchscript"]
)
def test_where_there_is_no_space_for_the_answers_is_said(tmp_path, monkeypatch, kind):
    def full(path, held):
        raise OSError(28, "No space left on device")

    weights = small(tmp_path / "best.safetensors")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match=f"No space left on device: .*model.{kind}"):
        export(weights, tmp_path / f"m.{kind}", kind=kind)


def test_bad_input_is_a_line_that_says_what_to_do(tmp_path, capsys):
    best = str(tmp_path / "best.safetensors")
    small(tmp_path / "best.safetensors")
    alone, torn = tmp_path / "alone.onnx", tmp_path / "torn.onnx"
    alone.write_bytes(b"")
    torn.write_bytes(b"torn")
    (tmp_path / "torn.onnx.json").write_text("{}")
    photo(tmp_path / "a.png", 0)
    for words, said in (
        ([], "give --weights: a file"),
        (["--weights", best, "--out", best], "ends in .onnx"),
        (["--weights", best, "--format", "pt2", "--out", "a.onnx"], "ends in .pt2"),
        (["--weights", str(tmp_path), "--out", "a.pt2"], "ends in .onnx"),
        (
            ["--weights", best, "--format", "pt2", "--int8"],
            "--int8 is of the format onnx",
        ),
        (["--weights", str(alone), "--format", "pt2"], "is exported already"),
    ):
        assert main(words) == 1
        err = capsys.readouterr().err
        told = [line for line in err.splitlines() if "is taken" not in line]
        assert len(told) == 1 and said in told[0], err
    for words, said in (
        (["--out", f"{best}/a.onnx"], "best.safetensors is a file, no folder"),
        (["--out", str(tmp_path)], "is a folder, no file"),
        (["--device", "cpu"], "unrecognized arguments: --device"),
    ):
        with pytest.raises(SystemExit):
            main(["--weights", best, *words])
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and said in err, err
    for words, said in (
        (["--weights", str(alone)], "alone.onnx.json is missing, which says what"),
        (["--weights", str(torn)], "not what `vitutils export` writes"),
        (["--weights", str(tmp_path / "none.onnx")], "no file"),
        (["--weights", str(torn), "--file", best], "leave out --file"),
    ):
        assert predict.main([str(tmp_path / "a.png"), *words]) == 1
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and said in err, err
