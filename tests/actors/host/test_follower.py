"""Following the log on the simulated bus: each fact once, ready at the head, what a snapshot saves, what is said"""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from understudy.actors.host import follower
from understudy.actors.host.follower import Follower
from understudy.actors.host.logs import Log
from understudy.actors.host.snapshots import Snapshots
from understudy.actors.selector import core
from understudy.bus import sim_loop
from understudy.bus.memory import Broker
from understudy.bus.memory_bus import MemoryBus
from understudy.bus.memory_log import now_ms
from understudy.bus.nats_bus import NatsBus
from understudy.bus.port import Bus, Outgoing
from understudy.bus.provision import BusSpec, provision
from understudy.bus.server import NatsServer
from understudy.messages.brief import RequestBrief
from understudy.messages.events import AttemptEnded, Event, ModelDegraded, ModelSwitched, RequestEnded
from understudy.messages.step import Happened
from understudy.messages.wire import encode, tag_of

STREAM = "TTA_EVT"


def failed(n: int) -> AttemptEnded:
    return AttemptEnded(at_ms=n, id=f"f{n}", run_id=f"r{n}", attempt=1, model="a", reason="server_error")


class Folding:
    """A follower with the selector's core, and what its core was told."""

    def __init__(self, bus: Bus, folder: Path | None) -> None:
        self.state, self.told, self.out, self.sound = core.State(), list[int](), io.BytesIO(), True
        self.log = Log("selector", "s1", self.out)
        self.events: list[Event] = []
        self.payloads: list[bytes] = []
        settings = core.Settings()
        kept = Snapshots(folder, core, "selector", "s1", settings) if folder is not None else None  # pyright: ignore[reportArgumentType]

        def happened(seq: int, event: Event, payload: bytes) -> None:
            self.told.append(seq)
            self.events.append(event)
            self.payloads.append(payload)
            core.step(self.state, Happened(now_ms(), seq, event, payload), settings)

        self.follower = Follower(core, bus, "tta", self.log, now_ms, happened, lambda: self.sound, kept)  # pyright: ignore[reportArgumentType]

    def lines(self, event: str) -> list[dict[str, Any]]:
        self.log.flush()
        return [line for line in map(json.loads, self.out.getvalue().splitlines()) if line["event"] == event]


def play(story: Callable[[Broker, MemoryBus], Awaitable[None]]) -> None:
    async def main() -> None:
        broker = Broker(1, BusSpec())
        await story(broker, broker.connect("writer"))

    sim_loop.run(main, 3600)


async def store(bus: MemoryBus, *events: Event) -> None:
    for event in events:
        subject = f"tta.evt.{tag_of(type(event)).rsplit('.', 1)[0]}.k"
        await bus.store([Outgoing(subject, encode(event), event.id)], timeout_s=5)


def test_only_what_is_folded_is_read_and_the_position_is_the_logs() -> None:
    async def story(broker: Broker, bus: MemoryBus) -> None:
        note = ModelSwitched(at_ms=1, id="n", run_id="r", model="a", from_model="b", mode="continue", reason="gone")
        newer = Outgoing("tta.evt.request.ended.k", b'{"type":"request.ended.v9","at_ms":1}', "x")
        await store(bus, failed(1), note, failed(2))
        await bus.store([newer, Outgoing("tta.evt.moon.landed", b"not ours", "y")], timeout_s=5)
        one = Folding(broker.connect("one"), None)
        await one.follower.catch_up(one.state)
        assert (one.told, one.follower.seq, one.follower.unknown) == ([1, 3], 5, 1)
        await store(bus, failed(3))
        await asyncio.sleep(1)
        assert (one.told, one.follower.seq) == ([1, 3, 6], 6)

    play(story)


def test_a_fact_that_is_acted_upon_is_read_at_once_and_outcomes_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "EVERY_S", 600.0)

    async def story(broker: Broker, bus: MemoryBus) -> None:
        one = Folding(broker.connect("one"), None)
        await one.follower.catch_up(one.state)
        await asyncio.sleep(10)  # the first look is over
        await store(bus, failed(1), failed(2))
        await asyncio.sleep(10)
        assert one.told == []
        await store(bus, ModelDegraded(at_ms=1, id="d", model="a", reason="rate_limited", was="healthy"))
        await asyncio.sleep(0.2)
        assert one.told == [1, 2, 3]

    play(story)


async def test_recent_facts_are_told_again_though_nothing_came_since_the_snapshot(tmp_path: Path) -> None:
    """On the real server, whose consumer takes its time: the simulated one has told everything when it is stopped."""
    with NatsServer(tmp_path / "nats") as server:
        writer = await NatsBus.open(server.url, name="writer")
        await provision(writer, BusSpec())
        now_ms = time.time() * 1000
        for first in range(0, 20_000, 1000):
            batch = [failed(n) for n in range(first, first + 1000)]
            await writer.store([Outgoing("tta.evt.attempt.ended.k", encode(e), e.id) for e in batch], timeout_s=5)
        one = Folding(writer, tmp_path / "kept")
        await one.follower.catch_up(one.state)
        one.follower.save(one.state)
        two = Folding(writer, tmp_path / "kept")
        await two.follower.catch_up(two.state, since_ms=int(now_ms))
        assert two.lines("snapshot_used")[0]["seq"] == 20_000
        assert (two.told, two.follower.seq) == (list(range(1, 20_001)), 20_000)
        await writer.close()


def test_from_a_snapshot_only_the_rest_is_told(tmp_path: Path) -> None:
    async def story(broker: Broker, bus: MemoryBus) -> None:
        await store(bus, *map(failed, range(5)))
        one = Folding(broker.connect("one"), tmp_path)
        await one.follower.catch_up(one.state)
        one.follower.save(one.state)
        await store(bus, *map(failed, range(5, 8)))
        two = Folding(broker.connect("two"), tmp_path)
        await two.follower.catch_up(two.state)
        assert (two.told, two.follower.seq) == ([6, 7, 8], 8)
        assert two.lines("snapshot_used")[0]["seq"] == 5

    play(story)


def test_recent_facts_are_told_again_and_folded_once(tmp_path: Path) -> None:
    """A selector that reads the trace of the last two minutes must hear which of those runs have ended."""

    async def story(broker: Broker, bus: MemoryBus) -> None:
        await store(bus, failed(1), failed(2))
        await asyncio.sleep(100)
        since = now_ms()
        await store(bus, failed(3), failed(4))
        one = Folding(broker.connect("one"), tmp_path)
        await one.follower.catch_up(one.state)
        one.follower.save(one.state)
        await store(bus, failed(5))
        await asyncio.sleep(1)
        two = Folding(broker.connect("two"), tmp_path)
        await two.follower.catch_up(two.state, since_ms=since)
        assert (two.told, two.follower.seq) == ([3, 4, 5], 5)
        assert two.state.knowledge == one.state.knowledge
        await asyncio.sleep(100)
        old = Folding(broker.connect("old"), tmp_path)  # all of it is older than what is asked for
        await old.follower.catch_up(old.state, since_ms=now_ms() - 1000)
        assert (old.told, old.follower.seq) == ([5], 5)

    play(story)


def test_outcomes_come_light_and_recent_ones_bring_their_bytes() -> None:
    """A sibling that dies now may not have said the ends of a moment ago: whoever says them needs all of them."""

    async def story(broker: Broker, bus: MemoryBus) -> None:
        def ended(n: int) -> RequestEnded:
            return RequestEnded(
                at_ms=n, id=f"end.r{n}", run_id=f"r{n}", instance="s2", outcome="finished", task="t", as_of_seq=0,
                topology="h", digest="d",
            )  # fmt: skip

        await store(bus, ended(1))
        await asyncio.sleep(100)
        since = now_ms()
        await store(bus, ended(2))
        one = Folding(broker.connect("one"), None)
        await one.follower.catch_up(one.state, since_ms=since)
        await store(bus, ended(3))
        await asyncio.sleep(1)
        assert [type(e) for e in one.events] == [RequestBrief, RequestBrief, RequestBrief]
        assert one.payloads == [b"", encode(ended(2)), encode(ended(3))]

    play(story)


def test_a_cut_log_is_said(tmp_path: Path) -> None:
    async def story(broker: Broker, bus: MemoryBus) -> None:
        await store(bus, *map(failed, range(6)))
        one = Folding(broker.connect("one"), tmp_path)
        await one.follower.catch_up(one.state)
        one.follower.save(one.state)
        await store(bus, *map(failed, range(6, 12)))
        log = broker.stream(STREAM)
        for seq in range(1, 10):  # as retention does
            del log.entries[seq]
        log.first = 10
        two = Folding(broker.connect("two"), tmp_path)
        await two.follower.catch_up(two.state)
        assert two.told == [10, 11, 12]
        assert "what lies between is gone" in two.lines("snapshot_unusable")[0]["why"]
        assert (two.lines("log_cut")[0]["first_seq"], two.lines("log_cut")[0]["position"]) == (10, 0)

    play(story)


def test_a_head_that_retention_removed_is_not_waited_for() -> None:
    async def story(broker: Broker, bus: MemoryBus) -> None:
        await store(bus, failed(1), failed(2))
        log = broker.stream(STREAM)
        log.entries.clear()
        log.first = 3
        one = Folding(broker.connect("one"), None)
        await one.follower.catch_up(one.state)
        assert one.told == []

    play(story)


def test_nothing_of_a_state_that_a_step_has_left_half_done_is_kept(tmp_path: Path) -> None:
    async def story(broker: Broker, bus: MemoryBus) -> None:
        await store(bus, failed(1))
        one = Folding(broker.connect("one"), tmp_path)
        await one.follower.catch_up(one.state)
        one.sound = False
        one.follower.save(one.state)
        assert list(tmp_path.iterdir()) == []

    play(story)
