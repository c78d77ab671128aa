"""Intervals and tests, each with its source. Pure, standard library only; what is drawn has a fixed seed.

95 % throughout (two-sided, z = 1.96).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import erfc, exp, lgamma, log, log1p, sqrt
from random import Random
from statistics import NormalDist
from typing import NamedTuple

from understudy.messages.buckets import quantile_ms

Z = 1.959964
RESAMPLES = 1_000
LEAST_BLOCKS = 5
"""Fewer do not tell how much they vary: then there is no interval."""
FEW_EXPECTED = 5
"""Hits (or misses) of the smaller side: with fewer expected a normal is no likeness of a share (Cochran 1954)."""
BLOCKS = 200
"""At most so many blocks are drawn from; neighbours are put together."""

METHODS = {
    "error_ratio": "Wilson score interval (Wilson 1927); attempts taken as independent",
    "latency_ms": "mean; percentile bootstrap over blocks of whole hours, of days from 14 days on "
    "(Efron 1979, Kuensch 1989), widened for few blocks (Hesterberg 2015), 1,000 resamples, fixed seed",
    "p50_ms, p95_ms": "quantile of the histogram (half octaves, linear inside one); interval by the ranks that the "
    "binomial gives (Woodruff 1952), open above where there are too few for one (p95: below 74)",
    "score": "mean of judgements; bootstrap as for latency_ms",
    "pairs: error_ratio": "two-proportion z test, pooled, or Fisher's exact test where fewer than 5 are expected; "
    "Holm's correction over all pairs (Holm 1979)",
    "pairs: latency_ms, score": "t test on the means (latency: their logarithms), standard errors from the bootstrap, "
    "degrees of freedom by the number of blocks (Welch 1947), or where no block differs from another of its model the "
    "exact permutation test of blocks; Holm's correction over all pairs",
}


class Range(NamedTuple):
    """A value and its interval; None: that end is not known. `se`: standard error, `log_se`: that of the logarithm (0:
    not known); of so many `blocks`."""

    value: float
    low: float | None
    high: float | None
    se: float = 0.0
    log_se: float = 0.0
    blocks: int = 0


def wilson(hits: float, n: int) -> tuple[float, float]:
    """The interval of a share (Wilson 1927): sound for few and for shares near 0 or 1."""
    if n <= 0:
        return 0.0, 1.0
    p, zz = hits / n, Z * Z
    centre = (p + zz / (2 * n)) / (1 + zz / n)
    half = Z / (1 + zz / n) * sqrt(p * (1 - p) / n + zz / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def quantile(hist: list[int], share: float, most_ms: float) -> Range | None:
    """A quantile of a histogram in ms, its interval by ranks (Woodruff 1952). None for an empty one.

    None is above `most_ms`, the largest that there was: a bin may be wider than all that is in it. Of few nobody knows
    how high it may be: the largest of 40 is below the true 95th percentile once in eight times.
    """
    n = sum(hist)
    if not n:
        return None
    half = Z * sqrt(share * (1 - share) / n)
    value, low, high = (
        min(most_ms, quantile_ms(hist, at) or 0.0) for at in (share, max(0.0, share - half), min(1.0, share + half))
    )
    return Range(value, low, high if share + half < 1 else None)


def mean(sums: dict[int, tuple[float, int]], hours_per_block: int) -> Range | None:
    """Total over count of sums per hour, with a bootstrap over blocks of hours: neighbours are alike. None: nothing.

    The percentiles are further out than 2.5 and 97.5 where blocks are few: a bootstrap varies too little by the root of
    n / (n - 1), and by as much as a normal does beside Student's t (Hesterberg, The American Statistician 69, 2015).
    """
    blocks: dict[int, tuple[float, int]] = {}
    for hour, (total, n) in sums.items():
        before = blocks.get(hour // hours_per_block, (0.0, 0))
        blocks[hour // hours_per_block] = (before[0] + total, before[1] + n)
    found = [blocks[key] for key in sorted(blocks) if blocks[key][1]]
    if not found:
        return None
    totals, counts = [t for t, _ in found], [n for _, n in found]
    value, k = sum(totals) / sum(counts), len(found)
    if k < LEAST_BLOCKS:
        return Range(value, None, None)
    luck, means = Random(k), list[float]()
    for _ in range(RESAMPLES):
        drawn = luck.choices(range(k), k=k)
        means.append(sum(map(totals.__getitem__, drawn)) / sum(map(counts.__getitem__, drawn)))
    means.sort()
    wider = sqrt(k / (k - 1))
    tail = round(RESAMPLES * NormalDist().cdf(-wider * student(Z, k - 1)))
    logs = [log(one) for one in means] if means[0] > 0 else []
    return Range(
        value, means[tail], means[RESAMPLES - 1 - tail], wider * _deviation(means), wider * _deviation(logs), k
    )


def _deviation(values: Sequence[float]) -> float:
    """Standard deviation; 0 of nothing, and of what differs by rounding alone."""
    if not values or values[-1] - values[0] <= 1e-12 * abs(values[-1]):
        return 0.0
    middle = sum(values) / len(values)
    return sqrt(sum((one - middle) ** 2 for one in values) / (len(values) - 1))


def student(z: float, freedom: float) -> float:
    """Student's t that is as rare as this z (Wallace 1959; from 4 degrees of freedom on
    within 1 %, of 2 within 5 %)."""
    ratio = z * (8 * freedom + 3) / (8 * freedom + 1)
    return sqrt(freedom * (exp(ratio * ratio / freedom) - 1))


def welch(difference: float, a: float, a_blocks: int, b: float, b_blocks: int) -> float:
    """P value of two means being one, from their standard errors and how many blocks each is made of (Welch 1947)."""
    aa, bb = a * a, b * b
    freedom = (aa + bb) ** 2 / (aa * aa / (a_blocks - 1) + bb * bb / (b_blocks - 1))
    t = difference / sqrt(aa + bb)
    return two_sided((8 * freedom + 1) / (8 * freedom + 3) * sqrt(freedom * log1p(t * t / freedom)))


def block_hours(hours: int) -> int:
    """How many hours are one block: days (they hold the daily cycle whole) where there are enough of them."""
    return 24 if hours >= 14 * 24 else max(1, -(-hours // BLOCKS))


def two_sided(z: float) -> float:
    """The chance of a normal at least so far from 0."""
    return erfc(abs(z) / sqrt(2))


def proportions(a: float, n: int, b: float, m: int) -> float:
    """P value of two shares being one: z test, pooled; exact (Fisher) where that is wrong, as few are expected."""
    hits = a + b
    if min(n, m) * min(hits, n + m - hits) < FEW_EXPECTED * (n + m):
        return _fisher(round(a), n, round(b), m)
    pooled = hits / (n + m)
    se = sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return two_sided((a / n - b / m) / se) if se > 0 else 1.0


def _fisher(a: int, n: int, b: int, m: int) -> float:
    """Both tails of the hypergeometric: all tables that are no likelier than this one."""
    hits = a + b

    def chance(x: int) -> float:
        return _log_choose(n, x) + _log_choose(m, hits - x)

    seen, every = chance(a), _log_choose(n + m, hits)
    found = (chance(x) for x in range(max(0, hits - m), min(n, hits) + 1))
    return min(1.0, sum(exp(one - every) for one in found if one <= seen + 1e-7))


def _log_choose(n: int, k: int) -> float:
    return lgamma(n + 1) - lgamma(k + 1) - lgamma(n - k + 1)


def holm(ps: Sequence[float]) -> list[float]:
    """P values corrected for how many were looked at (Holm 1979), in the given order."""
    found, least = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        least = max(least, min(1.0, (len(ps) - rank) * ps[i]))
        found[i] = least
    return found
