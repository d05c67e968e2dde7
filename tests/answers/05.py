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


# %% 2 right: counted for one image
def largest_batch(memory, depth, num_heads, num_tokens):
    floats = 0
    for _ in range(depth):
        floats += num_heads * num_tokens * num_tokens
    return int(memory / (floats * 4))


# %% 2 right: one image after the other
def largest_batch(memory, depth, num_heads, num_tokens):
    image = depth * torch.empty(num_heads, num_tokens, num_tokens).nbytes
    return memory // image


# %% 2 wrong: one head, one layer
def largest_batch(memory, depth, num_heads, num_tokens):
    return int(memory // (4 * num_tokens**2))


# %% 2 wrong: without the depth
def largest_batch(memory, depth, num_heads, num_tokens):
    return int(memory // (4 * num_heads * num_tokens**2))


# %% 2 wrong: without the heads
def largest_batch(memory, depth, num_heads, num_tokens):
    return int(memory // (4 * depth * num_tokens**2))


# %% 2 wrong: hard-coded
def largest_batch(memory, depth, num_heads, num_tokens):
    return 4 if memory == 4 * 5 * 3 * 2 * 7**2 - 1 else 5


# %% 3 right: what enters the next block, and the last norm
def streams(encoder, x):
    found, handles = [], []
    for part in [*encoder.blocks[1:], encoder.norm]:
        hook = part.register_forward_pre_hook(lambda _, args: found.append(args[0]))
        handles.append(hook)
    encoder(x)
    for handle in handles:
        handle.remove()
    return found


# %% 3 right: a dict of blocks
def streams(encoder, x):
    kept = {}

    def keep(module, args, output):
        tokens, _ = output
        kept[module] = tokens

    hooks = [block.register_forward_hook(keep) for block in encoder.blocks]
    encoder(x)
    [hook.remove() for hook in hooks]
    return [kept[block] for block in encoder.blocks]


# %% 3 wrong: the hooks stay
def streams(encoder, x):
    found = []
    for block in encoder.blocks:
        block.register_forward_hook(lambda _, args, output: found.append(output[0]))
    encoder(x)
    return found


# %% 3 wrong: hooks stay on parts of the blocks
def streams(encoder, x):
    found = []
    for part in [*[block.norm1 for block in encoder.blocks[1:]], encoder.norm]:
        part.register_forward_pre_hook(lambda _, args: found.append(args[0]))
    encoder(x)
    return found


# %% 3 wrong: a loop by hand
def streams(encoder, x):
    found = []
    for block in encoder.blocks:
        x, _ = block(x)
        found.append(x)
    return found


# %% 3 wrong: a loop by hand beside the call
def streams(encoder, x):
    encoder(x)
    found = []
    for block in encoder.blocks:
        x, _ = block(x)
        found.append(x)
    return found


# %% 3 wrong: hard-coded
def streams(encoder, x):
    encoder(x)
    return [x, x, x, x]


# %% 4 right: one block, four times
reader = TrailReader(depth=1, mlp_dim=64, times=4)
train(reader, steps=8, updates=300)

# %% 4 right: a loop of one's own
reader = TrailReader(1, 96, times=3)
optimizer = torch.optim.Adam(reader.parameters(), lr=3e-3)
for _ in range(300):
    notes, answer = trails(64, 8)
    loss = F.cross_entropy(reader(notes)[0].transpose(1, 2), answer)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %% 4 wrong: two looks
reader = TrailReader(depth=1, mlp_dim=96, times=2)
train(reader, steps=8, updates=300)

# %% 4 wrong: too large
reader = TrailReader(depth=3, mlp_dim=96)
train(reader, steps=8, updates=100)

# %% 4 wrong: not trained
reader = TrailReader(depth=1, mlp_dim=96, times=3)

# %% 4 wrong: what train returns
reader = train(TrailReader(depth=1, mlp_dim=96, times=3), steps=8, updates=5)

# %% 4 wrong: hard-coded
reader = 0.99
