# %% 1 right: variances add up
def spread(D, d_k):
    return math.sqrt(d_k * (D * 0.02**2) ** 2)


def small_start(d_k):
    layers = [nn.Linear(384, d_k, bias=False) for _ in range(2)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=0.02)
    tokens = torch.randn(16, 64, 384)
    return [layer(tokens) for layer in layers]


# %% 1 right: measured, and even weights
def spread(D, d_k):
    x, y = torch.randn(2, 200, D)
    w_q, w_k = 0.02 * torch.randn(2, D, d_k)
    return ((x @ w_q) @ (y @ w_k).T).std()


def small_start(d_k):
    w = 0.02 * math.sqrt(12) * (torch.rand(384, 2 * d_k) - 0.5)
    return (torch.randn(16, 64, 384) @ w).chunk(2, dim=-1)


# %% 1 wrong: the variance
def spread(D, d_k):
    return d_k * (D * 0.02**2) ** 2


def small_start(d_k):
    tokens = torch.randn(16, 64, 384)
    w_q, w_k = 0.02 * torch.randn(2, 384, d_k)
    return tokens @ w_q, tokens @ w_k


# %% 1 wrong: one layer for both
def spread(D, d_k):
    return D * 0.02**2 * d_k**0.5


def small_start(d_k):
    q = torch.randn(16, 64, 384) @ (0.02 * torch.randn(384, d_k))
    return q, q


# %% 1 wrong: PyTorch's own start
def spread(D, d_k):
    return D * 0.02**2 * d_k**0.5


def small_start(d_k):
    return as_initialized(d_k)


# %% 1 wrong: the deviation of one entry
def spread(D, d_k):
    return D**0.5 * 0.02


# %% 1 wrong: divided already
def spread(D, d_k):
    return D * 0.02**2


# %% 1 wrong: hard-coded
def spread(D, d_k):
    return 1.22882


def small_start(d_k):
    tokens = torch.randn(16, 64, 384)
    w_q, w_k = 0.02 * torch.randn(2, 384, d_k)
    return tokens @ w_q, tokens @ w_k


# %% 2 right: patch by patch
def neighbor_mask(rows, columns):
    places = [(y, x) for y in range(rows) for x in range(columns)]
    return torch.tensor(
        [[max(abs(y - v), abs(x - u)) < 2 for v, u in places] for y, x in places]
    )


# %% 2 right: of rows and of columns
def neighbor_mask(rows, columns):
    bands = [torch.ones(n, n).tril(1).triu(-1) for n in (rows, columns)]
    return torch.kron(*bands).bool()


# %% 2 wrong: neighbors in the sequence
def neighbor_mask(rows, columns):
    place = torch.arange(rows * columns)
    return (place[:, None] - place).abs() <= 1


# %% 2 wrong: around the end of a row
def neighbor_mask(rows, columns):
    place = torch.arange(rows * columns)
    apart = (place[:, None] - place).abs()
    return (apart <= 1) | ((apart - columns).abs() <= 1)


# %% 2 wrong: at a side only
def neighbor_mask(rows, columns):
    place = torch.arange(rows * columns)
    y, x = place // columns, place % columns
    return (y[:, None] - y).abs() + (x[:, None] - x).abs() <= 1


# %% 2 wrong: blocked and free exchanged
def neighbor_mask(rows, columns):
    bands = [torch.ones(n, n).tril(1).triu(-1) for n in (rows, columns)]
    return ~torch.kron(*bands).bool()


# %% 2 wrong: zeros and ones
def neighbor_mask(rows, columns):
    bands = [torch.ones(n, n).tril(1).triu(-1) for n in (rows, columns)]
    return torch.kron(*bands)


# %% 2 wrong: hard-coded
def neighbor_mask(rows, columns):
    return torch.ones(12, 12).tril(5).triu(-5).bool()


# %% 3 right: an empty row sees the first key, then is replaced
def guarded(attend, q, k, v, mask):
    empty = ~mask.any(dim=-1)
    mask = mask.clone()
    mask[..., 0] |= empty
    empty = empty[..., None]
    return [found.masked_fill(empty, 0.0) for found in attend(q, k, v, mask)]


# %% 3 right: by torch.where
def guarded(attend, q, k, v, mask):
    sees = mask.sum(dim=-1, keepdim=True) > 0
    output, weights = attend(q, k, v, torch.where(sees, mask, True))
    return torch.where(sees, output, 0), torch.where(sees, weights, 0)


# %% 3 wrong: NaN replaced afterwards
def guarded(attend, q, k, v, mask):
    return [found.nan_to_num() for found in attend(q, k, v, mask)]


# %% 3 wrong: NaN times zero
def guarded(attend, q, k, v, mask):
    some = mask.any(dim=-1, keepdim=True)
    return [found * some for found in attend(q, k, v, mask)]


# %% 3 wrong: chosen afterwards
def guarded(attend, q, k, v, mask):
    some = mask.any(dim=-1, keepdim=True)
    return [torch.where(some, found, 0) for found in attend(q, k, v, mask)]


# %% 3 wrong: an empty row keeps what it finds
def guarded(attend, q, k, v, mask):
    return attend(q, k, v, mask | ~mask.any(dim=-1, keepdim=True))


# %% 3 wrong: zeros in the output alone
def guarded(attend, q, k, v, mask):
    some = mask.any(dim=-1, keepdim=True)
    output, weights = attend(q, k, v, mask | ~some)
    return output * some, weights


# %% 3 wrong: without the library
def guarded(attend, q, k, v, mask):
    return attention(q, k, v, mask)


# %% 3 wrong: the output alone
def guarded(attend, q, k, v, mask):
    some = mask.any(dim=-1, keepdim=True)
    return [attend(q, k, v, mask | ~some)[0] * some]


# %% 3 wrong: as if queries were keys
def guarded(attend, q, k, v, mask):
    some = mask.any(dim=-2, keepdim=True)
    output, weights = attend(q, k, v, mask | ~some)
    return output * some, weights * some


# %% 3 wrong: hard-coded
def guarded(attend, q, k, v, mask):
    attend(q, k, v, mask)
    return torch.zeros(2, 5, 8), torch.zeros(2, 5, 7)


# %% 4 right: what is left of any vector
by_keys, by_queries = False, True


def harmless(k):
    differences = k - k.mean(dim=0)
    c = torch.randn(k.shape[1])
    c = c - torch.linalg.pinv(differences) @ (differences @ c)
    return c / c.norm()


# %% 4 right: by a QR decomposition
by_keys, by_queries = False, True


def harmless(k):
    return torch.linalg.qr((k[1:] - k[0]).T, mode="complete")[0][:, -1]


# %% 4 right: the smallest eigenvalue
by_keys, by_queries = False, True


def harmless(k):
    differences = k - k.mean(dim=0)
    return torch.linalg.eigh(differences.T @ differences)[1][:, 0]


# %% 4 wrong: nothing is added
by_keys, by_queries = False, True


def harmless(k):
    return torch.zeros(k.shape[1])


# %% 4 wrong: as for the keys, any vector
by_keys, by_queries = False, True


def harmless(k):
    c = torch.randn(k.shape[1])
    return c / c.norm()


# %% 4 wrong: at right angles to the keys, where that is possible
by_keys, by_queries = False, True


def harmless(k):
    return torch.linalg.svd(k)[2][-1]


# %% 4 wrong: the mean key
by_keys, by_queries = False, True


def harmless(k):
    return F.normalize(k.mean(dim=0), dim=0)


# %% 4 wrong: a number
by_keys, by_queries = False, True


def harmless(k):
    return 1.0


# %% 4 wrong: hard-coded
by_keys, by_queries = False, True


def harmless(k):
    return torch.tensor([1.0, 0, 0, 0])


# %% 4 wrong: only the direction
def harmless(k):
    return torch.linalg.svd(k[1:] - k[0])[2][-1]


# %% 4 wrong: words
by_keys, by_queries = "no", "yes"


# %% 4 wrong: a vector on all keys is seen
by_keys, by_queries = True, True
