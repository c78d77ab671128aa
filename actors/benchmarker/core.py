"""Run benchmarks; count outcomes by model, task and hour; compare models, show trends, say when one gets worse. Pure.

Everything it compares is made of `messages/buckets.py`, so its figures and those of the graph are the same. Benchmarks
are `conduct.py`, which asks models as any component does.
"""

from __future__ import annotations

from understudy.actors.benchmarker import compare, conduct, orders, schedule, trends
from understudy.actors.benchmarker.announce import ahead, untold
from understudy.actors.benchmarker.history import History
from understudy.actors.benchmarker.state import Settings, State
from understudy.messages.base import Ask, Message
from understudy.messages.benchmarks import (
    BENCHMARK,
    BenchmarkBegun,
    BenchmarkCancelled,
    BenchmarkMeasured,
    BenchmarkScored,
    BenchmarksScheduled,
    CancelBenchmark,
    ListBenchmarks,
    ModelDrifted,
    RunBenchmark,
    ScheduleBenchmarks,
)
from understudy.messages.buckets import DAY_MS, HOUR_MS, OutcomeBrief
from understudy.messages.catalogue_events import CATALOGUE_EVENTS
from understudy.messages.comparison import CompareModels, Trends
from understudy.messages.events import Event, FeedbackGiven, ModelLoaded, TopologyApplied
from understudy.messages.generate import ADVICE, Failed
from understudy.messages.run import RunnerBeat
from understudy.messages.step import (
    Asked,
    Booted,
    CaughtUp,
    EdgeReady,
    Effect,
    Happened,
    Heard,
    Input,
    Send,
    Stored,
    StoreFailed,
    Unheard,
    Wake,
    Woke,
)
from understudy.messages.suites import SuiteRead

ASKS: dict[str, type[Ask | Message]] = {
    "benchmark.compare": CompareModels,
    "benchmark.trends": Trends,
    "benchmark.run": RunBenchmark,
    "benchmark.cancel": CancelBenchmark,
    "benchmark.list": ListBenchmarks,
    "benchmark.schedule": ScheduleBenchmarks,
}
HEARS: tuple[type[Message], ...] = (RunnerBeat,)
BENCHMARKS: tuple[type[Event], ...] = (
    BenchmarkBegun,
    BenchmarkScored,
    BenchmarkMeasured,
    BenchmarkCancelled,
    BenchmarksScheduled,
)
FOLDS = (TopologyApplied, OutcomeBrief, FeedbackGiven, ModelDrifted, ModelLoaded, *BENCHMARKS, *CATALOGUE_EVENTS)
EMITS = (ModelDrifted, *BENCHMARKS)
SENDS = ("model.generate",)
Fold = History

SWEEP = "sweep"


def step(state: State, message: Input, settings: Settings) -> list[Effect]:
    """One input in, effects out."""
    match message:
        case Happened():
            return _happened(state, message, settings)
        case Asked():
            return _asked(state, message, settings)
        case Heard(message=RunnerBeat() as beat):
            state.work.room.hear(beat, message.at_ms)
            return []
        case Heard():
            return conduct.answered(state, _tail(state, message.subject), message.message, message.at_ms, settings)
        case Unheard():
            return conduct.answered(state, _tail(state, message.subject), None, message.at_ms, settings)
        case Stored() | StoreFailed():
            return _stored(state, message, settings)
        case SuiteRead():
            read = schedule.suites_known if message.key in state.work.planning else orders.suite_read
            return read(state, message, settings)
        case Booted():
            state.work.app, state.work.inbox = message.app, message.inbox
            return []
        case EdgeReady():
            state.work.ready, state.work.hardware = True, message.facts
            return conduct.advance(state, message.at_ms, settings)
        case CaughtUp():
            state.live = True
            return [*_sweep(state, message.at_ms, 0, settings), *conduct.advance(state, message.at_ms, settings)]
        case Woke(key=conduct.TICK):
            return conduct.tick(state, message.at_ms, message.generation, settings)
        case Woke():
            return _sweep(state, message.at_ms, message.generation + 1, settings)
        case _:
            return []


def _asked(state: State, asked: Asked, settings: Settings) -> list[Effect]:
    match asked.message:
        case RunBenchmark() as ask:
            return orders.run(state, asked, ask, settings)
        case CancelBenchmark() as ask:
            return orders.cancel(state, asked, ask)
        case ListBenchmarks() as ask:
            return orders.listed(state, asked, ask)
        case ScheduleBenchmarks() as ask:
            return schedule.answer(state, asked, ask, settings)
        case _:
            return _figures(state, asked)


def _tail(state: State, subject: str) -> str:
    return subject.removeprefix(f"{state.work.inbox}.run.")


def _stored(state: State, answer: Stored | StoreFailed, settings: Settings) -> list[Effect]:
    """A fact of a benchmark counts once it is folded; one that the log had before may have been folded long ago."""
    state.telling.discard(answer.msg_id)
    work = state.work
    if isinstance(answer, Stored):
        if answer.seq <= state.history.seq:
            work.storing.pop(answer.msg_id, None)
            return _folded(state, answer.msg_id, answer.at_ms, settings)
        return []
    work.storing.pop(answer.msg_id, None)
    reply = work.scheduling.pop(answer.msg_id, "")
    code = "log_full" if answer.code == "log_full" else "bus_down"
    failed = [Send(reply, Failed(code=code, text=ADVICE[code]))] if reply else []
    return [*failed, *orders.not_stored(state, answer)]


def _folded(state: State, msg_id: str, now: float, settings: Settings) -> list[Effect]:
    """A fact of ours is in the fold."""
    state.work.storing.pop(msg_id, None)
    reply = state.work.scheduling.pop(msg_id, "")
    told = [Send(reply, schedule.told(state, settings))] if reply else []
    return [*told, *conduct.advance(state, now, settings)]


def fold_state(state: State) -> History:
    """The part of the state that is folded from the log."""
    return state.history


def restore(state: State, history: History) -> None:
    """Go on from an earlier fold."""
    state.history = history


def _happened(state: State, happened: Happened, settings: Settings) -> list[Effect]:
    history = state.history
    closed_h = history.closed_h
    if not history.apply(happened.seq, happened.event, settings.grace_ms, settings.drift):
        return []
    out = _of_work(state, happened, settings)
    if history.closed_h == closed_h:
        return out
    history.prune(settings.keep_days * DAY_MS // HOUR_MS, settings.keep_buckets)
    return [*out, *(untold(state, history.watched, happened.at_ms, settings) if state.live else [])]


def _of_work(state: State, happened: Happened, settings: Settings) -> list[Effect]:
    """What a fact means for benchmarks that run."""
    event = happened.event
    if isinstance(event, OutcomeBrief) and BENCHMARK not in event.labels:
        for attempt in event.attempts:
            state.work.room.used(attempt.model, float(event.at_ms))
    if not isinstance(event, BENCHMARKS):
        return []
    if isinstance(event, BenchmarkBegun):
        orders.begun(state, event.bench_id)
    if isinstance(event, BenchmarkMeasured | BenchmarkCancelled):
        entry = state.history.runs.entries.get(event.bench_id)
        if entry is None or entry.state != "running":
            state.work.suites.pop(event.bench_id, None)
    return _folded(state, event.id, happened.at_ms, settings)


def _sweep(state: State, now: float, generation: int, settings: Settings) -> list[Effect]:
    """By the clock, as a quiet log closes no hour."""
    wake = Wake(now + settings.sweep_ms, SWEEP, generation)
    told = untold(state, ahead(state.history, now, settings), now, settings)
    return [wake, *told, *schedule.begin(state, now, settings)]


def _figures(state: State, asked: Asked) -> list[Effect]:
    """Of what the log knows; a model or a task that nobody knows is a typing mistake."""
    ask, history = asked.message, state.history
    assert isinstance(ask, CompareModels | Trends)
    if not asked.reply:
        return []
    known = history.seen() | set(history.models)
    for n, model in enumerate(ask.models):
        if model not in known:
            text = f"No model {model!r} is declared or has outcomes here; there are: {', '.join(sorted(known))}."
            return [Send(asked.reply, Failed(code="unknown_model", text=text, path=f"$.models[{n}]"))]
    tasks = {*history.tasks, *history.tasks_seen()}
    if ask.task is not None and ask.task not in tasks:
        text = f"No task {ask.task!r} is declared or has outcomes here; there are: {', '.join(sorted(tasks))}."
        return [Send(asked.reply, Failed(code="unknown_task", text=text, path="$.task"))]
    if isinstance(ask, CompareModels):
        return [Send(asked.reply, compare.answer(history, ask, asked.at_ms))]
    return [Send(asked.reply, trends.answer(history, ask, asked.at_ms))]
