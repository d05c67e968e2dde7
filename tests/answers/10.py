# %% 1 right: by counting the pictures that decide
def pictures_needed(first, second, points):
    differ = (first != second).float().mean().item()
    p, q = first.mean().item(), second.mean().item()
    scale = 4 * (100 / points) ** 2
    return scale * differ, scale * (p * (1 - p) + q * (1 - q))


# %% 1 right: by the covariance
def pictures_needed(first, second, points):
    both = torch.cov(torch.stack((first, second)))
    apart = both[0, 0] + both[1, 1]
    return tuple(4e4 * v / points**2 for v in (apart - 2 * both[0, 1], apart))


# %% 1 wrong: one standard error
def pictures_needed(first, second, points):
    lead = points / 100
    paired, unpaired = (second - first).var(), first.var() + second.var()
    return tuple(math.ceil(v / lead**2) for v in (paired, unpaired))


# %% 1 wrong: one model's variance
def pictures_needed(first, second, points):
    lead = points / 100
    return tuple(
        math.ceil(4 * v / lead**2) for v in ((second - first).var(), first.var())
    )


# %% 1 wrong: points taken for shares
def pictures_needed(first, second, points):
    paired, unpaired = (second - first).var(), first.var() + second.var()
    return 4 * paired / points**2, 4 * unpaired / points**2


# %% 1 wrong: in the wrong order
def pictures_needed(first, second, points):
    lead = points / 100
    paired, unpaired = (second - first).var(), first.var() + second.var()
    return 4 * unpaired / lead**2, 4 * paired / lead**2


# %% 1 wrong: hard-coded
def pictures_needed(first, second, points):
    return 14500, 50700


# %% 2 right: by reshape
def token_maps(weights, grid):
    h = weights.shape[0]
    return torch.stack([weights[:, q, 2:].reshape(h, *grid) for q in (0, 1)])


# %% 2 right: by einops' way of thinking
def token_maps(weights, grid):
    rows, columns = grid
    return (
        weights[:, :2, -rows * columns :].permute(1, 0, 2).unflatten(2, (rows, columns))
    )


# %% 2 wrong: one token in front
def token_maps(weights, grid):
    maps = weights[:, :2, 1:-1]
    return maps.transpose(0, 1).unflatten(-1, grid)


# %% 2 wrong: column by column
def token_maps(weights, grid):
    rows, columns = grid
    maps = weights[:, :2, 2:].transpose(0, 1).unflatten(-1, (columns, rows))
    return maps.transpose(-1, -2)


# %% 2 wrong: heads and tokens not exchanged
def token_maps(weights, grid):
    return weights[:, :2, 2:].unflatten(-1, grid)


# %% 2 wrong: hard-coded
def token_maps(weights, grid):
    return torch.zeros(2, 3, 3, 4)


# %% 3 right: in batches, through the whole model
def repair(model, images, labels):
    model.eval()
    optimizer = torch.optim.AdamW(model.head_dist.parameters(), lr=5e-2)
    for epoch in range(2):
        for part in torch.arange(3000).split(100):
            with torch.no_grad():
                tokens, _ = model.encoder(model.embeddings(images[part]))
            loss = F.cross_entropy(model.head_dist(tokens[:, 1]), labels[part])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


# %% 3 right: from the teacher's answers, as another layer put in its place
def repair(model, images, labels):
    with torch.no_grad():
        tokens, _ = model.encoder(model.embeddings(images), num_outputs=2)
    new = nn.Linear(64, 10)
    optimizer = torch.optim.Adam(new.parameters(), lr=3e-2)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(new(tokens[:, 1]), few_taught).backward()
        optimizer.step()
    model.head_dist.load_state_dict(new.state_dict())
    return model


# %% 3 wrong: nothing is trained
def repair(model, images, labels):
    return model


# %% 3 wrong: the class head learns as well
def repair(model, images, labels):
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        first, second, _ = model.both_heads(images[:250])
        loss = F.cross_entropy(first, labels[:250])
        (loss + F.cross_entropy(second, labels[:250])).backward()
        optimizer.step()
    return model


# %% 3 wrong: the class head copied, which reads another token
def repair(model, images, labels):
    model.head_dist.load_state_dict(model.head.state_dict())
    return model


# %% 3 wrong: hard-coded
def repair(model, images, labels):
    model.head_dist = load_model(CHECKPOINT).head_dist
    return model
