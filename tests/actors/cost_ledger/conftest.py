"""A ledger on a table: asks go through `core.step`, the log is a list, time is a number."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from understudy.actors.cost_ledger import core
from understudy.messages.cost import Budgets, ListBudgets, Reserve, Reserved, ReserveRefused
from understudy.messages.events import AttemptEnded, Event, RequestEnded, TopologyApplied
from understudy.messages.generate import Usage
from understudy.messages.money import Charge, pusd_of, usd_of
from understudy.messages.step import Asked, CaughtUp, Happened, Send, Store, Stored, StoreFailed, Woke
from understudy.messages.topology import Topology
from understudy.messages.wire import encode, reader_of

T0 = 1_795_350_000_000.0  # 2026-11-22, in the morning (UTC)
READ = reader_of(core.FOLDS)
MODELS = {"a": "lab", "b": "lab", "c": "far", "f:free": "far", "g:free": "far", "h:free": "lab"}


class Desk:
    """One ledger at a time, and a log that outlives it."""

    def __init__(self, **budgets: Any) -> None:
        self.now, self.log, self.ids = T0, list[Event](), dict[str, int]()
        self.settings = core.Settings()
        self.said: list[Send] = []
        self.stores: list[Store] = []  # on their way
        self.told: list[Event] = []  # announcements that the log has taken
        self.state, self.read = core.State(), 0
        self.apply(**budgets)
        self.boot()

    def apply(self, **budgets: Any) -> None:
        body = {
            "version": 1,
            "models": {name: {"provider": provider, "usd_per_request": 1} for name, provider in MODELS.items()},
            "providers": {p: {"kind": "openrouter", "url": "http://127.0.0.1:1/v1"} for p in ("lab", "far")},
            "budgets": budgets,
        }
        topology = msgspec.convert(body, Topology)
        self.append(TopologyApplied(at_ms=int(self.now), hash="h", body=topology), f"topology.{len(self.log)}")

    def boot(self) -> None:
        """A new life: it folds the log before it answers; what was on its way is lost."""
        self.state, self.read, self.stores = core.State(), 0, []
        self.fold()
        self.feed(CaughtUp(self.now, self.read))

    def feed(self, message: Any) -> list[Any]:
        out = core.step(self.state, message, self.settings)
        self.said += [e for e in out if isinstance(e, Send)]
        self.stores += [e for e in out if isinstance(e, Store)]
        return out

    # --- the log ---

    def append(self, event: Event, msg_id: str) -> tuple[int, bool]:
        """Position, and whether the log had it."""
        if msg_id in self.ids:
            return self.ids[msg_id], True
        self.log.append(msgspec.structs.replace(event, id=msg_id))
        self.ids[msg_id] = len(self.log)
        return len(self.log), False

    def take(self, tell: bool = True) -> None:
        """The log takes the oldest fact on its way, and says so, unless its word is lost."""
        store = self.stores.pop(0)
        seq, duplicate = self.append(store.event, store.msg_id)
        if not duplicate and not store.msg_id.startswith("reserved."):
            self.told.append(store.event)
        if tell:
            self.feed(Stored(self.now, store.msg_id, seq, duplicate))

    def fold(self) -> None:
        """What the log has, in its light form."""
        while self.read < len(self.log):
            told = READ(encode(self.log[self.read]))
            self.read += 1
            assert isinstance(told, Event)
            self.feed(Happened(self.now, self.read, told))

    def settle(self) -> None:
        """Until nothing is on its way."""
        while self.stores or self.read < len(self.log):
            while self.stores:
                self.take()
            self.fold()

    def sweep(self, after_ms: float = 0.0) -> None:
        self.now += after_ms
        self.feed(Woke(self.now, core.SWEEP, 0))

    # --- selectors ---

    def ask(self, run: str = "r1", usd: str = "1", attempt: int = 0, reply: str = "", **more: Any) -> None:
        fields = {"model": "a", "remaining_ms": 1_000.0, **more}
        ask = Reserve(run_id=run, attempt=attempt, most_usd=usd, **fields)
        self.feed(Asked(self.now, "id", "ask", reply or f"{run}.{attempt}", ask))

    def refuse(self, code: str) -> None:
        self.feed(StoreFailed(self.now, self.stores.pop(0).msg_id, code))

    def answer(self, reply: str = "r1.0") -> Any:
        """The newest answer there, or None."""
        return next((s.message for s in reversed(self.said) if s.subject == reply), None)

    def granted(self, reply: str = "r1.0") -> bool:
        answer = self.answer(reply)
        assert isinstance(answer, Reserved | ReserveRefused), answer
        return isinstance(answer, Reserved)

    def reserve(self, run: str = "r1", usd: str = "1", attempt: int = 0, **more: Any) -> bool:
        """Ask, let the log take it, read it back."""
        self.ask(run, usd, attempt, **more)
        self.settle()
        return self.granted(f"{run}.{attempt}")

    def charge(self, usd: str, attempt: int = 0, by: Any = "usage") -> Charge:
        return Charge(attempt=attempt, model="a", cost_usd=usd, by=by)

    def attempt_ended(self, run: str, usd: str | None, attempt: int = 0, **more: Any) -> None:
        charge = None if usd is None else self.charge(usd, attempt)
        fields = {"model": "a", "reason": "broken_stream", **more}
        event = AttemptEnded(at_ms=int(self.now), run_id=run, attempt=attempt, charge=charge, **fields)
        self.append(event, f"attempt.{run}.{attempt}")
        self.fold()

    def ended(self, run: str = "r1", *charges: Charge) -> None:
        event = RequestEnded(
            at_ms=int(self.now), run_id=run, instance="s", outcome="finished", task="t", as_of_seq=0, topology="h",
            digest="", usage=Usage(), charges=charges,
        )  # fmt: skip
        self.append(event, f"end.{run}")
        self.fold()

    def budget(self, name: str, key: str = "") -> tuple[str, str]:
        """Spent and reserved."""
        self.feed(Asked(self.now, "id", "ask", "list", ListBudgets()))
        listed = self.answer("list")
        assert isinstance(listed, Budgets)
        state = next((b for b in listed.budgets if (b.budget, b.key) == (name, key)), None)
        return (state.spent_usd, state.reserved_usd) if state is not None else ("0", "0")

    def used_by_the_log(self) -> int:
        """Spent and reserved in all, counted plainly over the log: what the fold must come to (pico-USD)."""
        granted: dict[str, int] = {}
        over: set[str] = set()
        for event in self.log:
            kind = type(event).__name__
            if kind == "CostReserved" and f"{event.run_id}.{event.attempt}" not in over:  # type: ignore[attr-defined]
                granted.setdefault(f"{event.run_id}.{event.attempt}", pusd_of(event.most_usd))  # type: ignore[attr-defined]
            charges = list(getattr(event, "charges", ())) + ([c] if (c := getattr(event, "charge", None)) else [])
            for charge in charges:
                key = f"{event.run_id}.{charge.attempt}"  # type: ignore[attr-defined]
                if key in granted and key not in over:
                    granted[key] = pusd_of(charge.cost_usd)
                over.add(key)
        return sum(granted.values())

    usd = staticmethod(usd_of)
    pusd = staticmethod(pusd_of)


@pytest.fixture(scope="session")
def desk() -> type[Desk]:
    """The class, so that each test and each example builds its own."""
    return Desk
