"""vitutils predict: right answers, in each form, and a line for what goes wrong."""

import json
import re

import pytest
import torch
from PIL import Image
from small import CLASSES, photo, small
from torchvision.transforms import v2

from vitutils import maps, plot
from vitutils.cli import predict
from vitutils.cli.predict import expanded, main
from vitutils.distill import ConvNet
from vitutils.engine.checkpoints import save_model


@pytest.fixture
def weights(tmp_path):
    """The name of a small model's file."""
    small(tmp_path / "best.safetensors")
    return str(tmp_path / "best.safetensors")


def chances_of(model, wanted, image):
    """Return the probabilities of an image of Pillow's, without the command's code."""
    fit = v2.Compose([v2.Resize(20, v2.InterpolationMode.BICUBIC), v2.CenterCrop(16)])
    pixels = v2.functional.pil_to_tensor(fit(image)).float() / 255
    images = v2.functional.normalize(pixels, [*wanted.mean], [*wanted.std])[None]
    with torch.inference_mode():
        return model(images)[0].softmax(dim=0)


def test_the_answers_are_the_models(tmp_path, capsys):
    model, wanted = small(tmp_path / "best.safetensors")
    names = [str(tmp_path / f"{i}.png") for i in range(40)]
    images = [photo(tmp_path / f"{i}.png", i) for i in range(40)]
    words = ["--weights", str(tmp_path / "best.safetensors"), "--top", "2", "--json"]
    assert main([*names, *words]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [answer["image"] for answer in answers] == names
    first = set()
    for image, answer in zip(images, answers, strict=True):
        assert answer.keys() == {"image", "classes"}
        best = chances_of(model, wanted, image).topk(2)
        found = answer["classes"]
        assert [one["class"] for one in found] == [CLASSES[i] for i in best.indices]
        for one, chance in zip(found, best.values, strict=True):
            assert one["probability"] == pytest.approx(chance.item(), abs=1e-5)
        first.add(found[0]["class"])
    assert len(first) > 1  # else any order would do


def test_people_read_names_and_per_cent(tmp_path, weights, capsys):
    photo(tmp_path / "a.png", 0)
    assert main([str(tmp_path / "a.png"), "--weights", weights]) == 0
    first, *lines = capsys.readouterr().out.splitlines()
    assert first == str(tmp_path / "a.png")
    assert sorted(line.split("%  ")[1] for line in lines) == sorted(CLASSES)
    shares = [float(line.split("%")[0]) for line in lines]
    assert sum(shares) == pytest.approx(100, abs=0.03)
    assert shares == sorted(shares, reverse=True)


def test_classes_without_names_are_numbers(tmp_path, capsys):
    small(tmp_path / "best.safetensors", classes=())
    photo(tmp_path / "a.png", 0)
    words = ["--weights", str(tmp_path / "best.safetensors"), "--json"]
    assert main([str(tmp_path / "a.png"), *words]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert sorted(one["class"] for one in answer["classes"]) == [0, 1, 2]


def test_files_folders_and_patterns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b/2.png", "b/c/3.JPG", "a.png", "[1].png", "b/.hidden/4.png"):
        photo(tmp_path / name, 0)
    (tmp_path / "b" / "notes.txt").touch()
    assert expanded(["b"])[0] == ["b/2.png", "b/c/3.JPG"]
    assert expanded(["*.png"])[0] == expanded(["*"])[0] == ["[1].png", "a.png"]
    assert expanded(["**/*.JPG", "a.png"])[0] == ["b/c/3.JPG", "a.png"]
    assert expanded(["[1].png"])[0] == ["[1].png"]  # a file before it is a pattern
    assert expanded(["a.png", "a.png", "b/2.png", "b"])[0] == [
        "a.png",
        "b/2.png",
        "b/c/3.JPG",
    ]
    assert expanded(["b/notes.txt"])[0] == ["b/notes.txt"]  # who names it, means it
    # A folder has the images that it has in training: behind links, and by content.
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "linked").symlink_to(tmp_path / "b")
    (tmp_path / "all" / "photo").write_bytes((tmp_path / "a.png").read_bytes())
    assert expanded(["all"])[0] == [
        "all/photo",
        "all/linked/2.png",
        "all/linked/c/3.JPG",
    ]


def test_what_cannot_be_read_is_named_and_the_others_go_on(tmp_path, weights, capsys):
    photo(tmp_path / "a.png", 0)
    photo(tmp_path / "c.png", 1)
    (tmp_path / "b.jpg").write_bytes(b"no image")
    heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
    (tmp_path / "d.heic").write_bytes(heic)
    assert main([str(tmp_path), "--weights", weights, "--json"]) == 1
    out, err = capsys.readouterr()
    assert [json.loads(line)["image"][-5:] for line in out.splitlines()] == [
        "a.png",
        "c.png",
    ]
    first, second = err.splitlines()
    assert first.startswith(f"{tmp_path / 'b.jpg'} cannot be read as an image")
    assert str(tmp_path / "d.heic") in second and "JPEG" in second


def test_a_model_of_gray_images_sees_colors_in_gray(tmp_path, capsys):
    model, wanted = small(tmp_path / "gray.safetensors", channels=1)
    image = photo(tmp_path / "a.png", 0)
    names = [str(tmp_path / f"{letter}.png") for letter in "abc"]
    for name in names[1:]:
        image.convert("L").save(name)
    words = ["--weights", str(tmp_path / "gray.safetensors"), "--json", "--top", "1"]
    assert main([*names, *words]) == 0
    out, err = capsys.readouterr()
    best = chances_of(model, wanted, image.convert("L")).max().item()
    for line in out.splitlines():
        (one,) = json.loads(line)["classes"]
        assert one["probability"] == pytest.approx(best, abs=1e-5)
    assert err.count("\n") == 1 and err.startswith("1 of 3 images are in color")


def test_a_model_of_color_sees_gray_images_too(tmp_path, weights, capsys):
    photo(tmp_path / "a.png", 0).convert("L").save(tmp_path / "b.png")
    assert main([str(tmp_path / "b.png"), "--weights", weights]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("kind", "function"),
    [
        ("last", maps.attention_maps),
        ("rollout", maps.attention_rollout),
        ("relevance", maps.attention_relevance),
    ],
)
def test_a_map_stands_beside_the_image(tmp_path, capsys, monkeypatch, kind, function):
    model, wanted = small(tmp_path / "best.safetensors")
    image = photo(tmp_path / "a.png", 0, (16, 16))
    drawn = []

    def draw(images, weights, **words):
        drawn.append((images, weights, words))
        return plot.show_images(torch.rand(1, 3, 4, 4))

    monkeypatch.setattr(predict.plot, "attention_on_images", draw)
    words = ["--weights", str(tmp_path / "best.safetensors"), "--map", kind, "--json"]
    target = tmp_path / "maps" / f"a-{kind}.png"
    words += ["--attention", str(target.parent), "--top", "1"]
    assert main([str(tmp_path / "a.png"), *words]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["map"] == str(target)
    assert Image.open(target).format == "PNG"
    ((images, weights, titles),) = drawn
    torch.testing.assert_close(weights, function(model, images))
    fit = v2.Compose([v2.Resize(20, v2.InterpolationMode.BICUBIC), v2.CenterCrop(16)])
    pixels = v2.functional.pil_to_tensor(fit(image)).float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (wanted.mean, wanted.std))
    torch.testing.assert_close(images[0] * std + mean, pixels)
    (one,) = answer["classes"]
    assert titles["titles"] == ["a.png", f"{one['class']}, {one['probability']:.0%}"]
    assert titles["beside"]


def test_maps_are_written_over_no_photo_and_over_none_of_their_own(
    tmp_path, weights, capsys
):
    names = ["a.png", "a.jpg", "b/a.png", "a-rollout.png"]
    for i, name in enumerate(names):
        photo(tmp_path / name, i)
    before = (tmp_path / "a-rollout.png").read_bytes()
    words = ["--weights", weights, "--attention", str(tmp_path), "--json"]
    assert main([*(str(tmp_path / name) for name in names), *words]) == 0
    answers = map(json.loads, capsys.readouterr().out.splitlines())
    found = [answer["map"] for answer in answers]
    assert len({*found}) == 4 and (tmp_path / "a-rollout.png").read_bytes() == before


def test_bad_input_is_a_line_that_says_what_to_do(tmp_path, weights, capsys):
    photo(tmp_path / "a.png", 0)
    image = str(tmp_path / "a.png")
    net = tmp_path / "net.safetensors"
    save_model(ConvNet(in_channels=3, num_classes=3), net)
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn.safetensors").write_bytes(b"torn")
    values = ["--mean", "0", "0", "0", "--std", "1", "1", "1", "--image-size", "8"]
    for words, said in (
        ([image], "give --weights: a file, such as .* or one of .*vit_b_16"),
        ([str(tmp_path / "z.png"), "--weights", weights], "there is no file .*z.png"),
        ([image, "--weights", weights, "--image-size", "32"], "own image_size, 16x16:"),
        ([image, "--weights", weights, "--num-heads", "1"], "own num_heads, 2: leave"),
        ([image, "--weights", weights, "--map", "last"], "give --attention DIR too"),
        ([str(tmp_path / "*.gif"), "--weights", weights], "there is no file .*gif"),
        ([str(tmp_path / "empty"), "--weights", weights], "no images in the folder"),
        ([image, "--weights", "deit_tyny"], "deit_tyny is no file and none of"),
        ([image, "--weights", str(tmp_path / "torn.safetensors")], "torn"),
        ([image, "--weights", weights, "--device", "gpu"], "--device"),
        ([image, "--weights", weights, "--mean", "1"], "mean"),
        ([image, "--weights", str(net)], "--mean"),
        (
            [image, "--weights", str(net), *values, "--attention", str(tmp_path)],
            "no ViT of this book, .* leave out --attention",
        ),
    ):
        assert main(words) == 1
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1
        assert re.search(said, err), err


def test_what_is_missing_is_named_and_the_others_are_answered(
    tmp_path, weights, capsys
):
    image = photo(tmp_path / "a.png", 0) and str(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    words = [str(tmp_path / "z.png"), image, str(tmp_path / "empty"), "z" * 256]
    (tmp_path / "loop").mkdir()
    (tmp_path / "loop" / "back").symlink_to(tmp_path)
    words.append(str(tmp_path / "loop"))
    assert main([*words, "--weights", weights, "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["image"] == image
    assert err == (
        f"there is no file {words[0]}\nthere are no images in the folder {words[2]}\n"
        f"{words[3]}: File name too long\n"
        f"{words[4]}/back leads back to a folder above: remove the link\n"
    )


def test_a_file_is_no_folder_to_write_to(tmp_path, weights, capsys):
    photo(tmp_path / "a.png", 0)
    for name in ("a.png", "a.png/maps"):
        with pytest.raises(SystemExit):
            main(["b.png", "--weights", weights, "--attention", str(tmp_path / name)])
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "a.png is a file, no folder" in err


def test_an_error_is_traced_where_that_is_asked_for(capsys):
    assert main([__file__, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_is_a_line(tmp_path, weights, monkeypatch, capsys):
    def stop(options):
        raise KeyboardInterrupt

    photo(tmp_path / "a.png", 0)
    monkeypatch.setattr(predict, "load", stop)
    assert main([str(tmp_path / "a.png"), "--weights", weights]) == 130
    assert capsys.readouterr().err == "stopped\n"


def test_help_says_enough(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    said = capsys.readouterr().out
    assert end.value.code == 0
    for word in ("vitutils predict cat.jpg", "--map", "rollout", "vit_b_16"):
        assert word in said
