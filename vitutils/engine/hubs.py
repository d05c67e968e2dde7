"""Weights in folders and hubs of other libraries, and what these say of them."""

import importlib
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vitutils.data.preprocessing import Preprocessing
from vitutils.engine.formats import from_hugging_face
from vitutils.engine.published import (
    HEAD_WIDTH,
    PUBLISHED,
    entry,
    find,
    imagenet_classes,
    read,
)
from vitutils.engine.strangers import listed, shown

EPS = 1e-6  # of the norms, in all libraries but Hugging Face's
KINDS = ("vit", "deit", "dinov2", "dinov2_with_registers")  # of transformers
OURS = {"hidden_act": "gelu", "qkv_bias": True, "use_swiglu_ffn": False}
HALF = [0.5, 0.5, 0.5]
RESAMPLING = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
PATIENCE = 4  # seconds in which a hub is to answer
FILES = r".+\.(pth|pt|bin|npz|safetensors|ckpt|tar)"


class Source(NamedTuple):
    """Weights in their library's names, and what it says of them.

    Attributes:
        name: where they are from, in words.
        state: dict of tensors.
        num_heads, trained_at: as in ``load_pretrained``; None: it does not say.
        norm_eps: as in ``VisionTransformer``.
    """

    name: str
    state: dict[str, Tensor]
    num_heads: int | None = None
    trained_at: int | tuple[int, int] | None = None
    norm_eps: float = EPS

    def agreed(self, what: str, given: Any) -> Any:
        """Return what the source says or is given, where they do not differ."""
        known = getattr(self, what)
        if None not in (known, given) and known != given:
            raise ValueError(f"{self.name}: its {what} is {known}, not {given}")
        return given if known is None else known


def find_source(name: str | Path, which: str | None = None) -> Source:
    """Return the weights of a name, from this machine or fetched.

    Args:
        name, which: as in ``load_pretrained``.

    Raises:
        ValueError: there are none, or our models do not compute what theirs do.
        RuntimeError: they could not be fetched.
    """
    if not is_hub(name):
        path = find(name)
        state = weights_of(path, which)
        beside = part(path.parent, "config.json")
        if beside and "embeddings.patch_embeddings.projection.weight" in state:
            return source_of_transformers(str(path), state, read_json(beside))
        heads = None
        if entry(name):  # Google's files tell it themselves
            tokens = {"cls_token", "class_token"} & state.keys()
            width = state[tokens.pop()].shape[-1] if tokens else 0
            heads = width // HEAD_WIDTH or None
        return Source(str(path), state, heads)
    place, config = described(name)
    for file in ("model.safetensors", "pytorch_model.bin"):
        if (path := part(place, file)) is not None:
            state = weights_of(path, which)
            is_timm = "architecture" in config
            made = source_of_timm if is_timm else source_of_transformers
            return made(str(name), state, config)
    raise ValueError(f"{name} has neither model.safetensors nor pytorch_model.bin")


def preprocessing_of(name: str | Path) -> Preprocessing | None:
    """Return what a folder or hub says of a model's images; None: nothing.

    Args:
        name: as in ``load_pretrained``.

    Raises:
        ValueError: images are made in a way that ours are not.
        RuntimeError: it could not be fetched.
    """
    if not is_hub(name):
        return None
    place, config = described(name)
    try:
        if "architecture" in config:
            return images_of_timm(config["pretrained_cfg"])
        if (path := part(place, "preprocessor_config.json")) is not None:
            return images_of_transformers(read_json(path), config)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        words = error if isinstance(error, ValueError) else type(error).__name__
        raise ValueError(
            f"{name} does not say how images are made ({words})"
        ) from error
    return None


def is_hub(name: str | Path) -> bool:
    """Tell whether a name is a folder, ``timm/NAME``, or ``OWNER/NAME`` on a hub."""
    if name in PUBLISHED or Path(name).expanduser().exists():
        return Path(name).expanduser().is_dir()
    owner, _, rest = str(name).partition("/")
    words = re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", str(name))
    return bool(words) and not re.fullmatch(FILES, rest) and not Path(owner).exists()


def described(name: str | Path) -> tuple[str | Path, dict]:
    """Return the folder or the hub's repository of a name, and its config.json."""
    owner, _, rest = str(name).partition("/")
    if owner == "timm" and not Path(name).exists():
        timm = imported("timm", name)
        try:
            known = timm.get_pretrained_cfg(rest, allow_unregistered=False)
        except RuntimeError as error:
            alike = timm.list_pretrained(f"*{rest.partition('.')[0]}*")
            words = f" (it has {listed(alike)})" if alike else ""
            raise ValueError(f"timm has no weights of {rest}{words}") from error
        said = known.to_dict()
        return known.hf_hub_id, {"architecture": rest, "pretrained_cfg": said}
    config = part(name, "config.json")
    if config is None:
        raise ValueError(
            f"{name} has no config.json, which tells a model's sizes, and no "
            "best.safetensors, as the folder of a run"
        )
    return name, read_json(config)


def source_of_timm(name: str, state: dict[str, Tensor], config: dict) -> Source:
    """Return weights of timm, once it is sure that our model computes the same."""
    timm = imported("timm", name)
    args = config.get("model_args", {})
    if odd := args.keys() - {"img_size", "num_classes", "in_chans"}:
        raise ValueError(f"{name}: its model has arguments of its own: {listed(odd)}")
    with torch.device("meta"):
        model = timm.create_model(config["architecture"])
    if fault := unlike(model):
        raise ValueError(f"{name}: {fault}")
    size = args.get("img_size", config["pretrained_cfg"]["input_size"][1:])
    size = size if isinstance(size, int) else tuple(size)
    attention = model.blocks[0].attn
    return Source(name, state, attention.num_heads, size, model.blocks[0].norm1.eps)


def unlike(model: nn.Module) -> str | None:
    """Return what a model of timm does that ours does not, and no tensor shows."""
    kind = type(model).__name__
    if kind not in ("VisionTransformer", "VisionTransformerDistilled"):
        return f"it is a {kind} of timm, no ViT that ours can be"
    if model.global_pool != "token":
        return f"its head reads {model.global_pool} of the tokens, ours the class token"
    block = model.blocks[0]
    if type(block).__name__ != "Block":
        return f"its blocks are a {type(block).__name__}, which orders layers otherwise"
    if (
        not isinstance(block.mlp.act, nn.GELU)
        and type(block.mlp.act).__name__ != "GELU"
    ):
        return f"its activation is {type(block.mlp.act).__name__}, ours GELU"
    return None


def images_of_timm(said: dict) -> Preprocessing:
    """Return what a model's settings in timm say of its images.

    Whatever is smoother than bilinear becomes bicubic.
    """
    _, *size = said["input_size"]
    mean, std = said["mean"], said["std"]
    crop = said.get("crop_pct") or 0.875
    kind = "bilinear" if said.get("interpolation") == "bilinear" else "bicubic"
    names = said.get("label_names") or ()
    if said.get("num_classes") == 1000 and "in1k" in (said.get("tag") or ""):
        names = names or imagenet_classes()
    if (way := said.get("crop_mode") or "center") not in ("center", "squash"):
        raise ValueError(f"its crop_mode is {shown(way)}")
    return Preprocessing(
        tuple(size), tuple(mean), tuple(std), crop, kind, tuple(names), way == "squash"
    )


def source_of_transformers(name: str, state: dict[str, Tensor], config: dict) -> Source:
    """Return weights of Hugging Face's, once it is sure that ours compute the same."""
    kind = config.get("model_type")
    if kind not in KINDS:
        raise ValueError(f"{name}: it is a {shown(kind)}, none of {', '.join(KINDS)}")
    for key, ours in OURS.items():
        if (theirs := config.get(key, ours)) != ours:
            raise ValueError(f"{name}: its {key} is {shown(theirs)}, ours {ours}")
    heads = config.get("num_attention_heads", 12)
    eps = config.get("layer_norm_eps", EPS if "dinov2" in kind else 1e-12)
    size = config.get("image_size", 224)
    size = tuple(size) if isinstance(size, list) else size
    for key, value in {"num_attention_heads": heads, "image_size": size}.items():
        numbers = value if isinstance(value, tuple) and len(value) == 2 else (value,)
        if not all(type(number) is int and 0 < number < 2**16 for number in numbers):
            raise ValueError(f"{name}: its {key} is {shown(value)}")
    if type(eps) not in (int, float) or not 0 < eps < 1:
        raise ValueError(f"{name}: its layer_norm_eps is {shown(eps)}")
    return Source(name, from_hugging_face(state), heads, size, eps)


def images_of_transformers(said: dict, config: dict) -> Preprocessing:
    """Return what preprocessor_config.json says, with the names in config.json."""

    def sides(size):
        if isinstance(size, int):
            return size, size
        if "shortest_edge" in size:
            return size["shortest_edge"], size["shortest_edge"]
        return size["height"], size["width"]

    if (
        not said.get("do_rescale", True)
        or said.get("rescale_factor", 1 / 255) != 1 / 255
    ):
        raise ValueError("its images are of another range than [0, 1] (rescale_factor)")
    resized = size = sides(wanted := said.get("size", 224))
    squash = isinstance(wanted, int) or "shortest_edge" not in wanted
    if said.get("do_center_crop"):
        size = sides(said.get("crop_size", size))
    mean, std = said.get("image_mean", HALF), said.get("image_std", HALF)
    if not said.get("do_normalize", True):
        mean, std = [0.0] * len(mean), [1.0] * len(std)
    labels = config.get("id2label", {})
    names = [labels[key] for key in sorted(labels, key=int)]
    if all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        names = []  # nobody named them
    kind = RESAMPLING.get(said.get("resample", 2), "")
    crop = min(size[0] / resized[0], 1.0)
    return Preprocessing(
        size, tuple(mean), tuple(std), crop, kind, tuple(names), squash
    )


def weights_of(path: Path, which: str | None) -> dict[str, Tensor]:
    """Read a file of weights; an error names it."""
    try:
        return read(path, which=which)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def part(place: str | Path, file: str) -> Path | None:
    """Return a file of a folder or of a repository of Hugging Face's hub, or None.

    A hub is asked only for what is not in its cache on this machine.
    """
    if (folder := Path(place).expanduser()).is_dir():
        return folder / file if (folder / file).is_file() else None
    hub = imported("huggingface_hub", place)
    repository = str(place)
    try:
        return Path(hub.hf_hub_download(repository, file, local_files_only=True))
    except hub.errors.LocalEntryNotFoundError:
        pass
    except hub.errors.EntryNotFoundError:  # the repository is there, without it
        return None
    except ValueError as error:
        raise ValueError(f"{place}: {shown(error, 300)}") from error
    try:  # A download would try again and again for half a minute.
        hub.get_hf_file_metadata(hub.hf_hub_url(repository, file), timeout=PATIENCE)
        return Path(hub.hf_hub_download(repository, file))
    except hub.errors.EntryNotFoundError:
        return None
    except hub.errors.HfHubHTTPError as error:  # no such one, or none for this user
        words = str(error).strip().partition("\n")[0]
        raise ValueError(f"{place}: {shown(words, 300)}") from error
    except Exception as error:  # of its own library for networks
        raise RuntimeError(
            f"{place}: {file} is not in Hugging Face's cache on this machine, and the "
            "hub could not be reached: load it once with a network, or give a folder "
            "that holds config.json and model.safetensors"
        ) from error


def read_json(path: Path) -> dict:
    """Read a file of settings."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({shown(error)})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds a {type(found).__name__}, no settings")
    return found


def imported(package: str, wanted: object) -> ModuleType:
    """Import a package that only some names need."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(f"{wanted} needs {package}: pip install {package}") from error
