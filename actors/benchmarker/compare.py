"""Models side by side, with intervals, verdicts beside the thresholds, and what is significant in words. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from math import comb, inf, isclose, log

from understudy.actors.benchmarker import stats
from understudy.actors.benchmarker.history import History
from understudy.messages.buckets import HOUR_MS, Bucket
from understudy.messages.comparison import (
    CompareModels,
    Comparison,
    Figure,
    Measure,
    ModelFigures,
    Pair,
    Trends,
    Verdict,
)
from understudy.messages.money import usd_of
from understudy.messages.topology import Thresholds

LEAST = 30
"""Fewer attempts or judgements than these are shown, and nothing is claimed of them."""
PUSD = 1_000_000_000_000


class Side:
    """One model of a comparison: its sums, also per hour."""

    def __init__(self, model: str, history: History, ask: CompareModels, first: int, end: int) -> None:
        self.model, self.all = model, Bucket()
        self._latency: dict[int, tuple[float, int]] = {}
        self._score: dict[int, tuple[float, int]] = {}
        for hour, one in history.hours(model, ask.task, first, end):
            self.all.add(one)
            _put(self._latency, hour, one.lat_us / 1000, one.ok)
            _put(self._score, hour, one.score_u / 1e6, one.score_n)
        block = stats.block_hours(end - first)
        self.latency, self.score = stats.mean(self._latency, block), stats.mean(self._score, block)

    @property
    def judged(self) -> int:
        """Attempts that say something of the model."""
        return self.all.ok + self.all.err

    def count(self, figure: Figure) -> int:
        """How many observations a figure is made of."""
        return {"error_ratio": self.judged, "latency_ms": self.all.ok, "score": self.all.score_n}[figure]

    def value(self, figure: Figure) -> float:
        """Of a figure that there is."""
        if figure == "error_ratio":
            return self.all.err / self.judged
        found = self.latency if figure == "latency_ms" else self.score
        assert found is not None
        return found.value


def _put(sums: dict[int, tuple[float, int]], hour: int, total: float, n: int) -> None:
    before = sums.get(hour, (0.0, 0))
    sums[hour] = (before[0] + total, before[1] + n)


def hours_of(ask: CompareModels | Trends, now_ms: float) -> tuple[int, int]:
    """The first hour of a window, and that behind its last; what ends with an hour takes nothing of the next."""
    end = -(-(ask.until_ms if ask.until_ms is not None else int(now_ms)) // HOUR_MS)
    return end - -(-ask.window_ms // HOUR_MS), end


def answer(history: History, ask: CompareModels, now_ms: float) -> Comparison:
    """Everything that is asked for: whole hours, the last one perhaps not over yet."""
    first, end = hours_of(ask, now_ms)
    wanted = ask.models or sorted(history.seen())
    sides = [Side(model, history, ask, first, end) for model in wanted]
    sides = [side for side in sides if side.all.n or side.all.score_n or ask.models]
    sides.sort(key=lambda side: (side.judged == 0, side.all.err / max(1, side.judged), side.model))
    figures = tuple(_figures(side, history) for side in sides)
    pairs = [pair for figure in ("error_ratio", "latency_ms", "score") for pair in pairs_of(sides, figure)]
    return Comparison(
        as_of_seq=history.seq,
        from_ms=first * HOUR_MS,
        until_ms=end * HOUR_MS,
        task=ask.task,
        thresholds=history.thresholds,
        models=figures,
        pairs=tuple(pairs),
        methods=stats.METHODS,
    )


def _figures(side: Side, history: History) -> ModelFigures:
    one, enough = side.all, side.judged >= LEAST
    low, high = stats.wilson(one.err, side.judged) if side.judged else (None, None)
    ratio = Measure(value=one.err / side.judged, n=side.judged, low=low, high=high) if side.judged else None
    p95 = _measure(stats.quantile(one.hist, 0.95, one.lat_max_us / 1000), one.ok)
    score = _measure(side.score, one.score_n)
    watched = history.watched.get(side.model)
    return ModelFigures(
        model=side.model,
        attempts=one.n,
        error_ratio=ratio,
        latency_ms=_measure(side.latency, one.ok),
        p50_ms=_measure(stats.quantile(one.hist, 0.5, one.lat_max_us / 1000), one.ok),
        p95_ms=p95,
        score=score,
        first_token_ms=round(one.ttft_us / one.ttft_n / 1000, 3) if one.ttft_n else None,
        errors=dict(sorted(one.errors.items())),
        ratings=one.rating_n,
        tokens_in=one.tokens_in,
        tokens_out=one.tokens_out,
        cost_usd=usd_of(one.cost_pusd),
        usd_per_call=one.cost_pusd / PUSD / one.n if one.n else 0.0,
        verdicts=verdicts(history.thresholds, ratio, p95, score) if enough or score is not None else {},
        drifted=tuple(f for f, d in sorted(watched.detectors.items()) if d.worse is not None) if watched else (),
    )


def _measure(found: stats.Range | None, n: int) -> Measure | None:
    if found is None:
        return None
    low, high = (None if end is None or n < LEAST else round(end, 6) for end in (found.low, found.high))
    return Measure(value=round(found.value, 6), n=n, low=low, high=high)


def verdicts(
    thresholds: Thresholds, ratio: Measure | None, p95: Measure | None, score: Measure | None
) -> dict[str, Verdict]:
    """Each figure beside its threshold: undecided where the interval holds it."""
    found: dict[str, Verdict] = {}
    if score is not None:
        found["min_quality"] = _verdict(score, thresholds.min_quality, higher=True)
    if p95 is not None:
        found["max_response_ms"] = _verdict(p95, thresholds.max_response_ms, higher=False)
    if ratio is not None:
        found["max_error_ratio"] = _verdict(ratio, thresholds.max_error_ratio, higher=False)
    return found


def _verdict(one: Measure, threshold: float, *, higher: bool) -> Verdict:
    if one.n < LEAST or one.low is None:
        return "too_few"
    high = inf if one.high is None else one.high
    if one.low >= threshold if higher else high <= threshold:
        return "ok"
    return "fails" if (high < threshold if higher else one.low > threshold) else "undecided"


# --- pairs -----------------------------------------------------------------------------------------------------------


def pairs_of(sides: Sequence[Side], figure: Figure) -> list[Pair]:
    """Every two models that have anything of this figure, tested where both have enough."""
    able = [side for side in sides if side.count(figure)]
    pairs = [_ordered(a, b, figure) for a, b in combinations(able, 2)]
    ps = [_p(a, b, figure) for a, b in pairs]
    tested = iter(stats.holm([p for p in ps if p is not None]))
    corrected = [None if p is None else next(tested) for p in ps]
    count = sum(p is not None for p in ps)
    return [_pair(a, b, figure, p, count) for (a, b), p in zip(pairs, corrected, strict=True)]


def _ordered(a: Side, b: Side, figure: Figure) -> tuple[Side, Side]:
    """The better one first."""
    first = a.value(figure) <= b.value(figure) if figure != "score" else a.value(figure) >= b.value(figure)
    return (a, b) if first else (b, a)


def _p(a: Side, b: Side, figure: Figure) -> float | None:
    """None: too few to say anything, or hours too few to know how much they vary."""
    if min(a.count(figure), b.count(figure)) < LEAST:
        return None
    if figure == "error_ratio":
        return stats.proportions(a.all.err, a.judged, b.all.err, b.judged)
    x, y = (a.latency, b.latency) if figure == "latency_ms" else (a.score, b.score)
    assert x is not None and y is not None
    if not (x.blocks and y.blocks):
        return None
    if not (x.se or y.se):  # all hours are alike: what is left is how rarely they would be sorted so by chance
        return 1.0 if isclose(x.value, y.value) else 2 / comb(x.blocks + y.blocks, x.blocks)
    if figure == "score":
        return stats.welch(x.value - y.value, x.se, x.blocks, y.se, y.blocks)
    if not (x.log_se or y.log_se) or min(x.value, y.value) <= 0:
        return None
    return stats.welch(log(x.value) - log(y.value), x.log_se, x.blocks, y.log_se, y.blocks)


SAYS: dict[Figure, str] = {
    "error_ratio": "fails less often than",
    "latency_ms": "answers faster than",
    "score": "is judged better than",
}


def _pair(a: Side, b: Side, figure: Figure, p: float | None, count: int) -> Pair:
    x, y = a.value(figure), b.value(figure)
    significant = p is not None and p < 0.05
    values = f"{shown(figure, x)} against {shown(figure, y)}"
    if p is None:
        few = min(a, b, key=lambda side: side.count(figure))
        what = "judgements" if figure == "score" else "calls"
        words = f"{a.model} and {b.model}: too few to compare ({few.count(figure)} {what} of {few.model}); {values}"
        if few.count(figure) >= LEAST:
            words = f"{a.model} and {b.model}: too few hours to know how much they vary; {values}"
    elif significant:
        word = "p < 0.0001" if p < 0.0001 else f"p = {p:.4f}"
        words = f"{a.model} {SAYS[figure]} {b.model}: {values}, significant at 95 % ({word}, Holm over {count})"
    else:
        words = f"{a.model} and {b.model}: no significant difference ({values}, p = {p:.2f}, Holm over {count})"
    return Pair(
        figure=figure, better=a.model, worse=b.model, better_value=x, worse_value=y, p=p, significant=significant,
        words=words,
    )  # fmt: skip


def shown(figure: Figure, value: float) -> str:
    """A figure for people."""
    match figure:
        case "error_ratio":
            return f"{100 * value:.1f} %"
        case "latency_ms":
            return f"{value:,.0f} ms"
        case "score":
            return f"{value:.2f}"
