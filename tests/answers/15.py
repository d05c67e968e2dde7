# %% 1 right: counting up
def images_that_fit(memory, checkpointing):
    block = block_bytes(197, 768, 3072, 12)
    one = 12 * 4 * 197 * 768 + block if checkpointing else 12 * block
    images = 0
    while 16 * 86_567_656 + (images + 1) * one <= memory:
        images += 1
    return images


# %% 1 right: by numbers
def images_that_fit(memory, checkpointing):
    N, D, M, h, L = 197, 768, 3072, 12, 12
    a = 8 * N * D + 2 * N * M + 4 * N + h * N
    numbers = L * N * D + a if checkpointing else L * a
    return math_floor((memory / 4 - 4 * 86_567_656) / numbers)


def math_floor(x):
    return int(x // 1)


# %% 1 wrong: the state is forgotten
def images_that_fit(memory, checkpointing):
    block = block_bytes(197, 768, 3072, 12)
    one = 12 * 4 * 197 * 768 + block if checkpointing else 12 * block
    return int(memory // one)


# %% 1 wrong: inputs alone
def images_that_fit(memory, checkpointing):
    block = block_bytes(197, 768, 3072, 12)
    one = 12 * 4 * 197 * 768 if checkpointing else 12 * block
    return int((memory - 16 * 86_567_656) // one)


# %% 1 wrong: checkpointing is forgotten
def images_that_fit(memory, checkpointing):
    block = block_bytes(197, 768, 3072, 12)
    return int((memory - 16 * 86_567_656) // (12 * block))


# %% 1 wrong: one block of twelve
def images_that_fit(memory, checkpointing):
    block = block_bytes(197, 768, 3072, 12)
    return int((memory - 16 * 86_567_656) // block)


# %% 1 wrong: hard-coded
def images_that_fit(memory, checkpointing):
    return 125


# %% 2 right: the last seven that keep much
def thrifty(model):
    blocks = model.encoder.blocks
    for i in range(4, 11):
        blocks[i] = Checkpointed(blocks[i])
    return model


# %% 2 right: by PyTorch's call, seven blocks here and there
def thrifty(model):
    for i in (0, 2, 3, 5, 7, 8, 10):
        block = model.encoder.blocks[i]

        def again(x, *more, run=block.forward, **options):
            return checkpoint(run, x, *more, use_reentrant=False, **options)

        block.forward = again
    return model


# %% 2 right: the second half of eleven blocks
def thrifty(model):
    for block in model.encoder.blocks[:11]:

        def mlp(x, norm=block.norm2, mlp=block.mlp):
            return mlp(norm(x))

        def forward(x, context=None, *, need_weights=False, b=block, mlp=mlp):
            attended, weights = b.attn(b.norm1(x), need_weights=need_weights)
            x = x + attended
            return x + checkpoint(mlp, x, use_reentrant=False), weights

        block.forward = forward
    return model


# %% 2 wrong: all
def thrifty(model):
    return checkpointed(model)


# %% 2 wrong: six
def thrifty(model):
    return checkpointed(model, range(6))


# %% 2 wrong: seven with the last block
def thrifty(model):
    return checkpointed(model, range(5, 12))


# %% 2 wrong: another model
def thrifty(model):
    del model.encoder.blocks[5:]
    return model


# %% 2 wrong: without a gradient
def thrifty(model):
    for block in model.encoder.blocks[:7]:
        block.requires_grad_(False)
    return model


# %% 2 wrong: hard-coded
def thrifty(model):
    return new_vit()


# %% 3 right: numbers, without a graph
def losses(model, batches, tell):
    each = []
    with torch.no_grad():
        for images, labels in batches:
            loss = F.cross_entropy(model(images), labels, reduction="none")
            each += loss.tolist()
            tell()
    return sum(each) / len(each), max(each)


# %% 3 right: detached
def losses(model, batches, tell):
    each = []
    for images, labels in batches:
        loss = F.cross_entropy(model(images), labels, reduction="none")
        each.append(loss.detach())
        tell()
    each = torch.cat(each)
    return each.mean().item(), each.max().item()


# %% 3 wrong: floats at the end
def losses(model, batches, tell):
    each = []
    for images, labels in batches:
        loss = F.cross_entropy(model(images), labels, reduction="none")
        each.append(loss)
        tell()
    each = torch.cat(each)
    return each.mean().item(), each.max().item()


# %% 3 wrong: the mean of the batches' means
def losses(model, batches, tell):
    means, largest = [], 0.0
    for images, labels in batches:
        with torch.no_grad():
            loss = F.cross_entropy(model(images), labels, reduction="none")
        means.append(loss.mean().item())
        largest = max(largest, loss.max().item())
        tell()
    return sum(means) / len(means), largest


# %% 3 wrong: the largest of the means
@torch.no_grad()
def losses(model, batches, tell):
    total, seen, largest = 0.0, 0, 0.0
    for images, labels in batches:
        loss = F.cross_entropy(model(images), labels).item()
        total += loss * len(labels)
        seen += len(labels)
        largest = max(largest, loss)
        tell()
    return total / seen, largest


# %% 3 wrong: one tensor that grows
def losses(model, batches, tell):
    total, seen, largest = 0.0, 0, 0.0
    for images, labels in batches:
        loss = F.cross_entropy(model(images), labels, reduction="none")
        total = total + loss.sum()
        seen += len(labels)
        largest = max(largest, loss.max().item())
        tell()
    return total.item() / seen, largest


# %% 3 wrong: hard-coded
def losses(model, batches, tell):
    for _ in batches:
        tell()
    return 2.331, 4.0
