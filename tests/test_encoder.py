"""Block and Encoder equal PyTorch's and timm's."""

from itertools import product

import pytest
import torch
from timm.models.vision_transformer import Block as TimmBlock
from torch import nn
from torchvision.ops import StochasticDepth as TorchvisionStochasticDepth

from vitutils.encoder import Block, Encoder, StochasticDepth

SIZES = {"embed_dim": 12, "num_heads": 3, "mlp_dim": 20}
close = torch.testing.assert_close


def randomize(module):
    """Give every parameter, norms and biases too, a value of its own."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.double().eval()


def torch_layer(block):
    layer = (
        nn.TransformerEncoderLayer(
            12,
            3,
            20,
            dropout=0,
            activation="gelu",
            layer_norm_eps=1e-6,
            batch_first=True,
            norm_first=True,
        )
        .double()
        .eval()
    )
    names = {
        "self_attn.in_proj_": "attn.qkv.",
        "self_attn.out_proj.": "attn.proj.",
        "linear1.": "mlp.fc1.",
        "linear2.": "mlp.fc2.",
        "norm1.": "norm1.",
        "norm2.": "norm2.",
    }
    state = block.state_dict()
    layer.load_state_dict(
        {
            theirs + kind: state[ours + kind]
            for theirs, ours in names.items()
            for kind in ("weight", "bias")
        }
    )
    return layer


@pytest.fixture
def x():
    torch.manual_seed(1)
    return torch.randn(2, 5, 12, dtype=torch.float64, requires_grad=True)


def test_block_equals_torch_and_timm(x):
    block = randomize(Block(**SIZES))
    timm = TimmBlock(12, 3, mlp_ratio=20 / 12, qkv_bias=True)
    timm.norm1.eps = timm.norm2.eps = 1e-6
    timm.load_state_dict(block.state_dict())  # the very same names
    output, weights = block(x)
    assert weights is None
    close(output, torch_layer(block)(x))
    close(output, timm.double().eval()(x))
    close(block(x, need_weights=True)[0], output)


def test_encoder_equals_torch(x):
    encoder = randomize(Encoder(depth=3, **SIZES))
    layers = [torch_layer(block) for block in encoder.blocks]
    expected = x
    for layer in layers:
        expected = layer(expected)
    expected = encoder.norm(expected)
    output, weights = encoder(x)
    assert weights == []
    close(output, expected)


def test_encoder_returns_the_weights_of_each_block(x):
    encoder = randomize(Encoder(depth=3, **SIZES))
    output, weights = encoder(x, need_weights=True)
    close(output, encoder(x)[0])
    assert [w.shape for w in weights] == 3 * [(2, 3, 5, 5)]
    hidden = x
    for block, have in zip(encoder.blocks, weights, strict=True):
        want = block.attn(block.norm1(hidden), need_weights=True)[1]
        close(have, want)
        hidden = block(hidden)[0]


@pytest.mark.parametrize("outputs", [1, 2, 5])
def test_tokens_that_are_not_asked_for_change_nothing_but_the_work(x, outputs):
    encoder = randomize(Encoder(depth=3, **SIZES))
    whole, all_weights = encoder(x, need_weights=True)
    worked_on = []
    encoder.blocks[-1].mlp.register_forward_hook(
        lambda module, args, out: worked_on.append(out.shape[1])
    )
    part, weights = encoder(x, num_outputs=outputs, need_weights=True)
    close(part, whole[:, :outputs])
    close(weights, all_weights)
    close(encoder(x, num_outputs=outputs)[0], whole[:, :outputs])
    assert worked_on == [x.shape[1], outputs]


def test_a_block_that_stands_in_a_stack_several_times_is_the_last_one_once(x):
    encoder = randomize(Encoder(depth=1, **SIZES))
    encoder.blocks = nn.ModuleList([encoder.blocks[0]] * 3)
    close(encoder(x, num_outputs=1)[0], encoder(x)[0][:, :1])


def test_blocks_share_no_weights_and_start_apart():
    encoder = Encoder(depth=3, **SIZES)
    first, second = encoder.blocks[0], encoder.blocks[1]
    assert first.mlp.fc1.weight.data_ptr() != second.mlp.fc1.weight.data_ptr()
    assert not torch.equal(first.mlp.fc1.weight, second.mlp.fc1.weight)


def test_norms_use_the_papers_epsilon():
    norms = [m for m in Encoder(depth=1, **SIZES).modules() if type(m) is nn.LayerNorm]
    assert [norm.eps for norm in norms] == [1e-6] * 3


@pytest.mark.parametrize(("rate", "given"), [(0.0, {}), (0.9, {"dropout": 0.9})])
def test_dropout_reaches_both_branches_of_each_block(rate, given):
    blocks = Block(**SIZES, **given), *Encoder(depth=2, **SIZES, **given).blocks
    for block in blocks:
        drops = [m.p for m in block.modules() if isinstance(m, nn.Dropout)]
        assert drops == [rate, rate]


def test_stochastic_depth_zero_draws_and_changes_nothing(x):
    encoder = randomize(Encoder(depth=3, **SIZES, stochastic_depth=0.0))
    before = torch.get_rng_state()
    close(encoder.train()(x)[0], encoder.eval()(x)[0], atol=0, rtol=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_stochastic_depth_is_for_training_alone(x):
    plain = randomize(Encoder(depth=3, **SIZES))
    skipping = randomize(Encoder(depth=3, **SIZES, stochastic_depth=0.9))
    close(skipping(x)[0], plain(x)[0], atol=0, rtol=0)
    torch.manual_seed(0)
    assert not torch.allclose(skipping.train()(x)[0], plain(x)[0])


def test_in_training_whole_images_skip_attention_or_mlp(x):
    block = randomize(Block(**SIZES, stochastic_depth=0.25)).train()
    x = x[:1].detach()
    output, _ = block(x.expand(1000, -1, -1))
    shares = []
    for attends, works in product((0, 4 / 3), repeat=2):  # 4 / 3 = 1 / (1 - 0.25)
        hidden = x + attends * block.attn(block.norm1(x))[0]
        expected = hidden + works * block.mlp(block.norm2(hidden))
        same = (output - expected).abs().amax(dim=(1, 2)) < 1e-9
        shares.append(same.double().mean().item())
    assert sum(shares) == pytest.approx(1)
    assert shares == pytest.approx([1 / 16, 3 / 16, 3 / 16, 9 / 16], abs=0.05)


@pytest.mark.parametrize("p", [0.0, 0.1, 0.7, 1.0])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(50, 5, 12), (50, 3, 8, 8), (1, 4)])
def test_stochastic_depth_is_torchvisions_to_the_bit(p, training, shape):
    branch, found = torch.randn(shape, requires_grad=True), []
    for skip in (StochasticDepth(p), TorchvisionStochasticDepth(p, mode="row")):
        torch.manual_seed(3)
        output = skip.train(training)(branch)
        (gradient,) = torch.autograd.grad(output.square().sum(), branch)
        found.append((output, gradient, torch.rand(1)))  # as many draws, too
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)


def test_at_rate_one_every_image_skips(x):
    block = Block(**SIZES, stochastic_depth=1.0).double().train()
    close(block(x)[0], x)


@pytest.mark.parametrize(
    ("depth", "rates"), [(1, [0]), (2, [0, 0.2]), (5, [0, 0.05, 0.1, 0.15, 0.2])]
)
def test_stochastic_depth_grows_linearly_from_zero(depth, rates):
    encoder = Encoder(depth=depth, **SIZES, stochastic_depth=0.2)
    assert [block.skip.p for block in encoder.blocks] == pytest.approx(rates)
    always = Encoder(depth=depth, **SIZES, stochastic_depth=1.0)
    assert always.blocks[-1].skip.p == (depth > 1)


def test_by_default_no_image_skips():
    blocks = Block(**SIZES), *Encoder(depth=2, **SIZES).blocks
    assert [block.skip.p for block in blocks] == [0, 0, 0]


@pytest.mark.parametrize("depth", [1, 4])
@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_rates_of_stochastic_depth_outside_zero_to_one_are_named(depth, rate):
    with pytest.raises(ValueError, match=f"stochastic_depth {rate} is not in"):
        Encoder(depth=depth, **SIZES, stochastic_depth=rate)
