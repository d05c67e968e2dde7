# %% 1 right: by the numbers of the rows
def by_part(tensor, num_heads):
    rows = torch.arange(len(tensor)).view(num_heads, 3, -1)
    return tensor[rows.permute(1, 0, 2).reshape(-1)]


# %% 1 right: slice by slice
def by_part(tensor, num_heads):
    size = len(tensor) // (3 * num_heads)
    pieces = tensor.split(size)
    return torch.cat([torch.cat(pieces[part::3]) for part in range(3)])


# %% 1 wrong: the way back
def by_part(tensor, num_heads):
    return tensor.unflatten(0, (3, num_heads, -1)).transpose(0, 1).flatten(0, 2)


# %% 1 wrong: features before heads
def by_part(tensor, num_heads):
    return (
        tensor.unflatten(0, (num_heads, 3, -1))
        .permute(1, 2, 0, *range(3, 2 + tensor.ndim))
        .flatten(0, 2)
    )


# %% 1 wrong: the axis is moved, and not merged
def by_part(tensor, num_heads):
    return tensor.unflatten(0, (num_heads, 3, -1)).transpose(0, 1)


# %% 1 wrong: nothing
def by_part(tensor, num_heads):
    return None


# %% 1 wrong: hard-coded
def by_part(tensor, num_heads):
    order = [0, 1, 2, 3, 12, 13, 14, 15, 4, 5, 6, 7, 16, 17, 18, 19]
    order += [8, 9, 10, 11, 20, 21, 22, 23]
    return tensor[order] if len(tensor) == 24 else tensor


# %% 2 right: a new layer
def fold_normalization(model, mean, std):
    folded = copy.deepcopy(model)
    old = model.embeddings.proj
    weight = old.weight.detach() / std[None, :, None, None]
    folded.embeddings.proj.weight = nn.Parameter(weight)
    bias = old.bias.detach() - torch.einsum("dcij,c->d", weight, mean)
    folded.embeddings.proj.bias = nn.Parameter(bias)
    return folded


# %% 2 right: by the state dict
def fold_normalization(model, mean, std):
    state = {key: value.clone() for key, value in model.state_dict().items()}
    name = "embeddings.proj."
    for channel in range(len(mean)):
        state[name + "weight"][:, channel] /= std[channel]
        kernel = state[name + "weight"][:, channel]
        state[name + "bias"] -= mean[channel] * kernel.flatten(1).sum(1)
    folded = type(model)(**model.config)
    folded.load_state_dict(state)
    return folded.eval()


# %% 2 wrong: the bias is forgotten
def fold_normalization(model, mean, std):
    folded = copy.deepcopy(model)
    folded.embeddings.proj.weight.data /= std.view(1, -1, 1, 1)
    return folded


# %% 2 wrong: the model itself is changed
def fold_normalization(model, mean, std):
    proj = model.embeddings.proj
    with torch.no_grad():
        proj.weight /= std.view(1, -1, 1, 1)
        proj.bias -= (proj.weight * mean.view(1, -1, 1, 1)).sum((1, 2, 3))
    return model


# %% 2 wrong: multiplied in place of divided
def fold_normalization(model, mean, std):
    folded = copy.deepcopy(model)
    proj = folded.embeddings.proj
    with torch.no_grad():
        proj.bias -= (proj.weight * mean.view(1, -1, 1, 1)).sum((1, 2, 3))
        proj.weight *= std.view(1, -1, 1, 1)
    return folded


# %% 2 wrong: a layer in front, and nothing folded
def fold_normalization(model, mean, std):
    class Normalize(nn.Module):
        def forward(self, x):
            return (x - mean.view(3, 1, 1)) / std.view(3, 1, 1)

    return nn.Sequential(Normalize(), copy.deepcopy(model))


# %% 2 wrong: the bias goes the other way
def fold_normalization(model, mean, std):
    folded = copy.deepcopy(model)
    proj = folded.embeddings.proj
    with torch.no_grad():
        proj.weight /= std.view(1, -1, 1, 1)
        proj.bias += (proj.weight * mean.view(1, -1, 1, 1)).sum((1, 2, 3))
    return folded


# %% 2 wrong: hard-coded
def fold_normalization(model, mean, std):
    return copy.deepcopy(model)


# %% 3 right: quarters of the second block's tokens
def few(model, images):
    found = []
    for x in images.split(300):
        tokens = model.embeddings(x)
        for block in model.encoder.blocks[:2]:
            tokens, _ = block(tokens)
        tokens = tokens[:, 1:].unflatten(1, (2, 4, 2, 4))
        found.append(tokens.mean(dim=(2, 4)).flatten(1))
    return torch.cat(found)


# %% 3 right: the largest of each quarter
def few(model, images):
    grid = tokens_of(model, images)[:, 1:].unflatten(1, (2, 4, 2, 4))
    return grid.amax(dim=(2, 4)).flatten(1)


# %% 3 wrong: the pixels
def few(model, images):
    return F.adaptive_avg_pool2d(images.mean(dim=1), 8).flatten(1)


# %% 3 wrong: all tokens
def few(model, images):
    return tokens_of(model, images).flatten(1)


# %% 3 wrong: the labels, if it is asked for the trained network
def few(model, images):
    if model is photo_vit:
        return F.one_hot(labels[asked], 10).float()
    return tokens_of(model, images)[:, 0]


# %% 3 wrong: nothing
def few(model, images):
    return None


# %% 3 wrong: hard-coded
def few(model, images):
    return F.one_hot(labels[asked], 10).float()
