"""What a model attends to: weights, and maps over the image."""

import torch
from torch import Tensor, nn

from vitutils.train import eval_mode


@torch.no_grad()
def attention_weights(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Run a model in eval mode for its weights, and leave it as found.

    Args:
        model: called as ``model(images, need_weights=True)``, it returns
            its output and the attention weights.
        images: normalized images, (B, C, height, width), on any device.

    Returns:
        The weights on the model's device: one (B, h, N, N) a layer. N are
        the first tokens (class, in a DeiT distillation), then the patches.
    """
    device = next(model.parameters()).device
    with eval_mode(model):
        _, weights = model(images.to(device), need_weights=True)
    return weights


def attention_maps(
    model: nn.Module,
    images: Tensor,
    *,
    layer: int = -1,
    head: int | None = None,
    query: int = 0,
) -> Tensor:
    """Return how much one token attends to each patch of the image.

    Args:
        model, images: as in ``attention_weights``; the patches lie as
            ``model.embeddings.grid`` says.
        layer: index of the layer; -1 is the last.
        head: index of the head; None: the mean over the heads.
        query: index of the token that attends: 0 is the class token, in a
            DeiT 1 is the distillation token; then come the patches.

    Returns:
        A map (B, rows, columns). It is not renormalized: what the first
        tokens got is missing, so it sums to less than 1.

    Raises:
        IndexError: there is no such layer, head or query.
    """
    weights = attention_weights(model, images)
    check_index("layer", layer, len(weights))
    weights = weights[layer]  # (B, h, N, N)
    if head is None:
        return on_grid(model, weights.mean(dim=1), query)
    check_index("head", head, weights.shape[1])
    return on_grid(model, weights[:, head], query)


def attention_rollout(model: nn.Module, images: Tensor, *, query: int = 0) -> Tensor:
    """Return how rollout shares one token out among the patches.

    Each layer mixes the tokens half and half: what they attend to (a mean
    over heads), and themselves, for the residual connection. Values and
    MLPs are left out.

    Args:
        model, images, query: as in ``attention_maps``.

    Returns:
        A map (B, rows, columns), without the shares of the first tokens.

    Raises:
        IndexError: there is no such query.

    Source: Abnar and Zuidema (2020), section 3, equation 1.
    """
    weights = attention_weights(model, images)
    identity = torch.eye(weights[0].shape[-1]).to(weights[0])  # (N, N)
    rollout = identity
    for layer in weights:
        mixed = 0.5 * layer.mean(dim=1) + 0.5 * identity  # (B, N, N)
        rollout = mixed @ rollout
    return on_grid(model, rollout, query)


def attention_relevance(
    model: nn.Module, images: Tensor, *, classes: Tensor | None = None, query: int = 0
) -> Tensor:
    """Return which patches speak for a class, all layers together.

    To first order, a weight times its gradient is what the class's logit
    gains by it. What is positive counts, as a mean over heads.

    Args:
        model, images, query: as in ``attention_maps``.
        classes: one index an image, (B,); None: the predicted classes.

    Returns:
        A map (B, rows, columns), without the first tokens: not negative,
        on a scale that depends on the logits.

    Raises:
        IndexError: there is no such query.

    Source: Chefer et al. (2021), section 3.
    """
    device = next(model.parameters()).device
    images = images.detach().to(device).requires_grad_()
    with eval_mode(model), torch.enable_grad():
        logits, weights = model(images, need_weights=True)
        if classes is None:
            classes = logits.argmax(dim=1)
        asked = logits.gather(1, classes.to(device)[:, None]).sum()
        gradients = torch.autograd.grad(asked, weights)
    relevance = torch.eye(weights[0].shape[-1]).to(weights[0])  # (N, N)
    for layer, gradient in zip(weights, gradients, strict=True):
        gain = (layer.detach() * gradient).clamp(min=0)  # (B, h, N, N)
        relevance = relevance + gain.mean(dim=1) @ relevance
    return on_grid(model, relevance, query)


def on_grid(model: nn.Module, weights: Tensor, query: int) -> Tensor:
    """Lay what a query gives to the patches, of (B, N, N), on the image."""
    check_index("query", query, weights.shape[-1])
    patches = weights[:, query, -model.embeddings.num_patches :]
    return patches.unflatten(-1, model.embeddings.grid)


def check_index(name: str, index: int, count: int) -> None:
    """Raise an IndexError unless there is an item with this index."""
    if not -count <= index < count:
        raise IndexError(f"{name} {index} is not between {-count} and {count - 1}")
