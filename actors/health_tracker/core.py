"""Fold outcomes and heartbeats into health, and announce each change exactly once. Pure.

healthy ── failures in a row, a dead or silent runner ──> unavailable ── probe or outcome ok, runner back ──> healthy
   │                                                          └── rest over, may not be probed ──> degraded (untested)
   └── error ratio ──> degraded ── ratio sinks, outcome of an untested ok, no failure for a while ──> healthy

It is also the one that asks models how they go on with another one's text (`continuation.py`).
"""

from __future__ import annotations

from understudy.actors.health_tracker import continuation, probes
from understudy.actors.health_tracker.history import UNTESTED, History, Outcome, Record, outcomes, status_of, take_over
from understudy.actors.health_tracker.state import (
    Load,
    Settings,
    State,
    Watch,
    announced,
    degrade,
    open_breaker,
    recover,
    say_again,
    told,
)
from understudy.messages.base import Ask, Message
from understudy.messages.brief import RequestBrief
from understudy.messages.catalogue_events import (
    ModelOffline,
    ModelOnline,
    ModelPriced,
    ModelRegistered,
    ModelRetired,
    ModelReturned,
)
from understudy.messages.events import (
    AttemptEnded,
    ModelDegraded,
    ModelLoaded,
    ModelProbed,
    ModelRecovered,
    ModelUnavailable,
    RequestEnded,
    TopologyApplied,
)
from understudy.messages.run import ProcessGone, RunEnded, RunFailed, RunnerBeat, RunText
from understudy.messages.step import (
    Booted,
    CaughtUp,
    Deaf,
    Effect,
    Happened,
    Heard,
    Input,
    Stored,
    StoreFailed,
    Unheard,
    Wake,
    Woke,
)

ASKS: dict[str, type[Ask | Message]] = {}
HEARS = (RunnerBeat, ProcessGone)
FOLDS = (
    TopologyApplied,
    AttemptEnded,
    RequestBrief,
    ModelLoaded,
    ModelDegraded,
    ModelUnavailable,
    ModelRecovered,
    ModelProbed,
    ModelRegistered,
    ModelPriced,
    ModelRetired,
    ModelReturned,
    ModelOffline,
    ModelOnline,
)
EMITS = (ModelDegraded, ModelUnavailable, ModelRecovered, ModelProbed)
SENDS = ("runner.run",)
Fold = History

SWEEP = "sweep"
AWAY = ("gone", "silent")


def step(state: State, message: Input, settings: Settings) -> list[Effect]:
    """One input in, effects out."""
    match message:
        case Happened():
            return _happened(state, message, settings)
        case Heard():
            return _heard(state, message, settings)
        case Woke():
            return _sweep(state, message.at_ms, message.generation, settings)
        case Stored() | StoreFailed():
            told(state, message)
            return []
        case Unheard():
            run_id = message.subject.rsplit(".", 1)[-1]
            probes.failed(state, run_id, "no_responders", message.at_ms, settings)
            continuation.failed(state, run_id, "no_responders", message.at_ms, settings)
            return []
        case Deaf():
            _deaf(state, message.ms, message.cut)
            return []
        case CaughtUp():
            _go_live(state, message.at_ms)
            return [Wake(message.at_ms + settings.sweep_ms, SWEEP, 0)]
        case Booted():
            state.app, state.instance, state.inbox = message.app, message.instance, message.inbox
            return []
        case _:
            return []


def fold_state(state: State) -> History:
    """The part of the state that is folded from the log."""
    return state.history


def restore(state: State, history: History) -> None:
    """Go on from an earlier fold."""
    state.history = history
    _declare(state)


def _go_live(state: State, now: float) -> None:
    """From here on we announce; what we know of each model is what the log says."""
    state.live, state.live_since_ms = True, now
    state.changes = dict(state.history.changes)
    for model, record in state.history.models.items():
        watch = state.watches[model]
        for name in Record.__slots__:
            setattr(watch, name, getattr(record, name))


def _happened(state: State, happened: Happened, settings: Settings) -> list[Effect]:
    event, now = happened.event, happened.at_ms
    if not state.history.apply(happened.seq, event, settings.decay):
        return []
    match event:
        case TopologyApplied() | ModelRegistered() | ModelPriced() | ModelRetired():
            _declare(state)
            return []
        case ModelReturned() if state.live:
            return _returned(state, event, now)
        case AttemptEnded() | RequestBrief() | RequestEnded() if state.live:
            out: list[Effect] = []
            for outcome in outcomes(event, state.history.known):
                watch = state.watches.get(outcome.model)
                if watch is not None:
                    out += _count(state, watch, outcome, now, settings)
            return out
        case ModelLoaded() if state.live:
            return _loaded(state, event, happened.seq, now)
        case ModelDegraded() | ModelUnavailable() | ModelRecovered() if state.live:
            _read_back(state, event)
            return []
        case ModelProbed() if state.live:
            watch = state.watches.get(event.model)
            if watch is not None:
                watch.probed_seq = max(watch.probed_seq, event.since_seq)
            return []
        case _:
            return []


def _declare(state: State) -> None:
    """Watch the models that may be selected, and no others."""
    declared = state.history.models
    for model, record in declared.items():
        watch = state.watches.get(model)
        if watch is None:
            state.watches[model] = Watch(record.declared, since_seq=record.since_seq)
        elif watch.declared != record.declared:
            watch.declared = record.declared
            watch.anew(record.since_seq)
    for gone in set(state.watches) - set(declared):
        del state.watches[gone]


def _returned(state: State, event: ModelReturned, now: float) -> list[Effect]:
    """What it was refused with when its provider did not have it says nothing about it now."""
    found = [(model, state.watches[model]) for model in event.models if model in state.watches]
    return [e for m, watch in found if watch.status != "healthy" for e in recover(state, m, watch, "listed", now)]


def _read_back(state: State, event: ModelDegraded | ModelUnavailable | ModelRecovered) -> None:
    """An announcement comes back from the log: what the world was told stands, also where another tracker said it."""
    newest = announced(state, event.model, event.id)
    watch = state.watches.get(event.model)
    if watch is not None and newest and status_of(event) != watch.status:
        take_over(watch, event)


def _count(state: State, watch: Watch, outcome: Outcome, now: float, settings: Settings) -> list[Effect]:
    """One outcome: breaker by failures in a row, degradation by their share."""
    model, ok, reason, _ = outcome
    watch.count(outcome, settings.decay)
    if ok:
        if watch.status == "unavailable" or (watch.status == "degraded" and watch.reason == UNTESTED):
            return recover(state, model, watch, "outcome", now)
        if watch.status == "degraded" and watch.error_ratio() < settings.healthy_ratio:
            return recover(state, model, watch, "outcome", now)
        return []
    if watch.status != "unavailable" and watch.in_a_row >= settings.open_after:
        return open_breaker(state, model, watch, reason, now, settings)
    enough = watch.outcomes >= settings.minimum_outcomes
    if watch.status == "healthy" and enough and watch.error_ratio() > settings.degraded_ratio:
        return degrade(state, model, watch, reason, now)
    return []


def _loaded(state: State, event: ModelLoaded, seq: int, now: float) -> list[Effect]:
    watch = state.watches.get(event.model)
    if watch is None:
        return []
    watch.loaded = True
    watch.anew(seq)
    watch.beats.setdefault(event.instance, Load(now)).heard_ms = now
    if watch.status == "unavailable" and watch.reason in AWAY:
        return recover(state, event.model, watch, "loaded", now)
    return []


# --- heartbeats and answers to probes ------------------------------------------------------------------------------


def _heard(state: State, heard: Heard, settings: Settings) -> list[Effect]:
    message, now = heard.message, heard.at_ms
    match message:
        case RunnerBeat():
            return _beat(state, message, now)
        case ProcessGone():
            return _lost(state, message.instance, "gone", now, settings)
        case RunText() | RunEnded() | RunFailed():
            out = continuation.hear(state, message, now, settings)
            if out is not None:
                return out
            if isinstance(message, RunText) or (isinstance(message, RunEnded) and message.pieces):
                return probes.answered(state, message.run_id, now)
            if isinstance(message, RunFailed) and message.reason == "blocked":
                return probes.blocked(state, message.run_id, now)
            reason = "empty" if isinstance(message, RunEnded) else message.reason
            probes.failed(state, message.run_id, reason, now, settings)
            return []
        case _:
            return []


def _beat(state: State, beat: RunnerBeat, now: float) -> list[Effect]:
    out: list[Effect] = []
    if beat.others_slots:
        known = state.others.setdefault(beat.provider, {})
        known.pop(beat.instance, None)
        if beat.accepting:
            known[beat.instance] = now
    for model, load in beat.models.items():
        watch = state.watches.get(model)
        if watch is None or not state.is_named(model):
            continue
        if not beat.accepting:  # it leaves in good order, so it will not be missed
            watch.beats.pop(beat.instance, None)
            watch.loaded = bool(watch.beats)
            continue
        watch.beats[beat.instance] = Load(now, load.in_flight, load.slots)
        if state.live and watch.status == "unavailable" and watch.reason in AWAY:
            out += recover(state, model, watch, "loaded", now)
    return out


def _deaf(state: State, ms: float, cut: bool) -> None:
    """For so long nobody could be heard: it counts against nobody. After a `cut` what they said may be lost."""
    for known in state.others.values():
        for instance in known:
            known[instance] += ms
    for watch in state.watches.values():
        watch.probe_until_ms, watch.probe_cut = watch.probe_until_ms + ms, watch.probe_cut or cut
        for load in watch.beats.values():
            load.heard_ms += ms


def _lost(state: State, instance: str, reason: str, now: float, settings: Settings) -> list[Effect]:
    """An instance is gone; a model without any is unavailable."""
    out: list[Effect] = []
    for known in state.others.values():
        known.pop(instance, None)
    for model, watch in state.watches.items():
        if watch.beats.pop(instance, None) is None or watch.beats or not state.live:
            continue
        if watch.status != "unavailable":
            out += open_breaker(state, model, watch, reason, now, settings)
    return out


def _sweep(state: State, now: float, generation: int, settings: Settings) -> list[Effect]:
    """Look for runners that fell silent, rests that are over, degraded models that were quiet, probes to send."""
    out: list[Effect] = [Wake(now + settings.sweep_ms, SWEEP, generation + 1), *say_again(state)]
    beats = {i: load.heard_ms for w in state.watches.values() for i, load in w.beats.items()}
    beats |= {i: heard_ms for known in state.others.values() for i, heard_ms in known.items()}
    for instance, at in sorted(beats.items()):
        if now - at > settings.beat_timeout_ms:
            out += _lost(state, instance, "silent", now, settings)
    for model, watch in state.watches.items():
        out += probes.look(state, model, watch, now, settings)
        out += continuation.look(state, model, watch, now, settings)
        silent = watch.loaded and not watch.beats and now - state.live_since_ms > settings.grace_ms
        if silent and watch.status != "unavailable":
            out += open_breaker(state, model, watch, "silent", now, settings)
        if watch.status == "degraded" and now - watch.last_bad_ms >= settings.quiet_ms:
            out += recover(state, model, watch, "quiet", now)
    return out
