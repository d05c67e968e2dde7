"""Write what the laboratory's page reads: three models, test images, photos, digits.

The page works from a folder, where a browser lets it read no file but scripts. So each
file is a script, `lab.receive(name, header, length, text)`, loaded when it is needed.
The text is so many bytes, compressed by zlib, as 15 bits a character from U+3400 on, in
UTF-16, whose mark at the beginning tells every browser: 7 % more than the bytes, where
base64 takes 33 %.

A number is the upper three bytes of its float32, stored as three planes, of which the
compression leaves what is in them (vitutils/plot/laboratory.py). A mantissa is rounded
to 13 bits: logits are within 0.001 of the checkpoint's. Those in half precision (10
bits) stay as they are.
"""

import io
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from vitutils import plot
from vitutils.data import DATA, load
from vitutils.data.preprocessing import Preprocessing
from vitutils.engine.checkpoints import load_model, read_preprocessing
from vitutils.plot.laboratory import deflated, planes

ROOT = Path(__file__).resolve().parent.parent
LAB = ROOT / "book" / "_static" / "lab"
MODELS = ("vit_fashion_mnist", "deit_fashion_mnist", "vit_cifar10")
PHOTOS = ("chelsea.png", "rocket.jpg", "astronaut.png", "coffee.png")
TEST_IMAGES = 200
FIRST, BITS = 0x3400, 15  # of the characters that carry bytes


def packed(data: bytes) -> str:
    """Return bytes as characters of 15 bits each."""
    bits = np.unpackbits(np.frombuffer(data, np.uint8))
    bits = np.pad(bits, (0, -len(bits) % BITS)).reshape(-1, BITS)
    codes = FIRST + bits @ (1 << np.arange(BITS)[::-1])
    return codes.astype("<u2").tobytes().decode("utf-16-le")


def written(name: str, header: dict, data: bytes) -> int:
    """Write a file of the page; return its size in bytes."""
    data, header = deflated(data), json.dumps(header)
    text = f'lab.receive("{name}", {header}, {len(data)}, "{packed(data)}");\n'
    return (LAB / f"{name}.js").write_bytes(text.encode("utf-16"))


def model_file(name: str) -> tuple[dict, bytes]:
    """Return a checkpoint's header, and the bytes of its tensors in order of names."""
    path = DATA / "checkpoints" / f"{name}.safetensors"
    model = load_model(path)
    wanted = read_preprocessing(path, model.config)
    header = {
        "config": model.config | {"distilled": name.startswith("deit")},
        "classes": wanted.classes,
        "mean": wanted.mean,
        "std": wanted.std,
    }
    return header, planes(model)


def clothes_file() -> tuple[dict, bytes]:
    """Return the first test images of Fashion-MNIST, a byte a pixel."""
    test = load("fashion_mnist").test
    labels = test.labels[:TEST_IMAGES].tolist()
    return {"labels": labels, "side": 28, "channels": 1}, bytes(
        test.images[:TEST_IMAGES].numpy()
    )


def photos_file() -> tuple[dict, bytes]:
    """Return the book's photos, cut square, at CIFAR-10's size."""
    fit = Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3).fit
    images = [
        np.asarray(fit(Image.open(DATA / "photos" / photo).convert("RGB")))
        for photo in PHOTOS
    ]
    names = ["a cat", "a rocket", "an astronaut", "a cup of coffee"]
    stacked = np.stack(images).transpose(0, 3, 1, 2)
    return {"names": names, "side": 32, "channels": 3}, stacked.tobytes()


def digits_file() -> tuple[dict, bytes]:
    """Return the digits, 0 to 16 a pixel, then their labels."""
    with np.load(DATA / "digits" / "digits.npz") as file:
        images, labels = file["images"], file["labels"]
    return {"count": len(labels), "side": 8}, images.tobytes() + labels.tobytes()


def still() -> None:
    """Draw what stands in the page's place on paper and without JavaScript."""
    plot.use_style()
    path = DATA / "checkpoints" / "vit_fashion_mnist.safetensors"
    model = load_model(path)
    wanted = read_preprocessing(path, model.config)
    image = load("fashion_mnist").test.images[0]
    with torch.no_grad():
        whole, weights = model(wanted.normalize(image[None]), need_weights=True)
        model.embeddings.pos_embed.zero_()
        broken = model(wanted.normalize(image[None]))
    dots = weights[-1][0, :, 0, 1:].mean(dim=0)  # of the class token, mean of heads
    figure, (left, right) = plt.subplots(1, 2, figsize=(plot.WIDTH, 3.3))
    left.imshow(image[0], cmap="gray")
    left.set_axis_off()
    rows, columns = np.indices((4, 4)).reshape(2, 16) * 7 + 3
    style = {"color": plot.COLORS["attention"], "edgecolors": "white"}
    left.scatter(columns, rows, s=900 * dots / dots.max(), **style)
    left.set_title("What the class token attends to")
    places = np.arange(len(wanted.classes))
    right.barh(places - 0.2, whole[0], 0.38, label="before", color=plot.COLORS["patch"])
    right.barh(places + 0.2, broken[0], 0.38, label="without positions")
    right.set_yticks(places, wanted.classes)
    right.invert_yaxis()
    right.set_title("Logits")
    right.legend()
    figure.savefig(file := io.BytesIO(), dpi=150)
    few = Image.open(file).convert("RGB").quantize(64).convert("RGB")  # colors
    few.save(LAB / "still.webp", lossless=True, method=6, quality=100)


def files() -> dict[str, tuple[dict, bytes]]:
    """Return the header and the bytes of each file."""
    found = {name: model_file(name) for name in MODELS}
    return found | {
        "clothes": clothes_file(),
        "photos": photos_file(),
        "digits": digits_file(),
    }


if __name__ == "__main__":
    for name, (header, data) in files().items():
        print(f"{written(name, header, data):9,d} bytes  {name}.js")
    still()
