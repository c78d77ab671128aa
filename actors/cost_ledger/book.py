"""What the log says about money: the ledger's fold, the same in every process and at every start.

reserved ── AttemptEnded, RequestEnded with a charge ──> booked as charged
   ├────── RequestEnded that says nothing of it ───────> booked as reserved (nobody knows)
   └────── CostExpired ──> booked as reserved ── a charge that comes late ──> booked as charged
booked, and the provider has a record of it ── CostReconciled ──> booked as the record says
"""

from __future__ import annotations

from dataclasses import dataclass, field

from understudy.actors.cost_ledger.windows import places
from understudy.messages.brief import ChargesBrief
from understudy.messages.catalogue_events import CatalogueEvent
from understudy.messages.cost import (
    BudgetWarned,
    CostExpired,
    CostReconciled,
    CostReserved,
    ProviderExhausted,
    ProviderRestored,
)
from understudy.messages.events import AttemptEnded, Event, RequestEnded, TopologyApplied
from understudy.messages.known import Known
from understudy.messages.money import Charge, pusd_of
from understudy.messages.prices import quota_of
from understudy.messages.topology import Topology

CLOSED = 10_000
"""So many attempts that are over are remembered, against asks and facts about them that come late."""
DAY_MS = KEEP_MS = 86_400_000
"""Accounts are kept for a day after their window, for what was reserved in it."""
UNPROVEN_MS = DAY_MS
"""So long a provider's record is asked for."""


@dataclass(slots=True)
class Account:
    """What was spent and is reserved in one window. `until_ms`: its end; 0: never. `used_ms`: of the last use."""

    until_ms: int
    spent_pusd: int = 0
    reserved_pusd: int = 0
    used_ms: int = 0


@dataclass(slots=True)
class Held:
    """One reservation."""

    run_id: str
    attempt: int
    model: str
    provider: str
    pusd: int
    until_ms: int
    accounts: list[str]


@dataclass(slots=True)
class Unproven:
    """A reservation that was booked with `pusd` although its provider knows better, under the id `generation`."""

    held: Held
    pusd: int
    generation: str
    at_ms: int


@dataclass(slots=True)
class Book:
    """The fold over the log; `seq` is the position it reflects. Keys of reservations are `<run_id>.<attempt>`."""

    seq: int = 0
    topology: Topology | None = None
    known: Known = field(default_factory=Known)  # the catalogue: models that only a list names have a price too
    accounts: dict[str, Account] = field(default_factory=dict[str, Account])
    open: dict[str, Held] = field(default_factory=dict[str, Held])
    of_run: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    late: dict[str, Held] = field(default_factory=dict[str, Held])  # expired: booked as reserved, until their end comes
    closed: dict[str, int] = field(default_factory=dict[str, int])
    unproven: dict[str, Unproven] = field(default_factory=dict[str, Unproven])  # oldest first
    warned: dict[str, int] = field(default_factory=dict[str, int])  # ids of warnings, and until when they are kept
    used_up: dict[str, int] = field(default_factory=dict[str, int])  # quotas of providers, as runs' ends tell
    exhausted: dict[str, int] = field(default_factory=dict[str, int])  # as announced
    pruned_ms: int = 0

    def apply(self, seq: int, event: Event) -> list[str]:
        """Fold one fact; the names of the accounts it changed. A position at or below ours was folded before."""
        if seq <= self.seq:
            return []
        self.seq = seq
        match event:
            case CostReserved():
                return self._reserve(event)
            case AttemptEnded():
                self._quota(event)
                return self._settle(event, [event.charge]) if event.charge is not None else []
            case ChargesBrief() | RequestEnded():
                return self._end(event)
            case CostExpired():
                return self._expire(key_of(event.run_id, event.attempt))
            case CostReconciled():
                return self._reconcile(event)
            case BudgetWarned():
                until = event.state.until_ms
                self.warned[event.id] = event.at_ms + self._life_ms() if until is None else until + KEEP_MS
            case ProviderExhausted():
                self.exhausted[f"{event.provider} {event.quota}"] = event.until_ms
            case ProviderRestored():
                self.exhausted.pop(f"{event.provider} {event.quota}", None)
                self.used_up.pop(f"{event.provider} {event.quota}", None)
            case TopologyApplied():
                self.topology = self.known.topology = event.body
            case _ if isinstance(event, CatalogueEvent):
                self.known.apply(seq, event)
            case _:
                pass
        return []

    def _reserve(self, event: CostReserved) -> list[str]:
        self._prune(event.at_ms)
        key = key_of(event.run_id, event.attempt)
        if key in self.open or key in self.late or key in self.closed:
            return []
        pusd = pusd_of(event.most_usd)
        found = places(event.model, event.provider, event.user, event.conversation, event.at_ms)
        names = [place.name() for place in found]
        for name, until_ms in zip(names, found.values(), strict=True):
            account = self.accounts.setdefault(name, Account(until_ms))
            account.reserved_pusd, account.used_ms = account.reserved_pusd + pusd, event.at_ms
        self.open[key] = Held(event.run_id, event.attempt, event.model, event.provider, pusd, event.until_ms, names)
        self.of_run.setdefault(event.run_id, []).append(key)
        return names

    def _settle(self, event: AttemptEnded | ChargesBrief | RequestEnded, charges: list[Charge]) -> list[str]:
        changed: list[str] = []
        for charge in charges:
            key, pusd = key_of(event.run_id, charge.attempt), pusd_of(charge.cost_usd)
            held = self.open.get(key) or self.late.get(key)
            if charge.generation is not None and held is not None:
                self.unproven[key] = Unproven(held, pusd, charge.generation, event.at_ms)
                if len(self.unproven) > CLOSED:
                    del self.unproven[next(iter(self.unproven))]
            changed += self._close(key, pusd)
        return changed

    def _reconcile(self, event: CostReconciled) -> list[str]:
        """Booked in the windows in which it was reserved, as far as they are still known."""
        one = self.unproven.pop(key_of(event.run_id, event.attempt), None)
        return self._book(one.held, spent=pusd_of(event.cost_usd) - one.pusd, reserved=0) if one is not None else []

    def _end(self, event: ChargesBrief | RequestEnded) -> list[str]:
        """All of a run is over: what its end says nothing of may have cost everything."""
        changed = self._settle(event, list(event.charges))
        for key in list(self.of_run.get(event.run_id, ())):
            changed += self._close(key, self.open[key].pusd)
        return changed

    def _close(self, key: str, pusd: int) -> list[str]:
        self.closed[key] = pusd
        if len(self.closed) > CLOSED:
            del self.closed[next(iter(self.closed))]
        held = self._take(key)
        if held is None:
            held = self.late.pop(key, None)
            return [] if held is None else self._book(held, spent=pusd - held.pusd, reserved=0)
        return self._book(held, spent=pusd, reserved=-held.pusd)

    def _expire(self, key: str) -> list[str]:
        held = self._take(key)
        if held is None:
            return []
        self.late[key] = held
        if len(self.late) > CLOSED:
            del self.late[next(iter(self.late))]
        return self._book(held, spent=held.pusd, reserved=-held.pusd)

    def _take(self, key: str) -> Held | None:
        held = self.open.pop(key, None)
        if held is not None:
            rest = self.of_run[held.run_id]
            rest.remove(key)
            if not rest:
                del self.of_run[held.run_id]
        return held

    def _book(self, held: Held, spent: int, reserved: int) -> list[str]:
        changed = [name for name in held.accounts if name in self.accounts]
        for name in changed:
            account = self.accounts[name]
            account.spent_pusd += spent
            account.reserved_pusd += reserved
        return changed

    def _quota(self, event: AttemptEnded) -> None:
        """The fold of what runs tell; announcing it is the step's."""
        model = self.known.declared(event.model)
        quota = quota_of(event.model, model) if model is not None else None
        if event.exhausted_until_ms is not None and model is not None and quota is not None:
            name = f"{model.provider} {quota}"
            self.used_up[name] = max(self.used_up.get(name, 0), event.exhausted_until_ms)

    def _life_ms(self) -> int:
        """A conversation that was not used for so long is over: the log has forgotten it too."""
        return self.topology.log.max_age_days * DAY_MS if self.topology is not None else KEEP_MS

    def _prune(self, at_ms: int) -> None:
        """Once an hour: forget windows that have ended long ago."""
        if at_ms - self.pruned_ms < KEEP_MS / 24:
            return
        self.pruned_ms, life_ms = at_ms, self._life_ms()
        self.accounts = {
            name: account
            for name, account in self.accounts.items()
            if at_ms <= (account.until_ms + KEEP_MS if account.until_ms else account.used_ms + life_ms)
        }
        self.unproven = {key: one for key, one in self.unproven.items() if at_ms <= one.at_ms + UNPROVEN_MS}
        self.warned = {name: until_ms for name, until_ms in self.warned.items() if at_ms <= until_ms}


def key_of(run_id: str, attempt: int) -> str:
    """The one name of a reservation."""
    return f"{run_id}.{attempt}"
