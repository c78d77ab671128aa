"""A benchmarker on a table: facts go through `core.step`, the log is a list, time is a number."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from understudy.actors.benchmarker import core
from understudy.messages.benchmarks import ModelDrifted
from understudy.messages.buckets import HOUR_MS
from understudy.messages.comparison import CompareModels, Comparison, Trends, TrendsFound
from understudy.messages.events import Event, RequestEnded, TopologyApplied
from understudy.messages.generate import Attempt, Usage
from understudy.messages.step import Asked, CaughtUp, Happened, Send, Store, Stored
from understudy.messages.topology import Topology
from understudy.messages.wire import encode, reader_of

H0 = 490_000  # an hour since 1970, at 16:00 (UTC)
READ = reader_of(core.FOLDS)


def topology(**more: Any) -> Topology:
    body = {
        "version": 1,
        "models": {name: {"provider": "lab"} for name in ("a", "b", "c")},
        "providers": {"lab": {"kind": "openai", "url": "http://127.0.0.1:1/v1"}},
        "tasks": {"t": {}, "u": {}},
    }
    return msgspec.convert({**body, **more}, Topology)


def ended(at_ms: int, *attempts: tuple[str, str, float], task: str = "t", **more: Any) -> RequestEnded:
    """A run with these attempts: model, outcome, total milliseconds."""
    tried = tuple(
        Attempt(model=model, outcome=outcome, total_ms=ms, first_token_ms=ms / 4 if outcome == "ok" else None)
        for model, outcome, ms in attempts
    )
    return RequestEnded(
        at_ms=at_ms, run_id="r", instance="s", outcome="finished", task=task, as_of_seq=0, topology="h", digest="d",
        attempts=tried, **{"usage": Usage(), **more},
    )  # fmt: skip


class Bench:
    """One benchmarker; `log` has what it was told and what it has said."""

    def __init__(self, live: bool = True, topology_of: Topology | None = None, **settings: Any) -> None:
        self.settings = msgspec.convert(settings, core.Settings)
        self.state, self.seq, self.now = core.State(), 0, float(H0 * HOUR_MS)
        self.log, self.said = list[Event](), list[ModelDrifted]()
        self.happen(TopologyApplied(at_ms=int(self.now), hash="h", body=topology_of or topology()))
        if live:
            self.feed(CaughtUp(self.now, self.seq))

    def feed(self, message: Any) -> list[Any]:
        """A step; what it stores is taken by the log and read back."""
        out = core.step(self.state, message, self.settings)
        for store in [e for e in out if isinstance(e, Store)]:
            assert isinstance(store.event, ModelDrifted)
            self.said.append(store.event)
            self.happen(msgspec.structs.replace(store.event, id=store.msg_id))
            self.feed(Stored(self.now, store.msg_id, self.seq, False))
        return out

    def happen(self, event: Event) -> list[Any]:
        """A fact, in its light form."""
        self.seq += 1
        self.log.append(event)
        self.now = max(self.now, float(event.at_ms))
        light = READ(encode(event))
        assert isinstance(light, Event)
        return self.feed(Happened(self.now, self.seq, light))

    def tell(self, events: Iterable[Event]) -> None:
        for event in events:
            self.happen(event)

    def ask(self, ask: Any) -> Any:
        out = core.step(self.state, Asked(self.now, "id", "ask", "inbox", ask), self.settings)
        (sent,) = [e for e in out if isinstance(e, Send)]
        return READ_ANY(encode(sent.message))

    def compare(self, **fields: Any) -> Comparison:
        found = self.ask(CompareModels(**fields))
        assert isinstance(found, Comparison), found
        return found

    def trends(self, **fields: Any) -> TrendsFound:
        found = self.ask(Trends(**fields))
        assert isinstance(found, TrendsFound), found
        return found


READ_ANY = reader_of((Comparison, TrendsFound))


def hourly(hour: int, model: str, calls: int, errors: int = 0, ms: float = 1_000.0, **more: Any) -> list[RequestEnded]:
    """An hour of calls, of which so many fail."""
    step = (HOUR_MS - 1) // max(1, calls)
    outcomes = ["server_error"] * errors + ["ok"] * (calls - errors)
    return [ended(hour * HOUR_MS + n * step, (model, word, ms), **more) for n, word in enumerate(outcomes)]
