"""Kept answers end to end: a repeat costs no call, an erased conversation is gone, a dead cache is only a miss."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import nats
import pytest

from tests.waiting import found

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(40)]


def whose(conversation: str, user: str = "u1", **more: Any) -> dict[str, Any]:
    return {
        "model": "ok@1", "conversation_id": conversation, "user_id": user, "temperature": 0.0, "cache": True, **more,
    }  # fmt: skip


async def until_kept(talk: Any, prompt: str, **fields: Any) -> dict[str, Any]:
    """An answer is kept after its end was said, so the first repeat may come too early."""

    async def cached() -> dict[str, Any] | None:
        end = await talk.whole(prompt, **fields)
        return end if end.get("cached") else None

    return await found(cached)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_repeat_is_answered_without_a_call_and_booked_once(
    system: Any, talk: Any, kit: Any, stream: bool
) -> None:
    prompt = f"What is behind the door? {stream}"
    fields = whose("door")
    first = await talk.whole(prompt, **fields)
    assert first["type"] == "model.finished.v1" and not first.get("cached") and first["usage"]["completion_tokens"] > 0
    kept = await until_kept(talk, prompt, **fields)
    calls = len(system.upstream(prompt))
    end, reading = await talk.both(stream, prompt, **fields)
    assert end["cached"] and end["text"] == first["text"] == kit.script(prompt)
    assert end["model"] == first["model"] and end["parameters"] == kept["parameters"] and end.get("recorded", True)
    assert end["usage"] == {} and end["attempts"] == []
    assert len(system.upstream(prompt)) == calls
    if reading is not None:
        kinds = [piece["type"] for piece in reading.pieces]
        assert kinds[0] == "model.started.v1" and set(kinds[1:-1]) == {"model.delta.v1"}
        assert reading.text == first["text"] and end["last_seq"] == len(kinds) - 3
    (outcome,) = await system.outcomes(end["run_id"])
    assert outcome["cached"] and outcome.get("usage", {}) == {} and not outcome.get("attempts")
    code, out, err = await system.cli("replay", "--json")
    assert code == 0 and json.loads(out)["compared"] > 2, err


@pytest.mark.parametrize(
    "fields",
    [
        whose("hall", user="u2"),
        whose("cellar"),
        whose("hall", seed=3),
        whose("hall", max_tokens=5),
        whose("hall", model="ok@next"),
        whose("hall", cache=False),
        whose("hall", temperature=0.5),
    ],
)
async def test_a_request_that_is_not_the_same_is_asked(system: Any, talk: Any, fields: dict[str, Any]) -> None:
    prompt = "What is in the hall?"
    await until_kept(talk, prompt, **whose("hall"))
    calls = len(system.upstream(prompt))
    end = await talk.whole(prompt, **fields)
    assert not end.get("cached") and len(system.upstream(prompt)) == calls + 1


async def test_a_request_id_is_one_run_also_where_its_answer_is_kept(system: Any, talk: Any) -> None:
    prompt = "Who rang the bell?"
    await until_kept(talk, prompt, **whose("bell"))
    async with talk.stream(prompt, request_id="bell-1", **whose("bell")) as one:
        end = await one.end()
    async with talk.stream(prompt, request_id="bell-1", **whose("bell")) as two:
        again = await two.end()
    assert end["cached"] and again["cached"] and again["run_id"] == end["run_id"] and again["text"] is None
    assert len(await system.outcomes(end["run_id"])) == 1


async def test_an_erased_conversation_is_gone_and_another_is_not(system: Any, talk: Any, nc: Any) -> None:
    prompt = "What did I tell you?"
    for conversation in ("erased-77", "stays-77"):
        await until_kept(talk, prompt, **whose(conversation))
    await until_kept(talk, prompt, **whose("erased-77", user="u2"))
    pin = json.dumps({"conversation_id": "erased-77", "model": "ok@next"}).encode()
    assert (await talk.raw(pin, "tta.ask.model.pin"))["type"] == "pin.taken.v1"
    code, out, err = await system.cli("erase", "--conversation", "erased-77", "--json")
    done = json.loads(out)
    assert code == 0 and (done["keys"], done["entries"]) == (1, 2), err
    code, out, _ = await system.cli("erase", "--conversation", "erased-77")
    assert code == 0 and out.startswith("erased: 0 data key, 0 kept answers")
    stones = [e for e in await system.events() if e["type"] == "conversation.erased.v1"]
    assert [(s.get("keys", 0), s.get("entries", 0)) for s in stones] == [(1, 2), (0, 0)]
    assert {s["conversation"] for s in stones} == {done["conversation"]}
    assert set(stones[0]) == {"type", "at_ms", "id", "conversation", "keys", "entries", "seq"}

    calls = len(system.upstream(prompt))
    assert not (await talk.whole(prompt, **whose("erased-77"))).get("cached")
    assert (await talk.whole(prompt, **whose("stays-77"))).get("cached")
    assert len(system.upstream(prompt)) == calls + 1
    unnamed = {**whose("erased-77"), "model": None, "cache": False}
    assert (await talk.whole("Who speaks?", **unnamed))["model"] != "ok@next", "its pin is gone too"
    await until_kept(talk, prompt, **whose("erased-77"))
    assert (await system.cli("replay"))[0] == 0
    assert "erased-77" not in json.dumps(await system.events()) + (system.state / "actors.log").read_text()


async def test_a_wrong_order_to_erase_is_refused(system: Any) -> None:
    code, out, _ = await system.cli("erase", "--conversation", "", "--json")
    assert code == 1 and json.loads(out)["error"] == "invalid"


async def test_no_word_of_a_kept_answer_is_in_any_file(system: Any, talk: Any) -> None:
    prompt = "Repeat exactly: canary-kept-5512 and more."
    end = await until_kept(talk, prompt, **whose("canary-kept-conversation"))
    assert "canary-kept-5512" in end["text"]
    files = {p: p.read_bytes() for p in system.state.rglob("*") if p.is_file()}
    assert any(end["run_id"].encode() in data for data in files.values()), "the search itself works"
    assert [str(p) for p, data in files.items() if b"canary-kept" in data] == []


@pytest.mark.parametrize("user", ["guest", "selector-1", "runner-lab"])
async def test_nobody_else_reads_the_bucket_or_orders_an_erasure(system: Any, kit: Any, user: str) -> None:
    errors: list[str] = []

    async def on_error(error: Exception) -> None:
        errors.append(str(error).lower())

    password = {} if user == "guest" else {"user": user, "password": system.supervisor.bus_side.password(user)}
    inbox = b"_INBOX" if user == "guest" else f"_INBOX_A.{user}".encode()
    nc = await nats.connect(system.url, error_cb=on_error, inbox_prefix=inbox, **password)
    refused = ["tta.ask.conversation.erase", "$JS.API.DIRECT.GET.KV_TTA_CACHE.$KV.TTA_CACHE.c.e", "$KV.TTA_CACHE.c.e"]
    refused += [] if user.startswith("selector") else ["tta.ask.cache.look", "tta.ask.cache.keep"]
    for subject in refused:
        await nc.publish(subject, b"{}", reply=nc.new_inbox())
    for subject in ("tta.ask.cache.>", "$KV.TTA_CACHE.>"):
        await nc.subscribe(subject)
    await nc.flush()
    await kit.until(lambda: len(errors) == len(refused) + 2)
    assert all("permissions violation" in error for error in errors)
    await nc.close()


@pytest.mark.parametrize("signal_name", ["SIGKILL", "SIGSTOP"])
async def test_a_dead_or_stopped_cache_is_a_miss(system: Any, talk: Any, kit: Any, signal_name: str) -> None:
    prompt = f"What is the hour? {signal_name}"
    await until_kept(talk, prompt, **whose("hour"))
    process = system.process("response_cache-1")
    restarts, pid = process.restarts, process.pid
    os.kill(pid, getattr(signal, signal_name))
    try:
        began = kit.clock()
        end = await talk.whole(prompt, **whose("hour"))
        assert end["type"] == "model.finished.v1" and not end.get("cached") and kit.clock() - began < 3
    finally:
        if signal_name == "SIGSTOP":
            os.kill(pid, signal.SIGCONT)
        else:
            await system.back("response_cache-1", restarts)
    assert (await until_kept(talk, prompt, **whose("hour")))["text"] == end["text"]


@pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="no /proc: limits of processes cannot be read here")
async def test_the_process_that_holds_the_data_keys_makes_no_core_dump(system: Any) -> None:
    def core_bytes(pid: int) -> str:
        lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
        return next(line.split()[5] for line in lines if line.startswith("Max core file size"))

    assert core_bytes(system.process("response_cache-1").pid) == "0"
    assert core_bytes(system.process("health_tracker-1").pid) == core_bytes(os.getpid()), "whoever holds none, may"
