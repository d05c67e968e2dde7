"""What a model attends to: computed by hand, and the model left as it was."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from vitutils.maps import (
    attention_maps,
    attention_relevance,
    attention_rollout,
    attention_weights,
)
from vitutils.vit import VisionTransformer

SIZES = {
    "image_size": (8, 12),
    "patch_size": (4, 3),
    "in_channels": 1,
    "num_classes": 5,
    "embed_dim": 12,
    "depth": 3,
    "num_heads": 2,
    "mlp_dim": 8,
}
ROWS, COLUMNS = 2, 4


class Fake(nn.Module):
    """A model that attends as it is told: `first` tokens, then the patches."""

    def __init__(self, weights, grid, fails=False):
        super().__init__()
        self.weights, self.fails = weights, fails
        self.scale = nn.Parameter(torch.ones(()))
        self.embeddings = SimpleNamespace(grid=grid, num_patches=grid[0] * grid[1])

    def forward(self, images, need_weights=False):
        if self.fails:
            raise RuntimeError("out of memory")
        if self.training:
            raise AssertionError("run in training mode")
        weights = [w[: len(images)] * self.scale for w in self.weights]
        return (None, weights) if need_weights else None


def softmaxed(*shape, seed=0):
    noise = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return (2 * noise).softmax(dim=-1)


def blank(*shape):
    return torch.zeros(shape)


@pytest.fixture
def vit():
    torch.manual_seed(0)
    model = VisionTransformer(**SIZES)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture
def images():
    return torch.randn(3, 1, 8, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=[1, 2], ids=["vit", "deit"])
def fake(request):
    """Two layers of two heads on a grid of 2 x 3, with one or two first tokens."""
    n = request.param + 6
    weights = [softmaxed(2, 2, n, n, seed=layer) for layer in (0, 1)]
    return Fake(weights, (2, 3))


# ---- the model is left as it was found ----


def test_weights_are_those_of_eval_mode(vit, images):
    weights = attention_weights(vit, images)
    expected = vit(images, need_weights=True)[1]
    assert [w.shape for w in weights] == 3 * [(3, 2, 9, 9)]
    for ours, theirs in zip(weights, expected, strict=True):
        assert torch.equal(ours, theirs) and not ours.requires_grad


@pytest.mark.parametrize(
    "look", [attention_weights, attention_maps, attention_rollout, attention_relevance]
)
def test_the_model_is_left_as_found(look, images):
    torch.manual_seed(0)
    model = VisionTransformer(**SIZES, dropout=0.5).train()
    model.encoder.blocks[0].eval().requires_grad_(False)  # frozen in part
    model.head.weight.grad = torch.ones_like(model.head.weight)
    modes = {name: module.training for name, module in model.named_modules()}
    assert set(modes.values()) == {True, False}
    needed = {name: p.requires_grad for name, p in model.named_parameters()}
    state, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()

    first, second = look(model, images), look(model, images)

    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert modes == {n: module.training for n, module in model.named_modules()}
    assert needed == {n: p.requires_grad for n, p in model.named_parameters()}
    grads = {n for n, p in model.named_parameters() if p.grad is not None}
    assert grads == {"head.weight"} and (model.head.weight.grad == 1).all()
    assert all(torch.equal(state[n], v) for n, v in model.state_dict().items())
    assert torch.equal(random, torch.get_rng_state())
    assert torch.is_grad_enabled()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_the_mode_comes_back_when_the_model_fails():
    model = Fake([], (1, 1), fails=True).train()
    with pytest.raises(RuntimeError, match="out of memory"):
        attention_weights(model, torch.zeros(1, 1, 1, 1))
    assert model.training


def test_images_follow_the_model_to_its_device(images):
    with torch.device("meta"):
        model = VisionTransformer(**SIZES)
    looks = (attention_maps, attention_rollout, attention_relevance)
    results = [look(model, images) for look in looks]
    assert [r.shape for r in results] == 3 * [(3, ROWS, COLUMNS)]
    assert {r.device.type for r in results} == {"meta"}


# ---- maps ----


@pytest.mark.parametrize("head", [None, 0, 1, -1])
@pytest.mark.parametrize("layer", [0, 1, -1])
@pytest.mark.parametrize("query", [0, 1, 4, -1])
def test_a_map_is_a_row_of_the_weights(fake, layer, head, query):
    maps = attention_maps(
        fake.train(), blank(2, 3, 4, 6), layer=layer, head=head, query=query
    )
    assert maps.shape == (2, 2, 3)
    first = fake.weights[0].shape[-1] - 6
    heads = [0, 1] if head is None else [head]
    for image in range(2):
        for place in range(6):
            of_heads = [
                fake.weights[layer][image, h, query, first + place] for h in heads
            ]
            expected = sum(of_heads) / len(of_heads)
            drawn = maps[image, place // 3, place % 3]
            assert drawn.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_map_lacks_what_went_to_the_class_token(vit, images):
    maps = attention_maps(vit, images, layer=1, head=0)
    kept = attention_weights(vit, images)[1][:, 0, 0, 0]
    torch.testing.assert_close(maps.sum(dim=(1, 2)), 1 - kept)
    assert (kept > 0.01).all()


def test_the_default_is_the_class_token_in_the_last_layer(vit, images):
    expected = attention_maps(vit, images, layer=2, query=0)
    assert torch.equal(attention_maps(vit, images), expected)
    assert not torch.equal(attention_maps(vit, images, layer=0), expected)


# ---- rollout ----


@pytest.mark.parametrize("query", [0, 1, 5])
def test_rollout_by_hand(fake, query):
    """Each path from the query to a patch: a token in the layer between."""
    rollout = attention_rollout(fake.train(), blank(2, 3, 4, 6), query=query)
    n = fake.weights[0].shape[-1]

    def share(layer, image, to, of):
        heads = fake.weights[layer][image, :, to, of]
        return 0.5 * heads.mean().item() + 0.5 * (to == of)

    for image in range(2):
        for place in range(6):
            patch = n - 6 + place
            expected = sum(
                share(1, image, query, between) * share(0, image, between, patch)
                for between in range(n)
            )
            drawn = rollout[image, place // 3, place % 3]
            assert drawn.item() == pytest.approx(expected, rel=1e-5)


def test_rollout_of_one_layer_is_half_its_attention(vit, images):
    vit.encoder.blocks = vit.encoder.blocks[:1]
    expected = attention_maps(vit, images) / 2
    torch.testing.assert_close(attention_rollout(vit, images), expected)


def test_rollout_without_attention_to_others_stays_where_it_is():
    model = Fake([torch.eye(7).expand(1, 2, 7, 7)] * 3, (2, 3))
    expected = torch.zeros(1, 2, 3)
    expected[0, 1, 0] = 1
    images = blank(1, 3, 4, 6)
    torch.testing.assert_close(attention_rollout(model, images, query=4), expected)
    assert not attention_rollout(model, images, query=0).any()


# ---- relevance ----


class Scored(Fake):
    """Its logits are sums of its weights, times what the test says: the gradients."""

    def __init__(self, weights, gradients, grid):
        super().__init__(weights, grid)
        self.gradients = gradients  # one (K, B, h, N, N) a layer

    def forward(self, images, need_weights=False):
        _, weights = super().forward(images, need_weights=True)
        pairs = zip(self.gradients, weights, strict=True)
        logits = sum((g * w).sum(dim=(-3, -2, -1)) for g, w in pairs).T  # (B, K)
        return logits, weights


@pytest.mark.parametrize("query", [0, 1, 5])
@pytest.mark.parametrize("first", [1, 2], ids=["vit", "deit"])
def test_relevance_by_hand(first, query):
    """The identity, each layer alone, and each path through both layers."""
    n, noise = first + 6, torch.Generator().manual_seed(3)
    weights = [softmaxed(2, 2, n, n, seed=layer) for layer in (0, 1)]
    gradients = [torch.randn(4, 2, 2, n, n, generator=noise) for _ in weights]
    model, images = Scored(weights, gradients, (2, 3)).train(), blank(2, 3, 4, 6)
    classes = torch.tensor([3, 1])
    relevance = attention_relevance(model, images, classes=classes, query=query)

    def gain(layer, image, to, of):
        total = 0
        for head in (0, 1):
            at = (image, head, to, of)
            slope = gradients[layer][classes[image]][at].item()
            total += max(slope * weights[layer][at].item(), 0)
        return total / 2

    for image in range(2):
        for place in range(6):
            patch = first + place
            expected = (query == patch) + sum(
                gain(layer, image, query, patch) for layer in (0, 1)
            )
            for between in range(n):
                expected += gain(1, image, query, between) * gain(
                    0, image, between, patch
                )
            found = relevance[image, place // 3, place % 3].item()
            assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_relevance_is_that_of_a_backward_pass_image_by_image(vit, images):
    classes = torch.tensor([4, 0, 2])
    found = attention_relevance(vit, images, classes=classes)
    for image, wanted, ours in zip(images, classes, found, strict=True):
        logits, weights = vit(image[None], need_weights=True)
        for layer in weights:
            layer.retain_grad()
        logits[0, wanted].backward()
        theirs = torch.eye(9)
        for layer in weights:
            theirs = theirs + (layer * layer.grad).relu()[0].mean(dim=0) @ theirs
        torch.testing.assert_close(ours.flatten(), theirs[0, 1:].detach())


def test_relevance_asks_for_the_predicted_class_unless_told(vit, images):
    predicted = vit(images).argmax(dim=1)
    found = attention_relevance(vit, images)
    assert torch.equal(found, attention_relevance(vit, images, classes=predicted))
    other = attention_relevance(vit, images, classes=(predicted + 1) % 5)
    assert not torch.allclose(found, other) and (found >= 0).all()


def test_relevance_of_a_frozen_model_without_gradients(vit, images):
    expected = attention_relevance(vit, images)
    vit.requires_grad_(False)
    with torch.no_grad():
        found = attention_relevance(vit, images)
    assert torch.equal(found, expected)
    assert not found.requires_grad and not images.requires_grad


# ---- wrong arguments ----


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: attention_maps(m, x, layer=3), "layer 3 is not between -3 and 2"),
        (lambda m, x: attention_maps(m, x, layer=-4), "layer -4"),
        (lambda m, x: attention_maps(m, x, head=2), "head 2 is not between -2 and 1"),
        (lambda m, x: attention_maps(m, x, query=9), "query 9 is not between -9 and 8"),
        (lambda m, x: attention_rollout(m, x, query=-10), "query -10"),
        (lambda m, x: attention_relevance(m, x, query=9), "query 9"),
    ],
)
def test_what_is_not_there_is_named(vit, images, call, message):
    with pytest.raises(IndexError, match=f"^{message}"):
        call(vit, images)
