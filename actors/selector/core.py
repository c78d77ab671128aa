"""Decide which model answers, and conduct each request through failover to its one end. Pure: no clock, no bus."""

from __future__ import annotations

from functools import partial

from understudy.actors.selector import answers
from understudy.actors.selector.asks import asked_for
from understudy.actors.selector.conduct import Where
from understudy.actors.selector.state import Settings, State, conducted
from understudy.messages.base import Ask, Message
from understudy.messages.catalogue import DescribeModel, GiveFeedback, ListModels, Select
from understudy.messages.events import (
    AttemptEnded,
    FeedbackGiven,
    ModelDegraded,
    ModelLoaded,
    ModelRecovered,
    ModelSwitched,
    ModelUnavailable,
    RequestEnded,
    TopologyApplied,
)
from understudy.messages.generate import Cancel, Generate
from understudy.messages.run import ProcessGone, RunEnded, RunFailed, RunFailure, RunnerBeat, RunStarted, RunText
from understudy.messages.step import (
    Asked,
    Booted,
    CaughtUp,
    Effect,
    Happened,
    Heard,
    Input,
    Send,
    Stopping,
    Stored,
    StoreFailed,
    Unheard,
    Wake,
    Woke,
)

ASKS: dict[str, type[Ask | Message]] = {
    "model.generate": Generate,
    "model.select": Select,
    "model.list": ListModels,
    "model.describe": DescribeModel,
    "feedback.give": GiveFeedback,
    "model.cancel.{instance}": Cancel,
}
HEARS = (RunnerBeat, ProcessGone)
FOLDS = (TopologyApplied, AttemptEnded, RequestEnded, ModelLoaded, ModelDegraded, ModelUnavailable, ModelRecovered)
EMITS = (AttemptEnded, RequestEnded, ModelSwitched, FeedbackGiven)
SENDS = ("runner.run", "runner.cancel")

SWEEP = "sweep"


def step(state: State, message: Input, settings: Settings) -> list[Effect]:
    """One input in, effects out; `state` is changed in place and by nobody else."""
    match message:
        case Heard():
            return _heard(state, message)
        case Asked():
            return asked_for(state, message, settings)
        case Happened():
            state.knowledge.apply(message.seq, message.event)
            return []
        case Stored() | StoreFailed():
            return _stored(state, message)
        case Woke():
            return _woke(state, message, settings)
        case Unheard():
            return _unheard(state, message)
        case Stopping():
            return _stopping(state, message.at_ms)
        case Booted():
            state.where = Where(message.app, message.instance, message.inbox)
            return []
        case CaughtUp():
            return [Wake(message.at_ms + settings.sweep_ms, SWEEP, 0)]
        case _:
            return []


# --- answers from runners, timers, the log -------------------------------------------------------------------------


def _heard(state: State, heard: Heard) -> list[Effect]:
    message = heard.message
    match message:
        case RunText() | RunStarted() | RunEnded() | RunFailed():
            run = state.runs.get(message.run_id)
            if run is None:
                return [state.where.cancel(message)] if isinstance(message, RunStarted) else []
            return conducted(state, run, heard.at_ms, partial(run.hear, message, heard.at_ms))
        case RunnerBeat():
            state.local.beat(message, heard.at_ms)
            return []
        case ProcessGone():
            return _gone(state, message.instance, "gone", heard.at_ms)
        case _:
            return []


def _gone(state: State, instance: str, reason: RunFailure, now: float) -> list[Effect]:
    """A runner died: its runs go on elsewhere at once, without waiting for their stall limit."""
    out: list[Effect] = []
    models = state.local.gone(instance)
    for run in [r for r in state.runs.values() if r.runner == instance and r.ending is None]:
        out += conducted(state, run, now, partial(run.fail, reason, now))
    for model in models:
        if not state.local.instances.get(model):
            state.local.suspect(model, now)
    return out


def _stopping(state: State, now: float) -> list[Effect]:
    """Nothing new is taken; what is in hand ends honestly, and resumable."""
    out: list[Effect] = []
    for run in list(state.runs.values()):
        out += conducted(state, run, now, partial(run.interrupt, now))
    return out


def in_hand(state: State) -> int:
    """Runs whose end has not been said."""
    return len(state.runs)


def _woke(state: State, woke: Woke, settings: Settings) -> list[Effect]:
    if woke.key == SWEEP:
        out: list[Effect] = [Wake(woke.at_ms + settings.sweep_ms, SWEEP, woke.generation + 1)]
        for instance in state.local.silent(woke.at_ms, settings.beat_timeout_ms):
            out += _gone(state, instance, "silent", woke.at_ms)
        return out
    run = state.runs.get(woke.key)
    if run is None:
        return []
    return conducted(state, run, woke.at_ms, partial(run.woke, woke.generation, woke.at_ms))


def _unheard(state: State, unheard: Unheard) -> list[Effect]:
    """Nobody listens: on `run.<id>.<attempt>` the runner is not there, on `vanished.<id>` the caller is gone."""
    _, _, tail = unheard.subject.partition(state.where.inbox + ".")
    kind, *rest = tail.split(".")
    run = state.runs.get(rest[0]) if rest else None
    if run is None:
        return []
    if kind == "vanished":
        return conducted(state, run, unheard.at_ms, partial(run.cancel, unheard.at_ms))
    if kind == "run" and rest[1:] == [str(run.attempt)]:
        return conducted(state, run, unheard.at_ms, partial(run.fail, "no_responders", unheard.at_ms))
    return []


def _stored(state: State, answer: Stored | StoreFailed) -> list[Effect]:
    if answer.msg_id.startswith("feedback."):
        reply, run_id = state.feedback.pop(answer.msg_id, ("", ""))
        return [Send(reply, answers.feedback_taken(answer, run_id))] if reply else []
    kind, _, run_id = answer.msg_id.partition(".")
    run = state.runs.get(run_id) if kind == "end" else None
    if run is None:
        return []
    del state.runs[run_id]
    return run.stored(answer)
