"""Intervals and tests, each with its source. Pure, standard library only; what is drawn has a fixed seed.

95 % throughout (two-sided, z = 1.96).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import erfc, log, sqrt
from random import Random
from typing import NamedTuple

from understudy.messages.buckets import quantile_ms

Z = 1.959964
RESAMPLES = 1_000
LEAST_BLOCKS = 5
"""Fewer do not tell how much they vary: then there is no interval."""
BLOCKS = 200
"""At most so many blocks are drawn from; neighbours are put together."""

METHODS = {
    "error_ratio": "Wilson score interval (Wilson 1927); attempts taken as independent",
    "latency_ms": "mean; percentile bootstrap over blocks of whole hours, of days from 14 days on "
    "(Efron 1979, Kuensch 1989), 1,000 resamples, fixed seed",
    "p50_ms, p95_ms": "quantile of the histogram (half octaves, linear inside one); interval by the ranks that the "
    "binomial gives (Woodruff 1952)",
    "score": "mean of judgements; bootstrap as for latency_ms",
    "pairs: error_ratio": "two-proportion z test, pooled; Holm's correction over all pairs (Holm 1979)",
    "pairs: latency_ms, score": "z test on the means (latency: their logarithms), standard errors from the bootstrap; "
    "Holm's correction over all pairs",
}


class Range(NamedTuple):
    """A value and its interval; `se`: standard error, of the logarithm where that was asked for."""

    value: float
    low: float | None
    high: float | None
    se: float = 0.0


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

    None is above `most_ms`, the largest that there was: a bin may be wider than all that is in it.
    """
    n = sum(hist)
    if not n:
        return None
    half = Z * sqrt(share * (1 - share) / n)
    value, low, high = (
        min(most_ms, quantile_ms(hist, at) or 0.0) for at in (share, max(0.0, share - half), min(1.0, share + half))
    )
    return Range(value, low, high)


def mean(sums: dict[int, tuple[float, int]], hours_per_block: int) -> Range | None:
    """Total over count of sums per hour, with a bootstrap over blocks of hours: neighbours are alike. None: nothing.

    `se` is that of the logarithm of the mean (of the mean itself where that is 0).
    """
    blocks: dict[int, tuple[float, int]] = {}
    for hour, (total, n) in sums.items():
        before = blocks.get(hour // hours_per_block, (0.0, 0))
        blocks[hour // hours_per_block] = (before[0] + total, before[1] + n)
    found = [blocks[key] for key in sorted(blocks) if blocks[key][1]]
    if not found:
        return None
    totals, counts = [t for t, _ in found], [n for _, n in found]
    value = sum(totals) / sum(counts)
    if len(found) < LEAST_BLOCKS:
        return Range(value, None, None)
    luck, means = Random(len(found)), list[float]()
    for _ in range(RESAMPLES):
        drawn = luck.choices(range(len(found)), k=len(found))
        means.append(sum(map(totals.__getitem__, drawn)) / sum(map(counts.__getitem__, drawn)))
    means.sort()
    logs = [log(one) for one in means] if means[0] > 0 else means
    middle = sum(logs) / len(logs)
    se = sqrt(sum((one - middle) ** 2 for one in logs) / (len(logs) - 1))
    return Range(value, means[round(0.025 * RESAMPLES)], means[round(0.975 * RESAMPLES) - 1], se)


def block_hours(hours: int) -> int:
    """How many hours are one block: days (they hold the daily cycle whole) where there are enough of them."""
    return 24 if hours >= 14 * 24 else max(1, -(-hours // BLOCKS))


def two_sided(z: float) -> float:
    """The chance of a normal at least so far from 0."""
    return erfc(abs(z) / sqrt(2))


def proportions(a: int, n: int, b: int, m: int) -> float:
    """P value of two shares being one (z test, pooled)."""
    pooled = (a + b) / (n + m)
    se = sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    return two_sided((a / n - b / m) / se) if se > 0 else 1.0


def holm(ps: Sequence[float]) -> list[float]:
    """P values corrected for how many were looked at (Holm 1979), in the given order."""
    found, least = [0.0] * len(ps), 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        least = max(least, min(1.0, (len(ps) - rank) * ps[i]))
        found[i] = least
    return found
