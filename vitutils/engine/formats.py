"""Other libraries' files: their names, what wraps them, and what no tensor shows."""

import math
import re
import warnings
from typing import Any

import torch
from torch import Tensor

from vitutils.engine.strangers import listed

# What each library calls our parameters. The order counts: a name may hold another.
TORCHVISION = {
    "embeddings.class_token": "class_token",
    "embeddings.pos_embed": "encoder.pos_embedding",
    "embeddings.proj.": "conv_proj.",
    "encoder.norm.": "encoder.ln.",
    "encoder.blocks.": "encoder.layers.encoder_layer_",
    ".norm1.": ".ln_1.",
    ".norm2.": ".ln_2.",
    ".attn.qkv.": ".self_attention.in_proj_",
    ".attn.proj.": ".self_attention.out_proj.",
    ".mlp.fc1.": ".mlp.0.",
    ".mlp.fc2.": ".mlp.3.",
    "head.": "heads.head.",
}
TIMM = {  # DeiT, DINOv2 and MAE too
    "embeddings.class_token": "cls_token",
    "embeddings.distill_token": "dist_token",
    "embeddings.registers": "reg_token",
    "embeddings.pos_embed": "pos_embed",
    "embeddings.proj.": "patch_embed.proj.",
    "encoder.": "",
}
GOOGLE = {
    "embeddings.class_token": "cls",
    "embeddings.pos_embed": "Transformer/posembed_input/pos_embedding",
    "embeddings.proj.": "embedding/",
    "encoder.norm.weight": "Transformer/encoder_norm/scale",
    "encoder.norm.": "Transformer/encoder_norm/",
    "encoder.blocks.": "Transformer/encoderblock_",
    ".norm1.weight": "/LayerNorm_0/scale",
    ".norm1.": "/LayerNorm_0/",
    ".norm2.weight": "/LayerNorm_2/scale",
    ".norm2.": "/LayerNorm_2/",
    ".attn.qkv.": "/MultiHeadDotProductAttention_1/qkv/",
    ".attn.proj.": "/MultiHeadDotProductAttention_1/out/",
    ".mlp.fc1.": "/MlpBlock_3/Dense_0/",
    ".mlp.fc2.": "/MlpBlock_3/Dense_1/",
    "head.": "head/",
    "weight": "kernel",
}
# What Hugging Face's transformers calls the parameters that timm calls otherwise.
HUGGING_FACE = {
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "embeddings.cls_token": "cls_token",
    "embeddings.distillation_token": "dist_token",
    "embeddings.register_tokens": "reg_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.mask_token": "mask_token",
    "encoder.layer.": "blocks.",
    ".attention.attention.": ".attn.",
    ".attention.output.dense.": ".attn.proj.",
    ".intermediate.dense.": ".mlp.fc1.",
    ".output.dense.": ".mlp.fc2.",
    ".layernorm_before.": ".norm1.",
    ".layernorm_after.": ".norm2.",
    ".layer_scale1.lambda1": ".ls1.gamma",
    ".layer_scale2.lambda1": ".ls2.gamma",
    "layernorm.": "norm.",
    "cls_classifier.": "head.",
    "distillation_classifier.": "head_dist.",
    "classifier.": "head.",
}

# The attention heads of published ViTs by width and depth; no shape in a file tells
# them. Where two differ, only num_heads tells which: MoCo v3's ViT-S has 12.
HEADS = {
    (192, 12): [3],
    (384, 12): [6, 12],
    (384, 36): [6],
    (512, 12): [8],
    (768, 12): [12],
    (896, 12): [14],
    (1024, 24): [16],
    (1152, 27): [16],
    (1280, 32): [16],
    (1408, 40): [16],
    (1536, 40): [24],
    (1664, 48): [16],
}
# Image sides in pixels that ViTs in timm's names are published for, all of them square.
SIDES = {160, 224, 240, 256, 384, 448, 512, 518}

# What wraps a model's weights: the first that a checkpoint has is taken. Averages of
# the weights and teachers come first, as timm and DINO take them.
WRAPPERS = (
    "model_ema",
    "state_dict_ema",
    "ema",
    "teacher",
    "model",
    "state_dict",
    "model_state_dict",
    "base_encoder",
    "student",
    "momentum_encoder",
)
# By the projection of the patches we know a ViT, and what stands before its names.
PATCHES = re.compile(
    r"((?:.*\.)?)(?:conv_proj\.weight|patch_embed\.proj\.weight|embedding/kernel"
    r"|embeddings\.patch_embeddings\.projection\.weight)"
)
# Layers that work on the output of the encoder: a new head has no use for them.
AFTER = re.compile(
    r"(heads?|head_dist|pre_logits|pooler|fc|classifier|projector|predictor|dino_head|"
    r"ibot_head)[./]"
)
# Parts of a training, which a trained model never reads.
TRAINING = re.compile(r"mask_token$|decoder[_.]")
COUNTERS = re.compile(r"(.*\.)?(n_averaged|num_batches_tracked)")


class Unplaced(ValueError):
    """Nothing tells how a file's patches lie in its images."""


def rename(key: str, names: dict[str, str]) -> str:
    """Return what a library calls our parameter: ``names`` is its table."""
    for ours, theirs in names.items():
        key = key.replace(ours, theirs)
    return key


def unwrap(found: Any, which: str | None = None) -> Any:
    """Return the weights in a checkpoint, without what wraps them and their names.

    A warning says which are taken where there are several and ``which`` is None.

    Args:
        found: what a file holds.
        which: of several models, the one with this word of ``WRAPPERS`` as its entry
            or before its names; None: the first of ``WRAPPERS`` that is there.

    Raises:
        ValueError: there is no such model in it.
    """
    offered = []
    while isinstance(found, dict):
        names = [name for name in WRAPPERS if name in found]
        names = [name for name in names if isinstance(found[name], dict)] or names
        if not names:
            break
        offered.append(names)
        found = found[which if which in names else names[0]]
    if isinstance(found, dict):
        found = {k: v for k, v in found.items() if not COUNTERS.fullmatch(str(k))}
        found, names = without_prefix(found, which)
        offered.append(names)
    if which is not None and not any(which in names for names in offered):
        words = " or ".join(name for names in offered for name in names)
        raise ValueError(f"it holds no {which}" + f", but {words}" * bool(words))
    if which is None:
        for names in offered:
            if len(names) > 1:
                others = " or ".join(f"which={name!r}" for name in names[1:])
                words = f"it holds {' and '.join(names)}: {names[0]} is taken, "
                warnings.warn(f"{words}{others} takes another", stacklevel=2)
    return found


def without_prefix(state: dict, which: str | None) -> tuple[dict, list[str]]:
    """Take off what stands before the names of a ViT's weights: ``module.``, ``vit.``.

    Returns:
        The weights, those of other models in ``state`` left out; and the words of
        ``WRAPPERS`` before the names, the one taken first.
    """
    keys = [key for key in state if isinstance(key, str)]
    found = {match[1]: None for key in keys if (match := PATCHES.fullmatch(key))}
    if not found:
        return state, []

    def rank(prefix):
        words = prefix.split(".")
        known = [WRAPPERS.index(word) for word in words if word in WRAPPERS]
        return which not in words, min(known, default=len(WRAPPERS))

    prefix, *others = sorted(found, key=rank)
    names = [w for p in (prefix, *others) for w in p.split(".") if w in WRAPPERS]
    if others and len(names) <= len(others):
        raise ValueError(f"it holds several models: {listed(found)}")
    weights = {}
    for key, value in state.items():
        if not isinstance(key, str):
            weights[key] = value  # refused later
            continue
        owners = [p for p in found if key.startswith(p)]
        owner = max(owners, key=len, default=None)
        if owner is None:
            # A head beside the backbone has the prefix's first words alone.
            owner = prefix
            while not key.startswith(owner):
                owner = owner[: owner.rstrip(".").rfind(".") + 1]
        elif owner != prefix:
            continue
        weights[key.removeprefix(owner)] = value
    return weights, names


def tidy_torchvision(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name a head that replaced torchvision's, and an old file's MLPs, as it does.

    ``model.heads = nn.Linear(...)`` makes them ``heads.weight``; in a ``Sequential``
    beside layers without weights they are ``heads.1.weight``.
    """
    old = {".mlp.linear_1.": ".mlp.0.", ".mlp.linear_2.": ".mlp.3."}
    if sum(key.startswith("heads.") for key in state) == 2:
        old |= {k: f"heads.head.{k.rpartition('.')[2]}" for k in state if "heads." in k}
    return {rename(key, old): value for key, value in state.items()}


def tidy_timm(
    state: dict[str, Tensor], trained_at: int | tuple[int, int] | None
) -> dict[str, Tensor]:
    """Give a file in timm's names all that our model has, and nothing of the training.

    Registers have timm's name, and each first token gets a row of the positions: zeros
    where the file has none, as in DeiT III and for registers.

    Args:
        state: weights in timm's names, which DeiT, DINOv2 and MAE share.
        trained_at: image side or (height, width) of its images; None: a square, if
            its side is one of ``SIDES``.

    Raises:
        ValueError: the model reads its tokens otherwise than ours, or nothing tells
            how its patches lie.
    """
    state = {k: v for k, v in state.items() if not TRAINING.match(k)}
    if "register_tokens" in state:  # as DINOv2 names them
        state["reg_token"] = state.pop("register_tokens")
    if "cls_token" not in state:
        raise ValueError(
            "it has no class token (missing: cls_token): its head reads all patches, "
            "ours the class token"
        )
    if any(key.startswith("fc_norm.") for key in state):
        raise ValueError(
            "its head reads the norm of the patches' mean (fc_norm), as MAE fine-tuned "
            "with global pooling, ours the class token: take the pretrained file that "
            "it was fine-tuned from"
        )
    positions, patch = (
        state.get("pos_embed"),
        state["patch_embed.proj.weight"].shape[2:],
    )
    first = [state[key] for key in ("cls_token", "dist_token") if key in state]
    registers = state.get("reg_token", torch.empty(1, 0, 1))
    if {t.ndim for t in (positions, registers, *first) if t is not None} != {3}:
        return state  # refused for its shapes
    if positions is None or len(patch) != 2:
        return state
    first, registers, rows = len(first), registers.shape[1], positions.shape[1]
    # A number of patches, and the places of the rows that the first tokens lack.
    counts = {rows: (0, first + registers), rows - first: (first, registers)}
    counts[rows - first - registers] = (0, 0)
    if trained_at is not None:
        fits = [n for n in counts if n == math.prod(grid_of(trained_at, patch))]
    else:
        fits = [n for n in counts if n > 0 and math.isqrt(n) ** 2 == n]
        fits = [n for n in fits if {math.isqrt(n) * side for side in patch} <= SIDES]
    if len(fits) != 1:
        raise Unplaced(
            f"its {rows} positions do not tell how its patches of {patch[0]} x "
            f"{patch[1]} pixels lie ({possible(rows - first - registers, *patch)}): "
            "give trained_at, the side or (height, width) of its images (in the "
            "commands --image-size; in a training --trained-at or --teacher-trained-at)"
        )
    place, lacking = counts[fits[0]]
    zeros = positions.new_zeros(1, lacking, positions.shape[2])
    parts = (positions[:, :place], zeros, positions[:, place:])
    state["pos_embed"] = torch.cat(parts, dim=1)
    return state


def grid_of(
    image_size: int | tuple[int, int], patch: tuple[int, int]
) -> tuple[int, int]:
    """Return the rows and columns of patches of an image, which they must fill."""
    height, width = (
        (image_size, image_size) if isinstance(image_size, int) else image_size
    )
    if height % patch[0] or width % patch[1]:
        raise ValueError(
            f"patches of {patch[0]} x {patch[1]} pixels do not fill images of "
            f"{height} x {width}"
        )
    return height // patch[0], width // patch[1]


def possible(patches: int, height: int, width: int) -> str:
    """Return in words the sizes of images that have so many patches of a size."""
    if patches < 1:
        return "there are none for patches"
    sides = [n for n in range(1, min(patches, 1000) + 1) if patches % n == 0]
    sides.sort(key=lambda rows: abs(math.log(rows**2 / patches)))  # squares first
    sizes = [f"{rows * height} x {patches // rows * width}" for rows in sides]
    return f"{patches} may be of images of {listed(sizes, 4)} pixels"


def from_hugging_face(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name the weights of Hugging Face's transformers as timm does.

    A DeiT without a head on its distillation token reads that as it would a register.
    """
    state = {rename(key, HUGGING_FACE): value for key, value in state.items()}
    for key in [key for key in state if ".attn.query." in key]:
        parts = [key.replace("query", part) for part in ("query", "key", "value")]
        if all(part in state for part in parts):
            qkv = torch.cat([state.pop(part) for part in parts])
            state[key.replace("query", "qkv")] = qkv
    one_head = "head.weight" in state and "head_dist.weight" not in state
    if one_head and "dist_token" in state:
        state["reg_token"] = state.pop("dist_token")
    return state


def heads_of(width: int, depth: int) -> int:
    """Return the attention heads of the published ViTs of a width and depth.

    Raises:
        ValueError: there are none, or they differ.
    """
    heads = HEADS.get((width, depth), [])
    if len(heads) == 1:
        return heads[0]
    if not heads:  # of the usual numbers of features a head
        heads = [width // n for n in (128, 80, 64, 48, 32, 16) if width % n == 0]
    may = f" ({', '.join(map(str, heads))}?)" if heads else ""
    raise ValueError(
        f"heads unknown at width {width}, depth {depth}: give num_heads{may}"
    )


def has_head(state: dict[str, Tensor], key: str) -> bool:
    """Tell whether a head is there and not all zeros, as before any training."""
    return key in state and (state[key].is_meta or bool(state[key].any()))


def without_heads(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Leave out what works on the encoder's output, for a new head."""
    return {key: value for key, value in state.items() if not AFTER.match(key)}


def check_head(state: dict[str, Tensor], wanted: dict[str, Any]) -> None:
    """Raise a ValueError if a file's head has other layers than the one wanted."""
    if odd := [key for key in state if AFTER.match(key) and key not in wanted]:
        raise ValueError(
            f"its head has layers that ours has not ({listed(odd)}): give num_classes= "
            "for a new head of another number of classes (as vitutils train --init)"
        )
