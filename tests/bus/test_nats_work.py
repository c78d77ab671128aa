"""Work consumers on the real server: shared, bounded, redelivered, and back after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.bus.kit import Opener, Until, events
from understudy.bus import nats_worker
from understudy.bus.nats_bus import NatsBus
from understudy.bus.nats_log import api
from understudy.bus.port import Delivery
from understudy.bus.server import NatsServer


async def test_work_is_delivered_until_it_is_settled(bus: NatsBus, until: Until) -> None:
    log: list[tuple[bytes, int]] = []

    async def handler(delivery: Delivery) -> None:
        what = delivery.message.payload
        log.append((what, delivery.tries))
        if what == b"raise" and delivery.tries == 1:
            raise LookupError
        if what == b"retry" and delivery.tries < 3:
            await delivery.retry(0.05)
        elif what == b"drop":
            await delivery.drop("cannot\nbe handled")
        else:
            await delivery.ack()

    await bus.work("TTA_EVT", "jobs", handler, at_once=2)
    for what in (b"ok", b"retry", b"drop", b"raise"):
        await bus.store(events(what.decode(), subject="tta.evt.job.x", payload=what), timeout_s=2)
    await until(lambda: (b"raise", 2) in log and (b"retry", 3) in log)
    await bus.client.settle()
    info = await api(bus.client, "CONSUMER.INFO.TTA_EVT.jobs")
    assert (info["num_ack_pending"], info["num_pending"]) == (0, 0)
    assert sorted(log) == [
        (b"drop", 1),
        (b"ok", 1),
        (b"raise", 1),
        (b"raise", 2),
        (b"retry", 1),
        (b"retry", 2),
        (b"retry", 3),
    ]


async def test_work_is_bounded_and_settled_once(bus: NatsBus, until: Until) -> None:
    hand: list[Delivery] = []
    most = 0

    async def handler(delivery: Delivery) -> None:
        nonlocal most
        hand.append(delivery)
        most = max(most, len(hand))

    worker = await bus.work("TTA_EVT", "jobs", handler, at_once=3)
    await bus.store(events(*map(str, range(10)), subject="tta.evt.job.x"), timeout_s=2)
    done: list[int] = []
    while len(done) < 10:
        await until(lambda: len(hand) > 0)
        delivery = hand.pop(0)
        await delivery.ack()
        done.append(delivery.message.seq)
        with pytest.raises(RuntimeError):
            await delivery.ack()
    assert most <= 3
    assert sorted(done) == list(range(1, 11))
    await worker.stop()


async def test_silence_means_redelivery(bus: NatsBus, until: Until) -> None:
    tries: list[int] = []

    async def handler(delivery: Delivery) -> None:
        tries.append(delivery.tries)
        if delivery.tries == 2:
            await delivery.ack()

    await bus.work("TTA_EVT", "jobs", handler, at_once=2)
    await bus.store(events("a", subject="tta.evt.job.x"), timeout_s=2)
    await until(lambda: tries == [1, 2])


async def test_workers_share_and_go_on_after_a_crash(
    server: NatsServer, bus: NatsBus, connect: Opener, until: Until
) -> None:
    done: list[int] = []
    by: set[str] = set()

    def worker(name: str) -> Callable[[Delivery], Awaitable[None]]:
        async def handler(delivery: Delivery) -> None:
            by.add(name)
            done.append(delivery.message.seq)
            await delivery.ack()

        return handler

    other = await connect("other")
    await bus.work("TTA_EVT", "jobs", worker("a"), at_once=2)
    await other.work("TTA_EVT", "jobs", worker("b"), at_once=2)
    await bus.store(events(*(f"a{i}" for i in range(50)), subject="tta.evt.job.x"), timeout_s=2)
    await until(lambda: len(set(done)) == 50)
    assert by == {"a", "b"}
    server.kill9()
    await until(lambda: not bus.connected and not other.connected)
    server.start()
    await until(lambda: bus.connected and other.connected)
    await bus.store(events(*(f"b{i}" for i in range(50)), subject="tta.evt.job.x"), timeout_s=2)
    # Sooner than missed heartbeats would tell: the reconnect itself makes the worker ask anew.
    await until(lambda: len(set(done)) == 100, within_s=2)


async def test_a_stopped_worker_gives_back_what_it_cannot_finish(
    bus: NatsBus, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_worker, "_STOP_S", 0.2)
    began: list[int] = []

    async def endless(delivery: Delivery) -> None:
        began.append(delivery.tries)
        await asyncio.Event().wait()

    async def finish(delivery: Delivery) -> None:
        began.append(delivery.tries)
        await delivery.ack()

    worker = await bus.work("TTA_EVT", "jobs", endless, at_once=1)
    await bus.store(events("a", subject="tta.evt.job.x"), timeout_s=2)
    await until(lambda: began == [1])
    async with asyncio.timeout(8):
        await worker.stop()
    await bus.work("TTA_EVT", "jobs", finish, at_once=1)
    await until(lambda: began == [1, 2])


async def test_a_missing_consumer_is_reported_until_it_appears(bus: NatsBus, connect: Opener, until: Until) -> None:
    errors: list[Exception] = []
    other = await connect(on_error=errors.append)

    async def handler(delivery: Delivery) -> None:
        await delivery.ack()

    await other.work("TTA_EVT", "nosuch", handler, at_once=1)
    await until(lambda: len(errors) >= 2)
    assert "TTA_EVT/nosuch" in str(errors[0])
    with pytest.raises(ValueError, match="at_once"):
        await other.work("TTA_EVT", "jobs", handler, at_once=0)
