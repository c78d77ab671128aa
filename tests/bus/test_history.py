"""Reading the log to its head: a pause is no end, an end that cannot be reached is an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from tests.bus.kit import EVT, events
from understudy.bus import history, nats_log, sim_loop
from understudy.bus.history import stored
from understudy.bus.memory import Broker, Note
from understudy.bus.memory_bus import MemoryBus
from understudy.bus.memory_log import now_ms, now_s
from understudy.bus.nats_bus import NatsBus
from understudy.bus.port import BusDown, Received
from understudy.bus.provision import BusSpec

COUNT = 100
EVERY = [str(n) for n in range(1, COUNT + 1)]


def sim(story: Callable[[Broker, MemoryBus], Coroutine[Any, Any, None]], notes: list[Note] | None = None) -> None:
    async def main() -> None:
        broker = Broker(7, BusSpec(), on_note=None if notes is None else notes.append)
        for event in EVERY:
            await broker.connect("writer").store(events(event, payload=event.encode()), timeout_s=1)
        await story(broker, broker.connect("reader"))

    sim_loop.run(main, 600)


def whole(bus: MemoryBus, **where: Any) -> AsyncIterator[Received]:
    return stored(bus, EVT, "tta.evt.>", **where)


def test_a_server_that_is_away_for_a_while_cuts_nothing_off() -> None:
    async def story(broker: Broker, bus: MemoryBus) -> None:
        broker.faults.delay_s = (0.0, 1.0)  # so that most is under way, and lost, when the first has come
        found: list[str] = []
        async for received in whole(bus):
            if not found:
                broker.faults.outage(4)
            found.append(received.payload.decode())
        assert found == EVERY and now_s() > 4

    sim(story)


def test_an_end_that_is_not_reached_is_no_end() -> None:
    async def story(broker: Broker, bus: MemoryBus) -> None:
        broker.faults.delay_s = (0.0, 1.0)
        found: list[str] = []
        with pytest.raises(BusDown):
            async for received in whole(bus):
                broker.faults.stop()
                found.append(received.payload.decode())
        assert 0 < len(found) < COUNT and now_s() < 60

    sim(story)


@pytest.mark.parametrize("after_seq", [0, 10, COUNT])
def test_where_nothing_is_so_young_it_ends_soon(after_seq: int) -> None:
    async def story(_: Broker, bus: MemoryBus) -> None:
        began = now_s()
        assert not [one async for one in whole(bus, after_seq=after_seq, since_ms=now_ms() + 1000)]
        assert now_s() - began < 2

    sim(story)


@pytest.mark.parametrize("since_ms", [0, 1])
async def test_what_was_removed_is_not_waited_for(bus: NatsBus, since_ms: int) -> None:
    await bus.store(events("1", "2", "3"), timeout_s=2)
    await nats_log.api(bus.client, f"STREAM.PURGE.{EVT}")
    assert await bus.last_seq(EVT) == 3
    async with asyncio.timeout(3 * history.QUIET_S):
        assert not [one async for one in stored(bus, EVT, "tta.evt.>", since_ms=since_ms)]


@pytest.mark.parametrize("follow", [False, True])
def test_a_slow_taker_gets_everything_and_holds_up_little(monkeypatch: pytest.MonkeyPatch, follow: bool) -> None:
    monkeypatch.setattr(history, "AHEAD", 10)
    notes: list[Note] = []

    async def story(_: Broker, bus: MemoryBus) -> None:
        found: list[str] = []
        async for received in whole(bus, follow=follow):
            await asyncio.sleep(0.1)
            found.append(received.payload.decode())
            if len(found) == COUNT:
                break
        assert found == EVERY

    sim(story, notes)
    assert len([one for one in notes if one.what == "read"]) > 2 * COUNT, "what was too much was read again"
