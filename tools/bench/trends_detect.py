"""A month through the benchmarker's own step, event by event, and how its announcements stand beside what was planted.

It runs in processes of its own, one month each.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec

from understudy.actors.benchmarker import core
from understudy.messages.brief import AttemptBrief
from understudy.messages.buckets import HOUR_MS, OutcomeBrief
from understudy.messages.comparison import Figure
from understudy.messages.step import Happened
from understudy.tools.bench.trends_world import MODELS, Call, Planted, World

FIRST_H = 490_008
"""Where months of the detection begin: any midnight (UTC)."""
LATE_H = 2


class Judged(msgspec.Struct, frozen=True):
    """One month. Hours from the beginning of a regression until it, or its end, was found; None: never."""

    seed: int
    events: int
    planted: int
    found_h: list[int | None]
    recovered_h: list[int | None]
    false_alarms: list[tuple[str, str, int]]  # model, figure, hour
    false_recoveries: int
    months: int = len(MODELS)

    def found(self) -> int:
        """Regressions that were found in time."""
        return sum(hours is not None and hours <= LATE_H for hours in self.found_h)


class Announced(NamedTuple):
    """A change as the detector told it; hours since the beginning of the month."""

    model: str
    figure: Figure
    direction: str
    until: int


def fact(call: Call, first_h: int) -> OutcomeBrief:
    """A call as the fold reads it."""
    attempt = AttemptBrief(
        model=call.model,
        outcome=call.error or "ok",
        total_ms=call.total_ms,
        first_token_ms=None if call.error else call.first_token_ms,
    )
    return OutcomeBrief(
        at_ms=(first_h + call.hour) * HOUR_MS + call.ms,
        run_id="r",
        outcome="all_failed" if call.error else "finished",
        task=call.task,
        model=None if call.error else call.model,
        attempts=(attempt,),
    )


def detect(seed: int, control: str = "") -> Judged:
    """Play a month. `control`: `shuffled` hours, a `deaf` detector, or a `quiet` month in which nothing was planted."""
    world = World(seed, quiet=control == "quiet")
    settings = core.Settings()
    if control == "deaf":
        settings = msgspec.convert({"drift": {"evidence": 1e9}}, core.Settings)
    state, seq = core.State(), 0
    for calls in _hours(world, shuffled=control == "shuffled"):
        for call in calls:
            seq += 1
            core.step(state, Happened(0.0, seq, fact(call, FIRST_H)), settings)
    core.step(state, Happened(0.0, seq + 1, _end()), settings)
    told = [
        Announced(model, figure, one.direction, one.until_h - FIRST_H)
        for model, of in state.history.watched.items()
        for figure, one in of.found
    ]
    return judge(world, told, seq)


def _end() -> OutcomeBrief:
    """A fact of the next month, by which the last hour is over."""
    return OutcomeBrief(at_ms=(FIRST_H + 721) * HOUR_MS, run_id="r", outcome="finished", task="chat")


def _hours(world: World, *, shuffled: bool) -> Iterator[list[Call]]:
    if not shuffled:
        yield from world.calls()
        return
    hours = list(world.calls())
    order = list(range(len(hours)))
    random.Random(world.seed).shuffle(order)
    for hour, source in enumerate(order):
        yield [call._replace(hour=hour) for call in hours[source]]


def judge(world: World, told: list[Announced], events: int) -> Judged:
    """What was found of what was planted, when; everything else that was said to be worse is a false alarm."""

    def first(one: Planted, direction: str, after: int) -> int | None:
        until = [
            a.until
            for a in told
            if (a.model, a.figure, a.direction) == (one.model, one.figure, direction) and a.until > after
        ]
        return min(until) - after if until else None

    def of(a: Announced) -> bool:
        same = [one for one in world.planted if (one.model, one.figure) == (a.model, a.figure)]
        return any(one.hour < a.until <= one.end for one in same)

    worse = [a for a in told if a.direction == "worse"]
    found = [first(one, "worse", one.hour) for one in world.planted]
    within = [
        hours if hours is not None and one.hour + hours <= one.end else None
        for one, hours in zip(world.planted, found, strict=True)
    ]
    return Judged(
        seed=world.seed,
        events=events,
        planted=len(world.planted),
        found_h=within,
        recovered_h=[first(one, "recovered", one.end) for one in world.planted],
        false_alarms=[(a.model, a.figure, a.until) for a in worse if not of(a)],
        false_recoveries=sum(a.direction != "worse" and of(a) for a in told),
    )


def summary(months: list[Judged]) -> dict[str, Any]:
    """Over all months."""
    planted, found = sum(one.planted for one in months), sum(one.found() for one in months)
    alarms: dict[tuple[int, str], int] = {}
    for one in months:
        for model, _, _ in one.false_alarms:
            alarms[one.seed, model] = alarms.get((one.seed, model), 0) + 1
    late = [hours for one in months for hours in one.found_h]
    back = [hours for one in months for hours in one.recovered_h]
    return {
        "planted": planted,
        "found": found,
        "found_ratio": found / planted if planted else 1.0,
        "found_after_h": {str(hours): late.count(hours) for hours in sorted({*late}, key=str)},
        "recovered_after_h": {str(hours): back.count(hours) for hours in sorted({*back}, key=str)},
        "false_alarms": sum(len(one.false_alarms) for one in months),
        "false_alarms_per_model_month": sum(alarms.values()) / sum(one.months for one in months),
        "false_alarms_worst_model_month": max(alarms.values(), default=0),
        "false_recoveries": sum(one.false_recoveries for one in months),
        "events": sum(one.events for one in months),
    }
