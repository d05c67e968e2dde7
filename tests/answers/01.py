# %% 1 right: computed
row_a = [math.exp(x) / (math.e + 1 + math.sqrt(math.e)) for x in (1, 0, 0.5)]
slopes_a = [row_a[0] * ((i == 0) - a) for i, a in enumerate(row_a)]

# %% 1 right: by autograd
new = torch.tensor([1.0, 0.0, 0.5], requires_grad=True)
row_a = new.softmax(dim=0)
slopes_a = torch.autograd.grad(row_a[0], new, retain_graph=True)[0]

# %% 1 wrong: the weights halved, not the logits
row_a = weights3[0] / 2
slopes_a = (0.25, -0.09, -0.16)

# %% 1 wrong: slopes of an absolute value
row_a = (0.506, 0.186, 0.307)
slopes_a = (0.25, 0.09, 0.16)

# %% 1 wrong: words
row_a, slopes_a = "more even", "less steep"

# %% 1 wrong: hard-coded
row_a = [0.665, 0.090, 0.245]
slopes_a = [0.223, -0.060, -0.163]


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
