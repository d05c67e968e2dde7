# %% 1 right: patches leave one by one
def curve(scores):
    order = scores.argsort(dim=1, descending=True)
    gone = torch.zeros(scores.shape, dtype=torch.bool)
    found = torch.empty(16)
    for k in range(16):
        with torch.no_grad():
            now = removed(vit, images[: len(scores)], gone).argmax(dim=1)
        found[k] = 100 * (now != predicted[: len(scores)]).float().mean()
        gone = gone.scatter(1, order[:, k : k + 1], True)
    return found


# %% 1 right: a list of tensors
def curve(scores):
    return [changed(scores, removed, k).mean() for k in range(16)]


# %% 1 wrong: without 1 to 16 patches
def curve(scores):
    return [changed(scores, removed, min(k + 1, 15)).mean() for k in range(16)]


# %% 1 wrong: the lowest scores first
def curve(scores):
    return [changed(-scores, removed, k).mean() for k in range(16)]


# %% 1 wrong: painted
def curve(scores):
    return [changed(scores, painted, k).mean() for k in range(16)]


# %% 1 wrong: shares, not percentages
def curve(scores):
    return [changed(scores, removed, k).mean() / 100 for k in range(16)]


# %% 1 wrong: each image by itself
def curve(scores):
    return torch.stack([changed(scores, removed, k) for k in range(16)])


# %% 1 wrong: hard-coded
def curve(scores):
    return [3 * k for k in range(16)]


# %% 2 right: patches in a random order, put into the places of their kind
def control(scores, empty):
    places = scores.argsort(dim=1, descending=True)
    slots = empty.gather(1, places).float().argsort(dim=1, stable=True)
    drawn = (torch.rand(scores.shape) + empty).argsort(dim=1)
    order = torch.empty_like(places).scatter(1, slots, drawn)
    return -order.argsort(dim=1).float()


# %% 2 right: whole numbers, kind by kind
def control(scores, empty):
    rank = scores.argsort(1).argsort(1)
    found = torch.zeros_like(rank)
    for i in range(len(rank)):
        for kind in (True, False):
            at = (empty[i] == kind).nonzero()[:, 0]
            found[i, at[torch.randperm(len(at))]] = rank[i, at]
    return found


# %% 2 wrong: a random order
def control(scores, empty):
    return torch.rand(scores.shape)


# %% 2 wrong: object patches first, at random
def control(scores, empty):
    return torch.rand(scores.shape) - empty.float()


# %% 2 wrong: the map itself
def control(scores, empty):
    return scores


# %% 2 wrong: another image's map
def control(scores, empty):
    return scores.roll(1, dims=0)


# %% 2 wrong: only the object's patches shuffled
def control(scores, empty):
    found = scores.clone()
    for row, blank in zip(found, empty):
        row[~blank] = row[~blank][torch.randperm(int((~blank).sum()))]
    return found


# %% 2 wrong: by place, not at random
def control(scores, empty):
    found = scores.clone()
    for row, blank in zip(found, empty):
        for group in (blank, ~blank):
            row[group] = row[group].sort().values
    return found


# %% 2 wrong: the right numbers on average, not in each image
def control(scores, empty):
    found = torch.rand(scores.shape)
    return found + (scores[empty].mean() - scores[~empty].mean()) * empty


# %% 2 wrong: hard-coded
def control(scores, empty):
    return orders["random"]


# %% 3 right: AdamW, the number of gaps in turn
import copy

torch.manual_seed(1)
knowing = copy.deepcopy(vit)
optimizer = torch.optim.AdamW(knowing.parameters(), lr=5e-4)
for step, (batch, target) in enumerate(fashion.train.batches(64)):
    if step == 30:
        break
    gone = torch.rand(len(batch), 16).argsort(dim=1) < step % 9
    loss = F.cross_entropy(removed(knowing, batch, gone), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %% 3 right: the answers of the network that sees all patches are the targets
import copy

torch.manual_seed(2)
knowing = copy.deepcopy(vit)
optimizer = torch.optim.Adam(knowing.parameters(), lr=5e-4)
batches = iter(fashion.train.batches(64))
for _ in range(30):
    batch, _ = next(batches)
    with torch.no_grad():
        wanted = vit(batch).softmax(dim=1)
    few = first(torch.rand(len(batch), 16), int(torch.randint(3, 8, ())))
    loss = F.cross_entropy(removed(knowing, batch, few), wanted)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %% 3 wrong: as it was
import copy

knowing = copy.deepcopy(vit)

# %% 3 wrong: gaps that are painted
import copy

torch.manual_seed(0)
knowing = copy.deepcopy(vit)
optimizer = torch.optim.Adam(knowing.parameters(), lr=1e-3)
for step, (batch, target) in enumerate(fashion.train.batches(64)):
    if step == 20:
        break
    gone = first(torch.rand(len(batch), 16), int(torch.randint(9, ())))
    loss = F.cross_entropy(painted(knowing, batch, gone), target)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %% 3 wrong: always the same answer
import copy

knowing = copy.deepcopy(vit)
with torch.no_grad():
    knowing.head.bias[0] += 100

# %% 3 wrong: hard-coded
knowing = (0.86, 0.84)
