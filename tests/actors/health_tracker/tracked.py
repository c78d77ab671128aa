"""A health tracker on a table: inputs go through `core.step`, effects are looked at. Time is a number."""

from __future__ import annotations

from typing import Any

import msgspec

from understudy.actors.health_tracker import core
from understudy.messages.events import AttemptEnded, RequestEnded, TopologyApplied
from understudy.messages.generate import Attempt, Usage
from understudy.messages.run import ModelLoad, RunEnded, RunFailed, RunFailure, RunModel, RunnerBeat, RunText
from understudy.messages.step import Booted, CaughtUp, Happened, Heard, Send, Store, Unheard, Woke
from understudy.messages.topology import Topology

T0 = 1_000_000.0


def plan(**models: Any) -> Topology:
    found = {name: {"provider": "p", **fields} for name, fields in models.items()}
    provider = {"kind": "openai", "url": "http://127.0.0.1:1"}
    return msgspec.convert({"version": 1, "models": found, "providers": {"p": provider}}, Topology)


class Table:
    """One tracker that knows these models; none of them has been heard of yet."""

    def __init__(self, models: dict[str, Any], **settings: Any) -> None:
        self.now, self.seq, self.generation = T0, 0, 0
        self.state, self.settings = core.State(), core.Settings(**settings)
        self.effects: list[Any] = []
        self.feed(Booted(T0, "health_tracker", "h1", "tta", "_INBOX_A.h1", "id"))
        self.declare(models)

    def feed(self, message: Any) -> list[Any]:
        out = core.step(self.state, message, self.settings)
        self.effects += out
        return out

    def happen(self, event: Any) -> list[Any]:
        self.seq += 1
        return self.feed(Happened(self.now, self.seq, event))

    def hear(self, message: Any) -> list[Any]:
        return self.feed(Heard(self.now, "x", message))

    def declare(self, models: dict[str, Any]) -> None:
        self.happen(TopologyApplied(at_ms=0, hash="h", body=plan(**models)))

    def asked(self) -> list[RunModel]:
        """The questions that went to a model, in order."""
        return [e.message for e in self.effects if isinstance(e, Send) and isinstance(e.message, RunModel)]


class Tracker(Table):
    """One tracker with models a and b, both beating."""

    def __init__(self, live: bool = True, models: Any = None, **settings: Any) -> None:
        super().__init__(models or {"a": {}, "b": {}}, **settings)
        if live:
            self.live()

    def live(self) -> None:
        self.feed(CaughtUp(self.now, self.seq))
        self.beat()

    def beat(self, *models: str) -> None:
        for model in models or tuple(self.state.watches):
            self.hear(RunnerBeat(instance=f"i-{model}", models={model: ModelLoad(slots=1, in_flight=0)}))

    def bad(self, reason: str = "server_error", times: int = 1, model: str = "a") -> list[Any]:
        event = AttemptEnded(at_ms=0, run_id="r", attempt=0, model=model, reason=reason)
        return [e for _ in range(times) for e in self.happen(event)]

    def good(self, times: int = 1, model: str = "a") -> list[Any]:
        tried = (Attempt(model="z", outcome="busy"), Attempt(model=model, outcome="ok"))
        event = RequestEnded(
            at_ms=0, run_id="r", instance="s", outcome="finished", task="t", as_of_seq=0, topology="h", digest="d",
            attempts=tried,
        )  # fmt: skip
        return [e for _ in range(times) for e in self.happen(event)]

    def sweep(self, ms: float = 250.0, beats: bool = True) -> list[Any]:
        self.now += ms
        if beats:
            self.beat()
        self.generation += 1
        return self.feed(Woke(self.now, "sweep", self.generation))

    def said(self) -> list[tuple[str, str]]:
        stores = [e.event for e in self.effects if isinstance(e, Store)]
        return [(type(e).__name__.removeprefix("Model"), e.model) for e in stores]

    def status(self, model: str = "a") -> str:
        return self.state.watches[model].status


DOWN, UP = ("Unavailable", "a"), ("Recovered", "a")


def answer(t: Tracker, kind: str) -> list[Any]:
    run = t.asked()[-1].run_id
    match kind:
        case "text":
            return t.hear(RunText(run_id=run, attempt=0, instance="i-a", n=0, text="yes"))
        case "end" | "nothing":  # the end of an answer whose text was lost on the way, or that had none
            pieces = int(kind == "end")
            return t.hear(RunEnded(run_id=run, attempt=0, pieces=pieces, finish_reason="stop", usage=Usage()))
        case "unheard":
            return t.feed(Unheard(t.now, f"_INBOX_A.h1.probe.{run}"))
        case _:
            return t.hear(RunFailed(run_id=run, attempt=0, reason=msgspec.convert(kind, RunFailure)))
