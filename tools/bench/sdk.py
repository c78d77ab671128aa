"""What a streamed answer costs through the vendors' own SDKs and through the runner's edge, against the same fake.

    pip install openai anthropic && understudy bench sdk

Rounds of calls, one after the other and interleaved: CPU and time per answer of 48 pieces, in one process. Imports and
their memory are measured in fresh processes. An SDK that is not installed is left out.
"""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

from understudy.actors.runner.http_edge import HttpEdge
from understudy.messages.generate import Parameters, Turn
from understudy.messages.run import RunModel
from understudy.messages.step import CallEnded, CallModel, CallText, Input
from understudy.messages.topology import Model, Provider
from understudy.tools.bench.report import Bar, Result, bar, median
from understudy.tools.bench.stage import fake_provider

ROUNDS, CALLS, WARM = 12, 50, 20
MODULES = {
    "openai": "understudy.actors.runner.http_edge",
    "openai_sdk": "openai",
    "anthropic": "understudy.actors.runner.http_edge",
    "anthropic_sdk": "anthropic",
}
Call = Callable[[], Awaitable[str]]


class Ours:
    """The runner's edge, asked for whole texts."""

    def __init__(self, kind: Any, url: str) -> None:
        self.edge = HttpEdge(Provider(kind=kind, url=url), {"ok": Model(provider="p")}, "k", lambda: 0.0)
        self.text = ""
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Open the pool."""
        await self.edge.start(self.feed)

    def feed(self, message: Input) -> None:
        """Text, then the end."""
        if isinstance(message, CallText):
            self.text += message.text
        elif isinstance(message, CallEnded):
            self.over.set_result(None)

    async def call(self) -> str:
        """One answer."""
        self.text, self.over = "", asyncio.get_running_loop().create_future()
        p = Parameters(max_tokens=256, temperature=0.7, top_p=1.0, seed=1)
        turns = (Turn(role="user", content="Look around."),)
        run = RunModel(run_id="r", attempt=0, model="ok", messages=turns, parameters=p, remaining_ms=1e4)
        self.edge.perform(CallModel("c", run))
        await self.over
        return self.text


def _sdks(url: str) -> dict[str, Call]:
    """The SDKs that are installed, as calls."""
    found: dict[str, Call] = {}
    said: Any = [{"role": "user", "content": "Look around."}]
    if importlib.util.find_spec("openai") is not None:
        client = importlib.import_module("openai").AsyncOpenAI(base_url=url, api_key="k", max_retries=0)

        async def by_openai() -> str:
            stream = await client.chat.completions.create(model="ok", messages=said, stream=True, max_tokens=256)
            return "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])

        found["openai_sdk"] = by_openai
    if importlib.util.find_spec("anthropic") is not None:
        other = importlib.import_module("anthropic").AsyncAnthropic(
            base_url=url.removesuffix("/v1"), api_key="k", max_retries=0
        )

        async def by_anthropic() -> str:
            stream = await other.messages.create(model="ok", messages=said, stream=True, max_tokens=256)
            return "".join([e.delta.text async for e in stream if e.type == "content_block_delta"])

        found["anthropic_sdk"] = by_anthropic
    return found


async def measure() -> Result:
    """All calls in interleaved rounds; the texts must be equal."""
    async with fake_provider() as (url, _):
        calls: dict[str, Call] = {}
        for kind in ("openai", "anthropic"):
            ours = Ours(kind, url)
            await ours.start()
            calls[kind] = ours.call
        calls |= _sdks(url)
        cpu: dict[str, list[float]] = {name: [] for name in calls}
        took: dict[str, list[float]] = {name: [] for name in calls}
        texts: set[str] = set()
        for n in range(ROUNDS + 1):
            for name, call in calls.items():
                began, busy = time.perf_counter(), time.process_time()
                for _ in range(CALLS if n else WARM):
                    texts.add(await call())
                if n:
                    cpu[name].append((time.process_time() - busy) * 1e6 / CALLS)
                    took[name].append((time.perf_counter() - began) * 1e6 / CALLS)
    return Result(bench="sdk", bars=tuple(_bars(cpu, took, texts)))


def _bars(cpu: dict[str, list[float]], took: dict[str, list[float]], texts: set[str]) -> list[Bar]:
    bars = [bar("texts_differ", len(texts) - 1, "texts", 0)]
    for name in cpu:
        took_ms, mb = _import(MODULES[name])
        bars += [
            bar(f"{name}_cpu_us", median(cpu[name]), "us"),
            bar(f"{name}_us", median(took[name]), "us"),
            bar(f"{name}_import_ms", took_ms, "ms"),
            bar(f"{name}_import_mb", mb, "MB"),
        ]
    for vendor in ("openai", "anthropic"):
        if f"{vendor}_sdk" in cpu:
            pairs = zip(cpu[f"{vendor}_sdk"], cpu[vendor], strict=True)
            bars.append(bar(f"{vendor}_cpu_ratio", median([theirs / ours for theirs, ours in pairs]), "ratio"))
    return bars


def _import(module: str) -> tuple[float, float]:
    """Milliseconds and MB of an import in a fresh process (Linux)."""
    code = (
        "import os, time; rss = lambda: int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGESIZE');"
        f"a, b = rss(), time.perf_counter(); import {module};"
        "print((time.perf_counter() - b) * 1e3, (rss() - a) / 1e6)"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    found = [[float(word) for word in run.stdout.split()] for run in runs]
    return min(one[0] for one in found), min(one[1] for one in found)
