"""The port's promises, once for every bus: the simulated one on virtual time and the real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from understudy.bus import sim_loop, tracing
from understudy.bus.memory import Broker, MemoryBus
from understudy.bus.nats_bus import NatsBus
from understudy.bus.port import (
    Ack,
    Bus,
    BusDown,
    BusError,
    Closed,
    Delivery,
    LogFull,
    NoResponders,
    Outgoing,
    Received,
    TooLarge,
)
from understudy.bus.provision import BusSpec, ConsumerSpec, provision
from understudy.bus.server import NatsServer

EVT = "TTA_EVT"
JOBS = ConsumerSpec(stream=EVT, name="jobs", subjects=("tta.evt.job.>",), ack_wait_s=0.5, max_deliver=3)
SPEC = BusSpec(
    evt_max_bytes=300_000,
    trace_max_bytes=1 << 20,
    dead_max_bytes=1 << 20,
    claims_max_bytes=1 << 20,
    claims_marker_ttl_s=2.0,
    consumers=(JOBS,),
)


class World:
    """A provisioned server and as many connections as wanted; `errors` is what handlers raised."""

    def __init__(self, open_one: Callable[[str, Callable[[Exception], None]], Awaitable[Any]]) -> None:
        self._open = open_one
        self.opened: list[Any] = []
        self.errors: list[Exception] = []

    async def connect(self, name: str = "tester") -> Any:
        """A connection; the fixture closes it."""
        bus = await self._open(name, self.errors.append)
        self.opened.append(bus)
        return bus

    async def until(self, condition: Callable[[], bool], within: float = 5.0) -> None:
        """Wait until the condition holds."""
        async with asyncio.timeout(within):
            while not condition():  # any condition, not only ours to signal
                await asyncio.sleep(0.005)

    async def quiet(self, bus: Bus) -> None:
        """Let everything arrive that `bus` was sent before now."""
        seen: list[Received] = []
        subscription = await bus.subscribe("quiet", seen.append)
        await bus.publish("quiet", b"")
        await self.until(lambda: len(seen) == 1)
        await subscription.stop()
        await asyncio.sleep(0.02)


Story = Callable[[World], Coroutine[Any, Any, None]]
Play = Callable[[Story], None]


async def told(world: World, story: Story) -> None:
    try:
        await story(world)
    finally:
        for bus in world.opened:
            await bus.close()


def on_memory(story: Story) -> None:
    async def main() -> None:
        broker = Broker(1, SPEC, max_payload=1 << 20)

        async def open_one(name: str, on_error: Callable[[Exception], None]) -> MemoryBus:
            return broker.connect(name, on_error=on_error)

        await told(World(open_one), story)

    sim_loop.run(main, 120)


def on_server(server: NatsServer, story: Story) -> None:
    async def main() -> None:
        async def open_one(name: str, on_error: Callable[[Exception], None]) -> NatsBus:
            return await NatsBus.open(server.url, name=name, on_error=on_error)

        world = World(open_one)
        await provision(await world.connect("provision"), SPEC)
        await told(world, story)

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(main())


@pytest.fixture(params=["memory", "nats"])
def play(request: pytest.FixtureRequest) -> Play:
    """Runs a story on one of the buses."""
    if request.param == "memory":
        return on_memory
    server: NatsServer = request.getfixturevalue("server")
    return lambda story: on_server(server, story)


def events(*ids: str, subject: str = "tta.evt.a.b", payload: bytes = b"x") -> list[Outgoing]:
    return [Outgoing(subject, payload, i) for i in ids]


# --- core ----------------------------------------------------------------------------------------------------------


def test_send_keeps_its_place_among_publishes(play: Play) -> None:
    async def story(world: World) -> None:
        a, b = await world.connect("a"), await world.connect("b")
        seen: list[Received] = []
        await b.subscribe("s.*", seen.append)
        for i in range(0, 100, 2):
            await a.publish("s.x", b"%d" % i)
            a.send("s.x", b"%d" % (i + 1), reply="r")
        assert seen == [], "handlers never run inside send"
        await world.until(lambda: len(seen) == 100)
        assert [int(m.payload) for m in seen] == list(range(100))
        assert seen[1] == Received("s.x", b"1", "r")
        gone: list[Received] = []
        await a.subscribe("gone.x", gone.append)
        a.send("nobody.here", b"", reply="gone.x")
        await world.until(lambda: len(gone) == 1)
        assert gone[0].no_responders
        with pytest.raises(TooLarge):
            a.send("s.x", b"x" * ((1 << 20) + 1))
        await a.close()
        with pytest.raises(Closed):
            a.send("s.x", b"")

    play(story)


def test_publish_and_subscribe_in_order(play: Play) -> None:
    async def story(world: World) -> None:
        a, b = await world.connect("a"), await world.connect("b")
        seen: list[Received] = []
        own: list[Received] = []
        subscription = await b.subscribe("s.x", seen.append)
        await a.subscribe("s.x", own.append)
        await a.publish("s.x", b"0", reply="r")
        assert seen == [], "handlers never run inside publish"
        for i in range(1, 200):
            await a.publish("s.x", b"%d" % i)
        await world.until(lambda: len(seen) == 200 and len(own) == 200)
        assert seen[0] == Received("s.x", b"0", "r")
        assert [int(m.payload) for m in seen] == list(range(200))
        await subscription.stop()
        await subscription.stop()
        await a.publish("s.x", b"")
        await world.until(lambda: len(own) == 201)
        assert len(seen) == 200

    play(story)


def test_wildcards(play: Play) -> None:
    async def story(world: World) -> None:
        bus = await world.connect()
        seen: dict[str, list[str]] = {p: [] for p in ("a.*", "a.>", "a.*.c", "*.b", "a.b")}
        for pattern, subjects in seen.items():
            await bus.subscribe(pattern, lambda m, subjects=subjects: subjects.append(m.subject))
        for subject in ("a", "a.b", "a.b.c", "x.b", "a.b.d"):
            await bus.publish(subject, b"")
        await world.until(lambda: len(seen["a.>"]) == 3)
        assert seen == {
            "a.*": ["a.b"],
            "a.>": ["a.b", "a.b.c", "a.b.d"],
            "a.*.c": ["a.b.c"],
            "*.b": ["a.b", "x.b"],
            "a.b": ["a.b"],
        }

    play(story)


def test_a_queue_group_delivers_once(play: Play) -> None:
    async def story(world: World) -> None:
        sender, one, two = [await world.connect(n) for n in ("s", "1", "2")]
        first: list[bytes] = []
        second: list[bytes] = []
        everything: list[bytes] = []
        await one.subscribe("q", lambda m: first.append(m.payload), queue="g")
        await two.subscribe("q", lambda m: second.append(m.payload), queue="g")
        await two.subscribe("q", lambda m: everything.append(m.payload))
        for i in range(100):
            await sender.publish("q", b"%d" % i)
        await world.until(lambda: len(everything) == 100 and len(first) + len(second) >= 100)
        await world.quiet(sender)
        assert first and second
        assert sorted(first + second) == sorted(everything)

    play(story)


def test_no_responders(play: Play) -> None:
    async def story(world: World) -> None:
        bus, other = await world.connect(), await world.connect()
        seen: list[Received] = []
        elsewhere: list[Received] = []
        inbox = bus.new_inbox()
        await bus.subscribe(inbox + ".>", seen.append)
        await bus.publish("nobody", b"x", reply=f"{inbox}.1")
        await world.until(lambda: len(seen) == 1)
        assert seen[0].no_responders and (seen[0].subject, seen[0].payload) == (f"{inbox}.1", b"")
        with pytest.raises(NoResponders):
            await bus.request("nobody", b"", timeout_s=2)
        subscription = await other.subscribe("nobody", elsewhere.append)
        await bus.publish("nobody", b"x", reply=f"{inbox}.2")
        await world.until(lambda: len(elsewhere) == 1)
        await subscription.stop()
        with pytest.raises(NoResponders):
            await bus.request("nobody", b"", timeout_s=2)
        assert len(seen) == 1

    play(story)


def test_request(play: Play) -> None:
    async def story(world: World) -> None:
        a, b = await world.connect("a"), await world.connect("b")
        tasks: list[asyncio.Task[None]] = []

        def answer(message: Received) -> None:
            if message.payload != b"silence":
                tasks.append(asyncio.create_task(b.publish(message.reply, message.payload[::-1])))

        await b.subscribe("ask", answer)
        answers = await asyncio.gather(*(a.request("ask", b"a%d" % i, timeout_s=2) for i in range(10)))
        assert [m.payload for m in answers] == [b"%da" % i for i in range(10)]
        with pytest.raises(BusDown):
            await a.request("ask", b"silence", timeout_s=0.05)
        await asyncio.gather(*tasks)

    play(story)


def test_too_large(play: Play) -> None:
    async def story(world: World) -> None:
        bus = await world.connect()
        seen: list[Received] = []
        await bus.subscribe("s", seen.append)
        most = bus.max_payload
        with pytest.raises(TooLarge):
            await bus.publish("s", b"x" * (most + 1))
        with pytest.raises(TooLarge):
            await bus.publish("s", b"x" * most, headers={"A": "b"})
        with pytest.raises(TooLarge):
            await bus.request("s", b"x" * (most + 1), timeout_s=1)
        with pytest.raises(TooLarge):
            await bus.store(events("a", payload=b"x" * most), timeout_s=1)
        with pytest.raises(TooLarge):
            await bus.store(events(*map(str, range(1001))), timeout_s=1)
        await bus.publish("s", b"x" * most)
        await world.until(lambda: len(seen) == 1)
        assert await bus.last_seq(EVT) == 0

    play(story)


def test_stream_state(play: Play) -> None:
    async def story(world: World) -> None:
        bus = await world.connect("a")
        empty = await bus.stream_state(EVT)
        assert empty.created
        assert (empty.first_seq <= 1, empty.last_seq) == (True, 0)
        await bus.store(events("1", "2", "3"), timeout_s=2)
        full = await bus.stream_state(EVT)
        assert (full.created, full.first_seq, full.last_seq) == (empty.created, 1, 3)
        with pytest.raises(BusError):
            await bus.stream_state("NO_SUCH")

    play(story)


def test_serve(play: Play) -> None:
    async def story(world: World) -> None:
        a, b, c = [await world.connect(n) for n in "abc"]
        tasks: list[asyncio.Task[None]] = []
        calls: list[str] = []

        def handler(bus: Any, name: str) -> Callable[[Received], None]:
            def handle(message: Received) -> None:
                calls.append(name)
                if message.payload == b"bad":
                    raise LookupError
                if message.reply:
                    tasks.append(asyncio.create_task(bus.publish(message.reply, name.encode())))

            return handle

        services = [
            await bus.serve("echo", "1.2.3", "", {"tta.ask.e.e": handler(bus, n)}) for bus, n in ((b, "b"), (c, "c"))
        ]
        answers = [await a.request("tta.ask.e.e", b"", timeout_s=2) for _ in range(30)]
        assert {m.payload for m in answers} == {b"b", b"c"} and len(calls) == 30, "one member answers each"
        with pytest.raises(BusError, match="handler failed"):
            await a.request("tta.ask.e.e", b"bad", timeout_s=2)
        assert isinstance(world.errors[0], LookupError)
        ping = json.loads((await a.request("$SRV.PING.echo", b"", timeout_s=2)).payload)
        assert (ping["name"], ping["version"], ping["type"]) == ("echo", "1.2.3", "io.nats.micro.v1.ping_response")
        info = json.loads((await a.request("$SRV.INFO.echo", b"", timeout_s=2)).payload)
        assert [(e["subject"], e["queue_group"]) for e in info["endpoints"]] == [("tta.ask.e.e", "echo")]
        pings: list[str] = []
        inbox = a.new_inbox()
        await a.subscribe(inbox, lambda m: pings.append(json.loads(m.payload)["id"]))
        await a.publish("$SRV.PING", b"", reply=inbox)
        await world.until(lambda: len(set(pings)) == 2)
        for service in services:
            await service.stop()
        for subject in ("tta.ask.e.e", "$SRV.PING.echo"):
            with pytest.raises(NoResponders):
                await a.request(subject, b"", timeout_s=1)
        await asyncio.gather(*tasks)

    play(story)


# --- the log -------------------------------------------------------------------------------------------------------


def test_an_event_is_stored_once(play: Play) -> None:
    async def story(world: World) -> None:
        bus = await world.connect()
        assert await bus.last_seq(EVT) == 0
        assert await bus.store([], timeout_s=2) == []
        assert await bus.store(events("a"), timeout_s=2) == [Ack(1)]
        assert await bus.store(events("b"), timeout_s=2) == [Ack(2)]
        assert await bus.store(events("a", subject="tta.evt.other.x"), timeout_s=2) == [Ack(1, duplicate=True)]
        assert await bus.last_seq(EVT) == 2
        with pytest.raises(BusDown):
            await bus.store(events("z", subject="tta.nostream.a"), timeout_s=0.5)
        with pytest.raises(BusError, match="not found"):
            await bus.last_seq("NONE")

    play(story)


def test_a_batch_is_stored_whole(play: Play) -> None:
    async def story(world: World) -> None:
        bus = await world.connect()
        assert await bus.store(events("a", "b", "c"), timeout_s=2) == [Ack(1), Ack(2), Ack(3)]
        assert await bus.store(events("c", "d"), timeout_s=2) == [Ack(3, True), Ack(4)]
        assert await bus.store(events("x", "x"), timeout_s=2) == [Ack(5), Ack(5, True)]
        assert await bus.store(events("a", "d"), timeout_s=2) == [Ack(1, True), Ack(4, True)]
        assert await bus.last_seq(EVT) == 5

    play(story)


def test_what_is_stored_is_live_once_with_its_place(play: Play) -> None:
    async def story(world: World) -> None:
        a, b = await world.connect("a"), await world.connect("b")
        live: list[Received] = []
        raw: list[Received] = []
        read: list[Received] = []
        await b.subscribe("tta.live.>", live.append)
        await b.subscribe("tta.evt.>", raw.append)
        await a.store(events("a", "b", subject="tta.evt.a.b"), timeout_s=2)
        await a.store(events("a", subject="tta.evt.a.b"), timeout_s=2)
        await a.store(events("c", subject="tta.evt.c.d.key"), timeout_s=2)
        await a.read(EVT, ["tta.evt.>"], read.append)
        await world.until(lambda: len(live) == 3 and len(read) == 3)
        await world.quiet(b)
        assert [(m.subject, m.seq) for m in live] == [("tta.live.a.b", 1), ("tta.live.a.b", 2), ("tta.live.c.d.key", 3)]
        assert [(m.subject.replace(".live.", ".evt."), m.payload, m.seq, m.at_ms) for m in live] == [
            (m.subject, m.payload, m.seq, m.at_ms) for m in read
        ]
        assert read[0].at_ms > 1_700_000_000_000 and read[-1].at_ms >= read[0].at_ms
        assert (raw[0].subject, raw[0].seq) == ("tta.evt.a.b", 0), "whoever listens to the subject itself hears it too"

    play(story)


def test_a_core_publish_to_a_stream_is_stored(play: Play) -> None:
    async def story(world: World) -> None:
        bus = await world.connect()
        read: list[Received] = []
        await bus.read("TTA_TRACE", ["tta.trace.>"], read.append)
        await bus.publish("tta.trace.a.b", b"t")
        await world.until(lambda: len(read) == 1)
        assert (read[0].payload, read[0].seq) == (b"t", 1)
        answer = json.loads((await bus.request("tta.trace.a.b", b"u", timeout_s=2)).payload)
        assert (answer["stream"], answer["seq"]) == ("TTA_TRACE", 2)

    play(story)


def test_reading_from_a_position_goes_on(play: Play) -> None:
    async def story(world: World) -> None:
        a, b = await world.connect("a"), await world.connect("b")
        await a.store(events(*(f"o{i}" for i in range(50))), timeout_s=2)
        every: list[int] = []
        some: list[int] = []
        late: list[int] = []
        reader = await b.read(EVT, ["tta.evt.>"], lambda m: every.append(m.seq))
        await b.read(EVT, ["tta.evt.n.*", "tta.evt.m.*"], lambda m: some.append(m.seq), after_seq=10)
        await b.read(EVT, ["tta.evt.>"], lambda m: late.append(m.seq), after_seq=48)
        for i in range(20):
            await a.store(events(f"n{i}", subject=f"tta.evt.{'nmx'[i % 3]}.x"), timeout_s=2)
        await world.until(lambda: len(every) == 70 and len(late) == 22 and len(some) == 14)
        assert every == list(range(1, 71)) and late == list(range(49, 71))
        assert some == [51 + i for i in range(20) if i % 3 != 2]
        await reader.stop()
        await a.store(events("last"), timeout_s=2)
        await world.until(lambda: len(late) == 23)
        assert len(every) == 70
        with pytest.raises(BusError, match="not found"):
            await a.read("NONE", ["x"], lambda m: None)

    play(story)


def test_reading_from_a_time_on(play: Play) -> None:
    async def story(world: World) -> None:
        bus = await world.connect()
        await bus.store(events("early"), timeout_s=2)
        await asyncio.sleep(0.05)
        await bus.store(events("a"), timeout_s=2)
        at = await bus.get(EVT, 2)
        await asyncio.sleep(0.01)
        seen: list[int] = []
        await bus.read(EVT, ["tta.evt.>"], lambda m: seen.append(m.seq), since_ms=at.at_ms)
        await bus.store(events("b"), timeout_s=2)
        await world.until(lambda: len(seen) == 2)
        assert seen == [2, 3]

    play(story)


def test_one_stored_message(play: Play) -> None:
    async def story(world: World) -> None:
        bus = await world.connect()
        await bus.store(events("a", "b"), timeout_s=2)
        got = await bus.get(EVT, 2)
        assert (got.seq, got.payload) == (2, events("b")[0].payload) and got.at_ms > 0
        assert got.subject == events("b")[0].subject
        assert await bus.get(EVT, 3) is None
        await bus.store(events("c", subject="tta.evt.other.x"), timeout_s=2)
        found = await bus.get(EVT, 1, "tta.evt.other.*")
        assert found is not None and found.seq == 3
        assert await bus.get(EVT, 4, "tta.evt.other.*") is None

    play(story)


def test_whether_anybody_listens(play: Play) -> None:
    async def story(world: World) -> None:
        a, b = await world.connect("a"), await world.connect("b")
        traces: dict[str, bool] = {}
        await a.subscribe("traced.*", lambda m: traces.update({m.subject: tracing.nobody_listens(m.payload)}))
        heard: list[Received] = []
        await b.subscribe("inbox.b", heard.append)
        for name in ("b", "nobody"):
            await a.publish(f"inbox.{name}", b"", headers=tracing.trace_only(f"traced.{name}"))
        await world.until(lambda: len(traces) == 2)
        assert traces == {"traced.b": False, "traced.nobody": True}
        await world.quiet(b)
        assert heard == []
        assert not tracing.nobody_listens(b"something else")

    play(story)


def test_a_full_log_says_so(play: Play) -> None:
    async def story(world: World) -> None:
        bus = await world.connect()
        big = b"x" * 90_000
        assert await bus.store(events("1", "2", payload=big), timeout_s=2) == [Ack(1), Ack(2)]
        used, limit = await bus.stream_bytes(EVT)
        assert 180_000 < used < 181_000 and limit == 300_000
        with pytest.raises(LogFull):
            await bus.store(events("3", "4", payload=big), timeout_s=2)
        assert await bus.last_seq(EVT) == 2, "all or nothing"
        assert await bus.store(events("3", payload=big), timeout_s=2) == [Ack(3)]
        with pytest.raises(LogFull):
            await bus.store(events("4", payload=big), timeout_s=2)
        assert await bus.store(events("3", payload=big), timeout_s=2) == [Ack(3, duplicate=True)]
        assert await bus.store(events("small"), timeout_s=2) == [Ack(4)]

    play(story)


def test_bytes_are_counted_as_the_server_does(play: Play) -> None:
    async def story(world: World) -> None:
        bus = await world.connect()
        await bus.store(events("an-id", payload=b"12345"), timeout_s=2)
        await bus.publish("tta.trace.a.b", b"x")
        await world.quiet(bus)
        assert [(await bus.stream_bytes(s))[0] for s in (EVT, "TTA_TRACE")] == [82, 44]

    play(story)


# --- work and claims -----------------------------------------------------------------------------------------------


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
