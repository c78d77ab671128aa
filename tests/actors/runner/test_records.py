"""What an answer cost, looked up in the provider's own records: the id from the head, the record, what is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.actors.runner.rawserver import both_loops
from tests.actors.runner.test_http_edge import PARAMETERS
from tests.waiting import until
from understudy.actors.runner import core
from understudy.actors.runner.dialects import openrouter_record
from understudy.actors.runner.http_edge import HttpEdge
from understudy.messages.generate import Turn
from understudy.messages.money import Price
from understudy.messages.records import FetchRecord, Record, RecordFetched, RecordOrder
from understudy.messages.run import RunModel, RunStarted
from understudy.messages.step import Asked, Booted, CallBegun, CallModel, CallText, EdgeReady, Send
from understudy.messages.topology import Model, Provider
from understudy.tools.fake.script import Fault
from understudy.tools.fake.script import Price as FakePrice
from understudy.tools.fake.server import FakeProvider

PRICED = Fault(price=FakePrice(prompt="0.0000015", completion="0.0000025"))
HI = (Turn(role="user", content="Hi"),)


def record(**fields: Any) -> bytes:
    return json.dumps({"data": {"id": "gen-1", "total_cost": 0.05, **fields}}).encode()


@pytest.mark.parametrize(
    ("data", "usd"),
    [
        (record(), "0.05"),
        (record(total_cost="0.000000000001", is_byok=False, upstream_inference_cost=7), "0.000000000001"),
        (record(is_byok=True, upstream_inference_cost=1.1), "1.15"),
        (record(is_byok=True, upstream_inference_cost=None), None),
        (record(is_byok=True), None),
        (record(id="gen-2"), None),
        (record(total_cost=None), None),
        (record(total_cost=-1), None),
        (b"{}", None), (b"[", None), (b"\xff", None), (b'{"data":{"id":"gen-1"}}', None), (b'{"a":' * 2_000, None),
    ],
)  # fmt: skip
def test_what_a_record_says(data: bytes, usd: str | None) -> None:
    assert openrouter_record.cost_usd(data, "gen-1") == usd


@pytest.mark.parametrize(
    ("value", "named"),
    [(b"gen-17_x", "gen-17_x"), (b"", None), (b"gen 1", None), (b"a&b=c", None), (b"\xff", None), (b"x" * 101, None)],
)
def test_an_id_is_one_that_can_stand_in_an_address(value: bytes, named: str | None) -> None:
    assert openrouter_record.generation([(b"Date", b"x"), (b"X-Generation-Id", value)]) == named


# --- the step ------------------------------------------------------------------------------------------------------


def test_who_conducts_a_paid_call_hears_its_id_at_once() -> None:
    state, settings = core.State(), core.Settings(models={"m": 1})
    core.step(state, Booted(0.0, "runner", "i", "tta", "_INBOX_A.i", "id"), settings)
    core.step(state, EdgeReady(0.0, {}), settings)
    run = RunModel(run_id="r", attempt=2, model="m", messages=HI, parameters=PARAMETERS, remaining_ms=1e4)
    core.step(state, Asked(0.0, "id", "ask", "reply", run), settings)
    out = core.step(state, CallBegun(1.0, "r.2", "gen-1"), settings)
    assert out == [Send("reply", RunStarted(run_id="r", attempt=2, instance="i", generation="gen-1"))]
    assert core.step(state, CallBegun(1.0, "other.0", "gen-1"), settings) == []


def test_an_order_for_a_record_is_answered_once() -> None:
    state, settings = core.State(), core.Settings()
    order = RecordOrder(record_id="r.0", generation="gen-1")
    assert core.step(state, Asked(0.0, "id", "ask", "", order), settings) == []
    assert core.step(state, Asked(0.0, "id", "ask", "to", order), settings) == [FetchRecord("r.0", "gen-1")]
    assert core.step(state, Asked(0.0, "id", "ask", "to", order), settings) == []
    found = RecordFetched(1.0, "r.0", "0.5")
    assert core.step(state, found, settings) == [Send("to", Record(record_id="r.0", cost_usd="0.5"))]
    assert core.step(state, found, settings) == [] and not state.records


# --- the edge ------------------------------------------------------------------------------------------------------


class Edge:
    """An edge with nothing but what it fed."""

    def __init__(self, url: str, key: str | None = None, kind: Any = "openrouter") -> None:
        self.edge = HttpEdge(Provider(kind=kind, url=url), {"ok": Model(provider="p")}, key, lambda: 0.0)
        self.fed: list[Any] = []

    async def __aenter__(self) -> Edge:
        await self.edge.start(self.fed.append)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.edge.stop()

    async def ask(self, price: Price | None) -> list[Any]:
        run = RunModel(
            run_id="r", attempt=0, model="ok", messages=HI, parameters=PARAMETERS, remaining_ms=1e4, price=price
        )
        self.edge.perform(CallModel("c", run))
        await until(lambda: not self.edge.calls)
        return [one for one in self.fed if not isinstance(one, CallText)]

    async def look(self, generation: str) -> tuple[str | None, str | None]:
        self.fed.clear()
        self.edge.perform(FetchRecord("id", generation))
        assert self.fed == [], "a step is being performed"
        await until(lambda: bool(self.fed))
        (found,) = self.fed
        return found.cost_usd, found.fault


@both_loops
async def test_a_paid_answer_is_found_in_the_fake_s_records_and_costs_what_it_bills() -> None:
    async with FakeProvider({"ok": PRICED}, require_key="k") as fake, Edge(f"{fake.root}/api/v1", "k") as edge:
        begun, *_ = await edge.ask(Price(completion_pusd=1))
        assert isinstance(begun, CallBegun) and begun.generation.startswith("gen-fake")
        billed = fake.bill.public(fake.log)["total_usd"]
        assert await edge.look(begun.generation) == (billed, None)
        assert await edge.look("gen-other") == (None, "not_yet")
        fake.accepted = {"new": "k2"}
        assert await edge.look(begun.generation) == (None, "status")


@both_loops
async def test_what_costs_nothing_has_no_record_that_anybody_wants() -> None:
    async with FakeProvider({"ok": PRICED}) as fake, Edge(f"{fake.root}/api/v1") as edge:
        assert not [one for one in await edge.ask(None) if isinstance(one, CallBegun)]
    async with FakeProvider({"ok": PRICED}) as fake, Edge(fake.url, kind="openai") as edge:
        assert not [one for one in await edge.ask(Price(completion_pusd=1)) if isinstance(one, CallBegun)]
        assert await edge.look("gen-1") == (None, "unsupported")


@both_loops
async def test_what_is_no_record_and_who_is_not_there() -> None:
    async with FakeProvider() as fake, Edge(f"{fake.root}/api/v1") as edge:
        fake.bill.records["gen-1"] = {"id": "gen-1"}
        assert await edge.look("gen-1") == (None, "malformed")
    async with Edge(f"{fake.root}/api/v1") as edge:
        assert await edge.look("gen-1") == (None, "unreachable")
