"""What the server's answers leave in the log is no event: seen by every way of reading, on a real server.

A reply subject is not checked by the server. So whoever may call one of its APIs can have a stored event, or its own
JSON, stored once more: with the headers of a direct get, or (`no_hdr`) with none.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.bus.kit import EVT, Opener, Until, events
from understudy.bus.nats_bus import NatsBus
from understudy.bus.port import Foreign, Received
from understudy.bus.provision import BusSpec, provision

SUBJECT = "tta.evt.a.b"
GET = f"$JS.API.DIRECT.GET.{EVT}"
ANSWERS: list[tuple[str, dict[str, Any]]] = [
    (GET, {"seq": 1}),
    (GET, {"seq": 1, "no_hdr": True}),
    (GET, {"seq": 1, "batch": 1}),
    (GET, {"next_by_subj": "tta.evt.>", "batch": 1, "no_hdr": True}),
    (f"{GET}.{SUBJECT}", {}),
    (GET, {"seq": 99}),
    (f"$JS.API.STREAM.INFO.{EVT}", {}),
]


@pytest.fixture
async def log(connect: Opener) -> NatsBus:
    """A log of two events, whose ids are soon forgotten: else a copy with its id would be a duplicate."""
    bus = await connect("log")
    await provision(bus, BusSpec(duplicate_window_s=0.1))
    for name in ("one", "two"):  # singly: with its headers, a copy of a batch's member is taken for one, and waits
        await bus.store(events(name), timeout_s=3)
    return bus


async def answered(bus: NatsBus, call: str, body: dict[str, Any]) -> range:
    """Have the server answer into the log; the positions of what came there."""
    before = await bus.last_seq(EVT)
    async with asyncio.timeout(5):
        while (head := await bus.last_seq(EVT)) == before:  # asked again while its id is still known
            await bus.publish(call, json.dumps(body).encode() if body else b"", reply=SUBJECT)
            await asyncio.sleep(0.15)
    return range(before + 1, head + 1)


def marks(found: list[Received]) -> dict[int, bool]:
    return {one.seq: one.foreign for one in found}


async def each_way(bus: NatsBus, until: Until, head: int) -> list[list[Received]]:
    """All of the log by the ordered reader, by asking now and then, one by one."""
    ways: list[list[Received]] = [[], [], []]
    readings = [
        await bus.read(EVT, ["tta.evt.>"], ways[0].append),
        await bus.read(EVT, ["tta.evt.>"], ways[1].append, every_s=0.05),
    ]
    while (one := await bus.get(EVT, ways[2][-1].seq + 1 if ways[2] else 1, "tta.evt.>")) is not None:
        ways[2].append(one)
    await until(lambda: all(way and way[-1].seq >= head for way in ways))
    for reading in readings:
        await reading.stop()
    return ways


@pytest.mark.parametrize(("call", "body"), ANSWERS)
async def test_what_the_server_answered_with_is_no_event_to_anybody(
    log: NatsBus, connect: Opener, until: Until, call: str, body: dict[str, Any]
) -> None:
    came = await answered(log, call, body)
    assert len(came) >= 1
    again = await answered(log, GET, {"seq": came[0]})  # a copy of the copy
    (real,) = await log.store(events("real"), timeout_s=3)
    told: list[Exception] = []
    reader = await connect("reader", on_error=told.append)
    expected = dict.fromkeys((1, 2), False) | dict.fromkeys((*came, *again), True) | {real.seq: False}
    for way in await each_way(reader, until, real.seq):
        assert marks(way) == expected
        assert all((one.payload == b"") == one.foreign for one in way)
    assert [type(one) for one in told] == [Foreign]  # once, however many there are


async def test_what_is_announced_of_it_is_no_event_either(log: NatsBus, until: Until) -> None:
    heard: list[Received] = []
    await log.subscribe("tta.live.>", heard.append)
    for call, body in ANSWERS[:2]:
        await answered(log, call, body)
    (real,) = await log.store(events("four"), timeout_s=3)
    await until(lambda: bool(heard) and heard[-1].seq == real.seq)
    assert [(one.foreign, one.payload) for one in heard] == [(True, b""), (True, b""), (False, b"x")]
    assert {one.subject for one in heard} == {"tta.live.a.b"}


async def test_a_worker_is_given_none(log: NatsBus, connect: Opener, spec: BusSpec, until: Until) -> None:
    bus = await connect("worker")
    await provision(bus, spec)
    done: list[bytes] = []

    async def work(delivery: Any) -> None:
        done.append(delivery.message.payload)
        await delivery.ack()

    await bus.publish(GET, b'{"seq":1}', reply="tta.evt.job.x")
    await bus.publish(GET, b'{"seq":1,"no_hdr":true}', reply="tta.evt.job.x")
    await bus.store(events("job", subject="tta.evt.job.x", payload=b"real"), timeout_s=3)
    await bus.work(EVT, "jobs", work, at_once=4)
    await until(lambda: done == [b"real"])


async def test_other_streams_need_no_ids(log: NatsBus, until: Until) -> None:
    await log.publish("tta.trace.selection.made.s", b"made")
    seen: list[Received] = []
    for every_s in (0.0, 0.05):
        await log.read("TTA_TRACE", ["tta.trace.>"], seen.append, every_s=every_s)
    await until(lambda: len(seen) == 2)
    assert [(one.payload, one.foreign) for one in seen] == [(b"made", False)] * 2
