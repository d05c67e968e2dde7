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


# %% 3 right: two layers' weights in other words
units = 23


class SwiGLU(nn.Module):
    def __init__(self, embed_dim, mlp_dim):
        super().__init__()
        self.out = nn.Linear(mlp_dim, embed_dim, bias=False)
        self.value = nn.Linear(embed_dim, mlp_dim, bias=False)
        self.gate = nn.Linear(embed_dim, mlp_dim, bias=False)
        self.act = nn.SiLU()

    def forward(self, x):
        return self.out(self.value(x) * self.act(self.gate(x)))


# %% 3 right: the formula, the units counted
units = max(m for m in range(1, 100) if 3 * D * m <= 552)


class SwiGLU(nn.Module):
    def __init__(self, embed_dim, mlp_dim):
        super().__init__()
        self.gate, self.value = (
            nn.Linear(embed_dim, mlp_dim, bias=False) for _ in range(2)
        )
        self.out = nn.Linear(mlp_dim, embed_dim, bias=False)

    def forward(self, x):
        z = self.gate(x)
        return self.out(z / (1 + (-z).exp()) * self.value(x))


# %% 3 wrong: as wide as the MLP, so larger
units = 4 * D


class SwiGLU(nn.Module):
    def __init__(self, embed_dim, mlp_dim):
        super().__init__()
        self.gate = nn.Linear(embed_dim, mlp_dim, bias=False)
        self.value = nn.Linear(embed_dim, mlp_dim, bias=False)
        self.out = nn.Linear(mlp_dim, embed_dim, bias=False)

    def forward(self, x):
        return self.out(F.silu(self.gate(x)) * self.value(x))


# %% 3 wrong: both results bent
units = 23


class SwiGLU(nn.Module):
    def __init__(self, embed_dim, mlp_dim):
        super().__init__()
        self.gate = nn.Linear(embed_dim, mlp_dim, bias=False)
        self.value = nn.Linear(embed_dim, mlp_dim, bias=False)
        self.out = nn.Linear(mlp_dim, embed_dim, bias=False)

    def forward(self, x):
        return self.out(F.silu(self.gate(x)) * F.silu(self.value(x)))


# %% 3 wrong: a GELU bends
units = 23


class SwiGLU(nn.Module):
    def __init__(self, embed_dim, mlp_dim):
        super().__init__()
        self.gate = nn.Linear(embed_dim, mlp_dim, bias=False)
        self.value = nn.Linear(embed_dim, mlp_dim, bias=False)
        self.out = nn.Linear(mlp_dim, embed_dim, bias=False)

    def forward(self, x):
        return self.out(F.gelu(self.gate(x)) * self.value(x))


# %% 3 wrong: far too few units to learn it
units = 4


class SwiGLU(nn.Module):
    def __init__(self, embed_dim, mlp_dim):
        super().__init__()
        self.gate = nn.Linear(embed_dim, mlp_dim, bias=False)
        self.value = nn.Linear(embed_dim, mlp_dim, bias=False)
        self.out = nn.Linear(mlp_dim, embed_dim, bias=False)

    def forward(self, x):
        return self.out(F.silu(self.gate(x)) * self.value(x))


# %% 3 wrong: hard-coded
class SwiGLU(nn.Module):
    def __init__(self, embed_dim, mlp_dim):
        super().__init__()
        self.gate = nn.Linear(embed_dim, 23, bias=False)
        self.value = nn.Linear(embed_dim, 23, bias=False)
        self.out = nn.Linear(23, embed_dim, bias=False)

    def forward(self, x):
        return products(x)


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
