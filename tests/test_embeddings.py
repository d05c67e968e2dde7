"""Patches, class token and positions."""

import pytest
import torch

from vitutils.embeddings import Embeddings

SIZES = {"image_size": 8, "patch_size": 4, "in_channels": 3, "embed_dim": 10}
close = torch.testing.assert_close


def test_the_convolution_is_a_product_with_each_flat_patch():
    torch.manual_seed(0)
    layer = Embeddings(**SIZES | {"image_size": (8, 12), "patch_size": (4, 2)})
    images = torch.randn(2, 3, 8, 12)
    patches = images.view(2, 3, 2, 4, 6, 2).permute(0, 2, 4, 1, 3, 5)
    patches = patches.reshape(2, 12, 3 * 4 * 2)  # rows first, then columns
    weight = layer.proj.weight.flatten(1)
    expected = patches @ weight.T + layer.proj.bias + layer.pos_embed[:, 1:]
    tokens = layer(images)
    close(tokens[:, 1:], expected)
    first = (layer.class_token + layer.pos_embed[:, :1]).expand(2, -1, -1)
    close(tokens[:, :1], first)


@pytest.mark.parametrize(
    ("image_size", "patch_size", "grid"),
    [(28, 7, (4, 4)), ((8, 12), 4, (2, 3)), ((8, 12), (2, 6), (4, 2)), (5, 1, (5, 5))],
)
def test_any_sizes_that_divide_each_other(image_size, patch_size, grid):
    layer = Embeddings(
        image_size=image_size, patch_size=patch_size, in_channels=1, embed_dim=4
    )
    assert layer.grid == grid
    assert layer.num_patches == grid[0] * grid[1]
    tokens = layer(torch.zeros(1, *layer.image_shape))
    assert tokens.shape == (1, layer.num_patches + 1, 4)


def test_tokens_and_positions_start_small_but_not_at_zero():
    torch.manual_seed(0)
    layer = Embeddings(image_size=64, patch_size=4, in_channels=1, embed_dim=64)
    assert layer.pos_embed.std().item() == pytest.approx(0.02, rel=0.05)
    assert layer.class_token.std().item() == pytest.approx(0.02, rel=0.3)


@pytest.mark.parametrize(
    ("image_size", "patch_size", "message"),
    [
        (30, 7, "image_size 30x30 is not divisible by patch_size 7x7"),
        ((8, 9), 4, "image_size 8x9 is not divisible by patch_size 4x4"),
        (8, (4, 3), "image_size 8x8 is not divisible by patch_size 4x3"),
        (8, (3, 4), "image_size 8x8 is not divisible by patch_size 3x4"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(image_size, patch_size, message):
    with pytest.raises(ValueError, match=message):
        Embeddings(**SIZES | {"image_size": image_size, "patch_size": patch_size})


@pytest.mark.parametrize(
    "shape", [(2, 3, 8, 9), (2, 1, 8, 8), (2, 3, 16, 16), (3, 8, 8)]
)
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"do not fit .* \(B, 3, 8, 8\)"):
        Embeddings(**SIZES)(torch.zeros(shape))


def test_dropout_acts_on_the_embedded_tokens():
    torch.manual_seed(0)
    layer = Embeddings(**SIZES, dropout=0.5).train()
    share = (layer(torch.randn(200, 3, 8, 8)) == 0).float().mean()
    assert 0.45 < share < 0.55


def test_the_batch_size_stays_free_where_a_model_is_exported():
    layer = Embeddings(**SIZES).eval()
    shapes = ({0: torch.export.Dim("batch")},)
    images = torch.randn(5, 3, 8, 8)
    exported = torch.export.export(layer, (images[:2],), dynamic_shapes=shapes)
    close(exported.module()(images), layer(images))
