"""DeiT: published sizes, equal to timm's, two tokens that learn different things."""

import json

import pytest
import torch
import torch.nn.functional as F
from timm.models.deit import VisionTransformerDistilled
from torch import nn

from vitutils.deit import DistilledVisionTransformer, average, token_similarity
from vitutils.engine.checkpoints import load_model, save_model
from vitutils.pretrained import TIMM, rename

SIZES = {
    "image_size": 32,
    "patch_size": 8,
    "num_classes": 7,
    "embed_dim": 24,
    "depth": 3,
    "num_heads": 3,
    "mlp_dim": 40,
}
close = torch.testing.assert_close


@pytest.fixture
def deit():
    torch.manual_seed(0)
    model = DistilledVisionTransformer(**SIZES)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


@pytest.fixture
def images():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_logits_equal_timm(deit, images):
    theirs = VisionTransformerDistilled(
        img_size=32,
        patch_size=8,
        num_classes=7,
        embed_dim=24,
        depth=3,
        num_heads=3,
        mlp_ratio=40 / 24,
    )
    state = {rename(key, TIMM): value for key, value in deit.state_dict().items()}
    theirs.load_state_dict(state)
    theirs.set_distilled_training(True)
    class_logits, distill_logits = deit.train()(images)
    for ours, expected in zip(
        (class_logits, distill_logits), theirs.train()(images), strict=True
    ):
        close(ours, expected, atol=1e-5, rtol=1e-5)
    mean = (class_logits + distill_logits) / 2  # timm averages logits
    close(mean, theirs.eval()(images), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "count"),
    [("tiny", 5_910_800), ("small", 22_436_432), ("base", 87_338_192)],
)
def test_parameter_counts_equal_the_published_ones(size, count):
    with torch.device("meta"):
        model = getattr(DistilledVisionTransformer, size)()
    assert sum(p.numel() for p in model.parameters()) == count


def test_eval_mode_averages_the_two_heads_probabilities(deit, images):
    pair = deit.train()(images)
    expected = (pair[0].softmax(dim=1) + pair[1].softmax(dim=1)) / 2
    close(deit.eval()(images).exp(), expected)
    # Probabilities too small for float32 do not become infinite losses.
    far = torch.tensor([[0.0, 200.0]])
    close(average(far, far), torch.tensor([[-200.0, 0.0]]))


@pytest.mark.parametrize("training", [True, False])
def test_weights_are_returned_when_asked_for_and_change_no_logit(
    deit, images, training
):
    output, weights = deit.train(training)(images, need_weights=True)
    close(output, deit(images), atol=1e-5, rtol=1e-5)
    assert [w.shape for w in weights] == 3 * [(4, 3, 18, 18)]


def test_tokens_stand_in_the_order_class_distillation_patches(deit, images):
    tokens = deit.embeddings(images) - deit.embeddings.pos_embed
    close(tokens[:, 0], deit.embeddings.class_token[0].expand(4, -1))
    close(tokens[:, 1], deit.embeddings.distill_token[0].expand(4, -1))
    patches = deit.embeddings.proj(images).flatten(2).transpose(1, 2)
    close(tokens[:, 2:], patches)


def test_each_head_reads_its_own_token(deit, images):
    class_logits, distill_logits = deit(images)
    gradient = torch.autograd.grad(
        class_logits.sum(), deit.head_dist.weight, allow_unused=True, retain_graph=True
    )
    assert gradient == (None,)
    with torch.no_grad():
        deit.head_dist.bias += 1
    again = deit(images)
    close(again[0], class_logits)
    close(again[1], distill_logits + 1)


def test_tokens_start_small_but_not_at_zero_or_alike():
    torch.manual_seed(0)
    embeddings = DistilledVisionTransformer(**SIZES | {"embed_dim": 240}).embeddings
    tokens = torch.cat((embeddings.class_token, embeddings.distill_token), dim=1)
    for values in (*tokens[0], embeddings.pos_embed):
        assert 0.015 < values.std() < 0.025
    assert not torch.equal(tokens[0, 0], tokens[0, 1])
    assert embeddings.pos_embed.shape == (1, 18, 240)


def test_both_heads_start_small_and_without_a_bias():
    torch.manual_seed(0)
    sizes = SIZES | {"embed_dim": 240, "num_classes": 20}
    model = DistilledVisionTransformer(**sizes)
    for head in (model.head, model.head_dist):
        assert head.weight.std().item() == pytest.approx(0.02, rel=0.1)
        assert not head.bias.any()


def test_without_weights_the_last_block_works_on_the_two_tokens_alone(deit, images):
    worked_on = []
    for block in deit.encoder.blocks:
        block.mlp.register_forward_hook(
            lambda module, args, out: worked_on.append(out.shape[1])
        )
    *_, weights = deit.both_heads(images)
    assert worked_on == [18, 18, 2] and weights == []


def test_it_saves_loads_and_rebuilds(deit, images, tmp_path):
    again = DistilledVisionTransformer(**json.loads(json.dumps(deit.config)))
    again.load_state_dict(deit.state_dict())
    close(again.eval()(images), deit.eval()(images))
    save_model(deit, tmp_path / "deit.safetensors")
    loaded = load_model(tmp_path / "deit.safetensors")
    assert type(loaded) is DistilledVisionTransformer
    assert torch.equal(loaded(images), deit(images))


def test_stochastic_depth_reaches_every_block_and_the_file(deit, images, tmp_path):
    skipping = DistilledVisionTransformer(**SIZES, stochastic_depth=0.4)
    skipping.load_state_dict(deit.state_dict())
    save_model(skipping, tmp_path / "deit.safetensors")
    loaded = load_model(tmp_path / "deit.safetensors")
    assert [block.skip.p for block in loaded.encoder.blocks] == [0, 0.2, 0.4]
    assert torch.equal(loaded(images), deit.eval()(images))


def test_similarity_of_the_tokens_by_layer(deit, images):
    deit.eval()
    similarity = token_similarity(deit, images)
    entering = deit.embeddings(images)
    leaving = entering
    for block in deit.encoder.blocks:
        leaving, _ = block(leaving)
    for value, tokens in ((similarity[0], entering), (similarity[-1], leaving)):
        expected = F.cosine_similarity(tokens[:, 0], tokens[:, 1], dim=1).mean()
        close(value, expected)
    assert similarity.shape == (4,)
    assert not similarity.requires_grad


def test_two_equal_tokens_stay_equal(deit, images):
    with torch.no_grad():
        embeddings = deit.embeddings
        embeddings.distill_token.copy_(embeddings.class_token)
        embeddings.pos_embed[:, 1] = embeddings.pos_embed[:, 0]
    close(token_similarity(deit.eval(), images), torch.ones(4))
