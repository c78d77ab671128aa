"""How a model's figures went: points, changes of level, slopes, what the detector found. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, log

from understudy.actors.benchmarker import changes, stats
from understudy.actors.benchmarker.changes import Sample
from understudy.actors.benchmarker.compare import hours_of
from understudy.actors.benchmarker.compare import shown as said
from understudy.actors.benchmarker.drift import SPREAD, Found
from understudy.actors.benchmarker.history import History
from understudy.messages.buckets import DAY_MS, HOUR_MS, Bucket
from understudy.messages.comparison import ChangePoint, Drift, Figure, Point, Slope, Trend, Trends, TrendsFound

DAILY_FROM_MS = 8 * DAY_MS
METHODS = {
    **{name: stats.METHODS[name] for name in ("error_ratio", "p50_ms, p95_ms")},
    "changes": "seeded binary segmentation of hourly values without their daily profile (Kovacs and others 2023), 5 "
    "standard errors apart and by at least 20 %, 2 points or 0.05; latency as logarithm, shares as arcsine (Anscombe "
    "1948)",
    "slopes": "weighted least squares over days, interval from the residuals (Student's t); from 4 days on",
    "drifts": "hour by hour: CUSUM of log-likelihood ratios (Page 1954) against the levels of the tasks and the hour "
    "of the day",
}
FIGURES: tuple[Figure, ...] = ("latency_ms", "error_ratio", "score")
LEAST: dict[Figure, float] = {"latency_ms": log(1.2), "error_ratio": 0.02, "score": 0.05}
"""Changes of level that are smaller are not worth a word, however sure they are."""
SURE = stats.two_sided(changes.SPLIT)
LEAST_A_DAY: dict[Figure, float] = {"latency_ms": 0.005, "error_ratio": 0.0005, "score": 0.002}


def answer(history: History, ask: Trends, now_ms: float) -> TrendsFound:
    """Everything that is asked for: whole hours, the last one perhaps not over yet."""
    first, end = hours_of(ask, now_ms)
    points = ask.points or ("day" if ask.window_ms >= DAILY_FROM_MS else "hour")
    found: list[Trend] = []
    for model in ask.models or sorted(history.seen()):
        hours: dict[int, Bucket] = {}
        for hour, one in history.hours(model, ask.task, first, end):
            hours.setdefault(hour, Bucket()).add(one)
        if hours or ask.models:
            found.append(_trend(history, model, hours, points == "day", (first, end)))
    return TrendsFound(
        as_of_seq=history.seq,
        from_ms=first * HOUR_MS,
        until_ms=end * HOUR_MS,
        task=ask.task,
        points=points,
        thresholds=history.thresholds,
        models=tuple(found),
        methods=METHODS,
    )


def _trend(history: History, model: str, hours: dict[int, Bucket], daily: bool, window: tuple[int, int]) -> Trend:
    shown = hours
    if daily:
        shown = dict[int, Bucket]()
        for hour, one in hours.items():
            shown.setdefault(hour - hour % 24, Bucket()).add(one)
    return Trend(
        model=model,
        points=tuple(_point(hour, shown[hour]) for hour in sorted(shown)),
        changes=tuple(change for figure in FIGURES for change in _changes(figure, hours)),
        slopes=tuple(slope for figure in FIGURES if (slope := _slope(figure, hours)) is not None),
        drifts=_drifts(history, model, window),
    )


def _point(hour: int, one: Bucket) -> Point:
    judged, p95 = one.ok + one.err, stats.quantile(one.hist, 0.95, one.lat_max_us / 1000)
    low, high = stats.wilson(one.err, judged) if judged else (None, None)
    return Point(
        at_ms=hour * HOUR_MS,
        n=one.n,
        error_ratio=one.err / judged if judged else None,
        low=low,
        high=high,
        latency_ms=round(one.lat_us / one.ok / 1000, 3) if one.ok else None,
        p95_ms=round(p95.value, 3) if p95 is not None else None,
        score=one.score_u / one.score_n / 1e6 if one.score_n else None,
    )


def _drifts(history: History, model: str, window: tuple[int, int]) -> tuple[Drift, ...]:
    """What was found in the window, or lasted into it. It is of all tasks together."""
    watched = history.watched.get(model)
    return tuple(
        Drift(
            figure=figure,
            direction=one.direction,
            since_ms=one.since_h * HOUR_MS,
            until_ms=one.until_h * HOUR_MS,
            before=one.before,
            after=one.after,
            n=one.n,
        )
        for figure, one in (_within(watched.found, *window) if watched is not None else ())
    )


def _within(found: list[tuple[Figure, Found]], first: int, end: int) -> Iterator[tuple[Figure, Found]]:
    """Oldest first; what is worse lasts until something else is found of that figure."""
    for n, (figure, one) in enumerate(found):
        last = one.until_h
        if one.direction == "worse":
            last = next((other.until_h for name, other in found[n + 1 :] if name == figure), end + 1)
        if last > first and one.since_h < end:
            yield figure, one


# --- changes and slopes ----------------------------------------------------------------------------------------------


def parts(figure: Figure, one: Bucket) -> tuple[float, int]:
    """What a figure is the mean of: a sum, and of how many."""
    match figure:
        case "latency_ms":
            return one.lat_us / 1000, one.ok
        case "error_ratio":
            return one.err, one.ok + one.err
        case "score":
            return one.score_u / 1e6, one.score_n


def _sample(figure: Figure, hour: int, one: Bucket) -> Sample | None:
    """On the scale of one variance; None where the hour says nothing."""
    total, n = parts(figure, one)
    if not n or (figure == "latency_ms" and total <= 0):
        return None
    if figure == "latency_ms":  # hours differ by more than their calls
        return Sample(hour, log(total / n), 1 / (1 / n + SPREAD**2))
    return Sample(hour, changes.stable(total, n), n)


def _changes(figure: Figure, hours: dict[int, Bucket]) -> list[ChangePoint]:
    found = [sample for hour in sorted(hours) if (sample := _sample(figure, hour, hours[hour])) is not None]
    if len(found) < 2 * changes.SHORTEST_H:
        return []
    flat = changes.without_cycle(found)

    def level(first: int, end: int) -> float:
        sums = [parts(figure, hours[one.hour]) for one in found[first:end]]
        return sum(total for total, _ in sums) / sum(n for _, n in sums)

    def sure(first: int, at: int, end: int) -> bool:
        """Also by the sums alone: the arcsine of an hour with few calls is drawn to the middle, so that more calls
        would look like fewer errors."""
        (a, n), (b, m) = (
            [sum(one) for one in zip(*(parts(figure, hours[h.hour]) for h in part), strict=True)]
            for part in (found[first:at], found[at:end])
        )
        return stats.proportions(a, int(n), b, int(m)) <= SURE

    def matters(first: int, at: int, end: int) -> bool:
        if figure == "latency_ms":
            return abs(changes.mean(flat[first:at]) - changes.mean(flat[at:end])) >= LEAST[figure]
        before, after = level(first, at), level(at, end)
        return abs(before - after) >= LEAST[figure] and sure(first, at, end)

    found_at = changes.splits(flat, matters)
    edges = [0, *(one.at for one in found_at), len(found)]
    return [
        _change(figure, found[one.at].hour, level(edges[n], one.at), level(one.at, edges[n + 2]), one.z)
        for n, one in enumerate(found_at)
    ]


NAMES: dict[Figure, str] = {"latency_ms": "latency", "error_ratio": "errors", "score": "quality"}


def _change(figure: Figure, hour: int, before: float, after: float, z: float) -> ChangePoint:
    verb = "rose" if after > before else "fell"
    words = f"{NAMES[figure]} {verb} from {said(figure, before)} to {said(figure, after)}"
    return ChangePoint(
        figure=figure, at_ms=hour * HOUR_MS, before=round(before, 6), after=round(after, 6), z=round(z, 2), words=words
    )


def _slope(figure: Figure, hours: dict[int, Bucket]) -> Slope | None:
    days: dict[int, tuple[float, int]] = {}
    for hour, one in hours.items():
        total, n = parts(figure, one)
        before = days.get(hour // changes.DAY_H, (0.0, 0))
        days[hour // changes.DAY_H] = (before[0] + total, before[1] + n)
    latency = figure == "latency_ms"
    values = [(day, total / n, n) for day, (total, n) in sorted(days.items()) if n and (total > 0 or not latency)]
    found = changes.slope([(day, log(value) if latency else value, n) for day, value, n in values])
    if found is None:
        return None
    per_day, low, high = (exp(one) - 1 if latency else one for one in found)
    unit = "a day" if figure == "score" else "% a day" if latency else "points a day"
    scale = 1 if figure == "score" else 100
    values_said = f"{scale * per_day:+.2f} {unit}, 95 % {scale * low:+.2f} to {scale * high:+.2f}"
    sure = (low > 0 or high < 0) and abs(per_day) >= LEAST_A_DAY[figure]
    words = f"{NAMES[figure]}: {('rising' if per_day > 0 else 'falling') if sure else 'steady'} ({values_said})"
    return Slope(figure=figure, per_day=round(per_day, 8), low=round(low, 8), high=round(high, 8), words=words)
