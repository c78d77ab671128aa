"""What our path adds to a call: direct HTTP, a relay without any logic, and `generate` over NATS, in the same rounds.

Added p50 and time to first token one call at a time, every process wherever the system puts it; calls per second at 32
and CPU per call with one selector and the runner on one core, and the relay alike. A bare echo tells how fast the bus
is now. `two_selectors` in the detail are our figures with two of them, as the committed topology has, on that core.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import aiohttp
import msgspec

from understudy.actors.host.supervisor import Supervisor
from understudy.bus.nats_bus import NatsBus
from understudy.bus.port import Received
from understudy.tools.bench.report import Result, bar, median
from understudy.tools.bench.stage import bare_process, cpu_s, fake_provider, machine, pids, running, topology_on

BODY = {"messages": [{"role": "user", "content": "say ok"}], "max_tokens": 16}
TOGETHER = 32
Call = Callable[[], Awaitable[float]]
"""One call; returns milliseconds to the first text."""


class Scale(msgspec.Struct, frozen=True):
    """How much is measured; the quick one only shows that the bench works."""

    rounds: int = 5
    rounds_of_two: int = 3
    one_by_one: int = 150
    load_s: float = 3.0


QUICK = Scale(rounds=1, rounds_of_two=1, one_by_one=10, load_s=0.3)
Figures = dict[str, dict[str, list[float]]]


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

    async def echoed(self) -> float:
        """Whatever comes back."""
        await self._bus.request(self._subject, self._body, timeout_s=30)
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

        sub = await self._bus.subscribe(inbox, on_message, settle=False)  # as our client
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


async def _together(call: Call, load_s: float) -> float:
    """Calls per second at 32 in flight."""
    until, done = time.perf_counter() + load_s, 0

    async def worker() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await call()
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(TOGETHER)))
    return done / (time.perf_counter() - began)


async def measure(quick: bool = False) -> Result:
    """All arms, interleaved; then once more with two selectors."""
    scale = QUICK if quick else Scale()
    async with fake_provider() as (url, _), aiohttp.ClientSession() as session:
        found: list[tuple[Figures, float]] = []
        for selectors, rounds in ((1, scale.rounds), (2, scale.rounds_of_two)):
            topology = topology_on(url, {"ok": {"quality": {"default": 0.9}}}, selectors)
            async with running(topology) as supervisor:
                found.append(await _measure(url, supervisor, session, scale, rounds))
    (figures, echo_ms), (of_two, _) = found
    return _result(figures, echo_ms, of_two)


@contextlib.contextmanager
def on_one_core(processes: list[int]) -> Generator[None]:
    """These processes on one core while this is open."""
    cores = os.sched_getaffinity(0)
    for pid in processes:
        os.sched_setaffinity(pid, {min(cores)})
    try:
        yield
    finally:
        for pid in processes:
            os.sched_setaffinity(pid, cores)


async def _measure(
    url: str, supervisor: Supervisor, session: aiohttp.ClientSession, scale: Scale, rounds: int
) -> tuple[Figures, float]:
    operator = ("operator", supervisor.operator_password)
    bus = await NatsBus.open(supervisor.url, name="bench", user=operator[0], password=operator[1])
    try:
        async with (
            bare_process("relay", supervisor.url, *operator, url) as relay,
            bare_process("peers", "echo", supervisor.url, *operator, "--reply-bytes", "500"),
        ):
            ours = [*pids(supervisor, "selector"), *pids(supervisor, "runner")]
            return await _rounds(bus, Direct(session, url), ours, relay, scale, rounds)
    finally:
        await bus.close()


async def _rounds(
    bus: NatsBus, direct: Direct, ours: list[int], relay: int, scale: Scale, rounds: int
) -> tuple[Figures, float]:
    arms: dict[str, tuple[Call, Call]] = {
        "direct": (direct.call, direct.call),
        "relay": (OverNats(bus, "bench.relay", False).whole, OverNats(bus, "bench.relay", True).streamed),
        "ours": (
            OverNats(bus, "tta.ask.model.generate", False).whole,
            OverNats(bus, "tta.ask.model.generate", True).streamed,
        ),
    }
    figures: Figures = {a: {"p50": [], "ttft": [], "rate": [], "cpu": []} for a in arms}
    echo: list[float] = []
    for _ in range(rounds):
        echo.append((await _one_by_one(OverNats(bus, "bench.echo", False).echoed, scale.one_by_one))[0])
        for arm, (whole, streamed) in arms.items():
            await _latency(figures[arm], whole, streamed, scale.one_by_one)
            with on_one_core([*ours, relay]):
                await _load(figures[arm], whole, ours, scale.load_s)
    return figures, median(echo)


async def _latency(found: dict[str, list[float]], whole: Call, streamed: Call, count: int) -> None:
    await _one_by_one(whole, 20)
    found["p50"].append((await _one_by_one(whole, count))[0])
    found["ttft"].append((await _one_by_one(streamed, count))[1])


async def _load(found: dict[str, list[float]], whole: Call, ours: list[int], load_s: float) -> None:
    before, began = sum(map(cpu_s, ours)), time.perf_counter()
    rate = await _together(whole, load_s)
    spent = sum(map(cpu_s, ours)) - before
    found["rate"].append(rate)
    found["cpu"].append(spent * 1000 / (rate * (time.perf_counter() - began)))


def _result(figures: Figures, echo_ms: float, of_two: Figures) -> Result:
    m, two = _medians(figures), _medians(of_two)
    found = _found(m)
    bars = (
        bar("added_p50_ms", found["added_p50_ms"], "ms", 2.0, 0.8),
        bar("calls_per_s", found["calls_per_s"], "1/s", 1000, 1500, "higher"),
        bar("calls_ratio", found["calls_ratio"], "x relay", 0.5, None, "higher"),
        bar("added_ttft_ms", found["added_ttft_ms"], "ms", 1.5, 0.7),
        bar("cpu_ms_per_call", found["cpu_ms_per_call"], "ms"),
    )
    probes = {**machine(), "echo_ms": round(echo_ms, 4)}
    detail: dict[str, Any] = {**probes, "medians": m, "rounds": len(figures["ours"]["rate"]), "load": os.getloadavg()}
    detail["two_selectors"] = _found(two)
    return Result(bench="generate", bars=bars, detail=detail)


def _medians(figures: Figures) -> dict[str, dict[str, float]]:
    return {arm: {name: median(all_of_it) for name, all_of_it in found.items()} for arm, found in figures.items()}


def _found(m: dict[str, dict[str, float]]) -> dict[str, float]:
    return {
        "added_p50_ms": m["ours"]["p50"] - m["direct"]["p50"],
        "calls_per_s": m["ours"]["rate"],
        "calls_ratio": m["ours"]["rate"] / m["relay"]["rate"],
        "added_ttft_ms": m["ours"]["ttft"] - m["direct"]["ttft"],
        "cpu_ms_per_call": m["ours"]["cpu"],
    }
