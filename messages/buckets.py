"""Outcomes as counters: what the log says of one model, for one task, in one hour. Pure.

It stands beside the messages because it is what they mean: whoever draws conclusions from outcomes (the performance
graph, trends, comparisons) counts them alike. Every counter is an integer (microseconds, pico-USD, millionths of a
score), so that neither the order of events nor the border of a batch changes a sum.

A run is counted once, by its `request.ended`, in the hour of its end: each model tried there is one attempt. A run
whose selector died ends without the attempts that were under way then: nobody knows how they went.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable

import msgspec

from understudy.messages.base import Part
from understudy.messages.benchmarks import BENCHMARK, BenchmarkMeasured
from understudy.messages.brief import AttemptBrief
from understudy.messages.events import Event, FeedbackGiven, RequestEnded
from understudy.messages.money import UsdText, pusd_of
from understudy.messages.run import CALLERS_FAULT, NO_ROOM

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
BINS = 24
BOUNDS_US: tuple[int, ...] = tuple(round(50_000 * 2 ** (n / 2)) for n in range(1, BINS))
"""Where the bins of a latency histogram begin, but the first, which begins at 0: half octaves from 50 ms, the last bin
open from about 145 s. Bins of two hours add up, which percentiles do not."""

MOST_MS, MOST_TOKENS, MOST_PUSD = 10**9, 10**9, 10**16
"""The most that one attempt can have taken (eleven days), read and said, or cost (10,000 USD). What a broken clock or a
vendor says beyond is counted as that: sums have to stay within the 64 bits that a graph has for them."""

VOID: frozenset[str] = CALLERS_FAULT | NO_ROOM | {"hedged", "text_lost", "no_endpoints"}
"""Ends of an attempt that say nothing of its model: neither `ok` nor `err`."""

ERRORS: dict[str, str] = {
    **dict.fromkeys(("first_token_timeout", "stall_timeout", "silent"), "timeout"),
    **dict.fromkeys(("rate_limited", "payment"), "quota"),
    **dict.fromkeys(("server_error", "error_event", "engine", "gone", "refused_connection"), "server"),
    **dict.fromkeys(("broken_stream", "malformed", "empty"), "stream"),
    **dict.fromkeys(("auth", "model_not_found"), "access"),
    "invalid_output": "output",
}
"""The kind of an error, by the reason word of its attempt; a word that is not here is of the kind `other`."""

KINDS: tuple[str, ...] = (*dict.fromkeys(ERRORS.values()), "other")


class UsageBrief(Part, frozen=True, kw_only=True):
    """See `Usage`."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class ChargeBrief(Part, frozen=True, kw_only=True):
    """See `Charge`."""

    model: str
    cost_usd: UsdText


class OutcomeBrief(Event, tag="request.ended.v1", frozen=True, kw_only=True):
    """See `RequestEnded`: what is counted of it."""

    run_id: str
    outcome: str
    task: str
    model: str | None = None
    attempts: tuple[AttemptBrief, ...] = ()
    usage: UsageBrief = UsageBrief()
    charges: tuple[ChargeBrief, ...] = ()
    labels: tuple[str, ...] = ()


Counted = RequestEnded | OutcomeBrief | FeedbackGiven | BenchmarkMeasured


class Bucket(msgspec.Struct, omit_defaults=True):
    """One model, one task, one hour (or any sum of such).

    `n` attempts, of which `ok` ended well and `err` badly (`errors`: by kind); the rest says nothing of the model
    (`VOID`). `lat_us`, `lat_max_us`, `hist`: whole time of the good ones; `ttft_us`: to the first token of `ttft_n`.
    `score_u` of `score_n`: judgements in millionths, from people (of these `rating_u`, `rating_n`) and benchmarks.
    Tokens are those of whole runs, counted for the model that had the last word; costs are each model's own.
    """

    n: int = 0
    ok: int = 0
    err: int = 0
    lat_us: int = 0
    lat_max_us: int = 0
    ttft_us: int = 0
    ttft_n: int = 0
    score_u: int = 0
    score_n: int = 0
    rating_u: int = 0
    rating_n: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    cost_pusd: int = 0
    hist: list[int] = msgspec.field(default_factory=lambda: [0] * BINS)
    errors: dict[str, int] = msgspec.field(default_factory=dict[str, int])

    def attempt(self, one: AttemptBrief) -> None:
        """Count one attempt (an `Attempt` has the same fields)."""
        self.n += 1
        if one.outcome == "ok":
            took = us_of(one.total_ms)
            self.ok += 1
            self.lat_us += took
            self.lat_max_us = max(self.lat_max_us, took)
            self.hist[bisect_right(BOUNDS_US, took)] += 1
            if one.first_token_ms is not None:
                self.ttft_us += us_of(one.first_token_ms)
                self.ttft_n += 1
        elif one.outcome not in VOID:
            kind = ERRORS.get(one.outcome, "other")
            self.err += 1
            self.errors[kind] = self.errors.get(kind, 0) + 1

    def add(self, other: Bucket) -> None:
        """Both together."""
        for name in _SUMS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.lat_max_us = max(self.lat_max_us, other.lat_max_us)
        self.hist = [a + b for a, b in zip(self.hist, other.hist, strict=True)]
        for kind, count in other.errors.items():
            self.errors[kind] = self.errors.get(kind, 0) + count


_SUMS = tuple(name for name in Bucket.__struct_fields__ if name not in ("lat_max_us", "hist", "errors"))

BucketOf = Callable[[str, str, int], Bucket]
"""The bucket of a model, a task and an hour (Unix milliseconds of its beginning), made where there is none."""


def us_of(ms: float) -> int:
    """Microseconds; what a clock that was set back made negative is nothing."""
    return round(min(max(ms, 0.0), MOST_MS) * 1000)


def hour_of(at_ms: int) -> int:
    """The beginning of an hour (UTC), Unix milliseconds."""
    return at_ms - at_ms % HOUR_MS


def task_of(event: RequestEnded | OutcomeBrief) -> str:
    """Benchmarks are asked for any task; their speed and failures are kept apart from what people asked."""
    return BENCHMARK if BENCHMARK in event.labels else event.task


def count(event: Counted, bucket: BucketOf) -> None:
    """Fold one fact."""
    match event:
        case FeedbackGiven():
            if event.model:
                one = bucket(event.model, event.task, hour_of(event.at_ms))
                _score(one, millionths(event.rating), 1)
                one.rating_u += millionths(event.rating)
                one.rating_n += 1
        case BenchmarkMeasured():
            for task in event.tasks:
                _score(bucket(event.model, task.task, hour_of(event.at_ms)), task.score_u, task.scored)
        case _:
            _outcome(event, bucket)


def _score(one: Bucket, millionths: int, judgements: int) -> None:
    one.score_u += millionths
    one.score_n += judgements


def _outcome(event: RequestEnded | OutcomeBrief, bucket: BucketOf) -> None:
    task, hour = task_of(event), hour_of(event.at_ms)
    attempts: tuple[AttemptBrief, ...] = event.attempts  # pyright: ignore[reportAssignmentType]  - the same fields
    for attempt in attempts:
        bucket(attempt.model, task, hour).attempt(attempt)
    for charge in event.charges:
        bucket(charge.model, task, hour).cost_pusd += min(pusd_of(charge.cost_usd), MOST_PUSD)
    speaker = event.model or (attempts[-1].model if attempts else None)
    usage = event.usage
    if speaker is not None and (usage.prompt_tokens or usage.completion_tokens):
        last = bucket(speaker, task, hour)
        last.tokens_in += min(usage.prompt_tokens, MOST_TOKENS)
        last.tokens_out += min(usage.completion_tokens, MOST_TOKENS)


def millionths(score: float) -> int:
    """A score from 0 to 1 as an integer."""
    return round(score * 1_000_000)


def quantile_ms(hist: list[int], share: float) -> float | None:
    """The value (ms) below which `share` of the counted lie, linear inside its bin; None for an empty histogram.

    The last bin has no end: what falls there is said as its beginning.
    """
    total = sum(hist)
    if not total:
        return None
    wanted, seen = share * total, 0
    for n, count in enumerate(hist):
        if count and seen + count >= wanted:
            low = BOUNDS_US[n - 1] if n else 0
            high = BOUNDS_US[n] if n < BINS - 1 else low
            return (low + (high - low) * (wanted - seen) / count) / 1000
        seen += count
    return BOUNDS_US[-1] / 1000
