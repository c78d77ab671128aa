"""What a selector knows from the log, the same in every instance: catalogue, health, outcomes, pins."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import takewhile

import msgspec

from understudy.actors.selector.opinions import Opinion, judged
from understudy.actors.selector.slowness import Slowness
from understudy.messages.benchmarks import BenchmarkMeasured, ModelDrifted
from understudy.messages.brief import RequestBrief
from understudy.messages.cache import ConversationErased
from understudy.messages.catalogue_events import CatalogueEvent, ModelReturned
from understudy.messages.comparison import Figure
from understudy.messages.consent import ConsentGiven, ConsentWithdrawn
from understudy.messages.consents import Consents
from understudy.messages.cost import ProviderExhausted, ProviderRestored
from understudy.messages.events import (
    AttemptEnded,
    Event,
    FeedbackGiven,
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
from understudy.messages.generate import LicenceClass
from understudy.messages.known import Known
from understudy.messages.places import consent_version, may_leave
from understudy.messages.prices import quota_of
from understudy.messages.privacy import Location
from understudy.messages.run import CALLERS_FAULT, NO_ROOM, Continuation
from understudy.messages.topology import Model, Topology

DECAY = 0.98  # an outcome weighs half after about 34 more
BLAMELESS = CALLERS_FAULT | NO_ROOM | {"text_lost", "no_endpoints"}
PINS = 100_000
"""So many conversations may be pinned; the oldest pin makes room."""
REPEAT_MS = 600_000
"""So long after its end a run that came with a `request_id` is remembered, by the events' own times."""


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
    slowness: Slowness = field(default_factory=Slowness)
    opinions: dict[str, Opinion] = field(default_factory=dict[str, Opinion])  # by task, the last judged last
    exhausted: bool = False  # a quota of its provider's account is used up
    price_refused: bool = False  # nobody knows what it costs, and the policy says nothing of that
    location: Location = "external"
    free: bool = False
    licence_class: LicenceClass = "unknown"
    retired: bool = False
    offline: bool = False
    drifted: tuple[Figure, ...] = ()  # what is worse than expected of it, in alphabetical order

    def usd_per_mtok(self) -> float | None:
        """The dearer of prompt and completion; None: unknown."""
        declared = self.declared
        return max(declared.usd_per_mtok_in, declared.usd_per_mtok_out) if declared.price_known is not False else None

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
            self.slowness.add(first_token_ms)


class Ended(msgspec.Struct, frozen=True):
    """Where the log holds the end of a run that came with a `request_id`."""

    seq: int
    run_id: str
    body: str
    at_ms: int


@dataclass(slots=True)
class Knowledge:
    """The fold over the log: catalogue, health, outcomes. `seq` is the position it reflects.

    `known` is the whole catalogue; `models` has those of it that may be selected.
    """

    seq: int = 0
    topology: Topology | None = None
    topology_hash: str = ""
    known: Known = field(default_factory=Known)
    texts: dict[str, str] = field(default_factory=dict[str, str])  # provider on another machine -> version of its text
    models: dict[str, ModelView] = field(default_factory=dict[str, ModelView])
    ended: dict[str, Ended] = field(default_factory=dict[str, Ended])  # by claim, oldest first
    pins: dict[str, str] = field(default_factory=dict[str, str])  # conversation -> model, oldest first
    exhausted: set[str] = field(default_factory=set[str])  # accounts of providers whose quota is used up
    consents: Consents = field(default_factory=Consents)

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
                if event.by != "outcome":
                    self._forgive((event.model,))
            case ModelLoaded():
                if (view := self.models.get(event.model)) is not None:
                    view.anew(seq)
            case ModelProbed():
                self._probed(event)
            case ModelDrifted():
                self._drifted(event)
            case AttemptEnded():
                self._failed(event)
            case RequestBrief() | RequestEnded():
                self._ended(event)
            case FeedbackGiven() | BenchmarkMeasured():
                if (view := self.models.get(event.model)) is not None:
                    judged(view.opinions, event)
            case ModelPinned():
                self.pins.pop(event.conversation, None)
                self.pins[event.conversation] = event.model
                if len(self.pins) > PINS:
                    del self.pins[next(iter(self.pins))]
            case ConsentGiven() | ConsentWithdrawn():
                self.consents.apply(seq, event)
            case ModelCleared() | ConversationErased():
                self.pins.pop(event.conversation, None)
            case ProviderExhausted() | ProviderRestored():
                (self.exhausted.add if isinstance(event, ProviderExhausted) else self.exhausted.discard)(
                    f"{event.provider} {event.quota}"
                )
                for model, view in self.models.items():
                    view.exhausted = account_of(model, view.declared) in self.exhausted
            case _ if isinstance(event, CatalogueEvent):
                self.known.keep(seq, event, self.models, self._candidate)
                if isinstance(event, ModelReturned):
                    self._forgive(event.models)
            case _:
                pass

    def _declare(self, event: TopologyApplied) -> None:
        self.topology, self.topology_hash = event.body, event.hash
        versions = {p: consent_version(event.body, p) for p in sorted(event.body.providers) if may_leave(event.body, p)}
        self.texts = {provider: version for provider, version in versions.items() if version}
        self.known.keep(self.seq, event, self.models, self._candidate)

    def _candidate(self, model: str, declared: Model) -> None:
        view = self.models.get(model)
        if view is None:
            view = self.models[model] = ModelView(declared, since_seq=self.seq)
        if view.declared != declared:
            view.declared = declared
            view.anew(self.seq)
        standing = self.known.standing(model, declared)
        view.location, view.free, view.licence_class = standing.location, standing.free, standing.licence_class
        view.retired, view.offline = standing.retired, standing.offline
        view.exhausted = account_of(model, declared) in self.exhausted
        assert self.topology is not None
        refuses = self.topology.policy.unknown_price_reserve_usd is None
        view.price_refused = refuses and declared.price_known is False

    def _status(self, model: str, status: Health, error: str | None) -> None:
        view = self.models.get(model)
        if view is not None:
            view.status = status
            view.last_error = error or view.last_error

    def _forgive(self, models: Iterable[str]) -> None:
        """A recovery that no outcome brought about: old failures would keep it from the outcomes that clear them."""
        for view in [self.models[model] for model in models if model in self.models]:
            view.good = view.bad = 0.0

    def _probed(self, event: ModelProbed) -> None:
        """A finding about the model as it was before its last load or change says nothing about it now."""
        view = self.models.get(event.model)
        if view is not None and view.since_seq == event.since_seq:
            view.probed, view.probe_word = event.continues, event.reason

    def _drifted(self, event: ModelDrifted) -> None:
        view = self.models.get(event.model)
        if view is not None:
            found: set[Figure] = set(view.drifted)
            found.discard(event.figure)
            if event.direction == "worse":
                found.add(event.figure)
            order: list[Figure] = sorted(found)
            view.drifted = tuple(order)

    def consented(self, user: str, conversation: str) -> tuple[str, ...]:
        """The providers that words of theirs (keyed hashes, '' for none) may go to, by name."""
        return tuple(
            name
            for name, version in self.texts.items()
            if self.consents.given(name, version, user, conversation) is not None
        )

    def continues(self, model: str) -> Continuation:
        """How a model goes on with another one's text, as far as the log tells."""
        view = self.models.get(model)
        return "none" if view is None else view.continues()

    def p95_first_token_ms(self, model: str) -> float | None:
        """How long a model takes to its first token, 19 times of 20; None where too few are known."""
        view = self.models.get(model)
        return None if view is None else view.slowness.p95_ms()

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
            elif view is not None and attempt.outcome == "hedged":
                view.slowness.add_at_least(attempt.total_ms)


def account_of(model_id: str, declared: Model) -> str:
    """What a model shares with others of its provider: `<provider> <quota>`; '' for a model with limits of its own."""
    quota = quota_of(model_id, declared)
    return f"{declared.provider} {quota}" if quota is not None else ""
