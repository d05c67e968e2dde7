# %% 1 right: by the mean of the variances
def unpaired_of_five(a, b):
    half = t_quantile(0.975, 8) * math.sqrt((stdev(a) ** 2 + stdev(b) ** 2) / 5)
    return sum(a) / 5 - sum(b) / 5, half


# %% 1 right: by hand
def unpaired_of_five(a, b):
    means = sum(a) / len(a), sum(b) / len(b)
    squares = sum((x - means[0]) ** 2 for x in a) + sum((x - means[1]) ** 2 for x in b)
    return means[0] - means[1], 2.306 * (squares / 4 / 5) ** 0.5


# %% 1 wrong: paired
def unpaired_of_five(a, b):
    return paired(a, b)


# %% 1 wrong: no root
def unpaired_of_five(a, b):
    variance = stdev(a) ** 2 / len(a) + stdev(b) ** 2 / len(b)
    return fmean(a) - fmean(b), 2.306 * variance


# %% 1 wrong: deviations that are added, not their squares
def unpaired_of_five(a, b):
    return fmean(a) - fmean(b), 2.306 * (stdev(a) + stdev(b)) / math.sqrt(5)


# %% 1 wrong: the difference without its sign
def unpaired_of_five(a, b):
    variance = (stdev(a) ** 2 + stdev(b) ** 2) / 5
    return abs(fmean(a) - fmean(b)), 2.306 * math.sqrt(variance)


# %% 1 wrong: the half width alone
def unpaired_of_five(a, b):
    return 2.306 * math.sqrt((stdev(a) ** 2 + stdev(b) ** 2) / 5)


# %% 1 wrong: not a number
def unpaired_of_five(a, b):
    return math.nan, math.nan


# %% 1 wrong: hard-coded
def unpaired_of_five(a, b):
    return 1.0, 2.306


# %% 2 right: counted up
def seeds_needed(scatter, difference):
    n = 1
    while 2 * scatter / math.sqrt(n) > difference + 1e-12:
        n += 1
    return n


# %% 2 right: solved for n
def seeds_needed(scatter, difference):
    return -int(-round(4 * scatter**2 / difference**2, 9) // 1)


# %% 2 right: two at least, as one seed has no interval
def seeds_needed(scatter, difference):
    return max(2, math.ceil((2 * scatter / difference) ** 2 - 1e-9))


# %% 2 wrong: rounded to the nearest
def seeds_needed(scatter, difference):
    return max(1, round((2 * scatter / difference) ** 2))


# %% 2 wrong: no end
def seeds_needed(scatter, difference):
    return math.inf


# %% 2 wrong: rounded down
def seeds_needed(scatter, difference):
    return max(1, int((2 * scatter / difference) ** 2))


# %% 2 wrong: no square
def seeds_needed(scatter, difference):
    return math.ceil(2 * scatter / difference)


# %% 2 wrong: one more, to be sure
def seeds_needed(scatter, difference):
    return math.ceil((2 * scatter / difference) ** 2) + 1


# %% 2 wrong: hard-coded
def seeds_needed(scatter, difference):
    return 22


# %% 3 right: by the bits of a number
def sign_flip(d):
    n, far = len(d), abs(sum(d)) - 1e-9
    count = 0
    for bits in range(2**n):
        total = sum(x if bits >> i & 1 else -x for i, x in enumerate(d))
        count += abs(total) >= far
    return count / 2**n


# %% 3 right: by recursion
def sign_flip(d):
    sums = [0.0]
    for x in d:
        sums = [total + sign * x for total in sums for sign in (1, -1)]
    return fmean(abs(total) > abs(sum(d)) - 1e-9 for total in sums)


# %% 3 right: one side of a symmetric distribution, twice, as a fraction
def sign_flip(d):
    from fractions import Fraction

    sums = [0.0]
    for x in d:
        sums = [total + sign * x for total in sums for sign in (1, -1)]
    beyond = sum(total >= abs(sum(d)) - 1e-9 for total in sums)
    return min(Fraction(1), Fraction(2 * beyond, len(sums)))


# %% 3 wrong: one side
def sign_flip(d):
    sums = [0.0]
    for x in d:
        sums = [total + sign * x for total in sums for sign in (1, -1)]
    return fmean(total >= sum(d) - 1e-9 for total in sums)


# %% 3 wrong: farther, and not at least as far
def sign_flip(d):
    sums = [0.0]
    for x in d:
        sums = [total + sign * x for total in sums for sign in (1, -1)]
    return fmean(abs(total) > abs(sum(d)) + 1e-9 for total in sums)


# %% 3 wrong: the sign test, which counts signs alone
def sign_flip(d):
    n, k = len(d), sum(x > 0 for x in d)
    k = max(k, n - k)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k, n + 1)) / 2**n)


# %% 3 wrong: what is equal up to rounding is not counted
def sign_flip(d):
    sums = [0.0]
    for x in d:
        sums = [total + sign * x for total in sums for sign in (1, -1)]
    return fmean(abs(total) >= abs(sum(d)) for total in sums)


# %% 3 wrong: hard-coded
def sign_flip(d):
    return {3: 0.25, 4: 0.5}.get(len(d), 0.01)
