"""Fold outcomes and heartbeats into health, and announce each change exactly once. Pure.

healthy ── failures in a row, a dead or silent runner ──> unavailable ── probe or outcome ok, runner back ──> healthy
   └── error ratio ──> degraded ── ratio sinks ──> healthy
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from understudy.messages.base import Ask, Message
from understudy.messages.events import (
    AttemptEnded,
    Event,
    Health,
    ModelDegraded,
    ModelLoaded,
    ModelRecovered,
    ModelUnavailable,
    RequestEnded,
    TopologyApplied,
)
from understudy.messages.generate import Parameters, Turn
from understudy.messages.run import CALLERS_FAULT, ProcessGone, RunEnded, RunFailed, RunModel, RunnerBeat, RunText
from understudy.messages.slugs import slug
from understudy.messages.step import Booted, CaughtUp, Effect, Happened, Heard, Input, Send, Store, Unheard, Wake, Woke
from understudy.messages.topology import Model

ASKS: dict[str, type[Ask | Message]] = {}
HEARS = (RunnerBeat, ProcessGone)
FOLDS = (TopologyApplied, AttemptEnded, RequestEnded, ModelLoaded, ModelDegraded, ModelUnavailable, ModelRecovered)
EMITS = (ModelDegraded, ModelUnavailable, ModelRecovered)
SENDS = ("runner.run",)

SWEEP = "sweep"
BLAMELESS = CALLERS_FAULT | {"busy", "no_responders", "text_lost", "rate_limited", "payment"}
AWAY = ("gone", "silent")


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a model is bad and how long it rests. `decay`: what an old outcome weighs after each new one."""

    open_after: int = 3  # failures in a row
    backoff_ms: int = 1_000
    backoff_cap_ms: int = 60_000
    beat_timeout_ms: int = 1_500
    grace_ms: int = 5_000  # after the start, before an unheard runner counts as silent
    sweep_ms: int = 250
    probe_timeout_ms: int = 5_000
    degraded_ratio: float = 0.3
    healthy_ratio: float = 0.1
    decay: float = 0.9
    minimum_outcomes: int = 5
    probe_paid: bool = False


@dataclass(slots=True)
class Watch:
    """One model: what was announced last, and what speaks for a change."""

    declared: Model
    status: Health = "healthy"
    reason: str = ""
    in_a_row: int = 0
    opened: int = 0
    retry_at_ms: float = 0.0
    probing: str = ""  # run id of the probe under way
    probe_until_ms: float = 0.0
    good: float = 0.0
    bad: float = 0.0
    outcomes: int = 0
    loaded: bool = False  # some runner has said so; one that never was ready is not missed
    beats: dict[str, float] = field(default_factory=dict[str, float])  # instance -> last heard

    def error_ratio(self) -> float:
        """Decayed share of failures; 0 before enough outcomes."""
        total = self.good + self.bad
        return self.bad / total if total else 0.0


@dataclass(slots=True)
class State:
    """`live` is False while the log is folded: what happened then was announced then."""

    app: str = ""
    instance: str = ""
    inbox: str = ""
    live: bool = False
    live_since_ms: float = 0.0
    said: int = 0
    watches: dict[str, Watch] = field(default_factory=dict[str, Watch])


def step(state: State, message: Input, settings: Settings) -> list[Effect]:
    """One input in, effects out."""
    match message:
        case Happened():
            return _happened(state, message, settings)
        case Heard():
            return _heard(state, message, settings)
        case Woke():
            return _sweep(state, message.at_ms, message.generation, settings)
        case Unheard():
            return _probe_failed(state, message.subject.rsplit(".", 1)[-1], "no_responders", message.at_ms, settings)
        case CaughtUp():
            state.live, state.live_since_ms = True, message.at_ms
            return [Wake(message.at_ms + settings.sweep_ms, SWEEP, 0)]
        case Booted():
            state.app, state.instance, state.inbox = message.app, message.instance, message.inbox
            return []
        case _:
            return []


def _happened(state: State, happened: Happened, settings: Settings) -> list[Effect]:
    event, now = happened.event, happened.at_ms
    match event:
        case TopologyApplied():
            for model, declared in event.body.models.items():
                state.watches.setdefault(model, Watch(declared)).declared = declared
            for gone in set(state.watches) - set(event.body.models):
                del state.watches[gone]
            return []
        case AttemptEnded():
            watch = state.watches.get(event.model)
            if watch is None or event.reason in BLAMELESS:
                return []
            return _count(state, event.model, watch, False, event.reason, now, settings)
        case RequestEnded():
            out: list[Effect] = []
            for attempt in event.attempts:
                watch = state.watches.get(attempt.model)
                if watch is not None and attempt.outcome == "ok":
                    out += _count(state, attempt.model, watch, True, "", now, settings)
            return out
        case ModelLoaded():
            return _loaded(state, event, now)
        case _:
            _fold_own(state, event)
            return []


def _fold_own(state: State, event: Event) -> None:
    """Our own announcements, read back while folding: what the world was told stands."""
    if state.live or not isinstance(event, ModelDegraded | ModelUnavailable | ModelRecovered):
        return
    watch = state.watches.get(event.model)
    if watch is None:
        return
    match event:
        case ModelUnavailable():
            watch.status, watch.reason = "unavailable", event.reason
            watch.opened, watch.retry_at_ms = event.opened, event.retry_at_ms
        case ModelDegraded():
            watch.status, watch.reason = "degraded", event.reason
        case ModelRecovered():
            watch.status, watch.reason, watch.in_a_row, watch.opened = "healthy", "", 0, 0


def _count(
    state: State, model: str, watch: Watch, ok: bool, reason: str, now: float, settings: Settings
) -> list[Effect]:
    """One outcome: breaker by failures in a row, degradation by their share."""
    watch.good = watch.good * settings.decay + ok
    watch.bad = watch.bad * settings.decay + (not ok)
    watch.outcomes += 1
    watch.in_a_row = 0 if ok else watch.in_a_row + 1
    if not state.live:
        return []
    if ok:
        if watch.status == "unavailable":
            return _recover(state, model, watch, "outcome", now)
        if watch.status == "degraded" and watch.error_ratio() < settings.healthy_ratio:
            return _recover(state, model, watch, "outcome", now)
        return []
    if watch.status != "unavailable" and watch.in_a_row >= settings.open_after:
        return _open(state, model, watch, reason, now, settings)
    enough = watch.outcomes >= settings.minimum_outcomes
    if watch.status == "healthy" and enough and watch.error_ratio() > settings.degraded_ratio:
        was, watch.status, watch.reason = watch.status, "degraded", reason
        ratio = round(watch.error_ratio(), 4)
        degraded = ModelDegraded(at_ms=int(now), model=model, reason=reason, was=was, error_ratio=ratio)
        return [_say(state, degraded, model)]
    return []


def _open(state: State, model: str, watch: Watch, reason: str, now: float, settings: Settings) -> list[Effect]:
    """Open the breaker: rest for a while that doubles with each opening in a row."""
    was, watch.status, watch.reason = watch.status, "unavailable", reason
    watch.opened += 1
    rest = min(settings.backoff_ms * 2 ** (watch.opened - 1), settings.backoff_cap_ms)
    watch.retry_at_ms = now + rest
    event = ModelUnavailable(
        at_ms=int(now), model=model, reason=reason, was=was, retry_at_ms=int(watch.retry_at_ms), opened=watch.opened
    )
    return [_say(state, event, model)]


def _recover(state: State, model: str, watch: Watch, by: str, now: float) -> list[Effect]:
    was, watch.status, watch.reason = watch.status, "healthy", ""
    watch.in_a_row, watch.opened, watch.probing = 0, 0, ""
    word = "probe" if by == "probe" else "loaded" if by == "loaded" else "outcome"
    return [_say(state, ModelRecovered(at_ms=int(now), model=model, was=was, by=word), model)]


def _say(state: State, event: Event, model: str) -> Store:
    state.said += 1
    return Store(event, f"health.{state.instance}.{event.at_ms}.{state.said}", key=slug(model))


def _loaded(state: State, event: ModelLoaded, now: float) -> list[Effect]:
    watch = state.watches.get(event.model)
    if watch is None:
        return []
    watch.loaded = True
    if not state.live:
        return []
    watch.beats[event.instance] = now
    if watch.status == "unavailable" and watch.reason in AWAY:
        return _recover(state, event.model, watch, "loaded", now)
    return []


# --- heartbeats ----------------------------------------------------------------------------------------------------


def _heard(state: State, heard: Heard, settings: Settings) -> list[Effect]:
    message, now = heard.message, heard.at_ms
    match message:
        case RunnerBeat():
            watch = state.watches.get(message.model)
            if watch is None:
                return []
            watch.beats[message.instance] = now
            if state.live and watch.status == "unavailable" and watch.reason in AWAY:
                return _recover(state, message.model, watch, "loaded", now)
            return []
        case ProcessGone():
            return _lost(state, message.instance, "gone", now, settings)
        case RunEnded() | RunText():
            watch = next((w for w in state.watches.items() if w[1].probing and w[1].probing == message.run_id), None)
            return [] if watch is None else _recover(state, watch[0], watch[1], "probe", now)
        case RunFailed():
            return _probe_failed(state, message.run_id, message.reason, now, settings)
        case _:
            return []


def _lost(state: State, instance: str, reason: str, now: float, settings: Settings) -> list[Effect]:
    """An instance is gone; a model without any is unavailable."""
    out: list[Effect] = []
    for model, watch in state.watches.items():
        if watch.beats.pop(instance, None) is None or watch.beats or not state.live:
            continue
        if watch.status != "unavailable":
            out += _open(state, model, watch, reason, now, settings)
    return out


def _sweep(state: State, now: float, generation: int, settings: Settings) -> list[Effect]:
    """Look for runners that fell silent and for models whose rest is over."""
    out: list[Effect] = [Wake(now + settings.sweep_ms, SWEEP, generation + 1)]
    beats = {i: at for w in state.watches.values() for i, at in w.beats.items()}
    for instance, at in sorted(beats.items()):
        if now - at > settings.beat_timeout_ms:
            out += _lost(state, instance, "silent", now, settings)
    for model, watch in state.watches.items():
        if watch.probing and now >= watch.probe_until_ms:
            out += _probe_failed(state, watch.probing, "first_token_timeout", now, settings)
        if watch.status == "unavailable" and watch.beats and not watch.probing and now >= watch.retry_at_ms:
            out += _probe(state, model, watch, now, settings)
        silent = watch.loaded and not watch.beats and now - state.live_since_ms > settings.grace_ms
        if silent and watch.status != "unavailable":
            out += _open(state, model, watch, "silent", now, settings)
    return out


# --- probes --------------------------------------------------------------------------------------------------------


def _probe(state: State, model: str, watch: Watch, now: float, settings: Settings) -> list[Effect]:
    """Half open: one small request, never two at a time, none that costs money unless allowed."""
    paid = watch.declared.usd_per_mtok_in > 0 or watch.declared.usd_per_mtok_out > 0
    if paid and not settings.probe_paid:
        return []
    state.said += 1
    run_id = f"probe-{state.instance}-{int(now)}-{state.said}"
    watch.probing, watch.probe_until_ms = run_id, now + settings.probe_timeout_ms
    run = RunModel(
        run_id=run_id,
        attempt=0,
        model=model,
        messages=(Turn(role="user", content="Say yes."),),
        parameters=Parameters(max_tokens=4, temperature=0.0, top_p=1.0, seed=0),
        remaining_ms=float(settings.probe_timeout_ms),
        probe=True,
    )
    return [Send(f"{state.app}.ask.runner.run.{slug(model)}", run, reply=f"{state.inbox}.probe.{run_id}")]


def _probe_failed(state: State, run_id: str, reason: str, now: float, settings: Settings) -> list[Effect]:
    for watch in state.watches.values():
        if watch.probing and watch.probing == run_id:
            watch.probing = ""
            if reason == "busy":  # it is alive, and others use it
                watch.retry_at_ms = now + settings.backoff_ms
                return []
            watch.opened += 1
            rest = min(settings.backoff_ms * 2 ** (watch.opened - 1), settings.backoff_cap_ms)
            watch.retry_at_ms = now + rest
    return []
