"""How a model's figures went: points, changes of level, slopes, what the detector found. Pure."""

from __future__ import annotations

from understudy.actors.benchmarker import stats
from understudy.actors.benchmarker.history import History
from understudy.messages.buckets import DAY_MS, HOUR_MS, Bucket
from understudy.messages.comparison import Drift, Point, Trend, Trends, TrendsFound

DAILY_FROM_MS = 8 * DAY_MS


def answer(history: History, ask: Trends, now_ms: float) -> TrendsFound:
    """Everything that is asked for: whole hours, the last one perhaps not over yet."""
    end = (ask.until_ms if ask.until_ms is not None else int(now_ms)) // HOUR_MS + 1
    first = end - -(-ask.window_ms // HOUR_MS)
    points = ask.points or ("day" if ask.window_ms >= DAILY_FROM_MS else "hour")
    found: list[Trend] = []
    for model in ask.models or sorted(history.seen()):
        hours: dict[int, Bucket] = {}
        for hour, one in history.hours(model, ask.task, first, end):
            hours.setdefault(hour, Bucket()).add(one)
        if hours or ask.models:
            found.append(_trend(history, model, hours, points == "day"))
    return TrendsFound(
        as_of_seq=history.seq,
        from_ms=first * HOUR_MS,
        until_ms=end * HOUR_MS,
        task=ask.task,
        points=points,
        thresholds=history.thresholds,
        models=tuple(found),
        methods=stats.METHODS,
    )


def _trend(history: History, model: str, hours: dict[int, Bucket], daily: bool) -> Trend:
    shown = hours
    if daily:
        shown = dict[int, Bucket]()
        for hour, one in hours.items():
            shown.setdefault(hour - hour % 24, Bucket()).add(one)
    return Trend(
        model=model,
        points=tuple(_point(hour, shown[hour]) for hour in sorted(shown)),
        drifts=_drifts(history, model),
    )


def _point(hour: int, one: Bucket) -> Point:
    judged, p95 = one.ok + one.err, stats.quantile(one.hist, 0.95)
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


def _drifts(history: History, model: str) -> tuple[Drift, ...]:
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
        for figure, one in (watched.found if watched is not None else ())
    )
