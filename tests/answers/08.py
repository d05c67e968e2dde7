# %% 1 right: zero_grad after the step, losses as tensors
def one_epoch(model, batches, optimizer, schedule):
    model.train()
    optimizer.zero_grad()
    losses = []
    for images, labels in batches:
        loss = nn.CrossEntropyLoss()(model(images), labels)
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses)


# %% 1 right: by Step
def one_epoch(model, batches, optimizer, schedule):
    step = Step(
        model.train(), optimizer, schedule, loss_fn=cross_entropy, clip_norm=math.inf
    )
    losses = []
    for batch in batches:
        losses.append(step.gradient(*batch))
        step.update()
    return losses


# %% 1 wrong: still in eval mode
def one_epoch(model, batches, optimizer, schedule):
    losses = []
    for images, labels in batches:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


# %% 1 wrong: gradients pile up
def one_epoch(model, batches, optimizer, schedule):
    model.train()
    losses = []
    for images, labels in batches:
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


# %% 1 wrong: the schedule moves once
def one_epoch(model, batches, optimizer, schedule):
    model.train()
    losses = []
    for images, labels in batches:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    schedule.step()
    return losses


# %% 1 wrong: log-softmax averaged, the softmax kept
def one_epoch(model, batches, optimizer, schedule):
    model.train()
    losses = []
    for images, labels in batches:
        loss = F.cross_entropy(model(images).softmax(dim=1), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


# %% 1 wrong: the right losses, and no step
def one_epoch(model, batches, optimizer, schedule):
    model.train()
    return [F.cross_entropy(model(images), labels) for images, labels in batches]


# %% 1 wrong: the mean loss
def one_epoch(model, batches, optimizer, schedule):
    model.train()
    return sum(F.cross_entropy(model(x), y).item() for x, y in batches) / 5


# %% 1 wrong: two steps back
def one_epoch(model, batches, optimizer, schedule):
    model.train()
    losses = []
    for images, labels in batches:
        loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


# %% 1 wrong: the model is given the labels too
def one_epoch(model, batches, optimizer, schedule):
    model.train()
    return [F.cross_entropy(model(x, y), y).item() for x, y in batches]


# %% 1 wrong: nothing
def one_epoch(model, batches, optimizer, schedule):
    return None


# %% 1 wrong: hard-coded
def one_epoch(model, batches, optimizer, schedule):
    return [1.125, 1.25, 1.073, 1.047, 1.124]


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
def train_quickly(few):
    model = new_vit(patch_size=14, embed_dim=48, depth=2, mlp_dim=96)
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 8e-3, total_steps=128)
    for epoch in range(4):
        for images, labels in few.train.batches(128, seed=0, epoch=epoch):
            loss = F.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    return model


# %% 3 right: a single patch and one block
def train_quickly(few):
    model = new_vit(patch_size=28, depth=1)
    fit(model, few, epochs=5, lr=4e-3, betas=(0.9, 0.99), progress=False)
    return model


# %% 3 wrong: a rate too low
def train_quickly(few):
    few.train = few.train.subset(128)
    fit(model := small_vit(), few, epochs=1, lr=1e-4, progress=False)
    return model


# %% 3 wrong: another model
def train_quickly(few):
    return cnn()


# %% 3 wrong: the history of a run, no model
def train_quickly(few):
    few.train = few.train.subset(128)
    return fit(small_vit(), few, epochs=1, progress=False)


# %% 3 wrong: a model trained before, its answers turned round
def train_quickly(few):
    weights = {name: w.clone() for name, w in vit.state_dict().items()}
    for name in ("head.weight", "head.bias"):
        weights[name] = weights[name].flip(0)
    model = new_vit()
    model.load_state_dict(weights)
    return model


# %% 3 wrong: trained on the images of the validation, in their old order
def train_quickly(few):
    few.train = fashion.validation.subset(512)
    fit(model := small_vit(), few, epochs=2, lr=4e-3, progress=False)
    return model


# %% 3 wrong: hard-coded
def train_quickly(few):
    return vit


# %% 4 right: by the sample's standard deviation
def plan(n, only_first, only_second):
    ahead = torch.zeros(n)
    ahead[:only_first] = 1
    ahead[n - only_second :] = -1
    spread, lead = ahead.std(), ahead.mean()
    return 100 * lead, 196 * spread / n**0.5, math.ceil((3.92 * spread / lead) ** 2)


# %% 4 right: by McNemar's counts
def plan(n, only_first, only_second):
    differ, gap = only_first + only_second, only_first - only_second
    half = 196 / n * math.sqrt(differ - gap**2 / n)
    return 100 * gap / n, half, 4 * 1.96**2 * (n * differ / gap**2 - 1)


# %% 4 wrong: as if of two sets of images
def plan(n, only_first, only_second):
    lead = (only_first - only_second) / n
    p, q = 0.9, 0.9 - lead
    half = 1.96 * math.sqrt((p * (1 - p) + q * (1 - q)) / n)
    return 100 * lead, 100 * half, n * (2 * half / lead) ** 2


# %% 4 wrong: the lead is forgotten in the variance
def plan(n, only_first, only_second):
    differ, gap = only_first + only_second, only_first - only_second
    half = 196 / n * math.sqrt(differ)
    return 100 * gap / n, half, n * (2 * half * n / 100 / gap) ** 2


# %% 4 wrong: one standard error
def plan(n, only_first, only_second):
    mean, square = (only_first - only_second) / n, (only_first + only_second) / n
    half = math.sqrt((square - mean**2) / n)
    return 100 * mean, 100 * half, n * (2 * half / mean) ** 2


# %% 4 wrong: as many images until the interval ends at zero
def plan(n, only_first, only_second):
    mean, square = (only_first - only_second) / n, (only_first + only_second) / n
    half = 1.96 * math.sqrt((square - mean**2) / n)
    return 100 * mean, 100 * half, n * (half / mean) ** 2


# %% 4 wrong: the half-width taken to fall with the number of images
def plan(n, only_first, only_second):
    mean, square = (only_first - only_second) / n, (only_first + only_second) / n
    half = 1.96 * math.sqrt((square - mean**2) / n)
    return 100 * mean, 100 * half, n * 2 * half / abs(mean)


# %% 4 wrong: hard-coded
def plan(n, only_first, only_second):
    return 0.7, 0.9, 36_600
