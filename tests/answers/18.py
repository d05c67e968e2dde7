# %% 1 right: by the logarithms of the classes
def mixed_loss(logits, first, second, share):
    log = logits.log_softmax(dim=1)
    rows = torch.arange(len(logits))
    return -(share * log[rows, first] + (1 - share) * log[rows, second]).mean()


# %% 1 right: by probabilities
def mixed_loss(logits, first, second, share):
    labels = torch.zeros_like(logits)
    rows = torch.arange(len(logits))
    labels[rows, first] += share
    labels[rows, second] += 1 - share
    return F.cross_entropy(logits, labels).item()


# %% 1 wrong: the shares swapped
def mixed_loss(logits, first, second, share):
    losses = [F.cross_entropy(logits, label) for label in (first, second)]
    return (1 - share) * losses[0] + share * losses[1]


# %% 1 wrong: the logarithm of the mixed probability
def mixed_loss(logits, first, second, share):
    rows, p = torch.arange(len(logits)), logits.softmax(dim=1)
    return -(share * p[rows, first] + (1 - share) * p[rows, second]).log().mean()


# %% 1 wrong: the larger share alone
def mixed_loss(logits, first, second, share):
    return F.cross_entropy(logits, first if share >= 0.5 else second)


# %% 1 wrong: hard-coded
def mixed_loss(logits, first, second, share):
    return {0.7: 3.9, 0.25: 2.1}.get(share, 4.0)


# %% 2 right: place by place
def repeated(order, repeats):
    return torch.stack([order[place // repeats] for place in range(len(order))])


# %% 2 right: by rows of a table
def repeated(order, repeats):
    return order[:, None].expand(-1, repeats).reshape(-1)[: len(order)]


# %% 2 wrong: the whole epoch again and again
def repeated(order, repeats):
    return order.repeat(repeats)[: len(order)]


# %% 2 wrong: an epoch three times as long
def repeated(order, repeats):
    return order.repeat_interleave(repeats)


# %% 2 wrong: copies of the last third
def repeated(order, repeats):
    return order.repeat_interleave(repeats)[-len(order) :]


# %% 2 wrong: hard-coded
def repeated(order, repeats):
    return order[torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3])][: len(order)]


# %% 3 right: Mixup
def strengthened(images, labels, generator):
    share = torch.rand((), generator=generator).item()
    return mixup(images.float(), F.one_hot(labels, 10).float(), share)


# %% 3 right: CutMix by torchvision, which draws from the global generator
def strengthened(images, labels, generator):
    return v2.CutMix(num_classes=10)(images.float(), labels)


# %% 3 wrong: pixels from 0 to 1
def strengthened(images, labels, generator):
    return mixup(images / 255, F.one_hot(labels, 10).float(), 0.7)


# %% 3 wrong: labels that stay numbers
def strengthened(images, labels, generator):
    return images.flip(3), labels


# %% 3 wrong: written into the pictures
def strengthened(images, labels, generator):
    images[:, :, :14] = images.roll(1, dims=0)[:, :, :14]
    labels = F.one_hot(labels, 10).float()
    return images, (labels + labels.roll(1, dims=0)) / 2


# %% 3 wrong: hard-coded
def strengthened(images, labels, generator):
    return images, F.one_hot(labels, 10).float()
