"""The end of a run, looked for in the log from when its id says that it began."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from understudy.actors.host import questions
from understudy.actors.host.clock import ulid
from understudy.actors.host.questions import Questions
from understudy.bus import sim_loop
from understudy.bus.memory import Broker
from understudy.bus.memory_bus import MemoryBus
from understudy.bus.memory_log import now_ms, now_s
from understudy.bus.port import Outgoing
from understudy.bus.provision import BusSpec
from understudy.messages.events import RequestEnded
from understudy.messages.step import FindEnd, Recall, Recalled
from understudy.messages.topology import ActorPlan
from understudy.messages.wire import encode


def outcome(run_id: str, **fields: Any) -> Outgoing:
    about = {"instance": "s", "outcome": "finished", "task": "t", "as_of_seq": 1, "topology": "h", "digest": "d"}
    event = RequestEnded(at_ms=1, run_id=run_id, **{**about, **fields})
    return Outgoing("tta.evt.request.ended", encode(event), f"end.{run_id}")


class Asker:
    """Questions on a simulated bus, and what came back."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.bus: MemoryBus = broker.connect("selector")
        self.came: list[Recalled] = []
        plan = ActorPlan()
        self.questions = Questions(self.bus, "tta", "_INBOX_A.s", plan, lambda: float(now_ms()), self._feed)

    def _feed(self, answer: Any) -> None:
        self.came.append(answer)

    async def find(self, run_id: str, begun_ms: int) -> Recalled:
        self.questions.put(FindEnd(run_id, begun_ms, "k"))
        while not self.came:
            await asyncio.sleep(0.05)
        return self.came.pop()


def play(story: Any) -> None:
    async def main() -> None:
        await story(Asker(Broker(5, BusSpec())))

    sim_loop.run(main, 100_000)


def test_it_is_found_among_thousands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "FIND_BATCH", 10)

    async def story(asker: Asker) -> None:
        for n in range(50):
            await asker.bus.store([outcome(ulid(now_ms(), n))], timeout_s=1)
        await asyncio.sleep(60)
        mine = ulid(begun := now_ms(), 1000)
        for n in range(25):
            await asker.bus.store([outcome(ulid(now_ms(), n), task=mine)], timeout_s=1)
        await asker.bus.store([outcome(mine, model="m")], timeout_s=1)
        await asker.bus.publish("tta.evt.request.ended", mine.encode())
        for n in range(30):
            await asker.bus.store([outcome(ulid(now_ms(), n + 100))], timeout_s=1)
        asked: list[tuple[int, int]] = []
        get_many = asker.bus.get_many

        async def counted(stream: str, seq: int, subject: str, at_most: int, *, since_ms: int = 0) -> Any:
            asked.append((seq, since_ms))
            return await get_many(stream, seq, subject, at_most, since_ms=since_ms)

        asker.bus.get_many = counted  # pyright: ignore
        found = await asker.find(mine, begun)
        assert isinstance(found.event, RequestEnded) and (found.event.run_id, found.event.model) == (mine, "m")
        assert found.ok and asked == [(0, begun - questions.EARLY_MS), (61, 0), (71, 0)], "from there, not from 1"

    play(story)


@pytest.mark.parametrize("count", [0, 5])
def test_a_run_that_nobody_knows(count: int) -> None:
    async def story(asker: Asker) -> None:
        for n in range(count):
            await asker.bus.store([outcome(ulid(now_ms(), n))], timeout_s=1)
        began = now_s()
        found = await asker.find(ulid(now_ms(), 999), now_ms())
        assert (found.event, found.ok) == (None, True) and now_s() - began < 1

    play(story)


def test_a_day_later_no_run_can_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "FIND_BATCH", 2)

    async def story(asker: Asker) -> None:
        gone = ulid(begun := now_ms(), 999)
        await asyncio.sleep(questions.LONGEST_RUN_MS / 1000 + 1)
        for n in range(6):
            await asker.bus.store([outcome(ulid(now_ms(), n))], timeout_s=1)
        await asker.bus.store([outcome(gone)], timeout_s=1)
        found = await asker.find(gone, begun)
        assert (found.event, found.ok) == (None, True), "the first two say so"

    play(story)


def test_a_log_that_does_not_answer_says_nothing_about_the_run() -> None:
    async def story(asker: Asker) -> None:
        asker.broker.faults.stop()
        began = now_s()
        found = await asker.find(ulid(now_ms(), 1), now_ms())
        assert (found.event, found.ok) == (None, False) and now_s() - began < questions.FIND_S + 4

    play(story)


def test_after_a_short_outage_it_is_found() -> None:
    async def story(asker: Asker) -> None:
        mine = ulid(now_ms(), 1)
        await asker.bus.store([outcome(mine)], timeout_s=1)
        asker.broker.faults.outage(1.5)
        found = await asker.find(mine, now_ms())
        assert found.event is not None and found.ok

    play(story)


def test_what_is_read_by_position_says_too_whether_anybody_knows() -> None:
    async def story(asker: Asker) -> None:
        asker.questions.put(Recall(7, "k"))
        while not asker.came:
            await asyncio.sleep(0.05)
        assert (asker.came[0].event, asker.came[0].ok) == (None, True)
        asker.broker.faults.stop()
        asker.questions.put(Recall(7, "k"))
        while len(asker.came) < 2:
            await asyncio.sleep(0.05)
        assert (asker.came[1].event, asker.came[1].ok) == (None, False)

    play(story)
