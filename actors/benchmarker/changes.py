"""Where the level of a series changed, looking back, and how it moves from day to day. Pure.

Change points: seeded binary segmentation (Kovacs and others 2023) on the weighted mean, from hour to hour: the best
split of each of many overlapping intervals, the clearest first, so that a bump of a few hours in a month is found too.
The series is made to have one variance first: logarithms of latency, arcsines of shares (Anscombe 1948), weighted by
the number of calls; the profile of the hours of a day is taken off (classical decomposition: median of what is left of
a centred mean over a day). A split has to be `SPLIT` standard errors apart, for the largest of some hundreds of
candidates is far from 0 by chance alone, and large enough to matter. The noise is estimated from neighbouring hours
(median absolute difference), so that changes of level are not taken for noise; it is at least what chance makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from math import asin, ceil, sqrt
from statistics import median
from typing import NamedTuple

from understudy.actors.benchmarker.stats import Z, student

DAY_H = 24
SPLIT = 5.0
"""Chance alone gets to sqrt(2 ln 720) = 3.6 about once in a series of a month; what is left of the daily cycle, and
hours that differ by more than their calls, need the rest."""
SHORTEST_H = 2
LEAST_NOISE = 0.5
"""Of one call: what chance does to an arcsine. Hours without any failure would look as if there were none."""
CYCLE_DAYS = 3


class Sample(NamedTuple):
    """One hour: its value on the scale of one variance, and how many calls it is made of."""

    hour: int
    value: float
    weight: float


class Split(NamedTuple):
    """The level changes with the hour `at`; `z` standard errors apart from what was before."""

    at: int
    z: float


def stable(bad: float, n: int) -> float:
    """A share on a scale on which chance moves all alike (Anscombe 1948)."""
    return asin(sqrt((bad + 0.375) / (n + 0.75)))


def without_cycle(samples: Sequence[Sample]) -> list[Sample]:
    """Without the profile of the hours of a day, where there are days enough to know one."""
    if not samples or samples[-1].hour - samples[0].hour < CYCLE_DAYS * DAY_H:
        return list(samples)
    by_hour = {one.hour: one for one in samples}
    left: dict[int, list[float]] = {}
    for one in samples:
        around = [by_hour[h] for h in range(one.hour - 12, one.hour + 13) if h in by_hour]
        if one.hour - samples[0].hour >= 12 and samples[-1].hour - one.hour >= 12:
            left.setdefault(one.hour % DAY_H, []).append(one.value - mean(around))
    profile = {hour: median(of) for hour, of in left.items()}
    return [one._replace(value=one.value - profile.get(one.hour % DAY_H, 0.0)) for one in samples]


def mean(samples: Iterable[Sample]) -> float:
    """Weighted; 0 of nothing."""
    total = weight = 0.0
    for one in samples:
        total += one.value * one.weight
        weight += one.weight
    return total / weight if weight else 0.0


def noise(samples: Sequence[Sample]) -> float:
    """Standard deviation of one call, from the differences of neighbours."""
    steps = [abs(b.value - a.value) / sqrt(1 / a.weight + 1 / b.weight) for a, b in pairwise(samples)]
    return median(steps) / 0.6745 if steps else 0.0  # 0.6745: the same of a normal


Matters = Callable[[int, int, int], bool]
"""Is the level from the first index to before the second far enough from that up to before the third?"""


def _always(_first: int, _at: int, _end: int) -> bool:
    return True


def splits(samples: Sequence[Sample], matters: Matters) -> list[Split]:
    """Every change of level that matters, in order."""
    line = _Line(samples, max(LEAST_NOISE, noise(samples)))
    candidates = [(best, first, end) for first, end in _intervals(len(samples)) if (best := line.best(first, end))]
    found = list[Split]()
    for best, first, end in sorted(candidates, key=lambda one: -one[0].z):
        if best.z >= SPLIT and not any(first < one.at < end for one in found):
            found.append(best)
    found = _confirmed(line, sorted(found), len(samples), _always)
    return _confirmed(line, found, len(samples), matters)


def _intervals(length: int) -> Iterator[tuple[int, int]]:
    """Seeded intervals: of each length, overlapping by half; each length is the last over the root of 2."""
    size = float(length)
    while size >= 2 * SHORTEST_H:
        count = max(1, 2 * ceil(length / size) - 1)
        step = (length - size) / (count - 1) if count > 1 else 0.0
        for n in range(count):
            yield int(n * step), min(length, ceil(n * step + size))
        size /= sqrt(2)


class _Line:
    """Running sums of a series, so that any two neighbouring stretches are compared at once."""

    def __init__(self, samples: Sequence[Sample], sigma: float) -> None:
        self.sigma = sigma
        self.sums = [0.0, *accumulate(one.value * one.weight for one in samples)]
        self.weights = [0.0, *accumulate(one.weight for one in samples)]

    def best(self, first: int, end: int) -> Split | None:
        """Where both sides are furthest apart."""
        found: Split | None = None
        for at in range(first + SHORTEST_H, end - SHORTEST_H + 1):
            z = self._apart(first, at, end)
            if found is None or z > found.z:
                found = Split(at, z)
        return found

    def _apart(self, first: int, at: int, end: int) -> float:
        sums, weights = self.sums, self.weights
        left, right = weights[at] - weights[first], weights[end] - weights[at]
        difference = (sums[at] - sums[first]) / left - (sums[end] - sums[at]) / right
        return abs(difference) * sqrt(left * right / (left + right)) / self.sigma


def _confirmed(line: _Line, found: list[Split], length: int, matters: Matters) -> list[Split]:
    """Each was found in an interval of its own: each is looked for again between its neighbours, and the weakest of
    those that do not hold is given up first."""
    while found:
        edges = [0, *(one.at for one in found), length]
        again = [line.best(first, end) for first, end in zip(edges, edges[2:], strict=False)]
        found = [new or Split(old.at, 0.0) for new, old in zip(again, found, strict=True)]
        edges = [0, *(one.at for one in found), length]
        parts = zip(found, edges, edges[1:], edges[2:], strict=False)
        weak = [one for one, *part in parts if one.z < SPLIT or not matters(*part)]
        if not weak:
            break
        found.remove(min(weak, key=lambda one: one.z))
    return found


def slope(samples: Sequence[tuple[float, float, float]]) -> tuple[float, float, float] | None:
    """Weighted least squares over (x, value, weight), with the 95 % interval of residuals (Student's t); None for
    fewer than 4."""
    if len(samples) < 4:
        return None
    total = sum(w for _, _, w in samples)
    x0, y0 = sum(x * w for x, _, w in samples) / total, sum(y * w for _, y, w in samples) / total
    xx = sum(w * (x - x0) ** 2 for x, _, w in samples)
    if xx <= 0:
        return None
    per_x = sum(w * (x - x0) * (y - y0) for x, y, w in samples) / xx
    left = sum(w * (y - y0 - per_x * (x - x0)) ** 2 for x, y, w in samples) / (len(samples) - 2)
    half = student(Z, len(samples) - 2) * sqrt(left / xx)
    return per_x, per_x - half, per_x + half
