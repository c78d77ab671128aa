"""Scenario 2, Account quota: the free models of one provider share a quota, and nobody knocks twice.

Given `:free` models A and B and a local `ollama/llama3.2:3b`; A answers 429 with the daily free limit used up. When a
classification with 500 ms left asks for a model, then no attempt is made on B or any `:free`; the local model is
chosen; one announcement says until when; a paid model is used only if the request allows cost.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.system.expected import tried
from understudy.tools.fake.script import Fault

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(30)]
A, B, LOCAL, PAID = "a@x:free", "b@x:free", "ollama/llama3.2:3b", "c@x"
DAY_MS = 86_400_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(fake: Any, kit: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    fake.faults |= {A: fake.faults["429-free-day"], B: Fault(), PAID: Fault(), "llama3.2:3b": Fault()}
    state = tmp_path_factory.mktemp("quotas")
    (state / "key").write_text(kit.KEY + "\n")
    key = {"key": {"file": "key"}}
    topology = kit.topology_of(
        fake.url,
        "key",
        providers={
            "openrouter": {"kind": "openrouter", "url": f"{fake.root}/api/v1", **key},
            "ollama": {"kind": "ollama", "url": fake.root, **key},
        },
        models={
            A: {"provider": "openrouter", "quality": {"default": 0.9}},
            B: {"provider": "openrouter", "quality": {"default": 0.8}},
            PAID: {"provider": "openrouter", "quality": {"default": 0.7}, "usd_per_mtok_out": 1.0},
            LOCAL: {"provider": "ollama", "name": "llama3.2:3b", "quality": {"default": 0.3}},
        },
        aliases={},
        tasks={"classification": {"latency": "quick", "max_tokens": 8}},
        policy={"weights": {"quality": 1, "speed": 0, "cost": 0, "fit": 0}},
    )
    running = await kit.System(fake, state, topology).start()
    try:
        yield running
    finally:
        await running.stop()


async def test_scenario_2_account_quota(talk: Any, system: Any, kit: Any, fake: Any) -> None:
    before_ms = time.time() * 1000
    no_cost = {"task": "classification", "deadline_ms": 500, "requirements": {"max_usd_per_mtok": 0}}
    end = await talk.whole("Which mood is this?", **no_cost)
    assert end["type"] == "model.finished.v1", end
    assert tried(end) == [(A, "rate_limited"), (LOCAL, "ok")]
    midnight_ms = (int(before_ms) // DAY_MS + 1) * DAY_MS

    async def announced() -> list[dict[str, Any]]:
        return [e for e in await system.events() if e["type"] == "provider.exhausted.v1"]

    await kit.until(lambda: any(x["event"] == "provider.exhausted" for x in system.log_lines()), 5)
    for n in range(12):  # whichever selector is asked
        assert tried(await talk.whole(f"And this {n}?", **no_cost)) == [(LOCAL, "ok")]
    (event,) = await announced()
    assert (event["provider"], event["quota"], event["until_ms"]) == ("openrouter", "free", midnight_ms)
    asked = [seen.model for seen in fake.log if seen.model.endswith(":free")]
    assert asked == [A], "one knock, and none at a sibling's"

    chosen = await talk.raw(
        json.dumps({"messages": [{"role": "user", "content": "x"}], "task": "classification"}).encode(),
        "tta.ask.model.select",
    )
    assert chosen["rejected"] == {"quota_exhausted": 2}
    paid = await talk.whole("Any price.", task="classification")
    assert tried(paid) == [(PAID, "ok")], "a paid model, where the request allows cost"
