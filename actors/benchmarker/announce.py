"""What the benchmarker says unasked: that a model has drifted, once per change. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy

from understudy.actors.benchmarker.drift import Found
from understudy.actors.benchmarker.history import History, Watched
from understudy.actors.benchmarker.state import Settings, State
from understudy.messages.benchmarks import ModelDrifted
from understudy.messages.buckets import HOUR_MS
from understudy.messages.comparison import Figure
from understudy.messages.slugs import slug
from understudy.messages.step import Effect, Store


def untold(state: State, watched: Mapping[str, Watched], now: float, settings: Settings) -> list[Effect]:
    """What the detectors hold and the log does not say. What came and went while nobody announced is not told: it
    stands in the trends."""
    out: list[Effect] = []
    for model, of in watched.items():
        for figure, detector in of.detectors.items():
            last, told = detector.last, state.history.told.get(model, {}).get(figure)
            if last is None or last.direction == told or (told != "worse" and last.direction != "worse"):
                continue
            out += _told(state, model, figure, last, now, settings)
    for model, figure, found in _forgotten(state.history, watched):
        out += _told(state, model, figure, found, now, settings)
    return out


def _forgotten(history: History, watched: Mapping[str, Watched]) -> Iterator[tuple[str, Figure, Found]]:
    """What the log calls worse and no detector does: it was made of events that the log no longer has. Nobody would
    ever take it back, and the selector would lean away for good."""
    for model, figures in history.told.items():
        detectors = watched[model].detectors if model in watched else {}
        for figure, direction in figures.items():
            detector = detectors.get(figure)
            if direction == "worse" and (detector is None or detector.last is None):
                level = detector.usual(figure) if detector is not None else 0.0
                hour = history.closed_h
                yield model, figure, Found("settled", hour, hour + 1, level, level, 0)


def _told(state: State, model: str, figure: Figure, found: Found, now: float, settings: Settings) -> list[Effect]:
    event = ModelDrifted(
        at_ms=int(now),
        model=model,
        figure=figure,
        direction=found.direction,
        since_ms=found.since_h * HOUR_MS,
        until_ms=found.until_h * HOUR_MS,
        before=round(found.before, 6),
        after=round(found.after, 6),
        n=found.n,
    )
    msg_id = f"drifted.{slug(model)}.{figure}.{found.since_h}.{found.direction}"
    if msg_id in state.telling:
        return []
    state.telling.add(msg_id)
    return [Store(event, msg_id, key=slug(model), give_up_ms=settings.store_ms)]


def ahead(history: History, now: float, settings: Settings) -> dict[str, Watched]:
    """The detectors as they will be when the log has a fact from now: a quiet log closes no hour. What is announced
    is such a fact."""
    upto = (int(now) - settings.grace_ms) // HOUR_MS - 1
    due = sorted(hour for hour in history.open if hour <= upto)
    found: dict[str, Watched] = {}
    for hour in due:
        for model, tasks in history.open[hour].items():
            if model not in found:
                found[model] = deepcopy(history.watched.get(model, Watched()))
            found[model].observe(hour, tasks, settings.drift)
            found[model].settle(hour, settings.drift)
    return {**history.watched, **found}
