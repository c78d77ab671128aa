"""Budgets, prices and bills over real processes: the ledger against the fake provider's own bill."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
import pytest_asyncio

from tests.system.expected import tried
from understudy.tools.fake.script import Fault, Price

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(30)]
TOKENS = 20
PRICE = Price(prompt="0.0000000375", completion="0.0000025", request="0.001")
PRICED = {"usd_per_mtok_in": 0.0375, "usd_per_mtok_out": 2.5, "usd_per_request": 0.001}
BUDGETS = {
    "poor": {"scope": "model", "window": "day", "limit_usd": "0.000001", "match": ["ok@poor", "ok@poor-too"]},
    "each-user": {"scope": "user", "window": "day", "limit_usd": "0.05"},
    "some-models": {"scope": "model", "window": "day", "limit_usd": "1"},
    "house": {"scope": "all", "window": "day", "limit_usd": "10"},
}


def faults() -> dict[str, Fault]:
    return {
        "ok": Fault(price=PRICE),
        "cut": Fault(price=PRICE, cut_after=5, gap_ms=4),
        "no-usage": Fault(price=PRICE, no_usage=True),
        "500": Fault(price=PRICE, status=500),
        "crawl": Fault(price=PRICE, gap_ms=20, chunks=2_000),
        "gratis": Fault(),
    }


def models() -> dict[str, dict[str, Any]]:
    paid = {"provider": "paid", "continues": "native", "quality": {"default": 0.9}, **PRICED}
    free = {"provider": "free", "continues": "native", "quality": {"default": 0.1}}
    return {
        "ok@1": dict(paid),
        "ok@openai": {**paid, "provider": "plain"},
        "cut@1": {**paid, "provider": "plain", "fallbacks": ["ok@1"]},
        "cut@router": dict(paid),
        "no-usage@1": {**paid, "provider": "plain"},
        "500@1": {**paid, "provider": "plain", "fallbacks": ["gratis"]},
        "crawl@1": {**paid, "provider": "plain"},
        "ok@poor": {**paid, "fallbacks": ["gratis"]},
        "ok@poor-too": dict(paid),
        "ok@unknown": {**paid, "price_known": False},
        "gratis": dict(free),
    }


def topology(kit: Any, fake: Any, **more: Any) -> dict[str, Any]:
    key = {"key": {"file": "key"}}
    found = kit.topology_of(
        fake.url,
        "key",
        providers={
            "paid": {"kind": "openrouter", "url": f"{fake.root}/api/v1", **key},
            "plain": {"kind": "openai", "url": fake.url, **key},
            "free": {"kind": "openai", "url": fake.url, **key},
        },
        models=models(),
        aliases={},
        tasks={"general": {"latency": "quick", "max_tokens": TOKENS}},
        budgets=BUDGETS,
        **more,
    )
    found["actors"]["cost_ledger"]["settings"] = {"reconcile_ms": 300}
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(fake: Any, kit: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    fake.faults |= faults()
    state = tmp_path_factory.mktemp("budgets")
    (state / "key").write_text(kit.KEY + "\n")
    running = await kit.System(fake, state, topology(kit, fake)).start()
    try:
        yield running
    finally:
        await running.stop()


def bill(fake: Any, model: str) -> Decimal:
    return Decimal(fake.bill.public(fake.log)["models"].get(model, {"usd": "0"})["usd"])


async def budgets(system: Any) -> dict[tuple[str, str], dict[str, Any]]:
    code, out, err = await system.cli("budget", "--json")
    assert code == 0, err
    return {(b["budget"], b.get("key", "")): b for b in json.loads(out)["budgets"]}


async def booked(system: Any, kit: Any, model: str, usd: Decimal) -> None:
    """The ledger has heard of it: nothing is reserved any longer, and this much was spent with the model."""

    async def is_so() -> bool:
        found = (await budgets(system)).get(("some-models", model), {})
        return Decimal(found.get("spent_usd", "0")) == usd and found.get("reserved_usd", "0") == "0"

    async with asyncio.timeout(8):
        while not await is_so():
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(("model", "by"), [("ok@1", "provider"), ("ok@openai", "usage")])
async def test_an_answer_costs_what_the_vendor_bills(
    talk: Any, system: Any, kit: Any, fake: Any, model: str, by: str
) -> None:
    before = bill(fake, model)
    end = await talk.whole("How much?", model=model)
    assert end["type"] == "model.finished.v1"
    billed = bill(fake, model) - before
    assert billed == Decimal("0.001") + TOKENS * Decimal("0.0000025") + 2 * Decimal("0.0000000375")
    assert Decimal(end["cost_usd"]) == billed and not end.get("cost_estimated", False)
    (outcome,) = await system.outcomes(end["run_id"])
    assert (outcome["cost_usd"], outcome["charges"][0]["by"]) == (end["cost_usd"], by)
    await booked(system, kit, model, bill(fake, model))


async def test_unpriced_models_never_ask(talk: Any, system: Any) -> None:
    end = await talk.whole("Gratis.", model="gratis")
    assert end["type"] == "model.finished.v1" and "cost_usd" not in end
    events = [e for e in await system.events() if e.get("run_id") == end["run_id"]]
    assert [e["type"] for e in events] == ["request.ended.v1"] and "charges" not in events[0]


async def test_a_stream_that_broke_is_booked_whole_and_the_next_reserves_again(
    talk: Any, system: Any, kit: Any, fake: Any
) -> None:
    end = await talk.whole("Cut.", model="cut@1")
    assert tried(end) == [("cut@1", "broken_stream"), ("ok@1", "ok")] and end["cost_estimated"]
    (outcome,) = await system.outcomes(end["run_id"])
    assert [(c["model"], c["by"]) for c in outcome["charges"]] == [("cut@1", "estimated"), ("ok@1", "provider")]
    assert bill(fake, "cut@1") < Decimal(outcome["charges"][0]["cost_usd"])
    reserved = [e for e in await system.events() if e["type"] == "cost.reserved.v1" and e["run_id"] == end["run_id"]]
    assert [(e.get("attempt", 0), e["model"]) for e in reserved] == [(0, "cut@1"), (1, "ok@1")]
    await booked(system, kit, "cut@1", Decimal(outcome["charges"][0]["cost_usd"]))


async def test_a_cut_stream_is_booked_in_the_end_as_the_provider_s_own_record_says(
    talk: Any, system: Any, kit: Any, fake: Any
) -> None:
    end = await talk.whole("Cut it.", model="cut@router")
    assert tried(end) == [("cut@router", "broken_stream")]
    (outcome,) = await system.outcomes(end["run_id"])
    (charge,) = outcome["charges"]
    billed = bill(fake, "cut@router")
    assert charge["by"] == "estimated" and charge["generation"].startswith("gen-fake")
    assert Decimal(charge["cost_usd"]) > billed >= Decimal("0.001") + 5 * Decimal("0.0000025")
    await booked(system, kit, "cut@router", billed)
    (event,) = [e for e in await system.events() if e["type"] == "cost.reconciled.v1"]
    assert (event["run_id"], event["was_usd"]) == (end["run_id"], charge["cost_usd"])


async def test_absent_usage_is_never_nothing(talk: Any, system: Any, fake: Any) -> None:
    end = await talk.whole("Usage?", model="no-usage@1")
    assert end["cost_estimated"] and Decimal(end["cost_usd"]) >= bill(fake, "no-usage@1") > 0


async def test_an_error_status_is_not_billed(talk: Any, system: Any, kit: Any) -> None:
    end = await talk.whole("Broken.", model="500@1")
    assert tried(end) == [("500@1", "server_error"), ("gratis", "ok")]
    assert "cost_usd" not in end and "cost_estimated" not in end
    await booked(system, kit, "500@1", Decimal(0))


async def test_a_full_budget_passes_on_to_the_next_model(talk: Any, system: Any) -> None:
    end = await talk.whole("Poor.", model="ok@poor")
    assert tried(end) == [("gratis", "ok")] and not system.upstream("Poor.")[0].model.startswith("ok@poor")


async def test_where_only_the_budget_stands_in_the_way_it_says_so(talk: Any, system: Any) -> None:
    end = await talk.whole("Poor too.", model="ok@poor-too")
    assert (end["type"], end["code"]) == ("model.failed.v1", "budget_exhausted")
    assert end["rejected"] == {"budget_exhausted": 1} and not system.upstream("Poor too.")
    assert "'poor'" in end["text"] and "0.000001 USD" in end["text"] and 0 < end["retry_after_ms"] <= 86_400_000
    (outcome,) = await system.outcomes(end["run_id"])
    assert outcome["outcome"] == "budget_exhausted"


async def test_every_user_has_a_budget_of_their_own(talk: Any, kit: Any, system: Any) -> None:
    async def until_refused(user: str) -> int:
        for n in range(60):
            end = await talk.whole("More.", model="ok@1", user_id=user)
            if end["type"] == "model.failed.v1":
                assert end["code"] == "budget_exhausted" and "'each-user'" in end["text"] and user not in end["text"]
                return n
        raise AssertionError("never refused")

    first = await until_refused("canary-anna")
    assert 40 < first < 50
    end = await talk.whole("Other.", model="ok@1", user_id="canary-ben")
    assert end["type"] == "model.finished.v1"
    warned = [e for e in await system.events() if e["type"] == "budget.warned.v1"]
    assert [(w["percent"], w["state"]["budget"]) for w in warned if w["state"]["budget"] == "each-user"] == [
        (80, "each-user"), (100, "each-user")
    ]  # fmt: skip
    assert "canary-anna" not in json.dumps(await system.events())


async def test_an_unknown_price_is_refused(talk: Any) -> None:
    end = await talk.whole("Router.", model="ok@unknown")
    assert (end["code"], end["rejected"]["unknown_price"]) == ("no_allowed_model", 1)


async def test_an_estimate_says_what_each_candidate_could_cost(talk: Any) -> None:
    ask = json.dumps({"messages": [{"role": "user", "content": "Ponder."}], "model": "ok@poor"}).encode()
    end = await talk.raw(ask, "tta.ask.model.estimate")
    assert end["type"] == "model.estimated.v1" and end["ledger"] == "asked"
    poor, gratis = end["candidates"]
    assert (poor["model"], gratis["model"], gratis["most_usd"]) == ("ok@poor", "gratis", "0")
    assert Decimal("0.00105") < Decimal(poor["most_usd"]) < Decimal("0.0011")
    binds = {b["budget"]: b.get("fits", True) for b in poor["budgets"]}
    del binds["each-user"]  # that of nobody in particular, which the tests before may have used up
    assert binds == {"poor": False, "some-models": True, "house": True}


async def test_a_runner_that_was_killed_is_booked_whole(talk: Any, system: Any, kit: Any, fake: Any) -> None:
    async with talk.stream("Crawl.", model="crawl@1", max_tokens=60) as reading:
        await reading.until_delta(3)
        before = await system.kill("runner-plain")
        end = await reading.end()  # the model is asked once more when its runner is back, and reserves once more
    assert end["cost_estimated"]
    (outcome,) = await system.outcomes(end["run_id"])
    lost = outcome["charges"][0]
    assert (lost["model"], lost["by"]) == ("crawl@1", "estimated")
    assert Decimal(lost["cost_usd"]) >= Decimal("0.001") + 60 * Decimal("0.0000025")
    assert bill(fake, "crawl@1") <= Decimal(outcome["cost_usd"])
    await booked(system, kit, "crawl@1", Decimal(outcome["cost_usd"]))
    await system.back("runner-plain", before)


async def test_a_ledger_that_was_killed_knows_what_it_had_granted(talk: Any, system: Any, kit: Any) -> None:
    async with talk.stream("Go on.", model="crawl@1", max_tokens=1_500) as reading:
        await reading.until_delta(2)
        before = await system.kill("cost_ledger-1")
        paid = await talk.whole("While it is away.", model="ok@1")  # waits for it
        assert paid["type"] == "model.finished.v1"
        await system.back("cost_ledger-1", before)
        found = (await budgets(system))[("some-models", "crawl@1")]
        assert Decimal(found["reserved_usd"]) > 0
        await reading.leave()

    async def nothing_is_reserved() -> bool:
        return (await budgets(system))[("house", "")].get("reserved_usd", "0") == "0"

    async with asyncio.timeout(8):
        while not await nothing_is_reserved():
            await asyncio.sleep(0.05)


async def test_without_a_ledger_priced_models_are_refused_and_free_ones_go_on(talk: Any, system: Any, kit: Any) -> None:
    process = system.process("cost_ledger-1")
    os.kill(process.pid, signal.SIGSTOP)
    try:
        end = await talk.whole("Closed.", model="ok@1", deadline_ms=2_000)
        assert (end["type"], end["code"], end["rejected"]) == ("model.failed.v1", "ledger_down", {"ledger_down": 1})
        assert not system.upstream("Closed.")
        assert (await talk.whole("Open.", model="gratis"))["type"] == "model.finished.v1"
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert (await talk.whole("Again.", model="ok@1"))["type"] == "model.finished.v1"
