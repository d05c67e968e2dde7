"""Other libraries' weights in the book's models, and models at another resolution."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitutils.deit import DistilledVisionTransformer
from vitutils.engine.formats import (
    GOOGLE,
    TIMM,
    TORCHVISION,
    Unplaced,
    check_head,
    grid_of,
    has_head,
    heads_of,
    rename,
    tidy_timm,
    tidy_torchvision,
    without_heads,
)
from vitutils.engine.hubs import find_source
from vitutils.engine.strangers import check_config, check_fit, listed, shown
from vitutils.vit import VisionTransformer


def load_pretrained(
    name: str | Path,
    *,
    image_size: int | tuple[int, int] | None = None,
    num_classes: int | None = None,
    num_heads: int | None = None,
    trained_at: int | tuple[int, int] | None = None,
    which: str | None = None,
) -> VisionTransformer:
    """Load published weights into one of the book's models.

    Args:
        name: one of ``published.PUBLISHED``; ``timm/NAME`` of a ViT of timm; a folder
            with config.json and weights of Hugging Face's transformers or of timm, or
            such a repository of Hugging Face's hub, ``OWNER/NAME``; or the path of a
            file with the weights of a ViT of torchvision, timm, DeiT, DINOv2 or MAE
            (.pth, .safetensors) or Google's (.npz). What is not on this machine is
            fetched.
        image_size: image side in pixels, or (height, width); None: the file's. For
            another one the position embeddings are resampled.
        num_classes: number of classes; None: the file's. For another number a new
            head is drawn. Files without a trained head need the number.
        num_heads: attention heads in a block; None: what the source says, else what
            ``formats.HEADS`` has for its width and depth, and an error for others.
        trained_at: image side or (height, width) of the images that a file in timm's
            names was made for; None: what the source says, else a square, if its side
            is one of ``formats.SIDES``, and an error for others.
        which: of several models in a checkpoint, the one of this entry or prefix, as
            ``model`` or ``model_ema``; None: an average or teacher, and a warning.

    Returns:
        A ``VisionTransformer``, or a ``DistilledVisionTransformer`` if the file has a
        distillation token and its head, fp32, on the CPU and in eval mode.
        ``hubs.preprocessing_of`` and ``PUBLISHED`` have the mean and std that its
        images want.

    Raises:
        ValueError: there is no such name or file; the file is not whole, not the
            published one, or holds code; its weights do not fit (each is named); or
            ``image_size`` does not.
        RuntimeError: the file could not be fetched.
    """
    source = find_source(name, which)
    given = {
        "num_classes": num_classes,
        "num_heads": source.agreed("num_heads", num_heads),
        "trained_at": source.agreed("trained_at", trained_at),
    }
    weights = source.state
    try:
        with torch.device("meta"):  # shapes alone: what they lead to takes no memory
            convert({key: value.to("meta") for key, value in weights.items()}, **given)
        cls, config, state = convert(weights, **given)
    except ValueError as error:
        kind = Unplaced if isinstance(error, Unplaced) else ValueError
        raise kind(f"{source.name}: {error}") from error
    except Exception as error:  # as many kinds as there are shapes
        raise ValueError(
            f"{source.name}: its weights have shapes of no ViT ({shown(error)})"
        ) from error
    with torch.device("meta"):  # no time spent on drawing weights
        model = cls(**config, norm_eps=source.norm_eps)
    model.to_empty(device="cpu").load_state_dict(state)
    model.eval()
    return model if image_size is None else at_image_size(model, image_size)


def convert(
    state: dict[str, Tensor],
    *,
    num_classes: int | None = None,
    num_heads: int | None = None,
    trained_at: int | tuple[int, int] | None = None,
) -> tuple[type[VisionTransformer], dict, dict[str, Tensor]]:
    """Turn another library's weights into ours, or say what does not fit.

    Args:
        state: dict of tensors, with the names that torchvision, timm,
            DeiT, DINOv2 or Google gave them.
        num_classes, num_heads, trained_at: as in ``load_pretrained``.

    Returns:
        The model's class, its constructor's arguments, its state dict.

    Raises:
        ValueError: a key is missing, left over, or of another shape; or
            an argument is needed or contradicts the weights.
    """
    state, names, heads = recognize(state, trained_at)
    if heads and num_heads not in (None, heads):
        raise ValueError(f"its weights have {heads} heads, not {num_heads}")
    if rename("embeddings.distill_token", names) in state:
        cls, outputs = DistilledVisionTransformer, ["head", "head_dist"]
    else:
        cls, outputs = VisionTransformer, ["head"]
    config = sizes(state, names, len(outputs), num_heads or heads, trained_at)
    if num_classes is None and config["num_classes"] is None:
        raise ValueError(
            "it has no trained head: give num_classes= for a new one, or "
            "train one on your images (vitutils train --init)"
        )
    if num_classes not in (None, config["num_classes"]):
        config["num_classes"] = num_classes
        state = without_heads(state)
        for head in outputs:  # a new one, as vit.py draws it
            weight = torch.empty(num_classes, config["embed_dim"])
            nn.init.trunc_normal_(weight, std=0.02)
            state[rename(f"{head}.weight", names)] = weight
            state[rename(f"{head}.bias", names)] = torch.zeros(num_classes)
    with torch.device("meta"):  # shapes, and no memory
        wanted = cls(**config).state_dict()
    shapes = {rename(key, names): value.shape for key, value in wanted.items()}
    check_head(state, shapes)
    check_fit(state, shapes)
    return cls, config, {key: state[rename(key, names)] for key in wanted}


def recognize(
    state: dict[str, Tensor], trained_at: int | tuple[int, int] | None = None
) -> tuple[dict[str, Tensor], dict[str, str], int | None]:
    """Tell whose weights these are.

    Returns:
        A copy, laid out as torch does; the table of its names; the number of
        heads, None where only the model's code knows it.
    """
    state = {k: v.float() if torch.is_tensor(v) else v for k, v in state.items()}
    if "conv_proj.weight" in state:
        return tidy_torchvision(state), TORCHVISION, None
    if "patch_embed.proj.weight" in state:
        return fold_layer_scale(tidy_timm(state, trained_at)), TIMM, None
    if "embedding/kernel" in state:
        biases = [v for k, v in state.items() if k.endswith("/query/bias")]
        return from_google(state), GOOGLE, len(biases[0]) if biases else None
    raise ValueError(
        f"the names in it ({listed(state) or 'none'}) are of no ViT of torchvision, "
        "timm, DeiT, DINOv2, MAE or Google; a file of Hugging Face's needs its "
        "config.json beside it; a classifier of torchvision or timm is "
        "torchvision/NAME or timm/NAME, with this file as --file or "
        "--teacher-weights; files of the book itself are for "
        "vitutils.engine.checkpoints.load_model"
    )


def fold_layer_scale(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Multiply LayerScale into the layers whose outputs it scales.

    It scales, feature by feature, what a layer adds to the tokens, and
    gamma * (W x + b) = (gamma W) x + gamma b needs no module of its own.

    Source: Touvron et al. (2021), Going deeper, section 2.
    """
    layers = {"ls1.gamma": "attn.proj", "ls2.gamma": "mlp.fc2"}
    for key in [key for key in state if key.endswith(tuple(layers))]:
        layer = rename(key, layers)
        weight, bias = f"{layer}.weight", f"{layer}.bias"
        if weight in state and bias in state:
            gamma = state.pop(key)
            state[weight] = gamma[:, None] * state[weight]
            state[bias] = gamma * state[bias]
    return state


def from_google(arrays: dict[str, Tensor]) -> dict[str, Tensor]:
    """Lay Google's arrays out as torch does: outputs first, qkv in one."""
    state = {}
    for key, value in arrays.items():
        if key.endswith("kernel") and value.ndim == 4:
            # (P, P, C, D) to (D, C, P, P)
            value = value.permute(3, 2, 0, 1)
        elif key.endswith("kernel"):
            # (D, h, D/h), (h, D/h, D) or (in, out) to (out, in)
            heads = (0, 1) if "/out/" in key else (1, -1)
            value = value.flatten(*heads).T
        elif key.endswith("bias"):
            value = value.flatten()  # (h, D/h) to (D)
        state[key] = value
    for key in [key for key in state if "/query/" in key]:
        parts = [key.replace("query", part) for part in ("query", "key", "value")]
        if all(part in state for part in parts):
            qkv = torch.cat([state.pop(part) for part in parts])
            state[key.replace("query", "qkv")] = qkv
    return state


def sizes(
    state: dict[str, Tensor],
    names: dict[str, str],
    first: int,
    num_heads: int | None,
    trained_at: int | tuple[int, int] | None = None,
) -> dict:
    """Read a constructor's arguments off the shapes of the weights.

    Args:
        state, names: from ``recognize``.
        first: number of tokens before registers and patches.
        num_heads: no shape tells it; None: as ``formats.HEADS`` has it.
        trained_at: no shape tells whether images are square; None: they are.
    """

    def shape(key, rank):
        key = rename(key, names)
        if key not in state:
            raise ValueError(f"missing: {key}")
        if state[key].ndim != rank:
            raise ValueError(f"{key} is of rank {state[key].ndim}, not {rank}")
        return tuple(state[key].shape)

    D, C, *patch = shape("embeddings.proj.weight", 4)
    has_registers = rename("embeddings.registers", names) in state
    registers = shape("embeddings.registers", 3)[1] if has_registers else 0
    patches = shape("embeddings.pos_embed", 3)[1] - first - registers
    side = math.isqrt(max(patches, 0))
    rows, columns = (side, side) if trained_at is None else grid_of(trained_at, patch)
    if rows * columns != patches:
        fault = (
            "fill no square" if trained_at is None else f"are not {rows} x {columns}"
        )
        raise ValueError(f"positions of {patches} patches, which {fault}")
    block = re.escape(rename("encoder.blocks.", names)) + r"(\d+)"
    depth = len({i for key in state for i in re.findall(block, key)})
    trained = has_head(state, rename("head.weight", names))
    config = {
        "image_size": square(rows * patch[0], columns * patch[1]),
        "patch_size": square(*patch),
        "in_channels": C,
        "num_classes": shape("head.weight", 2)[0] if trained else None,
        "embed_dim": D,
        "depth": depth,
        "num_heads": num_heads or heads_of(D, depth),
        "mlp_dim": shape("encoder.blocks.0.mlp.fc1.bias", 1)[0],
        "num_registers": registers,
    }
    check_config(VisionTransformer, config, len(state))
    return config


def square(height: int, width: int) -> int | tuple[int, int]:
    """Return a side for a square, else (height, width)."""
    return height if height == width else (height, width)


def resize_positions(
    pos_embed: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]
) -> Tensor:
    """Resample position embeddings from one grid of patches to another.

    Args:
        pos_embed: (1, N, D), patches last; the first tokens (class,
            distillation) lie on no grid and keep theirs.
        old_grid, new_grid: (rows, columns) of patches.

    Returns:
        The embeddings for the new grid, (1, N', D).

    Raises:
        ValueError: there are fewer embeddings than patches.

    Source: Dosovitskiy et al. (2021), section 3.2; bicubic as in timm.
    """
    patches = old_grid[0] * old_grid[1]
    if pos_embed.shape[1] < patches:
        raise ValueError(
            f"{pos_embed.shape[1]} positions do not fill a grid of "
            f"{old_grid[0]} x {old_grid[1]}"
        )
    first, grid = pos_embed[:, :-patches], pos_embed[:, -patches:]
    grid = grid.transpose(1, 2).unflatten(2, old_grid)  # (1, D, rows, cols)
    grid = F.interpolate(grid, new_grid, mode="bicubic", antialias=True)
    return torch.cat((first, grid.flatten(2).transpose(1, 2)), dim=1)


def at_image_size(
    model: VisionTransformer, image_size: int | tuple[int, int]
) -> VisionTransformer:
    """Rebuild a model for images of another size: resized positions.

    Args:
        model: one of the book's; it stays as it is.
        image_size: image side in pixels, or (height, width).

    Returns:
        A new model with the same weights, in the same mode, on the same
        device, fp32; all of its parameters learn.

    Raises:
        ValueError: the patches do not divide the size.
    """
    config = model.config | {"image_size": image_size}
    with torch.device("meta"):  # no time spent on drawing weights
        resized = type(model)(**config)
    old, new = model.embeddings, resized.embeddings
    state = model.state_dict()
    state["embeddings.pos_embed"] = resize_positions(
        old.pos_embed.detach(), old.grid, new.grid
    )
    resized.to_empty(device=old.pos_embed.device).load_state_dict(state)
    return resized.train(model.training)


@torch.no_grad()
def renormalize(
    model: VisionTransformer,
    *,
    old: tuple[Sequence[float], Sequence[float]],
    new: tuple[Sequence[float], Sequence[float]],
) -> None:
    """Let a model take images normalized in another way, and answer as before.

    Normalization is linear in each channel, and so is the patch projection, which
    pads nothing: one is folded into the other.

    Args:
        model: one of the book's ViTs; its projection is changed.
        old: (mean, std), by channel, of the images that it takes.
        new: (mean, std) of those that it is to take.
    """
    (old_mean, old_std), (new_mean, new_std) = torch.tensor([old, new]).unbind()
    weight, bias = model.embeddings.proj.weight, model.embeddings.proj.bias
    shift = (new_mean - old_mean) / old_std
    bias += (weight * shift.view(-1, 1, 1)).sum(dim=(1, 2, 3))
    weight *= (new_std / old_std).view(-1, 1, 1)
