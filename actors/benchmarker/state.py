"""What the benchmarker is told by its operator, and what it knows. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, NamedTuple

import msgspec

from understudy.actors.benchmarker.drift import DriftPlan
from understudy.actors.benchmarker.history import History
from understudy.actors.benchmarker.manners import Manners, Room
from understudy.actors.benchmarker.suite import Question, Suite
from understudy.messages.benchmarks import BenchmarkScored, RunBenchmark, ScheduleBenchmarks, Waits
from understudy.messages.generate import Finished
from understudy.messages.step import Asked
from understudy.messages.units import Positive, PositiveMs, Ratio, Word


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much is kept, and when an hour is over. `drift`: see `DriftPlan`."""

    keep_days: Positive = 35
    keep_buckets: Positive = 200_000  # of a model, a task and an hour; beyond that the oldest days go early
    grace_ms: int = 15_000  # an hour is closed so long after its end: outcomes are stored a moment after they happened
    sweep_ms: int = 30_000
    store_ms: int = 10_000
    drift: DriftPlan = DriftPlan()
    manners: Manners = Manners()
    every_h: Annotated[float, msgspec.Meta(ge=0)] = 0.0  # idle models are benchmarked so often; 0: never
    jitter_ratio: Ratio = 0.1  # so much earlier or later, so that not all are due at once
    suites: tuple[Word, ...] = ("standard",)
    idle_ms: PositiveMs = 60_000  # nobody has used a model for so long
    item_ms: PositiveMs = 120_000  # a whole answer has so long
    tick_ms: PositiveMs = 100
    tries: Positive = 3  # of an item whose ask failed by no fault of the model
    give_up: Positive = 10  # so many items failed in a row: the rest is not asked


class Order(NamedTuple):
    """An order whose suite is being read, or whose begin is on its way to the log."""

    ask: RunBenchmark
    reply: str
    scheduled: bool = False


@dataclass(slots=True)
class Watcher:
    """Somebody who wants to know how a benchmark goes on. `told_ms`: when it was told last, `done`: how much."""

    reply: str
    told_ms: float = 0.0
    done: int = -1


@dataclass(slots=True)
class Asking:
    """An item on its way. `open`: parts that have not been answered; `judged`: what the judge is asked about."""

    bench_id: str
    model: str
    question: Question
    begun_ms: float
    tries: int = 1
    open: set[int] = field(default_factory=set[int])
    ends: list[Finished] = field(default_factory=list[Finished])
    failure: str = ""  # of a part, or of the ask
    retry_ms: float = 0.0  # asked again then
    judging: BenchmarkScored | None = None
    judged_ms: float = 0.0  # when the judge was asked; 0: not yet


@dataclass(slots=True)
class Work:
    """Benchmarks in hand, beside the fold. `suites`: by benchmark, as read for it; `asking`: by number of the ask."""

    app: str = ""
    inbox: str = ""
    ready: bool = False
    ticking: bool = False
    hardware: dict[str, Any] = field(default_factory=dict[str, Any])
    room: Room = field(default_factory=Room)
    orders: dict[str, Order] = field(default_factory=dict[str, Order])
    suites: dict[str, Suite] = field(default_factory=dict[str, Suite])
    reading: set[str] = field(default_factory=set[str])
    asking: dict[int, Asking] = field(default_factory=dict[int, Asking])
    asked: int = 0
    storing: dict[str, tuple[str, str, str]] = field(default_factory=dict[str, tuple[str, str, str]])
    """Facts on their way to the log, by message id: of which benchmark, model and item."""
    watchers: dict[str, list[Watcher]] = field(default_factory=dict[str, list[Watcher]])
    cancelling: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    scheduling: dict[str, str] = field(default_factory=dict[str, str])  # who ordered it, by the fact's message id
    planning: dict[str, tuple[Asked, ScheduleBenchmarks]] = field(
        default_factory=dict[str, tuple[Asked, ScheduleBenchmarks]]
    )  # orders of a schedule whose suites are looked up
    unreadable: set[str] = field(default_factory=set[str])  # suites of the schedule that are none: not tried again
    waits: Waits = ""


@dataclass(slots=True)
class State:
    """The fold, and what is on its way to the log."""

    history: History = field(default_factory=History)
    live: bool = False
    telling: set[str] = field(default_factory=set[str])  # ids of announcements that the log has not answered for
    work: Work = field(default_factory=Work)
