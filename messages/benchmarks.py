"""Benchmarks: what is asked of the benchmarker, and the facts that it states about models."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from understudy.messages.base import Ask, Message, Part
from understudy.messages.events import Event
from understudy.messages.units import Count, Key, ModelId, Positive, Word

BENCHMARK = "benchmark"
"""The label of a benchmark's requests, and the task under which their speed and failures are counted."""


class TaskScore(Part, frozen=True, kw_only=True):
    """How well a model did in one task of a suite.

    `score_u`: the sum over `scored` items, in millionths (each item 0 to 1); `failed` of `items` had no answer, and
    `skipped` were never asked (the model has no tools, or no room for so many at once). `weighted_u`: the same sum with
    each item's weight, of `weight` in all.
    """

    task: Word
    items: Count
    scored: Count
    failed: Count = 0
    score_u: Count = 0
    skipped: Count = 0
    weight: Count = 0
    weighted_u: Count = 0


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
    rules: str = ""  # `interim`: some items are scored by rules that nobody has validated yet


SuiteName = Annotated[str, Meta(min_length=1, max_length=1_000)]
"""The name of a shipped suite, or the path of a file (with a slash in it) on the machine of the benchmarker."""


class BenchmarkBegun(Event, tag="benchmark.begun.v1", frozen=True, kw_only=True):
    """A benchmark was ordered, or is gone on with (the same `bench_id` again): all that a restart needs."""

    bench_id: Key
    models: tuple[ModelId, ...]
    suite: Word
    source: SuiteName
    suite_hash: str
    items: Count
    seed: Count = 0
    at_once: Positive = 1
    allow_cost: bool = False
    judge: ModelId | None = None
    scheduled: bool = False


class BenchmarkScored(Event, tag="benchmark.scored.v1", frozen=True, kw_only=True):
    """One item of a benchmark on one model is done. No word of prompt or answer.

    `outcome`: `scored`; `failed` (`reason`: the code, or `fallback`: another model answered); `skipped` (`reason`: no
    capability, no room). `ms`: the whole answer; `first_token_ms` and `tokens` as the selector saw them.
    """

    bench_id: Key
    model: ModelId
    item: Word
    task: Word
    outcome: Literal["scored", "failed", "skipped"]
    reason: str = ""
    score_u: Count = 0
    weight: Count = 1
    figures: dict[str, float] = {}
    ms: float = 0.0
    first_token_ms: float | None = None
    tokens: Count = 0
    judged: bool = False


class BenchmarkCancelled(Event, tag="benchmark.cancelled.v1", frozen=True, kw_only=True):
    """It is over before its end: what was scored stands, and it can be gone on with."""

    bench_id: Key
    reason: Literal["ordered", "suite_changed", "bad_suite", "price"]


class BenchmarksScheduled(Event, tag="benchmark.scheduled.v1", frozen=True, kw_only=True):
    """From now on idle models are benchmarked so often, whatever the topology's settings say; 0: never."""

    every_h: float
    suites: tuple[Word, ...]
    models: tuple[ModelId, ...] = ()  # none: all that cost nothing


class RunBenchmark(Ask, tag="benchmark.run.v1", frozen=True, kw_only=True):
    """Run a suite on models, one after the other. For operators. `resume`: go on with one that was cancelled, or watch
    one that runs; nothing else may be said then.

    Answered in parts: `BenchmarkProgress`*, then one `BenchmarkDone`, or `Failed`. Who hears no more has ended nothing.
    """

    stores: ClassVar[bool] = True

    models: Annotated[tuple[ModelId, ...], Meta(max_length=32)] = ()
    suite: SuiteName = "standard"
    seed: Annotated[int, Meta(ge=0, le=2**31)] = 0
    at_once: Annotated[int, Meta(ge=1, le=64)] = 1
    allow_cost: bool = False
    max_items: Positive | None = None  # so many, evenly spread
    judge: ModelId | None = None
    resume: Key | None = None


class CancelBenchmark(Ask, tag="benchmark.cancel.v1", frozen=True, kw_only=True):
    """End a benchmark: nothing more is asked for it. Answered with its `BenchmarkState`."""

    stores: ClassVar[bool] = True

    bench_id: Key


class ListBenchmarks(Ask, tag="benchmark.list.v1", frozen=True, kw_only=True):
    """What runs and what has run, the newest first. `bench_id`: only this one, with all that was measured."""

    bench_id: Key | None = None
    limit: Annotated[int, Meta(ge=1, le=200)] = 20


class ScheduleBenchmarks(Ask, tag="benchmark.schedule.v1", frozen=True, kw_only=True):
    """How often idle models are benchmarked; without `every_h`: what is due when. 0: never."""

    stores: ClassVar[bool] = True

    every_h: Annotated[float, Meta(ge=0, le=8_760)] | None = None
    suites: Annotated[tuple[Word, ...], Meta(max_length=16)] = ()
    models: Annotated[tuple[ModelId, ...], Meta(max_length=200)] = ()


Waits = Literal["", "busy", "pace", "answer", "suite", "turn"]
"""What a benchmark waits for: room beside interactive work; its pace while others work; answers; its file; its turn."""


class BenchmarkProgress(Message, tag="benchmark.progress.v1", frozen=True, kw_only=True):
    """Where it is: said twice a second at most, and once a second in any case. `done` of `items` of this model."""

    bench_id: str
    model: ModelId = ""
    nth_model: Count = 0
    models: Count = 0
    done: Count = 0
    items: Count = 0
    failed: Count = 0
    score_u: Count = 0  # the sum so far, of `scored` items
    scored: Count = 0
    waits: Waits = ""


class BenchmarkState(Message, tag="benchmark.state.v1", frozen=True, kw_only=True):
    """One benchmark: what was ordered, how far it is, what was measured."""

    bench_id: str
    begun_ms: int
    suite: Word
    suite_hash: str
    models: tuple[ModelId, ...]
    items: Count  # per model
    seed: Count = 0
    state: Literal["running", "finished", "cancelled"] = "running"
    reason: str = ""
    done: dict[ModelId, Count] = {}
    judge: ModelId | None = None
    scheduled: bool = False
    measured: tuple[BenchmarkMeasured, ...] = ()


class BenchmarkDone(Message, tag="benchmark.done.v1", frozen=True, kw_only=True):
    """The end of a benchmark, for who watched it."""

    state: BenchmarkState


class Benchmarks(Message, tag="benchmark.listed.v1", frozen=True, kw_only=True):
    """The answer to `ListBenchmarks`."""

    as_of_seq: Count
    benchmarks: tuple[BenchmarkState, ...]


class Due(Part, frozen=True, kw_only=True):
    """When a suite is due on a model; it waits for the model to be idle then. `last_ms` 0: never measured."""

    model: ModelId
    suite: Word
    due_ms: int
    last_ms: int = 0


class BenchmarkSchedule(Message, tag="benchmark.due.v1", frozen=True, kw_only=True):
    """The answer to `ScheduleBenchmarks`. `by`: who said so last."""

    every_h: float
    suites: tuple[Word, ...]
    models: tuple[ModelId, ...] = ()
    by: Literal["topology", "order"] = "topology"
    due: tuple[Due, ...] = ()


class ModelDrifted(Event, tag="model.drifted.v1", frozen=True, kw_only=True):
    """A model's figures have changed for worse (or `recovered`), by the outcomes of whole hours up to `until_ms`.

    `since_ms`: the beginning of the hour in which the change began; `before` and `after`: the figure then and now.
    `settled`: it has been so for so long that it is what is expected now, or (with `n` 0) the log no longer has the
    hours that it was found in. `before` is what its tasks and hours let expect, so that more of a slow task is no
    drift.
    """

    model: ModelId
    figure: Literal["latency_ms", "error_ratio", "score"]
    direction: Literal["worse", "recovered", "settled"]
    since_ms: int
    until_ms: int
    before: float
    after: float
    n: Count = 0  # attempts since the change
