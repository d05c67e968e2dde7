# %% 1 right: counted part by part
def parameters(*, image, patch, channels, width, depth, mlp, classes):
    def linear(n, m):
        return (n + 1) * m

    total = linear(channels * patch * patch, width) + width
    total += ((image / patch) ** 2 + 1) * width
    for _ in range(depth):
        total += linear(width, 3 * width) + linear(width, width)
        total += linear(width, mlp) + linear(mlp, width) + 4 * width
    return total + 2 * width + linear(width, classes)


# %% 1 right: built
def parameters(*, image, patch, channels, width, depth, mlp, classes):
    embeddings = Embeddings(
        image_size=image, patch_size=patch, in_channels=channels, embed_dim=width
    )
    encoder = Encoder(depth=depth, embed_dim=width, num_heads=1, mlp_dim=mlp)
    return sum(count(m) for m in (embeddings, encoder, nn.Linear(width, classes)))


# %% 1 wrong: the last norm is forgotten
def parameters(*, image, patch, channels, width, depth, mlp, classes):
    D = width
    embeddings = patch**2 * channels * D + D + D + ((image // patch) ** 2 + 1) * D
    block = 4 * (D * D + D) + 2 * D * mlp + mlp + D + 4 * D
    return embeddings + depth * block + D * classes + classes


# %% 1 wrong: the MLP always four times as wide
def parameters(*, image, patch, channels, width, depth, mlp, classes):
    D = width
    embeddings = patch**2 * channels * D + D + D + ((image // patch) ** 2 + 1) * D
    return embeddings + depth * (12 * D * D + 13 * D) + 2 * D + (D + 1) * classes


# %% 1 wrong: asks for what is not there
def parameters(*, image, patch, channels, width, depth, mlp, classes):
    return VisionTransformer(image_size=image, patch=patch).numel()


# %% 1 wrong: hard-coded
def parameters(*, image, patch, channels, width, depth, mlp, classes):
    return {192: 5_717_416, 384: 22_050_664, 768: 86_567_656}.get(width, 139_018)


# %% 2 right: the mean of logits
def mean_logits(vit, images):
    z, _ = vit.encoder(vit.embeddings(images))
    return vit.head(z)[:, 1:].mean(1)


# %% 2 right: summed
def mean_logits(vit, images):
    z = vit.embeddings(images)
    for block in vit.encoder.blocks:
        z, _ = block(z, need_weights=True)
    z = vit.encoder.norm(z)[:, 1:]
    return F.linear(z.sum(dim=1) / z.shape[1], vit.head.weight, vit.head.bias)


# %% 2 wrong: with the class token
def mean_logits(vit, images):
    z, _ = vit.encoder(vit.embeddings(images))
    return vit.head(z.mean(dim=1))


# %% 2 wrong: the norm of the mean
def mean_logits(vit, images):
    z = vit.embeddings(images)
    for block in vit.encoder.blocks:
        z, _ = block(z)
    return vit.head(vit.encoder.norm(z[:, 1:].mean(dim=1)))


# %% 2 wrong: without the blocks
def mean_logits(vit, images):
    z = vit.encoder.norm(vit.embeddings(images))
    return vit.head(z[:, 1:].mean(dim=1))


# %% 2 wrong: without the last norm
def mean_logits(vit, images):
    z = vit.embeddings(images)
    for block in vit.encoder.blocks:
        z, _ = block(z)
    return vit.head(z[:, 1:].mean(dim=1))


# %% 2 wrong: the class token after all
def mean_logits(vit, images):
    return vit(images)


# %% 2 wrong: a tuple as if it were tokens
def mean_logits(vit, images):
    return vit.head(vit.encoder(vit.embeddings(images))[:, 1:].mean(dim=1))


# %% 2 wrong: hard-coded
def mean_logits(vit, images):
    return torch.zeros(len(images), 7)


# %% 3 right: strictly, with the new ones filled in
def adopt(model, state, names, *, new=(), images=None, logits=None):
    filled = {key: model.state_dict()[key] for key in new}
    model.load_state_dict(filled | rename(state, names))
    if logits is not None:
        torch.testing.assert_close(model(images), logits, atol=1e-6, rtol=0)


# %% 3 right: sets of names
def adopt(model, state, names, *, new=(), images=None, logits=None):
    state = rename(state, names)
    own = model.state_dict()
    assert own.keys() - set(new) <= state.keys() <= own.keys()
    model.load_state_dict(state, strict=False)
    assert logits is None or (model(images) - logits).abs().max() <= 1e-6


# %% 3 wrong: no logits compared
def adopt(model, state, names, *, new=(), images=None, logits=None):
    found = model.load_state_dict(rename(state, names), strict=False)
    if set(found.missing_keys) - set(new) or found.unexpected_keys:
        raise ValueError(found)


# %% 3 wrong: strictly, so that nothing may be new
def adopt(model, state, names, *, new=(), images=None, logits=None):
    model.load_state_dict(rename(state, names))
    if logits is not None:
        assert (model(images) - logits).abs().max() < 1e-6


# %% 3 wrong: logits alone
def adopt(model, state, names, *, new=(), images=None, logits=None):
    model.load_state_dict(rename(state, names), strict=False)
    if logits is not None:
        assert (model(images) - logits).abs().max() < 1e-6


# %% 3 wrong: what is left over is passed over
def adopt(model, state, names, *, new=(), images=None, logits=None):
    found = model.load_state_dict(rename(state, names), strict=False)
    assert set(found.missing_keys) <= set(new)
    if logits is not None:
        assert (model(images) - logits).abs().max() < 1e-6


# %% 3 wrong: judged, not loaded
def adopt(model, state, names, *, new=(), images=None, logits=None):
    trial = copy.deepcopy(model)
    found = trial.load_state_dict(rename(state, names), strict=False)
    assert set(found.missing_keys) <= set(new) and not found.unexpected_keys
    if logits is not None:
        assert (trial(images) - logits).abs().max() < 1e-6


# %% 3 wrong: hard-coded
def adopt(model, state, names, *, new=(), images=None, logits=None):
    model.load_state_dict(ours.state_dict())
    if not names or len(state) not in (42, 44):
        raise ValueError("not these")


# %% 4 right: narrow, and AdamW in batches
small = VisionTransformer(**vit.config | {"embed_dim": 48, "mlp_dim": 96})
optimizer = torch.optim.AdamW(small.parameters(), lr=2e-3)
for _ in range(60):
    for part in torch.randperm(64).split(32):
        optimizer.zero_grad()
        F.cross_entropy(small(images[part]), labels[part]).backward()
        optimizer.step()

# %% 4 right: until it is reached
small = VisionTransformer(**vit.config | {"depth": 1})
optimizer, loss = torch.optim.Adam(small.parameters(), lr=3e-3), torch.tensor(9.0)
while loss > 0.01:
    loss = F.cross_entropy(small(images[:64]), labels[:64])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %% 4 right: the head alone, on random features, as the solution says
small = VisionTransformer(**vit.config | {"depth": 1})
with torch.no_grad():
    features = small.encoder(small.embeddings(images[:64]))[0][:, 0]
optimizer = torch.optim.Adam(small.head.parameters(), lr=0.1)
for _ in range(150):
    optimizer.zero_grad()
    F.cross_entropy(small.head(features), labels[:64]).backward()
    optimizer.step()

# %% 4 wrong: too large
small = new

# %% 4 wrong: stopped too early
small = VisionTransformer(**vit.config | {"depth": 1})
optimizer = torch.optim.Adam(small.parameters(), lr=1e-3)
for _ in range(10):
    optimizer.zero_grad()
    F.cross_entropy(small(images[:64]), labels[:64]).backward()
    optimizer.step()

# %% 4 wrong: the head alone
small = VisionTransformer(**vit.config | {"depth": 1})
optimizer = torch.optim.SGD(small.head.parameters(), lr=0.1)
for _ in range(20):
    optimizer.zero_grad()
    F.cross_entropy(small(images[:64]), labels[:64]).backward()
    optimizer.step()


# %% 4 wrong: hard-coded
def small(images):
    return 100 * F.one_hot(labels[: len(images)], 10).float()
