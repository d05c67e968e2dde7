"""The Transformer block and the encoder, a stack of blocks."""

from torch import Tensor, nn

from vitutils.attention import MultiHeadAttention
from vitutils.mlp import MLP


class StochasticDepth(nn.Module):
    """Leave a branch out, image by image, at random while training.

    Args:
        p: probability that an image goes without the branch; what is kept
            is divided by 1 - p, so that the mean stays. In eval mode all
            is kept.

    Source: Huang et al. (2016), section 3, who scale in testing instead.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, branch: Tensor) -> Tensor:
        """Return what is to be added to the residual stream.

        Args:
            branch: what attention or the MLP has computed, (B, ...).
        """
        if not self.training or self.p == 0:
            return branch
        shape = len(branch), *[1] * (branch.ndim - 1)  # a draw for each image
        kept = branch.new_empty(shape).bernoulli_(1 - self.p)
        if self.p < 1:
            kept /= 1 - self.p
        return branch * kept


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

    Source: Dosovitskiy et al. (2021), section 3.1, equations 2 and 3.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        num_heads: int,
        mlp_dim: int,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.attn = MultiHeadAttention(
            embed_dim=embed_dim, num_heads=num_heads, dropout=dropout
        )
        self.norm2 = nn.LayerNorm(embed_dim, eps=1e-6)
        self.mlp = MLP(embed_dim=embed_dim, mlp_dim=mlp_dim, dropout=dropout)
        self.skip = StochasticDepth(stochastic_depth)

    def forward(
        self, x: Tensor, context: Tensor | None = None, *, need_weights: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Let the tokens attend, then work on each.

        Args:
            x: tokens, (B, N, D).
            context: tokens that x attends to, (B, N_k, D); None: x itself.
            need_weights: whether to return the attention weights too.

        Returns:
            New tokens (B, N, D), and the weights (B, h, N, N_k) or None.
        """
        attended, weights = self.attn(
            self.norm1(x),
            None if context is None else self.norm1(context),
            need_weights=need_weights,
        )
        x = x + self.skip(attended)
        x = x + self.skip(self.mlp(self.norm2(x)))
        return x, weights


class Encoder(nn.Module):
    """A stack of blocks, closed by a LayerNorm.

    Args:
        depth: number of blocks L.
        embed_dim, num_heads, mlp_dim, dropout: as in ``Block``.
        stochastic_depth: that of the last of several blocks; it grows
            linearly with depth, from 0 in the first.

    Raises:
        ValueError: sizes that do not divide each other, or a probability
            outside [0, 1].

    Source: Dosovitskiy et al. (2021), section 3.1, equations 2 to 4.
    """

    def __init__(
        self,
        *,
        depth: int,
        embed_dim: int,
        num_heads: int,
        mlp_dim: int,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
    ) -> None:
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

    def forward(
        self, x: Tensor, *, num_outputs: int | None = None, need_weights: bool = False
    ) -> tuple[Tensor, list[Tensor]]:
        """Send the tokens through all blocks.

        Args:
            x: tokens, (B, N, D).
            num_outputs: how many of the first tokens to return; the last
                block computes no others, unless ``need_weights``. None: N.
            need_weights: whether to return the attention weights too.

        Returns:
            New tokens (B, num_outputs, D), and a list of one (B, h, N, N)
            a block, empty unless ``need_weights``.
        """
        weights = []
        for i, block in enumerate(self.blocks, start=1):
            last = i == len(self.blocks)
            if last and num_outputs is not None and not need_weights:
                x, _ = block(x[:, :num_outputs], context=x)
                continue
            x, block_weights = block(x, need_weights=need_weights)
            if need_weights:
                weights.append(block_weights)
        return self.norm(x[:, :num_outputs]), weights
