# %% 1 right: a message a process
def ring_all_reduce(held):
    W = len(held)
    for t in range(2 * (W - 1)):
        message = [held[r][(r - t) % W] for r in range(W)]
        for r in range(W):
            to, place = (r + 1) % W, (r - t) % W
            old = held[to][place] if t < W - 1 else 0
            held[to][place] = old + message[r]
    return 2 * (W - 1)


# %% 1 right: from the end of the row
def ring_all_reduce(held):
    W, sent = len(held), 0
    for phase in (0, 1):
        for t in range(W - 1):
            moving = []
            for r in range(W):
                place = (r - t + phase) % W
                moving.append(((r + 1) % W, place, held[r][place]))
            for to, place, value in moving:
                held[to][place] = value if phase else held[to][place] + value
            sent += 1
    return sent


# %% 1 wrong: received before all have sent
def ring_all_reduce(held):
    W, sent = len(held), 0
    for t in range(2 * (W - 1)):
        for r in range(W):
            to, place = (r + 1) % W, (r - t) % W
            if t < W - 1:
                held[to][place] += held[r][t % W]
            else:
                held[to][place] = held[r][place]
        sent += 1
    return sent


# %% 1 wrong: all is sent at once
def ring_all_reduce(held):
    W = len(held)
    sums = [sum(column) for column in zip(*held)]
    for row in held:
        row[:] = sums
    return W * (W - 1)


# %% 1 wrong: summed in one place
def ring_all_reduce(held):
    sums = [sum(column) for column in zip(*held)]
    for row in held:
        row[:] = sums
    return 2 * (len(held) - 1)


# %% 1 wrong: sums alone, nothing handed out
def ring_all_reduce(held):
    W = len(held)
    for t in range(W - 1):
        message = [held[r][(r - t) % W] for r in range(W)]
        for r in range(W):
            held[(r + 1) % W][(r - t) % W] += message[r]
    return W - 1


# %% 1 wrong: hard-coded
def ring_all_reduce(held):
    for row in held:
        row[:] = [111, 222, 333]
    return 4


# %% 2 right: by image
def accuracy_of(parts, number):
    W = len(parts)
    right = [bool(parts[i % W][i // W]) for i in range(number)]
    return sum(right) / number


# %% 2 right: as a tensor
def accuracy_of(parts, number):
    table = torch.stack(parts).T.reshape(-1)
    return table[:number].float().mean()


# %% 2 wrong: copies counted
def accuracy_of(parts, number):
    return torch.cat(parts).float().mean().item()


# %% 2 wrong: process by process, then cut
def accuracy_of(parts, number):
    return torch.cat(parts)[:number].float().mean().item()


# %% 2 wrong: copies counted above only
def accuracy_of(parts, number):
    return sum(part.sum().item() for part in parts) / number


# %% 2 wrong: hard-coded
def accuracy_of(parts, number):
    return 3 / 7


# %% 3 right: eight bits of floating point
def pack(gradient):
    scale = gradient.abs().max() / 400
    return (gradient / scale).to(torch.float8_e4m3fn), scale.view(1)


def unpack(sent):
    return sent[0].float() * sent[1]


# %% 3 right: a tenth of the numbers, and where they stand
def pack(gradient):
    place = gradient.abs().topk(len(gradient) // 10).indices
    return gradient[place], place.int(), torch.tensor([len(gradient)])


def unpack(sent):
    values, place, length = sent
    whole = torch.zeros(int(length))
    whole[place.long()] = values
    return whole


# %% 3 wrong: half of the bytes
def pack(gradient):
    return (gradient.bfloat16(),)


def unpack(sent):
    return sent[0].float()


# %% 3 wrong: whole numbers without a scale
def pack(gradient):
    return (gradient.to(torch.int8),)


def unpack(sent):
    return sent[0].float()


# %% 3 wrong: its first quarter alone
def pack(gradient):
    return gradient[: len(gradient) // 4], torch.tensor([len(gradient)])


def unpack(sent):
    return F.pad(sent[0], (0, int(sent[1]) - len(sent[0])))


# %% 3 wrong: what unpack returns has another length
def pack(gradient):
    return (gradient[::4],)


def unpack(sent):
    return sent[0]


# %% 3 wrong: hard-coded
def pack(gradient):
    return (torch.zeros(1),)


def unpack(sent):
    return torch.linspace(-1, 1, 100)
