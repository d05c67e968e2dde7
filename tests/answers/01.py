# %% 1 right: computed
row_a = [math.exp(x) / (math.e + 1 + math.sqrt(math.e)) for x in (1, 0, 0.5)]
slopes_a = [row_a[0] * ((i == 0) - a) for i, a in enumerate(row_a)]

# %% 1 right: by autograd
new = torch.tensor([1.0, 0.0, 0.5], requires_grad=True)
row_a = new.softmax(dim=0)
slopes_a = torch.autograd.grad(row_a[0], new, retain_graph=True)[0]

# %% 1 wrong: the weights halved, not the logits
row_a = weights3[0] / 2
slopes_a = (0.25, -0.09, -0.16)

# %% 1 wrong: slopes of an absolute value
row_a = (0.506, 0.186, 0.307)
slopes_a = (0.25, 0.09, 0.16)

# %% 1 wrong: words
row_a, slopes_a = "more even", "less steep"

# %% 1 wrong: hard-coded
row_a = [0.665, 0.090, 0.245]
slopes_a = [0.223, -0.060, -0.163]


# %% 2 right: two triangles
def neighbor_mask(n):
    ones = torch.ones(n, n).bool()
    return ones.tril(1) & ones.triu(-1)


# %% 2 right: cell by cell
def neighbor_mask(n):
    return torch.tensor([[abs(i - j) < 2 for j in range(n)] for i in range(n)])


# %% 2 wrong: blocked and free exchanged
def neighbor_mask(n):
    place = torch.arange(n)
    return (place[:, None] - place).abs() > 1


# %% 2 wrong: zeros and ones
def neighbor_mask(n):
    place = torch.arange(n)
    return ((place[:, None] - place).abs() <= 1).float()


# %% 2 wrong: hard-coded
def neighbor_mask(n):
    drawn = ["##...", "###..", ".###.", "..###", "...##"]
    return torch.tensor([[cell == "#" for cell in line] for line in drawn])


# %% 3 right: smaller keys instead of smaller queries
def begin(model):
    groups = [{"params": model.w_k.parameters(), "lr": 4e-3 / model.factor}]
    for layer in (model.w_q, model.w_v, model.readout):
        groups.append({"params": layer.parameters()})
    model.w_k.load_state_dict(
        {name: t / model.factor for name, t in model.w_k.state_dict().items()}
    )
    return torch.optim.Adam(groups, lr=4e-3)


# %% 3 right: half of it in each
def begin(model):
    root, groups = model.factor**0.5, []
    for layer, by in (
        (model.w_q, root),
        (model.w_k, root),
        (model.w_v, 1),
        (model.readout, 1),
    ):
        for p in layer.parameters():
            p.data.div_(by)
            groups.append({"params": [p], "lr": 4e-3 / by})
    return torch.optim.AdamW(groups)


# %% 3 wrong: only a smaller start
def begin(model):
    with torch.no_grad():
        model.w_q.weight /= model.factor
        model.w_q.bias /= model.factor
    return torch.optim.Adam(model.parameters(), lr=4e-3)


# %% 3 wrong: divided after all
def begin(model):
    model.factor = 1
    return torch.optim.Adam(model.parameters(), lr=4e-3)


# %% 3 wrong: the model
def begin(model):
    return model


# %% 3 wrong: hard-coded
def begin(model):
    return 0.99


# %% 4 right: by subtraction
def are_shares(weights):
    in_range = (weights >= 0) & (weights <= 1)
    return ((weights.sum(-1) - 1).abs() < 1e-3).all() and in_range.all()


# %% 4 right: row by row
def are_shares(weights):
    rows = weights.reshape(-1, weights.shape[-1]).tolist()
    return all(min(r) >= 0 and math.isclose(sum(r), 1, abs_tol=1e-3) for r in rows)


# %% 4 wrong: signs do not matter
def are_shares(weights):
    sums = weights.sum(dim=-1)
    return torch.allclose(sums, torch.ones_like(sums), atol=1e-4)


# %% 4 wrong: the other axis
def are_shares(weights):
    sums = weights.sum(dim=-2)
    return torch.allclose(sums, torch.ones_like(sums), atol=1e-4)


# %% 4 wrong: a tensor for each entry
def are_shares(weights):
    return weights >= 0


# %% 4 wrong: the first row alone
def are_shares(weights):
    first = weights.flatten(0, -2)[0]
    return bool((first >= 0).all()) and abs(first.sum().item() - 1) < 1e-4


# %% 4 wrong: none above 1
def are_shares(weights):
    close = (weights.sum(dim=-1) - 1).abs() < 1e-4
    return bool(close.all() and (weights <= 1).all())


# %% 4 wrong: the first two rows
def are_shares(weights):
    rows = weights.flatten(0, -2)[:2]
    return bool((rows >= 0).all() and ((rows.sum(dim=-1) - 1).abs() < 1e-4).all())


# %% 4 wrong: too tolerant
def are_shares(weights):
    close = (weights.sum(dim=-1) - 1).abs() < 0.05
    return bool(close.all() and (weights >= 0).all())


# %% 4 wrong: hard-coded
def are_shares(weights):
    return True
