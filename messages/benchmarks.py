"""Benchmarks: what is asked of the benchmarker, and the facts that it states about models."""

from __future__ import annotations

from typing import Any, Literal

from understudy.messages.base import Part
from understudy.messages.events import Event
from understudy.messages.units import Count, ModelId, Word

BENCHMARK = "benchmark"
"""The label of a benchmark's requests, and the task under which their speed and failures are counted."""


class TaskScore(Part, frozen=True, kw_only=True):
    """How well a model did in one task of a suite.

    `score_u`: the sum over `scored` items, in millionths (each item 0 to 1); `failed` of `items` had no answer.
    """

    task: Word
    items: Count
    scored: Count
    failed: Count = 0
    score_u: Count = 0


class BenchmarkMeasured(Event, tag="benchmark.measured.v1", frozen=True, kw_only=True):
    """A suite was run on a model, whole. Equal suite, seed, engine and hardware: equal scores of a seeded local model.

    `complete`: every item was asked; a run that was cancelled or out of budget says so here.
    """

    bench_id: str
    model: ModelId
    suite: Word
    suite_hash: str
    seed: Count
    tasks: tuple[TaskScore, ...]
    figures: dict[str, float] = {}  # by name, with the unit in it: first_token_ms_p50, tokens_per_s, ...
    engine: str = ""
    hardware: dict[str, Any] = {}
    complete: bool = True
    judge: ModelId | None = None  # the model that judged some of the items


class ModelDrifted(Event, tag="model.drifted.v1", frozen=True, kw_only=True):
    """A model's figures have changed for worse (or `recovered`), by the outcomes of whole hours up to `until_ms`.

    `since_ms`: the beginning of the hour in which the change began; `before` and `after`: the figure then and now.
    `settled`: it has been so for so long that it is what is expected now. `before` is what its tasks and hours let
    expect, so that more of a slow task is no drift.
    """

    model: ModelId
    figure: Literal["latency_ms", "error_ratio", "score"]
    direction: Literal["worse", "recovered", "settled"]
    since_ms: int
    until_ms: int
    before: float
    after: float
    n: Count = 0  # attempts since the change
