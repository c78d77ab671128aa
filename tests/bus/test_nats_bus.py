"""The port's promises on the real server: delivery, the log, claims, work, services, the server itself."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest
from msgspec.structs import replace

from tests.bus.kit import Opener, Until, events
from understudy.bus.nats_bus import NatsBus
from understudy.bus.nats_log import ApiRefused
from understudy.bus.nats_message import place
from understudy.bus.port import Ack, BusDown, BusError, LogFull, Received, TooLarge
from understudy.bus.provision import BusSpec, provision
from understudy.bus.server import NatsServer


async def test_messages_arrive_in_order_with_their_reply(connect: Opener, until: Until) -> None:
    a, b = await connect("a"), await connect("b")
    seen: list[Received] = []
    await b.subscribe("s.*", seen.append)
    for i in range(100):
        await a.publish("s.x", b"%d" % i, reply="r")
    await until(lambda: len(seen) == 100)
    assert seen[7] == Received("s.x", b"7", "r")
    assert [int(m.payload) for m in seen] == list(range(100))


async def test_a_stopped_subscription_has_delivered_what_came(connect: Opener) -> None:
    a, b = await connect("a"), await connect("b")
    seen: list[Received] = []
    subscription = await b.subscribe("s", seen.append)
    for _ in range(1000):
        await a.publish("s", b"")
    await a.client.settle()
    await subscription.stop()
    assert len(seen) == 1000
    await a.publish("s", b"")
    await subscription.stop()
    await b.client.settle()
    assert len(seen) == 1000


async def test_one_of_a_queue_group_receives(connect: Opener, until: Until) -> None:
    sender, one, two = await connect("s"), await connect("1"), await connect("2")
    first: list[Received] = []
    second: list[Received] = []
    await one.subscribe("q", first.append, queue="g")
    await two.subscribe("q", second.append, queue="g")
    for _ in range(200):
        await sender.publish("q", b"")
    await until(lambda: len(first) + len(second) == 200)
    assert first and second


async def test_a_message_without_listener_is_reported_to_its_reply(connect: Opener, until: Until) -> None:
    bus = await connect()
    inbox = bus.new_inbox()
    seen: list[Received] = []
    await bus.subscribe(inbox, seen.append)
    await bus.publish("nobody", b"", reply=inbox)
    await until(lambda: len(seen) == 1)
    assert seen[0].no_responders and seen[0].subject == inbox


async def test_a_service_answers_asks_and_discovery(connect: Opener) -> None:
    errors: list[Exception] = []
    a, b = await connect("a"), await connect("b", on_error=errors.append)
    loose: set[asyncio.Task[None]] = set()

    def double(message: Received) -> None:
        if message.payload == b"bad":
            raise LookupError("inside")
        task = asyncio.create_task(b.publish(message.reply, message.payload * 2))
        loose.add(task)

    service = await b.serve("doubler", "1.0.0", "doubles", {"tta.ask.double.it": double})
    assert (await a.request("tta.ask.double.it", b"ab", timeout_s=2)).payload == b"abab"
    with pytest.raises(BusError, match="handler failed"):
        await a.request("tta.ask.double.it", b"bad", timeout_s=2)
    assert isinstance(errors[0], LookupError)
    await b.publish("tta.ask.double.it", b"bad")  # nobody to answer
    ping = json.loads((await a.request("$SRV.PING.doubler", b"", timeout_s=2)).payload)
    assert (ping["name"], ping["version"]) == ("doubler", "1.0.0")
    info = json.loads((await a.request("$SRV.INFO.doubler", b"", timeout_s=2)).payload)
    assert [(e["subject"], e["queue_group"]) for e in info["endpoints"]] == [("tta.ask.double.it", "doubler")]
    stats = json.loads((await a.request("$SRV.STATS.doubler", b"", timeout_s=2)).payload)
    assert (stats["endpoints"][0]["num_requests"], stats["endpoints"][0]["num_errors"]) == (3, 1)
    await service.stop()
    with pytest.raises(BusError):
        await a.request("tta.ask.double.it", b"ab", timeout_s=0.5)
    await asyncio.gather(*loose)


async def test_an_event_is_stored_once_even_across_a_crash(server: NatsServer, bus: NatsBus, until: Until) -> None:
    assert await bus.store(events("a"), timeout_s=2) == [Ack(1)]
    assert await bus.store(events("b"), timeout_s=2) == [Ack(2)]
    assert await bus.store(events("a"), timeout_s=2) == [Ack(1, duplicate=True)]
    server.kill9()
    await until(lambda: not bus.connected)
    server.start()
    await until(lambda: bus.connected)
    assert await bus.store(events("a"), timeout_s=2) == [Ack(1, duplicate=True)]
    assert await bus.store(events("a", "b", "c"), timeout_s=2) == [Ack(1, True), Ack(2, True), Ack(3)]
    assert await bus.last_seq("TTA_EVT") == 3
    used, limit = await bus.stream_bytes("TTA_EVT")
    assert 0 < used < limit


async def test_a_batch_is_stored_whole(bus: NatsBus, until: Until) -> None:
    live: list[Received] = []
    await bus.subscribe("tta.live.>", live.append)
    assert await bus.store([], timeout_s=2) == []
    assert await bus.store(events("a", "b", "c"), timeout_s=2) == [Ack(1), Ack(2), Ack(3)]
    assert await bus.store(events("c", "d"), timeout_s=2) == [Ack(3, True), Ack(4)]
    assert await bus.store(events("x", "x"), timeout_s=2) == [Ack(5), Ack(5, True)]
    await until(lambda: len(live) == 5)
    assert [m.seq for m in live] == [1, 2, 3, 4, 5]
    with pytest.raises(TooLarge):
        await bus.store(events(*map(str, range(1001))), timeout_s=2)
    with pytest.raises(TooLarge):
        await bus.store([*events("p"), *events("q", payload=b"x" * (2 << 20)), *events("r")], timeout_s=2)
    assert await bus.last_seq("TTA_EVT") == 5


async def test_what_is_read_and_what_is_live_agree(bus: NatsBus, until: Until) -> None:
    read: list[Received] = []
    live: list[Received] = []
    await bus.subscribe("tta.live.>", live.append)
    await bus.store(events("a", subject="tta.evt.a.b"), timeout_s=2)
    await bus.store(events("a", subject="tta.evt.a.b"), timeout_s=2)
    await bus.store(events("c", subject="tta.evt.c.d"), timeout_s=2)
    await bus.read("TTA_EVT", ["tta.evt.a.>", "tta.evt.c.>"], read.append)
    await until(lambda: len(read) == 2 and len(live) == 2)
    assert [(m.subject.replace(".live.", ".evt."), m.seq, m.at_ms) for m in live] == [
        (m.subject, m.seq, m.at_ms) for m in read
    ]
    assert read[0].at_ms > 1_700_000_000_000
    with pytest.raises(ApiRefused, match="stream not found"):
        await bus.read("NONE", ["x"], read.append)


async def test_a_full_log_says_so(bus: NatsBus, spec: BusSpec) -> None:
    assert any("max_bytes" in line for line in await provision(bus, replace(spec, evt_max_bytes=300_000)))
    big = b"x" * 100_000
    with pytest.raises(LogFull):
        for i in range(10):
            await bus.store(events(str(i), payload=big), timeout_s=2)
    stored = await bus.last_seq("TTA_EVT")
    with pytest.raises(LogFull):
        await bus.store(events("x", "y", payload=big), timeout_s=2)
    assert await bus.last_seq("TTA_EVT") == stored
    with pytest.raises(BusDown):
        await bus.store(events("z", subject="tta.nostream.a"), timeout_s=2)


async def test_a_claim_has_one_holder(connect: Opener, bus: NatsBus, until: Until) -> None:
    others = [await connect(str(i)) for i in range(4)]
    held = await asyncio.gather(*(o.claim("k", b"%d" % i, ttl_s=60) for i, o in enumerate(others)))
    winners = [i for i, h in enumerate(held) if h is None]
    assert len(winners) == 1
    assert {h for h in held if h is not None} == {b"%d" % winners[0]}
    assert await bus.claim("short", b"a", ttl_s=0.3) is None
    assert await bus.claim("short", b"b", ttl_s=1) == b"a"
    loop = asyncio.get_running_loop()
    end = loop.time() + 5
    while (holder := await bus.claim("short", b"b", ttl_s=60)) is not None and loop.time() < end:
        assert holder == b"a"
        await asyncio.sleep(0.05)
    assert holder is None, "an expired claim can be had, though the server keeps a marker in its place"
    assert await bus.claim("short", b"c", ttl_s=1) == b"b"


def test_reply_subjects_of_both_forms() -> None:
    old = place("$JS.ACK.S.c.2.7.3.1795271566906779965.8")
    new = place("$JS.ACK.dom.acchash.S.c.2.7.3.1795271566906779965.8.token")
    assert old == new
    assert old is not None and (old.tries, old.seq, old.consumer_seq, old.at_ms) == (2, 7, 3, 1795271566906)
    assert place("$JS.FC.S.c.x") is None and place("") is None


async def test_claims_are_possible_again_after_a_crash(server: NatsServer, bus: NatsBus, until: Until) -> None:
    """In memory the whole bucket would be gone until somebody makes it anew. (The last claims may be lost.)"""
    assert await bus.claim("k", b"first", ttl_s=60) is None
    server.kill9()
    await until(lambda: not bus.connected, within_s=3)
    server.start()
    await until(lambda: bus.connected, within_s=3)
    assert await bus.claim("other", b"x", ttl_s=60) is None
    assert await bus.claim("other", b"y", ttl_s=60) == b"x"


async def test_a_backlog_lets_others_run(connect: Opener, until: Until) -> None:
    """A callback that never suspends would run through its whole backlog in one go."""
    bus = await connect()
    seen: list[Received] = []
    turns: list[int] = []

    async def other() -> None:
        while len(seen) < 5000:
            turns.append(len(seen))
            await asyncio.sleep(0)

    await bus.subscribe("flood", seen.append)
    for _ in range(5000):
        await bus.publish("flood", b"")
    await asyncio.wait_for(other(), 10)
    gaps = [b - a for a, b in itertools.pairwise(turns)]
    assert max(gaps) <= 128


@pytest.mark.parametrize("answer", [b"", b"+OK", b"[]", b'{"seq": "one"}', b"\xff\xfe"])
async def test_an_answer_that_no_stream_gives_leaves_the_outcome_unknown(
    connect: Opener, until: Until, answer: bytes
) -> None:
    """Whoever stores waits for a word about each event: it must come whatever is answered."""
    errors: list[Exception] = []
    a, b = await connect("a", on_error=errors.append), await connect("b")
    await b.subscribe("tta.evt.a.b", lambda asked: b.send(asked.reply, answer))
    told: list[Ack | BusError] = []
    (event,) = events("1")
    a.put(event, told.append, timeout_s=2)
    await until(lambda: told)
    assert [type(one) for one in told] == [BusDown] and not errors
    if answer:
        with pytest.raises(BusDown):
            await a.store([event], timeout_s=2)


async def test_who_was_told_that_it_is_stored_is_told_once(bus: NatsBus, connect: Opener, until: Until) -> None:
    errors: list[Exception] = []
    told: list[Ack | BusError] = []

    def done(answer: Ack | BusError) -> None:
        told.append(answer)
        raise BusDown("of what it did next")

    a = await connect("a", on_error=errors.append)
    a.put(events("1")[0], done, timeout_s=2)
    await until(lambda: errors)
    assert told == [Ack(1)] and [str(one) for one in errors] == ["of what it did next"]


Headers = dict[str, str]


def nth(seq: int, last: int) -> Headers:
    return {"Nats-Stream": "HALF", "Nats-Subject": "s", "Nats-Sequence": f"{seq}", "Nats-Last-Sequence": f"{last}"}


END: Headers = {"Status": "204"}


@pytest.mark.parametrize(
    ("arrives", "seen"),
    [
        ([nth(3, 0), nth(5, 3), END], [3, 5]),
        ([nth(3, 0), nth(7, 5), END], [3]),
        ([nth(5, 3), END], None),
        ([END], None),
        ([{"Status": "404"}], []),
    ],
    ids=["whole", "middle_lost", "first_lost", "all_lost", "nothing_there"],
)
async def test_a_batch_whose_beginning_is_lost_is_no_answer(
    connect: Opener, arrives: list[Headers], seen: list[int] | None
) -> None:
    server, bus = await connect("server"), await connect("bus")

    def answer(asked: Received) -> None:
        for headers in arrives:
            server.client.send(asked.reply, b"", headers=headers)

    await server.subscribe("$JS.API.DIRECT.GET.HALF", answer)
    await server.client.settle()
    if seen is None:
        with pytest.raises(BusDown):
            await bus.get_many("HALF", 3, "s", 10)
    else:
        assert [one.seq for one in await bus.get_many("HALF", 3, "s", 10)] == seen
