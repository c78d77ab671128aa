"""Minutes under a modest load while other work saturates every core, and in the middle a restart of every process.

Counted from what came over the bus and from the log: requests that failed or came back with other text, and living
processes that were declared dead (a silent runner, a model unavailable for want of heartbeats, a run taken over from a
living selector). No process dies by itself here, so every such word is false.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

from understudy.actors.host.supervisor import Supervisor
from understudy.bus.client import AnswerFailed, Client
from understudy.bus.port import Received
from understudy.messages.events import AttemptEnded, ModelDegraded, ModelUnavailable, RequestEnded
from understudy.messages.operate import Restart
from understudy.messages.run import ProcessGone, RunnerBeat
from understudy.messages.wire import decode
from understudy.tools.bench.report import Result, bar, quantile
from understudy.tools.bench.stage import fake_provider, fsync_ms, running, topology_on
from understudy.tools.fake.script import Message, script
from understudy.tools.orders import carry_out

SECONDS = 300.0
CALLERS = 4
PAUSE_S = 0.5
KINDS = ("ok", "ok-slow")
"""Answers that come at once, and answers that are being spoken while processes are restarted."""
PROMPT = "Steady caller {caller}, request {n}."
SILENCE = ("silent", "gone")


@dataclass(slots=True)
class Seen:
    """What callers and the bus told."""

    ms: list[float] = field(default_factory=list[float])
    failed: Counter[str] = field(default_factory=Counter[str])
    wrong_text: int = 0
    gone: list[str] = field(default_factory=list[str])
    beat_at: dict[str, float] = field(default_factory=dict[str, float])
    gaps_ms: list[float] = field(default_factory=list[float])
    restart: list[str] = field(default_factory=list[str])
    restart_problems: tuple[str, ...] = ()

    def heard(self, received: Received) -> None:
        """An observation: beats and their distance, processes that ended."""
        message, now = decode(received.payload), time.monotonic()
        if isinstance(message, RunnerBeat):
            before = self.beat_at.get(message.instance)
            if before is not None:
                self.gaps_ms.append((now - before) * 1000)
            self.beat_at[message.instance] = now
        elif isinstance(message, ProcessGone):
            self.gone.append(message.instance)
            self.beat_at.pop(message.instance, None)


async def measure(seconds: float = SECONDS) -> Result:
    """Load, other work, and in the middle a restart of everything."""
    async with fake_provider() as (url, _):
        providers = {name: {"kind": "openai", "url": url} for name in ("fake", "other")}
        models: dict[str, dict[str, Any]] = {}
        for kind in KINDS:  # each on two providers, so that one process may be away
            models[f"{kind}@one"] = {"continues": "native", "fallbacks": [f"{kind}@two"]}
            models[f"{kind}@two"] = {"continues": "native", "provider": "other", "fallbacks": [f"{kind}@one"]}
        async with running(topology_on(url, models, providers=providers)) as supervisor, _other_work():
            return await _measure(supervisor, seconds)


@contextlib.asynccontextmanager
async def _other_work() -> AsyncGenerator[None, None]:
    """One spinning process per core."""
    spin = "while True: pass"
    found = [await asyncio.create_subprocess_exec(sys.executable, "-c", spin) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in found:
            process.kill()
            await process.wait()


async def _measure(supervisor: Supervisor, seconds: float) -> Result:
    seen, stop = Seen(), asyncio.Event()
    password = supervisor.operator_password
    async with await Client.connect(supervisor.url, name="bench", user="operator", password=password) as operator:
        await operator.bus.subscribe("tta.obs.>", seen.heard)
        callers = [asyncio.create_task(_call(supervisor.url, n, seen, stop)) for n in range(CALLERS)]
        await asyncio.sleep(seconds / 2)
        began = time.monotonic()
        ended = await carry_out(operator, Restart(), seen.restart.append)
        took, seen.restart_problems = time.monotonic() - began, ended.problems
        await asyncio.sleep(max(seconds / 2 - took, 10.0))
        stop.set()
        await asyncio.gather(*callers)
        deaths = await _deaths(operator)
    return _result(supervisor, seen, deaths, took, seconds)


async def _call(url: str, caller: int, seen: Seen, stop: asyncio.Event) -> None:
    """One request after the other, streamed."""
    async with await Client.connect(url, name=f"caller-{caller}") as client:
        n, model = 0, f"{KINDS[caller % 2]}@{('one', 'two')[caller // 2 % 2]}"
        while not stop.is_set():
            n += 1
            prompt, began = PROMPT.format(caller=caller, n=n), time.monotonic()
            try:
                answer = await client.generate(prompt, model=model, deadline_ms=30_000)
            except AnswerFailed as failure:
                seen.failed[failure.code] += 1
            else:
                seen.ms.append((time.monotonic() - began) * 1000)
                seen.wrong_text += answer.text not in (None, "".join(script([Message("user", prompt)], 48)))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), PAUSE_S)


async def _deaths(operator: Client) -> list[dict[str, Any]]:
    """Every word of the log that somebody is dead."""
    found: list[dict[str, Any]] = []
    async for change in operator.events():
        match change.event:
            case ModelUnavailable() | ModelDegraded() | AttemptEnded() as event if event.reason in SILENCE:
                found.append({"seq": change.seq, "what": type(event).__name__, "who": event.model, "why": event.reason})
            case RequestEnded(outcome="interrupted", decision=made) as event:
                if made is not None and made.instance != event.instance:
                    found.append({"seq": change.seq, "what": "taken over", "who": made.instance, "why": event.instance})
            case _:
                pass
    return found


def _result(
    supervisor: Supervisor, seen: Seen, deaths: list[dict[str, Any]], restart_s: float, seconds: float
) -> Result:
    planned = Counter(p.seat.instance for p in supervisor.processes)  # one end each, by the rolling restart
    unplanned = sum((Counter(seen.gone) - planned).values())
    failed = sum(seen.failed.values()) + seen.wrong_text
    bars = (
        bar("failed", failed, "requests", 0),
        bar("false_deaths", len(deaths), "words", 0),
        bar("unplanned_ends", unplanned, "processes", 0),
        bar("restart_problems", len(seen.restart_problems), "problems", 0),
        bar("requests", len(seen.ms), "requests"),
        bar("p50_ms", quantile(seen.ms, 0.5), "ms"),
        bar("p99_ms", quantile(seen.ms, 0.99), "ms"),
        bar("beat_gap_max_ms", max(seen.gaps_ms, default=0.0), "ms"),
    )
    detail = {
        "seconds": seconds,
        "cores_busy_with_other_work": os.cpu_count(),
        "failed": dict(seen.failed),
        "wrong_text": seen.wrong_text,
        "deaths": deaths,
        "restart_s": round(restart_s, 2),
        "restart": seen.restart,
        "restart_problems": seen.restart_problems,
        "beat_gap_p99_ms": quantile(seen.gaps_ms, 0.99),
        "fsync_ms": fsync_ms(),
    }
    return Result(bench="steady", bars=bars, detail=detail)
