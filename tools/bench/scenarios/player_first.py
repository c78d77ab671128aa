"""Scenario 3, Player first: urgent work starts at once, whatever waits; low work keeps to its share of a provider.

Given two slots for low-priority work and a soft limit of 80 % on provider P, which admits 10 calls at once; 3 playtests
(high) and 50 updates of NPCs (low) are queued in two processes. When a critical turn arrives, then it starts within
50 ms; at most 2 low calls run; no low call starts while P is above 80 %. So that P gets there at all, 30 more playtests
follow, with 4 updates behind them.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

import msgspec
from msgspec.structs import replace

from understudy.bus.client import Client
from understudy.tools.bench.scenarios.ground import PLAIN, Play, Wrong, judged, system
from understudy.tools.fake.script import Fault
from understudy.tools.fake.server import FakeProvider

LIMIT, SOFT, LOW_AT_ONCE = 10, 8, 2
HIGH, LOW, CRITICAL = 3, 50, 5
CROWD, BEHIND = 30, 4
START_MS = 50
WORK_MS = 120
QUEUED_S = 20.0
SELECTORS = ("selector-1", "selector-2")


class Call(msgspec.Struct, frozen=True):
    """One call as P saw it: its priority, and when it was under way (Unix ms)."""

    priority: str
    began_ms: float
    ended_ms: float


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen. `starts_ms`: from each critical ask to its call at P; `crowd`: the calls of the second part."""

    starts_ms: tuple[float, ...]
    waiting: int
    ends: tuple[str, ...]
    instances: tuple[str, ...]
    calls: tuple[Call, ...]
    crowd: tuple[Call, ...]


def running(calls: tuple[Call, ...], at_ms: float, priority: str = "") -> int:
    """How many were under way at a moment, those that began then included."""
    return sum(one.began_ms <= at_ms < one.ended_ms and one.priority.startswith(priority) for one in calls)


def wrong(facts: Facts) -> Wrong:
    """At once, two at most, none above 80 %, and nobody is forgotten."""
    found: Wrong = []
    if len(facts.starts_ms) != CRITICAL or statistics.median(facts.starts_ms) > START_MS:
        found.append(f"critical turns started after {facts.starts_ms} ms")
    if facts.waiting < LOW // 2:
        found.append(f"only {facts.waiting} low ones waited when the first critical turn came")
    if facts.ends != ("stop",) * (HIGH + LOW + CRITICAL):
        found.append(f"ends: {facts.ends}")
    if facts.instances != SELECTORS:
        found.append(f"asked: {facts.instances}")
    low = [running(facts.calls, one.began_ms, "low") for one in facts.calls if one.priority == "low"]
    if len(low) != LOW or max(low) != LOW_AT_ONCE:
        found.append(f"{len(low)} low calls, {max(low, default=0)} at once")
    peak = max((running(facts.crowd, one.began_ms) for one in facts.crowd), default=0)
    above = [running(facts.crowd, one.began_ms) for one in facts.crowd if one.priority == "low"]
    if len(facts.crowd) != CROWD + BEHIND or peak != LIMIT:
        found.append(f"{len(facts.crowd)} calls in the crowd, {peak} at once")
    if len(above) != BEHIND or max(above) > SOFT:
        found.append(f"low calls began as number {above} of those that ran")
    return found


def controls(facts: Facts) -> dict[str, Facts]:
    """Each thing that could be wrong, put in."""
    first = min((one for one in facts.calls if one.priority == "low"), key=lambda one: one.began_ms)
    third = tuple(Call("low", first.began_ms, first.ended_ms) for _ in range(LOW_AT_ONCE))
    full = max(facts.crowd, key=lambda one: running(facts.crowd, one.began_ms))
    pushed = next(one for one in facts.crowd if one.priority == "low")
    rest = tuple(one for one in facts.crowd if one is not pushed)
    return {
        "a critical turn waits": replace(facts, starts_ms=tuple(START_MS + 10 + ms for ms in facts.starts_ms)),
        "nobody waited": replace(facts, waiting=0),
        "a low one is not answered": replace(facts, ends=facts.ends[1:]),
        "one process had all of it": replace(facts, instances=SELECTORS[:1]),
        "three low calls at once": replace(facts, calls=(*facts.calls[len(third) :], *third, first)),
        "a low call begins while P is full": replace(facts, crowd=(*rest, Call("low", full.began_ms, full.ended_ms))),
        "P was never full": replace(facts, crowd=facts.crowd[:SOFT]),
    }


async def scenario_3(play: Play = PLAIN) -> Wrong:
    """Play it."""
    async with FakeProvider({"work": Fault(first_token_delay_ms=WORK_MS, chunks=2)}) as fake:
        facts = await _play(play, fake)
    return judged(facts, wrong, controls(facts))


def _topology(fake: FakeProvider) -> dict[str, Any]:
    limits = {"concurrent": LIMIT, "buffer_ratio": 0.0}
    lanes = {"low": {"share": SOFT / LIMIT, "at_once": LOW_AT_ONCE}}
    return {
        "providers": {"p": {"kind": "openai", "url": fake.url, "limits": limits, "lanes": lanes}},
        "models": {model: {"provider": "p", "slots": 64} for model in ("work@npc", "work@player")},
    }


async def _play(play: Play, fake: FakeProvider) -> Facts:
    async with (
        system(play, fake.url, **_topology(fake)) as (supervisor, player, _),
        await Client.connect(supervisor.url, name="npc") as npc,
    ):
        asks = _Asks(play)
        low = [asyncio.create_task(asks.one(npc, "low", n)) for n in range(LOW)]
        high = [asyncio.create_task(asks.one(player, "high", n)) for n in range(HIGH)]
        await _until(lambda: len(fake.log) >= HIGH + LOW_AT_ONCE)
        waiting = LOW - _count(fake, "low")
        starts, turns = list[float](), list[str]()
        for n in range(CRITICAL):
            asked_ms = time.time() * 1000
            turns.append(await asks.one(player, "critical", n))
            starts.append(max(one.started_ms for one in fake.log if _priority(one) == "critical") - asked_ms)
        ends = [*await asyncio.gather(*low, *high), *turns]
        calls = _calls(fake, 0)
        crowd = [asyncio.create_task(asks.one(player, "high", n)) for n in range(CROWD)]
        await _until(lambda: len(fake.log) >= len(calls) + LIMIT)
        await asyncio.gather(*crowd, *(asks.one(npc, "low", n) for n in range(BEHIND)))
        return Facts(
            starts_ms=tuple(round(ms, 1) for ms in starts),
            waiting=waiting,
            ends=tuple(ends),
            instances=tuple(sorted(asks.instances)),
            calls=calls,
            crowd=_calls(fake, len(calls)),
        )


class _Asks:
    """Asks of players and NPCs, each a user of its own; `instances`: who conducted them."""

    def __init__(self, play: Play) -> None:
        self.instances: set[str] = set()
        self._play = play

    async def one(self, client: Client, priority: str, n: int) -> str:
        """The reason of its end."""
        model = "work@npc" if priority == "low" else "work@player"
        fields = {"user_id": f"{priority}-{n}", **self._play.fields}
        answer = client.generate(self._play.prompt(f"{priority} {n}"), priority=priority, model=model, **fields)
        end = await answer
        self.instances.add(answer.instance)
        return end.finish_reason


async def _until(reached: Any) -> None:
    async with asyncio.timeout(QUEUED_S):
        while not reached():  # noqa: ASYNC110 - the fake's log is a deque of another's; nobody tells of a new entry
            await asyncio.sleep(0.002)


def _priority(seen: Any) -> str:
    return seen.request.messages[-1].text().split()[0]


def _count(fake: FakeProvider, priority: str) -> int:
    return sum(_priority(one) == priority for one in fake.log)


def _calls(fake: FakeProvider, begin: int) -> tuple[Call, ...]:
    return tuple(Call(_priority(one), one.started_ms, one.ended_ms or 0.0) for one in list(fake.log)[begin:])
