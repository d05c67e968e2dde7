"""The MLP equals torchvision's and works on each token alone."""

import torch
from torch import nn
from torchvision.ops import MLP as TorchvisionMLP

from vitutils.mlp import MLP


def test_equals_torchvision():
    torch.manual_seed(0)
    ours = MLP(embed_dim=6, mlp_dim=24, dropout=0.3)
    theirs = TorchvisionMLP(
        6, [24, 6], activation_layer=nn.GELU, inplace=None, dropout=0.3
    )
    theirs[0].load_state_dict(ours.fc1.state_dict())
    theirs[3].load_state_dict(ours.fc2.state_dict())
    x = torch.randn(2, 5, 6)
    torch.manual_seed(1)  # the same features are dropped
    out = ours(x)
    torch.manual_seed(1)
    torch.testing.assert_close(out, theirs(x))


def test_a_token_changes_only_its_own_output():
    mlp = MLP(embed_dim=6, mlp_dim=24)
    x = torch.randn(1, 5, 6)
    y = x.clone()
    y[0, 3] += 1
    changed = (mlp(x) != mlp(y)).any(dim=-1)[0]
    assert changed.tolist() == [False, False, False, True, False]


def test_dropout_comes_after_each_layer_in_training_alone():
    torch.manual_seed(0)
    mlp = MLP(embed_dim=100, mlp_dim=100, dropout=0.5)
    hidden, x = [], torch.randn(50, 100)
    mlp.fc2.register_forward_pre_hook(lambda module, args: hidden.append(args[0]))
    for features in (mlp.train()(x), *hidden):
        assert 0.4 < (features == 0).float().mean() < 0.6
    assert torch.equal(mlp.eval()(x), mlp(x))
