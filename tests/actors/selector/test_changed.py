"""What changes between a decision and an attempt: a model is tried, and paid for, as it is then, or not at all."""

from __future__ import annotations

from typing import Any

import pytest

from understudy.messages.catalogue_events import Listing, ModelPriced, ModelRegistered, Priced
from understudy.messages.cost import Reserve
from understudy.messages.events import RequestEnded
from understudy.messages.listing import ListedPrice
from understudy.messages.run import RunnerBeat
from understudy.messages.step import Send

FREE = ListedPrice(units={"prompt": "0", "completion": "0"})
PAID = ListedPrice(units={"prompt": "0.000001", "completion": "0.000002"})
HUB = {"kind": "openrouter", "url": "http://127.0.0.1:1/v1", "catalogue": {"admit": {"ids": ["*"], "slots": 5}}}
OLLAMA = {**HUB, "kind": "ollama"}


class Listed:
    """A selector whose second and third choice are a list's; the first has begun."""

    def __init__(self, stage: Any, hub: Any = HUB, price: ListedPrice = FREE, **ask: Any) -> None:
        providers = {"lab": {"kind": "openai", "url": "http://127.0.0.1:1/v1"}, "hub": hub}
        self.s = stage({"a": {}}, providers=providers, actors={"cost_ledger": {}})
        self.registered("l", "m")
        self.priced(price, "l", "m")
        self.beat()
        self.s.ask(**ask)
        assert self.s.call().model == "a" and self.s.state.runs["r1"].chain == ["l", "m"]

    def registered(self, *models: str, **fields: Any) -> None:
        about: Any = {"source": "list", "location": "local", "listed": True, "admitted": True, "context_tokens": 8_000}
        found = tuple(Listing(id=m, name=m, capabilities=("chat",), **{**about, **fields}) for m in models)
        self.s.happen(ModelRegistered(at_ms=0, provider="hub", models=found))

    def priced(self, price: ListedPrice | None, *models: str) -> None:
        prices = tuple(Priced(model=m, price=price) for m in models)
        self.s.happen(ModelPriced(at_ms=0, provider="hub", prices=prices))

    def beat(self) -> None:
        self.s.hear(RunnerBeat(instance="runner-hub", models={}, provider="hub", others_slots=5))

    def reserved(self) -> list[str]:
        return [e.message.model for e in self.s.effects if isinstance(e, Send) and isinstance(e.message, Reserve)]

    def fail(self) -> str:
        """The first model fails; who is asked next."""
        self.s.failed("server_error")
        return self.s.call().model


def test_what_stays_as_it_was_is_tried(stage: Any) -> None:
    t = Listed(stage)
    assert t.fail() == "l" and t.reserved() == []
    assert (t.s.call().name, t.s.call().context_tokens) == ("l", 8_000)


def test_a_model_that_may_be_selected_no_longer_is_passed_over(stage: Any) -> None:
    t = Listed(stage)
    t.registered("l", admitted=False)
    assert t.fail() == "m"


def test_a_model_that_has_a_price_now_is_reserved_for(stage: Any) -> None:
    t = Listed(stage)
    t.priced(PAID, "l")
    assert t.fail() == "a" and t.reserved() == ["l"], "nothing is run before the ledger has said yes"


@pytest.mark.parametrize("needs", [{"free": True}, {"max_usd_per_mtok": 0.5}])
def test_a_price_that_the_request_does_not_allow_is_not_paid(stage: Any, needs: Any) -> None:
    t = Listed(stage, requirements=needs)
    t.priced(PAID, "l")
    assert t.fail() == "m" and t.reserved() == []


def test_a_price_that_is_not_known_any_more_is_not_paid(stage: Any) -> None:
    t = Listed(stage)
    t.priced(None, "l")
    assert t.fail() == "m"


def test_a_model_that_computes_elsewhere_now_is_passed_over(stage: Any) -> None:
    t = Listed(stage, OLLAMA)
    t.registered("l", location="external")
    assert t.fail() == "m"
    t.s.text("Yes.")
    t.s.ended()
    (end,) = [store.event for store in t.s.stores("end.")]
    assert isinstance(end, RequestEnded) and end.outcome == "finished"


def test_every_order_says_how_the_provider_calls_the_model(stage: Any) -> None:
    """A runner of the topology before takes what its list could have; it must not send the topology's id."""
    s = stage({"a": {"name": "vendor/a-1", "context_tokens": 77}})
    s.ask()
    assert (s.call().name, s.call().context_tokens) == ("vendor/a-1", 77)
