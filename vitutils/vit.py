"""The Vision Transformer, and the paper's sizes of it."""

from typing import Self

from torch import Tensor, nn

from vitutils.attention import MultiHeadAttention
from vitutils.embeddings import Embeddings
from vitutils.encoder import Encoder


class VisionTransformer(nn.Module):
    """Classify an image: embeddings, an encoder, a head on the class token.

    Args:
        image_size: image side in pixels, or (height, width).
        patch_size: patch side in pixels, or (height, width).
        in_channels: number of image channels C.
        num_classes: number of classes to tell apart.
        embed_dim: width D of a token.
        depth: number of blocks L.
        num_heads: number of attention heads h.
        mlp_dim: width of the MLP's hidden layer.
        dropout: probability of dropping a feature after the embeddings and
            after each linear layer but the one for q, k and v.
        stochastic_depth: probability, in training, that an image skips the
            last block's attention; also that it skips its MLP. It grows
            linearly with depth, from 0 in the first block.
        num_registers: number R of extra tokens behind the class token, that
            take part in attention and that the head ignores.
        norm_eps: what the norms add to the variance.

    Raises:
        ValueError: sizes that do not divide each other, a probability
            outside [0, 1], or images of another shape than
            (B, C, height, width).

    Source: Dosovitskiy et al. (2021), section 3.1, equations 1 to 4.
    """

    embeddings_class = Embeddings

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_channels: int = 3,
        num_classes: int = 1000,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_dim: int = 3072,
        dropout: float = 0.0,
        stochastic_depth: float = 0.0,
        num_registers: int = 0,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.config = {
            "image_size": image_size,
            "patch_size": patch_size,
            "in_channels": in_channels,
            "num_classes": num_classes,
            "embed_dim": embed_dim,
            "depth": depth,
            "num_heads": num_heads,
            "mlp_dim": mlp_dim,
            "dropout": dropout,
            "stochastic_depth": stochastic_depth,
            "num_registers": num_registers,
            "norm_eps": norm_eps,
        }
        self.embeddings = self.embeddings_class(
            image_size=image_size,
            patch_size=patch_size,
            in_channels=in_channels,
            embed_dim=embed_dim,
            dropout=dropout,
            num_registers=num_registers,
        )
        self.encoder = Encoder(
            depth=depth,
            embed_dim=embed_dim,
            num_heads=num_heads,
            mlp_dim=mlp_dim,
            dropout=dropout,
            stochastic_depth=stochastic_depth,
        )
        self.head = nn.Linear(embed_dim, num_classes)
        self.encoder.apply(init_linear)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)
        for module in self.modules():  # some published models have 1e-12
            if isinstance(module, nn.LayerNorm):
                module.eps = norm_eps

    def forward(
        self, images: Tensor, need_weights: bool = False
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Return the logits, or (logits, weights) with ``need_weights``.

        Args:
            images: normalized images, (B, C, height, width).
            need_weights: whether to return the attention weights too; the
                last block then computes all tokens.

        Returns:
            The logits (B, num_classes); the weights are a list of one
            (B, h, T, T) for each block, the last one too. There are
            T = 1 + R + N tokens: class, registers, patches.
        """
        # 1. Patches to tokens, the class token first: equation 1
        tokens = self.embeddings(images)  # (B, T, D)
        # 2. All blocks and a norm, of the one token read: equations 2 to 4
        tokens, weights = self.encoder(
            tokens, num_outputs=1, need_weights=need_weights
        )  # (B, 1, D)
        # 3. The class token to logits
        logits = self.head(tokens[:, 0])  # (B, num_classes)
        return (logits, weights) if need_weights else logits

    @classmethod
    def tiny(cls, **sizes) -> Self:
        """ViT-Ti/16: width 192, 3 heads (Touvron et al., table 1)."""
        return cls(**{"embed_dim": 192, "num_heads": 3, "mlp_dim": 768} | sizes)

    @classmethod
    def small(cls, **sizes) -> Self:
        """ViT-S/16: width 384, 6 heads (Touvron et al., table 1)."""
        return cls(**{"embed_dim": 384, "num_heads": 6, "mlp_dim": 1536} | sizes)

    @classmethod
    def base(cls, **sizes) -> Self:
        """ViT-B/16: width 768, 12 heads (Dosovitskiy et al., table 1)."""
        return cls(**sizes)


def init_linear(module: nn.Module) -> None:
    """Start linear layers as ViT's authors do: Xavier, zero biases."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    if isinstance(module, MultiHeadAttention):  # q, k, v: three layers
        for weight in module.qkv.weight.chunk(3):
            nn.init.xavier_uniform_(weight)
