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


# %% 3 right: each number four times, a quarter of it
def for_large(model):
    sizes = {"image_size": 56, "patch_size": 14}
    large = VisionTransformer(**model.config | sizes).eval()
    state = model.state_dict()
    kernel = state["embeddings.proj.weight"] / 4
    kernel = kernel.repeat_interleave(2, 2).repeat_interleave(2, 3)
    state["embeddings.proj.weight"] = kernel
    large.load_state_dict(state)
    return large


# %% 3 right: one pixel of each four is read
def for_large(model):
    sizes = {"image_size": 56, "patch_size": 14}
    large = VisionTransformer(**model.config | sizes).eval()
    state = model.state_dict()
    kernel = torch.zeros_like(large.embeddings.proj.weight)
    kernel[:, :, ::2, ::2] = state["embeddings.proj.weight"]
    large.load_state_dict(state | {"embeddings.proj.weight": kernel})
    return large


# %% 3 wrong: the enlarged kernel is four times too strong
def for_large(model):
    sizes = {"image_size": 56, "patch_size": 14}
    large = VisionTransformer(**model.config | sizes).eval()
    state = model.state_dict()
    kernel = F.interpolate(state["embeddings.proj.weight"], (14, 14))
    large.load_state_dict(state | {"embeddings.proj.weight": kernel})
    return large


# %% 3 wrong: the old kernel in the middle of the patch
def for_large(model):
    sizes = {"image_size": 56, "patch_size": 14}
    large = VisionTransformer(**model.config | sizes).eval()
    state = model.state_dict()
    kernel = F.pad(state["embeddings.proj.weight"], (3, 4, 3, 4))
    large.load_state_dict(state | {"embeddings.proj.weight": kernel})
    return large


# %% 3 wrong: a new kernel
def for_large(model):
    sizes = {"image_size": 56, "patch_size": 14}
    large = VisionTransformer(**model.config | sizes).eval()
    state = model.state_dict()
    del state["embeddings.proj.weight"]
    large.load_state_dict(state, strict=False)
    return large


# %% 3 wrong: the pictures are shrunk in front of the old model
def for_large(model):
    return nn.Sequential(nn.AvgPool2d(2), model)


# %% 3 wrong: nothing
def for_large(model):
    return None


# %% 3 wrong: hard-coded
def for_large(model):
    large = at_image_size(model, 56)
    large.accuracy = 91.0
    return large
