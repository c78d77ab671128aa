"""Every fault of the fake provider with a healthy model behind it: attempts, text, time until the whole answer.

Each ask goes to a model id of its own (`500@7`), so no breaker remembers the one before. A third part kills and stops
the speaking runner. Status faults are timed against direct calls of the same run; hang and stall against their limit.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import Any

import aiohttp
import msgspec

from understudy.actors.host.supervisor import Supervisor
from understudy.bus.client import AnswerFailed, Client
from understudy.messages.generate import Delta, Seam
from understudy.tools.bench.generate import Direct
from understudy.tools.bench.report import Result, bar, median
from understudy.tools.bench.stage import fake_provider, fsync_ms, running, topology_on
from understudy.tools.fake.script import Message, script

ASKS = 20
LIMIT_MS = 400
KILLS = 10
PROMPT = "Tell me about fault {fault}, number {n}."


class Expected(msgspec.Struct, frozen=True):
    """What must happen: attempts in all, how the end looks, and whether a visible seam is expected."""

    attempts: int = 2
    end: str = "finished"  # or the code of `failed`
    seam: bool = False
    limited: bool = False  # bounded by a timeout, not by the fault itself
    whole: bool = True  # the text is the script's whole


HEALTHY = Expected(attempts=1)
MID = Expected(seam=True)
FAULTS: dict[str, Expected] = {
    **dict.fromkeys(("401", "402", "403", "404", "408", "429", "429-date", "429-ms"), Expected()),
    **dict.fromkeys(("500", "502", "503", "529", "error-first", "empty", "refused"), Expected()),
    **dict.fromkeys(("reset", "cut", "malformed", "error-mid"), MID),
    **dict.fromkeys(("hang", "silent"), Expected(limited=True)),
    "stall": Expected(seam=True, limited=True),
    **dict.fromkeys(("no-usage", "split-utf8", "comments", "wrong-model"), HEALTHY),
    "length": Expected(attempts=1, whole=False),
    "refusal": Expected(attempts=1, whole=False),
    **dict.fromkeys(("400", "413", "422"), Expected(attempts=1, end="caller_fault")),
    "context-too-long": Expected(attempts=1, end="context_too_long"),
}


class Seen(msgspec.Struct):
    """One ask as the caller saw it."""

    ms: float
    attempts: int
    end: str
    text: str
    seams: tuple[str, ...]


async def measure() -> Result:
    """All faults, then kills and stops."""
    async with fake_provider() as url:
        dead = "http://127.0.0.1:9/v1"
        models: dict[str, dict[str, Any]] = {}
        for fault in FAULTS:
            for n in range(ASKS):
                facts: dict[str, Any] = {"fallbacks": ["ok@healthy"], "continues": "native"}
                models[f"{fault}@{n}"] = {**facts, **({"provider": "dead"} if fault == "refused" else {})}
        models["ok@healthy"] = {"continues": "native"}
        models["ok-slow@frail"] = {"provider": "frail", "continues": "native", "fallbacks": ["ok-slow@firm"]}
        models["ok-slow@firm"] = {"continues": "native"}
        providers = {n: {"kind": "openai", "url": u} for n, u in (("fake", url), ("frail", url), ("dead", dead))}
        limits = {"interactive": {"deadline_ms": 20_000, "first_token_ms": LIMIT_MS, "stall_ms": LIMIT_MS}}
        policy = {"failover_minimum": 1000}
        topology = topology_on(url, models, providers=providers, latency=limits, policy=policy)
        async with running(topology) as supervisor, await Client.connect(supervisor.url) as client:
            return await _measure(url, supervisor, client)


async def _measure(url: str, supervisor: Supervisor, client: Client) -> Result:
    seen: dict[str, list[Seen]] = {fault: [] for fault in FAULTS}
    direct: list[float] = []
    async with aiohttp.ClientSession() as session:
        call = Direct(session, url).call
        for n in range(ASKS):  # interleaved: a round of direct calls and one ask per fault
            began = time.perf_counter()
            await call()
            direct.append((time.perf_counter() - began) * 1000)
            for fault in FAULTS:
                seen[fault].append(await _ask(client, f"{fault}@{n}", PROMPT.format(fault=fault, n=n)))
    kills = [await _strike(supervisor, client, signal.SIGKILL) for _ in range(KILLS)]
    stops = [await _strike(supervisor, client, signal.SIGSTOP) for _ in range(3)]
    return _result(seen, median(direct), kills, stops)


async def _ask(client: Client, model: str, prompt: str) -> Seen:
    answer, began = client.generate(prompt, model=model), time.perf_counter()
    seams: list[str] = []
    try:
        async for piece in answer:
            if isinstance(piece, Seam):
                seams.append(piece.mode)
    except AnswerFailed as failure:
        ms = (time.perf_counter() - began) * 1000
        return Seen(ms, len(failure.failed.attempts), failure.code, failure.text, tuple(seams))
    assert answer.finished is not None
    ms = (time.perf_counter() - began) * 1000
    return Seen(ms, len(answer.finished.attempts), "finished", answer.text, tuple(seams))


async def _strike(supervisor: Supervisor, client: Client, number: int) -> dict[str, Any]:
    """Signal the speaking runner in mid-text; milliseconds until the next model's first words."""
    await _until_loaded(client, "ok-slow@frail")
    answer = client.generate("Go on.", model="ok-slow@frail", deadline_ms=20_000)
    struck, noticed, pid = 0.0, 0.0, 0
    async for piece in answer:
        if isinstance(piece, Delta) and piece.seq == 5:
            pid = next(p.pid for p in supervisor.processes if p.seat.instance == "runner-frail")
            os.kill(pid, number)
            struck = time.perf_counter()
        if isinstance(piece, Seam):
            noticed = (time.perf_counter() - struck) * 1000
    if number == signal.SIGSTOP:
        os.kill(pid, signal.SIGCONT)
    whole = "".join(script([Message("user", "Go on.")], 48))
    return {"ms": noticed, "right": answer.text == whole, "seam": noticed > 0}


async def _until_loaded(client: Client, model: str) -> None:
    """Wait until a model is used again (bounded)."""
    for _ in range(200):
        card = next(c for c in (await client.models()).models if c.id == model)
        if card.loaded and card.status != "unavailable":
            return
        await asyncio.sleep(0.1)
    raise RuntimeError(f"{model} did not come back")


def _wrong(fault: str, n: int, one: Seen, want: Expected) -> list[str]:
    """What was not as it must be."""
    whole = "".join(script([Message("user", PROMPT.format(fault=fault, n=n))], 48))
    found: list[str] = []
    if one.end != want.end:
        found.append("end")
    if one.attempts != want.attempts:
        found.append("attempts")
    if want.end == "finished" and want.whole and one.text != whole:
        found.append("text")
    if bool(one.seams) != want.seam:
        found.append("seam")
    return found


def _result(
    seen: dict[str, list[Seen]], direct_ms: float, kills: list[dict[str, Any]], stops: list[dict[str, Any]]
) -> Result:
    rows: dict[str, dict[str, Any]] = {}
    for fault, asks in seen.items():
        wrong = [_wrong(fault, n, one, FAULTS[fault]) for n, one in enumerate(asks)]
        rows[fault] = {
            "expected_attempts": FAULTS[fault].attempts,
            "attempts": sorted({a.attempts for a in asks}),
            "ends": sorted({a.end for a in asks}),
            "seams": sorted({m for a in asks for m in a.seams}),
            "ms": round(median([a.ms for a in asks]), 2),
            "wrong": {word: sum(word in w for w in wrong) for word in ("end", "attempts", "text", "seam")},
        }
    status = [f for f, w in FAULTS.items() if w.attempts == 2 and not w.seam and not w.limited]
    limited = [f for f, w in FAULTS.items() if w.limited]
    continued = [m for f, w in FAULTS.items() if w.seam for a in seen[f] for m in a.seams]
    texts = sum(r["wrong"]["text"] for r in rows.values()) + sum(not k["right"] for k in (*kills, *stops))
    shown = sum(a.end != FAULTS[f].end for f, asks in seen.items() for a in asks)
    # An answer that says `finished` with less text than the script's, where the whole was to come.
    truncated = sum(
        a.end == "finished" and "text" in _wrong(f, n, a, FAULTS[f])
        for f, asks in seen.items()
        for n, a in enumerate(asks)
    )
    bars = (
        bar("errors_shown", shown, "asks", 0),
        bar("wrong_text", texts, "answers", 0),
        bar("truncated_finished", truncated, "answers", 0),
        bar("status_added_ms", max(rows[f]["ms"] for f in status) - direct_ms, "ms", 50, 10),
        bar("hang_over_limit_ms", max(rows[f]["ms"] for f in limited) - LIMIT_MS - direct_ms, "ms", 50),
        bar("continued_ratio", continued.count("continue") / max(1, len(continued)), "ratio", 1.0, None, "higher"),
        bar("death_noticed_ms", max(k["ms"] for k in kills), "ms", 250),
        bar("stop_noticed_ms", max(k["ms"] for k in stops), "ms", 2000),
        bar("wrong_attempts", sum(r["wrong"]["attempts"] for r in rows.values()), "asks", 0),
    )
    detail = {"direct_ms": direct_ms, "faults": rows, "kills": kills, "stops": stops, "fsync_ms": fsync_ms()}
    return Result(bench="failover", bars=bars, detail=detail)
