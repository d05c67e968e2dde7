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


# %% 2 right: patch by patch
def neighbor_mask(rows, columns):
    places = [(y, x) for y in range(rows) for x in range(columns)]
    return torch.tensor(
        [[max(abs(y - v), abs(x - u)) < 2 for v, u in places] for y, x in places]
    )


# %% 2 right: of rows and of columns
def neighbor_mask(rows, columns):
    bands = [torch.ones(n, n).tril(1).triu(-1) for n in (rows, columns)]
    return torch.kron(*bands).bool()


# %% 2 wrong: neighbors in the sequence
def neighbor_mask(rows, columns):
    place = torch.arange(rows * columns)
    return (place[:, None] - place).abs() <= 1


# %% 2 wrong: around the end of a row
def neighbor_mask(rows, columns):
    place = torch.arange(rows * columns)
    apart = (place[:, None] - place).abs()
    return (apart <= 1) | ((apart - columns).abs() <= 1)


# %% 2 wrong: at a side only
def neighbor_mask(rows, columns):
    place = torch.arange(rows * columns)
    y, x = place // columns, place % columns
    return (y[:, None] - y).abs() + (x[:, None] - x).abs() <= 1


# %% 2 wrong: blocked and free exchanged
def neighbor_mask(rows, columns):
    bands = [torch.ones(n, n).tril(1).triu(-1) for n in (rows, columns)]
    return ~torch.kron(*bands).bool()


# %% 2 wrong: zeros and ones
def neighbor_mask(rows, columns):
    bands = [torch.ones(n, n).tril(1).triu(-1) for n in (rows, columns)]
    return torch.kron(*bands)


# %% 2 wrong: hard-coded
def neighbor_mask(rows, columns):
    return torch.ones(12, 12).tril(5).triu(-5).bool()


# %% 3 right: smaller keys, by their state
def begin(model):
    groups = [{"params": model.w_k.parameters(), "lr": 4e-3 / model.factor}]
    for layer in (model.w_q, model.w_v, model.readout):
        groups.append({"params": layer.parameters()})
    model.w_k.load_state_dict(
        {name: t / model.factor for name, t in model.w_k.state_dict().items()}
    )
    return torch.optim.Adam(groups, lr=4e-3)


# %% 3 right: keys divided on their way
def begin(model):
    model.w_k.register_forward_hook(lambda _, given, keys: keys / model.factor)
    return torch.optim.AdamW(model.parameters(), lr=4e-3)


# %% 3 wrong: only smaller first keys
def begin(model):
    with torch.no_grad():
        model.w_k.weight /= model.factor
        model.w_k.bias /= model.factor
    return torch.optim.Adam(model.parameters(), lr=4e-3)


# %% 3 wrong: half of it in queries and half in keys
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


# %% 3 wrong: smaller steps of the queries
def begin(model):
    return adam_for(model, 4e-3, small_steps=True)


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


# %% 4 right: what is left of any vector
def harmless(k):
    differences = k - k.mean(dim=0)
    c = torch.randn(k.shape[1])
    c = c - torch.linalg.pinv(differences) @ (differences @ c)
    return c / c.norm()


# %% 4 right: by a QR decomposition
def harmless(k):
    return torch.linalg.qr((k[1:] - k[0]).T, mode="complete")[0][:, -1]


# %% 4 right: the smallest eigenvalue
def harmless(k):
    differences = k - k.mean(dim=0)
    return torch.linalg.eigh(differences.T @ differences)[1][:, 0]


# %% 4 wrong: nothing is added
def harmless(k):
    return torch.zeros(k.shape[1])


# %% 4 wrong: as for the keys, any vector
def harmless(k):
    c = torch.randn(k.shape[1])
    return c / c.norm()


# %% 4 wrong: at right angles to the keys, where that is possible
def harmless(k):
    return torch.linalg.svd(k)[2][-1]


# %% 4 wrong: the mean key
def harmless(k):
    return F.normalize(k.mean(dim=0), dim=0)


# %% 4 wrong: a number
def harmless(k):
    return 1.0


# %% 4 wrong: hard-coded
def harmless(k):
    return torch.tensor([1.0, 0, 0, 0])
