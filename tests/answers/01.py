# %% 1 right: written out
def attend_at(q, k, v, t):
    scores = torch.einsum("...qd,...kd->...qk", q, k)
    scores = scores / (t * math.sqrt(q.shape[-1]))
    return torch.einsum("...qk,...kd->...qd", scores.softmax(-1), v)


# %% 1 right: by PyTorch
def attend_at(q, k, v, t):
    return F.scaled_dot_product_attention(q, k / t, v)


# %% 1 wrong: multiplied
def attend_at(q, k, v, t):
    return attention(q * t, k, v)[0]


# %% 1 wrong: with the weights
def attend_at(q, k, v, t):
    return attention(q / t, k, v)


# %% 1 wrong: hard-coded
def attend_at(q, k, v, t):
    return F.scaled_dot_product_attention(q, k, v)


# %% 2 right: two triangles
def neighbor_mask(n):
    ones = torch.ones(n, n).bool()
    return ones.tril(1) & ones.triu(-1)


# %% 2 right: cell by cell
def neighbor_mask(n):
    return torch.tensor([[abs(i - j) < 2 for j in range(n)] for i in range(n)])


# %% 2 wrong: blocked and free exchanged
def neighbor_mask(n):
    place = torch.arange(n)
    return (place[:, None] - place).abs() > 1


# %% 2 wrong: zeros and ones
def neighbor_mask(n):
    place = torch.arange(n)
    return ((place[:, None] - place).abs() <= 1).float()


# %% 2 wrong: hard-coded
def neighbor_mask(n):
    drawn = ["##...", "###..", ".###.", "..###", "...##"]
    return torch.tensor([[cell == "#" for cell in line] for line in drawn])


# %% 3 right: smaller keys instead of smaller queries
torch.manual_seed(1)
undivided = Lookup(256, divide=False)
undivided.w_k.load_state_dict(
    {name: t / 16 for name, t in undivided.w_k.state_dict().items()}
)
learn(undivided, lr=1.5e-3, steps=250)

# %% 3 right: smaller queries and keys, a loop of one's own
torch.manual_seed(2)
undivided = Lookup(256, divide=False)
with torch.no_grad():
    for layer in (undivided.w_q, undivided.w_k):
        layer.weight /= 4
        layer.bias /= 4
optimizer = torch.optim.AdamW(undivided.parameters(), lr=1.5e-3)
for _ in range(250):
    question, keys, labels, answers = examples(64)
    optimizer.zero_grad()
    logits = undivided(question, keys, labels)
    F.cross_entropy(logits, answers).backward()
    optimizer.step()

# %% 3 wrong: not trained
undivided = Lookup(256, divide=False)

# %% 3 wrong: a divided one
undivided = Lookup(256, divide=True)

# %% 3 wrong: hard-coded
undivided = 0.99


# %% 4 right: by subtraction
def are_shares(weights):
    in_range = (weights >= 0) & (weights <= 1)
    return ((weights.sum(-1) - 1).abs() < 1e-3).all() and in_range.all()


# %% 4 right: row by row
def are_shares(weights):
    rows = weights.reshape(-1, weights.shape[-1]).tolist()
    return all(min(r) >= 0 and math.isclose(sum(r), 1, abs_tol=1e-3) for r in rows)


# %% 4 wrong: signs do not matter
def are_shares(weights):
    sums = weights.sum(dim=-1)
    return torch.allclose(sums, torch.ones_like(sums), atol=1e-4)


# %% 4 wrong: the other axis
def are_shares(weights):
    sums = weights.sum(dim=-2)
    return torch.allclose(sums, torch.ones_like(sums), atol=1e-4)


# %% 4 wrong: hard-coded
def are_shares(weights):
    return True
