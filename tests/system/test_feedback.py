"""Ratings over real processes: decisions follow them, whoever conducted the run; the command; what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from understudy.actors.host.clock import ulid
from understudy.bus.client import AnswerFailed, Client

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(30)]
DIES = "The selector dies."


def topology(kit: Any, url: str) -> dict[str, Any]:
    found = {
        name: {"provider": "lab", "slots": 32, "continues": "native", "quality": {"default": quality}}
        for name, quality in (("ok@better", 0.9), ("ok@plain", 0.8), ("drip@1", 0.1))
    }
    tasks = {"general": {"latency": "quick"}, "story": {"latency": "quick"}}
    return kit.topology_of(url, "key", models=found, aliases={}, tasks=tasks, policy={"weights": {"quality": 1.0}})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rated(fake: Any, kit: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    state = tmp_path_factory.mktemp("s")
    (state / "key").write_text(kit.KEY)
    system = await kit.System(fake, state, topology(kit, fake.url)).start()
    try:
        yield system
    finally:
        await system.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def client(rated: Any) -> AsyncIterator[Client]:
    async with await Client.connect(rated.url) as found:
        yield found


async def best(client: Client, task: str) -> str:
    return (await client.select("Who?", task=task)).chain[0].model


async def test_ratings_change_who_is_chosen_in_their_task(rated: Any, client: Client, kit: Any) -> None:
    assert await best(client, "story") == await best(client, "general") == "ok@better"
    for n in range(8):
        answer = await client.generate(f"Rated {n}.", task="story", model="ok@better")
        await client.feedback(answer.run_id, 0.0, "dull")

    async def chosen() -> list[str]:  # of both selectors: each answers some
        return [await best(client, "story") for _ in range(8)]

    async with asyncio.timeout(5):
        while set(await chosen()) != {"ok@plain"}:
            await asyncio.sleep(0.05)
    assert await best(client, "general") == "ok@better"
    answer = await client.generate("And really asked.", task="story")
    assert answer.model == "ok@plain"
    given = [e for e in await rated.events() if e["type"] == "feedback.given.v1"]
    assert [(e["model"], e["task"], e["reason"]) for e in given] == [("ok@better", "story", "dull")] * 8
    code, out, _ = await rated.cli("replay", "--json")
    assert code == 0 and json.loads(out)["compared"] >= 9


async def test_an_answer_of_a_selector_that_is_dead(rated: Any, client: Client) -> None:
    """Its end is another's: the one that took the run over has stored it, and the next life of both is asked."""
    pieces = client.generate(DIES, task="story", model="drip@1")
    runs: list[str] = []
    async for piece in pieces:
        if getattr(piece, "instance", "") and not runs:
            runs.append(piece.run_id)  # pyright: ignore
            victim = rated.process(piece.instance)  # pyright: ignore
            restarts, pid = victim.restarts, victim.pid
            os.kill(pid, signal.SIGKILL)
            await rated.back(victim.seat.instance, restarts)
    assert pieces.finished is not None and pieces.finished.run_id != runs[0]
    for run_id in (runs[0], pieces.finished.run_id):
        for _ in range(4):  # both selectors
            await client.feedback(run_id, 0.5)
    given = [e for e in await rated.events() if e["type"] == "feedback.given.v1" and e["rating"] == 0.5]
    assert [e["run_id"] for e in given] == [runs[0]] * 4 + [pieces.finished.run_id] * 4
    assert {e["task"] for e in given} == {"story"} and {e.get("model", "") for e in given[4:]} == {"drip@1"}


async def test_an_old_answer_is_found_by_those_who_have_never_heard_of_it(rated: Any, client: Client) -> None:
    answer = await client.generate("An old one.", task="general")
    for instance in ("selector-1", "selector-2"):
        await rated.back(instance, await rated.kill(instance))
    for _ in range(4):
        assert (await client.feedback(answer.run_id, 1.0)).seq > 0
    given = [e for e in await rated.events() if e["type"] == "feedback.given.v1" and e["run_id"] == answer.run_id]
    assert [(e["model"], e["task"]) for e in given] == [(answer.model, "general")] * 4


@pytest.mark.parametrize(
    "run_id",
    ["nothing-that-ran", ulid(time.time() * 1000, 3), ulid(1_000_000, 3), "7" + "Z" * 25],
    ids=[
        "no id of ours",
        "of now",
        "long ago",
        "of the year 10889",
    ],  # tests are collected twice, and have to have the same names
)
async def test_a_run_that_nobody_knows_is_refused(rated: Any, client: Client, run_id: str) -> None:
    before = len(await rated.events())
    with pytest.raises(AnswerFailed) as refused:
        await client.feedback(run_id, 1.0)
    assert (refused.value.failed.code, refused.value.failed.path) == ("unknown_run", "$.run_id")
    assert len(await rated.events()) == before


async def test_the_command(rated: Any, client: Client) -> None:
    answer = await client.generate("For the command.", task="general")
    code, out, _ = await rated.cli("feedback", answer.run_id, "0.75", "--reason", "fine", "--json")
    taken = json.loads(out)
    assert code == 0 and taken["run_id"] == answer.run_id
    (event,) = [e for e in await rated.events() if e["seq"] == taken["seq"]]
    assert (event["rating"], event["reason"]) == (0.75, "fine")
    for words, said in (
        ((answer.run_id, "7"), "invalid: $.rating: Expected `float` <= 1.0"),
        ((answer.run_id, "nan"), "invalid:"),
        ((answer.run_id, "1", "--reason", "two words"), "invalid: $.reason: Expected `str` matching"),
        ((ulid(time.time() * 1000, 9), "1"), "unknown_run: $.run_id: The log holds no end"),
    ):
        code, _, err = await rated.cli("feedback", *words)
        assert code == 1 and said in err, err
