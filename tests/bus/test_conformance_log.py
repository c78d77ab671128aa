"""The port's promises, once for every bus: what is stored, and how it is read."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.bus.kit import EVT, events
from tests.bus.stories import Play, World
from tests.waiting import found
from understudy.bus import tracing
from understudy.bus.port import Ack, BusDown, BusError, Closed, Foreign, LogFull, Outgoing, Received, TooLarge


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


def test_putting_is_storing_without_waiting(play: Play) -> None:
    async def story(world: World) -> None:
        bus = await world.connect()
        answers: dict[str, Ack | BusError] = {}

        def put(event: Outgoing) -> None:
            bus.put(event, lambda answer: answers.update({event.msg_id: answer}), timeout_s=1)

        for event in events(*"abcdefgh"):
            put(event)
        assert answers == {}, "nobody is told before the call returns"
        await world.until(lambda: len(answers) == 8)
        assert answers == {name: Ack(n) for n, name in enumerate("abcdefgh", 1)}
        put(*events("c", subject="tta.evt.other.x"))
        put(*events("big", payload=b"x" * (9 << 20)))
        put(*events("lost", subject="tta.nostream.a"))
        await world.until(lambda: len(answers) == 10)
        assert answers["c"] == Ack(3, duplicate=True)
        assert isinstance(answers["big"], TooLarge) and isinstance(answers["lost"], BusDown)
        assert await bus.last_seq(EVT) == 8

    play(story)


def test_putting_while_the_connection_closes_is_told(play: Play) -> None:
    async def story(world: World) -> None:
        bus = await world.connect()
        answers: list[Ack | BusError] = []
        await bus.close()
        bus.put(*events("a"), answers.append, timeout_s=1)
        await world.until(lambda: bool(answers))
        assert isinstance(answers[0], Closed)

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


def test_reading_now_and_then(play: Play) -> None:
    async def story(world: World) -> None:
        a, b = await world.connect("a"), await world.connect("b")
        await a.store(events("old1", "old2"), timeout_s=2)
        often: list[int] = []
        seldom: list[int] = []
        await b.read(EVT, ["tta.evt.>"], lambda m: often.append(m.seq), every_s=0.02)
        reading = await b.read(EVT, ["tta.evt.>"], lambda m: seldom.append(m.seq), after_seq=1, every_s=60)
        await world.until(lambda: often == [1, 2] and seldom == [2])
        for i in range(1200):
            await a.store(events(f"n{i}", subject=f"tta.evt.{'nm'[i % 2]}.{'xy'[i % 2]}"), timeout_s=2)
        await world.until(lambda: len(often) == 1202)
        assert seldom == [2], "nobody has asked for what came since"
        reading.look()
        reading.look()
        await world.until(lambda: len(seldom) == 1201)
        assert often == list(range(1, 1203)) and seldom == often[1:]
        await reading.stop()
        reading.look()
        await a.store(events("late"), timeout_s=2)
        await world.until(lambda: len(often) == 1203)
        await world.quiet(b)
        assert len(seldom) == 1201
        with pytest.raises(BusError, match="not found"):
            await a.read("NONE", ["x"], lambda m: None, every_s=1)

    play(story)


def test_a_mistake_does_not_end_reading_now_and_then(play: Play) -> None:
    async def story(world: World) -> None:
        bus = await world.connect()
        seen: list[int] = []

        def take(m: Received) -> None:
            seen.append(m.seq)
            raise RuntimeError("a mistake")

        await bus.store(events("a", "b"), timeout_s=2)
        await bus.read(EVT, ["tta.evt.>"], take, every_s=0.02)
        await world.until(lambda: seen == [1, 2])
        await bus.store(events("c"), timeout_s=2)
        await world.until(lambda: seen == [1, 2, 3])
        assert [str(e) for e in world.errors] == ["a mistake"] * 3
        world.errors.clear()

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


def test_stored_messages_from_a_time_on(play: Play) -> None:
    async def story(world: World) -> None:
        bus = await world.connect()
        await bus.store(events("old"), timeout_s=2)
        old = await bus.get(EVT, 1)
        assert old is not None
        await asyncio.sleep(0.05)
        since_ms = old.at_ms + 20
        assert await bus.get(EVT, 0, since_ms=since_ms) is None
        assert await bus.get_many(EVT, 0, "tta.evt.>", 9, since_ms=since_ms) == []
        for n, subject in enumerate(("tta.evt.one.y", "tta.evt.other.x", "tta.evt.one.y")):
            await bus.store(events(f"new{n}", subject=subject), timeout_s=2)
        first, other = await bus.get(EVT, 0, since_ms=since_ms), await bus.get(EVT, 9, "tta.evt.other.>", since_ms=1)
        assert first is not None and other is not None and (first.seq, other.seq) == (2, 3)
        found = await bus.get_many(EVT, 0, "tta.evt.one.*", 9, since_ms=since_ms)
        assert [one.seq for one in found] == [2, 4]

    play(story)


@pytest.mark.parametrize("year", [2261, 2263, 9999, 10_889])
def test_nothing_was_stored_since_a_time_to_come(play: Play, year: int) -> None:
    """Run ids reach to the year 10889, the server's clock to 2262."""

    async def story(world: World) -> None:
        bus = await world.connect()
        await bus.store(events("old"), timeout_s=2)
        since_ms = int((year - 1970) * 365.2425 * 86_400_000)
        assert await bus.get(EVT, 0, since_ms=since_ms) is None
        assert await bus.get_many(EVT, 0, "tta.evt.>", 9, since_ms=since_ms) == []

    play(story)


def test_many_stored_messages_of_a_subject_at_once(play: Play) -> None:
    async def story(world: World) -> None:
        bus = await world.connect()
        others = {n: f"tta.evt.other.x{n}" for n in (2, 3, 5, 6, 7)}
        for n in range(1, 9):
            await bus.store(events(f"e{n}", subject=others.get(n, "tta.evt.one.y")), timeout_s=2)
        found = await bus.get_many(EVT, 1, "tta.evt.other.*", 3)
        assert [one.seq for one in found] == [2, 3, 5]
        assert found[0].payload == events("e2")[0].payload and found[0].at_ms > 0
        assert [one.seq for one in await bus.get_many(EVT, 6, "tta.evt.other.*", 100)] == [6, 7]
        assert await bus.get_many(EVT, 8, "tta.evt.other.*", 100) == []

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

        async def traced() -> int:
            return (await bus.stream_bytes("TTA_TRACE"))[0]

        assert await found(traced) == 44
        assert (await bus.stream_bytes(EVT))[0] == 82

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


def test_what_no_store_put_into_the_log_is_no_event(play: Play) -> None:
    """It has its place, so that readers come past it, and nothing to read; other streams need no ids."""

    async def story(world: World) -> None:
        bus = await world.connect()
        heard: list[tuple[int, bytes, bool]] = []
        await bus.subscribe("tta.live.>", lambda m: heard.append((m.seq, m.payload, m.foreign)))
        await bus.publish("tta.evt.a.b", b'{"type":"consent.given.v1"}')
        await bus.store(events("a"), timeout_s=2)
        await bus.publish("tta.trace.selection.made.s", b"made")
        seen_by: dict[float, list[Received]] = {0.0: [], 0.05: []}
        traced: list[Received] = []
        for every_s, seen in seen_by.items():
            await bus.read(EVT, ["tta.evt.>"], seen.append, every_s=every_s)
            await bus.read("TTA_TRACE", ["tta.trace.>"], traced.append, every_s=every_s)
        await world.until(lambda: all(len(seen) == 2 for seen in seen_by.values()) and len(traced) == 2)
        ways = [*seen_by.values(), [await bus.get(EVT, 1), await bus.get(EVT, 2)]]
        expected = [(1, b"", True), (2, events("a")[0].payload, False)]
        assert [[(m.seq, m.payload, m.foreign) for m in way] for way in ways] == [expected] * 3
        assert [(m.payload, m.foreign) for m in traced] == [(b"made", False)] * 2
        await world.until(lambda: heard == expected)
        assert [type(error) for error in world.errors] == [Foreign]  # said once

    play(story)
