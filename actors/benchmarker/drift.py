"""Has a model got worse than its own past lets expect? One figure of one model, hour by hour. Pure.

Each closed hour is compared with an expectation: of each task its level (means that forget, with a half-life), summed
over what was asked in that hour, times a factor for the hour of the day. So neither the daily cycle nor more of a slow
task is a change. The evidence is a log-likelihood ratio of "worse" against "as expected", added up while it speaks for
worse: Page's CUSUM (Biometrika 41, 1954), with Bernoulli counts for shares and a normal for the logarithm of latency,
whose variance is learned. What one hour may add is bounded, so that one bad hour is no drift unless it is overwhelming.
While a model is worse its levels rest, and a second sum looks for the way back.
"""

from __future__ import annotations

from math import log
from typing import Literal, NamedTuple

import msgspec

from understudy.messages.comparison import Figure

Direction = Literal["worse", "recovered", "settled"]

LEAST_SHARE = 0.002
"""A share that never was is still expected so often: no history is long enough for never."""
HOPELESS = 0.9
"""A share (of failures, of what is missing to 1) that is expected to be higher has no room to get worse."""
SPREAD = 0.05
"""Hours differ by so much (in logarithms of latency) that no number of calls takes away."""
CYCLE_CALLS = 10.0
"""So many expected calls (for shares: failures) of one hour of the day weigh as much as knowing nothing of it."""
CYCLE_KEEPS = 0.8
"""What an hour of the day weighs a day later."""
WORST_DISPERSION = 9.0


class DriftPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a change is one. `evidence`: natural logarithm of how much likelier worse must be than as expected."""

    evidence: float = 5.0
    hour_share: float = 0.8  # of `evidence`, at most, by one hour ...
    overwhelming: float = 3.0  # ... that has not so many times as much
    slower_ratio: float = 1.6  # latency: what counts as worse
    more_errors: float = 0.08
    lower_score: float = 0.1
    warm_hours: int = 72  # of history before anything is said
    least_calls: int = 20  # of a task before it is expected to be anything
    half_life_hours: float = 72.0
    settle_hours: int = 168  # worse for so long: that is what is expected now


class Cell(NamedTuple):
    """What an hour says of one task: `n` observations that sum up to `total` (milliseconds, or how many were bad)."""

    key: str
    n: int
    total: float


class Found(msgspec.Struct, frozen=True):
    """A change; hours are counted since 1970. `before` and `after` are means per observation."""

    direction: Direction
    since_h: int
    until_h: int  # the first hour that was not looked at
    before: float
    after: float
    n: int


class Level(msgspec.Struct):
    """A mean that forgets."""

    n: float = 0.0
    total: float = 0.0

    def add(self, n: float, total: float, keeps: float) -> None:
        """One hour more."""
        self.n = self.n * keeps + n
        self.total = self.total * keeps + total

    def mean(self) -> float:
        """Of what is remembered."""
        return self.total / self.n if self.n else 0.0


class Sums(msgspec.Struct):
    """Observed beside expected, since an hour."""

    since_h: int = -1
    n: int = 0
    total: float = 0.0
    expected: float = 0.0

    def add(self, hour: int, n: int, total: float, expected: float) -> None:
        """One hour more."""
        self.since_h = hour if self.since_h < 0 else self.since_h
        self.n, self.total, self.expected = self.n + n, self.total + total, self.expected + expected


def _cycle() -> list[Level]:
    return [Level() for _ in range(24)]


class Detector(msgspec.Struct, omit_defaults=True):
    """One figure of one model. `worse`: since when, and how it has been; None while it is as expected."""

    first_h: int = -1
    levels: dict[str, Level] = msgspec.field(default_factory=dict[str, Level])
    cycle: list[Level] = msgspec.field(default_factory=_cycle)  # expected (n) and observed (total) per hour of the day
    noise: Level = msgspec.field(default_factory=Level)  # latency: variance per call; shares: dispersion
    evidence: float = 0.0
    going: Sums = msgspec.field(default_factory=Sums)  # while there is evidence
    worse: Sums | None = None
    last: Found | None = None

    def observe(self, figure: Figure, hour: int, cells: list[Cell], plan: DriftPlan) -> Found | None:
        """One closed hour, in order. What was found with it, if anything."""
        if self.first_h < 0 or hour < self.first_h:
            self.first_h = hour
        known = [c for c in cells if c.n and c.key in self.levels and self.levels[c.key].n >= plan.least_calls]
        n, total = sum(c.n for c in known), sum(c.total for c in known)
        expected = sum(c.n * self.levels[c.key].mean() for c in known)
        found: Found | None = None
        if n and (figure != "latency_ms" or (total > 0 and expected > 0)):
            look = _Look(figure, hour, n, total, expected * self._factor(hour), plan)
            warm = hour - self.first_h >= plan.warm_hours
            found = self._judge(look) if warm else None
            if self.worse is None:
                self._learn(look, expected)
        if self.worse is None:
            keeps = 0.5 ** (1 / plan.half_life_hours)
            for cell in cells:
                self.levels.setdefault(cell.key, Level()).add(cell.n, cell.total, keeps)
        self.last = found or self.last
        return found

    def _factor(self, hour: int) -> float:
        """What the hour of the day does to the figure."""
        of = self.cycle[hour % 24]
        return (of.total + CYCLE_CALLS) / (of.n + CYCLE_CALLS)

    def usual(self, figure: Figure) -> float:
        """What is expected per observation, over all tasks; 0 of nothing."""
        n = sum(level.n for level in self.levels.values())
        mean = sum(level.total for level in self.levels.values()) / n if n else 0.0
        return 1 - mean if figure == "score" and n else mean

    def _learn(self, look: _Look, expected: float) -> None:
        latency = look.figure == "latency_ms"
        weight = float(look.n) if latency else expected
        observed = look.n * look.total / expected if latency else look.total
        self.cycle[look.hour % 24].add(weight, observed, CYCLE_KEEPS)
        if look.hour - self.first_h >= 24:  # before that the day's cycle would be taken for noise
            self.noise.add(1.0, look.surprise(self._noise(latency)), 0.5 ** (1 / look.plan.half_life_hours))

    def _noise(self, latency: bool) -> float:
        """Variance of the logarithm of one call's latency, or how much more shares vary than by chance."""
        if latency:
            return self.noise.mean() if self.noise.n >= 1 else 1.0
        return max(1.0, self.noise.mean())

    def _judge(self, look: _Look) -> Found | None:
        plan = look.plan
        noise = self._noise(look.figure == "latency_ms")
        if self.worse is None:
            gain = look.gain(look.shift(), noise)
        else:
            gain = -look.gain(max(look.shift() / 2, look.shift_of(self.worse)), noise)
        overwhelming = gain >= plan.overwhelming * plan.evidence
        most = plan.evidence if overwhelming else plan.hour_share * plan.evidence
        self.evidence = max(0.0, self.evidence + min(most, gain))
        if self.evidence > 0:
            self.going.add(look.hour, look.n, look.total, look.expected)
        else:
            self.going = Sums()
            if self.worse is not None:
                self.worse.add(look.hour, look.n, look.total, look.expected)
        if self.evidence >= plan.evidence:
            return self._turn(look)
        return None

    def _turn(self, look: _Look) -> Found:
        """There is enough evidence: from as expected to worse, or back."""
        going, was = self.going, self.worse
        direction: Direction = "recovered" if was is not None else "worse"
        before = was.total / was.n if was is not None else going.expected / going.n
        self.evidence, self.going = 0.0, Sums()
        self.worse = going if was is None else None
        return _found(look.figure, look.hour, direction, going.since_h, before, going)

    def settle(self, figure: Figure, hour: int, plan: DriftPlan) -> Found | None:
        """It has stayed so, or nobody has asked since: the levels move to where the figure was last."""
        was = self.worse
        if was is None or hour - was.since_h < plan.settle_hours:
            return None
        for level in self.levels.values():
            level.total = level.total * was.total / was.expected if was.expected else level.n * was.total / was.n
        self.evidence, self.going, self.worse = 0.0, Sums(), None
        self.last = _found(figure, hour, "settled", was.since_h, was.expected / was.n, was)
        return self.last


def _found(figure: Figure, hour: int, direction: Direction, since_h: int, before: float, after: Sums) -> Found:
    mean = after.total / after.n
    values = (1 - before, 1 - mean) if figure == "score" else (before, mean)
    return Found(direction, since_h, hour + 1, *values, after.n)


class _Look(NamedTuple):
    """One hour of one figure beside what is expected of it. Of a score it is what is missing to 1 that is counted."""

    figure: Figure
    hour: int
    n: int
    total: float
    expected: float
    plan: DriftPlan

    def shift(self) -> float:
        """What counts as worse: a difference of shares, or of logarithms."""
        match self.figure:
            case "latency_ms":
                return log(self.plan.slower_ratio)
            case "error_ratio":
                return self.plan.more_errors
            case "score":
                return self.plan.lower_score

    def shift_of(self, sums: Sums) -> float:
        """How much worse it has been."""
        if self.figure == "latency_ms":
            return log(sums.total / sums.expected)
        return (sums.total - sums.expected) / sums.n

    def gain(self, shift: float, noise: float) -> float:
        """The log-likelihood ratio of this hour: worse by `shift`, against as expected."""
        if self.figure == "latency_ms":
            return shift * (self._ratio() - shift / 2) / self._variance(noise)
        if self.expected > HOPELESS * self.n:
            return 0.0
        p0 = self._share()
        p1 = min(0.98, p0 + shift)
        good = self.n - self.total
        return (self.total * log(p1 / p0) + good * log((1 - p1) / (1 - p0))) / noise

    def surprise(self, noise: float) -> float:
        """What the hour says of the noise, without letting one hour say much more than all before."""
        if self.figure == "latency_ms":
            return self.n * min(self._ratio() ** 2, 9 * self._variance(noise))
        p0 = self._share()
        return min(WORST_DISPERSION, (self.total - self.n * p0) ** 2 / (self.n * p0 * (1 - p0)))

    def _share(self) -> float:
        return min(HOPELESS, max(LEAST_SHARE, self.expected / self.n))

    def _ratio(self) -> float:
        return log(self.total / self.expected)

    def _variance(self, noise: float) -> float:
        return noise / self.n + SPREAD**2
