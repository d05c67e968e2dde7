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


# %% 3 right: the best of several rates, then a run
def diagnose(loop):
    one = replace(fashion.train.subset(32), augment=None)
    ends = {lr: min(loop(one, lr)) for lr in (0.01, 0.1, 1.0)}
    if max(ends.values()) - min(ends.values()) < 0.01 and min(ends.values()) > 2:
        return "optimizer"
    if min(ends.values()) > 1.3:
        return "softmax"
    if ends[0.01] > 0.3:
        return "rate"
    return "labels" if min(loop(fashion.train, 0.01)) > 1.8 else "sound"


# %% 3 right: the run first, and a rate a hundred times as high
def diagnose(loop):
    usual, high = (mean(loop(fashion.train, lr)[-10:]) for lr in (0.01, 1.0))
    one = replace(fashion.train.subset(32), augment=None)
    if usual < 1.3:
        return "sound"
    if loop(one, 0.01)[-1] < 0.3:
        return "labels"
    if high < 1.3:
        return "rate"
    return "softmax" if loop(one, 0.01)[-1] < loop(one, 0.01)[0] - 0.1 else "optimizer"


# %% 3 wrong: a single run on fresh images
def diagnose(loop):
    end = mean(loop(fashion.train, 0.01)[-20:])
    names = ((1.2, "sound"), (1.9, "softmax"), (2.2, "rate"), (2.29, "labels"))
    return next((name for bound, name in names if end < bound), "optimizer")


# %% 3 wrong: by heart at one rate alone
def diagnose(loop):
    one = replace(fashion.train.subset(32), augment=None)
    losses = loop(one, 0.01)
    if losses[-1] < 0.3:
        return "sound"
    return "softmax" if losses[-1] < losses[0] - 0.1 else "optimizer"


# %% 3 wrong: every flat loss is the optimizer's, no second rate
def diagnose(loop):
    one = replace(fashion.train.subset(32), augment=None)
    if loop(one, 0.01)[-1] > 0.3:
        return "softmax" if loop(one, 0.01)[-1] < 2.2 else "optimizer"
    return "labels" if loop(fashion.train, 0.01)[-1] > 2 else "sound"


# %% 3 wrong: no name
def diagnose(loop):
    return loop(fashion.train.subset(32), 0.01)[-1] < 0.3


# %% 3 wrong: a list of all names
def diagnose(loop):
    return ["sound", "optimizer", "softmax", "labels", "rate"]


# %% 3 wrong: by the first loss
def diagnose(loop):
    return "sound" if abs(loop(fashion.train, 0.01)[0] - math.log(10)) < 0.3 else "rate"


# %% 3 wrong: hard-coded
def diagnose(loop):
    return "labels"


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
