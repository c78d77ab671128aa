"""Comparisons of models and their trends: what is asked of the benchmarker, and what it says.

Figures are those of attempts (`messages/buckets.py`) over whole hours; each comes with its 95 % interval, and the
answer names the method of each interval (`methods`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from understudy.messages.base import Ask, Message, Part
from understudy.messages.money import UsdText
from understudy.messages.topology import Thresholds
from understudy.messages.units import Count, ModelId, Word

Figure = Literal["error_ratio", "latency_ms", "score"]
"""What is compared and watched: the share of failed attempts, the whole time of good ones, judgements (0 to 1)."""

Verdict = Literal["ok", "fails", "undecided", "too_few"]
"""Of a figure beside its threshold. `undecided`: the threshold lies inside the interval."""

WEEK_MS, MONTH_MS = 7 * 86_400_000, 30 * 86_400_000
WindowMs = Annotated[int, Meta(ge=3_600_000, le=400 * 86_400_000)]


class CompareModels(Ask, tag="benchmark.compare.v1", frozen=True, kw_only=True):
    """Compare models over a window that ends at `until_ms` (Unix milliseconds; none: now).

    Without `task`: over all tasks but benchmarks. Without `models`: all of which the window has anything.
    """

    task: Word | None = None
    models: tuple[ModelId, ...] = ()
    window_ms: WindowMs = WEEK_MS
    until_ms: Count | None = None


class Measure(Part, frozen=True, kw_only=True):
    """A figure of `n` attempts or judgements, with its 95 % interval where there are enough for one; `low` alone:
    nothing is known of how high it may be."""

    value: float
    n: Count
    low: float | None = None
    high: float | None = None


class ModelFigures(Part, frozen=True, kw_only=True):
    """One model in the window. `attempts`: all; those that say nothing of a model are in no ratio."""

    model: ModelId
    attempts: Count
    error_ratio: Measure | None = None
    latency_ms: Measure | None = None  # mean
    p50_ms: Measure | None = None
    p95_ms: Measure | None = None
    score: Measure | None = None
    first_token_ms: float | None = None  # mean
    errors: dict[str, Count] = {}  # by kind
    ratings: Count = 0  # judgements by people; the rest of `score.n` are of benchmarks
    tokens_in: Count = 0
    tokens_out: Count = 0
    cost_usd: UsdText = "0"
    usd_per_call: float = 0.0
    verdicts: dict[Word, Verdict] = {}  # by threshold: min_quality, max_response_ms, max_error_ratio
    drifted: tuple[Figure, ...] = ()  # worse now than expected: see `model.drifted`


class Pair(Part, frozen=True, kw_only=True):
    """Two models by one figure; `better` and `worse` say no more than the values where it is not `significant`.

    `p`: of the two-sided test, after Holm's correction over all pairs of this figure that could be tested; None: one of
    them has too few.
    """

    figure: Figure
    better: ModelId
    worse: ModelId
    better_value: float
    worse_value: float
    p: float | None = None
    significant: bool = False
    words: str


class Comparison(Message, tag="benchmark.compared.v1", frozen=True, kw_only=True):
    """The answer to `CompareModels`, at position `as_of_seq` of the log; whole hours from `from_ms` to `until_ms`."""

    as_of_seq: Count
    from_ms: int
    until_ms: int
    task: str | None
    thresholds: Thresholds
    models: tuple[ModelFigures, ...]
    pairs: tuple[Pair, ...]
    methods: dict[str, str]


class Trends(Ask, tag="benchmark.trends.v1", frozen=True, kw_only=True):
    """How figures of models went in a window; see `CompareModels`. `points`: hourly or daily (none: daily from 8 days
    on)."""

    task: Word | None = None
    models: tuple[ModelId, ...] = ()
    window_ms: WindowMs = MONTH_MS
    until_ms: Count | None = None
    points: Literal["hour", "day"] | None = None


class Point(Part, frozen=True, kw_only=True):
    """One hour or one day (UTC) that begins at `at_ms`. `low`, `high`: the interval of the share of errors."""

    at_ms: int
    n: Count
    error_ratio: float | None = None
    low: float | None = None
    high: float | None = None
    latency_ms: float | None = None  # mean
    p95_ms: float | None = None
    score: float | None = None


class ChangePoint(Part, frozen=True, kw_only=True):
    """The level of a figure changed with the hour that begins at `at_ms`: mean before and after, up to the neighbouring
    changes. `z`: how far apart, in standard errors."""

    figure: Figure
    at_ms: int
    before: float
    after: float
    z: float
    words: str


class Slope(Part, frozen=True, kw_only=True):
    """How a figure moves through the window, per day: latency as a ratio (0.02: 2 % a day), others in points."""

    figure: Figure
    per_day: float
    low: float
    high: float
    words: str


class Drift(Part, frozen=True, kw_only=True):
    """What the detector found, hour by hour as it went; see `model.drifted`."""

    figure: Figure
    direction: Literal["worse", "recovered", "settled"]
    since_ms: int
    until_ms: int
    before: float
    after: float
    n: Count = 0


class Trend(Part, frozen=True, kw_only=True):
    """One model."""

    model: ModelId
    points: tuple[Point, ...]
    changes: tuple[ChangePoint, ...] = ()
    slopes: tuple[Slope, ...] = ()
    drifts: tuple[Drift, ...] = ()


class TrendsFound(Message, tag="benchmark.trended.v1", frozen=True, kw_only=True):
    """The answer to `Trends`."""

    as_of_seq: Count
    from_ms: int
    until_ms: int
    task: str | None
    points: Literal["hour", "day"]
    thresholds: Thresholds
    models: tuple[Trend, ...]
    methods: dict[str, str]
