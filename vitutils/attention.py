"""Scaled dot-product attention and multi-head attention."""

import math

import torch
import torch.nn.functional as F
from torch import nn


class ScaledDotProductAttention(nn.Module):
    """Give each query a mean of the values, weighted by how keys match it.

    Args (of forward):
        q: queries, (..., N_q, d_k).
        k: keys, (..., N_k, d_k).
        v: values, (..., N_k, d_v).
        mask: bool, broadcastable to (..., N_q, N_k); True lets a query see
            a key. A query that sees no key gets zeros.

    Returns:
        The output (..., N_q, d_v) and the weights (..., N_q, N_k).

    Raises:
        ValueError: the mask is not bool or does not fit the weights' shape.

    Source: Vaswani et al. (2017), section 3.2.1, equation 1.
    """

    def forward(self, q, k, v, mask=None):
        q = q / math.sqrt(q.shape[-1])  # cheaper here than on N_q x N_k
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


def check_mask(mask, shape):
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

    def __init__(self, *, embed_dim, num_heads, dropout=0.0):
        super().__init__()
        if embed_dim % num_heads:
            raise ValueError(f"{num_heads} heads do not divide embed_dim {embed_dim}")
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)  # q, k, v at once
        self.attention = ScaledDotProductAttention()
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x, mask=None, need_weights=False, read=None):
        """Attend from every token to every token.

        Args:
            x: tokens, (B, N, D).
            mask: bool, (N, N) for all images, (B, N, N) for one each, or
                (B, h, N, N); True lets a query (row) see a key (column).
            need_weights: whether to return the attention weights too.
            read: how many of the first tokens will be read; the others
                need no query. None, or with ``need_weights``: all.

        Returns:
            The output (B, N or read, D), and the weights (B, h, N, N) or
            None.
        """
        B, N, D = x.shape
        asking = N if need_weights or read is None else read
        qkv = self.qkv(x).view(B, N, 3, self.num_heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (B, h, N, D/h)
        q = q[:, :, :asking]
        if mask is not None:
            if mask.ndim == 3:
                mask = mask[:, None]  # (B, 1, N, N): the same for all heads
            shape = (B, self.num_heads, N, N)
            check_mask(mask, shape)
            mask = mask.expand(shape)[:, :, :asking]
        if need_weights or explicit_is_faster(k):
            out, weights = self.attention(q, k, v, mask)
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        out = out.transpose(1, 2).reshape(B, asking, D)  # side by side
        out = self.dropout(self.proj(out))
        return out, weights if need_weights else None


def explicit_is_faster(k):
    """Tell whether the explicit product beats torch's fused kernel.

    On a CPU it does in bfloat16, and for short sequences;
    ``benchmarks/throughput.py`` measures both.
    """
    short = k.shape[-2] <= 64
    return k.device.type == "cpu" and (short or k.dtype == torch.bfloat16)
