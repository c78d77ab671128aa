"""A real Ollama is discovered, asked, and missed when it stops: TTA's acceptance scenario 8, without the pull."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.real_ollama import serving
from understudy.messages.catalogue import ListModels, ModelCard

pytest.importorskip("gguf", reason="the tiny model is written with the package gguf")
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
MODEL = "tiny:latest"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(shared_bin: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    with serving(shared_bin, tmp_path_factory.mktemp("ollama")) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(server: Any, fake: Any, kit: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    state = tmp_path_factory.mktemp("discovery")
    (state / "key").write_text(kit.KEY + "\n")
    home = {"kind": "ollama", "url": server[0], "catalogue": {"refresh_s": 1, "admit": {"ids": ["*"]}}}
    spare = {"kind": "openai", "url": fake.url, "key": {"file": "key"}}
    topology = kit.topology_of(
        fake.url,
        "key",
        providers={"home": home, "spare": spare},
        models={"ok@next": {"provider": "spare", "quality": {"default": 0.1}}},
        aliases={},
        tasks={"general": {"latency": "patient", "max_tokens": 12}},
    )
    running = await kit.System(fake, state, topology).start()
    try:
        yield running
    finally:
        await running.stop()


async def card(system: Any, good: Any) -> ModelCard:
    """The discovered model, once it is as it should be."""
    async with await system.operator() as client:
        found: list[ModelCard] = []
        for _ in range(300):
            found = [one for one in (await client.models(ListModels(provider="home"))).models if one.id == MODEL]
            if found and good(found[0]):
                return found[0]
            await asyncio.sleep(0.05)
    raise AssertionError(found)


async def test_it_is_found_asked_and_missed(system: Any, server: Any, talk: Any) -> None:
    one = await card(system, lambda c: c.candidate and c.loaded)
    assert (one.location, one.free, one.capabilities) == ("local", True, ("chat",))
    assert one.context_tokens == 2_048, "as the file says, by `show`"
    end = await talk.whole("Hello.", requirements={"location": "local"})
    assert (end["type"], end["model"]) == ("model.finished.v1", MODEL)
    about = await talk.raw(json.dumps({"model": MODEL}).encode(), "tta.ask.model.describe")
    for _ in range(100):
        if "resident" in about:
            break
        await asyncio.sleep(0.05)
        about = await talk.raw(json.dumps({"model": MODEL}).encode(), "tta.ask.model.describe")
    assert about["resident"]["bytes"] > 0, "it is in memory now"
    server[1].terminate()
    await card(system, lambda c: c.offline)
    offline = [e for e in await system.events() if e["type"] == "model.offline.v1"]
    assert [(e["models"], e["reason"]) for e in offline] == [([MODEL], "unreachable")], "one announcement"
    end = await talk.whole("Hello again.")
    assert (end["model"], [a["model"] for a in end["attempts"]]) == ("ok@next", ["ok@next"]), "not even tried"
