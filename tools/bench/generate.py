"""What our path adds to a call: direct HTTP, a relay without any logic, and `generate` over NATS, in the same rounds.

Added p50 and time to first token one call at a time, every process wherever the system puts it; calls per second at 32
and CPU per call with selectors and runner on one core, the relay alike, bench and provider on the other.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import aiohttp

from understudy.actors.host.supervisor import Supervisor
from understudy.bus.nats_bus import NatsBus
from understudy.bus.port import Received
from understudy.tools.bench.report import Result, bar, median
from understudy.tools.bench.stage import cpu_s, fake_provider, fsync_ms, pids, running, topology_on

BODY = {"messages": [{"role": "user", "content": "say ok"}], "max_tokens": 16}
ROUNDS, ONE_AT_A_TIME, TOGETHER = 5, 150, 32
LOAD_S = 3.0
Call = Callable[[], Awaitable[float]]
"""One call; returns milliseconds to the first text."""


class Direct:
    """An aiohttp call straight to the provider."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, f"{url}/chat/completions"
        self._body = json.dumps({**BODY, "model": "ok", "stream": True}).encode()

    async def call(self) -> float:
        """Stream to the end."""
        began, first = time.perf_counter(), 0.0
        async with self._session.post(self._url, data=self._body, headers={"Content-Type": "application/json"}) as r:
            async for line in r.content:
                if not first and b'"content":' in line and b'"content":""' not in line.replace(b" ", b""):
                    first = (time.perf_counter() - began) * 1000
        return first


class OverNats:
    """One ask on a subject, answered by one message (plain) or a stream of them."""

    def __init__(self, bus: NatsBus, subject: str, stream: bool) -> None:
        self._bus, self._subject = bus, subject
        self._body = json.dumps({**BODY, "stream": stream}).encode()

    async def whole(self) -> float:
        """A single reply."""
        received = await self._bus.request(self._subject, self._body, timeout_s=30)
        if b"finished" not in received.payload[:60]:
            raise RuntimeError(received.payload[:300].decode())
        return 0.0

    async def streamed(self) -> float:
        """The stream on an own inbox; milliseconds to the first delta."""
        inbox, done = self._bus.new_inbox(), asyncio.get_running_loop().create_future()
        began, first = time.perf_counter(), 0.0

        def on_message(received: Received) -> None:
            nonlocal first
            head = received.payload[:40]
            if not first and b"delta" in head:
                first = (time.perf_counter() - began) * 1000
            if b"finished" in head or b"failed" in head:
                done.set_result(None)

        sub = await self._bus.subscribe(inbox, on_message)
        await self._bus.publish(self._subject, self._body, reply=inbox)
        await asyncio.wait_for(done, 30)
        await sub.stop()
        return first


async def _one_by_one(call: Call, count: int) -> tuple[float, float]:
    """Medians over `count` calls: whole milliseconds, milliseconds to the first text."""
    whole, first = list[float](), list[float]()
    for _ in range(count):
        began = time.perf_counter()
        first.append(await call())
        whole.append((time.perf_counter() - began) * 1000)
    return median(whole), median(first)


async def _together(call: Call) -> float:
    """Calls per second at 32 in flight."""
    until, done = time.perf_counter() + LOAD_S, 0

    async def worker() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await call()
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(TOGETHER)))
    return done / (time.perf_counter() - began)


async def measure() -> Result:
    """All arms, interleaved."""
    async with fake_provider() as (url, provider):
        topology = topology_on(url, {"ok": {"quality": {"default": 0.9}}})
        async with running(topology) as supervisor, aiohttp.ClientSession() as session:
            return await _measure(url, provider, supervisor, session)


@contextlib.contextmanager
def on_one_core(these: list[int], others: list[int]) -> Generator[None]:
    """Processes on one core, others on another, while this is open."""
    cores = os.sched_getaffinity(0)
    one, other = sorted(cores)[:2]
    for pid in (*these, *others):
        os.sched_setaffinity(pid, {one} if pid in these else {other})
    try:
        yield
    finally:
        for pid in (*these, *others):
            os.sched_setaffinity(pid, cores)


async def _measure(url: str, provider: int, supervisor: Supervisor, session: aiohttp.ClientSession) -> Result:
    ours = [*pids(supervisor, "selector"), *pids(supervisor, "runner")]
    user, password = "operator", supervisor.operator_password
    bus = await NatsBus.open(supervisor.url, name="bench", user=user, password=password)
    relay = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "understudy.tools.bench.relay", supervisor.url, user, password, url,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert relay.stdout is not None
    await relay.stdout.readline()
    direct = Direct(session, url)
    arms: dict[str, tuple[Call, Call]] = {
        "direct": (direct.call, direct.call),
        "relay": (OverNats(bus, "bench.relay", False).whole, OverNats(bus, "bench.relay", True).streamed),
        "ours": (
            OverNats(bus, "tta.ask.model.generate", False).whole,
            OverNats(bus, "tta.ask.model.generate", True).streamed,
        ),
    }
    figures: dict[str, dict[str, list[float]]] = {a: {"p50": [], "ttft": [], "rate": [], "cpu": []} for a in arms}
    try:
        for _ in range(ROUNDS):
            for arm, (whole, streamed) in arms.items():
                await _latency(figures[arm], whole, streamed)
                with on_one_core([*ours, relay.pid], [provider, os.getpid()]):
                    await _load(figures[arm], whole, ours)
    finally:
        relay.terminate()
        await relay.wait()
        await bus.close()
    return _result(figures)


async def _latency(found: dict[str, list[float]], whole: Call, streamed: Call) -> None:
    await _one_by_one(whole, 20)
    found["p50"].append((await _one_by_one(whole, ONE_AT_A_TIME))[0])
    found["ttft"].append((await _one_by_one(streamed, ONE_AT_A_TIME))[1])


async def _load(found: dict[str, list[float]], whole: Call, ours: list[int]) -> None:
    before, began = sum(map(cpu_s, ours)), time.perf_counter()
    rate = await _together(whole)
    spent = sum(map(cpu_s, ours)) - before
    found["rate"].append(rate)
    found["cpu"].append(spent * 1000 / (rate * (time.perf_counter() - began)))


def _result(figures: dict[str, dict[str, list[float]]]) -> Result:
    m: dict[str, dict[str, float]] = {a: {k: median(v) for k, v in f.items()} for a, f in figures.items()}
    bars = (
        bar("added_p50_ms", m["ours"]["p50"] - m["direct"]["p50"], "ms", 2.0, 0.8),
        bar("calls_per_s", m["ours"]["rate"], "1/s", 1000, 1500, "higher"),
        bar("calls_ratio", m["ours"]["rate"] / m["relay"]["rate"], "x relay", 0.5, None, "higher"),
        bar("added_ttft_ms", m["ours"]["ttft"] - m["direct"]["ttft"], "ms", 1.5, 0.7),
        bar("cpu_ms_per_call", m["ours"]["cpu"], "ms"),
    )
    detail: dict[str, Any] = {"fsync_ms": round(fsync_ms(), 4), "medians": m, "rounds": ROUNDS, "load": os.getloadavg()}
    return Result(bench="generate", bars=bars, detail=detail)
