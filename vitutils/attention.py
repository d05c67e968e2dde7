"""Scaled dot-product attention and multi-head attention."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitutils.engine.kernels import choose_explicit


class ScaledDotProductAttention(nn.Module):
    """Give each query a mean of the values, weighted by how keys match it.

    Source: Vaswani et al. (2017), section 3.2.1, equation 1.
    """

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Compare each query with all keys, and mix the values.

        Args:
            q: queries, (..., N_q, d_k).
            k: keys, (..., N_k, d_k).
            v: values, (..., N_k, d_v).
            mask: bool, broadcastable to (..., N_q, N_k); True lets a query
                see a key. A query that sees no key gets zeros.

        Returns:
            The output (..., N_q, d_v) and the weights (..., N_q, N_k).

        Raises:
            ValueError: the mask is not bool or does not fit the weights.
        """
        q = q / math.sqrt(q.shape[-1])  # less to divide where d_k < N_k
        logits = q @ k.transpose(-2, -1)  # (..., N_q, N_k)
        if mask is None:
            weights = logits.softmax(dim=-1)
        else:
            check_mask(mask, logits.shape)
            # -inf would turn a row without any key into NaN.
            lowest = torch.finfo(logits.dtype).min
            weights = logits.masked_fill(~mask, lowest).softmax(dim=-1)
            weights = weights.masked_fill(~mask, 0.0)
        return weights @ v, weights


def check_mask(mask: Tensor, shape: Sequence[int]) -> None:
    """Raise a ValueError unless a mask is bool and broadcasts to shape."""
    if mask.dtype != torch.bool:
        raise ValueError(
            f"mask has dtype {mask.dtype}, expected torch.bool: "
            "True where a query may see a key"
        )
    try:
        fits = torch.broadcast_shapes(mask.shape, shape) == tuple(shape)
    except RuntimeError:
        fits = False
    if not fits:
        raise ValueError(
            f"mask of shape {tuple(mask.shape)} does not broadcast to "
            f"the attention weights' shape {tuple(shape)}"
        )


class MultiHeadAttention(nn.Module):
    """Let tokens attend to each other in several subspaces (heads) at once.

    Args:
        embed_dim: width D of a token.
        num_heads: number of heads h; each works on D / h features.
        dropout: probability of dropping a feature after the projection.

    Raises:
        ValueError: ``embed_dim`` is not divisible by ``num_heads``.

    Source: Vaswani et al. (2017), section 3.2.2.
    """

    def __init__(self, *, embed_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"{num_heads} heads do not divide embed_dim {embed_dim}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)  # q, k, v at once
        self.attention = ScaledDotProductAttention()
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Let each token of x attend to every token of the context.

        Args:
            x: tokens that ask, (B, N_q, D).
            context: tokens that they ask, (B, N_k, D), as in
                cross-attention; None: x itself, as in self-attention.
            mask: bool, (N_q, N_k) for all images, (B, N_q, N_k) for one
                each, or (B, h, N_q, N_k); True lets a query (row) see a
                key (column).
            need_weights: whether to return the attention weights too.

        Returns:
            The output (B, N_q, D), and the weights (B, h, N_q, N_k) or
            None.

        Raises:
            ValueError: the mask is not bool or does not fit.
        """
        B, N, D = x.shape
        if context is None:
            q, k, v = self.qkv(x).chunk(3, dim=-1)  # each (B, N, D)
        else:
            weight, bias = self.qkv.weight, self.qkv.bias
            q = F.linear(x, weight[:D], bias[:D])
            k, v = F.linear(context, weight[D:], bias[D:]).chunk(2, dim=-1)
        heads = (self.num_heads, D // self.num_heads)
        q, k, v = (
            part.unflatten(-1, heads).transpose(1, 2) for part in (q, k, v)
        )  # each (B, h, N, D/h)
        if mask is not None:
            if mask.ndim == 3:
                mask = mask[:, None]  # (B, 1, N_q, N_k): for all heads
            check_mask(mask, (B, self.num_heads, N, k.shape[2]))
        if need_weights or choose_explicit(k):
            out, weights = self.attention(q, k, v, mask)
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            if mask is not None:  # a row with no allowed key must give 0
                out = out.masked_fill(~mask.any(dim=-1, keepdim=True), 0.0)
        out = out.transpose(1, 2).reshape(B, N, D)  # heads side by side
        out = self.dropout(self.proj(out))
        return out, weights if need_weights else None
