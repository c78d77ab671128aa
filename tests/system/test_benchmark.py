"""Comparisons, trends and drift over real processes: what the log has, who may ask, and who hears of a drift."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from understudy.bus.client import AnswerFailed, Client
from understudy.bus.port import Outgoing
from understudy.messages.benchmarks import ModelDrifted
from understudy.messages.comparison import CompareModels, Comparison
from understudy.messages.events import FeedbackGiven
from understudy.messages.wire import encode

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]
ASKS = 40


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def used(system: Any) -> AsyncIterator[Any]:
    """40 asks of a model that works, some of one that does not, which the next one ends; and judgements."""
    async with await Client.connect(system.url) as client, await system.operator() as operator:
        for n in range(ASKS):
            for model in ("ok@best", "500@1"):
                await client.generate("Look around.", model=model, max_tokens=20)
            given = FeedbackGiven(
                at_ms=int(time.time() * 1000), run_id="r", rating=0.75, model="ok@best", task="general"
            )
            await operator.bus.store([Outgoing("tta.evt.feedback.given", encode(given), f"f{n}")], timeout_s=5)
    yield system


async def compared(system: Any, *words: str) -> dict[str, Any]:
    code, out, err = await system.cli("benchmark", "compare", "--json", *words)
    assert code == 0, err
    return json.loads(out)


async def test_a_comparison_shows_what_callers_met(used: Any) -> None:
    async with asyncio.timeout(8):
        while True:
            found = {one["model"]: one for one in (await compared(used))["models"]}
            if found.get("ok@best", {}).get("score", {}).get("n") == ASKS:
                break
            await asyncio.sleep(0.05)
    good, bad = found["ok@best"], found["500@1"]
    assert (good["error_ratio"]["value"], bad["error_ratio"]["value"]) == (0.0, 1.0)
    assert bad["errors"]["server"] == bad["attempts"] and good["score"]["value"] == 0.75
    assert good["verdicts"]["max_error_ratio"] == "undecided"  # none of 40 may still be one of 20
    assert "low" not in good["latency_ms"]  # an hour or two do not tell how much hours vary
    pairs = {(p["better"], p["worse"]): p for p in (await compared(used))["pairs"] if p["figure"] == "error_ratio"}
    assert (
        f"too few to compare ({bad['attempts']} calls of 500@1)" in pairs["ok@best", "500@1"]["words"]
    )  # its breaker is open


async def test_tables_and_a_page_for_people(used: Any, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    code, out, err = await used.cli("benchmark", "compare", "--models", "ok@best,ok@next", "--html", str(page))
    assert code == 0 and "ok@best and ok@next: no significant difference" in out, err
    assert "Models compared" in page.read_text()
    code, out, err = await used.cli("benchmark", "trends", "ok@best", "--window", "2h", "--html", str(page))
    assert code == 0 and f"ok@best: {ASKS} calls in " in out, err
    assert "Models over time" in page.read_text()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("compare", "--models", "nobody"), 1, "unknown_model: No model 'nobody'"),
        (("trends", "ok@best", "--task", "nothing"), 1, "unknown_task: No task 'nothing'"),
        (("compare", "--window", "soon"), 2, "--window soon: write a number"),
        (("compare", "--window", "5m"), 1, "invalid"),
    ],
)
async def test_what_is_wrong_is_said(used: Any, words: tuple[str, ...], code: int, said: str) -> None:
    found, _, err = await used.cli("benchmark", *words)
    assert found == code and said in err


async def test_a_component_may_not_ask(used: Any) -> None:
    """The family will order runs, which cost; its figures are the operator's to hand on."""
    async with await Client.connect(used.url) as guest:
        with pytest.raises(AnswerFailed) as failure:
            await guest.ask("benchmark.compare", CompareModels(), Comparison, timeout_s=1)
        assert failure.value.failed.code == "bus_down"


async def test_a_drift_is_heard_by_components_and_leans_the_selectors(used: Any) -> None:
    drifted = ModelDrifted(
        at_ms=1, model="ok@best", figure="latency_ms", direction="worse", since_ms=0, until_ms=1, before=1.0, after=2.0
    )
    async with await used.operator() as operator, await Client.connect(used.url) as guest:
        before = (await guest.describe("ok@best")).card
        changes = guest.changes()
        await anext(changes)  # how all are
        await operator.bus.store([Outgoing("tta.evt.model.drifted.ok_best", encode(drifted), "d1")], timeout_s=5)
        heard = await asyncio.wait_for(anext(changes), 5)
        assert isinstance(heard.event, ModelDrifted)
        async with asyncio.timeout(5):
            while not (card := (await guest.describe("ok@best")).card).drifted:
                await asyncio.sleep(0.02)
        assert (before.drifted, card.drifted) == ((), ("latency_ms",))
        await changes.aclose()
    _, out, _ = await used.cli("models")
    assert "DRIFTED: ok@best: latency_ms worse than" in out


async def test_decisions_before_and_after_a_drift_replay(used: Any) -> None:
    async with await Client.connect(used.url) as client:
        await client.generate("Look around.", task="ranked", max_tokens=20)
    code, out, err = await used.cli("replay", "--json")
    assert code == 0, out + err
