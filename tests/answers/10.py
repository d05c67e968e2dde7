# %% 1 right: in place, part by part
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


# %% 1 right: every tensor that fits, then the one that does not
def insert_token(vit, deit):
    state, given = deit.state_dict(), vit.state_dict()
    places = [0, *range(2, 18)]
    for key, tensor in state.items():
        if key == "embeddings.pos_embed":
            tensor[:, places] = given[key]
        elif key in given:
            tensor.copy_(given[key])
    return deit.train()


# %% 1 wrong: the new position at the end
def insert_token(vit, deit):
    state, key = vit.state_dict(), "embeddings.pos_embed"
    new = deit.state_dict()[key][:, 1:2]
    state[key] = torch.cat((state[key], new), dim=1)
    deit.load_state_dict(state, strict=False)
    return deit


# %% 1 wrong: the positions stay the DeiT's
def insert_token(vit, deit):
    state = vit.state_dict()
    del state["embeddings.pos_embed"]
    deit.load_state_dict(state, strict=False)
    return deit


# %% 1 wrong: the class token's position twice
def insert_token(vit, deit):
    state, key = vit.state_dict(), "embeddings.pos_embed"
    state[key] = torch.cat((state[key][:, :1], state[key]), dim=1)
    deit.load_state_dict(state, strict=False)
    return deit


# %% 1 wrong: both heads from the one
def insert_token(vit, deit):
    state, key = vit.state_dict(), "embeddings.pos_embed"
    new = deit.state_dict()[key][:, 1:2]
    state[key] = torch.cat((state[key][:, :1], new, state[key][:, 1:]), dim=1)
    deit.load_state_dict(state, strict=False)
    deit.head_dist.load_state_dict(vit.head.state_dict())
    return deit


# %% 1 wrong: the ViT is returned
def insert_token(vit, deit):
    return vit


# %% 1 wrong: hard-coded
def insert_token(vit, deit):
    return load_model(CHECKPOINT)


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
