"""Fine-tuning: the head alone, lower layers more slowly, rare classes more heavily."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from vitutils.train import parameter_groups


def freeze(model: nn.Module) -> None:
    """Let a model's head learn alone: all else stays as it is.

    Running statistics, as BatchNorm's, stay too.

    Args:
        model: one of the book's; the names of its heads' weights begin with "head".
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("head"))
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
            module.train = lambda mode=True, module=module: module


def layer_groups(
    model: nn.Module, weight_decay: float, *, lr: float, layer_decay: float
) -> list[dict]:
    """Part the parameters by level, each with a learning rate of its own.

    The head and the norm before it have the whole rate, each block
    ``layer_decay`` times that of the one above, and the embeddings that of
    one more. Which weights decay is for ``parameter_groups`` to say.

    Args:
        model: a ViT or DeiT of the book's.
        weight_decay: AdamW's decay for the weights.
        lr: learning rate of the head.
        layer_decay: in (0, 1]; 1: one rate for all.

    Returns:
        Parameter groups for a torch optimizer, from the head down.

    Raises:
        ValueError: the decay is out of range, or the model has no encoder.

    Source: Bao et al. (2022), appendix on fine-tuning.
    """
    check_layer_decay(layer_decay, model)
    encoder = model.encoder
    children = dict(model.named_children()).items()
    top = [part for name, part in children if name not in ("embeddings", "encoder")]
    top = nn.ModuleList([encoder.norm, *top])
    groups = []
    levels = [top, *reversed(encoder.blocks), model.embeddings]
    for below, level in enumerate(levels):
        for group in parameter_groups(level, weight_decay):
            if group["params"]:
                groups.append(group | {"lr": lr * layer_decay**below})
    return groups


def check_layer_decay(layer_decay: float, model: nn.Module | None = None) -> None:
    """Raise a ValueError for a decay out of range, or for a model without layers.

    Args:
        layer_decay: as in ``layer_groups``.
        model: as there; None: it is not known yet.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"layer_decay {layer_decay} is not in (0, 1]")
    if model is not None and not hasattr(model, "encoder"):
        raise ValueError(f"layer_decay is for a vit or deit: {type(model).__name__}")


def balanced_cross_entropy(
    labels: Tensor, num_classes: int, label_smoothing: float = 0.0
) -> Callable:
    """Return a ``loss_fn`` of ``fit`` to which each class counts as much as another.

    An image counts N / (K n), n the number of its class's images: 1 in the mean, so
    that the loss, and a good learning rate, are of the usual size.

    Args:
        labels: of the training images, (N,).
        num_classes: number of classes K.
        label_smoothing: in [0, 1).
    """
    counts = labels.bincount(minlength=num_classes).clamp(min=1)
    weights = len(labels) / (num_classes * counts)

    def loss_fn(logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        total = F.cross_entropy(
            logits.float(),
            labels,
            weights.to(logits.device),
            reduction="sum",
            label_smoothing=label_smoothing,
        )
        return total / len(logits)  # a mean by weights would differ by parts of a batch

    return loss_fn
