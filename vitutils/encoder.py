"""The Transformer block and the encoder, a stack of blocks."""

from torch import nn
from torchvision.ops import StochasticDepth

from vitutils.attention import MultiHeadAttention
from vitutils.mlp import MLP


class Block(nn.Module):
    """Mix the tokens by attention, then work on each with an MLP.

    Args:
        embed_dim: width D of a token.
        num_heads: number of attention heads h.
        mlp_dim: width of the MLP's hidden layer.
        dropout: probability of dropping a feature after each linear layer
            but the one that makes queries, keys and values.
        stochastic_depth: probability, in training, that an image skips the
            attention; also that it skips the MLP.

    Source: Dosovitskiy et al. (2021), section 3.1, equations 2 and 3;
    stochastic depth: Huang et al. (2016), section 3.
    """

    def __init__(
        self, *, embed_dim, num_heads, mlp_dim, dropout=0.0, stochastic_depth=0.0
    ):
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.attn = MultiHeadAttention(
            embed_dim=embed_dim, num_heads=num_heads, dropout=dropout
        )
        self.norm2 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.mlp = MLP(embed_dim=embed_dim, mlp_dim=mlp_dim, dropout=dropout)
        self.skip = StochasticDepth(stochastic_depth, mode="row")

    def forward(self, x, need_weights=False, read=None):
        """Let the tokens attend, then work on each.

        Args:
            x: tokens, (B, N, D).
            need_weights: whether to return the attention weights too.
            read: how many of the first tokens will be read; what serves
                the others alone is skipped. None: all.

        Returns:
            New tokens (B, read or N, D), and weights (B, h, N, N) or None.
        """
        attended, weights = self.attn(
            self.norm1(x), need_weights=need_weights, read=read
        )
        x = x[:, :read] + self.skip(attended[:, :read])
        x = x + self.skip(self.mlp(self.norm2(x)))
        return x, weights


class Encoder(nn.Module):
    """A stack of blocks, closed by a LayerNorm.

    Args:
        depth: number of blocks L.
        embed_dim, num_heads, mlp_dim, dropout: as in ``Block``.
        stochastic_depth: that of the last block; it grows linearly with
            depth, from 0 in the first.

    Raises:
        ValueError: sizes that do not divide each other, or a probability
            outside [0, 1].

    Source: Dosovitskiy et al. (2021), section 3.1, equations 2 to 4.
    """

    def __init__(
        self, *, depth, embed_dim, num_heads, mlp_dim, dropout=0.0, stochastic_depth=0.0
    ):
        super().__init__()
        if not 0 <= stochastic_depth <= 1:
            raise ValueError(f"stochastic_depth {stochastic_depth} is not in [0, 1]")
        self.blocks = nn.ModuleList(
            Block(
                embed_dim=embed_dim,
                num_heads=num_heads,
                mlp_dim=mlp_dim,
                dropout=dropout,
                stochastic_depth=stochastic_depth * i / max(depth - 1, 1),
            )
            for i in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)

    def forward(self, x, need_weights=False, read=None):
        """Send the tokens through all blocks.

        Args:
            x: tokens, (B, N, D).
            need_weights: whether to return the attention weights too.
            read: how many of the first tokens will be read; the last block
                and the norm skip what serves the others alone. None: all.

        Returns:
            New tokens (B, read or N, D), and a list of one (B, h, N, N) a
            block, empty unless ``need_weights``.
        """
        weights = []
        for i, block in enumerate(self.blocks, start=1):
            last = i == len(self.blocks)
            x, block_weights = block(
                x, need_weights=need_weights, read=read if last else None
            )
            if need_weights:
                weights.append(block_weights)
        return self.norm(x), weights
