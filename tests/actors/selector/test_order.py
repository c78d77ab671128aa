"""The kept order decides as the plain walk does: the same chain, scores, reasons and digest, after any history."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from understudy.actors.selector import order
from understudy.actors.selector.choose import Question, decide
from understudy.actors.selector.order import Order, local_of
from understudy.actors.selector.sight import LocalView
from understudy.actors.selector.views import Knowledge
from understudy.messages.benchmarks import ModelDrifted
from understudy.messages.catalogue import Select, Selected
from understudy.messages.catalogue_events import (
    Listing,
    ModelOnline,
    ModelPriced,
    ModelRegistered,
    ModelRetired,
    ModelReturned,
    Priced,
)
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
from understudy.messages.listing import ListedPrice
from understudy.messages.run import ModelLoad, ProcessGone, RunFailed, RunnerBeat
from understudy.messages.topology import Topology

PROVIDERS = {
    "p1": {"kind": "openai", "url": "http://127.0.0.1:1/v1", "catalogue": {"admit": {"ids": ["*"], "slots": 5}}},
    "p2": {"kind": "openai", "url": "http://127.0.0.1:2/v1"},
    "here": {"kind": "local"},
    "far": {"kind": "openai", "url": "https://far.example/v1"},
    "proxy": {"kind": "openai", "url": "http://127.0.0.1:3/v1", "location": "external"},
}
NAMES = [f"m{n}" for n in range(14)]
LISTED = [f"x{n}" for n in range(5)]


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
        match luck.randrange(17):
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
                self.local.gone(luck.choice(["A" + name, "B" + name, "C1", "C2"]))
            case 11 | 12:
                self.fold(self.listed())
            case 13:
                accepting, at_work = luck.random() < 0.8, luck.sample(LISTED, luck.randrange(3))
                load = {model: ModelLoad(slots=2, in_flight=luck.randrange(1, 3)) for model in at_work}
                instance, whole = luck.choice(["C1", "C2"]), {"provider": "p1", "others_slots": 2}
                self.local.beat(RunnerBeat(instance=instance, models=load, accepting=accepting, **whole), self.now)
            case 14:
                model = luck.choice(LISTED)
                luck.choice([self.local.asked, self.local.answered, self.local.trust])(model)
            case 15:
                figure, direction = luck.choice(["latency_ms", "score"]), luck.choice(["worse", "recovered"])
                facts = {"since_ms": 0, "until_ms": 1, "before": 1.0, "after": 2.0}
                self.fold(ModelDrifted(at_ms=0, model=name, figure=figure, direction=direction, **facts))
            case _:
                self.fold(self.applied()) if luck.random() < 0.2 else self.beat(name)

    def listed(self) -> Event:
        """The catalogue says something new about some models, of the topology or of a list."""
        luck = self.luck
        models = tuple(luck.sample([*LISTED, *NAMES[:3]], luck.randrange(1, 4)))
        about: dict[str, Any] = {"at_ms": 0, "provider": luck.choice(["p1", "p1", "p2"]), "models": models}
        price = luck.choice([None, ListedPrice(units={"prompt": "0", "completion": luck.choice(["0", "0.000002"])})])
        match luck.randrange(6):
            case 0 | 1 | 2:
                return ModelRegistered(**{**about, "models": tuple(self.listing(model) for model in models)})
            case 3:
                return ModelPriced(at_ms=0, provider="p1", prices=tuple(Priced(model=m, price=price) for m in models))
            case 4:
                return ModelRetired(**about, reason=luck.choice(["not_found", "removed"]))
            case _:
                return luck.choice([ModelReturned, ModelOnline])(**about)

    def listing(self, model: str) -> Listing:
        luck = self.luck
        return Listing(
            id=model,
            name=model,
            source="list",
            location=luck.choice(["local", "external"]),
            admitted=luck.random() < 0.7,
            context_tokens=luck.choice([1000, 4000, 8000]),
            capabilities=luck.choice([("chat",), ("chat", "json")]),
            licence_class=luck.choice(["permissive", "unknown"]),
        )

    def question(self) -> Question:
        luck = self.luck
        needs = Requirements(
            capabilities=luck.choice([(), ("json",), ("embeddings",)]),
            location=luck.choice([None, None, "local", "external"]),
            min_quality=luck.choice([None, 0.45]),
            max_latency_ms=luck.choice([None, 500]),
            max_usd_per_mtok=luck.choice([None, None, 1.5]),
            free=luck.random() < 0.2,
            licences=luck.choice([(), (), ("permissive",)]),
        )
        known = sorted(self.knowledge.models)
        return Question(
            task=luck.choice(["general", "fine"]),
            prompt_tokens=luck.choice([1, 7, 300, 999, 1000, 1500, 3999, 5000]),
            max_tokens=luck.choice([1, 100, 1500]),
            requirements=needs,
            model=luck.choice([None, None, None, luck.choice(known)]),
            balance=luck.choice([None, 0.0, 0.5, 1.0]),
            privacy=luck.choice(["local_only", "external_allowed"]),
            consented=luck.choice([(), ("far",), ("far", "proxy")]),
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
        view = {m: local_of(h.local, m, v.declared.provider, h.now) for m, v in h.knowledge.models.items()}
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
