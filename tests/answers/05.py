# %% 1 right: by a logarithm
import math


def blocks_needed(steps):
    return math.ceil(math.log2(steps))


# %% 1 right: by binary digits
def blocks_needed(steps):
    return (int(steps) - 1).bit_length()


# %% 1 right: a float
def blocks_needed(steps):
    reach, depth = 1, 0.0
    while reach < steps:
        reach, depth = 2 * reach, depth + 1
    return depth


# %% 1 wrong: rounded down
def blocks_needed(steps):
    return steps.bit_length() - 1


# %% 1 wrong: a block a note
def blocks_needed(steps):
    return steps - 1


# %% 1 wrong: hard-coded
def blocks_needed(steps):
    return {1: 0, 2: 1, 3: 2, 4: 2, 5: 3, 8: 3, 9: 4, 1000: 10}.get(steps, 10)


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


# %% 3 right: a smaller block, of other sizes
torch.manual_seed(1)
reader = TrailReader(depth=1, mlp_dim=64, times=3)
train(reader, steps=8, updates=150)

# %% 3 right: a loop of one's own
torch.manual_seed(2)
reader = TrailReader(1, 96, times=3)
optimizer = torch.optim.Adam(reader.parameters(), lr=3e-3)
for _ in range(150):
    notes, answer = trails(64, 8)
    loss = F.cross_entropy(reader(notes)[0].transpose(1, 2), answer)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %% 3 wrong: two looks
reader = TrailReader(depth=1, mlp_dim=96, times=2)
train(reader, steps=8, updates=20)

# %% 3 wrong: three narrow blocks, hardly trained
reader = TrailReader(depth=3, mlp_dim=48, embed_dim=32)
train(reader, steps=8, updates=20)

# %% 3 wrong: too large
reader = TrailReader(depth=3, mlp_dim=96)
train(reader, steps=8, updates=5)

# %% 3 wrong: not trained
reader = TrailReader(depth=1, mlp_dim=96, times=3)

# %% 3 wrong: what train returns
reader = train(TrailReader(depth=1, mlp_dim=96, times=3), steps=8, updates=5)

# %% 3 wrong: hard-coded
reader = 0.99
