"""Differences between trainings, with intervals: what studies conclude from their runs.

No interval here is chosen after a look at it: a study's docstring says which decides.
"""

import math
from collections.abc import Sequence
from functools import cache
from statistics import fmean, stdev
from typing import NamedTuple


class Interval(NamedTuple):
    """A difference of two means and half the width of its interval, in the same unit.

    Attributes:
        mean, half: the interval is ``mean`` plus or minus ``half``.
    """

    mean: float
    half: float

    @property
    def verdict(self) -> str:
        """Return "found" above zero, "reversed" below it, else "not shown"."""
        if abs(self.mean) <= self.half:
            return "not shown"
        return "found" if self.mean > 0 else "reversed"


def paired(
    a: Sequence[float], b: Sequence[float], confidence: float = 0.95
) -> Interval:
    """Return the mean of a - b, pair by pair, with Student's interval.

    Args:
        a, b: a result for each seed, in the same order.
        confidence: probability that such an interval holds the truth.

    Raises:
        ValueError: there are not two pairs or more.
    """
    d = [x - y for x, y in zip(a, b, strict=True)]
    if len(d) < 2:
        raise ValueError(f"{len(d)} pairs have no spread: give two or more")
    t = t_quantile((1 + confidence) / 2, len(d) - 1)
    return Interval(fmean(d), t * stdev(d) / math.sqrt(len(d)))


def unpaired(
    a: Sequence[float], b: Sequence[float], confidence: float = 0.95
) -> Interval:
    """Return the difference of two means, the runs of each taken by themselves.

    Source: Welch (1947): the two may scatter differently.
    """
    parts = [stdev(x) ** 2 / len(x) for x in (a, b)]
    if not sum(parts):
        return Interval(fmean(a) - fmean(b), 0.0)
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(x) - 1) for part, x in zip(parts, (a, b), strict=True)
    )
    t = t_quantile((1 + confidence) / 2, freedom)
    return Interval(fmean(a) - fmean(b), t * math.sqrt(sum(parts)))


def corrected(number: int, confidence: float = 0.95) -> float:
    """Return the confidence of each of several intervals that are to hold together."""
    return 1 - (1 - confidence) / number


@cache  # a chapter asks for a few of them, thousands of times
def t_quantile(share: float, freedom: float) -> float:
    """Return below which value so large a share of Student's distribution lies.

    Args:
        share: in (0.5, 1).
        freedom: degrees of freedom, 1 or more, whole or not.
    """
    log = math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)
    scale = math.exp(log) / math.sqrt(freedom * math.pi)

    def above_zero(t, steps=400):  # Simpson's rule over the density from 0 to t
        total = 0.0
        for i in range(steps + 1):
            weight = 1 if i in (0, steps) else 4 if i % 2 else 2
            total += weight * (1 + (t * i / steps) ** 2 / freedom) ** (
                -(freedom + 1) / 2
            )
        return scale * total * t / steps / 3

    low, high = 0.0, 200.0
    while high - low > 1e-6:
        middle = (low + high) / 2
        low, high = (
            (middle, high) if above_zero(middle) < share - 0.5 else (low, middle)
        )
    return low
