# %% 1 right: least squares
def ends_at(start, x, y):
    missing = (y - x @ start)[:, None]
    return start + torch.linalg.lstsq(x, missing).solution[:, 0]


# %% 1 right: how much of each example
def ends_at(start, x, y):
    return start + torch.linalg.solve(x @ x.T, y - x @ start) @ x


# %% 1 wrong: as if it started from nothing
def ends_at(start, x, y):
    return torch.linalg.pinv(x) @ y


# %% 1 wrong: each example by itself, as if there were no others
def ends_at(start, x, y):
    steps = (y - x @ start) / x.square().sum(dim=1)
    return start + steps @ x


# %% 1 wrong: it fits by the first weights alone
def ends_at(start, x, y):
    end, n = start.clone(), len(x)
    end[:n] += torch.linalg.solve(x[:, :n], y - x @ start)
    return end


# %% 1 wrong: one step
def ends_at(start, x, y):
    return start + 0.1 * x.T @ (y - x @ start)


# %% 1 wrong: nothing
def ends_at(start, x, y):
    return None


# %% 1 wrong: hard-coded
def ends_at(start, x, y):
    return torch.tensor([1.2, 1.8], dtype=torch.double)


# %% 2 right: the head alone is changed
def with_classes(model, num_classes):
    made = copy.deepcopy(model)
    made.head = nn.Linear(made.head.in_features, num_classes)
    made.config = made.config | {"num_classes": num_classes}
    return made


# %% 2 right: name by name
def with_classes(model, num_classes):
    made = type(model)(**{**model.config, "num_classes": num_classes})
    trained = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if not name.startswith("head"):
                parameter.copy_(trained[name])
    return made


# %% 2 wrong: all weights are new
def with_classes(model, num_classes):
    return VisionTransformer(**model.config | {"num_classes": num_classes})


# %% 2 wrong: the config still names the old classes
def with_classes(model, num_classes):
    made = copy.deepcopy(model)
    made.head = nn.Linear(made.head.in_features, num_classes)
    made.config = dict(model.config)
    return made


# %% 2 wrong: the old model is changed
def with_classes(model, num_classes):
    nn.init.zeros_(model.head.weight)
    made = copy.deepcopy(model)
    made.head = nn.Linear(made.head.in_features, num_classes)
    made.config = made.config | {"num_classes": num_classes}
    return made


# %% 2 wrong: the body is frozen
def with_classes(model, num_classes):
    made = copy.deepcopy(model).requires_grad_(False)
    made.head = nn.Linear(made.head.in_features, num_classes)
    made.config = made.config | {"num_classes": num_classes}
    return made


# %% 2 wrong: one head on the other
def with_classes(model, num_classes):
    return nn.Sequential(copy.deepcopy(model), nn.Linear(10, num_classes))


# %% 2 wrong: hard-coded
def with_classes(model, num_classes):
    made = copy.deepcopy(model)
    made.head = nn.Linear(made.head.in_features, 4)
    made.config = made.config | {"num_classes": 4}
    return made


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
