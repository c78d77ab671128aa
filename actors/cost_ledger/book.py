"""What the log says about money: the ledger's fold, the same in every process and at every start.

reserved ── AttemptEnded, RequestEnded with a charge ──> booked as charged
   ├────── RequestEnded that says nothing of it ───────> booked as reserved (nobody knows)
   └────── CostExpired ──> booked as reserved ── a charge that comes late ──> booked as charged
"""

from __future__ import annotations

from dataclasses import dataclass, field

from understudy.actors.cost_ledger.windows import places
from understudy.messages.brief import ChargesBrief
from understudy.messages.cost import BudgetWarned, CostExpired, CostReserved, ProviderExhausted, ProviderRestored
from understudy.messages.events import AttemptEnded, Event, RequestEnded, TopologyApplied
from understudy.messages.money import Charge, pusd_of
from understudy.messages.prices import quota_of
from understudy.messages.topology import Topology

CLOSED = 10_000
"""So many attempts that are over are remembered, against asks and facts about them that come late."""
KEEP_MS = 86_400_000
"""Accounts are kept for a day after their window, for what was reserved in it."""


@dataclass(slots=True)
class Account:
    """What was spent and is reserved in one window. `until_ms`: its end; 0: never."""

    until_ms: int
    spent_pusd: int = 0
    reserved_pusd: int = 0


@dataclass(slots=True)
class Held:
    """One reservation."""

    run_id: str
    attempt: int
    model: str
    pusd: int
    until_ms: int
    accounts: list[str]


@dataclass(slots=True)
class Book:
    """The fold over the log; `seq` is the position it reflects. Keys of reservations are `<run_id>.<attempt>`."""

    seq: int = 0
    topology: Topology | None = None
    accounts: dict[str, Account] = field(default_factory=dict[str, Account])
    open: dict[str, Held] = field(default_factory=dict[str, Held])
    of_run: dict[str, list[str]] = field(default_factory=dict[str, list[str]])
    late: dict[str, Held] = field(default_factory=dict[str, Held])  # expired: booked as reserved, until their end comes
    closed: dict[str, int] = field(default_factory=dict[str, int])
    warned: dict[str, int] = field(default_factory=dict[str, int])  # ids of warnings, with the window's end
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
                return self._settle(event.run_id, [event.charge]) if event.charge is not None else []
            case ChargesBrief() | RequestEnded():
                return self._end(event)
            case CostExpired():
                return self._expire(key_of(event.run_id, event.attempt))
            case BudgetWarned():
                self.warned[event.id] = event.state.until_ms or 0
            case ProviderExhausted():
                self.exhausted[f"{event.provider} {event.quota}"] = event.until_ms
            case ProviderRestored():
                self.exhausted.pop(f"{event.provider} {event.quota}", None)
                self.used_up.pop(f"{event.provider} {event.quota}", None)
            case TopologyApplied():
                self.topology = event.body
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
            self.accounts.setdefault(name, Account(until_ms)).reserved_pusd += pusd
        self.open[key] = Held(event.run_id, event.attempt, event.model, pusd, event.until_ms, names)
        self.of_run.setdefault(event.run_id, []).append(key)
        return names

    def _settle(self, run_id: str, charges: list[Charge]) -> list[str]:
        changed: list[str] = []
        for charge in charges:
            changed += self._close(key_of(run_id, charge.attempt), pusd_of(charge.cost_usd))
        return changed

    def _end(self, event: ChargesBrief | RequestEnded) -> list[str]:
        """All of a run is over: what its end says nothing of may have cost everything."""
        changed = self._settle(event.run_id, list(event.charges))
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
        model = self.topology.models.get(event.model) if self.topology is not None else None
        quota = quota_of(event.model, model) if model is not None else None
        if event.exhausted_until_ms is not None and model is not None and quota is not None:
            name = f"{model.provider} {quota}"
            self.used_up[name] = max(self.used_up.get(name, 0), event.exhausted_until_ms)

    def _prune(self, at_ms: int) -> None:
        """Once an hour: forget windows that have ended long ago."""
        if at_ms - self.pruned_ms < KEEP_MS / 24:
            return
        self.pruned_ms, limit = at_ms, at_ms - KEEP_MS
        self.accounts = {n: a for n, a in self.accounts.items() if not 0 < a.until_ms < limit}
        self.warned = {n: until for n, until in self.warned.items() if not 0 < until < limit}


def key_of(run_id: str, attempt: int) -> str:
    """The one name of a reservation."""
    return f"{run_id}.{attempt}"
