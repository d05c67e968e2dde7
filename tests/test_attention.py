"""Attention equals PyTorch's, its masks hold, and wrong arguments say so."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vitutils import attention
from vitutils.attention import MultiHeadAttention, ScaledDotProductAttention

close = torch.testing.assert_close


def qkv(*shape, queries=5, keys=7, width=8, value_width=6, dtype=torch.float64):
    torch.manual_seed(0)
    q = torch.randn(*shape, queries, width, dtype=dtype, requires_grad=True)
    k = torch.randn(*shape, keys, width, dtype=dtype, requires_grad=True)
    v = torch.randn(*shape, keys, value_width, dtype=dtype, requires_grad=True)
    return q, k, v


def some_mask(*shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[..., 0] = True  # no empty row
    return mask


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_torch_in_output_and_gradients(shape, masked):
    inputs = qkv(*shape)
    mask = some_mask(*shape, 5, 7) if masked else None
    output, weights = ScaledDotProductAttention()(*inputs, mask)
    expected = F.scaled_dot_product_attention(*inputs, attn_mask=mask)
    assert weights.shape == (*shape, 5, 7)
    close(output, expected)
    close(weights.sum(-1), torch.ones(*shape, 5, dtype=torch.float64))
    direction = torch.randn_like(expected)
    ours = torch.autograd.grad(output, inputs, direction)
    theirs = torch.autograd.grad(expected, inputs, direction)
    close(ours, theirs)


def test_a_masked_key_has_no_say():
    q, k, v = qkv(2)
    mask = some_mask(5, 7)
    mask[:, 3] = False
    output, weights = ScaledDotProductAttention()(q, k, v, mask)
    assert (weights[..., 3] == 0).all()
    v2 = v.detach().clone()
    v2[:, 3] = 1e6
    assert torch.equal(output, ScaledDotProductAttention()(q, k, v2, mask)[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_row_without_keys_gives_zeros_and_finite_gradients(dtype):
    inputs = qkv(2, 3, dtype=dtype)
    mask = some_mask(5, 7)
    mask[2] = False
    output, weights = ScaledDotProductAttention()(*inputs, mask)
    assert (output[..., 2, :] == 0).all()
    assert (weights[..., 2, :] == 0).all()
    assert output.isfinite().all()
    for gradient in torch.autograd.grad(output.float().sum(), inputs):
        assert gradient.isfinite().all()


def test_a_mask_that_is_not_bool_is_refused():
    with pytest.raises(ValueError, match=r"torch\.float32, expected torch\.bool"):
        ScaledDotProductAttention()(*qkv(2), torch.ones(5, 7))


@pytest.mark.parametrize("shape", [(7, 5), (5, 6), (3, 5, 7), (1, 2, 5, 7)])
def test_a_mask_of_the_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"mask of shape .* \(2, 5, 7\)"):
        ScaledDotProductAttention()(*qkv(2), torch.ones(shape, dtype=torch.bool))


def pair_of_modules(embed_dim=12, num_heads=3):
    """Ours and torch's with the same weights, biases that are not zero."""
    torch.manual_seed(0)
    theirs = nn.MultiheadAttention(embed_dim, num_heads, batch_first=True).double()
    nn.init.normal_(theirs.in_proj_bias)
    nn.init.normal_(theirs.out_proj.bias)
    ours = MultiHeadAttention(embed_dim=embed_dim, num_heads=num_heads).double()
    with torch.no_grad():
        ours.qkv.weight.copy_(theirs.in_proj_weight)
        ours.qkv.bias.copy_(theirs.in_proj_bias)
    ours.proj.load_state_dict(theirs.out_proj.state_dict())
    return ours, theirs


MASKS = {
    "none": None,
    "one for all": some_mask(6, 6),
    "one an image": some_mask(4, 6, 6),
    "keys of each image": some_mask(4, 1, 6),
    "one a head": some_mask(4, 3, 6, 6),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("need_weights", [False, True])
def test_equals_torch_multihead_attention(name, need_weights):
    ours, theirs = pair_of_modules()
    mask = MASKS[name]
    x = torch.randn(4, 6, 12, dtype=torch.float64, requires_grad=True)
    blocked = None
    if mask is not None:  # True blocks there, and heads lie beside the batch
        full = mask[:, None] if mask.ndim == 3 else mask
        blocked = ~full.expand(4, 3, 6, 6).reshape(12, 6, 6)
    expected, expected_weights = theirs(
        x, x, x, attn_mask=blocked, average_attn_weights=False
    )
    output, weights = ours(x, mask=mask, need_weights=need_weights)
    close(output, expected)
    if need_weights:
        close(weights, expected_weights)
    else:
        assert weights is None
    direction = torch.randn_like(x)
    close(
        torch.autograd.grad(output, x, direction),
        torch.autograd.grad(expected, x, direction),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", MASKS)
def test_both_kernels_agree(monkeypatch, name, dtype):
    ours = pair_of_modules()[0].to(dtype)
    x = torch.randn(4, 6, 12, dtype=dtype)
    outputs, explicitly = [], []
    ours.attention.register_forward_hook(lambda *_: explicitly.append(len(outputs)))
    for explicit in (True, False):
        monkeypatch.setattr(attention, "choose_explicit", lambda k, e=explicit: e)
        outputs.append(ours(x, mask=MASKS[name])[0])
    assert explicitly == [0]  # the first of the two
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    close(*outputs, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("asking", [1, 2, 6])
def test_tokens_that_ask_their_own_context_get_what_all_together_get(
    monkeypatch, explicit, name, asking
):
    monkeypatch.setattr(attention, "choose_explicit", lambda k: explicit)
    ours, _ = pair_of_modules()
    x = torch.randn(4, 6, 12, dtype=torch.float64)
    mask = MASKS[name]
    whole, all_weights = ours(x, mask=mask, need_weights=True)
    if mask is not None:
        mask = mask.expand(*mask.shape[:-2], 6, 6)[..., :asking, :]
    part, weights = ours(x[:, :asking], x, mask=mask, need_weights=True)
    close(part, whole[:, :asking])
    close(weights, all_weights[:, :, :asking])
    close(ours(x[:, :asking], x, mask=mask)[0], part)


@pytest.mark.parametrize("explicit", [True, False])
def test_cross_attention_equals_torchs(monkeypatch, explicit):
    monkeypatch.setattr(attention, "choose_explicit", lambda k: explicit)
    ours, theirs = pair_of_modules()
    x = torch.randn(4, 3, 12, dtype=torch.float64, requires_grad=True)
    context = torch.randn(4, 6, 12, dtype=torch.float64, requires_grad=True)
    mask = some_mask(3, 6)
    expected, _ = theirs(x, context, context, attn_mask=~mask)
    output, weights = ours(x, context, mask=mask)
    assert weights is None  # nobody asked for them
    close(output, expected)
    direction = torch.randn_like(output)
    wanted = (x, context, *ours.parameters())
    same = (x, context, *theirs.parameters())
    found = torch.autograd.grad(output, wanted, direction)
    for gradient in torch.autograd.grad(expected, same, direction):
        assert any(
            gradient.shape == g.shape and torch.allclose(gradient, g) for g in found
        )


@pytest.mark.parametrize("need_weights", [True, False])
def test_a_mask_must_fit_the_tokens_that_ask_and_those_that_are_asked(need_weights):
    ours, _ = pair_of_modules()
    x = torch.randn(4, 3, 12, dtype=torch.float64)
    context = torch.randn(4, 6, 12, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"\(6, 3\) does not broadcast"):
        ours(x, context, mask=some_mask(6, 3), need_weights=need_weights)


@pytest.mark.parametrize("explicit", [True, False])
def test_an_image_without_visible_keys_gets_the_bias_not_nan(monkeypatch, explicit):
    monkeypatch.setattr(attention, "choose_explicit", lambda k: explicit)
    ours, _ = pair_of_modules()
    mask = torch.ones(4, 1, 6, dtype=torch.bool)
    mask[2] = False
    output, _ = ours(torch.randn(4, 6, 12, dtype=torch.float64), mask=mask)
    close(output[2], ours.proj.bias.expand(6, 12))


def test_a_kernel_that_mixes_values_without_any_key_is_put_right(monkeypatch):
    """torch's kernels for 16 bits did so on an H200: see tests/test_cuda.py."""
    kernel = F.scaled_dot_product_attention

    def mixes(q, k, v, *, attn_mask):
        return kernel(q, k, v, attn_mask=attn_mask | ~attn_mask.any(-1, keepdim=True))

    monkeypatch.setattr(F, "scaled_dot_product_attention", mixes)
    monkeypatch.setattr(attention, "choose_explicit", lambda k: False)
    ours, _ = pair_of_modules()
    x = torch.randn(4, 6, 12, dtype=torch.float64)
    mask = some_mask(4, 6, 6)
    mask[2, 3] = False
    found, _ = ours(x, mask=mask)
    explicit, _ = ours(x, mask=mask, need_weights=True)
    close(found, explicit)
    close(found[2, 3], ours.proj.bias)


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_wrong_masks_are_refused_by_every_path(monkeypatch, explicit, need_weights):
    monkeypatch.setattr(attention, "choose_explicit", lambda k: explicit)
    ours, _ = pair_of_modules()
    x = torch.randn(4, 6, 12, dtype=torch.float64)
    wrong = [torch.ones(6, 5, dtype=torch.bool), torch.ones(3, 6, 6, dtype=torch.bool)]
    for mask in wrong:
        with pytest.raises(ValueError, match="does not broadcast"):
            ours(x, mask=mask, need_weights=need_weights)
    with pytest.raises(ValueError, match=r"expected torch\.bool"):
        ours(x, mask=torch.ones(6, 6), need_weights=need_weights)


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"3 heads do not divide embed_dim 10"):
        MultiHeadAttention(embed_dim=10, num_heads=3)


def test_dropout_comes_after_the_projection_and_spares_the_weights():
    torch.manual_seed(0)
    layer = MultiHeadAttention(embed_dim=12, num_heads=3, dropout=0.5).train()
    output, weights = layer(torch.randn(50, 6, 12), need_weights=True)
    close(weights.sum(-1), torch.ones(50, 3, 6))
    assert 0.4 < (output == 0).float().mean() < 0.6


def test_without_weights_no_map_is_kept_for_the_backward_pass(monkeypatch):
    """In fp32 the fused kernel saves no tensor of N x N entries."""
    layer = MultiHeadAttention(embed_dim=8, num_heads=2)
    x = torch.randn(2, 100, 8)
    saved = []

    def pack(tensor):
        saved.append(tensor.shape[-2:])
        return tensor

    for need_weights in (True, False):
        saved.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            layer(x, need_weights=need_weights)
        assert ((100, 100) in saved) == need_weights


@pytest.mark.parametrize(
    ("dtype", "device", "training", "explicit"),
    [
        (torch.float32, "cpu", True, False),
        (torch.bfloat16, "cpu", True, True),
        (torch.bfloat16, "cpu", False, False),
        (torch.bfloat16, "meta", True, False),
    ],
)
def test_the_explicit_product_is_chosen_to_train_in_bf16_on_cpus(
    dtype, device, training, explicit
):
    k = torch.empty(1, 1, 5, 8, dtype=dtype, device=device, requires_grad=training)
    assert attention.choose_explicit(k) == explicit


def test_heads_do_not_mix():
    """Head i reads and writes its own slice of the width, and no other."""
    layer = MultiHeadAttention(embed_dim=6, num_heads=3).double()
    nn.init.eye_(layer.proj.weight)
    nn.init.zeros_(layer.proj.bias)
    x = torch.randn(1, 4, 6, dtype=torch.float64)
    before = layer(x)[0]
    with torch.no_grad():  # rows 2 and 3 of q, k and v belong to head 1
        for part, row in itertools.product(range(3), (2, 3)):
            layer.qkv.weight[6 * part + row] *= 2
    changed = (layer(x)[0] != before).any(dim=1)[0]
    assert changed.tolist() == [False, False, True, True, False, False]
