"""The kept order decides as the plain walk does: the same chain, scores, reasons and digest, after any history."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from understudy.actors.selector import order
from understudy.actors.selector.choose import Question, decide
from understudy.actors.selector.order import Order, local_of
from understudy.actors.selector.views import Knowledge, LocalView
from understudy.messages.catalogue import Select, Selected
from understudy.messages.events import (
    AttemptEnded,
    Event,
    ModelDegraded,
    ModelRecovered,
    ModelUnavailable,
    RequestEnded,
    TopologyApplied,
)
from understudy.messages.generate import Attempt, Requirements, Turn
from understudy.messages.run import ModelLoad, ProcessGone, RunFailed, RunnerBeat
from understudy.messages.topology import Topology

PROVIDERS = {
    "p1": {"kind": "openai", "url": "http://127.0.0.1:1/v1"},
    "p2": {"kind": "openai", "url": "http://127.0.0.1:2/v1"},
    "here": {"kind": "local"},
}
NAMES = [f"m{n}" for n in range(14)]


class History:
    """One selector's life, drawn from a seed: everything that decisions depend on changes now and then."""

    def __init__(self, seed: int) -> None:
        self.luck = random.Random(seed)
        self.knowledge, self.local, self.order, self.now, self.seq = Knowledge(), LocalView(), Order(), 1e6, 0
        self.fold(self.applied())
        for name in NAMES:
            self.beat(name)

    def fold(self, event: Event) -> None:
        self.seq += 1
        self.knowledge.apply(self.seq, event)
        self.order.happened(event)

    def applied(self) -> TopologyApplied:
        luck = self.luck
        models = {name: self.declared() for name in luck.sample(NAMES, luck.randrange(9, len(NAMES) + 1))}
        policy = {"chain_length": luck.randrange(1, 9), "weights": {k: luck.choice([0, 0.1, 1]) for k in WEIGHTS}}
        tasks = {"general": {}, "fine": {"min_quality": 0.4, "fallbacks": luck.sample(sorted(models), 2)}}
        raw = {"version": 1, "models": models, "providers": PROVIDERS, "policy": policy, "tasks": tasks}
        return TopologyApplied(at_ms=0, hash=str(self.seq), body=msgspec.convert(raw, Topology))

    def declared(self) -> dict[str, Any]:
        luck = self.luck
        return {
            "provider": luck.choice(sorted(PROVIDERS)),
            "quality": {"default": luck.choice([0.3, 0.5, 0.5, 0.5000000001, luck.random()])},
            "context_tokens": luck.choice([1000, 2000, 4000]),
            "capabilities": luck.choice([["chat"], ["chat", "json"], ["embeddings"]]),
            "fallbacks": luck.choices(NAMES, k=luck.randrange(5)),  # some twice
            "usd_per_mtok_out": luck.choice([0.0, 1.0, 3.0]),
        }

    def beat(self, name: str) -> None:
        luck = self.luck
        instance, load = luck.choice("AB") + name, luck.choice([0, 0, 1, 2])
        accepting = luck.random() < 0.9
        beat = RunnerBeat(instance=instance, models={name: ModelLoad(slots=2, in_flight=load)}, accepting=accepting)
        self.local.beat(beat, self.now)

    def live(self) -> None:
        """Something happens."""
        luck, name = self.luck, self.luck.choice(NAMES)
        self.now += luck.choice([0, 1, 400, 3_000])
        match luck.randrange(12):
            case 0:
                self.fold(ModelDegraded(at_ms=0, model=name, reason="x", was="healthy"))
            case 1:
                self.fold(ModelUnavailable(at_ms=0, model=name, reason="x", was="healthy", retry_at_ms=1))
            case 2 | 3:
                self.fold(ModelRecovered(at_ms=0, model=name, was="degraded", by="probe"))
            case 4:
                self.fold(AttemptEnded(at_ms=1, run_id="r", attempt=0, model=name, reason="server_error"))
            case 5:
                tried = (Attempt(model=name, outcome="ok", first_token_ms=luck.choice([None, 1.0, 900.0])),)
                facts = {"instance": "i", "outcome": "finished", "task": "general", "as_of_seq": 1}
                self.fold(RequestEnded(at_ms=1, run_id="r", topology="", digest="", attempts=tried, **facts))
            case 6:
                self.local.suspect(name, self.now, luck.choice([0, 5_000]))
            case 7:
                self.local.trust(name)
            case 8:
                self.local.asked(name)
            case 9:
                self.local.answered(name)
            case 10:
                self.local.gone(luck.choice("AB") + name)
            case _:
                self.fold(self.applied()) if luck.random() < 0.2 else self.beat(name)

    def question(self) -> Question:
        luck = self.luck
        needs = Requirements(
            capabilities=luck.choice([(), ("json",), ("embeddings",)]),
            location=luck.choice([None, None, "local", "external"]),
            min_quality=luck.choice([None, 0.45]),
            max_latency_ms=luck.choice([None, 500]),
        )
        known = sorted(self.knowledge.models)
        return Question(
            task=luck.choice(["general", "fine"]),
            prompt_tokens=luck.choice([1, 7, 300, 999, 1000, 1500, 3999, 5000]),
            max_tokens=luck.choice([1, 100, 1500]),
            requirements=needs,
            model=luck.choice([None, None, None, luck.choice(known)]),
            balance=luck.choice([None, 0.0, 0.5, 1.0]),
        )


WEIGHTS = ("quality", "speed", "cost", "fit")


@pytest.mark.parametrize("seed", range(60))
def test_the_kept_order_decides_as_the_plain_walk(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "KINDS", 5)  # so that kinds are forgotten, too
    h = History(seed)
    for _ in range(40):
        for _ in range(h.luck.randrange(4)):
            h.live()
        asked = h.question()
        view = {m: local_of(h.local, m, h.now) for m in h.knowledge.models}
        plain = decide(h.knowledge, view, asked)
        kept, seen = h.order.decide(h.knowledge, h.local, asked, h.now)
        assert kept == plain
        surviving = {m: msgspec.to_builtins(v) for m, v in view.items() if m not in plain.rejected}
        assert list(seen.surviving.items()) == sorted(surviving.items()), "recorded in the order of the ids"
        assert seen.not_loaded == tuple(sorted(m for m, v in view.items() if v.instances == 0))


def test_a_decision_stays_as_it_was_when_the_world_changes() -> None:
    h = History(1)
    asked = Question(task="general", prompt_tokens=1, max_tokens=1, requirements=Requirements())
    before, seen = h.order.decide(h.knowledge, h.local, asked, h.now)
    kept = msgspec.json.encode([before, seen.surviving])
    for name in NAMES:
        h.fold(ModelUnavailable(at_ms=0, model=name, reason="x", was="healthy", retry_at_ms=1))
    after, _ = h.order.decide(h.knowledge, h.local, asked, h.now)
    assert after.chain == () and msgspec.json.encode([before, seen.surviving]) == kept


def test_a_selector_follows_events_and_heartbeats_in_a_large_catalogue(stage: Any) -> None:
    """The kept order must be told of everything; whoever forgets a place where something changes fails here."""
    s = stage({name: {"quality": {"default": round(0.9 - n / 100, 2)}} for n, name in enumerate(NAMES)})

    def chain() -> list[str]:
        s.put(Select(messages=(Turn(role="user", content="Tell."),)))
        return [one.model for one in s.said(Selected)[-1].chain]

    assert chain() == NAMES[:8]
    s.happen(ModelUnavailable(at_ms=0, model="m0", reason="x", was="healthy", retry_at_ms=1))
    s.happen(ModelDegraded(at_ms=0, model="m1", reason="x", was="healthy"))
    assert chain() == NAMES[2:10]
    s.happen(ModelRecovered(at_ms=0, model="m0", was="unavailable", by="probe"))
    for _ in range(20):
        tried = (Attempt(model="m2", outcome="ok", first_token_ms=50_000.0),)
        facts = {"instance": "s2", "outcome": "finished", "task": "general", "as_of_seq": 1}
        s.happen(RequestEnded(at_ms=1, run_id="r", topology="", digest="", attempts=tried, **facts))
    assert chain()[:3] == ["m0", "m3", "m4"] and "m2" not in chain()
    s.hear(ProcessGone(actor="runner", instance="i-m0"))
    assert chain()[0] == "m3"
    s.ask(model="m3")
    s.hear(RunFailed(run_id="r1", attempt=0, reason="server_error"))
    assert "m3" not in chain(), "our own outcome counts at once"
