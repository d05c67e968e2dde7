# %% 1 right: the key turned forward
def left_form(N):
    angle = torch.tensor(2 * torch.pi / N)
    forward = torch.tensor([[angle.cos(), angle.sin()], [-angle.sin(), angle.cos()]])
    return 20 * torch.eye(2), 20 * forward


# %% 1 right: half a place each
def left_form(N):
    c, s = torch.tensor(torch.pi / N).cos(), torch.tensor(torch.pi / N).sin()
    half = 30 * torch.tensor([[c, -s], [s, c]])
    return half, half.T


# %% 1 wrong: looks right
def left_form(N):
    angle = torch.tensor(2 * torch.pi / N)
    forward = torch.tensor([[angle.cos(), angle.sin()], [-angle.sin(), angle.cos()]])
    return 100 * forward, torch.eye(2)


# %% 1 wrong: not sharp enough
def left_form(N):
    angle = torch.tensor(2 * torch.pi / N)
    forward = torch.tensor([[angle.cos(), angle.sin()], [-angle.sin(), angle.cos()]])
    return forward.T, torch.eye(2)


# %% 1 wrong: a symmetric form
def left_form(N):
    return 30 * torch.eye(2), torch.eye(2)


# %% 1 wrong: one matrix
def left_form(N):
    return torch.eye(2)


# %% 1 wrong: hard-coded
def left_form(N):
    c = 0.5**0.5
    return 100 * torch.tensor([[c, -c], [c, c]]), torch.eye(2)


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


# %% 3 right: product by product
def count_operations(N_q, N_k, D):
    queries, keys = 2 * N_q * D * D, 2 * N_k * D * D
    logits = 2 * N_q * D * N_k
    return queries + 2 * keys + 2 * logits + queries


# %% 3 right: what is left of the table
def count_operations(N_q, N_k, D):
    return (flops(N_q, D) + flops(N_k, D) - 4 * D * (N_q - N_k) ** 2) // 2


# %% 3 wrong: as if all asked
def count_operations(N_q, N_k, D):
    return flops(N_k, D)


# %% 3 wrong: as if nobody else had keys and values
def count_operations(N_q, N_k, D):
    return 8 * N_q * D**2 + 4 * N_q * N_k * D


# %% 3 wrong: a multiplication and its addition counted as one
def count_operations(N_q, N_k, D):
    return 2 * (N_q + N_k) * D**2 + 2 * N_q * N_k * D


# %% 3 wrong: hard-coded
def count_operations(N_q, N_k, D):
    return 1_048_783_872


# %% 4 right: more of the first letter
taken = torch.tensor([[0.7, 0.3, 0.0], [0.7, 0.0, 0.3]])
counts = torch.tensor([[1.0, 1.0], [2.0, -2.0], [-0.5, 0.5]])

# %% 4 right: heads that look at all three
taken = torch.tensor([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6]])
counts = torch.tensor([[1.0, -0.5], [0.5, 0.5], [-0.5, 1.0]])
taken[:, 1] += 0.1
taken /= taken.sum(dim=1, keepdim=True)

# %% 4 wrong: two heads alike
taken = torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.3, 0.2]])
counts = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]])

# %% 4 wrong: a head for each of two letters
taken = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
counts = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])

# %% 4 wrong: ties
taken = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.0, 0.5]])
counts = torch.tensor([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]])

# %% 4 wrong: not a mean
taken = torch.tensor([[1.0, 0.5, 0.0], [1.0, 0.0, 0.5]])
counts = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]])

# %% 4 wrong: three heads
taken, counts = torch.eye(3), torch.eye(3)

# %% 4 wrong: hard-coded
taken, counts = [[0.5, 0.5, 0], [0.5, 0, 0.5]], "336 of 336"
