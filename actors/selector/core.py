"""Decide which model answers, and conduct each request through failover to its one end. Pure: no clock, no bus."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from understudy.actors.selector import admit, answers
from understudy.actors.selector.choose import Decision, Local, Question, decide
from understudy.actors.selector.conduct import Conduct, Where
from understudy.actors.selector.views import BLAMELESS, Knowledge, LocalView
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
    SelectionMade,
    TopologyApplied,
)
from understudy.messages.generate import Cancel, Cancelled, Failed, Generate
from understudy.messages.run import ProcessGone, RunEnded, RunFailed, RunnerBeat, RunStarted, RunText
from understudy.messages.step import (
    Asked,
    Booted,
    CaughtUp,
    Effect,
    Happened,
    Heard,
    Input,
    Send,
    Stored,
    StoreFailed,
    Trace,
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
BUDGET_WINDOW_MS = 10_000.0


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`hash_key` (set by the supervisor, not by hand) keys the hashes of user and conversation ids."""

    max_in_flight: int = 512
    beat_timeout_ms: int = 1_500  # a runner without heartbeats for this long is dead
    sweep_ms: int = 100
    overload_retry_ms: int = 250
    hash_key: str = ""


@dataclass(slots=True)
class Budget:
    """Further failovers of the last 10 s against cascades; each request's first one is free."""

    window_ms: float = 0.0
    requests: int = 0
    used: int = 0

    def roll(self, now: float) -> None:
        """Forget the window before the last."""
        if now - self.window_ms > BUDGET_WINDOW_MS:
            self.window_ms, self.requests, self.used = now, 0, 0

    def allows(self, ratio: float, minimum: int) -> bool:
        """May one more failover be tried?"""
        return self.used < max(minimum, self.requests * ratio)


@dataclass(slots=True)
class State:
    """`knowledge` is the fold; the rest is this instance's own."""

    where: Where = field(default_factory=lambda: Where("", "", ""))
    knowledge: Knowledge = field(default_factory=Knowledge)
    local: LocalView = field(default_factory=LocalView)
    runs: dict[str, Conduct] = field(default_factory=dict[str, Conduct])
    budget: Budget = field(default_factory=Budget)
    feedback: dict[str, str] = field(default_factory=dict[str, str])  # message id -> reply subject


def step(state: State, message: Input, settings: Settings) -> list[Effect]:
    """One input in, effects out; `state` is changed in place and by nobody else."""
    match message:
        case Heard():
            return _heard(state, message)
        case Asked():
            return _asked(state, message, settings)
        case Happened():
            state.knowledge.apply(message.seq, message.event)
            return []
        case Stored() | StoreFailed():
            return _stored(state, message)
        case Woke():
            return _woke(state, message, settings)
        case Unheard():
            return _unheard(state, message)
        case Booted():
            state.where = Where(message.app, message.instance, message.inbox)
            return []
        case CaughtUp():
            return [Wake(message.at_ms + settings.sweep_ms, SWEEP, 0)]
        case _:
            return []


# --- asks ----------------------------------------------------------------------------------------------------------


def _asked(state: State, asked: Asked, settings: Settings) -> list[Effect]:
    try:
        match asked.message:
            case Select():
                return [Send(asked.reply, _select(state, asked))]
            case Generate():
                return _generate(state, asked, asked.message, settings)
            case Cancel():
                return _cancel(state, asked, asked.message)
            case GiveFeedback():
                return _feedback(state, asked, asked.message, settings)
            case ListModels():
                return [Send(asked.reply, answers.models(state.knowledge, state.local))]
            case DescribeModel():
                return [Send(asked.reply, answers.describe(state.knowledge, state.local, asked.message.model))]
            case _:
                return []
    except admit.Refusal as refusal:
        return [Send(asked.reply, refusal.failed)] if asked.reply else []


def _generate(state: State, asked: Asked, ask: Generate, settings: Settings) -> list[Effect]:
    if not asked.reply:
        return []
    state.budget.roll(asked.at_ms)
    state.budget.requests += 1
    if len(state.runs) >= settings.max_in_flight:
        retry = settings.overload_retry_ms
        text = f"{len(state.runs)} requests are in flight here."
        return [Send(asked.reply, Failed(code="overloaded", text=text, retry_after_ms=retry))]
    admit.check(ask)
    run_id = asked.id
    seed = admit.seed_of(run_id)
    question, parameters, latency, topology = admit.question(ask, state.knowledge, seed)
    decision, made = _decide(state, asked, question, seed)
    if not decision.chain:
        raise admit.refuse("no_allowed_model", rejected=decision.counts())
    run = Conduct(
        where=state.where,
        run_id=run_id,
        reply=asked.reply,
        ask=ask,
        parameters=parameters,
        latency=latency,
        task=question.task,
        chain=[one.model for one in decision.chain],
        decision=made,
        topology=topology,
        begun_ms=asked.at_ms,
        deadline_ms=asked.at_ms + (ask.deadline_ms or latency.deadline_ms),
        emergency_reply=topology.tasks[question.task].emergency_reply,
        conversation=admit.keyed_hash(settings.hash_key, ask.conversation_id),
        user=admit.keyed_hash(settings.hash_key, ask.user_id),
    )
    if ask.resume is not None:
        run.resume(ask.resume.text)
    state.runs[run_id] = run
    return [Trace(made), *_after(state, run, run.begin(asked.at_ms), asked.at_ms)]


def _decide(state: State, asked: Asked, question: Question, seed: int) -> tuple[Decision, SelectionMade]:
    local = local_view(state, asked.at_ms)
    decision = decide(state.knowledge, local, question)
    surviving = {m: v for m, v in local.items() if m not in decision.rejected}
    made = SelectionMade(
        at_ms=int(asked.at_ms),
        run_id=asked.id,
        instance=state.where.instance,
        as_of_seq=state.knowledge.seq,
        topology=state.knowledge.topology_hash,
        seed=seed,
        task=question.task,
        features=msgspec.to_builtins(question),
        local_view={m: msgspec.to_builtins(v) for m, v in surviving.items()},
        chain=tuple(one.model for one in decision.chain),
        scores={one.model: one.score for one in decision.chain},
        rejected=decision.counts(),
        not_loaded=tuple(sorted(m for m, v in local.items() if v.instances == 0)),
        digest=decision.digest,
        reply=asked.reply,
        deadline_at_ms=0,
    )
    return decision, made


def local_view(state: State, now: float) -> dict[str, Local]:
    """What this instance sees of every model right now, in the form that is recorded."""
    view: dict[str, Local] = {}
    for model in state.knowledge.models:
        busy, slots = state.local.load(model)
        view[model] = Local(
            instances=len(state.local.instances.get(model, {})),
            in_flight=busy,
            slots=slots,
            suspect=state.local.is_suspect(model, now),
        )
    return view


def _select(state: State, asked: Asked) -> Message:
    ask = asked.message
    assert isinstance(ask, Generate)
    admit.check(ask)
    question, _, _, _ = admit.question(ask, state.knowledge, admit.seed_of(asked.id))
    decision = decide(state.knowledge, local_view(state, asked.at_ms), question)
    return answers.selected(state.knowledge, question.task, decision)


def _cancel(state: State, asked: Asked, cancel: Cancel) -> list[Effect]:
    run = state.runs.get(cancel.run_id)
    out: list[Effect] = []
    if asked.reply:
        out.append(Send(asked.reply, Cancelled(run_id=cancel.run_id, known=run is not None)))
    return out if run is None else out + _after(state, run, run.cancel(asked.at_ms), asked.at_ms)


def _feedback(state: State, asked: Asked, given: GiveFeedback, settings: Settings) -> list[Effect]:
    event = FeedbackGiven(
        at_ms=int(asked.at_ms),
        run_id=given.run_id,
        rating=given.rating,
        reason=given.reason,
        user=admit.keyed_hash(settings.hash_key, given.user_id),
    )
    msg_id = f"feedback.{asked.id}"
    state.feedback[msg_id] = asked.reply
    return [answers.store_feedback(event, msg_id)]


# --- answers from runners, timers, the log -------------------------------------------------------------------------


def _heard(state: State, heard: Heard) -> list[Effect]:
    message = heard.message
    match message:
        case RunText() | RunStarted() | RunEnded() | RunFailed():
            run = state.runs.get(message.run_id)
            return [] if run is None else _after(state, run, run.hear(message, heard.at_ms), heard.at_ms)
        case RunnerBeat():
            state.local.beat(message, heard.at_ms)
            return []
        case ProcessGone():
            return _gone(state, message.instance, "gone", heard.at_ms)
        case _:
            return []


def _gone(state: State, instance: str, reason: str, now: float) -> list[Effect]:
    """A runner died: its runs go on elsewhere at once, without waiting for their stall limit."""
    out: list[Effect] = []
    models = state.local.gone(instance)
    for run in [r for r in state.runs.values() if r.runner == instance and r.ending is None]:
        out += _after(state, run, run.fail("gone" if reason == "gone" else "silent", now), now)
    for model in models:
        if not state.local.instances.get(model):
            state.local.suspect(model, now)
    return out


def _woke(state: State, woke: Woke, settings: Settings) -> list[Effect]:
    if woke.key == SWEEP:
        out: list[Effect] = [Wake(woke.at_ms + settings.sweep_ms, SWEEP, woke.generation + 1)]
        for instance in state.local.silent(woke.at_ms, settings.beat_timeout_ms):
            out += _gone(state, instance, "silent", woke.at_ms)
        return out
    run = state.runs.get(woke.key)
    return [] if run is None else _after(state, run, run.woke(woke.generation, woke.at_ms), woke.at_ms)


def _unheard(state: State, unheard: Unheard) -> list[Effect]:
    """Nobody listens: on `run.<id>.<attempt>` the runner is not there, on `vanished.<id>` the caller is gone."""
    _, _, tail = unheard.subject.partition(state.where.inbox + ".")
    kind, *rest = tail.split(".")
    run = state.runs.get(rest[0]) if rest else None
    if run is None:
        return []
    if kind == "vanished":
        return _after(state, run, run.cancel(unheard.at_ms), unheard.at_ms)
    if kind == "run" and rest[1:] == [str(run.attempt)]:
        return _after(state, run, run.fail("no_responders", unheard.at_ms), unheard.at_ms)
    return []


def _stored(state: State, answer: Stored | StoreFailed) -> list[Effect]:
    if answer.msg_id.startswith("feedback."):
        reply = state.feedback.pop(answer.msg_id, "")
        return [Send(reply, answers.feedback_taken(answer))] if reply else []
    kind, _, run_id = answer.msg_id.partition(".")
    run = state.runs.get(run_id) if kind == "end" else None
    if run is None:
        return []
    del state.runs[run_id]
    return run.stored(answer)


def _after(state: State, run: Conduct, effects: list[Effect], now: float) -> list[Effect]:
    """Note what a run's progress says about models: trust, suspicion, load; spend the failover budget."""
    while run.news:
        model, outcome = run.news.pop(0)
        if outcome == "asked":
            state.local.in_flight[model] = state.local.in_flight.get(model, 0) + 1
            continue
        state.local.in_flight[model] = max(0, state.local.in_flight.get(model, 0) - 1)
        if outcome == "ok":
            state.local.trust(model)
        elif outcome not in BLAMELESS:
            state.local.suspect(model, now)
            if len(run.tried) > 1:
                state.budget.used += 1
    topology = state.knowledge.topology
    if topology is not None:
        run.may_fail_over = len(run.tried) == 0 or state.budget.allows(
            topology.policy.failover_ratio, topology.policy.failover_minimum
        )
    return effects
