"""A selector on a table: inputs go through `core.step`, effects are looked at. Time is a number."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from understudy.actors.selector import core
from understudy.messages.events import Event, TopologyApplied
from understudy.messages.generate import Cancel, Delta, Failed, Finished, Generate, Seam, Usage
from understudy.messages.run import (
    ModelLoad,
    ProcessGone,
    RunEnded,
    RunFailed,
    RunModel,
    RunnerBeat,
    RunStarted,
    RunText,
    SelectorBeat,
)
from understudy.messages.slugs import slug
from understudy.messages.step import (
    Asked,
    Booted,
    CaughtUp,
    Happened,
    Heard,
    Later,
    Send,
    Store,
    Stored,
    StoreFailed,
    Unheard,
    Wake,
    Woke,
)
from understudy.messages.topology import Topology
from understudy.messages.wire import encode, reader_of

T0 = 1_000_000.0
MODELS = {"a": 0.9, "b": 0.8, "c": 0.7}


READ = reader_of(core.FOLDS)


class Stage:
    """One selector instance, its log, its runners and one caller."""

    def __init__(self, models: Any = None, settings: Any = None, beats: bool = True, **topology: Any) -> None:
        self.now, self.seq, self.state = T0, 0, core.State()
        self.settings = core.Settings(**(settings or {}))
        self.effects: list[Any] = []
        self.begun = self.deadline = 0.0
        self.deaf = False  # our own heartbeats do not come back
        self.calls: dict[str, RunModel] = {}
        self.pieces: dict[tuple[str, int], int] = {}
        self.timers: dict[str, Wake] = {}
        self.topology = self.plan(models, **topology)
        self.feed(Booted(self.now, "selector", "s1", "tta", "_INBOX_A.s1", "id0"))
        self.happen(TopologyApplied(at_ms=0, hash="h1", body=self.topology))
        if beats:
            self.beat_all()
        self.feed(CaughtUp(self.now, self.seq))

    @staticmethod
    def plan(models: Any = None, **topology: Any) -> Topology:
        """Models a, b, c, best first, all able to go on natively, unless told otherwise."""
        found: dict[str, Any] = {}
        for name, fields in (models or {name: {} for name in MODELS}).items():
            base = {"provider": "lab", "continues": "native", "quality": {"default": MODELS.get(name, 0.5)}}
            found[name] = {**base, **fields}
        providers = {"lab": {"kind": "openai", "url": "http://127.0.0.1:1/v1"}, "here": {"kind": "local"}}
        return msgspec.convert({"version": 1, "models": found, "providers": providers, **topology}, Topology)

    def feed(self, message: Any) -> list[Any]:
        """One input through the step; effects are kept and timers noted."""
        out: list[Any] = []
        for effect in core.step(self.state, message, self.settings):
            out += effect.make() if isinstance(effect, Later) else [effect]
        self.effects += out
        for effect in out:
            if isinstance(effect, Wake):
                self.timers[effect.key] = effect
                if effect.at_ms == 0:
                    del self.timers[effect.key]
            elif isinstance(effect, Send) and isinstance(effect.message, RunModel):
                self.calls[effect.message.run_id] = effect.message
        return out

    def happen(self, event: Event) -> list[Any]:
        """As the log tells it now: an outcome in its light form, with its bytes."""
        self.seq += 1
        payload = encode(event)
        told = READ(payload)
        assert isinstance(told, Event)
        return self.feed(Happened(self.now, self.seq, told, payload))

    def beat_all(self, in_flight: int = 0, slots: int = 8) -> None:
        for model in self.topology.models:
            beat = RunnerBeat(instance=f"i-{slug(model)}", models={model: ModelLoad(slots=slots, in_flight=in_flight)})
            self.feed(Heard(self.now, "obs", beat))

    # --- the caller ---

    def put(self, message: Any, reply: str = "caller", run: str = "r1") -> list[Any]:
        return self.feed(Asked(self.now, run, "ask", reply, message))

    def ask(self, run: str = "r1", reply: str = "caller", **fields: Any) -> list[Any]:
        raw = {"messages": [{"role": "user", "content": "Tell."}], "stream": True, **fields}
        ask = msgspec.convert(raw, Generate)
        self.begun, self.deadline = self.now, self.now + (ask.deadline_ms or 60_000)
        return self.put(ask, reply, run)

    def cancel(self, run: str = "r1", reply: str = "") -> list[Any]:
        return self.put(Cancel(run_id=run), reply, "x")

    def vanish(self, run: str = "r1", which: int = 0) -> list[Any]:
        """Nobody listens there, and still nobody a little later."""
        self.unheard_by_caller(run, which)
        self.now += 400
        return self.unheard_by_caller(run, which)

    def unheard_by_caller(self, run: str = "r1", which: int = 0) -> list[Any]:
        return self.feed(Unheard(self.now, f"_INBOX_A.s1.vanished.{run}.{which}"))

    def said(self, kind: Any = object, reply: str = "caller") -> list[Any]:
        """What the caller was told, in order."""
        heard = [e.message for e in self.effects if isinstance(e, Send) and e.subject == reply]
        return [m for m in heard if isinstance(m, kind)]

    def ends(self, reply: str = "caller") -> list[Any]:
        return self.said(Finished | Failed, reply)

    def kept(self) -> str:
        """What a reader holds who applies the seam rule."""
        held: list[tuple[int, str]] = []
        for one in self.said(Delta | Seam):
            if isinstance(one, Seam):
                held = [h for h in held if h[0] <= one.keep_seq]
            else:
                held.append((one.seq, one.text))
        return "".join(text for _, text in held)

    # --- the runners ---

    def call(self, run: str = "r1") -> RunModel:
        """The newest attempt that a runner was asked for."""
        return self.calls[run]

    def hear(self, message: Any) -> list[Any]:
        return self.feed(Heard(self.now, "inbox", message))

    def started(self, run: str = "r1", instance: str = "") -> list[Any]:
        call = self.call(run)
        name = instance or f"i-{slug(call.model)}"
        return self.hear(RunStarted(run_id=run, attempt=call.attempt, instance=name))

    def text(self, *words: str, run: str = "r1", tokens: int = 1, exact: bool = True) -> list[Any]:
        out: list[Any] = []
        for word in words:
            key = run, self.call(run).attempt
            n = self.pieces.get(key, 0)
            self.pieces[key] = n + 1
            name = f"i-{slug(self.call(run).model)}"
            text = RunText(run_id=run, attempt=key[1], instance=name, n=n, text=word, tokens=tokens, exact=exact)
            out += self.hear(text)
        return out

    def ended(self, finish: Any = "stop", run: str = "r1", pieces: int | None = None, **more: Any) -> list[Any]:
        key = run, self.call(run).attempt
        count = self.pieces.get(key, 0) if pieces is None else pieces
        usage = Usage(prompt_tokens=3, completion_tokens=count)
        end = RunEnded(run_id=run, attempt=key[1], pieces=count, finish_reason=finish, usage=usage, **more)
        return self.hear(end)

    def failed(self, reason: Any, run: str = "r1", **more: Any) -> list[Any]:
        return self.hear(RunFailed(run_id=run, attempt=self.call(run).attempt, reason=reason, **more))

    def unheard(self, run: str = "r1") -> list[Any]:
        return self.feed(Unheard(self.now, f"_INBOX_A.s1.run.{run}.{self.call(run).attempt}"))

    def gone(self, instance: str) -> list[Any]:
        return self.hear(ProcessGone(actor="runner", instance=instance))

    # --- time and the log ---

    def wake(self, key: str = "r1") -> list[Any]:
        """Let the newest timer of this key come at its time."""
        timer = self.timers.pop(key)
        self.now = max(self.now, timer.at_ms)
        if key == "sweep" and not self.deaf:
            self.hear(SelectorBeat(instance="s1"))
        return self.feed(Woke(self.now, key, timer.generation))

    def stores(self, prefix: str = "") -> list[Store]:
        return [e for e in self.effects if isinstance(e, Store) and e.msg_id.startswith(prefix)]

    def stored(self, run: str = "r1", duplicate: bool = False) -> list[Any]:
        return self.feed(Stored(self.now, f"end.{run}", 99, duplicate))

    def not_stored(self, run: str = "r1", code: str = "bus_down") -> list[Any]:
        return self.feed(StoreFailed(self.now, f"end.{run}", code))


@pytest.fixture(scope="session")
def stage() -> type[Stage]:
    """The class, so that each test and each example builds its own."""
    return Stage
