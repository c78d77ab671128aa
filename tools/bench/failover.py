"""Every fault of the fake provider with a healthy model behind it: attempts, text, time until the whole answer.

Each fault is asked streamed and not, its breaker closed before each ask; each broken text also with every kind of
successor, whose `continues` is found by probe. Status faults are timed one at a time beside direct calls of the same
rounds; hang and stall against their limit. At the end the speaking runner is killed and stopped.
"""

from __future__ import annotations

import asyncio
import signal
import time
from typing import Any

import aiohttp

from understudy.bus.client import Client
from understudy.tools.bench.failover_asks import Seen, ask, close_breaker, strike, wrong
from understudy.tools.bench.failover_cases import (
    CASES,
    LIMIT_MS,
    MODES,
    SUCCESSORS,
    Case,
    faults_file,
    successor_id,
    topology,
)
from understudy.tools.bench.generate import Direct
from understudy.tools.bench.report import Result, bar, median
from understudy.tools.bench.stage import fake_provider, fsync_ms, running

ASKS, KILLS, STOPS = 20, 10, 3
QUICK = (1, 1, 1)
TOGETHER = 4
"""Lanes at once where only attempts and text are judged, not time."""
PROBED_S = 30.0
WORDS = ("end", "attempts", "finish", "text", "truncated", "seam")

Lane = tuple[Case, str]
Found = dict[Lane, list[Seen]]


def prompt_of(case: Case, mode: str, n: int) -> str:
    """Another story for each ask."""
    return f"Tell me about {case.fault}, {case.successor}, {mode}, number {n}."


async def measure(quick: bool = False) -> Result:
    """All cases, then kills and stops. `quick`: few asks of each, for tests."""
    asks, kills, stops = QUICK if quick else (ASKS, KILLS, STOPS)
    with faults_file() as path:
        async with (
            fake_provider(faults=path) as (url, _),
            running(topology(url, asks)) as supervisor,
            await Client.connect(supervisor.url) as client,
        ):
            began = time.perf_counter()
            probes = await _probed(client)
            found, direct_ms = await _ask_all(client, url, asks)
            killed = [await strike(supervisor, client, url, signal.SIGKILL) for _ in range(kills)]
            stopped = [await strike(supervisor, client, url, signal.SIGSTOP) for _ in range(stops)]
            detail = {"probes": probes, "direct_ms": direct_ms, "s": round(time.perf_counter() - began, 1)}
            return _result(found, detail, killed, stopped)


async def _probed(client: Client) -> dict[str, dict[str, str]]:
    """Wait for the probes (bounded); what each successor was found to do, beside what it does."""
    until = time.monotonic() + PROBED_S
    while True:
        cards = {card.id: card for card in (await client.models()).models}
        if all(cards[successor_id(name)].continues_by != "pending" for name in SUCCESSORS):
            break
        if time.monotonic() > until:
            break
        await asyncio.sleep(0.1)
    found = {name: cards[successor_id(name)] for name in SUCCESSORS}
    return {n: {"found": c.continues, "by": c.continues_by, "expected": SUCCESSORS[n]} for n, c in found.items()}


async def _ask_all(client: Client, url: str, asks: int) -> tuple[Found, float]:
    """Timed cases one at a time, limited ones side by side (they only wait), the rest a few at once."""
    found: Found = {(case, mode): [] for case in CASES for mode in MODES}
    plain = [case for case in CASES if case.successor == "ok"]
    timed = [case for case in plain if not case.limited and case.seam is None]
    direct: list[float] = []
    async with aiohttp.ClientSession() as session:
        call = Direct(session, url).call
        for n in range(asks):  # interleaved: a round of direct calls and one ask per case
            began = time.perf_counter()
            await call()
            direct.append((time.perf_counter() - began) * 1000)
            for case in timed:
                for mode in MODES:
                    found[case, mode].append(await _one(client, case, mode, n))
    limited = [case for case in plain if case.limited]
    await _lanes(client, found, limited, asks, len(limited) * len(MODES))
    waiting = [case for case in CASES if case.limited and case not in limited]
    await _lanes(client, found, waiting, asks, 2 * TOGETHER)
    done = {*timed, *limited, *waiting}
    await _lanes(client, found, [case for case in CASES if case not in done], asks, TOGETHER)
    return found, median(direct)


async def _lanes(client: Client, found: Found, cases: list[Case], asks: int, together: int) -> None:
    """Each case and mode is asked in its own order; so many lanes at once."""
    gate = asyncio.Semaphore(together)

    async def lane(case: Case, mode: str, place: int) -> None:
        async with gate:
            await asyncio.sleep(place % together / together * LIMIT_MS / 1000)  # side by side, not in step
            for n in range(asks):
                found[case, mode].append(await _one(client, case, mode, n))

    async with asyncio.TaskGroup() as group:
        for place, (case, mode) in enumerate((case, mode) for case in cases for mode in MODES):
            group.create_task(lane(case, mode, place))


async def _one(client: Client, case: Case, mode: str, n: int) -> Seen:
    """One ask, the breaker of its faulty model closed before it: by then most of a `Retry-After` is over."""
    model = case.model(mode, n)
    if case.trips and n:
        await close_breaker(client, model)
    return await ask(client, model, prompt_of(case, mode, n), mode)


# --- judging -------------------------------------------------------------------------------------------------------


def _row(case: Case, found: Found) -> dict[str, Any]:
    asks = [(mode, n, seen) for mode in MODES for n, seen in enumerate(found[case, mode])]
    faults_seen = [word for mode, n, seen in asks for word in wrong(case, prompt_of(case, mode, n), seen)]
    return {
        "fault": case.fault,
        "next": case.successor,
        "asks": len(asks),
        "expected_attempts": case.attempts,
        "attempts": sorted({len(seen.attempts) for _, _, seen in asks}),
        "outcomes": sorted({" > ".join(seen.attempts) for _, _, seen in asks}),
        "ends": sorted({seen.end + (f" ({seen.finish})" if seen.finish else "") for _, _, seen in asks}),
        "seams": sorted({one for _, _, seen in asks for one in seen.seams}),
        "trimmed_chars": sorted({seen.trimmed_chars for _, _, seen in asks if seen.trimmed_chars}),
        "stream_ms": round(median([seen.ms for seen in found[case, "s"]]), 2),
        "single_ms": round(median([seen.ms for seen in found[case, "w"]]), 2),
        "wrong": {word: faults_seen.count(word) for word in WORDS if word in faults_seen},
    }


def _result(found: Found, detail: dict[str, Any], kills: list[dict[str, Any]], stops: list[dict[str, Any]]) -> Result:
    rows = {case: _row(case, found) for case in CASES}
    judged = {case: row for case, row in rows.items() if case.judged}
    total = {word: sum(row["wrong"].get(word, 0) for row in judged.values()) for word in WORDS}
    slow = {case: max(row["stream_ms"], row["single_ms"]) for case, row in judged.items()}
    status = [
        ms for case, ms in slow.items() if case.trips or case.fault == "refused" if not (case.limited or case.seam)
    ]
    limited = [ms for case, ms in slow.items() if case.limited and case.successor == "ok"]  # those few at once
    passed = [case for case in judged if case.seam and detail["probes"][case.successor]["found"] != "none"]
    seams = [seen.seams == ("continue",) for case in passed for seen in found[case, "s"]]
    lost = sum(not one["right"] or not one["seams"] for one in (*kills, *stops))
    bars = (
        bar("errors_shown", total["end"], "asks", 0),
        bar("wrong_text", total["text"] + lost, "answers", 0),
        bar("truncated_finished", total["truncated"], "answers", 0),
        bar("status_added_ms", max(status) - detail["direct_ms"], "ms", 50, 10),
        bar("hang_over_limit_ms", max(limited) - LIMIT_MS - detail["direct_ms"], "ms", 50),
        bar("continued_ratio", sum(seams) / max(1, len(seams)), "ratio", 1.0, None, "higher"),
        bar("death_noticed_ms", max(one["ms"] for one in kills), "ms", 250),
        bar("stop_noticed_ms", max(one["ms"] for one in stops), "ms", 2000),
        bar("wrong_attempts", total["attempts"], "asks", 0),
        bar("wrong_seams", total["seam"] + total["finish"], "asks", 0),
        bar("wrong_probes", sum(p["found"] != p["expected"] for p in detail["probes"].values()), "models", 0),
    )
    late = [row for case, row in rows.items() if not case.judged]
    apart = {"about": "passes the probe, misbehaves with longer text; not judged", "rows": late}
    rest = {"faults": list(judged.values()), "late": apart, "kills": kills, "stops": stops, "fsync_ms": fsync_ms()}
    return Result(bench="failover", bars=bars, detail={**detail, **rest})


def explain(result: Result) -> str:
    """The table of all cases, for people."""
    head = (
        f"{'fault':17} {'next model':18} {'asks':>4} {'attempts':>9} {'streamed':>9} {'single':>9}  what the caller saw"
    )
    lines = [head]
    for row in (*result.detail["faults"], *result.detail["late"]["rows"]):
        attempts = f"{'/'.join(map(str, row['attempts']))} of {row['expected_attempts']}"
        saw = ", ".join(row["ends"]) + (f"; seam: {', '.join(row['seams'])}" if row["seams"] else "")
        saw += f", {row['trimmed_chars']} characters trimmed" if row["trimmed_chars"] else ""
        bad = "  WRONG " + str(row["wrong"]) if row["wrong"] else ""
        times = f"{row['stream_ms']:>7.1f}ms {row['single_ms']:>7.1f}ms"
        lines.append(f"{row['fault']:17} {row['next']:18} {row['asks']:>4} {attempts:>9} {times}  {saw}{bad}")
    probes = ", ".join(f"{name}: {one['found']}" for name, one in result.detail["probes"].items())
    notes = [f"found by probe: {probes}", "rows with -late are not judged: their successor passes the probe and",
             "misbehaves only with longer text"]  # fmt: skip
    return "\n".join([*lines, *notes, f"{result.detail['s']} s in all"])
