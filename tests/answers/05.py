# %% 1 right: only what is asked for
def follow(notes, steps, look):
    known = notes.unsqueeze(0)
    while known.shape[0] < steps:
        wanted = known[: steps - known.shape[0]]
        known = torch.cat([known, look(known[-1], wanted)])
    return known[-1]


# %% 1 right: by binary digits, with a list of rows
def follow(notes, steps, look):
    rest, here, jump = steps - 1, notes, notes
    while rest:
        if rest % 2:
            both = look(jump, torch.stack([here, jump]))
            here, jump = both[0], both[1]
        else:
            jump = look(jump, jump)
        rest //= 2
    return here


# %% 1 right: in floats
def follow(notes, steps, look):
    known = [notes.float()]
    while len(known) < steps:
        known += look(known[-1].long(), torch.stack(known))
    return known[steps - 1]


# %% 1 wrong: a look a note
def follow(notes, steps, look):
    place = notes
    for _ in range(steps - 1):
        place = look(place, notes)
    return place


# %% 1 wrong: no looks, all notes at once
def follow(notes, steps, look):
    place = notes
    for _ in range(steps - 1):
        place = notes[place]
    return place


# %% 1 wrong: powers of two alone
def follow(notes, steps, look):
    reach, place = 1, notes
    while reach < steps:
        reach, place = 2 * reach, look(place, place)
    return place


# %% 1 wrong: too far, then back, as if each place lay on one note alone
def follow(notes, steps, look):
    reach, place = 1, notes
    while reach < steps:
        reach, place = 2 * reach, look(place, place)
    for _ in range(reach - steps):
        place = notes.argsort()[place]
    return place


# %% 1 wrong: a look too many
def follow(notes, steps, look):
    known = notes[None]
    while len(known) <= steps:
        known = torch.cat([known, look(known[-1], known)])
    return known[steps - 1]


# %% 1 wrong: hard-coded
def follow(notes, steps, look):
    return torch.tensor([1, 7, 2, 0, 6, 5, 3, 6])


# %% 2 right: what enters the next block, and the last norm
def streams(encoder, x):
    found, handles = [], []
    for part in [*encoder.blocks[1:], encoder.norm]:
        hook = part.register_forward_pre_hook(lambda _, args: found.append(args[0]))
        handles.append(hook)
    encoder(x)
    for handle in handles:
        handle.remove()
    return found


# %% 2 right: a dict of blocks
def streams(encoder, x):
    kept = {}

    def keep(module, args, output):
        tokens, _ = output
        kept[module] = tokens

    hooks = [block.register_forward_hook(keep) for block in encoder.blocks]
    encoder(x)
    [hook.remove() for hook in hooks]
    return [kept[block] for block in encoder.blocks]


# %% 2 right: a hook on every module there is, removed
def streams(encoder, x):
    found = []

    def keep(module, args, output):
        if isinstance(module, Block):
            found.append(output[0])

    handle = nn.modules.module.register_module_forward_hook(keep)
    encoder(x)
    handle.remove()
    return found


# %% 2 wrong: a hook on every module there is stays
def streams(encoder, x):
    found = []

    def keep(module, args, output):
        if isinstance(module, Block):
            found.append(output[0])

    nn.modules.module.register_module_forward_hook(keep)
    encoder(x)
    return found


# %% 2 wrong: a hook before every module there is stays
def streams(encoder, x):
    found, parts = [], [*encoder.blocks[1:], encoder.norm]

    def keep(module, args):
        if any(module is part for part in parts):
            found.append(args[0])

    nn.modules.module.register_module_forward_pre_hook(keep)
    encoder(x)
    return found


# %% 2 wrong: the class's forward is replaced
def streams(encoder, x):
    found, forward = [], Block.forward

    def listen(self, *args, **options):
        tokens, weights = forward(self, *args, **options)
        found.append(tokens)
        return tokens, weights

    Block.forward = listen
    encoder(x)
    return found


# %% 2 wrong: each block is wrapped
def streams(encoder, x):
    found = []

    class Listener(nn.Module):
        def __init__(self, block):
            super().__init__()
            self.block = block

        def forward(self, *args, **options):
            tokens, weights = self.block(*args, **options)
            found.append(tokens)
            return tokens, weights

    encoder.blocks = nn.ModuleList(map(Listener, encoder.blocks))
    encoder(x)
    return found


# %% 2 right: the class's forward is replaced, and put back
def streams(encoder, x):
    found, forward = [], Block.forward

    def listen(self, *args, **options):
        tokens, weights = forward(self, *args, **options)
        found.append(tokens)
        return tokens, weights

    Block.forward = listen
    try:
        encoder(x)
    finally:
        Block.forward = forward
    return found


# %% 2 wrong: each forward is replaced
def streams(encoder, x):
    found = []

    def listening(forward):
        def listen(*args, **options):
            tokens, weights = forward(*args, **options)
            found.append(tokens)
            return tokens, weights

        return listen

    for block in encoder.blocks:
        block.forward = listening(block.forward)
    encoder(x)
    return found


# %% 2 wrong: all hooks are removed, not its own alone
def streams(encoder, x):
    found = []
    for block in encoder.blocks:
        block.register_forward_hook(lambda _, args, output: found.append(output[0]))
    encoder(x)
    for module in encoder.modules():
        module._forward_hooks.clear()
    return found


# %% 2 wrong: the hooks stay
def streams(encoder, x):
    found = []
    for block in encoder.blocks:
        block.register_forward_hook(lambda _, args, output: found.append(output[0]))
    encoder(x)
    return found


# %% 2 wrong: hooks stay on parts of the blocks
def streams(encoder, x):
    found = []
    for part in [*[block.norm1 for block in encoder.blocks[1:]], encoder.norm]:
        part.register_forward_pre_hook(lambda _, args: found.append(args[0]))
    encoder(x)
    return found


# %% 2 wrong: a loop by hand
def streams(encoder, x):
    found = []
    for block in encoder.blocks:
        x, _ = block(x)
        found.append(x)
    return found


# %% 2 wrong: a loop by hand beside the call
def streams(encoder, x):
    encoder(x)
    found = []
    for block in encoder.blocks:
        x, _ = block(x)
        found.append(x)
    return found


# %% 2 wrong: hard-coded
def streams(encoder, x):
    encoder(x)
    return [x, x, x, x]


# %% 3 right: the trails that notes make, all of them gone through
def by_heart():
    found = set()
    for world in product(range(4), repeat=4):
        for start in range(4):
            trail = [start]
            while len(trail) < 5:
                trail.append(world[trail[-1]])
            found.add(tuple(trail))
    w1, w2 = torch.zeros(len(found), 20), torch.zeros(4, len(found))
    for i, trail in enumerate(sorted(found)):
        w1[i, trail[0]] += 1
        for at, note in zip(trail, trail[1:]):
            w1[i, 4 + 4 * at + note] += 1
        w2[trail[-1], i] = 1
    return w1, torch.full((len(found),), -4.0), w2


# %% 3 right: larger weights, in double precision
def by_heart():
    trails = []
    for trail in product(range(4), repeat=5):
        notes = {}
        if all(notes.setdefault(a, b) == b for a, b in zip(trail, trail[1:])):
            trails.append((trail, notes))
    w1 = torch.zeros(len(trails), 20, dtype=torch.float64)
    w2 = torch.zeros(4, len(trails), dtype=torch.float64)
    for i, (trail, notes) in enumerate(trails):
        w1[i, trail[0]] = 10
        for at, note in notes.items():
            w1[i, 4 + 4 * at + note] = 10
        w2[trail[-1], i] = 3
    return [w1, 5 - w1.sum(dim=1), w2]


# %% 3 wrong: all trails that can be written down
def by_heart():
    w1, w2 = torch.zeros(1024, 20), torch.zeros(4, 1024)
    for i, trail in enumerate(product(range(4), repeat=5)):
        w1[i, trail[0]] += 1
        for at, note in zip(trail, trail[1:]):
            w1[i, 4 + 4 * at + note] += 1
        w2[trail[-1], i] = 1
    return w1, torch.full((1024,), -4.0), w2


# %% 3 wrong: trails of two notes
def by_heart():
    w1, w2 = torch.zeros(64, 20), torch.zeros(4, 64)
    for i, trail in enumerate(product(range(4), repeat=3)):
        w1[i, trail[0]] += 1
        for at, note in zip(trail, trail[1:]):
            w1[i, 4 + 4 * at + note] += 1
        w2[trail[-1], i] = 1
    return w1, torch.full((64,), -2.0), w2


# %% 3 wrong: a bias at which none is on
def by_heart():
    found = {(*t, t[-1]) for t in product(range(4), repeat=3)}
    return torch.ones(64, 20), torch.full((64,), -20.0), torch.ones(4, len(found))


# %% 3 wrong: one place for all
def by_heart():
    return torch.zeros(1, 20), torch.ones(1), torch.tensor([[1.0], [0], [0], [0]])


# %% 3 wrong: random weights
def by_heart():
    return torch.randn(200, 20), torch.randn(200), torch.randn(4, 200)


# %% 3 wrong: no layers, the answers
def by_heart():
    return goals


# %% 3 wrong: hard-coded
def by_heart():
    w1 = torch.cat([torch.eye(4), torch.zeros(4, 16)], dim=1)
    return w1, torch.zeros(4), torch.eye(4)[[1, 3, 2, 0]]
