"""A month that never was: calls of some models with a daily cycle, and regressions at hours that are known.

Everything is drawn from a seed. A model has its own speed, spread, failures and mix of tasks; load follows the day and
the week, and with it latency and failures rise; hours differ from each other by chance beside that. A regression
doubles latency or adds ten points to the share of errors, from the beginning of an hour for half a day to two days.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from math import cos, exp, pi
from typing import Literal, NamedTuple

DAYS, DAY_H = 30, 24
HOURS = DAYS * DAY_H
MODELS = tuple(f"lab/model-{n}" for n in range(8))
TASKS = {"chat": 1.0, "narrative": 2.5, "summary": 0.6}
"""How long each task takes beside the model's own speed."""
LEAST_CALLS, MORE_CALLS = 100, 176  # per model and hour; the second at the height of a weekday
QUIET_H = 3 * DAY_H  # of history before anything is planted
APART_H = 48
ERRORS = ("server_error", "stall_timeout", "broken_stream", "rate_limited")


Kind = Literal["latency_ms", "error_ratio"]


class Call(NamedTuple):
    """One attempt, the only one of its run."""

    hour: int  # since the beginning of the month
    ms: int  # within the hour
    model: str
    task: str
    error: str  # '' for a good one
    total_ms: float
    first_token_ms: float


class Planted(NamedTuple):
    """A regression from the beginning of `hour` to before `end`."""

    model: str
    figure: Kind
    hour: int
    end: int


class Model(NamedTuple):
    """What a model is like."""

    name: str
    ms: float
    spread: float  # standard deviation of the logarithm of one call's latency
    errors: float  # at the height of the day
    mix: tuple[float, ...]  # of the tasks by day; by night narrative is asked for twice as often


class World:
    """One month."""

    def __init__(self, seed: int, quiet: bool = False) -> None:
        self.seed, self._luck = seed, random.Random(seed)
        self.models = [
            Model(
                name=name,
                ms=self._luck.uniform(300, 3_000),
                spread=self._luck.uniform(0.35, 0.8),
                errors=0.005 + 0.045 * n / (len(MODELS) - 1),
                mix=(self._luck.uniform(2, 4), 1.0, self._luck.uniform(0.5, 2)),
            )
            for n, name in enumerate(MODELS)
        ]
        self.planted: tuple[Planted, ...] = () if quiet else tuple(self._plant())

    def _plant(self) -> Iterator[Planted]:
        """Of each model one of each kind, in either order, far enough from each other to tell them apart."""
        for model in self.models:
            kinds: list[Kind] = ["latency_ms", "error_ratio"]
            self._luck.shuffle(kinds)
            middle = (QUIET_H + HOURS) // 2
            for kind, first, last in zip(kinds, (QUIET_H, middle), (middle, HOURS), strict=True):
                length = self._luck.randint(12, 48)
                hour = self._luck.randint(first, last - length - APART_H)
                yield Planted(model.name, kind, hour, hour + length)

    def calls(self, models: list[Model] | None = None) -> Iterator[list[Call]]:
        """The calls of each hour, by time; `models`: only of these."""
        luck = random.Random(self.seed * 7_919 + 1)
        for hour in range(HOURS):
            found = [call for model in models or self.models for call in self._hour(model, hour, luck)]
            found.sort(key=lambda call: call.ms)
            yield found

    def _hour(self, model: Model, hour: int, luck: random.Random) -> Iterator[Call]:
        load = load_of(hour)
        count = LEAST_CALLS + round(MORE_CALLS * load)
        errors, slow = model.errors * (0.6 + 0.4 * load), 1 + 0.35 * load
        for one in self.planted:
            if one.model == model.name and one.hour <= hour < one.end:
                errors, slow = (errors + 0.1, slow) if one.figure == "error_ratio" else (errors, 2 * slow)
        level = model.ms * slow * exp(luck.gauss(0, 0.04))
        chat, narrative, summary = model.mix
        names, weights = list(TASKS), [chat, narrative * (2 - load), summary]
        tasks = luck.choices(names, weights, k=count)
        for task in tasks:
            total = level * TASKS[task] * exp(luck.gauss(0, model.spread))
            bad = luck.choice(ERRORS) if luck.random() < errors else ""
            yield Call(hour, luck.randrange(3_600_000), model.name, task, bad, total, total * 0.3)


def load_of(hour: int) -> float:
    """From 0 in the night to 1 in the afternoon; less at weekends."""
    day = 0.5 - 0.5 * cos(2 * pi * ((hour - 4) % DAY_H) / DAY_H)
    return day * (0.6 if hour // DAY_H % 7 in (5, 6) else 1.0)
