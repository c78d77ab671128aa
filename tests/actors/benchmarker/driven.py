"""A benchmarker that runs benchmarks, on a table: the log is a list, models are functions, time is a number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from understudy.actors.benchmarker import core
from understudy.actors.benchmarker.edge import shipped_suites
from understudy.messages.base import Message
from understudy.messages.benchmarks import BenchmarkScored, RunBenchmark
from understudy.messages.events import Event, RequestEnded, TopologyApplied
from understudy.messages.generate import Attempt, FailCode, Failed, Finished, Generate, Parameters, Usage
from understudy.messages.step import (
    Asked,
    Booted,
    CaughtUp,
    EdgeReady,
    Happened,
    Heard,
    Input,
    Send,
    Store,
    Stored,
    Wake,
    Woke,
)
from understudy.messages.suites import ReadSuite, SuiteRead
from understudy.messages.topology import Topology
from understudy.messages.wire import encode, reader_of

READ = reader_of(core.FOLDS)
NOON = 1_790_000_000_000.0
MODELS: dict[str, dict[str, Any]] = {
    "a": {"provider": "lab"},
    "b": {"provider": "lab", "capabilities": ["chat", "tools", "json"]},
    "paid": {"provider": "lab", "usd_per_mtok_out": 1.0},
    "home": {"provider": "here", "path": "x"},
    "ears": {"provider": "lab", "capabilities": ["embeddings"]},
}


def topology() -> Topology:
    providers = {"lab": {"kind": "openai", "url": "http://127.0.0.1:1/v1"}, "here": {"kind": "local"}}
    body = {"version": 1, "models": MODELS, "providers": providers, "aliases": {"first": "a"}}
    return msgspec.convert(body, Topology)


def suite(*items: dict[str, Any], **head: Any) -> bytes:
    """The text of a suite's file."""
    first = {"suite": "mine", "about": "a", "source": "s", "licence": "l", "task": "t", **head}
    return b"\n".join(msgspec.json.encode(one) for one in (first, *items))


def sums(count: int) -> list[dict[str, Any]]:
    """Items `n0`, `n1`, ...: the right answer is the number in the id."""
    return [{"id": f"n{n}", "prompt": f"Say {n}.", "score": {"kind": "number", "value": n}} for n in range(count)]


def finished(ask: Generate, text: str = "", **more: Any) -> Finished:
    """As a selector says it."""
    model = more.pop("model", ask.model)
    attempt = Attempt(model=model, outcome="ok", first_token_ms=10.0, total_ms=60.0)
    fields: dict[str, Any] = {"usage": Usage(completion_tokens=11), "finish_reason": "stop", "attempts": (attempt,)}
    parameters = Parameters(max_tokens=9, temperature=0.0, top_p=1.0, seed=1)
    return Finished(run_id="r", text=text, model=model, parameters=parameters, **{**fields, **more})


def failed(code: FailCode, *outcomes: str, **more: Any) -> Failed:
    """The same of a failure."""
    return Failed(code=code, text="t", attempts=tuple(Attempt(model="a", outcome=one) for one in outcomes), **more)


def echo(ask: Generate) -> Message:
    """Says the number that it was asked to say."""
    return finished(ask, ask.messages[-1].content.removeprefix("Say ").rstrip("."))


class Bench:
    """One benchmarker. `log`: facts with their ids; `asked`: what models were asked and not answered yet."""

    def __init__(self, model: Callable[[Generate], Message] | None = echo, **settings: Any) -> None:
        """`model` answers each ask at once; None: nobody does, until `answer` is called."""
        self.settings = msgspec.convert(settings, core.Settings)
        self.model, self.log, self.now = model, list[Event](), NOON
        self.told: list[Message] = []
        self.files: dict[str, bytes] = {"./mine": suite(*sums(3))}
        self.ids: set[str] = set()
        self.reads = 0
        self.start()
        self.happen(TopologyApplied(at_ms=int(self.now), hash="h", body=topology()))

    def start(self) -> None:
        """A new process: only the log remains."""
        self.state = core.State()
        self.wakes: dict[str, Wake] = {}
        self.asked: list[Send] = []
        self.held: list[Store] | None = None  # stores that wait for the log, while not None
        self.reads += 1
        self.feed(Booted(self.now, "benchmarker", "benchmarker-1", "tta", f"_INBOX_A.b.{self.reads}", "id"))
        for seq, event in enumerate(self.log, 1):
            self.feed(Happened(self.now, seq, self.light(event)))
        self.feed(CaughtUp(self.now, len(self.log)))
        self.feed(EdgeReady(self.now, {"cpu": "test"}))

    @staticmethod
    def light(event: Event) -> Event:
        found = READ(encode(event))
        assert isinstance(found, Event)
        return found

    def feed(self, message: Input) -> None:
        """A step, and what comes of it."""
        for effect in core.step(self.state, message, self.settings):
            match effect:
                case Store():
                    self.held.append(effect) if self.held is not None else self.take(effect)
                case ReadSuite():
                    content = self.files.get(effect.source, b"")
                    shipped = shipped_suites() | {name: one for name, one in self.files.items() if "/" not in name}
                    problem = "" if content else f"no suite {effect.source!r}"
                    self.feed(SuiteRead(self.now, effect.key, content, shipped, problem))
                case Wake():
                    self.wakes[effect.key] = effect
                case Send(message=Generate()):
                    self.asked.append(effect)
                case Send():
                    assert isinstance(effect.message, Message)
                    self.told.append(effect.message)
                case _:
                    raise AssertionError(effect)
        while self.model is not None and self.asked:
            self.answer(self.asked[0], self.model(self.order(self.asked[0])))

    @staticmethod
    def order(sent: Send) -> Generate:
        assert isinstance(sent.message, Generate)
        return sent.message

    def answer(self, sent: Send, message: Message, ms: float = 50.0) -> None:
        """A model's answer, later."""
        self.asked.remove(sent)
        self.now += ms
        self.feed(Heard(self.now, sent.reply, message))

    def take(self, store: Store) -> None:
        """The log takes it, once per id."""
        if store.msg_id in self.ids:
            self.feed(Stored(self.now, store.msg_id, 1, True))
            return
        self.ids.add(store.msg_id)
        self.happen(msgspec.structs.replace(store.event, id=store.msg_id))
        self.feed(Stored(self.now, store.msg_id, len(self.log), False))

    def happen(self, event: Event) -> None:
        self.log.append(event)
        self.feed(Happened(self.now, len(self.log), self.light(event)))

    def tick(self, ms: float = 100.0, times: int = 1) -> None:
        """Time passes, timers that are due ring."""
        for _ in range(times):
            self.now += ms
            for key, wake in list(self.wakes.items()):
                if wake.at_ms <= self.now:
                    del self.wakes[key]
                    self.feed(Woke(self.now, key, wake.generation))

    def order_run(self, id_: str = "bench", **fields: Any) -> str:
        """The operator's order, by `benchmark.run`."""
        ask = RunBenchmark(**{"suite": "./mine", "models": ("a",), **fields})
        self.feed(Asked(self.now, id_, "tta.ask.benchmark.run", "_INBOX_A.operator.x", ask))
        return id_

    def ask(self, ask: Any) -> Message:
        before = len(self.told)
        self.feed(Asked(self.now, f"q{len(self.log)}", "tta.ask.benchmark.x", "_INBOX_A.operator.q", ask))
        return self.told[before]

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.log if isinstance(event, kind)]

    def scores(self, model: str = "a") -> dict[str, int | str]:
        """What the log has: the score, or why there is none."""
        items: list[BenchmarkScored] = [one for one in self.of(BenchmarkScored) if one.model == model]
        return {one.item: one.score_u if one.outcome == "scored" else f"{one.outcome} {one.reason}" for one in items}

    def somebody(self, model: str, ms: float = 40.0) -> None:
        """An outcome of somebody else's request."""
        attempt = Attempt(model=model, outcome="ok", total_ms=ms)
        self.happen(
            RequestEnded(at_ms=int(self.now), run_id="r", instance="s", outcome="finished", task="t", as_of_seq=0,
                         topology="h", digest="d", attempts=(attempt,))
        )  # fmt: skip
