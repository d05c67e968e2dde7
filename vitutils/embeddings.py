"""From an image to tokens: patches, class token, positions."""

import torch
from torch import Tensor, nn


class Embeddings(nn.Module):
    """Cut an image into patches and make each a token that knows its place.

    Args:
        image_size: image side in pixels, or (height, width).
        patch_size: patch side P in pixels, or (height, width).
        in_channels: number of image channels C.
        embed_dim: width D of a token.
        dropout: probability of dropping a feature of the embedded tokens.
        num_registers: number of further tokens before the patches, for the
            model's own use: no head reads them.

    Raises:
        ValueError: the image is not divisible by the patch; in ``forward``,
            the image has another shape than the model was built for.

    Source: Dosovitskiy et al. (2021), section 3.1, equation 1; registers:
    Darcet et al. (2024), section 2.2.
    """

    num_first_tokens = 1  # the class token

    def __init__(
        self,
        *,
        image_size: int | tuple[int, int],
        patch_size: int | tuple[int, int],
        in_channels: int,
        embed_dim: int,
        dropout: float = 0.0,
        num_registers: int = 0,
    ) -> None:
        super().__init__()
        height, width = pair(image_size)
        patch_height, patch_width = pair(patch_size)
        if height % patch_height or width % patch_width:
            raise ValueError(
                f"image_size {height}x{width} is not divisible by "
                f"patch_size {patch_height}x{patch_width}"
            )
        self.image_shape = (in_channels, height, width)
        self.grid = (height // patch_height, width // patch_width)
        self.num_patches = self.grid[0] * self.grid[1]
        patch = (patch_height, patch_width)
        self.proj = nn.Conv2d(in_channels, embed_dim, patch, stride=patch)
        self.class_token = nn.Parameter(torch.empty(1, 1, embed_dim))
        tokens = self.num_first_tokens + num_registers + self.num_patches
        self.pos_embed = nn.Parameter(torch.empty(1, tokens, embed_dim))
        self.dropout = nn.Dropout(dropout)
        nn.init.trunc_normal_(self.class_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.registers = None
        if num_registers:
            self.registers = nn.Parameter(torch.empty(1, num_registers, embed_dim))
            nn.init.trunc_normal_(self.registers, std=0.02)

    def forward(self, images: Tensor) -> Tensor:  # (B, C, H, W)
        """Return tokens (B, F+N, D) of images (B, C, H, W); F go first."""
        if images.shape[1:] != self.image_shape:
            raise ValueError(
                f"images of shape {tuple(images.shape)} do not fit a model "
                f"built for (B, {', '.join(map(str, self.image_shape))})"
            )
        patches = self.proj(images).flatten(2).transpose(1, 2)  # (B, N, D)
        first = self.first_tokens()
        if self.registers is not None:
            first = torch.cat((first, self.registers), dim=1)
        first = first.expand(patches.shape[0], -1, -1)
        tokens = torch.cat((first, patches), dim=1)  # (B, F+N, D)
        return self.dropout(tokens + self.pos_embed)

    def first_tokens(self) -> Tensor:
        """Return what goes first: the class token."""
        return self.class_token  # (1, 1, D)


def pair(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return ``size`` as (height, width): an int stands for a square."""
    return (size, size) if isinstance(size, int) else tuple(size)
