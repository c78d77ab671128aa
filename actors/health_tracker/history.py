"""What the log says about every model's health: the tracker's fold, the same in every process and at every start."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from understudy.messages.brief import RequestBrief
from understudy.messages.catalogue_events import CatalogueEvent
from understudy.messages.events import (
    AttemptEnded,
    Event,
    Health,
    ModelDegraded,
    ModelLoaded,
    ModelProbed,
    ModelRecovered,
    ModelUnavailable,
    RequestEnded,
    TopologyApplied,
)
from understudy.messages.known import Known
from understudy.messages.run import CALLERS_FAULT, NO_ROOM
from understudy.messages.topology import Model

Announcement = ModelUnavailable | ModelDegraded | ModelRecovered | ModelProbed
BLAMELESS = (
    CALLERS_FAULT
    | NO_ROOM
    | {
        *("text_lost", "rate_limited", "payment", "no_endpoints"),
        "invalid_output",  # the endpoint is sound; that the model is poor at JSON is the selector's to learn
    }
)

UNTESTED = "untested"
"""Its rest is over and nobody may ask it for a test: used after the healthy ones, until a request or a quiet time says
how it is."""


class Outcome(NamedTuple):
    """What an event says about one model."""

    model: str
    ok: bool
    reason: str
    at_ms: float


@dataclass(slots=True)
class Record:
    """One model: what was announced last, and the outcomes that speak for a change."""

    declared: Model
    status: Health = "healthy"
    reason: str = ""
    in_a_row: int = 0
    opened: int = 0
    retry_at_ms: float = 0.0
    good: float = 0.0
    bad: float = 0.0
    outcomes: int = 0
    last_bad_ms: float = 0.0
    loaded: bool = False  # some runner has said so; one that never was ready is not missed
    since_seq: int = 0  # log position of its last load or change: what a continuation probe finds holds from there on
    probed_seq: int = -1  # the `since_seq` that the last finding is about

    def error_ratio(self) -> float:
        """Decayed share of failures; 0 before any outcome."""
        total = self.good + self.bad
        return self.bad / total if total else 0.0

    def count(self, outcome: Outcome, decay: float) -> None:
        """Fold one outcome; `decay` is what an old one weighs after it."""
        self.good = self.good * decay + outcome.ok
        self.bad = self.bad * decay + (not outcome.ok)
        self.outcomes += 1
        if outcome.ok:
            self.in_a_row = 0
        else:
            self.in_a_row += 1
            self.last_bad_ms = max(self.last_bad_ms, outcome.at_ms)

    def forgive(self) -> None:
        """A recovery that no outcome brought about: nothing else would clear old failures."""
        self.good, self.bad, self.outcomes = 0.0, 0.0, 0


@dataclass(slots=True)
class History:
    """The fold over the log; `seq` is the position it reflects. What was decided and not yet stored is not in it."""

    seq: int = 0
    known: Known = field(default_factory=Known)
    models: dict[str, Record] = field(default_factory=dict[str, Record])
    changes: dict[str, int] = field(default_factory=dict[str, int])  # announced so far, also of models that are gone

    def apply(self, seq: int, event: Event, decay: float) -> bool:
        """Fold one fact; False for a position at or below ours, which was folded before."""
        if seq <= self.seq:
            return False
        self.seq = seq
        match event:
            case TopologyApplied():
                self.known.keep(seq, event, self.models, self._candidate)
            case AttemptEnded() | RequestBrief() | RequestEnded():
                for outcome in outcomes(event, self.known):
                    if outcome.model in self.models:
                        self.models[outcome.model].count(outcome, decay)
            case ModelLoaded():
                if (record := self.models.get(event.model)) is not None:
                    record.loaded, record.since_seq = True, seq
            case _ if isinstance(event, CatalogueEvent):
                self.known.keep(seq, event, self.models, self._candidate)
            case ModelUnavailable() | ModelDegraded() | ModelRecovered() | ModelProbed():
                self._number(event)
                if event.model in self.models:
                    take_over(self.models[event.model], event)
            case _:
                pass
        return True

    def _number(self, event: Announcement) -> None:
        if not isinstance(event, ModelProbed):
            known = self.changes.get(event.model, 0)
            self.changes[event.model] = max(known, number_of(event.id, known))

    def _candidate(self, model: str, declared: Model) -> None:
        record = self.models.setdefault(model, Record(declared, since_seq=self.seq))
        if record.declared != declared:
            record.declared, record.since_seq = declared, self.seq


def outcomes(event: AttemptEnded | RequestBrief | RequestEnded, known: Known) -> list[Outcome]:
    """What speaks for or against models; failures that are not their fault do neither. A model that its provider does
    not have is retired where a list is read, which says more."""
    if isinstance(event, AttemptEnded):
        blamed = event.reason not in BLAMELESS
        blamed = blamed and not (event.reason == "model_not_found" and known.is_listing(event.model))
        return [Outcome(event.model, False, event.reason, event.at_ms)] if blamed else []
    return [Outcome(a.model, True, "", event.at_ms) for a in event.attempts if a.outcome == "ok"]


def number_of(msg_id: str, known: int) -> int:
    """Which change of its model an announcement is, by its id; one of an older form counts as the next."""
    _, _, tail = msg_id.rpartition(".")
    return int(tail) if tail.isdecimal() else known + 1


def status_of(event: ModelDegraded | ModelUnavailable | ModelRecovered) -> Health:
    """What an announcement says of its model."""
    match event:
        case ModelUnavailable():
            return "unavailable"
        case ModelDegraded():
            return "degraded"
        case ModelRecovered():
            return "healthy"


def take_over(record: Record, event: Announcement) -> None:
    """The tracker's own words, read back: what the world was told stands."""
    match event:
        case ModelUnavailable():
            record.status, record.reason = "unavailable", event.reason
            record.opened, record.retry_at_ms = event.opened, event.retry_at_ms
        case ModelDegraded():
            record.status, record.reason = "degraded", event.reason
            record.last_bad_ms = max(record.last_bad_ms, event.at_ms)
        case ModelRecovered():
            record.status, record.reason, record.in_a_row, record.opened = "healthy", "", 0, 0
            if event.by != "outcome":
                record.forgive()
        case ModelProbed():
            record.probed_seq = max(record.probed_seq, event.since_seq)
