# %% 1 right: the first class shares its doubt, the second has one doubter less
def clash(K):
    if K < 3:
        return
    p = [0.9, 0.1] + [0.0] * (K - 2)
    q = [0.0, 0.4] + [0.6 / (K - 2)] * (K - 2)
    return p, q


# %% 1 right: by search
def clash(K):
    for _ in range(20000):
        p, q = (5 * torch.randn(2, K, dtype=torch.float64)).softmax(dim=-1)
        tops = (p + q).topk(2), (p * q).sqrt().topk(2)
        clear = min((values[0] - values[1]).item() for values, _ in tops) > 1e-3
        if clear and tops[0].indices[0] != tops[1].indices[0]:
            return p, q


# %% 1 wrong: never any
def clash(K):
    return "none"


# %% 1 wrong: a tie passes for a winner where there are two classes
def clash(K):
    p, q = torch.full((K,), 1e-9), torch.full((K,), 1e-9)
    p[:2] = torch.tensor([0.8, 0.2])
    q[:2] = torch.tensor([0.2, 0.8])
    return p / p.sum(), q / q.sum()


# %% 1 wrong: not probabilities
def clash(K):
    if K > 2:
        return 9.0 * torch.eye(K)[0], torch.ones(K) + torch.eye(K)[1]


# %% 1 wrong: two heads that differ, and no veto
def clash(K):
    if K > 2:
        p, q = torch.full((2, K), 0.1 / (K - 1))
        p[0], q[1] = 0.9, 0.9
        return p, q


# %% 1 wrong: hard-coded
def clash(K):
    return (0.81, 0.18, 0.01), (0.04, 0.50, 0.46)


# %% 2 right: in place, part by part
def insert_token(vit, deit):
    deit.encoder.load_state_dict(vit.encoder.state_dict())
    deit.head.load_state_dict(vit.head.state_dict())
    mine, theirs = deit.embeddings, vit.embeddings
    mine.proj.load_state_dict(theirs.proj.state_dict())
    with torch.no_grad():
        mine.class_token.copy_(theirs.class_token)
        mine.pos_embed[:, 0] = theirs.pos_embed[:, 0]
        mine.pos_embed[:, 2:] = theirs.pos_embed[:, 1:]
    return deit


# %% 2 right: every tensor that fits, then the one that does not
def insert_token(vit, deit):
    state, given = deit.state_dict(), vit.state_dict()
    places = [0, *range(2, 18)]
    for key, tensor in state.items():
        if key == "embeddings.pos_embed":
            tensor[:, places] = given[key]
        elif key in given:
            tensor.copy_(given[key])
    return deit.train()


# %% 2 wrong: the new position at the end
def insert_token(vit, deit):
    state, key = vit.state_dict(), "embeddings.pos_embed"
    new = deit.state_dict()[key][:, 1:2]
    state[key] = torch.cat((state[key], new), dim=1)
    deit.load_state_dict(state, strict=False)
    return deit


# %% 2 wrong: the positions stay the DeiT's
def insert_token(vit, deit):
    state = vit.state_dict()
    del state["embeddings.pos_embed"]
    deit.load_state_dict(state, strict=False)
    return deit


# %% 2 wrong: the class token's position twice
def insert_token(vit, deit):
    state, key = vit.state_dict(), "embeddings.pos_embed"
    state[key] = torch.cat((state[key][:, :1], state[key]), dim=1)
    deit.load_state_dict(state, strict=False)
    return deit


# %% 2 wrong: both heads from the one
def insert_token(vit, deit):
    state, key = vit.state_dict(), "embeddings.pos_embed"
    new = deit.state_dict()[key][:, 1:2]
    state[key] = torch.cat((state[key][:, :1], new, state[key][:, 1:]), dim=1)
    deit.load_state_dict(state, strict=False)
    deit.head_dist.load_state_dict(vit.head.state_dict())
    return deit


# %% 2 wrong: the ViT is returned
def insert_token(vit, deit):
    return vit


# %% 2 wrong: hard-coded
def insert_token(vit, deit):
    return load_model(CHECKPOINTS / "deit_fashion_mnist.safetensors")


# %% 3 right: by reshape
def token_maps(weights, grid):
    h = weights.shape[0]
    return torch.stack([weights[:, q, 2:].reshape(h, *grid) for q in (0, 1)])


# %% 3 right: by einops' way of thinking
def token_maps(weights, grid):
    rows, columns = grid
    return (
        weights[:, :2, -rows * columns :].permute(1, 0, 2).unflatten(2, (rows, columns))
    )


# %% 3 wrong: one token in front
def token_maps(weights, grid):
    maps = weights[:, :2, 1:-1]
    return maps.transpose(0, 1).unflatten(-1, grid)


# %% 3 wrong: column by column
def token_maps(weights, grid):
    rows, columns = grid
    maps = weights[:, :2, 2:].transpose(0, 1).unflatten(-1, (columns, rows))
    return maps.transpose(-1, -2)


# %% 3 wrong: heads and tokens not exchanged
def token_maps(weights, grid):
    return weights[:, :2, 2:].unflatten(-1, grid)


# %% 3 wrong: hard-coded
def token_maps(weights, grid):
    return torch.zeros(2, 3, 3, 4)


# %% 4 right: in batches, through the whole model
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


# %% 4 right: from the teacher's answers, as another layer put in its place
def repair(model, images, labels):
    with torch.no_grad():
        tokens, _ = model.encoder(model.embeddings(images), num_outputs=2)
    new = nn.Linear(64, 10)
    optimizer = torch.optim.Adam(new.parameters(), lr=3e-2)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(new(tokens[:, 1]), few_hard_labels[:3000]).backward()
        optimizer.step()
    model.head_dist.load_state_dict(new.state_dict())
    return model


# %% 4 wrong: nothing is trained
def repair(model, images, labels):
    return model


# %% 4 wrong: the class head learns as well
def repair(model, images, labels):
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        first, second, _ = model.both_heads(images[:250])
        loss = F.cross_entropy(first, labels[:250])
        (loss + F.cross_entropy(second, labels[:250])).backward()
        optimizer.step()
    return model


# %% 4 wrong: the class head copied, which reads another token
def repair(model, images, labels):
    model.head_dist.load_state_dict(model.head.state_dict())
    return model


# %% 4 wrong: hard-coded
def repair(model, images, labels):
    model.head_dist = load_model(
        CHECKPOINTS / "deit_fashion_mnist.safetensors"
    ).head_dist
    return model
