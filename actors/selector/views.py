"""What a selector knows: the part folded from the log (same in every instance) and the part it sees itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

import msgspec

from understudy.messages.brief import RequestBrief
from understudy.messages.cost import ProviderExhausted, ProviderRestored
from understudy.messages.events import (
    AttemptEnded,
    Event,
    Health,
    ModelCleared,
    ModelDegraded,
    ModelLoaded,
    ModelPinned,
    ModelProbed,
    ModelRecovered,
    ModelUnavailable,
    ProbeWord,
    RequestEnded,
    TopologyApplied,
)
from understudy.messages.prices import quota_of
from understudy.messages.run import CALLERS_FAULT, Continuation, RunnerBeat
from understudy.messages.topology import Model, Topology

DECAY = 0.98  # an outcome weighs half after about 34 more
BLAMELESS = CALLERS_FAULT | {"busy", "no_responders", "text_lost", "no_endpoints"}
PINS = 100_000
"""So many conversations may be pinned; the oldest pin makes room."""
REPEAT_MS = 600_000
"""So long after its end a run that came with a `request_id` is remembered, by the events' own times."""
SUSPECT_BASE_MS = 500.0
SUSPECT_CAP_MS = 8_000.0
TOLD_CAP_MS = 600_000.0
"""A provider may say how long its model wants to be left alone; so long at most it is believed."""


@dataclass(slots=True)
class ModelView:
    """One model as the log tells it."""

    declared: Model
    status: Health = "healthy"
    last_error: str | None = None
    last_used_ms: int | None = None
    good: float = 0.0
    bad: float = 0.0
    first_token_ms: float | None = None
    since_seq: int = 0  # log position of its last load or change: what a probe found holds from there on
    probed: Continuation = "none"
    probe_word: ProbeWord | None = None
    exhausted: bool = False  # a quota of its provider's account is used up
    price_refused: bool = False  # nobody knows what it costs, and the policy says nothing of that

    def continues(self) -> Continuation:
        """How it goes on with another model's text: as declared, or as probed; unknown is none."""
        word = self.declared.continues
        return self.probed if word == "probe" else word

    def anew(self, seq: int) -> None:
        """It was loaded or changed at this position: what a probe found before is no longer known."""
        self.since_seq, self.probed, self.probe_word = seq, "none", None

    def success_ratio(self) -> float | None:
        """Decayed share of attempts that ended well; None before any."""
        return self.good / (self.good + self.bad) if self.good + self.bad > 0 else None

    def count(self, ok: bool, first_token_ms: float | None) -> None:
        """Fold one outcome."""
        self.good = self.good * DECAY + ok
        self.bad = self.bad * DECAY + (not ok)
        if first_token_ms is not None:
            old = self.first_token_ms
            self.first_token_ms = first_token_ms if old is None else old + 0.1 * (first_token_ms - old)


class Ended(msgspec.Struct, frozen=True):
    """Where the log holds the end of a run that came with a `request_id`."""

    seq: int
    run_id: str
    body: str
    at_ms: int


@dataclass(slots=True)
class Knowledge:
    """The fold over the log: catalogue, health, outcomes. `seq` is the position it reflects."""

    seq: int = 0
    topology: Topology | None = None
    topology_hash: str = ""
    models: dict[str, ModelView] = field(default_factory=dict[str, ModelView])
    ended: dict[str, Ended] = field(default_factory=dict[str, Ended])  # by claim, oldest first
    pins: dict[str, str] = field(default_factory=dict[str, str])  # conversation -> model, oldest first
    exhausted: set[str] = field(default_factory=set[str])  # accounts of providers whose quota is used up

    def apply(self, seq: int, event: Event) -> None:
        """Fold one fact. A position at or below ours was folded before, so it is skipped."""
        if seq <= self.seq:
            return
        self.seq = seq
        match event:
            case TopologyApplied():
                self._declare(event)
            case ModelDegraded():
                self._status(event.model, "degraded", event.reason)
            case ModelUnavailable():
                self._status(event.model, "unavailable", event.reason)
            case ModelRecovered():
                self._status(event.model, "healthy", None)
                self._forgive(event)
            case ModelLoaded():
                if (view := self.models.get(event.model)) is not None:
                    view.anew(seq)
            case ModelProbed():
                self._probed(event)
            case AttemptEnded():
                self._failed(event)
            case RequestBrief() | RequestEnded():
                self._ended(event)
            case ModelPinned():
                self.pins.pop(event.conversation, None)
                self.pins[event.conversation] = event.model
                if len(self.pins) > PINS:
                    del self.pins[next(iter(self.pins))]
            case ModelCleared():
                self.pins.pop(event.conversation, None)
            case ProviderExhausted() | ProviderRestored():
                (self.exhausted.add if isinstance(event, ProviderExhausted) else self.exhausted.discard)(
                    f"{event.provider} {event.quota}"
                )
                for model, view in self.models.items():
                    view.exhausted = account_of(model, view.declared) in self.exhausted
            case _:
                pass

    def _declare(self, event: TopologyApplied) -> None:
        old = self.models
        self.topology, self.topology_hash, self.models = event.body, event.hash, {}
        for model_id, declared in event.body.models.items():
            view = old.get(model_id) or ModelView(declared, since_seq=self.seq)
            if view.declared != declared:
                view.declared = declared
                view.anew(self.seq)
            view.exhausted = account_of(model_id, declared) in self.exhausted
            view.price_refused = not declared.price_known and event.body.policy.unknown_price_reserve_usd is None
            self.models[model_id] = view

    def _status(self, model: str, status: Health, error: str | None) -> None:
        view = self.models.get(model)
        if view is not None:
            view.status = status
            view.last_error = error or view.last_error

    def _forgive(self, event: ModelRecovered) -> None:
        """A recovery that no outcome brought about: old failures would keep it from the outcomes that clear them."""
        view = self.models.get(event.model)
        if view is not None and event.by != "outcome":
            view.good = view.bad = 0.0

    def _probed(self, event: ModelProbed) -> None:
        """A finding about the model as it was before its last load or change says nothing about it now."""
        view = self.models.get(event.model)
        if view is not None and view.since_seq == event.since_seq:
            view.probed, view.probe_word = event.continues, event.reason

    def continues(self, model: str) -> Continuation:
        """How a model goes on with another one's text, as far as the log tells."""
        view = self.models.get(model)
        return "none" if view is None else view.continues()

    def _failed(self, event: AttemptEnded) -> None:
        view = self.models.get(event.model)
        if view is None:
            return
        view.last_used_ms = event.at_ms
        if event.reason not in BLAMELESS:
            view.last_error = event.reason
            view.count(False, None)

    def _ended(self, event: RequestBrief | RequestEnded) -> None:
        if event.claim:
            self.ended[event.claim] = Ended(self.seq, event.run_id, event.body, event.at_ms)
            # In one pass: looking for the first key anew after each deletion walks over all deleted ones again.
            limit = event.at_ms - REPEAT_MS
            for old in list(takewhile(lambda claim: self.ended[claim].at_ms < limit, self.ended)):
                del self.ended[old]
        for attempt in event.attempts:
            view = self.models.get(attempt.model)
            if view is not None and attempt.outcome == "ok":
                view.last_used_ms = event.at_ms
                view.count(True, attempt.first_token_ms)


def account_of(model_id: str, declared: Model) -> str:
    """What a model shares with others of its provider: `<provider> <quota>`; '' for a model with limits of its own."""
    quota = quota_of(model_id, declared)
    return f"{declared.provider} {quota}" if quota is not None else ""


@dataclass(slots=True)
class Instance:
    """A runner instance as its beats tell."""

    seen_ms: float
    in_flight: int
    slots: int


class News(NamedTuple):
    """What happened with a model: it was `asked`, or its attempt ended `ok` or for a reason."""

    model: str
    outcome: str
    wait_ms: float = 0.0  # so long its provider wants to be left alone
    exhausted_until_ms: int | None = None  # so long a quota of its provider's account is used up


@dataclass(slots=True)
class Suspect:
    """A model that failed us a moment ago: avoided before the tracker says so."""

    until_ms: float
    failures: int


@dataclass(slots=True)
class LocalView:
    """What this instance saw itself and no log holds. What a decision used of it is recorded with the decision."""

    instances: dict[str, dict[str, Instance]] = field(default_factory=dict[str, dict[str, Instance]])
    suspects: dict[str, Suspect] = field(default_factory=dict[str, Suspect])
    in_flight: dict[str, int] = field(default_factory=dict[str, int])
    exhausted: dict[str, float] = field(default_factory=dict[str, float])  # model -> until when, before the log says it
    exhausted_end_ms: float = math.inf  # when the first of them may be tried again
    touched: set[str] = field(default_factory=set[str])  # models seen differently since `take_touched`

    def take_touched(self) -> set[str]:
        """Models whose sight has changed since the last call (a suspicion that ended by time alone is not told)."""
        touched, self.touched = self.touched, set()
        return touched

    def beat(self, beat: RunnerBeat, at_ms: float) -> None:
        """A runner instance is alive; one that takes no more work is none for new requests."""
        for model, load in beat.models.items():
            known = self.instances.setdefault(model, {})
            if not beat.accepting:
                known.pop(beat.instance, None)
                self.touched.add(model)
                continue
            instance = known.get(beat.instance)
            if instance is None:
                known[beat.instance] = Instance(at_ms, load.in_flight, load.slots)
                self.touched.add(model)
                continue
            instance.seen_ms = at_ms
            if (instance.in_flight, instance.slots) != (load.in_flight, load.slots):
                instance.in_flight, instance.slots = load.in_flight, load.slots
                self.touched.add(model)

    def asked(self, model: str) -> None:
        """One more request of ours is with this model."""
        self.in_flight[model] = self.in_flight.get(model, 0) + 1
        self.touched.add(model)

    def answered(self, model: str) -> None:
        """One request less."""
        self.in_flight[model] = max(0, self.in_flight.get(model, 0) - 1)
        self.touched.add(model)

    def gone(self, instance: str) -> list[str]:
        """Forget an instance; the models that it served."""
        models = [model for model, known in self.instances.items() if known.pop(instance, None) is not None]
        self.touched.update(models)
        return models

    def deaf(self, ms: float) -> None:
        """For so long nobody could be heard: it does not count against anybody."""
        for known in self.instances.values():
            for instance in known.values():
                instance.seen_ms += ms

    def silent(self, now_ms: float, limit_ms: float) -> list[str]:
        """Instances without a beat for longer than the limit."""
        late = {name for known in self.instances.values() for name, i in known.items() if now_ms - i.seen_ms > limit_ms}
        return sorted(late)

    def suspect(self, model: str, now_ms: float, wait_ms: float = 0.0) -> None:
        """Our own outcome said that this model is bad: avoid it for a while, longer each time.

        `wait_ms`: as long at least, as its provider said so.

        Many runs that fail together are one failure.
        """
        known = self.suspects.get(model)
        again = 0 if known is None else known.failures if known.until_ms > now_ms else known.failures + 1
        failures = max(1, again)
        rest_ms = min(SUSPECT_BASE_MS * 2 ** min(failures - 1, 10), SUSPECT_CAP_MS)
        until = now_ms + max(rest_ms, min(wait_ms, TOLD_CAP_MS))
        self.suspects[model] = Suspect(until if known is None else max(until, known.until_ms), failures)
        self.touched.add(model)

    def trust(self, model: str) -> None:
        """It answered well."""
        if self.suspects.pop(model, None) is not None:
            self.touched.add(model)

    def is_suspect(self, model: str, now_ms: float) -> bool:
        """Is it still to be avoided?"""
        known = self.suspects.get(model)
        return known is not None and known.until_ms > now_ms

    def exhaust(self, models: list[str], until_ms: float) -> None:
        """A quota that these draw on is used up, as an attempt of ours has just been told."""
        self.exhausted.update(dict.fromkeys(models, until_ms))
        self.exhausted_end_ms = min(self.exhausted.values(), default=math.inf)
        self.touched.update(models)

    def forget_exhausted(self, models: list[str]) -> None:
        """The log says it now, or the time is over."""
        for model in models:
            if self.exhausted.pop(model, None) is not None:
                self.touched.add(model)
        self.exhausted_end_ms = min(self.exhausted.values(), default=math.inf)

    def is_exhausted(self, model: str, now_ms: float) -> bool:
        """Is it known here, and not from the log, that its quota is used up?"""
        return bool(self.exhausted) and self.exhausted.get(model, 0.0) > now_ms

    def load(self, model: str) -> tuple[int, int]:
        """Requests in flight and slots over all living instances."""
        known = self.instances.get(model, {}).values()
        slots = sum(i.slots for i in known)
        return max(self.in_flight.get(model, 0), sum(i.in_flight for i in known)), slots
