"""DeiT: a Vision Transformer with a second token that learns from a teacher."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitutils.embeddings import Embeddings
from vitutils.vit import VisionTransformer


class DistilledEmbeddings(Embeddings):
    """Embeddings with a distillation token between class token and patches.

    Args:
        sizes: the arguments of ``Embeddings``, ``embed_dim`` among them.

    Source: Touvron et al. (2021), section 4, "Distillation token".
    """

    num_first_tokens = 2

    def __init__(self, *, embed_dim: int, **sizes) -> None:
        super().__init__(embed_dim=embed_dim, **sizes)
        self.distill_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        nn.init.trunc_normal_(self.distill_token, std=0.02)

    def first_tokens(self) -> Tensor:
        """Return what goes before the patches: class, then distillation."""
        return torch.cat((self.class_token, self.distill_token), dim=1)


class DistilledVisionTransformer(VisionTransformer):
    """A ViT with two tokens and heads: one for labels, one for a teacher.

    Args:
        sizes: the arguments of ``VisionTransformer``; ``tiny``, ``small``
            and ``base`` are DeiT-Ti, -S and -B with distillation.

    Source: Touvron et al. (2021), section 4.
    """

    embeddings_class = DistilledEmbeddings

    def __init__(self, **sizes) -> None:
        super().__init__(**sizes)
        head = self.head
        self.head_dist = nn.Linear(head.in_features, head.out_features)
        nn.init.trunc_normal_(self.head_dist.weight, std=0.02)
        nn.init.zeros_(self.head_dist.bias)

    def forward(self, images: Tensor, need_weights: bool = False) -> Tensor | tuple:
        """Return both heads' logits in training, else one prediction.

        Args:
            images: normalized images, (B, C, height, width).
            need_weights: whether to return the attention weights too.

        Returns:
            In training mode a pair (class_logits, distill_logits), each
            (B, num_classes); in eval mode the logarithm of the mean of
            their softmax (B, num_classes). With ``need_weights`` that, and
            a list of one (B, h, N+2, N+2) a block.
        """
        *logits, weights = self.both_heads(images, need_weights)
        output = tuple(logits) if self.training else average(*logits)
        return (output, weights) if need_weights else output

    def both_heads(
        self, images: Tensor, need_weights: bool = False
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return (class_logits, distill_logits, weights) in any mode."""
        tokens, weights = self.encoder(
            self.embeddings(images), num_outputs=2, need_weights=need_weights
        )
        class_logits = self.head(tokens[:, 0])
        distill_logits = self.head_dist(tokens[:, 1])
        return class_logits, distill_logits, weights


def average(class_logits: Tensor, distill_logits: Tensor) -> Tensor:
    """Average two predictions: the log of the mean of their softmax.

    Source: Touvron et al. (2021), section 4, "Classification with our
    approach". DeiT's code averages the logits instead.
    """
    logits = torch.stack((class_logits, distill_logits))  # (2, B, K)
    return logits.log_softmax(dim=-1).logsumexp(dim=0) - math.log(2)


@torch.no_grad()
def token_similarity(model: DistilledVisionTransformer, images: Tensor) -> Tensor:
    """Compare the class token with the distillation token, layer by layer.

    Args:
        model: a ``DistilledVisionTransformer``, in eval mode.
        images: normalized images, (B, C, height, width).

    Returns:
        The cosine similarity (depth + 1,) of the two tokens, a mean over
        images: as they enter the encoder, then after each block.

    Source: Touvron et al. (2021), section 4, "Distillation token".
    """
    tokens = model.embeddings(images)
    similarity = [F.cosine_similarity(tokens[:, 0], tokens[:, 1]).mean()]
    for block in model.encoder.blocks:
        tokens, _ = block(tokens)
        similarity.append(F.cosine_similarity(tokens[:, 0], tokens[:, 1]).mean())
    return torch.stack(similarity)
