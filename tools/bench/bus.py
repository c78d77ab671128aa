"""What the selector adds to the bus: `select` beside a bare echo, our relay beside a bare relay, memory under load.

The bare sides are processes of their own with nats-py and uvloop on the same server (`peers.py`), as many echoes as
selectors, and see the same bytes. Every ask has a prompt of another length, so that no answer is a remembered one.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
import nats
from msgspec.structs import replace
from nats.aio.client import Client
from nats.aio.msg import Msg

from understudy.actors.host.supervisor import Supervisor
from understudy.messages.catalogue import Select, Selected
from understudy.messages.generate import Generate, Requirements, Turn
from understudy.messages.wire import decode_as, encode
from understudy.tools.bench.peers import MODEL
from understudy.tools.bench.report import Result, bar, median, quantile
from understudy.tools.bench.stage import bare_process, cpu_s, machine, pids, rss_mb, running, topology_on

NOWHERE = "http://127.0.0.1:9/v1"
SELECT, ECHO = "tta.ask.model.select", "bench.echo"
TOGETHER = 64
STREAMS, CHUNKS_PER_S = 50, 40.0
Call = Callable[[], Awaitable[object]]


class Scale(msgspec.Struct, frozen=True):
    """How long everything takes; the quick one only shows that the bench works."""

    rounds: int = 5
    catalogues: tuple[int, ...] = (3, 400)
    turns: int = 40
    one_by_one: int = 200
    together_s: float = 1.5
    stream_s: float = 4.0
    load_s: float = 60.0


QUICK = Scale(rounds=1, catalogues=(3,), turns=1, one_by_one=30, together_s=0.2, stream_s=0.5, load_s=1.0)


async def measure(quick: bool = False) -> Result:
    """Select with each catalogue, then the relay and the memory."""
    scale = QUICK if quick else Scale()
    selects = {str(n): await _select(n, scale) for n in scale.catalogues}
    relay = await _relay(scale)
    bars = (
        bar("select_p50_ratio", max(s["p50_ratio"] for s in selects.values()), "x echo", 1.5, 1.3),
        bar("select_rate_ratio", min(s["rate_ratio"] for s in selects.values()), "x echo", 0.5, 0.7, "higher"),
        bar("relay_ratio", relay["ratio"], "x relay", 1.3, 1.1),
        bar("relay_added_ms", relay["added_ms"], "ms", 0.35),
        bar("rss_rest_mb", relay["rss_rest_mb"], "MB", 120),
        bar("rss_load_mb", relay["rss_load_mb"], "MB", 200),
    )
    detail = {**machine(), "load": os.getloadavg(), "select": selects, "relay": relay}
    return Result(bench="bus", bars=bars, detail=detail)


# --- select ----------------------------------------------------------------------------------------------------------


async def _select(models: int, scale: Scale) -> dict[str, Any]:
    """Half of the catalogue cannot do what is asked for, windows and prices differ."""
    catalogue = {
        f"lab/model-{n}": {
            "quality": {"default": round(0.5 + n % 40 / 100, 2)},
            "capabilities": ["chat", "json"] if n % 2 == 0 or models < 10 else ["chat"],
            "context_tokens": (4_096, 32_768, 131_072)[n % 3],
            "usd_per_mtok_out": n % 7 * 0.5,
        }
        for n in range(models)
    }
    luck = random.Random(models)
    asks = [_ask_bytes(luck.randrange(20, 2_000)) for _ in range(512)]
    async with running(topology_on(NOWHERE, catalogue)) as supervisor, _connected(supervisor) as nc:
        answer = decode_as(Selected, (await nc.request(SELECT, asks[0], timeout=10)).data)
        sizes = [len((await nc.request(SELECT, one, timeout=10)).data) for one in asks[:50]]
        reply_bytes = int(median(sizes))
        selectors = pids(supervisor, "selector")
        async with contextlib.AsyncExitStack() as stack:
            echoes = [
                await stack.enter_async_context(_peer(supervisor, "echo", "--reply-bytes", str(reply_bytes)))
                for _ in selectors
            ]
            found = await _compare(nc, asks, {"select": (SELECT, selectors), "echo": (ECHO, echoes)}, scale)
        stated = {
            "candidates": {"models": models, "ranked": len(answer.chain), "rejected": answer.rejected},
            "request_bytes": [min(map(len, asks)), max(map(len, asks))],
            "reply_bytes": reply_bytes,
            "responders": len(selectors),
        }
        return stated | found


def _ask_bytes(chars: int) -> bytes:
    words = Turn(role="user", content="x" * chars)
    return encode(Select(messages=(words,), requirements=Requirements(capabilities=("json",)), max_tokens=100))


async def _compare(
    nc: Client, asks: list[bytes], arms: dict[str, tuple[str, list[int]]], scale: Scale
) -> dict[str, Any]:
    p50: dict[str, list[float]] = {arm: [] for arm in arms}
    rate: dict[str, list[float]] = {arm: [] for arm in arms}
    busy: dict[str, dict[str, list[float]]] = {arm: {"client": [], "responders": []} for arm in arms}
    bodies = itertools.cycle(asks)

    async def call(subject: str) -> None:
        await nc.request(subject, next(bodies), timeout=10)

    # Short turns, many of them: where the machine places its processes changes from second to second. Each follows a
    # load of its own kind: on an idle machine waking up takes longer than anything that the arms differ in.
    for _ in range(scale.turns):
        for arm, (subject, _) in arms.items():
            await _together(partial(call, subject), scale.together_s / 10)
            p50[arm].append(await _one_by_one(partial(call, subject), scale.one_by_one))
    for _ in range(scale.rounds):
        for arm, (subject, responders) in arms.items():
            before = [cpu_s(os.getpid()), *map(cpu_s, responders)]
            began = time.perf_counter()
            rate[arm].append(await _together(partial(call, subject), scale.together_s))
            took = time.perf_counter() - began
            client, *others = [
                (a - b) / took for a, b in zip([cpu_s(os.getpid()), *map(cpu_s, responders)], before, strict=True)
            ]
            busy[arm]["client"].append(client)
            busy[arm]["responders"].append(max(others))
    cores = {arm: {who: round(median(v), 2) for who, v in b.items()} for arm, b in busy.items()}
    return {
        "p50_ratio": round(median([a / b for a, b in zip(p50["select"], p50["echo"], strict=True)]), 3),
        "rate_ratio": round(median([a / b for a, b in zip(rate["select"], rate["echo"], strict=True)]), 3),
        "p50_ms": {arm: round(median(v), 4) for arm, v in p50.items()},
        "per_s": {arm: round(median(v)) for arm, v in rate.items()},
        "cores_busy": cores,
        "bottleneck": {arm: max(c, key=lambda who: c[who]) for arm, c in cores.items()},
    }


async def _one_by_one(call: Call, count: int) -> float:
    """Median milliseconds of calls one after the other."""
    took: list[float] = []
    for _ in range(count):
        began = time.perf_counter()
        await call()
        took.append((time.perf_counter() - began) * 1000)
    return median(took)


async def _together(call: Call, seconds: float) -> float:
    """Calls per second with 64 outstanding."""
    began, done = time.perf_counter(), 0

    async def worker() -> None:
        nonlocal done
        while time.perf_counter() < began + seconds:
            await call()
            done += 1

    await asyncio.gather(*(worker() for _ in range(TOGETHER)))
    return done / (time.perf_counter() - began)


# --- relay -----------------------------------------------------------------------------------------------------------


async def _relay(scale: Scale) -> dict[str, Any]:
    """A speaker in the place of a runner: straight to the reader, through a bare relay, through our selectors."""
    topology = topology_on(NOWHERE, {MODEL: {"slots": 10_000}})
    actors = {name: plan for name, plan in topology.actors.items() if name != "runner"}
    speaker = ("speaker", "--chunks-per-s", str(CHUNKS_PER_S), "--stream-s", str(scale.stream_s))
    async with (
        running(replace(topology, actors=actors)) as supervisor,
        _connected(supervisor) as nc,
        _peer(supervisor, *speaker),
        _peer(supervisor, "relay"),
    ):
        selectors = pids(supervisor, "selector")
        rest_mb = max(map(rss_mb, selectors))
        reader = Reader(nc)
        await reader.start()
        await reader.until_heard()
        figures: dict[str, list[float]] = {arm: [] for arm in ("direct", "bare", "ours")}
        for _ in range(scale.rounds):
            for arm, values in figures.items():
                values.append(quantile(await reader.streams(arm, scale.stream_s), 0.5))
        until = time.perf_counter() + scale.load_s
        chunks, before = 0, sum(map(cpu_s, selectors))
        while time.perf_counter() < until:
            chunks += len(await reader.streams("ours", scale.stream_s))
        cpu_us = (sum(map(cpu_s, selectors)) - before) * 1e6 / max(1, chunks)
        return {
            "streams": STREAMS,
            "chunks_per_s": CHUNKS_PER_S,
            "ratio": median([a / b for a, b in zip(figures["ours"], figures["bare"], strict=True)]),
            "added_ms": median([a - b for a, b in zip(figures["ours"], figures["direct"], strict=True)]),
            "bare_added_ms": round(median([a - b for a, b in zip(figures["bare"], figures["direct"], strict=True)]), 4),
            "p50_ms": {arm: round(median(v), 4) for arm, v in figures.items()},
            "selector_cpu_us_per_chunk": round(cpu_us, 1),
            "chunks_under_load": chunks,
            "load_s": scale.load_s,
            "rss_rest_mb": rest_mb,
            "rss_load_mb": max(map(rss_mb, selectors)),
        }


class Reader:
    """Reads streams whose text carries the time it was sent at."""

    def __init__(self, nc: Client) -> None:
        self._nc, self._took = nc, list[float]()
        self._open: dict[str, asyncio.Future[None]] = {}
        self._runs = itertools.count()

    async def start(self) -> None:
        """One inbox for all."""
        self._inbox = self._nc.new_inbox()
        await self._nc.subscribe(f"{self._inbox}.*", cb=self._on_message)
        await self._nc.flush()

    async def _on_message(self, message: Msg) -> None:
        """Deltas of ours and texts of the speaker look alike: `"text":" <nanoseconds>."`."""
        now, data = time.time_ns(), message.data
        at = data.find(b'"text":" ')
        if at >= 0 and b'"model.finished' not in data[:30]:
            self._took.append((now - int(data[at + 9 : data.index(b".", at)])) / 1e6)
            return
        head = data[:40]
        if b"finished" in head or b"ended" in head or b"failed" in head:
            done = self._open.pop(message.subject, None)
            if done is not None and b"failed" in head:
                done.set_exception(RuntimeError(data[:300].decode()))
            elif done is not None:
                done.set_result(None)

    async def until_heard(self) -> None:
        """Wait (bounded) until the selectors know that the speaker is alive."""
        ask = encode(Select(messages=(Turn(role="user", content="x"),)))
        for _ in range(200):
            if b'"model":"' + MODEL.encode() in (await self._nc.request(SELECT, ask, timeout=5)).data:
                await asyncio.sleep(0.5)  # the other selector hears the same beats
                return
            await asyncio.sleep(0.05)
        raise RuntimeError("the selectors never heard of the speaker")

    async def streams(self, arm: str, stream_s: float) -> list[float]:
        """All streams at once to their ends; milliseconds from speaker to reader of every chunk."""
        self._took = []
        waiting: list[asyncio.Future[None]] = []
        for _ in range(STREAMS):
            subject = f"{self._inbox}.{next(self._runs)}"
            done = asyncio.get_running_loop().create_future()
            self._open[subject] = done
            waiting.append(done)
            if arm == "ours":
                ask = Generate(messages=(Turn(role="user", content="Speak."),), stream=True, deadline_ms=60_000)
                await self._nc.publish("tta.ask.model.generate", encode(ask), reply=subject)
            else:
                to = subject if arm == "direct" else f"bench.hop.{subject}"
                order = {"run_id": f"01BENCH{next(self._runs):019d}", "to": to}
                await self._nc.publish("bench.speak", msgspec.json.encode(order), reply=subject)
        async with asyncio.timeout(stream_s + 30):
            await asyncio.gather(*waiting)
        return self._took


# --- processes -------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _connected(supervisor: Supervisor) -> AsyncGenerator[Client, None]:
    """A plain nats-py client, the same for ours and the bare sides."""
    nc = await nats.connect(supervisor.url, user="operator", password=supervisor.operator_password)
    try:
        yield nc
    finally:
        await nc.close()


def _peer(supervisor: Supervisor, role: str, *options: str) -> contextlib.AbstractAsyncContextManager[int]:
    """A bare process in a role; yields its process id."""
    return bare_process("peers", role, supervisor.url, "operator", supervisor.operator_password, *options)
