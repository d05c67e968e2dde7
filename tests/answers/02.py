# %% 1 right: by permute
def split_heads(t, num_heads):
    return t.unflatten(-1, (num_heads, -1)).permute(0, 2, 1, 3)


def merge_heads(t):
    return t.permute(0, 2, 1, 3).flatten(2)


# %% 1 right: by lists
def split_heads(t, num_heads):
    return torch.stack(t.chunk(num_heads, dim=-1), dim=1)


def merge_heads(t):
    return torch.cat(list(t.unbind(dim=1)), dim=-1)


# %% 1 wrong: one view
def split_heads(t, num_heads):
    B, N, D = t.shape
    return t.reshape(B, num_heads, N, D // num_heads)


def merge_heads(t):
    B, h, N, d = t.shape
    return t.reshape(B, N, h * d)


# %% 1 wrong: merged without the transpose
def split_heads(t, num_heads):
    return t.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def merge_heads(t):
    B, h, N, d = t.shape
    return t.reshape(B, N, h * d)


# %% 1 wrong: as if it were an array of another library
def split_heads(t, num_heads):
    return t.split_heads(num_heads)


def merge_heads(t):
    return t.merge_heads()


# %% 1 wrong: hard-coded
def split_heads(t, num_heads):
    return t.view(2, 5, 3, 4).transpose(1, 2)


def merge_heads(t):
    return t.transpose(1, 2).reshape(2, 5, 12)


# %% 2 right: layer by layer
def count_parameters(embed_dim, num_heads, d_k):
    one_head = 3 * (embed_dim * d_k + d_k)
    return num_heads * one_head + num_heads * d_k * embed_dim + embed_dim


# %% 2 right: counted
def count_parameters(embed_dim, num_heads, d_k):
    together = nn.Linear(embed_dim, 3 * num_heads * d_k)
    back = nn.Linear(num_heads * d_k, embed_dim)
    return sum(p.numel() for layer in (together, back) for p in layer.parameters())


# %% 2 wrong: no biases
def count_parameters(embed_dim, num_heads, d_k):
    return 4 * embed_dim * num_heads * d_k


# %% 2 wrong: as if the heads filled the width
def count_parameters(embed_dim, num_heads, d_k):
    return 4 * embed_dim**2 + 4 * embed_dim


# %% 2 wrong: asks the layer for what it cannot say
def count_parameters(embed_dim, num_heads, d_k):
    return MultiHeadAttention(embed_dim=embed_dim, num_heads=num_heads).numel()


# %% 2 wrong: hard-coded
def count_parameters(embed_dim, num_heads, d_k):
    return 1181952


# %% 3 right: an axis for the heads
def mask_per_head(mask, num_heads):
    return mask[:, None].expand(-1, num_heads, -1, -1).flatten(0, 1)


# %% 3 right: by a list
def mask_per_head(mask, num_heads):
    return torch.stack([one for one in mask for _ in range(num_heads)])


# %% 3 wrong: repeated in turn
def mask_per_head(mask, num_heads):
    return torch.cat([mask] * num_heads)


# %% 3 wrong: the first image's mask for all
def mask_per_head(mask, num_heads):
    return mask[:1].expand(len(mask) * num_heads, -1, -1)


# %% 3 wrong: hard-coded
def mask_per_head(mask, num_heads):
    return mask.repeat_interleave(4, dim=0)


# %% 4 right: two heads, fewer steps
reader, _ = train(MultiHeadAttention, 2, (1, -1, 2), seed=1, steps=200)

# %% 4 right: a loop of one's own
torch.manual_seed(3)
layer = MultiHeadAttention(embed_dim=32, num_heads=2)
reader = Reader(layer, [1, -1, 2])
optimizer = torch.optim.Adam(reader.parameters(), lr=8e-3)
for _ in range(250):
    rings = torch.randint(8, (32, 8))
    logits = reader(rings)[0].flatten(0, 2)
    loss = F.cross_entropy(logits, reader.targets(rings).flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

# %% 4 wrong: more heads than needed
reader, _ = train(MultiHeadAttention, 4, (1, -1, 2), seed=0, steps=150)

# %% 4 wrong: one head
reader, _ = train(MultiHeadAttention, 1, (1, -1, 2), seed=0, steps=150)

# %% 4 wrong: not trained
reader = Reader(MultiHeadAttention(embed_dim=32, num_heads=2), (1, -1, 2))

# %% 4 wrong: two letters
reader, _ = train(MultiHeadAttention, 2, (1, -1), seed=0, steps=5)

# %% 4 wrong: an MLP in the layer
layer = MultiHeadAttention(embed_dim=32, num_heads=2)
layer.proj = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))
reader = Reader(layer, (1, -1, 2))

# %% 4 wrong: hard-coded
reader = [1.0, 1.0, 1.0]
