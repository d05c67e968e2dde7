# %% 1 right: token by token
def attention_scores(image_size, patch, heads, depth):
    side = image_size // patch
    tokens = 1
    for _ in range(side):
        tokens += side
    return sum(heads * tokens * tokens for _ in range(depth))


# %% 1 right: a float
def attention_scores(image_size, patch, heads, depth):
    return float(depth * heads * ((image_size / patch) ** 2 + 1) ** 2)


# %% 1 wrong: the class token is forgotten
def attention_scores(image_size, patch, heads, depth):
    return depth * heads * ((image_size // patch) ** 2) ** 2


# %% 1 wrong: tokens by their width
def attention_scores(image_size, patch, heads, depth):
    return depth * ((image_size // patch) ** 2 + 1) * 64


# %% 1 wrong: always 28 pixels
def attention_scores(image_size, patch, heads, depth):
    return depth * heads * ((28 // patch) ** 2 + 1) ** 2


# %% 1 wrong: hard-coded
def attention_scores(image_size, patch, heads, depth):
    return 4624


# %% 2 right: by slices
def shuffled(images, order):
    rows = [images[..., 7 * r : 7 * r + 7, :] for r in range(4)]
    cut = [row[..., 7 * c : 7 * c + 7] for row in rows for c in range(4)]
    cut = [cut[i] for i in order]
    return torch.cat([torch.cat(cut[i : i + 4], -1) for i in (0, 4, 8, 12)], -2)


# %% 2 right: by reshape and permute
def shuffled(images, order):
    cut = images.reshape(-1, 4, 7, 4, 7).permute(0, 1, 3, 2, 4).flatten(1, 2)
    cut = cut[:, order].unflatten(1, (4, 4)).permute(0, 1, 3, 2, 4)
    return cut.reshape(-1, 1, 28, 28)


# %% 2 wrong: the order the other way round
def shuffled(images, order):
    patches = F.unfold(images, 7, stride=7)
    return F.fold(patches[..., order.argsort()], (28, 28), 7, stride=7)


# %% 2 wrong: rows of pixels
def shuffled(images, order):
    return images.reshape(-1, 16, 49)[:, order].reshape(-1, 1, 28, 28)


# %% 2 wrong: hard-coded
def shuffled(images, order):
    return images


# %% 3 right: at a lower rate, by name
tiny = ViT(patch=14, dim=32, depth=2, heads=2, mlp_dim=64)
fit(tiny, *first, epochs=1, lr=5e-3, batch_size=64)
small = tiny.eval()

# %% 3 right: one block
small = ViT(patch=14, dim=40, depth=1, mlp_dim=80)
losses = fit(small, first[0], first[1], epochs=1, lr=6e-3, batch_size=64)

# %% 3 wrong: not trained
small = ViT(patch=14, dim=32, mlp_dim=64)

# %% 3 wrong: too large
small = model

# %% 3 wrong: hard-coded
small = 83
