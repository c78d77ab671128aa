"""The port's promises, once for every bus: work, claims, and a closed connection."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.bus.kit import EVT, events
from tests.bus.stories import Play, World
from understudy.bus.port import Closed, Delivery, Received


def test_work_is_settled_by_ack_retry_drop(play: Play) -> None:
    async def story(world: World) -> None:
        bus = await world.connect()
        log: list[tuple[bytes, int, float]] = []
        again: list[Exception] = []
        loop = asyncio.get_running_loop()

        async def handler(delivery: Delivery) -> None:
            what = delivery.message.payload
            log.append((what, delivery.tries, loop.time()))
            if what == b"raise" and delivery.tries == 1:
                raise LookupError
            if what == b"retry" and delivery.tries == 1:
                await delivery.retry(0.2)
            elif what == b"drop":
                await delivery.drop("no\nuse")
            elif what != b"silent" or delivery.tries == 2:
                await delivery.ack()
                try:
                    await delivery.ack()
                except RuntimeError as error:
                    again.append(error)

        await bus.work(EVT, "jobs", handler, at_once=8)
        for what in (b"ok", b"retry", b"drop", b"raise", b"silent"):
            await bus.store(events(what.decode(), subject="tta.evt.job.x", payload=what), timeout_s=2)
        await bus.store(events("other"), timeout_s=2)
        await world.until(lambda: len(log) == 8)
        await asyncio.sleep(0.7)
        assert sorted((what, tries) for what, tries, _ in log) == [
            (b"drop", 1),
            (b"ok", 1),
            (b"raise", 1),
            (b"raise", 2),
            (b"retry", 1),
            (b"retry", 2),
            (b"silent", 1),
            (b"silent", 2),
        ]
        at = {(what, tries): when for what, tries, when in log}
        assert at[b"retry", 2] - at[b"retry", 1] >= 0.19
        assert 0.4 < at[b"silent", 2] - at[b"silent", 1] < 1.5
        assert isinstance(world.errors[0], LookupError) and len(again) == 4

    play(story)


def test_work_is_delivered_so_often_and_no_more(play: Play) -> None:
    async def story(world: World) -> None:
        bus = await world.connect()
        tries: list[int] = []

        async def handler(delivery: Delivery) -> None:
            tries.append(delivery.tries)
            await delivery.retry(0.01)

        await bus.work(EVT, "jobs", handler, at_once=2)
        await bus.store(events("a", subject="tta.evt.job.x"), timeout_s=2)
        await world.until(lambda: len(tries) == 3)
        await asyncio.sleep(0.7)
        assert tries == [1, 2, 3]

    play(story)


def test_work_is_shared_bounded_and_stops(play: Play) -> None:
    async def story(world: World) -> None:
        one, two = await world.connect("1"), await world.connect("2")
        hands: dict[str, int] = {"1": 0, "2": 0}
        most: dict[str, int] = {"1": 0, "2": 0}
        done: list[int] = []

        def handler(name: str) -> Callable[[Delivery], Awaitable[None]]:
            async def handle(delivery: Delivery) -> None:
                hands[name] += 1
                most[name] = max(most[name], hands[name])
                await asyncio.sleep(0.02)
                done.append(delivery.message.seq)
                hands[name] -= 1
                await delivery.ack()

            return handle

        first = await one.work(EVT, "jobs", handler("1"), at_once=2)
        await two.work(EVT, "jobs", handler("2"), at_once=3)
        await one.store(events(*map(str, range(30)), subject="tta.evt.job.x"), timeout_s=2)
        await world.until(lambda: len(done) == 30)
        assert sorted(done) == list(range(1, 31)) and most == {"1": 2, "2": 3}
        await first.stop()
        most["1"] = 0
        await one.store(events("after", subject="tta.evt.job.x"), timeout_s=2)
        await world.until(lambda: len(done) == 31)
        assert most["1"] == 0
        with pytest.raises(ValueError, match="at_once"):
            await one.work(EVT, "jobs", handler("1"), at_once=0)

    play(story)


def test_a_missing_consumer_is_reported(play: Play) -> None:
    async def story(world: World) -> None:
        bus = await world.connect()

        async def handler(delivery: Delivery) -> None:
            await delivery.ack()

        await bus.work(EVT, "nosuch", handler, at_once=1)
        await world.until(lambda: len(world.errors) >= 1)
        assert "TTA_EVT/nosuch" in str(world.errors[0])

    play(story)


def test_a_claim_has_one_holder_for_a_while(play: Play) -> None:
    async def story(world: World) -> None:
        buses = [await world.connect(str(i)) for i in range(4)]
        held = await asyncio.gather(*(bus.claim("k", b"%d" % i, ttl_s=60) for i, bus in enumerate(buses)))
        winners = [i for i, h in enumerate(held) if h is None]
        assert len(winners) == 1
        assert {h for h in held if h is not None} == {b"%d" % winners[0]}
        assert await buses[0].claim("short", b"a", ttl_s=0.2) is None
        assert await buses[1].claim("short", b"b", ttl_s=1) == b"a"
        await asyncio.sleep(0.5)
        assert await buses[0].claim("short", b"a", ttl_s=1) == b"a", "whole seconds only"
        holder = b"a"
        async with asyncio.timeout(4):
            while holder is not None:
                await asyncio.sleep(0.05)
                holder = await buses[1].claim("short", b"b", ttl_s=60)
        assert await buses[0].claim("short", b"c", ttl_s=1) == b"b"

    play(story)


def test_closed(play: Play) -> None:
    async def story(world: World) -> None:
        a, b = await world.connect("a"), await world.connect("b")
        seen: list[Received] = []
        await b.subscribe("s", seen.append)
        for _ in range(20):
            await a.publish("s", b"")
        await a.close()
        await a.close()
        await world.until(lambda: len(seen) == 20)
        assert not a.connected and b.connected

        async def handler(delivery: Delivery) -> None:
            await delivery.ack()

        for call in (
            lambda: a.publish("s", b""),
            lambda: a.request("s", b"", timeout_s=1),
            lambda: a.subscribe("s", seen.append),
            lambda: a.store(events("a"), timeout_s=1),
            lambda: a.read(EVT, ["tta.evt.>"], seen.append),
            lambda: a.work(EVT, "jobs", handler, at_once=1),
            lambda: a.last_seq(EVT),
            lambda: a.claim("k", b"", ttl_s=1),
        ):
            with pytest.raises(Closed):
                await call()

    play(story)
