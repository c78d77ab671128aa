"""Every trap of nats-py and nats-server that this package guards against, once, against the real server."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable

import pytest
from nats.errors import FlushTimeoutError

from tests.bus.kit import Opener, Until
from understudy.bus.nats_bus import NatsBus
from understudy.bus.nats_log import api
from understudy.bus.nats_reader import OrderedReader
from understudy.bus.port import BusDown, BusError, Closed, NoResponders, Outgoing, Received, TooLarge
from understudy.bus.server import NatsServer

Freeze = Callable[[], None]


async def answers(bus: NatsBus) -> bool:
    """Whether the read loop is alive: the server's own "no responders" comes back."""
    try:
        await bus.request("nobody.here", b"", timeout_s=2)
    except NoResponders:
        return True
    except BusError:
        return False
    return False


async def test_a_late_pong_does_not_end_the_read_loop(server: NatsServer, connect: Opener, freeze: Freeze) -> None:
    bus = await connect(watch_s=0)
    freeze()
    with pytest.raises(FlushTimeoutError):
        await bus.client.flush(timeout=0.2)  # pyright: ignore[reportArgumentType]
    assert not await bus.client.settle(timeout_s=0.1)
    server.signal(signal.SIGCONT)
    assert await answers(bus)


async def test_callbacks_that_raise_do_no_harm(server: NatsServer, connect: Opener, until: Until) -> None:
    told: list[str] = []

    def state(word: str) -> None:
        told.append(word)
        raise RuntimeError("state")

    def trouble(error: Exception) -> None:
        raise RuntimeError("error") from error

    bus = await connect(on_state=state, on_error=trouble)

    async def ignore(_: object) -> None:
        pass

    # Our own subscriptions have no queue that could overflow; nats-py's have, and report to the listener that raises.
    await bus.client.subscribe("flood", cb=ignore, pending_msgs_limit=5)
    for _ in range(200):
        await bus.publish("flood", b"")
    await until(lambda: bus.slow_consumers > 0)
    assert await answers(bus)
    server.restart()
    await until(lambda: "reconnected" in told)
    assert await answers(bus)


async def test_the_watchdog_finds_a_dead_read_loop(connect: Opener, until: Until) -> None:
    told: list[str] = []
    seen: list[Received] = []
    bus = await connect(on_state=told.append, watch_s=0.2)
    await bus.subscribe("after", seen.append)
    task = bus.client._reading_task
    assert task is not None
    task.cancel()
    await until(lambda: "reconnected" in told)
    await bus.publish("after", b"1")
    await until(lambda: len(seen) == 1)


async def test_the_watchdog_finds_a_half_open_connection(
    server: NatsServer, connect: Opener, until: Until, freeze: Freeze
) -> None:
    told: list[str] = []
    bus = await connect(on_state=told.append, watch_s=0.2)
    freeze()
    transport = bus.client._transport
    assert transport is not None
    transport.write(b" " * (32 << 20))  # unsent bytes, for which closing in order would wait for ever
    await until(lambda: "disconnected" in told)
    server.signal(signal.SIGCONT)
    await until(lambda: "reconnected" in told, within_s=10)
    assert await answers(bus)


async def test_reconnecting_that_ended_is_started_again(server: NatsServer, connect: Opener, until: Until) -> None:
    told: list[str] = []
    bus = await connect(on_state=told.append, watch_s=0.1)
    server.kill9()
    await until(lambda: "disconnected" in told)
    task = bus.client._reconnection_task
    assert task is not None
    task.cancel()  # what an exception nats-py did not foresee amounts to
    server.start()
    await until(lambda: "reconnected" in told)
    assert await answers(bus)


async def test_an_oversized_request_leaves_nothing(connect: Opener) -> None:
    bus = await connect()
    assert await answers(bus)
    for _ in range(100):
        with pytest.raises(TooLarge):
            await bus.request("x", b"y" * (2 << 20), timeout_s=1)
    assert len(bus.client._resp_map) == 0
    assert await answers(bus)


async def test_what_is_in_flight_fails_with_its_connection(
    server: NatsServer, bus: NatsBus, until: Until, freeze: Freeze
) -> None:
    """The plain client lets it wait for its whole timeout."""
    asked: list[Received] = []
    await bus.subscribe("slow", asked.append)
    waiting = asyncio.create_task(bus.request("slow", b"", timeout_s=300))
    await until(lambda: len(asked) == 1)
    freeze()
    settling = asyncio.create_task(bus.client.settle(timeout_s=300))
    await until(lambda: len(bus.client._pongs) > 0)
    server.kill9()
    async with asyncio.timeout(10):
        with pytest.raises(BusDown):
            await waiting
        assert not await settling
    server.start()
    await until(lambda: bus.connected, within_s=5)
    assert await answers(bus)


async def test_headers_count_against_the_limit(connect: Opener) -> None:
    bus = await connect()
    with pytest.raises(TooLarge):
        await bus.publish("a", b"x" * (bus.max_payload - 10), headers={"k": "v" * 50})
    assert await answers(bus)
    await bus.publish("a", b"x" * (bus.max_payload - 70), headers={"k": "v" * 50})  # just within it
    assert await answers(bus)


async def test_nothing_asked_while_disconnected_is_executed_later(
    server: NatsServer, bus: NatsBus, until: Until
) -> None:
    ghosts: list[Received] = []
    await bus.subscribe("do.it", ghosts.append)
    server.kill9()
    await until(lambda: not bus.connected)
    began = time.monotonic()
    with pytest.raises(BusDown):
        await bus.request("do.it", b"", timeout_s=3)
    with pytest.raises(BusDown):
        await bus.publish("do.it", b"")
    with pytest.raises(BusDown):
        await bus.store([Outgoing("tta.evt.a.b", b"", "ghost")], timeout_s=3)
    assert time.monotonic() - began < 0.5
    server.start()
    await until(lambda: bus.connected)
    await bus.client.settle()
    assert await bus.last_seq("TTA_EVT") == 0
    assert ghosts == []


async def test_a_handler_that_raises_is_reported_and_called_again(connect: Opener, until: Until) -> None:
    errors: list[Exception] = []
    seen: list[bytes] = []
    bus = await connect(on_error=errors.append)

    def handler(message: Received) -> None:
        seen.append(message.payload)
        raise LookupError(message.payload)

    await bus.subscribe("s", handler)
    for i in range(3):
        await bus.publish("s", b"%d" % i)
    await until(lambda: len(seen) == 3)
    assert [type(e) for e in errors] == [LookupError] * 3


async def test_nobody_listening_is_known_at_once(connect: Opener) -> None:
    bus = await connect()
    began = time.monotonic()
    with pytest.raises(NoResponders):
        await bus.request("nobody.here", b"", timeout_s=5)
    assert time.monotonic() - began < 1


async def test_opening_is_bounded(server: NatsServer) -> None:
    async def deaf(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        closing.append(writer)

    closing: list[asyncio.StreamWriter] = []
    listener = await asyncio.start_server(deaf, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    began = time.monotonic()
    try:
        with pytest.raises(BusDown, match=r"'x'"):
            await NatsBus.open(f"nats://127.0.0.1:{port}", name="x", connect_timeout_s=0.5)
    finally:
        listener.close()
        for writer in closing:
            writer.close()
    server.stop()
    with pytest.raises(BusDown, match="ConnectionRefusedError"):
        await NatsBus.open(server.url, name="x", connect_timeout_s=0.5)
    assert time.monotonic() - began < 4


async def test_closing_is_bounded_and_final(server: NatsServer, bus: NatsBus, connect: Opener, freeze: Freeze) -> None:
    told: list[str] = []
    other = await connect(on_state=told.append)
    await other.read("TTA_EVT", ["tta.evt.>"], lambda _: None)
    await other.subscribe("s", lambda _: None)
    freeze()
    began = time.monotonic()
    await other.close()
    assert time.monotonic() - began < 6
    await other.close()
    server.signal(signal.SIGCONT)
    assert told[-1] == "closed"
    with pytest.raises(Closed):
        await other.publish("a", b"")
    with pytest.raises(Closed):
        await other.subscribe("a", lambda _: None)
    with pytest.raises(BusError):
        await other.read("TTA_EVT", ["tta.evt.>"], lambda _: None)


async def test_closing_while_the_server_is_gone(server: NatsServer, bus: NatsBus) -> None:
    await bus.read("TTA_EVT", ["tta.evt.>"], lambda _: None)
    server.kill9()
    began = time.monotonic()
    await bus.close()
    assert time.monotonic() - began < 6


async def test_an_ordered_read_goes_on_after_a_crash(server: NatsServer, bus: NatsBus, until: Until) -> None:
    """nats-py's own ordered consumer stalls for 19 s here."""
    seen: list[Received] = []
    await bus.read("TTA_EVT", ["tta.evt.>"], seen.append)
    for i in range(20):
        await bus.store([Outgoing("tta.evt.a.b", b"%d" % i, f"a{i}")], timeout_s=2)
    await until(lambda: len(seen) == 20)
    server.kill9()
    await until(lambda: not bus.connected, within_s=3)
    server.start()
    back = time.monotonic()
    await until(lambda: bus.connected, within_s=3)
    await bus.store([Outgoing("tta.evt.a.b", b"%d" % i, f"b{i}") for i in range(20)], timeout_s=2)
    await until(lambda: len(seen) == 40, within_s=max(0.1, back + 3 - time.monotonic()))
    assert [m.seq for m in seen] == list(range(1, 41))


async def test_an_ordered_read_survives_a_lost_message(bus: NatsBus, until: Until) -> None:
    seen: list[Received] = []
    reader = OrderedReader(bus.client, "TTA_EVT", ["tta.evt.>"], seen.append, after_seq=0, report=lambda _: None)
    await reader.start()
    (sid, handler), *_ = [(n, h) for n, h in bus.client.direct.items() if "OrderedReader" in h.__qualname__]

    def lose_the_third(subject: str, payload: bytes, reply: str, headers: dict[str, str] | None) -> None:
        if payload != b"2":
            handler(subject, payload, reply, headers)

    bus.client.direct[sid] = lose_the_third
    await bus.store([Outgoing("tta.evt.a.b", b"%d" % i, f"a{i}") for i in range(5)], timeout_s=5)
    await until(lambda: len(seen) == 5 and reader.recreated, within_s=20)  # what is read may come before it is counted
    assert [m.seq for m in seen] == [1, 2, 3, 4, 5]
    await reader.stop()


async def test_an_ordered_read_survives_the_loss_of_its_consumer(bus: NatsBus, until: Until) -> None:
    seen: list[Received] = []
    subscription = await bus.read("TTA_EVT", ["tta.evt.>"], seen.append)
    await bus.store([Outgoing("tta.evt.a.b", b"", "1")], timeout_s=2)
    await until(lambda: len(seen) == 1)
    for name in (await api(bus.client, "CONSUMER.NAMES.TTA_EVT"))["consumers"]:
        if name.startswith("read-"):
            await api(bus.client, f"CONSUMER.DELETE.TTA_EVT.{name}")
    await bus.store([Outgoing("tta.evt.a.b", b"", "2")], timeout_s=2)
    await until(lambda: len(seen) == 2)
    await subscription.stop()
    left = (await api(bus.client, "CONSUMER.NAMES.TTA_EVT"))["consumers"]
    assert left == ["jobs"], "a stopped reader leaves no consumer behind"
    await bus.store([Outgoing("tta.evt.a.b", b"", "3")], timeout_s=2)
    await bus.client.settle()
    assert [m.seq for m in seen] == [1, 2]


async def test_stopping_a_reader_while_it_repairs_itself_is_bounded(bus: NatsBus) -> None:
    """One cancellation in about ten is swallowed here, by nats-py's flush or Python 3.11's wait_for."""
    await bus.store([Outgoing("tta.evt.a.b", b"", "1")], timeout_s=2)
    for turn in range(60):
        reader = OrderedReader(bus.client, "TTA_EVT", ["tta.evt.>"], lambda _: None, after_seq=0, report=lambda _: None)
        await reader.start()
        reader._broken.set()
        for _ in range(turn % 40):
            await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await reader.stop()
    # One that was cancelled in mid-creation is left to the server, which forgets it after five seconds of no interest.
    async with asyncio.timeout(15):
        while (await api(bus.client, "CONSUMER.NAMES.TTA_EVT"))["consumers"] != ["jobs"]:  # only the server knows
            await asyncio.sleep(0.1)
