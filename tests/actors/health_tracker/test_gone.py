"""A model that its provider does not have is a matter of its list: no breaker, no probes, until it is listed again."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tests.actors.health_tracker.tracked import Tracker
from understudy.messages.catalogue_events import (
    Listing,
    ModelOffline,
    ModelOnline,
    ModelPriced,
    ModelRegistered,
    ModelRetired,
    ModelReturned,
    Priced,
)
from understudy.messages.events import TopologyApplied
from understudy.messages.listing import ListedPrice
from understudy.messages.run import RunnerBeat
from understudy.messages.topology import Topology

MINUTE = 240  # sweeps


class Listed(Tracker):
    """A tracker of one free model, `a`, which a list names; the topology may name it too."""

    def __init__(self, catalogue: bool = True, named: bool = False) -> None:
        super().__init__(live=False)
        plan: Any = {"catalogue": {"admit": {"ids": ["*"]}}} if catalogue else {}
        hub = {"kind": "openrouter", "url": "http://127.0.0.1:1", **plan}
        models = {"a": {"provider": "hub", "name": "a"}} if named else {}
        topology = {"version": 1, "models": models, "providers": {"hub": hub}}
        self.happen(TopologyApplied(at_ms=0, hash="h", body=msgspec.convert(topology, Topology)))
        if catalogue:
            listing: Any = {"id": "a", "name": "a", "location": "local", "listed": True, "context_tokens": 8_000}
            source: Any = {"source": "topology"} if named else {"source": "list", "admitted": True}
            one = Listing(capabilities=("chat",), **listing, **source)
            self.happen(ModelRegistered(at_ms=0, provider="hub", models=(one,)))
            free = ListedPrice(units={"prompt": "0", "completion": "0"})
            self.happen(ModelPriced(at_ms=0, provider="hub", prices=(Priced(model="a", price=free),)))
        self.live()

    def beat(self, *models: str) -> None:
        self.hear(RunnerBeat(instance="runner-hub", models={}, provider="hub", others_slots=8))
        if self.state.is_named("a"):
            super().beat("a")

    def minutes(self, n: int) -> int:
        """How many questions went out in that time."""
        before = len(self.asked())
        for _ in range(n * MINUTE):
            self.sweep()
        return len(self.asked()) - before


@pytest.mark.parametrize("named", [False, True])
def test_a_404_is_no_failure_where_a_list_is_read(named: bool) -> None:
    t = Listed(named=named)
    t.bad("model_not_found", 10)
    assert t.status() == "healthy" and t.said() == []
    t = Listed(catalogue=False, named=True)
    t.bad("model_not_found", 3)
    assert t.status() == "unavailable", "nothing else would ever tell"


@pytest.mark.parametrize("named", [False, True])
def test_a_retired_model_is_not_asked_until_it_is_back(named: bool) -> None:
    t = Listed(named=named)
    t.bad("server_error", 3)
    assert t.minutes(1) >= 1, "a model that rests is asked"
    t.happen(ModelRetired(at_ms=0, provider="hub", models=("a",), reason="not_found"))
    t.minutes(1)  # what was under way
    assert t.minutes(5) == 0
    t.happen(ModelReturned(at_ms=0, provider="hub", models=("a",)))
    assert t.status() == "healthy"


def test_nor_is_one_whose_server_is_away() -> None:
    t = Listed()
    t.bad("refused_connection", 3)
    t.happen(ModelOffline(at_ms=0, provider="hub", models=("a",), reason="unreachable"))
    assert t.minutes(5) == 0
    t.happen(ModelOnline(at_ms=0, provider="hub", models=("a",)))
    assert t.minutes(1) >= 1
