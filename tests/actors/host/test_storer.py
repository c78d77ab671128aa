"""Stores leave side by side and in order, are repeated until the log has them, and say so when that takes too long."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests import waiting
from understudy.actors.host.log_sync import Synced
from understudy.actors.host.outbox import LIMIT, Outbox, Overflow
from understudy.actors.host.storer import LOOK_MS, WINDOW, Storer
from understudy.bus import nats_log, sim_loop
from understudy.bus.memory import Broker
from understudy.bus.nats_bus import NatsBus
from understudy.bus.port import BusDown, BusError, Received
from understudy.bus.provision import BusSpec, provision
from understudy.bus.server import NatsServer
from understudy.messages.events import ModelUnloaded
from understudy.messages.step import Store, Stored, StoreFailed
from understudy.messages.wire import decode

Story = Callable[[Broker], Coroutine[Any, Any, None]]


def sim(story: Story, **spec: Any) -> None:
    async def main() -> None:
        await story(Broker(5, BusSpec(**spec)))

    sim_loop.run(main, 600)


def store(n: int, give_up_ms: int = 10_000, instance: str = "i") -> Store:
    return Store(ModelUnloaded(at_ms=0, model=f"m{n}", instance=instance), f"id{n}", key=f"m{n}", give_up_ms=give_up_ms)


def now_ms() -> float:
    return asyncio.get_running_loop().time() * 1000


settle = functools.partial(waiting.until, within_s=120, look_s=0.01)


async def log_of(broker: Broker) -> list[str]:
    """The ids in the log, in its order."""
    found: list[str] = []
    bus = broker.connect("log")
    head = await bus.last_seq("TTA_EVT")
    await bus.read("TTA_EVT", ["tta.evt.>"], lambda m: found.append(decode(m.payload).id))  # type: ignore[union-attr]
    await settle(lambda: len(found) == head)
    return found


@pytest.mark.parametrize("fault", ["none", "answers", "outage", "partition"])
def test_every_event_is_stored_once_and_in_order(fault: str) -> None:
    async def story(broker: Broker) -> None:
        answers: list[Stored | StoreFailed] = []
        storer = Storer(broker.connect("actor"), "tta", now_ms, answers.append)
        task = asyncio.create_task(storer.run())
        count = 3 * WINDOW
        if fault == "answers":
            broker.faults.answer_loss = 0.05
        for n in range(count):
            storer.put(store(n))
            if n == WINDOW + 7 and fault == "outage":
                broker.faults.outage(1.5)
            if n == WINDOW + 7 and fault == "partition":
                broker.faults.partition("actor", until=3.0)
            await asyncio.sleep(0.001)
        broker.faults.answer_loss = 0.0
        await settle(lambda: len(answers) == count)
        assert all(isinstance(one, Stored) for one in answers) and storer.pending == 0
        assert await log_of(broker) == [f"id{n}" for n in range(count)]
        assert sorted(int(one.msg_id[2:]) for one in answers) == list(range(count)), "one answer each"
        task.cancel()

    sim(story)


def test_who_waits_too_long_hears_so_and_is_stored_all_the_same() -> None:
    async def story(broker: Broker) -> None:
        answers: list[Stored | StoreFailed] = []
        storer = Storer(broker.connect("actor"), "tta", now_ms, answers.append)
        task = asyncio.create_task(storer.run())
        broker.faults.outage(30)
        storer.put(store(1, give_up_ms=2_000))
        storer.put(store(2, give_up_ms=60_000))
        await settle(lambda: len(answers) == 1)
        assert (answers[0].msg_id, getattr(answers[0], "code", "")) == ("id1", "bus_down")
        assert 2_000 <= answers[0].at_ms <= 2_000 + 2 * LOOK_MS and storer.pending == 2
        await settle(lambda: len(answers) == 3)
        assert [one.msg_id for one in answers if isinstance(one, Stored)] == ["id1", "id2"]
        assert await log_of(broker) == ["id1", "id2"]
        task.cancel()

    sim(story)


def test_who_waits_too_long_hears_so_in_time_whatever_else_is_under_way() -> None:
    """Also one that is under way itself, and many whose deadlines lie side by side."""

    async def story(broker: Broker) -> None:
        answers: list[Stored | StoreFailed] = []
        until: dict[str, float] = {}
        storer = Storer(broker.connect("actor"), "tta", now_ms, answers.append)
        task = asyncio.create_task(storer.run())
        broker.faults.answer_loss = 1.0
        for n in range(4 * WINDOW):
            patience = 500 if n % 2 else 5_000 - 10 * n
            until[f"id{n}"] = now_ms() + patience
            storer.put(store(n, give_up_ms=patience))
            await asyncio.sleep(0.011)
        await settle(lambda: len(answers) == len(until))
        for one in answers:
            assert isinstance(one, StoreFailed) and one.code == "bus_down"
            assert 0 <= one.at_ms - until[one.msg_id] <= 2 * LOOK_MS, one.msg_id
        assert storer.pending == len(until)
        broker.faults.answer_loss = 0.0
        await settle(lambda: not storer.pending)
        assert await log_of(broker) == list(until)
        task.cancel()

    sim(story)


async def test_what_is_refused_for_good_is_told_at_once_and_holds_up_nobody(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "nats") as server:
        bus = await NatsBus.open(server.url, name="actor")
        try:
            await provision(bus, BusSpec())
            answers: list[Stored | StoreFailed] = []
            storer = Storer(bus, "tta", now_ms, answers.append)
            task = asyncio.create_task(storer.run())
            storer.put(Store(store(0).event, "id0", key="no subject"))
            storer.put(store(1))
            await waiting.until(lambda: len(answers) == 2)
            await nats_log.api(bus.client, "STREAM.UPDATE.TTA_EVT", {**await _config(bus), "sealed": True})
            storer.put(store(2))
            await waiting.until(lambda: len(answers) == 3)
            assert {(one.msg_id, getattr(one, "code", "stored")) for one in answers} == {
                ("id0", "bus_error"),
                ("id1", "stored"),
                ("id2", "api_refused"),
            }
            assert storer.pending == 0
            task.cancel()
        finally:
            await bus.close()


async def _config(bus: NatsBus) -> dict[str, Any]:
    return (await nats_log.api(bus.client, "STREAM.INFO.TTA_EVT"))["config"]


@pytest.mark.parametrize(
    ("code", "err_code", "error"),
    [(400, 10109, nats_log.ApiRefused), (409, 10158, BusDown), (500, 10118, BusDown), (503, 10008, BusDown)],
)
def test_a_refusal_that_may_be_over_soon_is_an_unknown_outcome(code: int, err_code: int, error: type) -> None:
    """10158: the same id is being stored at this moment (a cluster); such an event is sent again, not given up."""
    assert type(nats_log.refusal(nats_log.ApiError(code, err_code, ""))) is error


def test_a_full_log_is_told_at_once() -> None:
    async def story(broker: Broker) -> None:
        answers: list[Stored | StoreFailed] = []
        storer = Storer(broker.connect("actor"), "tta", now_ms, answers.append)
        task = asyncio.create_task(storer.run())
        for n in range(20):
            storer.put(store(n, instance="x" * 1000))
        await settle(lambda: len(answers) == 20)
        refused = [one for one in answers if isinstance(one, StoreFailed)]
        assert refused and all(one.code == "log_full" for one in refused)
        assert storer.pending == 0
        task.cancel()

    sim(story, evt_max_bytes=10_000)


def test_an_endless_outage_of_the_log_ends_the_process_instead_of_its_memory() -> None:
    async def story(broker: Broker) -> None:
        storer = Storer(broker.connect("actor"), "tta", now_ms, lambda _: None)
        broker.faults.stop()
        same = store(1)
        for _ in range(LIMIT):
            storer.put(same)
        assert storer.busy
        with pytest.raises(Overflow):
            storer.put(same)

    sim(story)


# --- the outbox ----------------------------------------------------------------------------------------------------


def test_what_is_sent_while_the_bus_is_down_goes_first_when_it_is_back() -> None:
    async def story(broker: Broker) -> None:
        seen: list[Received] = []
        refused: list[tuple[str, BusError, int]] = []
        out = Outbox(broker.connect("actor"), lambda *what: refused.append(what))
        task = asyncio.create_task(out.run())
        reader = broker.connect("reader")
        await reader.subscribe("s.*", seen.append)
        out.send("s.x", b"0", "")
        await settle(lambda: len(seen) == 1)
        broker.faults.outage(2)
        for n in range(1, 50):
            out.send("s.x", b"%d" % n, "")
        assert len(out) == 49
        await asyncio.sleep(2)
        await settle(lambda: not out)
        out.send("s.x", b"x" * (broker.max_payload + 1), "")
        out.send("s.x", b"50", "")
        await settle(lambda: seen[-1].payload == b"50")
        heard = [int(m.payload) for m in seen]
        assert heard == sorted(heard) and heard[-1] == 50
        assert [(subject, error.code) for subject, error, _ in refused] == [("s.x", "too_large")]
        task.cancel()

    sim(story)


def test_an_endless_outage_ends_the_process_instead_of_its_memory() -> None:
    async def story(broker: Broker) -> None:
        out = Outbox(broker.connect("actor"), lambda *_: None)
        broker.faults.stop()
        for _ in range(LIMIT):
            out.send("s.x", b"", "")
        with pytest.raises(Overflow):
            out.send("s.x", b"", "")

    sim(story)


class SlowDisk:
    """Syncs when told to: the real thread has no part in simulated time."""

    def __init__(self) -> None:
        self.waiting: list[Synced] = []
        self.others: list[int] = []

    def wait(self, synced: Synced, others: int) -> None:
        self.waiting.append(synced)
        self.others.append(others)

    def stop(self) -> None:
        self.waiting.clear()

    def sync(self, failure: Exception | None = None) -> None:
        told, self.waiting = self.waiting, []
        for synced in told:
            synced(failure)


def test_an_event_is_stored_when_the_disk_has_it() -> None:
    async def story(broker: Broker) -> None:
        answers, disk = list[Stored | StoreFailed](), SlowDisk()
        storer = Storer(broker.connect("actor"), "tta", now_ms, answers.append, disk, lambda: 7)
        task = asyncio.create_task(storer.run())
        for n in range(3):
            storer.put(store(n))
        await settle(lambda: len(disk.waiting) == 3)
        assert answers == [] and storer.pending == 3
        assert disk.others == [6] * 3
        disk.sync()
        assert [one.msg_id for one in answers] == ["id0", "id1", "id2"] and storer.pending == 0
        task.cancel()

    sim(story)


def test_answers_on_their_way_count_as_others_who_may_share_a_sync() -> None:
    async def story(broker: Broker) -> None:
        disk = SlowDisk()
        storer = Storer(broker.connect("actor"), "tta", now_ms, lambda _: None, disk)
        task = asyncio.create_task(storer.run())
        for n in range(3):
            storer.put(store(n))
        await settle(lambda: len(disk.waiting) == 3)
        assert disk.others == [2, 1, 0]
        task.cancel()

    sim(story)


def test_who_waits_too_long_for_the_disk_is_told_and_so_is_who_cannot_be_sure() -> None:
    async def story(broker: Broker) -> None:
        answers, disk = list[Stored | StoreFailed](), SlowDisk()
        storer = Storer(broker.connect("actor"), "tta", now_ms, answers.append, disk)
        task = asyncio.create_task(storer.run())
        storer.put(store(0, give_up_ms=500))
        await settle(lambda: len(answers) == 1)
        assert isinstance(answers[0], StoreFailed) and answers[0].code == "bus_down"
        disk.sync(OSError("broken"))
        assert isinstance(answers[1], Stored) and not answers[1].synced and storer.pending == 0
        task.cancel()

    sim(story)
