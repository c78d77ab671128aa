"""The simulated bus by itself: every fault as it is described, and the store's rules that need time or room."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.bus.kit import EVT, events
from understudy.bus import sim_loop
from understudy.bus.memory import Broker, Note
from understudy.bus.port import Ack, BusDown, Closed, Delivery, NoResponders, Received
from understudy.bus.provision import BusSpec, ConsumerSpec

JOBS = ConsumerSpec(stream=EVT, name="jobs", subjects=("tta.evt.job.>",), ack_wait_s=1.0, max_deliver=3)
SPEC = BusSpec(trace_max_bytes=1000, consumers=(JOBS,))


def sim(story: Callable[[Broker], Coroutine[Any, Any, None]], *, limit_s: float = 3600) -> None:
    async def main() -> None:
        await story(Broker(3, SPEC))

    sim_loop.run(main, limit_s)


def test_delays_are_as_configured_and_order_is_kept() -> None:
    async def story(broker: Broker) -> None:
        loop = asyncio.get_running_loop()
        a, b = broker.connect("a"), broker.connect("b")
        at: list[float] = []
        seen: list[int] = []

        def on_message(message: Received) -> None:
            at.append(loop.time())
            seen.append(int(message.payload))

        await b.subscribe("s", on_message)
        began = loop.time()
        await a.publish("s", b"0")
        await asyncio.sleep(1)
        assert 0.0002 <= at[0] - began <= 0.002
        broker.faults.delay_s = (0.1, 0.2)
        began = loop.time()
        for i in range(1, 50):
            await a.publish("s", b"%d" % i)
        await asyncio.sleep(2)
        assert all(0.2 <= when - began <= 0.41 for when in at[1:])
        broker.faults.slow, broker.faults.slow_s = 0.5, (1.0, 2.0)
        for i in range(50, 100):
            await a.publish("s", b"%d" % i)
        await asyncio.sleep(10)
        assert at[-1] - at[50] > 0.5 and seen == list(range(100))

    sim(story)


def test_loss_duplication_and_reordering() -> None:
    async def story(broker: Broker) -> None:
        a, b = broker.connect("a"), broker.connect("b")
        seen: list[int] = []
        await b.subscribe("s", lambda m: seen.append(int(m.payload)))

        async def sent() -> list[int]:
            seen.clear()
            for i in range(1000):
                await a.publish("s", b"%d" % i)
            await asyncio.sleep(5)
            return list(seen)

        broker.faults.loss = 0.2
        got = await sent()
        assert 700 < len(got) < 900 and got == sorted(set(got))
        broker.faults.loss, broker.faults.duplicate = 0, 0.2
        got = await sent()
        assert 1100 < len(got) < 1300 and sorted(set(got)) == list(range(1000)) and got == sorted(got)
        broker.faults.duplicate, broker.faults.reorder = 0, 0.2
        got = await sent()
        assert sorted(got) == list(range(1000)) and got != sorted(got)
        broker.faults.reorder = 0
        broker.faults.lose_next("s", 3)
        assert await sent() == list(range(3, 1000))

    sim(story)


def test_streams_do_not_lose_what_core_messages_do() -> None:
    async def story(broker: Broker) -> None:
        a = broker.connect("a")
        read: list[int] = []
        live: list[int] = []
        broker.faults.loss = broker.faults.duplicate = broker.faults.reorder = 0.3
        await a.read(EVT, ["tta.evt.>"], lambda m: read.append(m.seq))
        await a.subscribe("tta.live.>", lambda m: live.append(m.seq))
        for i in range(100):
            await a.store(events(str(i)), timeout_s=1)
        await asyncio.sleep(1)
        assert read == list(range(1, 101)) and sorted(set(live)) != read

    sim(story)


def test_a_partition_cuts_one_connection_for_a_while() -> None:
    async def story(broker: Broker) -> None:
        states: list[str] = []
        a, b, c = broker.connect("a", on_state=states.append), broker.connect("b"), broker.connect("c")
        to_a: list[bytes] = []
        to_b: list[bytes] = []
        read: list[int] = []
        await a.subscribe("a", lambda m: to_a.append(m.payload))
        await a.read(EVT, ["tta.evt.>"], lambda m: read.append(m.seq))
        await b.subscribe("b", lambda m: to_b.append(m.payload))
        await a.publish("b", b"lost on its way")
        broker.faults.partition("a", until=10.0)
        await a.publish("b", b"vanishes")
        await c.publish("a", b"vanishes")
        await c.publish("b", b"arrives")
        await c.store(events("1"), timeout_s=1)
        with pytest.raises(BusDown):
            await a.request("b", b"", timeout_s=0.5)
        assert a.connected and states == []
        await asyncio.sleep(2)
        assert not a.connected and states == ["disconnected"]
        with pytest.raises(BusDown):
            await a.publish("b", b"")
        with pytest.raises(NoResponders):
            await c.request("a", b"", timeout_s=1)
        await asyncio.sleep(10)
        assert states == ["disconnected", "reconnected"]
        await c.publish("a", b"back")
        await a.publish("b", b"back")
        await asyncio.sleep(1)
        assert (to_a, to_b, read) == ([b"back"], [b"arrives", b"back"], [1])

    sim(story)


def test_an_outage_ends_calls_and_keeps_streams() -> None:
    async def story(broker: Broker) -> None:
        a, b = broker.connect("a"), broker.connect("b")
        heard: list[bytes] = []
        done: list[tuple[int, int]] = []

        async def handler(delivery: Delivery) -> None:
            done.append((delivery.message.seq, delivery.tries))
            await delivery.ack()

        await b.subscribe("s", lambda m: heard.append(m.payload))
        await b.work(EVT, "jobs", handler, at_once=1)
        await a.store(events("1", "2"), timeout_s=1)
        assert await a.claim("k", b"a", ttl_s=100) is None
        waiting = asyncio.create_task(a.request("s", b"asked", timeout_s=5))
        await asyncio.sleep(0.1)
        broker.faults.stop()
        late = broker.connect("late")
        for call in (
            lambda: a.publish("s", b""),
            lambda: a.request("s", b"", timeout_s=1),
            lambda: late.publish("s", b""),
            lambda: a.store(events("3"), timeout_s=1),
            lambda: a.claim("k", b"", ttl_s=1),
            lambda: a.last_seq(EVT),
        ):
            with pytest.raises(BusDown):
                await call()
        await late.subscribe("s", lambda m: heard.append(b"late " + m.payload))
        with pytest.raises(BusDown):
            await waiting
        broker.faults.start()
        await asyncio.sleep(1)
        assert await a.store(events("2", "3"), timeout_s=1) == [Ack(2, True), Ack(3)]
        assert await a.claim("k", b"b", ttl_s=100) is None, "claims are kept in memory"
        await a.publish("s", b"again")
        await a.store(events("4", subject="tta.evt.job.x"), timeout_s=1)
        await asyncio.sleep(0.1)
        assert sorted(heard) == [b"again", b"asked", b"late again"]
        assert done == [(4, 1)]

    sim(story)


def test_a_store_may_be_done_and_not_acknowledged() -> None:
    async def story(broker: Broker) -> None:
        a, b = broker.connect("a"), broker.connect("b")
        broker.faults.answer_loss = 1.0
        with pytest.raises(BusDown):
            await a.store(events("1"), timeout_s=1)
        with pytest.raises(BusDown):
            await a.claim("k", b"a", ttl_s=100)
        broker.faults.answer_loss = 0
        assert await a.store(events("1"), timeout_s=1) == [Ack(1, duplicate=True)]
        assert await a.claim("k", b"a", ttl_s=100) == b"a"
        broker.faults.delay_s = (0.1, 0.1)
        pending = asyncio.create_task(a.store(events("2"), timeout_s=3))
        await asyncio.sleep(0.15)  # it is stored, its answer is under way
        broker.faults.outage(0.1)
        with pytest.raises(BusDown):
            await pending  # at once, not after its timeout
        await asyncio.sleep(1)
        assert await b.last_seq(EVT) == 2

    sim(story)


def test_a_crash_takes_everything_with_it() -> None:
    async def story(broker: Broker) -> None:
        a, b = broker.connect("a"), broker.connect("b")
        seen: list[bytes] = []
        tries: list[tuple[str, int]] = []

        def handler(name: str, pause_s: float) -> Callable[[Delivery], Coroutine[Any, Any, None]]:
            async def handle(delivery: Delivery) -> None:
                tries.append((name, delivery.tries))
                await asyncio.sleep(pause_s)
                tries.append((f"{name} ends", delivery.tries))
                await delivery.ack()

            return handle

        await a.subscribe("s", lambda m: seen.append(m.payload))
        await b.subscribe("t", lambda m: seen.append(m.payload))
        await a.work(EVT, "jobs", handler("a", 0.5), at_once=1)
        await b.store(events("1", subject="tta.evt.job.x"), timeout_s=1)
        await asyncio.sleep(0.1)
        await b.publish("s", b"under way")
        await a.publish("t", b"queued")
        a.crash()
        await asyncio.sleep(0.8)
        assert seen == [] and tries == [("a", 1)]
        with pytest.raises(Closed):
            await a.publish("t", b"")
        with pytest.raises(NoResponders):
            await b.request("s", b"", timeout_s=1)
        await b.work(EVT, "jobs", handler("b", 0.0), at_once=1)
        await asyncio.sleep(2)
        assert tries == [("a", 1), ("b", 2), ("b ends", 2)]
        again = broker.connect("a")
        await again.publish("t", b"reborn")
        await asyncio.sleep(0.1)
        assert seen == [b"reborn"]

    sim(story)


# --- the store's rules that need time or room ----------------------------------------------------------------------


def test_an_id_is_known_for_ten_minutes() -> None:
    async def story(broker: Broker) -> None:
        bus = broker.connect("a")
        assert await bus.store(events("1"), timeout_s=1) == [Ack(1)]
        await asyncio.sleep(599)
        assert await bus.store(events("1"), timeout_s=1) == [Ack(1, duplicate=True)]
        await asyncio.sleep(2)
        assert await bus.store(events("1"), timeout_s=1) == [Ack(2)]

    sim(story)


def test_what_is_delivered_too_often_is_dead() -> None:
    async def story(broker: Broker) -> None:
        bus = broker.connect("a")
        dead: list[Received] = []
        tries: list[int] = []

        async def handler(delivery: Delivery) -> None:
            tries.append(delivery.tries)

        await bus.read("TTA_DEAD", ["tta.dead.>"], dead.append)
        await bus.work(EVT, "jobs", handler, at_once=10)
        await bus.store(events("1", subject="tta.evt.job.x", payload=b"poison"), timeout_s=1)
        await asyncio.sleep(10)
        assert tries == [1, 2, 3]
        assert [(m.subject, m.payload) for m in dead] == [("tta.dead.TTA_EVT.jobs", b"poison")]

    sim(story)


def test_the_trace_forgets_the_oldest() -> None:
    async def story(broker: Broker) -> None:
        bus = broker.connect("a")
        for i in range(20):
            await bus.publish("tta.trace.a.b", b"%02d" % i + b"x" * 100)
        await asyncio.sleep(0.1)
        read: list[int] = []
        await bus.read("TTA_TRACE", ["tta.trace.>"], lambda m: read.append(m.seq))
        await asyncio.sleep(0.1)
        used, limit = await bus.stream_bytes("TTA_TRACE")
        assert limit - 150 < used <= limit
        assert read[-1] == 20 and len(read) == used // 145
        assert all(b - a == 1 for a, b in itertools.pairwise(read))

    sim(story)


def test_everything_that_happens_can_be_watched() -> None:
    notes: list[Note] = []

    async def main() -> None:
        broker = Broker(1, on_note=notes.append)
        bus = broker.connect("a")
        await bus.subscribe("s", lambda m: None)
        await bus.publish("s", b"x")
        await asyncio.sleep(0.1)
        await bus.store(events("1"), timeout_s=1)
        await bus.close()

    sim_loop.run(main)
    assert [(n.what, n.subject) for n in notes] == [
        ("publish", "s"),
        ("deliver", "s"),
        ("store", "tta.evt.a.b"),
        ("link", "closed"),
    ]
