"""Callers that vanish, ask again, lose something, or lose their selector: what plain nats-py and json hear."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import nats
import pytest

from tests.system.expected import WHOLE
from tests.waiting import found, until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(30)]

GONE_S = 1.0


async def outcome_of(system: Any, prompt: str) -> dict[str, Any]:
    """The one end of the newest run; the log may need a moment."""

    async def ends() -> list[dict[str, Any]]:
        return [e for e in await system.events() if e["type"] == "request.ended.v1" and prompt in e["labels"]]

    (end,) = await found(ends, 5)
    return end


# --- vanished ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["silent@1", "hang@1", "crawl@1"])
@pytest.mark.parametrize("how", ["unsubscribed", "closed"])
@WHOLE
async def test_a_caller_that_vanishes_in_silence(system: Any, kit: Any, model: str, how: str, stream: bool) -> None:
    name = f"gone-{model[:3]}-{how}-{'s' if stream else 'w'}"
    own = await nats.connect(system.url)
    inbox = own.new_inbox()
    sub = await own.subscribe(inbox)
    fields = {"model": model, "task": "patient", "stream": stream, "labels": [name]}
    await own.publish("tta.ask.model.generate", json.dumps(kit.ask_for(name, **fields)).encode(), reply=inbox)
    await kit.until(lambda: [s for s in system.upstream(name) if s.ended == "open"])
    await asyncio.sleep(0.2)
    assert [s.ended for s in system.upstream(name)] == ["open"]
    left = kit.clock()
    await (sub.unsubscribe() if how == "unsubscribed" else own.close())
    if how == "unsubscribed":
        await own.flush()
    await kit.until(lambda: [s for s in system.upstream(name) if s.ended == "client_closed"])
    took = kit.clock() - left
    end = await outcome_of(system, name)
    assert (end["outcome"], [a["outcome"] for a in end["attempts"]]) == ("cancelled", ["cancelled"])
    assert took < 3 * GONE_S, f"noticed after {took:.2f} s"  # the bar of 1 s is measured where the machine is quiet
    await own.close()


async def test_a_caller_who_waits_in_silence_is_left_alone(system: Any, talk: Any) -> None:
    end = await talk.whole("Wait.", model="silent@1", task="patient", deadline_ms=2_500)
    assert end["code"] == "deadline_exceeded"


# --- asked again ---------------------------------------------------------------------------------------------------


async def test_the_same_request_id_is_one_run_whoever_hears_it(system: Any, nc: Any, kit: Any) -> None:
    ask = kit.ask_for("Once only.", model="drip@1", request_id="once-1")
    readings = [kit.Stream(nc, ask) for _ in range(6)]
    async with readings[0], readings[1], readings[2]:
        await readings[0].until_delta(4)
        async with readings[3], readings[4], readings[5]:
            ends = [await r.end() for r in readings]
    text = kit.script("Once only.")
    assert [(e["type"], e["text"]) for e in ends] == [("model.finished.v1", text)] * 6
    assert [r.text for r in readings] == [text] * 6
    assert len({e["run_id"] for e in ends}) == 1 and len(system.upstream("Once only.")) == 1
    assert len(await system.outcomes(ends[0]["run_id"])) == 1


@WHOLE
async def test_a_repeat_after_the_end_and_one_with_another_body(system: Any, talk: Any, kit: Any, stream: bool) -> None:
    name = f"after-{stream}"
    first, _ = await talk.both(stream, name, model="ok@1", request_id=name)
    again: list[Any] = []
    for _ in range(4):  # whichever selector hears it
        again.append((await talk.both(stream, name, model="ok@1", request_id=name))[0])
    assert {e["run_id"] for e in again} == {first["run_id"]}
    if stream:
        assert [(e["type"], e["text"], e["last_seq"]) for e in again] == [
            ("model.finished.v1", None, first["last_seq"])
        ] * 4
    else:
        assert [e["code"] for e in again] == ["text_lost"] * 4
    other, _ = await talk.both(stream, "Something else.", model="ok@1", request_id=name)
    assert (other["code"], other["path"], "new" in other["text"]) == ("id_reused", "$.request_id", True)
    assert len(system.upstream(name)) == 1


async def test_said_again(talk: Any, kit: Any) -> None:
    async with talk.stream("Again.", model="drip@1") as reading:
        await reading.until_delta(5)
        started = reading.of("started")[0]
        order = kit.ask_for("x") and {"run_id": started["run_id"], "from_seq": 2}
        inbox = talk.nc.new_inbox()
        sub = await talk.nc.subscribe(inbox)
        await talk.nc.publish(f"tta.ask.model.resend.{started['instance']}", json.dumps(order).encode(), reply=inbox)
        again = [json.loads((await sub.next_msg(timeout=5)).data) for _ in range(4)]
        await sub.unsubscribe()
        await reading.end()
    assert (again[0]["type"], again[0]["known"]) == ("model.resent.v1", True)
    assert [a["seq"] for a in again[1:]] == [2, 3, 4]
    assert [a["text"] for a in again[1:]] == [d["text"] for d in reading.of("delta")[2:5]]


# --- the selector dies ---------------------------------------------------------------------------------------------


@WHOLE
async def test_a_killed_selectors_runs_are_ended_by_its_sibling(system: Any, nc: Any, kit: Any, stream: bool) -> None:
    name = f"killed-{stream}"
    inbox = nc.new_inbox()
    sub = await nc.subscribe(inbox)
    fields = {"model": "crawl@1", "stream": stream, "labels": [name]}
    await nc.publish("tta.ask.model.generate", json.dumps(kit.ask_for(name, **fields)).encode(), reply=inbox)
    await kit.until(lambda: [s for s in system.upstream(name) if s.tokens_sent > 5])
    trace = [json.loads(line) for line in await decisions(system)]
    victim = next(t["instance"] for t in reversed(trace) if t["reply"] == inbox)
    before = await system.kill(victim)
    pieces: list[dict[str, Any]] = []
    while not pieces or "failed" not in pieces[-1]["type"]:
        pieces.append(json.loads((await sub.next_msg(timeout=8)).data))
    assert (pieces[-1]["code"], pieces[-1].get("resumable", False)) == ("interrupted", stream)
    outcomes = await system.outcomes(pieces[-1]["run_id"])
    assert [o["outcome"] for o in outcomes] == ["interrupted"]
    assert outcomes[0]["instance"] != victim and outcomes[0]["decision"]["instance"] == victim
    await system.back(victim, before)
    await kit.until(lambda: [s for s in system.upstream(name) if s.ended == "client_closed"])
    await sub.unsubscribe()


async def decisions(system: Any) -> list[bytes]:
    """What the trace stream holds."""
    async with await system.operator() as client:
        seen: list[bytes] = []
        head = await client.bus.last_seq("TTA_TRACE")
        reader = await client.bus.read("TTA_TRACE", ["tta.trace.>"], lambda m: seen.append(m.payload))
        await until(lambda: len(seen) >= head)
        await reader.stop()
        return seen
