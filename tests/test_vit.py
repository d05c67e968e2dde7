"""The whole ViT: published sizes, and equal to torchvision's and timm's."""

import json

import pytest
import timm
import torch
from torch import nn
from torchvision.models import VisionTransformer as TorchvisionViT

from vitutils.pretrained import TIMM, TORCHVISION, rename
from vitutils.vit import VisionTransformer

SIZES = {
    "image_size": 32,
    "patch_size": 8,
    "num_classes": 7,
    "embed_dim": 24,
    "depth": 3,
    "num_heads": 3,
    "mlp_dim": 40,
}


def renamed(state, names):
    return {rename(key, names): value for key, value in state.items()}


@pytest.fixture
def vit():
    torch.manual_seed(0)
    model = VisionTransformer(**SIZES).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_logits_equal_torchvision(vit, images):
    theirs = TorchvisionViT(
        image_size=32,
        patch_size=8,
        num_layers=3,
        num_heads=3,
        hidden_dim=24,
        mlp_dim=40,
        num_classes=7,
    ).eval()
    theirs.load_state_dict(renamed(vit.state_dict(), TORCHVISION))
    torch.testing.assert_close(vit(images), theirs(images), atol=1e-5, rtol=1e-5)


def test_logits_equal_timm(vit, images):
    theirs = timm.models.VisionTransformer(
        img_size=32,
        patch_size=8,
        num_classes=7,
        embed_dim=24,
        depth=3,
        num_heads=3,
        mlp_ratio=40 / 24,
    ).eval()
    theirs.load_state_dict(renamed(vit.state_dict(), TIMM))
    torch.testing.assert_close(vit(images), theirs(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "count"),
    [("tiny", 5_717_416), ("small", 22_050_664), ("base", 86_567_656)],
)
def test_parameter_counts_equal_the_published_ones(size, count):
    with torch.device("meta"):
        model = getattr(VisionTransformer, size)()
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(
    ("size", "embed_dim", "num_heads", "mlp_dim"),
    [("tiny", 192, 3, 768), ("small", 384, 6, 1536), ("base", 768, 12, 3072)],
)
def test_the_sizes_are_the_published_ones_for_any_images(
    size, embed_dim, num_heads, mlp_dim
):
    images = {"image_size": 32, "in_channels": 1, "num_classes": 7}
    sizes = {"embed_dim": embed_dim, "num_heads": num_heads, "mlp_dim": mlp_dim}
    with torch.device("meta"):
        default = VisionTransformer().config
        assert default == VisionTransformer.base().config
        found = getattr(VisionTransformer, size)(**images).config
    assert found == default | images | sizes


def test_weights_start_as_the_papers_do():
    """Xavier's deviation is sqrt(2 / (inputs + outputs)); q, k, v are three layers."""
    torch.manual_seed(0)
    vit = VisionTransformer(**SIZES | {"embed_dim": 120, "mlp_dim": 360})
    block = vit.encoder.blocks[1]
    layers = [*block.attn.qkv.weight.chunk(3), block.attn.proj.weight]
    for weight in layers:
        assert weight.std().item() == pytest.approx((1 / 120) ** 0.5, rel=0.03)
    for layer in (block.mlp.fc1, block.mlp.fc2):
        assert layer.weight.std().item() == pytest.approx((2 / 480) ** 0.5, rel=0.03)
    assert vit.head.weight.std().item() == pytest.approx(0.02, rel=0.1)
    linear = [m for m in vit.modules() if isinstance(m, nn.Linear)]
    assert not any(layer.bias.any() for layer in linear)


def test_without_weights_the_last_block_works_on_the_class_token_alone(vit, images):
    worked_on = []
    for block in vit.encoder.blocks:
        block.mlp.register_forward_hook(
            lambda module, args, out: worked_on.append(out.shape[1])
        )
    vit(images)
    assert worked_on == [17, 17, 1]


def test_dropout_is_everywhere():
    """After the embeddings; in each block after the attention and in the MLP."""
    vit = VisionTransformer(**SIZES, dropout=0.3)
    drops = [m.p for m in vit.modules() if isinstance(m, nn.Dropout)]
    assert drops == [0.3] * (1 + 2 * 3)


def test_weights_are_returned_when_asked_for_and_change_no_logit(vit, images):
    logits, weights = vit(images, need_weights=True)
    torch.testing.assert_close(logits, vit(images), atol=1e-5, rtol=1e-5)
    assert [w.shape for w in weights] == 3 * [(4, 3, 17, 17)]


def test_rectangular_images_and_other_channel_counts():
    model = VisionTransformer(
        **SIZES | {"image_size": (16, 24), "patch_size": (8, 4), "in_channels": 5}
    )
    assert model(torch.zeros(2, 5, 16, 24)).shape == (2, 7)


def test_the_config_rebuilds_the_model_and_survives_json(vit, images):
    again = VisionTransformer(**json.loads(json.dumps(vit.config)))
    again.load_state_dict(vit.state_dict())
    assert torch.equal(again.eval()(images), vit(images))


def test_the_config_names_every_argument():
    arguments = VisionTransformer.__init__.__kwdefaults__
    assert VisionTransformer(**SIZES).config == arguments | SIZES


def test_stochastic_depth_reaches_every_block_and_the_config(vit, images):
    skipping = VisionTransformer(**SIZES, stochastic_depth=0.4).eval()
    assert [block.skip.p for block in skipping.encoder.blocks] == [0, 0.2, 0.4]
    assert skipping.config == vit.config | {"stochastic_depth": 0.4}
    skipping.load_state_dict(vit.state_dict())
    assert torch.equal(skipping(images), vit(images))


def test_a_new_model_is_nearly_indifferent(images):
    """Small head, zero bias: the first loss is close to log(num_classes)."""
    torch.manual_seed(0)
    logits = VisionTransformer(**SIZES)(images)
    assert logits.abs().max() < 0.5
    assert logits.std() > 1e-3


def test_every_parameter_gets_a_gradient(images):
    model = VisionTransformer(**SIZES)
    model(images).square().sum().backward()
    silent = [n for n, p in model.named_parameters() if not p.grad.abs().sum() > 0]
    assert silent == []


def test_wrong_sizes_name_the_values():
    with pytest.raises(ValueError, match=r"5 heads do not divide embed_dim 24"):
        VisionTransformer(**SIZES | {"num_heads": 5})
    with pytest.raises(ValueError, match="image_size 30x30"):
        VisionTransformer(**SIZES | {"image_size": 30})
    with pytest.raises(ValueError, match=r"stochastic_depth 1\.5"):
        VisionTransformer(**SIZES, stochastic_depth=1.5)
