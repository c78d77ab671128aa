"""A provider that is kept full: what urgent requests wait more, whether anybody starves, who gets how much of it.

200 low-priority callers of ten users, one of whom has more callers than all others together, keep the queue of a
provider full that admits 10 calls at once. Each figure has a control in the same run: the urgent requests sent as low
ones, users that are not named (one line for all), and callers who cannot wait until they are old. A judgement that does
not find these would find nothing (`controls_missed`).

Then hedging: a model of which every twentieth first token is 600 ms late, without and with a second model. Then kept
answers (`kept.py`): who is answered by another's, which upstream calls repeats cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import msgspec

from understudy.bus.client import Client, turns
from understudy.messages.generate import Finished, Generate
from understudy.messages.topology import Topology
from understudy.messages.wire import decode, encode
from understudy.tools.bench.fairness_hedge import MODELS as HEDGED
from understudy.tools.bench.fairness_hedge import Tail, hedging
from understudy.tools.bench.kept import Crossing, crossing
from understudy.tools.bench.report import Bar, Result, bar, median, quantile
from understudy.tools.bench.stage import fake_provider, machine, running, topology_on

CALL_MS, AT_ONCE = 250, 10
MODEL = "steady@1"
CALLERS = {f"user-{n}": 110 if n == 0 else 10 for n in range(10)}
URGENT, QUICK_URGENT = 80, 12
FLOOD, BELOW = 40, 20
SHORT_MS = 3_000
"""A low request that has no more time than this is not old enough for a turn while higher ones keep coming."""

FAULTS = {
    "steady": {"first_token_delay_ms": CALL_MS, "chunks": 2},
    "tail": {"first_token_delay_ms": 10, "slow_ms": 600, "fail_every": 20, "chunks": 4},
    "even": {"first_token_delay_ms": 10, "chunks": 4},
}


@contextlib.contextmanager
def faults_file() -> Generator[Path]:
    """The models' behaviour, as the fake takes it."""
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder:
        path = Path(folder) / "faults.json"
        path.write_bytes(msgspec.json.encode(FAULTS))
        yield path


def topology(url: str) -> Topology:
    """One provider with a limit, one without."""
    limits = {"concurrent": AT_ONCE, "buffer_ratio": 0.0}
    providers = {"narrow": {"kind": "openai", "url": url, "limits": limits}, "wide": {"kind": "openai", "url": url}}
    models = {MODEL: {"provider": "narrow"}, **{name: {**facts, "provider": "wide"} for name, facts in HEDGED.items()}}
    return topology_on(url, models, providers=providers)


class Asked(msgspec.Struct, frozen=True):
    """One ask: whose, how it ended, how long it took and when it was over (seconds of this process)."""

    user: str
    end: str
    ms: float
    at_s: float


_count = itertools.count()


async def ask(client: Client, priority: Any, user: str, named: bool = True, deadline_ms: int | None = None) -> Asked:
    """One whole reply."""
    prompt = turns(f"Number {next(_count)}.")
    user_id = user if named else None
    body = Generate(messages=prompt, model=MODEL, priority=priority, user_id=user_id, deadline_ms=deadline_ms)
    began = time.perf_counter()
    received = await client.bus.request(f"{client.app}.ask.model.generate", encode(body), timeout_s=65)
    end, now = decode(received.payload), time.perf_counter()
    word = "finished" if isinstance(end, Finished) else str(getattr(end, "code", type(end).__name__))
    return Asked(user, word, (now - began) * 1000, now)


class Crowd:
    """Callers who ask again as soon as they are answered, until told to stop."""

    def __init__(self, client: Client, priority: Any, callers: dict[str, int], named: bool = True) -> None:
        self.found: list[Asked] = []
        self._going = True
        users = [user for user, count in callers.items() for _ in range(count)]
        self._tasks = [asyncio.create_task(self._caller(client, priority, user, named)) for user in users]

    async def _caller(self, client: Client, priority: Any, user: str, named: bool) -> None:
        while self._going:
            self.found.append(await ask(client, priority, user, named))

    async def stop(self) -> None:
        """Nobody asks again; whoever waits is waited for."""
        self._going = False
        await asyncio.gather(*self._tasks)


@contextlib.asynccontextmanager
async def crowd(client: Client, priority: Any, callers: dict[str, int], named: bool = True) -> AsyncGenerator[Crowd]:
    """A crowd that has filled the queue."""
    one = Crowd(client, priority, callers, named)
    try:
        await asyncio.sleep(1.5)
        yield one
    finally:
        await one.stop()


async def urgent(client: Client, priority: Any, count: int) -> list[float]:
    """Urgent requests, one after the other: what each takes."""
    found: list[float] = []
    for _ in range(count):
        one = await ask(client, priority, "player")
        found.append(one.ms if one.end == "finished" else 60_000.0)
        await asyncio.sleep(0.03)
    return found


# --- judging -------------------------------------------------------------------------------------------------------


def added_wait_ms(with_crowd: list[float], alone: list[float]) -> float:
    """95th percentile of what a request takes more than the median one does alone."""
    return quantile([ms - median(alone) for ms in with_crowd], 0.95)


def share_ratio(found: list[Asked], since_s: float, until_s: float) -> float:
    """The most that a user got over the least, while all had requests waiting."""
    served = Counter(dict.fromkeys(CALLERS, 0))
    served.update(one.user for one in found if since_s <= one.at_s <= until_s and one.end == "finished")
    return max(served.values()) / max(1, min(served.values()))


def starved(found: list[Asked]) -> int:
    """How many were not served."""
    return sum(one.end != "finished" for one in found)


# --- the arms ------------------------------------------------------------------------------------------------------


async def _below_a_flood(client: Client, deadline_ms: int | None) -> list[Asked]:
    """Low requests under more high ones than the provider takes, which go on until the last low one has its end."""
    async with crowd(client, "high", {f"flood-{n}": 1 for n in range(FLOOD)}):
        asks = [ask(client, "low", f"below-{n}", deadline_ms=deadline_ms) for n in range(BELOW)]
        return list(await asyncio.gather(*asks))


async def _crowded(client: Client, count: int, alone: list[float]) -> dict[str, Any]:
    """The crowd of low callers, urgent requests among it."""
    async with crowd(client, "low", CALLERS) as low:
        since_s = time.perf_counter()
        waits = await urgent(client, "critical", count)
        until_s = time.perf_counter()
        as_low = await urgent(client, "low", 3)
    async with crowd(client, "low", CALLERS, named=False) as line:
        line_since_s = time.perf_counter()
        await asyncio.sleep(5.0)
        line_until_s = time.perf_counter()
    return {
        "critical_wait_ms": added_wait_ms(waits, alone),
        "critical_ms": {"p50": median(waits), "p95": quantile(waits, 0.95), "alone_p50": median(alone)},
        "share_ratio": share_ratio(low.found, since_s, until_s),
        "served": len(low.found),
        "starved": starved(low.found),
        "control_wait_ms": added_wait_ms(as_low, alone),
        "control_share_ratio": share_ratio(line.found, line_since_s, line_until_s),
    }


async def measure(quick: bool = False) -> Result:
    """Urgent requests alone and in a crowd, a flood, controls, hedging. `quick`: few of each, for tests."""
    count = QUICK_URGENT if quick else URGENT
    with faults_file() as path:
        async with (
            fake_provider(faults=path) as (url, _),
            running(topology(url)) as supervisor,
            await Client.connect(supervisor.url) as client,
        ):
            probes = machine()
            await urgent(client, "critical", 5)
            alone = await urgent(client, "critical", count)
            found = await _crowded(client, count, alone)
            below = await _below_a_flood(client, None)
            short = await _below_a_flood(client, SHORT_MS)
            found["flood_low_ms"] = {"last": max(one.ms for one in below), "p50": median([one.ms for one in below])}
            found["starved"] += starved(below)
            found["control_starved"] = starved(short)
            tail = await hedging(client, url, quick)
    kept = await crossing()
    found |= {"hedging": msgspec.to_builtins(tail), "kept": msgspec.to_builtins(kept)}
    return Result(bench="fairness", bars=_bars(found, tail, kept), detail={**found, **probes})


def _bars(found: dict[str, Any], tail: Tail, kept: Crossing) -> tuple[Bar, ...]:
    missed = (found["control_wait_ms"] <= 50) + (found["control_share_ratio"] <= 1.2) + (found["control_starved"] == 0)
    missed += kept.planted_found != 1
    return (
        bar("critical_wait_ms", found["critical_wait_ms"], "ms", 50),
        bar("starved", found["starved"], "requests", 0),
        bar("share_ratio", found["share_ratio"], "ratio", 1.2),
        bar("hedge_gain", tail.gain, "ratio", 2, None, "higher"),
        bar("hedge_extra_ratio", tail.extra_ratio, "ratio", 0.08),
        bar("cache_crossed", kept.cache_crossed, "requests", 0),
        bar("cache_missed", kept.missed, "requests", 0),
        bar("controls_missed", missed, "controls", 0),
    )
