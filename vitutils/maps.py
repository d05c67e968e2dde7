"""What a model attends to: maps over the image, distances, spread."""

import math

import torch
from torch import Tensor, nn

from vitutils.embeddings import pair
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

    Each weight counts as much as the class's logit gains by it: times its
    gradient, where that is positive, a mean over heads.

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


def attention_distance(
    weights: list[Tensor], grid: tuple[int, int], patch_size: int | tuple[int, int]
) -> Tensor:
    """Measure how far away the patches are that a patch attends to.

    Args:
        weights: one (B, h, N, N) a layer; N is the number of patches, or
            one or two first tokens more. These have no place: they are
            left out, and the weights of the patches made to sum to 1.
        grid: (rows, columns) of patches.
        patch_size: patch side in pixels, or (height, width).

    Returns:
        The mean distance (L, h) in pixels over all patches and images,
        but for patches that attend to the first tokens alone.

    Raises:
        ValueError: the weights do not fit the grid.

    Source: Dosovitskiy et al. (2021), figure 7, right; appendix D.7.
    """
    distances = patch_distances(grid, patch_size)  # (n, n)
    means = []
    for layer in weights:
        patches = patches_only(layer, grid)  # (B, h, n, n)
        patches = patches / patches.sum(dim=-1, keepdim=True)
        distance = (patches * distances.to(patches)).sum(dim=-1)
        means.append(distance.nanmean(dim=(0, 2)))  # NaN: none attended to
    return torch.stack(means)


def attention_entropy(weights: list[Tensor], query: int = 0) -> Tensor:
    """Measure how widely a token spreads its attention.

    Args:
        weights: one (B, h, N, N) a layer.
        query: index of the token that attends; 0 is the class token.

    Returns:
        The entropy (L, h) in bits, a mean over images: 0 if one token gets
        all, log2(N) if all N tokens, the first ones too, get the same.

    Raises:
        IndexError: there is no such query.
    """
    check_index("query", query, weights[0].shape[-1])
    rows = torch.stack([layer[:, :, query] for layer in weights])
    nats = torch.special.entr(rows).sum(dim=-1)  # entr(w) = -w ln w
    return nats.mean(dim=1) / math.log(2)  # (L, B, h) to (L, h)


def patch_distances(grid: tuple[int, int], patch_size: int | tuple[int, int]) -> Tensor:
    """Return how far n patches are from each other in pixels, (n, n)."""
    height, width = pair(patch_size)
    y, x = torch.arange(grid[0]) * height, torch.arange(grid[1]) * width
    places = torch.cartesian_prod(y, x).float()  # (n, 2), row by row
    return (places[:, None] - places).norm(dim=-1)


def patches_only(weights: Tensor, grid: tuple[int, int]) -> Tensor:
    """Cut the first tokens off (B, h, N, N) weights: (B, h, n, n)."""
    n = grid[0] * grid[1]
    if weights.ndim != 4 or weights.shape[-1] - n not in (0, 1, 2):
        raise ValueError(
            f"weights of shape {tuple(weights.shape)} do not fit a grid "
            f"of {grid[0]} x {grid[1]}: expected (B, h, N, N) with N from "
            f"{n} to {n + 2}"
        )
    return weights[..., -n:, -n:]


def on_grid(model: nn.Module, weights: Tensor, query: int) -> Tensor:
    """Lay what a query gives to the patches, of (B, N, N), on the image."""
    check_index("query", query, weights.shape[-1])
    patches = weights[:, query, -model.embeddings.num_patches :]
    return patches.unflatten(-1, model.embeddings.grid)


def check_index(name: str, index: int, count: int) -> None:
    """Raise an IndexError unless there is an item with this index."""
    if not -count <= index < count:
        raise IndexError(f"{name} {index} is not between {-count} and {count - 1}")
