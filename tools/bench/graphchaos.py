"""kill -9 of projector, graph server and nats-server while the log is projected, and two projectors by mistake.

    understudy bench graphchaos                 # both homes, where at hand
    understudy bench graphchaos --home neo4j
    understudy bench graphchaos --seed 3        # another order of strikes

Two projectors run from the beginning, though a topology may declare one. In a seeded order each kind of process is
killed five times, at a moment at which a batch is likely to be on its way; three times the one that holds the lease is
stopped for longer than that lasts, so that the other takes over, and is then let go on in the middle of what it did.
After each strike what was read is read again from where the graph is: a redelivery. At the end the graph is compared,
row by row, with what a reader makes of the log's raw bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from understudy.messages.graph import RebuildGraph
from understudy.tools.bench.graph.dump import dump, faulty, projections
from understudy.tools.bench.graph.ground import Projecting, fill, projecting
from understudy.tools.bench.graph.homes import Home, HomeName, Missing, home, until_answers, wanted
from understudy.tools.bench.graph.reader import differences, read
from understudy.tools.bench.graph.workload import Log
from understudy.tools.bench.report import Result, bar
from understudy.tools.bench.stage import machine, pids

OUTCOMES, KILLS, STOPS = 100_000, 5, 3
LEASE_MS, AGAIN_MS = 1_500, 200
MOVES_S, WITHIN_S = 60.0, 300.0


class Struck(msgspec.Struct, frozen=True, kw_only=True):
    """One home. `restarts`: of projectors, by the supervisor; `rebuilds`: ordered so that there was something to hit;
    `fences`: so often the lease was taken, and each time all that was in hand was read again."""

    strikes: dict[str, int]
    buckets: int
    wrong: list[str]
    buckets_wrong: int
    rows_wrong: int
    rebuilds: int
    restarts: int
    fences: int
    projections: int
    took_s: float


async def measure(home_name: str = "", seed: int = 1) -> Result:
    """All homes that are at hand."""
    found: dict[str, Struck] = {}
    missing: dict[str, str] = {}
    planted: dict[str, int] = {}
    for name in wanted(home_name):
        try:
            found[name], planted = await _one(name, seed)
        except Missing as why:
            missing[name] = str(why)
    kills = [one.strikes[kind] for one in found.values() for kind in ("projector", "graph", "nats")]
    return Result(
        bench="graphchaos",
        bars=(
            bar("kills", min(kills, default=0), "of each", KILLS, better="higher"),
            bar("buckets", sum(one.buckets for one in found.values()), ""),
            bar("buckets_wrong", sum(one.buckets_wrong for one in found.values()) if found else 1, "", 0),
            bar("rows_wrong", sum(one.rows_wrong + abs(one.projections - 1) for one in found.values()), "", 0),
            bar("planted_missed", sum(not count for count in planted.values()), "", 0),
        ),
        detail={"homes": found, "missing": missing, "seed": seed, "planted": planted, "machine": machine()},
    )


async def _one(name: HomeName, seed: int) -> tuple[Struck, dict[str, int]]:
    luck, began = random.Random(seed), time.monotonic()
    order: list[str] = [*("projector", "graph", "nats") * KILLS, *("stop",) * STOPS]
    luck.shuffle(order)
    settings: dict[str, Any] = {"lease_ms": LEASE_MS, "again_ms": AGAIN_MS, "rare_chain_days": 30}
    settings |= {"read_at_once": 1_000, "rows_at_once": 500}  # many batches: more of them under way when it strikes
    with home(name) as server, tempfile.TemporaryDirectory(prefix="understudy-graphchaos-") as folder:
        state = Path(folder)
        await fill(state, Log(OUTCOMES))
        async with projecting(server, state, replicas=2, **settings) as running:
            strikes, rebuilds = await _strike_all(running, server, order, luck)
            payloads = await running.payloads()
            await running.until(len(payloads), WITHIN_S)
            status = await running.holder()
            assert status is not None
            restarts = sum(one.restarts for one in running.supervisor.processes)
        expected = read(payloads)
        wrong = differences(expected, dump(server, status.prefix))
        places = projections(server)
        planted = {what: len(differences(expected, one)) for what, one in faulty(expected).items()}
    return Struck(
        strikes=strikes,
        buckets=len(expected["buckets"]),
        wrong=wrong[:10],
        buckets_wrong=sum(one.startswith("buckets: ") for one in wrong),
        rows_wrong=len(wrong),
        rebuilds=rebuilds,
        restarts=restarts,
        fences=places[0]["fence"] if places else 0,
        projections=len(places),
        took_s=round(time.monotonic() - began, 1),
    ), planted


async def _strike_all(
    running: Projecting, server: Home, order: list[str], luck: random.Random
) -> tuple[dict[str, int], int]:
    strikes: dict[str, int] = dict.fromkeys(order, 0)
    rebuilds = 0
    for kind in order:
        rebuilds += await _until_moving(running)
        await asyncio.sleep(luck.uniform(0.05, 0.6))
        await _strike(running, server, kind)
        strikes[kind] += 1
        _tell(f"{server.name}: {kind} ({sum(strikes.values())} of {len(order)})")
    return strikes, rebuilds


async def _until_moving(running: Projecting) -> int:
    """A batch has been written since the last strike; where there is nothing left to write, all of it is ordered anew.
    How often it was."""
    ordered, last, until = 0, None, time.monotonic() + MOVES_S
    while time.monotonic() < until:
        await asyncio.sleep(0.05)
        with contextlib.suppress(Exception):  # whoever was struck comes back
            at = await running.holder()
            if at is None:
                continue
            now = (at.holder, at.building_seq if at.building else at.seq)
            if at.seq >= at.head and not at.building:
                await running.ask(RebuildGraph(), "rebuild")
                ordered, last = ordered + 1, None
                continue
            if last is not None and last[0] == now[0] and last[1] < now[1]:
                return ordered
            last = now
    raise TimeoutError("the projection does not go on after a strike")


async def _strike(running: Projecting, server: Home, kind: str) -> None:
    match kind:
        case "projector":
            os.kill(await _holder_pid(running), signal.SIGKILL)
        case "graph":
            server.kill()
            await asyncio.to_thread(server.start)
            await asyncio.to_thread(until_answers, server)
        case "nats":
            nats = running.supervisor.bus_side.server
            assert nats is not None
            os.kill(int(nats.pid_file.read_text()), signal.SIGKILL)
        case _:
            pid = await _holder_pid(running)
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(LEASE_MS / 1000 * 2)
            os.kill(pid, signal.SIGCONT)


async def _holder_pid(running: Projecting) -> int:
    at = await running.holder()
    wanted = at.holder.partition(".")[0] if at is not None else ""
    for process in running.supervisor.processes:
        if process.seat.instance == wanted and process.pid:
            return process.pid
    return pids(running.supervisor, "projector")[0]


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
