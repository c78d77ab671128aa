"""From events to rows: what a batch of facts adds to the performance graph. Pure.

`Folding` is the fold's state, which the log up to a position determines alone; `Rows` what changed since the last
batch. A batch ends where a new day (UTC, by the events' own times) begins, as what is too old is swept out there: so
the graph depends on the log alone, and never on where batches happened to end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from msgspec.structs import replace

from understudy.messages.benchmarks import BenchmarkMeasured, ModelDrifted
from understudy.messages.buckets import DAY_MS, Bucket, OutcomeBrief, count, hour_of, task_of
from understudy.messages.catalogue_events import (
    CatalogueEvent,
    ModelOffline,
    ModelOnline,
    ModelPriced,
    ModelRegistered,
    ModelRetired,
    ModelReturned,
)
from understudy.messages.cost import ProviderExhausted, ProviderRestored
from understudy.messages.events import (
    Event,
    FeedbackGiven,
    ModelDegraded,
    ModelRecovered,
    ModelSwitched,
    ModelUnavailable,
    RequestEnded,
    TopologyApplied,
)
from understudy.messages.graph import Fact, Half, Incident
from understudy.messages.known import Known, about

MOST_USD_PER_MTOK, MOST_CONTEXT = 1e9, 2**53
"""Nonsense beyond these is written as these: a graph's integers have 64 bits."""
UNKNOWN = "unknown"
"""The provider of a model that no topology and no list has."""


class Fall(NamedTuple):
    """A model that was tried in vain, the next one, for which task and why."""

    model: str
    next: str
    task: str
    why: str


class Switch(NamedTuple):
    """Who went on for whom in the middle of answers, in one hour."""

    model: str
    next: str
    task: str
    reason: str
    at: int


@dataclass(slots=True)
class Tally:
    """How often, of these how often it ended well, and when the last time."""

    n: int = 0
    ok: int = 0
    last_at: int = 0

    def add(self, at: int, ok: bool = False) -> None:
        """Once more."""
        self.n += 1
        self.ok += ok
        self.last_at = max(self.last_at, at)


class Facts(NamedTuple):
    """A model as topology and lists have it. Prices in pico-USD per token, -1: unknown."""

    provider: str
    local: bool
    free: bool
    context_tokens: int
    price_in_pusd: int
    price_out_pusd: int


Statements = list[tuple[str, list[dict[str, Any]]]]
"""Of a batch, with their rows, in the order in which they run."""


@dataclass(slots=True)
class Rows:
    """What a batch adds. `sweep`: the day before whose rows what is too old goes out; 0: nothing does. `new_week`: days
    that are too old go out too. `ready`: its statements, where they were made before (`cypher.batch`)."""

    sweep: int = 0
    new_week: bool = False
    ready: Statements = field(default_factory=Statements)
    models: dict[str, Facts] = field(default_factory=dict[str, Facts])
    seen: dict[str, tuple[int, int]] = field(default_factory=dict[str, tuple[int, int]])  # first and last outcome
    buckets: dict[tuple[str, str, int], Bucket] = field(default_factory=dict[tuple[str, str, int], Bucket])
    hours: dict[int, Tally] = field(default_factory=dict[int, Tally])  # runs that ended
    falls: dict[Fall, Tally] = field(default_factory=dict[Fall, Tally])
    chains: dict[tuple[str, ...], Tally] = field(default_factory=dict[tuple[str, ...], Tally])  # task, then models
    switches: dict[Switch, Tally] = field(default_factory=dict[Switch, Tally])
    incidents: dict[str, Incident] = field(default_factory=dict[str, Incident])

    def __len__(self) -> int:
        kinds = (self.models, self.buckets, self.hours, self.falls, self.chains, self.switches, self.incidents)
        return sum(map(len, kinds))

    def bucket(self, model: str, task: str, hour: int) -> Bucket:
        """See `buckets.BucketOf`."""
        key = (model, task, hour)
        found = self.buckets.get(key)
        if found is None:
            found = self.buckets[key] = Bucket()
        return found


FOLDS: tuple[type[Event], ...] = (
    RequestEnded,
    FeedbackGiven,
    BenchmarkMeasured,
    ModelSwitched,
    ModelDegraded,
    ModelUnavailable,
    ModelRecovered,
    ModelDrifted,
    ProviderExhausted,
    ProviderRestored,
)
"""What the graph is folded from, beside `CATALOGUE`."""

CATALOGUE: tuple[type[Event], ...] = (
    TopologyApplied,
    ModelRegistered,
    ModelPriced,
    ModelRetired,
    ModelReturned,
    ModelOffline,
    ModelOnline,
)
"""Facts about models themselves: few, so a projector that goes on reads them again from the beginning."""


@dataclass(slots=True)
class Folding:
    """The fold at a position. `written`: models that are in the graph, as they are there."""

    known: Known = field(default_factory=Known)
    written: dict[str, Facts] = field(default_factory=dict[str, Facts])
    open: dict[str, Incident] = field(default_factory=dict[str, Incident])  # by kind of trouble and subject
    day: int = 0
    rows: Rows = field(default_factory=Rows)

    def starts_a_day(self, fact: Fact) -> bool:
        """Then what was folded before belongs into a batch of its own."""
        return _told_at(fact.event, fact.stored_ms) // DAY_MS > self.day

    def take(self, seq: int, event: Event, stored_ms: int = 0) -> None:
        """Fold one fact into `rows`."""
        day = _told_at(event, stored_ms) // DAY_MS
        if day > self.day:
            if self.day:
                self.rows.sweep = day
                self.rows.new_week |= day // 7 > self.day // 7  # of a day before it in this batch, too
            self.day = day
        match event:
            case RequestEnded() | OutcomeBrief():
                self._outcome(event)
            case FeedbackGiven() | BenchmarkMeasured():
                self._judged(event)
            case ModelSwitched():
                task = event.task or UNKNOWN
                switch = Switch(event.from_model, event.model, task, event.reason, hour_of(event.at_ms))
                self.rows.switches.setdefault(switch, Tally()).add(event.at_ms)
                self._mention((event.from_model, event.model))
            case TopologyApplied():
                self.known.topology = event.body
                self._models(self.known.candidates())
            case _ if isinstance(event, CatalogueEvent):
                self.known.apply(seq, event)
                self._models(about(event))
            case _:
                self._trouble(seq, event)

    def learn(self, seq: int, event: Event) -> None:
        """A fact about models that is in the graph already."""
        self.take(seq, event)
        self.rows = Rows()

    def cut(self) -> Rows:
        """What was folded since the last time."""
        rows, self.rows = self.rows, Rows()
        return rows

    # --- outcomes --------------------------------------------------------------------------------------------------

    def _outcome(self, event: RequestEnded | OutcomeBrief) -> None:
        rows, at = self.rows, event.at_ms
        count(event, rows.bucket)
        finished = event.outcome == "finished"
        rows.hours.setdefault(hour_of(at), Tally()).add(at, finished)
        tried = [one.model for one in event.attempts]
        self._mention([*tried, *(one.model for one in event.charges), *([event.model] if event.model else ())])
        for model in tried:
            first, last = rows.seen.get(model, (at, at))
            rows.seen[model] = min(first, at), max(last, at)
        if len(tried) > 1:
            task = task_of(event)
            rows.chains.setdefault((task, *tried), Tally()).add(at, finished)
            for one, after in zip(event.attempts, event.attempts[1:], strict=False):
                rows.falls.setdefault(Fall(one.model, after.model, task, one.outcome), Tally()).add(at)

    def _judged(self, event: FeedbackGiven | BenchmarkMeasured) -> None:
        count(event, self.rows.bucket)
        if event.model:
            self._mention((event.model,))

    def _mention(self, models: Iterable[str]) -> None:
        """A model that nobody declared is in the graph too: what it did is in the log."""
        for model in models:
            if model not in self.written:
                self._write(model, Facts(UNKNOWN, False, False, 0, -1, -1))

    # --- models ----------------------------------------------------------------------------------------------------

    def _models(self, models: Iterable[str]) -> None:
        for model in models:
            facts = facts_of(self.known, model)
            if facts is not None and self.written.get(model) != facts:
                self._write(model, facts)

    def _write(self, model: str, facts: Facts) -> None:
        self.written[model] = self.rows.models[model] = facts

    # --- incidents -------------------------------------------------------------------------------------------------

    def _trouble(self, seq: int, event: Event) -> None:
        match event:
            case ModelDegraded():
                self._ill(seq, "health", event.model, "degraded", event.reason, event.at_ms)
            case ModelUnavailable():
                self._ill(seq, "health", event.model, "unavailable", event.reason, event.at_ms)
            case ModelRecovered():
                self._well("health", event.model, event.at_ms)
            case ProviderExhausted():
                self._ill(seq, "quota", event.provider, "exhausted", event.quota, event.at_ms)
            case ProviderRestored():
                self._well("quota", event.provider, event.at_ms)
            case ModelDrifted(direction="worse"):
                self._ill(seq, event.figure, event.model, "drifted", event.figure, event.at_ms)
            case ModelDrifted():
                self._well(event.figure, event.model, event.at_ms)
            case _:
                pass

    def _ill(self, seq: int, trouble: str, subject: str, kind: str, reason: str, at: int) -> None:
        """What gets worse while it lasts is one incident, of the worst kind."""
        now = self.open.get(f"{trouble} {subject}")
        if now is None:
            now = self.open[f"{trouble} {subject}"] = Incident(f"{trouble} {subject} {seq}", subject, kind, reason, at)
        else:
            now.n += 1
            if kind == "unavailable" and now.kind != kind:
                now.kind, now.reason = kind, reason
        if trouble != "quota":
            self._mention((subject,))
        self._note(now)

    def _well(self, trouble: str, subject: str, at: int) -> None:
        now = self.open.pop(f"{trouble} {subject}", None)
        if now is not None:
            now.until = at
            self._note(now)

    def _note(self, now: Incident) -> None:
        self.rows.incidents[now.key] = replace(now)  # as it is now: a batch that is being written must not change


def facts_of(known: Known, model: str) -> Facts | None:
    """What topology and lists say of a model now; None of one that may not be selected."""
    declared = known.declared(model)
    if declared is None:
        return None
    standing = known.standing(model, declared)
    priced = declared.price_known is not False
    return Facts(
        provider=declared.provider,
        local=standing.location == "local",
        free=standing.free,
        context_tokens=min(declared.context_tokens or 0, MOST_CONTEXT),
        price_in_pusd=_pusd(declared.usd_per_mtok_in) if priced else -1,
        price_out_pusd=_pusd(declared.usd_per_mtok_out) if priced else -1,
    )


def _pusd(usd_per_mtok: float) -> int:
    return round(min(usd_per_mtok, MOST_USD_PER_MTOK) * 1_000_000)


def _told_at(event: Event, stored_ms: int) -> int:
    """When it was, but never after the log stored it: a writer whose clock is ahead must not have a graph swept."""
    return min(event.at_ms, stored_ms) if stored_ms else event.at_ms


def at_position(facts: Iterable[Fact], half: Half) -> Folding:
    """The fold as it was when a graph was left: `facts` about models up to there, and what the graph itself says. The
    log may have lost the oldest of these facts; what is written of a model stays until there is a newer one."""
    found = Folding()
    for fact in facts:
        found.learn(fact.seq, fact.event)
    found.day, found.written = half.day, dict(half.written)
    for one in half.incidents:
        found.open[one.key.rpartition(" ")[0]] = one
    return found
