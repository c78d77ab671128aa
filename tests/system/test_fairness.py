"""Limits and lanes hold over all selectors, urgent work first (scenario 3 is in test_scenarios.py)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import nats
import pytest
import pytest_asyncio

from understudy.tools.fake.script import Fault
from understudy.tools.fake.server import FakeProvider

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

LIMIT, SOFT, LOW = 10, 8, 2


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def p(kit: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    """Provider P admits 10 calls at once, of which low-priority work may fill 8, two at once."""
    state = tmp_path_factory.mktemp("fair")
    (state / "key").write_text(kit.KEY)
    faults = {"work": Fault(first_token_delay_ms=120, chunks=2), "late": Fault(slow_ms=2_000, fail_every=30)}
    async with FakeProvider(faults, require_key=kit.KEY) as fake:
        limits = {"concurrent": LIMIT, "buffer_ratio": 0.0}
        provider = {"kind": "openai", "url": fake.url, "key": {"file": "key"}, "limits": limits}
        lanes = {"low": {"share": SOFT / LIMIT, "at_once": LOW}}
        topology = kit.topology_of(
            fake.url,
            "key",
            providers={"p": {**provider, "lanes": lanes}, "q": {**provider, "limits": {}}},
            models={
                "work@npc": {"provider": "p", "slots": 64},
                "work@player": {"provider": "p", "slots": 64},
                "late@a": {"provider": "q", "fallbacks": ["ok@b"]},
                "ok@b": {"provider": "q"},
            },
            policy={"hedge_ratio": 0.5},
            aliases={},
            tasks={"general": {"latency": "patient"}},
        )
        system = await kit.System(fake, state, topology).start()
        try:
            yield system
        finally:
            await system.stop()


async def ask(nc: Any, kit: Any, priority: str, model: str, n: int = 0) -> dict[str, Any]:
    fields = kit.ask_for(f"{priority} {n}", priority=priority, model=model, user_id=f"{priority}{n}")
    return json.loads((await nc.request("tta.ask.model.generate", json.dumps(fields).encode(), timeout=30)).data)


def calls(p: Any) -> list[Any]:
    return [seen for seen in p.fake.log if seen.request is not None]


def of(seen: Any) -> str:
    return seen.request.messages[-1].text().split()[0]


def running_at(p: Any, ms: float, word: str = "") -> int:
    return sum(
        s.started_ms <= ms and (s.ended_ms is None or s.ended_ms > ms) and of(s).startswith(word) for s in calls(p)
    )


async def test_no_low_call_starts_while_the_provider_is_above_its_soft_limit(p: Any, kit: Any) -> None:
    nc = await nats.connect(p.url)
    before = len(calls(p))
    high = [asyncio.create_task(ask(nc, kit, "high", "work@player", n)) for n in range(30)]
    await kit.until(lambda: len(calls(p)) >= before + LIMIT)
    low = [asyncio.create_task(ask(nc, kit, "low", "work@npc", n)) for n in range(4)]
    await asyncio.gather(*high, *low)
    seen = calls(p)[before:]
    assert len(seen) == 34 and max(running_at(p, s.started_ms) for s in seen) == LIMIT
    found = [running_at(p, s.started_ms) for s in seen if of(s) == "low"]
    assert len(found) == 4 and max(found) <= SOFT
    await nc.close()


async def test_every_queue_full_is_overloaded_at_once(p: Any, kit: Any) -> None:
    """Of 256 who may wait, best effort may be half: the others hear at once when to come again."""
    nc = await nats.connect(p.url)
    asked = [asyncio.create_task(ask(nc, kit, "best_effort", "work@npc", n)) for n in range(150)]
    await kit.until(lambda: sum(t.done() and t.result()["type"] == "model.failed.v1" for t in asked) >= 10)
    refused = [t.result() for t in asked if t.done() and t.result()["type"] == "model.failed.v1"]
    assert {r["code"] for r in refused} == {"overloaded"} and all(r["retry_after_ms"] >= 250 for r in refused)
    assert len(refused) <= 150 - 128
    code, out, err = await p.cli("status", "--json")
    load = json.loads(out)["providers"]["p"]
    assert code == 0 and load["waiting"] > 0 and 0 < load["running"] <= LIMIT, err
    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    await nc.close()
    await kit.until(lambda: running_at(p, time.time() * 1000) == 0, 20)
    assert len([s for s in calls(p) if of(s) == "best_effort"]) < 120, "whoever left is not called for"


async def test_where_the_first_model_is_late_the_second_answers_and_the_first_is_cancelled(p: Any, kit: Any) -> None:
    nc = await nats.connect(p.url)
    talk = {"model": "late@a", "hedge": True}

    async def once(n: int) -> dict[str, Any]:
        fields = kit.ask_for(f"hedge {n}", **talk)
        return json.loads((await nc.request("tta.ask.model.generate", json.dumps(fields).encode(), timeout=20)).data)

    for n in range(30):  # the first of them is late, and nothing is known yet
        assert (await once(n))["attempts"][-1]["outcome"] == "ok"  # a slow machine may hedge one of the later ones
    await asyncio.sleep(0.5)  # outcomes are folded ten times a second
    answer = await once(30)
    assert [(a["model"], a["outcome"]) for a in answer["attempts"]] == [("late@a", "hedged"), ("ok@b", "ok")]
    assert answer["model"] == "ok@b" and answer["total_ms"] < 1_500 and answer["usage"]["estimated"]
    left = next(s for s in reversed(calls(p)) if s.model == "late@a")
    await kit.until(lambda: left.ended == "client_closed")
    recorded = await p.outcomes(answer["run_id"])
    assert [[a["outcome"] for a in one["attempts"]] for one in recorded] == [["hedged", "ok"]]
    assert not [e for e in await p.events() if e["type"] == "attempt.ended.v1" and e["run_id"] == answer["run_id"]]
    await nc.close()


async def test_a_conversation_that_is_erased_while_it_waits_is_answered_and_nothing_of_it_stays(
    p: Any, kit: Any
) -> None:
    """A session must not break off by an order to erase; the answer then names a data key that is gone."""
    nc, prompt = await nats.connect(p.url), "Wait here, canary-waits-12."
    fields = {"model": "work@player", "conversation_id": "waits-12", "user_id": "w", "temperature": 0.0, "cache": True}
    before = len(calls(p))
    crowd = [asyncio.create_task(ask(nc, kit, "high", "work@player", n)) for n in range(2 * LIMIT)]
    await kit.until(lambda: len(calls(p)) >= before + LIMIT)
    async with await p.operator() as operator, kit.Stream(nc, kit.ask_for(prompt, **fields)) as reading:
        while not reading.of("waiting"):
            await reading.next()
        order = json.dumps({"conversation_id": "waits-12"}).encode()
        done = json.loads((await operator.bus.request("tta.ask.conversation.erase", order, timeout_s=5)).payload)
        assert done["keys"] == 1 and p.upstream(prompt) == [], "it waits still"
        end = await reading.end()
        assert (end["type"], end["text"]) == ("model.finished.v1", kit.script(prompt, 2)) and len(
            p.upstream(prompt)
        ) == 1
        await asyncio.gather(*crowd)
        again = await nc.request(
            "tta.ask.model.generate", json.dumps(kit.ask_for(prompt, **fields)).encode(), timeout=9
        )
        assert not json.loads(again.data).get("cached") and len(p.upstream(prompt)) == 2
    files = {path: path.read_bytes() for path in p.state.rglob("*") if path.is_file()}
    assert any(end["run_id"].encode() in data for data in files.values()), "the search itself works"
    assert [str(path) for path, data in files.items() if b"waits-12" in data] == []
    await nc.close()
