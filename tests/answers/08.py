# %% 1 right: image by image
def accuracy(right, sizes):
    total = images = 0
    for r, n in zip(right, sizes, strict=True):
        total, images = total + r, images + n
    return total / images


# %% 1 right: a weighted mean, as a tensor
def accuracy(right, sizes):
    sizes = torch.tensor(sizes, dtype=torch.float64)
    shares = torch.tensor(right, dtype=torch.float64) / sizes
    return (shares * sizes / sizes.sum()).sum()


# %% 1 wrong: the mean of the batches
def accuracy(right, sizes):
    return sum(r / n for r, n in zip(right, sizes, strict=True)) / len(sizes)


# %% 1 wrong: in per cent
def accuracy(right, sizes):
    return 100 * sum(right) / sum(sizes)


# %% 1 wrong: all batches as large as the first
def accuracy(right, sizes):
    return sum(right) / (sizes[0] * len(sizes))


# %% 1 wrong: a list
def accuracy(right, sizes):
    return [r / n for r, n in zip(right, sizes, strict=True)]


# %% 1 wrong: a text
def accuracy(right, sizes):
    return f"{sum(right) / sum(sizes):.1%}"


# %% 1 wrong: hard-coded
def accuracy(right, sizes):
    return 630 / 784


# %% 2 right: targets written out
def smoothed_loss(logits, labels, epsilon):
    K = logits.shape[1]
    targets = torch.full_like(logits, epsilon / K)
    targets[torch.arange(len(labels)), labels] += 1 - epsilon
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()


# %% 2 right: two cross-entropies, as a number
def smoothed_loss(logits, labels, epsilon):
    K = logits.shape[1]
    even = torch.full_like(logits, 1 / K)
    of_labels = F.cross_entropy(logits, labels).item()
    return (1 - epsilon) * of_labels + epsilon * F.cross_entropy(logits, even).item()


# %% 2 right: PyTorch's own
def smoothed_loss(logits, labels, epsilon):
    return F.cross_entropy(logits, labels, label_smoothing=epsilon)


# %% 2 wrong: a text
def smoothed_loss(logits, labels, epsilon):
    return f"{F.cross_entropy(logits, labels, label_smoothing=epsilon):.4f}"


# %% 2 wrong: epsilon over the other classes only
def smoothed_loss(logits, labels, epsilon):
    K = logits.shape[1]
    targets = torch.full_like(logits, epsilon / (K - 1))
    targets[torch.arange(len(labels)), labels] = 1 - epsilon
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1).mean()


# %% 2 wrong: without epsilon
def smoothed_loss(logits, labels, epsilon):
    return F.cross_entropy(logits, labels)


# %% 2 wrong: a loss for each image
def smoothed_loss(logits, labels, epsilon):
    return F.cross_entropy(logits, labels, label_smoothing=epsilon, reduction="none")


# %% 2 wrong: hard-coded
def smoothed_loss(logits, labels, epsilon):
    return F.cross_entropy(logits, labels, label_smoothing=0.1)


# %% 3 right: the loop by hand, a narrower model
def train_quickly(split):
    model = VisionTransformer(
        image_size=28,
        patch_size=14,
        in_channels=1,
        num_classes=10,
        embed_dim=48,
        depth=2,
        num_heads=4,
        mlp_dim=96,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=320)
    for epoch in range(10):
        for images, labels in split.batches(128, seed=0, epoch=epoch):
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    return model


# %% 3 right: three blocks, in small batches
def train_quickly(split):
    torch.manual_seed(1)
    model = VisionTransformer(
        image_size=28,
        patch_size=14,
        in_channels=1,
        num_classes=10,
        embed_dim=64,
        depth=3,
        num_heads=2,
        mlp_dim=64,
    )
    few = SimpleNamespace(train=split, validation=split.subset(10))
    fit(model, few, epochs=4, batch_size=64, lr=3e-3, progress=False, seed=5)
    return model


# %% 3 wrong: a rate too low
def train_quickly(split):
    few = SimpleNamespace(train=split, validation=split.subset(10))
    fit(model := new_vit(), few, epochs=1, lr=1e-4, progress=False)
    return model


# %% 3 wrong: another model
def train_quickly(split):
    few = SimpleNamespace(train=split, validation=split.subset(10))
    fit(model := cnn(), few, epochs=1, lr=4e-3, progress=False)
    return model


# %% 3 wrong: only the history
def train_quickly(split):
    few = SimpleNamespace(train=split.subset(128), validation=split.subset(10))
    return fit(new_vit(), few, epochs=1, progress=False)


# %% 3 wrong: a model trained before, its answers turned round
def train_quickly(split):
    weights = {name: w.clone() for name, w in vit.state_dict().items()}
    for name in ("head.weight", "head.bias"):
        weights[name] = weights[name].flip(0)
    model = new_vit()
    model.load_state_dict(weights)
    return model


# %% 3 wrong: trained on the validation images
def train_quickly(split):
    few = SimpleNamespace(train=fashion.validation, validation=split.subset(10))
    fit(model := new_vit(), few, epochs=2, lr=4e-3, progress=False)
    return model


# %% 3 wrong: hard-coded
def train_quickly(split):
    return vit
