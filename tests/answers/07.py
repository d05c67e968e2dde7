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


# %% 2 wrong: without the last norm
def mean_logits(vit, images):
    z = vit.embeddings(images)
    for block in vit.encoder.blocks:
        z, _ = block(z)
    return vit.head(z[:, 1:].mean(dim=1))


# %% 2 wrong: the class token after all
def mean_logits(vit, images):
    return vit(images)


# %% 2 wrong: hard-coded
def mean_logits(vit, images):
    return torch.zeros(len(images), 7)


# %% 3 right: from a model
def sharper(old, new, patch):
    counts = []
    for side in (old, new):
        vit = Embeddings(image_size=side, patch_size=patch, in_channels=3, embed_dim=4)
        counts.append(vit.num_patches + 1)
    return [counts[1], torch.tensor(counts[1] / counts[0]) ** 2]


# %% 3 right: rounded
def sharper(old, new, patch):
    n, m = 1 + old * old / patch**2, 1 + new * new / patch**2
    return m, round(m * m / n / n, 1)


# %% 3 wrong: without the class token
def sharper(old, new, patch):
    return (new // patch) ** 2, (new / old) ** 4


# %% 3 wrong: the factor of the tokens
def sharper(old, new, patch):
    n, m = (old // patch) ** 2 + 1, (new // patch) ** 2 + 1
    return m, m / n


# %% 3 wrong: the tokens alone
def sharper(old, new, patch):
    return (new // patch) ** 2 + 1


# %% 3 wrong: no factor yet
def sharper(old, new, patch):
    return (new // patch) ** 2 + 1, None


# %% 3 wrong: hard-coded
def sharper(old, new, patch):
    return 577, 8.6


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
