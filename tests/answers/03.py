# %% 1 right: by trying
def tokens_of_equal_cost(embed_dim, mlp_dim):
    n = 1
    while 4 * embed_dim**2 + 2 * n * embed_dim < 2 * embed_dim * mlp_dim:
        n += 1
    return n


# %% 1 right: a float, from operations
def tokens_of_equal_cost(embed_dim, mlp_dim):
    of_mlp, of_matrices, of_products = 4 * embed_dim * mlp_dim, 8 * embed_dim**2, 4
    return (of_mlp - of_matrices) / (of_products * embed_dim)


# %% 1 wrong: one of the two products
def tokens_of_equal_cost(embed_dim, mlp_dim):
    return 2 * (mlp_dim - 2 * embed_dim)


# %% 1 wrong: the MLP is four times as wide
def tokens_of_equal_cost(embed_dim, mlp_dim):
    return 2 * embed_dim


# %% 1 wrong: below zero
def tokens_of_equal_cost(embed_dim, mlp_dim):
    return 2 * embed_dim - mlp_dim


# %% 1 wrong: hard-coded
def tokens_of_equal_cost(embed_dim, mlp_dim):
    return 1536


# %% 2 right: three units, as in the chapter
def multiplier():
    mlp = MLP(embed_dim=2, mlp_dim=4)
    s = 0.1
    c = math.sqrt(math.pi / 2) / s**2
    with torch.no_grad():
        for p in mlp.parameters():
            p.zero_()
        mlp.fc1.weight[:3] = s * torch.tensor([[1.0, 1], [1, 0], [0, 1]])
        mlp.fc2.weight[0, :3] = c * torch.tensor([1.0, -1, -1])
    return mlp


# %% 2 right: data, other order, smaller
def multiplier():
    mlp = MLP(embed_dim=2, mlp_dim=4)
    s = 0.03
    mlp.fc1.bias.data.fill_(0)
    mlp.fc2.bias.data.fill_(0)
    mlp.fc1.weight.data = s * torch.tensor([[1.0, -1], [1, 1], [-1, 1], [-1, -1]])
    signs = torch.tensor([[-1.0, 1, -1, 1], [0, 0, 0, 0]])
    mlp.fc2.weight.data = signs * (math.pi / 2) ** 0.5 / (2 * s) ** 2
    return mlp


# %% 2 wrong: not near zero
def multiplier():
    mlp = MLP(embed_dim=2, mlp_dim=4)
    c = math.sqrt(math.pi / 2) / 4
    with torch.no_grad():
        mlp.fc1.bias.zero_()
        mlp.fc2.bias.zero_()
        mlp.fc1.weight.copy_(torch.tensor([[1.0, 1], [-1, -1], [1, -1], [-1, 1]]))
        mlp.fc2.weight.copy_(torch.tensor([[c, c, -c, -c], [0, 0, 0, 0]]))
    return mlp


# %% 2 wrong: the product in both outputs
def multiplier():
    mlp = MLP(embed_dim=2, mlp_dim=4)
    s = 0.1
    c = math.sqrt(math.pi / 2) / (4 * s**2)
    with torch.no_grad():
        mlp.fc1.bias.zero_()
        mlp.fc2.bias.zero_()
        mlp.fc1.weight.copy_(s * torch.tensor([[1.0, 1], [-1, -1], [1, -1], [-1, 1]]))
        mlp.fc2.weight.copy_(torch.tensor([[c, c, -c, -c], [c, c, -c, -c]]))
    return mlp


# %% 2 wrong: another forward
def multiplier():
    mlp = MLP(embed_dim=2, mlp_dim=4)
    mlp.forward = lambda ab: torch.stack((ab.prod(dim=1), 0 * ab[:, 0]), dim=1)
    return mlp


# %% 2 wrong: hard-coded
def multiplier():
    return lambda ab: torch.stack((ab.prod(dim=1), 0 * ab[:, 0]), dim=1)


# %% 3 right: by state
def as_convolution(mlp):
    hidden, width = mlp.fc1.weight.shape
    conv = nn.Sequential(
        nn.Conv2d(width, hidden, kernel_size=1),
        nn.GELU(),
        nn.Conv2d(hidden, width, kernel_size=1),
    )
    for i, fc in ((0, mlp.fc1), (2, mlp.fc2)):
        state = {"weight": fc.weight.view(*fc.weight.shape, 1, 1), "bias": fc.bias}
        conv[i].load_state_dict(state)
    return conv


# %% 3 right: with the MLP's own activation and no gradient
@torch.no_grad()
def as_convolution(mlp):
    first = nn.Conv2d(mlp.fc1.in_features, mlp.fc1.out_features, (1, 1))
    last = nn.Conv2d(mlp.fc2.in_features, mlp.fc2.out_features, (1, 1))
    first.weight.copy_(mlp.fc1.weight.unsqueeze(-1).unsqueeze(-1))
    last.weight.copy_(mlp.fc2.weight.unsqueeze(-1).unsqueeze(-1))
    first.bias.copy_(mlp.fc1.bias)
    last.bias.copy_(mlp.fc2.bias)
    return nn.Sequential(first, mlp.act, last)


# %% 3 wrong: the weights are not carried over
def as_convolution(mlp):
    D, M = mlp.fc1.in_features, mlp.fc1.out_features
    return nn.Sequential(nn.Conv2d(D, M, 1), nn.GELU(), nn.Conv2d(M, D, 1))


# %% 3 wrong: no activation
def as_convolution(mlp):
    convs = []
    for fc in (mlp.fc1, mlp.fc2):
        conv = nn.Conv2d(fc.in_features, fc.out_features, 1)
        conv.weight.data = fc.weight.data[:, :, None, None]
        conv.bias.data = fc.bias.data
        convs.append(conv)
    return nn.Sequential(*convs)


# %% 3 wrong: layers in the wrong order
def as_convolution(mlp):
    D, M = mlp.fc1.in_features, mlp.fc1.out_features
    return nn.Sequential(nn.Conv2d(M, D, 1), nn.GELU(), nn.Conv2d(D, M, 1))


# %% 3 wrong: the MLP itself beside an unused convolution
class Moved(nn.Module):
    def __init__(self, mlp):
        super().__init__()
        self.mlp, self.conv = mlp, nn.Conv2d(1, 1, 1)

    def forward(self, x):
        return self.mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def as_convolution(mlp):
    return Moved(mlp)


# %% 3 wrong: a weight that is no parameter
def as_convolution(mlp):
    convs = []
    for fc in (mlp.fc1, mlp.fc2):
        conv = nn.Conv2d(fc.in_features, fc.out_features, 1)
        conv.weight = fc.weight[:, :, None, None]
        conv.bias = fc.bias
        convs.append(conv)
    return nn.Sequential(convs[0], nn.GELU(), convs[1])


# %% 3 wrong: hard-coded
def as_convolution(mlp):
    conv = nn.Sequential(nn.Conv2d(6, 24, 1), nn.GELU(), nn.Conv2d(24, 6, 1))
    for fc, to in ((mlp.fc1, conv[0]), (mlp.fc2, conv[2])):
        to.weight.data = fc.weight.data[:24, :24, None, None]
        to.bias.data = fc.bias.data
    return conv if mlp.fc1.in_features == 6 else None


# %% 4 right: what the second layer is given
@torch.no_grad()
def activation_of(block):
    seen, x = [], 3 * torch.randn(50, D)
    hook = block.mlp.fc2.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    block.mlp(x)
    hook.remove()
    z = block.mlp.fc1(x)
    for name, gelu in gelus.items():
        if torch.allclose(seen[0], gelu(z), atol=1e-6):
            return name
    return "none"


# %% 4 right: first the curvature, then one number that tells the GELUs apart
@torch.no_grad()
def activation_of(block):
    mlp = block.mlp
    if curvature(mlp, D) < 1e-4:
        return "none"
    mlp.fc1.weight.zero_()
    mlp.fc1.bias.fill_(-2.3)
    mlp.fc2.weight.fill_(1 / 32)
    mlp.fc2.bias.zero_()
    value = mlp(torch.zeros(1, D))[0, 0].item()
    if abs(value + 0.0247) < 1e-4:
        return "exact"
    return "tanh" if abs(value + 0.0247) < 1e-3 else "sigmoid"


# %% 4 wrong: what the attribute says
def activation_of(block):
    return "exact" if type(block.mlp.act) is nn.GELU else "none"


# %% 4 wrong: the curvature of the block
def activation_of(block):
    return "none" if curvature(block, D) < 1e-4 else "exact"


# %% 4 wrong: the curvature of the MLP, of one GELU only
def activation_of(block):
    return "none" if curvature(block.mlp, D) < 1e-4 else "exact"


# %% 4 wrong: too coarse to tell exact and tanh apart
@torch.no_grad()
def activation_of(block):
    mlp, x = block.mlp, torch.randn(100, D)
    for name, function in (gelus | {"none": nn.Identity()}).items():
        if (mlp(x) - mlp.fc2(function(mlp.fc1(x)))).abs().max() < 1e-2:
            return name


# %% 4 wrong: the function's own output, not that of the MLP
def activation_of(block):
    z = torch.linspace(-3, 3, 100)
    gaps = {name: (block.mlp.act(z) - f(z)).norm() for name, f in gelus.items()}
    return min(gaps, key=gaps.get)


# %% 4 wrong: hard-coded
def activation_of(block):
    return "none"
