"""Count outcomes by model, task and hour; compare models, show trends, say when one gets worse. Pure.

Everything it says is made of `messages/buckets.py`, so its figures and those of the graph are the same.
"""

from __future__ import annotations

from understudy.actors.benchmarker import compare, trends
from understudy.actors.benchmarker.announce import ahead, untold
from understudy.actors.benchmarker.history import History
from understudy.actors.benchmarker.state import Settings, State
from understudy.messages.base import Ask, Message
from understudy.messages.benchmarks import BenchmarkMeasured, ModelDrifted
from understudy.messages.buckets import DAY_MS, HOUR_MS, OutcomeBrief
from understudy.messages.comparison import CompareModels, Trends
from understudy.messages.events import FeedbackGiven, TopologyApplied
from understudy.messages.generate import Failed
from understudy.messages.step import (
    Asked,
    CaughtUp,
    Effect,
    Happened,
    Input,
    Send,
    Stored,
    StoreFailed,
    Wake,
    Woke,
)

ASKS: dict[str, type[Ask | Message]] = {"benchmark.compare": CompareModels, "benchmark.trends": Trends}
HEARS: tuple[type[Message], ...] = ()
FOLDS = (TopologyApplied, OutcomeBrief, FeedbackGiven, BenchmarkMeasured, ModelDrifted)
EMITS = (ModelDrifted,)
SENDS = ()
Fold = History

SWEEP = "sweep"


def step(state: State, message: Input, settings: Settings) -> list[Effect]:
    """One input in, effects out."""
    match message:
        case Happened():
            return _happened(state, message, settings)
        case Asked(message=CompareModels() | Trends()):
            return _figures(state, message)
        case Stored() | StoreFailed():
            state.telling.discard(message.msg_id)
            return []
        case CaughtUp():
            state.live = True
            return _sweep(state, message.at_ms, 0, settings)
        case Woke():
            return _sweep(state, message.at_ms, message.generation + 1, settings)
        case _:
            return []


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
    if history.closed_h == closed_h:
        return []
    history.prune(settings.keep_days * DAY_MS // HOUR_MS, settings.keep_buckets)
    return untold(state, history.watched, happened.at_ms, settings) if state.live else []


def _sweep(state: State, now: float, generation: int, settings: Settings) -> list[Effect]:
    """By the clock, as a quiet log closes no hour."""
    wake = Wake(now + settings.sweep_ms, SWEEP, generation)
    return [wake, *untold(state, ahead(state.history, now, settings), now, settings)]


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
