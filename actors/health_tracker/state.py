"""What the health tracker knows of each model, and how it says that something changed. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import msgspec

from understudy.actors.health_tracker.history import History, Record, number_of
from understudy.messages.events import Event, ModelDegraded, ModelProbed, ModelRecovered, ModelUnavailable
from understudy.messages.money import Price
from understudy.messages.prices import is_priced, price_of
from understudy.messages.privacy import Location
from understudy.messages.slugs import slug
from understudy.messages.step import Effect, Store, Stored, StoreFailed


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
    quiet_ms: int = 60_000  # a degraded model without a failure for so long is healthy again
    decay: float = 0.9
    minimum_outcomes: int = 5
    probe_paid: bool = False  # may probes, of health and of continuation, cost money?
    trial_timeout_ms: int = 10_000  # for each question of a continuation probe
    trial_idle_ms: int = 10_000  # a continuation probe waits so long for an idle model, then only for a free slot
    trials_at_once: int = 4  # over all models


@dataclass(slots=True)
class Trial:
    """One question of a continuation probe under way, and the answer so far."""

    run_id: str
    until_ms: float
    form: Literal["native", "instructed"]
    cut: int  # which of the cuts of the known text
    text: str = ""
    pieces: int = 0


@dataclass(slots=True)
class Load:
    """A runner instance as its last beat told."""

    heard_ms: float
    in_flight: int = 0
    slots: int = 1


@dataclass(slots=True)
class Watch(Record):
    """One model as we act on it: its record, ahead of the log by what was decided and is not stored yet."""

    probing: str = ""  # run id of the health probe under way
    probe_until_ms: float = 0.0
    probe_cut: bool = False  # the bus was away since it was asked: its answer may be lost
    beats: dict[str, Load] = field(default_factory=dict[str, Load])  # by instance

    trial: Trial | None = None
    trial_at_ms: float = 0.0  # not before
    trial_failures: int = 0
    wanted_ms: float | None = None  # since when a continuation probe waits for an idle model

    def anew(self, seq: int) -> None:
        """It was loaded or changed at this position: how it continues is unknown again."""
        self.since_seq, self.trial, self.trial_at_ms, self.trial_failures = seq, None, 0.0, 0
        self.wanted_ms = None

    def costs(self) -> bool:
        """Would a probe cost money?"""
        return is_priced(self.declared)

    def price(self) -> Price | None:
        """At most what a probe may be charged by; nothing of it is reserved."""
        return price_of(self.declared) if self.costs() else None


@dataclass(slots=True)
class State:
    """`live` is False while the log is folded: what happened then was announced then. `history` is that fold."""

    app: str = ""
    instance: str = ""
    inbox: str = ""
    live: bool = False
    live_since_ms: float = 0.0
    said: int = 0
    telling: dict[str, Store] = field(default_factory=dict[str, Store])  # by message id, until the log has it
    refused: list[Store] = field(default_factory=list[Store])
    changes: dict[str, int] = field(default_factory=dict[str, int])  # announced so far, by model
    history: History = field(default_factory=History)
    watches: dict[str, Watch] = field(default_factory=dict[str, Watch])
    others: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """By provider: instances that serve whatever of its list is admitted, and when they were heard."""

    def is_named(self, model: str) -> bool:
        """Does the topology name it? Runners tell of the others only while these are at work."""
        topology = self.history.known.topology
        return topology is not None and model in topology.models

    def location(self, model: str, watch: Watch) -> Location:
        """Where it computes, as far as the log tells."""
        return self.history.known.standing(model, watch.declared).location

    def is_gone(self, model: str, watch: Watch) -> bool:
        """Does its provider not have it, or is its server away? Then a list says when it is back, not a question."""
        standing = self.history.known.standing(model, watch.declared)
        return standing.retired or standing.offline

    def is_served(self, watch: Watch) -> bool:
        """Is a runner alive that would take a question?"""
        return bool(watch.beats or self.others.get(watch.declared.provider))

    def run_subject(self, model: str, watch: Watch) -> str:
        """Where the model's runners take attempts."""
        return f"{self.app}.ask.runner.run.{slug(watch.declared.provider)}.{slug(model)}"

    def fresh(self, now: float) -> str:
        """An id for a probe's run that no other has."""
        self.said += 1
        return f"probe-{self.instance}-{int(now)}-{self.said}"


def say(state: State, event: Event, model: str) -> Store:
    """Announce a change, once: its id is its number among the model's changes, so the log is the fence.

    Should two trackers run, or one be started again before the log had answered, the log keeps the first that comes
    with a number, and `announced` takes over what it says. A finding of a probe is named after what it is about.
    """
    if isinstance(event, ModelProbed):
        msg_id = f"probed.{slug(model)}.{event.since_seq}"
    else:
        state.changes[model] = state.changes.get(model, 0) + 1
        msg_id = f"health.{slug(model)}.{state.changes[model]}"
    store = Store(event, msg_id, key=slug(model))
    state.telling[msg_id] = store
    return store


def announced(state: State, model: str, msg_id: str) -> bool:
    """The log holds a change with this id: whether it is the newest that we know of, or newer."""
    known = state.changes.get(model, 0)
    number = number_of(msg_id, known)
    state.changes[model] = max(known, number)
    return number >= known


def told(state: State, answer: Stored | StoreFailed) -> None:
    """The log has it; or it refused it (full), so that it has to be said again. One not reached is tried on."""
    if isinstance(answer, StoreFailed) and answer.code == "bus_down":
        return
    store = state.telling.pop(answer.msg_id, None)
    if store is not None and isinstance(answer, StoreFailed):
        state.refused.append(store)


def say_again(state: State) -> list[Effect]:
    """What the log refused and what still holds: otherwise everybody would believe the state before it for ever."""
    refused, state.refused = state.refused, []
    again = [store for store in refused if _holds(state, store.event)]
    state.telling.update((store.msg_id, store) for store in again)
    return list[Effect](again)


def _holds(state: State, event: Event) -> bool:
    watch = state.watches.get(getattr(event, "model", ""))
    match event:
        case ModelUnavailable():
            return watch is not None and watch.status == "unavailable"
        case ModelDegraded():
            return watch is not None and watch.status == "degraded"
        case ModelRecovered():
            return watch is not None and watch.status == "healthy"
        case ModelProbed():
            return watch is not None and watch.probed_seq == event.since_seq
        case _:
            return False


def rest_ms(settings: Settings, times: int) -> int:
    """Exponential backoff: how long to wait after so many failures in a row (from 1)."""
    return min(settings.backoff_ms * 2 ** min(times - 1, 30), settings.backoff_cap_ms)


def open_breaker(state: State, model: str, watch: Watch, reason: str, now: float, settings: Settings) -> list[Effect]:
    """Open the breaker (the model is not used): rest for a while that doubles with each opening in a row."""
    was, watch.status, watch.reason = watch.status, "unavailable", reason
    watch.opened += 1
    watch.retry_at_ms = now + rest_ms(settings, watch.opened)
    event = ModelUnavailable(
        at_ms=int(now), model=model, reason=reason, was=was, retry_at_ms=int(watch.retry_at_ms), opened=watch.opened
    )
    return [say(state, event, model)]


def degrade(state: State, model: str, watch: Watch, reason: str, now: float) -> list[Effect]:
    """Used after the healthy ones from now on."""
    was, watch.status, watch.reason = watch.status, "degraded", reason
    watch.last_bad_ms = max(watch.last_bad_ms, now)  # its quiet time begins here
    ratio = round(watch.error_ratio(), 4)
    return [say(state, ModelDegraded(at_ms=int(now), model=model, reason=reason, was=was, error_ratio=ratio), model)]


def recover(
    state: State, model: str, watch: Watch, by: Literal["probe", "outcome", "loaded", "quiet", "listed"], now: float
) -> list[Effect]:
    """Healthy again. By other things than an outcome, old failures are forgiven: nothing else would clear them."""
    was, watch.status, watch.reason = watch.status, "healthy", ""
    watch.in_a_row, watch.opened, watch.probing = 0, 0, ""
    if by != "outcome":
        watch.forgive()
    return [say(state, ModelRecovered(at_ms=int(now), model=model, was=was, by=by), model)]
