"""What the benchmarker says unasked: that a model has drifted, once per change. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

from understudy.actors.benchmarker.history import History, Watched
from understudy.actors.benchmarker.state import Settings, State
from understudy.messages.benchmarks import ModelDrifted
from understudy.messages.buckets import HOUR_MS
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
            event = ModelDrifted(
                at_ms=int(now),
                model=model,
                figure=figure,
                direction=last.direction,
                since_ms=last.since_h * HOUR_MS,
                until_ms=last.until_h * HOUR_MS,
                before=round(last.before, 6),
                after=round(last.after, 6),
                n=last.n,
            )
            msg_id = f"drifted.{slug(model)}.{figure}.{last.since_h}.{last.direction}"
            if msg_id not in state.telling:
                state.telling.add(msg_id)
                out.append(Store(event, msg_id, key=slug(model), give_up_ms=settings.store_ms))
    return out


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
