"""A model manager on a table: inputs go through `core.step`, its facts come back as the log would tell them."""

from __future__ import annotations

from typing import Any

import msgspec

from understudy.actors.model_manager import core
from understudy.actors.model_manager.compare import EVENT_BYTES
from understudy.messages.catalogue import RefreshCatalogue
from understudy.messages.events import TopologyApplied
from understudy.messages.known import Known
from understudy.messages.listing import ListedPrice, ListEnded, ListFailed, ListPart, Row
from understudy.messages.step import (
    Asked,
    Booted,
    CaughtUp,
    Happened,
    Heard,
    Send,
    Store,
    Stored,
    StoreFailed,
    Woke,
)
from understudy.messages.topology import Topology
from understudy.messages.wire import decode, encode

DAY_MS = 86_400_000.0
T0 = 20_000 * DAY_MS  # 2024-10-04
FREE = ListedPrice(units={"prompt": "0", "completion": "0"})
PAID = ListedPrice(units={"prompt": "0.000001", "completion": "0.000002"})
ADMIT = {"ids": ["a/*"], "free": True}


def row(name: str, **fields: Any) -> Row:
    return Row(**{"name": name, "context_tokens": 8_000, "capabilities": ("chat",), "price": FREE, **fields})


class Table:
    """One manager and its log."""

    def __init__(self, models: Any = None, kind: str = "openrouter", **catalogue: Any) -> None:
        self.now, self.seq, self.generation = T0, 0, 0
        self.log: list[tuple[str, Any]] = []
        self.ids: dict[str, int] = {}
        self.lost = False  # the log takes nothing just now
        self.asked: list[Send] = []
        self.boot()
        self.declare(self.topology(models, kind, **catalogue))
        self.wake()  # its own models first
        self.wake()

    def boot(self, life: str = "id") -> None:
        self.state, self.settings = core.State(), core.Settings()
        self.feed(Booted(self.now, "model_manager", "m1", "tta", "_INBOX_A.m1", life))
        for seq, event in self.log:
            self.feed(Happened(self.now, int(seq), event))
        self.feed(CaughtUp(self.now, self.seq))

    @staticmethod
    def topology(models: Any = None, kind: str = "openrouter", **catalogue: Any) -> Topology:
        provider = {"kind": kind, "url": "http://127.0.0.1:1/v1", "catalogue": catalogue}
        providers = {"hub": provider, "here": {"kind": "local"}}
        return msgspec.convert({"version": 1, "models": models or {}, "providers": providers}, Topology)

    def declare(self, topology: Topology) -> None:
        self.happen(TopologyApplied(at_ms=0, hash="h", body=topology))

    def happen(self, event: Any) -> int:
        self.seq += 1
        self.log.append((str(self.seq), event))
        self.feed(Happened(self.now, self.seq, event))
        return self.seq

    def feed(self, message: Any) -> list[Any]:
        """One input; what is stored comes back, as the log would tell it."""
        facts: list[Any] = []
        for effect in core.step(self.state, message, self.settings):
            if isinstance(effect, Send):
                self.asked.append(effect)
            elif isinstance(effect, Store):
                facts.append(effect.event)
                assert len(encode(effect.event)) < EVENT_BYTES + 1_000
                self.store(effect)
        return facts

    def store(self, effect: Store) -> None:
        if self.lost:
            self.feed(StoreFailed(self.now, effect.msg_id, "bus_down"))
            return
        known = self.ids.get(effect.msg_id)
        if known is not None:
            self.feed(Stored(self.now, effect.msg_id, known, True))
            return
        self.ids[effect.msg_id] = self.seq + 1
        event: Any = decode(encode(effect.event))
        self.seq += 1
        self.log.append((str(self.seq), event))
        self.feed(Stored(self.now, effect.msg_id, self.seq, False))
        self.feed(Happened(self.now, self.seq, event))

    def order(self, order: RefreshCatalogue) -> None:
        self.feed(Asked(self.now, "id", "s", "_INBOX.op", order))

    def wake(self, ms: float = 0.0) -> list[Any]:
        self.now += ms
        self.generation += 1
        return self.feed(Woke(self.now, "sweep", self.generation))

    @property
    def list_id(self) -> str:
        return self.asked[-1].message.list_id  # type: ignore[union-attr]

    def answer(self, *rows: Row, size: int = 2) -> list[Any]:
        """The list that was asked for last, in parts."""
        parts = [rows[i : i + size] for i in range(0, len(rows), size)]
        for n, part in enumerate(parts):
            assert self.feed(Heard(self.now, "x", ListPart(list_id=self.list_id, n=n, rows=part))) == []
        return self.feed(Heard(self.now, "x", ListEnded(list_id=self.list_id, parts=len(parts))))

    def fail(self, code: Any = "malformed", path: str = "$.data[0]") -> list[Any]:
        said = ListFailed(list_id=self.list_id, code=code, text="t", path=path)
        return self.feed(Heard(self.now, "x", said))

    def read(self, *rows: Row) -> list[Any]:
        """An hour later it is asked for again."""
        before = len(self.asked)
        facts = self.wake(3_600_000)
        assert len(self.asked) == before + 1
        return facts + self.answer(*rows)

    @property
    def known(self) -> Known:
        return self.state.history.known

    def candidates(self) -> list[str]:
        return sorted(m for m in self.known.candidates() if self.known.entries[m].retired is None)


def kinds(facts: list[Any]) -> list[str]:
    return [type(fact).__name__ for fact in facts]
