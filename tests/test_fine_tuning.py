"""Fine-tuning: what learns, how fast, and how much an image counts."""

import pytest
import torch
import torch.nn.functional as F

from vitutils.deit import DistilledVisionTransformer
from vitutils.distill import ConvNet
from vitutils.engine.fine_tuning import balanced_cross_entropy, freeze, layer_groups
from vitutils.train import parameter_groups
from vitutils.vit import VisionTransformer

SIZES = dict(image_size=8, patch_size=4, embed_dim=16, depth=3, num_heads=2)


@pytest.mark.parametrize("kind", [VisionTransformer, DistilledVisionTransformer])
def test_each_level_has_its_rate(kind):
    model = kind(**SIZES)
    groups = layer_groups(model, 0.05, lr=1.0, layer_decay=0.5)
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    decay = {
        id(parameter): group["weight_decay"]
        for group in parameter_groups(model, 0.05)
        for parameter in group["params"]
    }
    assert sum(len(group["params"]) for group in groups) == len(found) == len(decay)
    for name, parameter in model.named_parameters():
        rate = 1.0
        if name.startswith("encoder.blocks."):
            rate = 0.5 ** (3 - int(name.split(".")[2]))
        elif name.startswith("embeddings."):
            rate = 0.5**4
        assert found[id(parameter)] == (rate, decay[id(parameter)])
    assert groups[0]["lr"] == 1.0  # the one that a run tells


def test_what_is_frozen_is_in_no_group():
    model = VisionTransformer(**SIZES)
    freeze(model)
    groups = layer_groups(model, 0.05, lr=1.0, layer_decay=0.5)
    learning = {id(p) for group in groups for p in group["params"]}
    assert learning == {*map(id, model.head.parameters())}


def test_a_model_without_layers_has_no_groups_of_them():
    net = ConvNet(in_channels=1, num_classes=2)
    with pytest.raises(ValueError, match="is for a vit or deit: ConvNet"):
        layer_groups(net, 0.05, lr=1.0, layer_decay=0.5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_balanced_classes_count_the_same(smoothing):
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    logits = torch.randn(10, 4, generator=torch.Generator().manual_seed(0)).double()
    loss_fn = balanced_cross_entropy(labels, 4)
    each = F.cross_entropy(logits, labels, reduction="none")
    by_class = [each[labels == label].mean() for label in range(3)]
    torch.testing.assert_close(
        loss_fn(logits, labels, None).double(), sum(by_class) / 4, rtol=1e-5, atol=0
    )
    # A batch in parts has the loss of the whole, whatever classes are in which.
    loss_fn = balanced_cross_entropy(labels, 4, smoothing)
    parts = 0.7 * loss_fn(logits[:7], labels[:7], None)
    parts += 0.3 * loss_fn(logits[7:], labels[7:], None)
    whole = loss_fn(logits, labels, None)
    torch.testing.assert_close(parts, whole)
    shares = F.one_hot(labels, 4).float()  # as of mixed images
    torch.testing.assert_close(loss_fn(logits, shares, None), whole)


def test_balanced_data_count_as_ever():
    labels = torch.arange(3).repeat(4)
    logits = torch.randn(12, 3, generator=torch.Generator().manual_seed(0))
    loss = balanced_cross_entropy(labels, 3, 0.1)(logits, labels, None)
    right = F.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(loss, right)
