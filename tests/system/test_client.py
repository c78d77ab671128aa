"""Our client over real processes: what dies underneath is one more seam, and no change is missed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from understudy.bus.client import AnswerFailed, Change, Client
from understudy.bus.port import NotAllowed
from understudy.messages.catalogue import Models
from understudy.messages.events import ModelUnavailable
from understudy.messages.generate import Delta, Finished, Seam, Started

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(40)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(system: Any) -> Any:
    async with await Client.connect(system.url) as found:
        yield found


def held(pieces: list[Any]) -> str:
    """The reader's rule, applied to what the client hands out."""
    kept: list[tuple[int, str]] = []
    for one in pieces:
        if isinstance(one, Seam):
            kept = [k for k in kept if k[0] <= one.keep_seq]
        elif isinstance(one, Delta):
            kept.append((one.seq, one.text))
    return "".join(text for _, text in kept)


def assert_exact(pieces: list[Any], text: str) -> None:
    end = pieces[-1]
    assert isinstance(end, Finished) and end.text == text and held(pieces) == text
    seqs = [p.seq for p in pieces if isinstance(p, Delta)]
    assert seqs == list(range(len(seqs))) and end.last_seq == len(seqs) - 1


async def test_a_plain_answer_and_the_whole(client: Client, kit: Any) -> None:
    pieces = [p async for p in client.generate("Client.", model="ok@1")]
    assert_exact(pieces, kit.script("Client."))
    assert (await client.generate("Whole.", model="ok@1")).text == kit.script("Whole.")


@pytest.mark.parametrize("model", ["drip@1", "silent@1"])
async def test_a_killed_selector(system: Any, client: Client, kit: Any, model: str) -> None:
    name = f"Selector dies {model}."
    task = {"task": "patient"} if model == "silent@1" else {}
    answer = client.generate(name, model=model, **task)
    pieces: list[Any] = []
    killed: list[tuple[str, int]] = []
    if model == "silent@1":
        reading = asyncio.ensure_future(_all(answer, pieces))
        await kit.until(lambda: answer.instance)
        killed.append((answer.instance, await system.kill(answer.instance)))
        await kit.until(lambda: len([p for p in pieces if isinstance(p, Started)]) == 2)
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
    else:
        async for piece in answer:
            pieces.append(piece)
            if len([p for p in pieces if isinstance(p, Delta)]) == 10 and not killed:
                killed.append((answer.instance, await system.kill(answer.instance)))
        assert_exact(pieces, kit.script(name))
        assert [(s.mode, s.reason) for s in pieces if isinstance(s, Seam)] == [("continue", "interrupted")]
    started = [p for p in pieces if isinstance(p, Started)]
    assert len({s.run_id for s in started}) == 2
    await system.back(*killed[0])
    outcomes: list[str] = []
    while len(outcomes) < 2:  # the test's own limit bounds it: a cancelled run's end may be on its way
        outcomes = [o["outcome"] for s in started for o in await system.outcomes(s.run_id)]
    assert outcomes == ["interrupted", "cancelled" if model == "silent@1" else "finished"]


async def _all(said: AsyncIterator[Any], pieces: list[Any]) -> None:
    async for piece in said:
        pieces.append(piece)


async def test_a_killed_runner_and_a_killed_selector_in_one_answer(system: Any, client: Client, kit: Any) -> None:
    pieces: list[Any] = []
    killed: list[tuple[str, int]] = []
    answer = client.generate("Both die.", model="drip@victim")
    async for piece in answer:
        pieces.append(piece)
        deltas = len([p for p in pieces if isinstance(p, Delta)])
        if deltas == 8 and not killed:
            killed.append((answer.instance, await system.kill(answer.instance)))
        if deltas == 16 and len(killed) == 1:
            killed.append(("runner-victim", await system.kill("runner-victim")))
    assert_exact(pieces, kit.script("Both die."))
    for one in killed:
        await system.back(*one)


async def test_leaving_the_block_cancels(system: Any, client: Client, kit: Any) -> None:
    async with client.generate("Leave.", model="crawl@1") as answer:
        async for piece in answer:
            if isinstance(piece, Delta):
                break
    await kit.until(lambda: [s for s in system.upstream("Leave.") if s.ended == "client_closed"])
    assert len(system.upstream("Leave.")) == 1


async def test_a_refused_request_says_so(client: Client) -> None:
    with pytest.raises(AnswerFailed) as failure:
        await client.generate("x", task="nothing")
    assert failure.value.code == "unknown_task"


@contextlib.asynccontextmanager
async def watched(client: Client, kit: Any) -> AsyncIterator[list[Any]]:
    """What `changes` hands out while the block lasts; the list of models that comes first is there."""
    changes: list[Any] = []
    watching = asyncio.ensure_future(_all(client.changes(), changes))
    try:
        await kit.until(lambda: changes)
        yield changes
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_a_guest_is_told_who_may_read_the_log(system: Any, client: Client) -> None:
    with pytest.raises(NotAllowed, match="Only the operator may read the log"):
        [entry async for entry in client.events()]
    code, _, err = await system.cli("events", "--since", "1m", "--nats", system.url)
    assert code == 1 and err.startswith("not_allowed: Only the operator")


async def test_the_server_is_killed_in_mid_answer(system: Any, client: Client, kit: Any) -> None:
    pieces: list[Any] = []
    async with watched(client, kit) as changes:
        assert isinstance(changes[0], Models) and len(changes[0].models) > 10
        struck = False
        async for piece in client.generate("The server dies.", model="drip@1"):
            pieces.append(piece)
            if len([p for p in pieces if isinstance(p, Delta)]) == 10 and not struck:
                struck = True
                system.supervisor.bus_side.server.signal(9)
        assert_exact(pieces, kit.script("The server dies."))
        runs = {p.run_id for p in pieces if isinstance(p, Started | Finished)}
        outcomes = [o["outcome"] for run in runs for o in await system.outcomes(run)]
        assert outcomes.count("finished") == 1 and len(outcomes) == len(runs)

        async with await system.operator() as operator:
            want = [c.seq async for c in operator.events(subjects="model.>")]
        after = [seq for seq in want if seq > changes[0].as_of_seq]
        await kit.until(lambda: [c.seq for c in changes[1:]] == after)


async def test_changes_are_heard_once_and_in_order(system: Any, client: Client, kit: Any) -> None:
    async with watched(client, kit) as changes:
        for _ in range(12):
            with pytest.raises(AnswerFailed):
                await client.generate("Trip.", model="500@alone")
            if any(isinstance(c, Change) and isinstance(c.event, ModelUnavailable) for c in changes):
                break
        await kit.until(lambda: [c for c in changes if isinstance(c, Change)])
        client.on_state("reconnected")  # what is read again from the log is not said again
        seqs = [c.seq for c in changes if isinstance(c, Change)]
        assert seqs == sorted(set(seqs)) and min(seqs) > changes[0].as_of_seq
