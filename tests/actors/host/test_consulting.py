"""Facts that are read when they are needed: up to the moment of the question, and not around one that is unreadable."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from understudy.actors.host.consulting import Consulting
from understudy.actors.host.questions import LOOK_S, Questions
from understudy.bus import sim_loop
from understudy.bus.memory import Broker
from understudy.bus.memory_bus import MemoryBus
from understudy.bus.memory_log import now_ms
from understudy.bus.port import Outgoing
from understudy.bus.provision import BusSpec
from understudy.messages.consent import ConsentGiven, ConsentWithdrawn
from understudy.messages.events import Event, FeedbackGiven
from understudy.messages.step import Consult, Consulted, Happened
from understudy.messages.topology import ActorPlan
from understudy.messages.wire import encode, tag_of


class Reader:
    def __init__(self, bus: MemoryBus) -> None:
        self.fed: list[Any] = []
        self.consulting = Consulting(bus, "tta", "consent", now_ms, self.fed.append)

    def told(self) -> list[Any]:
        """Positions of facts, and answers, in their order."""
        return [m.seq if isinstance(m, Happened) else (m.key, m.ok) for m in self.fed]


def play(story: Callable[[Broker, MemoryBus], Awaitable[None]]) -> None:
    async def main() -> None:
        broker = Broker(1, BusSpec())
        await story(broker, broker.connect("writer"))

    sim_loop.run(main, 3600)


def given(n: int) -> ConsentGiven:
    return ConsentGiven(at_ms=n, id=f"g{n}", provider="far", scope="user", who=str(n), version="v")


async def store(bus: MemoryBus, *events: Event) -> None:
    for event in events:
        subject = f"tta.evt.{tag_of(type(event)).rsplit('.', 1)[0]}"
        await bus.store([Outgoing(subject, encode(event), event.id)], timeout_s=5)


def test_an_answer_comes_after_all_that_was_stored_before_the_question() -> None:
    async def story(broker: Broker, bus: MemoryBus) -> None:
        one = Reader(broker.connect("one"))
        await store(bus, given(1), FeedbackGiven(at_ms=1, id="n", run_id="r", rating=1.0), given(2))
        one.consulting.put("a")
        await asyncio.sleep(1)
        assert one.told() == [1, 3, ("a", True)]
        await store(bus, ConsentWithdrawn(at_ms=1, id="w", provider="far", scope="user", who="1"))
        one.consulting.put("b")
        one.consulting.put("c")
        await asyncio.sleep(1)
        assert one.told()[3:] == [4, ("b", True), ("c", True)]
        assert [m.ok for m in one.fed if isinstance(m, Consulted)] == [True] * 3

    play(story)


def test_a_question_during_a_reading_waits_for_the_next_one() -> None:
    async def story(broker: Broker, bus: MemoryBus) -> None:
        one = Reader(broker.connect("one"))
        one.consulting.put("a")
        await asyncio.sleep(0)  # its reading is under way
        await store(bus, given(1))
        one.consulting.put("b")
        await asyncio.sleep(1)
        assert one.told().index(1) < one.told().index(("b", True))

    play(story)


def test_what_cannot_be_read_is_not_passed_over() -> None:
    async def story(broker: Broker, bus: MemoryBus) -> None:
        one = Reader(broker.connect("one"))
        newer = Outgoing("tta.evt.consent.forbidden", b'{"type":"consent.forbidden.v9","at_ms":1}', "x")
        await bus.store([newer], timeout_s=5)
        await store(bus, given(1))
        for key in ("a", "b"):
            one.consulting.put(key)
            await asyncio.sleep(1)
        assert one.told() == [("a", False), ("b", False)]

    play(story)


def test_a_log_that_cannot_be_reached_is_no_yes() -> None:
    async def story(broker: Broker, bus: MemoryBus) -> None:
        mine = broker.connect("one")
        one = Reader(mine)
        mine.crash()
        one.consulting.put("a")
        await asyncio.sleep(60)
        assert one.told() == [("a", False)]

    play(story)


def test_what_no_store_put_there_is_passed_over() -> None:
    """A component could have the server's own words stored on a subject of consent: that must shut nothing."""

    async def story(broker: Broker, bus: MemoryBus) -> None:
        one = Reader(broker.connect("one"))
        await store(bus, given(1))
        await bus.publish("tta.evt.consent.given", b'{"type":"io.nats.jetstream.api.v1.stream_info_response"}')
        await bus.publish("tta.evt.consent.given", encode(given(1)))
        await store(bus, given(2))
        one.consulting.put("a")
        await asyncio.sleep(1)
        assert one.told() == [1, 4, ("a", True)]

    play(story)


def test_nothing_is_read_before_somebody_asks() -> None:
    """Most runners have models of this machine alone."""

    async def story(broker: Broker, bus: MemoryBus) -> None:
        one = Reader(broker.connect("one"))
        await store(bus, given(1))
        assert one.consulting.look() is None
        await asyncio.sleep(1)
        assert one.told() == []
        one.consulting.put("a")
        await asyncio.sleep(1)
        assert one.told() == [1, ("a", True)]

    play(story)


def test_a_withdrawal_that_nobody_heard_of_is_read_within_a_second_of_what_rests_on_it() -> None:
    async def story(broker: Broker, bus: MemoryBus) -> None:
        mine, fed, busy = broker.connect("one"), list[Any](), 0
        plan = ActorPlan(consults=("consent.given", "consent.withdrawn"))
        questions = Questions(mine, "tta", "_INBOX_A.one", plan, now_ms, fed.append)
        looking = asyncio.create_task(questions.keep_looking(lambda: busy))  # `listen` is never called: no ring comes
        questions.put(Consult("a"))
        await asyncio.sleep(0.1)
        await store(bus, given(1))
        await asyncio.sleep(LOOK_S * 2.5)
        assert [m for m in fed if isinstance(m, Happened)] == []  # nothing rests on it
        busy = 1
        await asyncio.sleep(LOOK_S * 1.5)
        assert [m.seq for m in fed if isinstance(m, Happened)] == [1]
        looking.cancel()

    play(story)
