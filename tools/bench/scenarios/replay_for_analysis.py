"""Scenario 9, Replay for analysis: the graph is made of the log, and can be made of it again.

Given 100,000 stored outcomes and a graph that somebody has deleted. When the projector builds it anew from the log's
first event and is killed twice meanwhile, then the sums are the log's (calls, errors, tokens exactly, cost to 1e-6
USD), there is one Projection node at the log's last position, and a second rebuild has the same checksum. And the
bucket of scenario 5 holds the model that spoke, and its tokens.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace
from neo4j import GraphDatabase

from understudy.messages.graph import AskGraphStatus, RebuildGraph
from understudy.messages.wire import decode, encode
from understudy.tools.bench.graph.dump import dump, projections
from understudy.tools.bench.graph.ground import Projecting, fill, projecting, uri_of
from understudy.tools.bench.graph.homes import Home
from understudy.tools.bench.graph.reader import read, totals
from understudy.tools.bench.graph.workload import Log
from understudy.tools.bench.scenarios.ground import System, Wrong, judged
from understudy.tools.bench.scenarios.true_identity import REAL, TOKENS, played
from understudy.tools.bench.stage import pids

OUTCOMES, KILLS, WITHIN_S = 100_000, 2, 300.0
EXACT = ("n", "err", "tokens_in", "tokens_out")


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What log and graph say. `left`: nodes after the deletion; `bucket`: of scenario 5."""

    outcomes: int
    left: int
    kills_during: tuple[int, ...]  # positions of the graph at which the projector was killed
    of_log: dict[str, int]
    of_graph: dict[str, int]
    projections: tuple[int, ...]  # the position of each Projection node
    head: int
    checksums: tuple[str, ...]
    bucket: dict[str, Any]


def wrong(facts: Facts) -> Wrong:
    """As the scenario has it."""
    found: Wrong = []
    if facts.left:
        found.append(f"{facts.left} nodes outlived the deletion")
    if len(facts.kills_during) != KILLS or not all(0 < at < facts.head for at in facts.kills_during):
        found.append(f"killed at {facts.kills_during} of {facts.head}")
    found += [f"{name}: {facts.of_graph[name]}, not {facts.of_log[name]}" for name in EXACT
              if facts.of_graph[name] != facts.of_log[name]]  # fmt: skip
    if abs(facts.of_graph["cost_pusd"] - facts.of_log["cost_pusd"]) > 1e-6 * 1e12:
        found.append(f"cost: {facts.of_graph['cost_pusd']} pico-USD, not {facts.of_log['cost_pusd']}")
    if facts.projections != (facts.head,):
        found.append(f"Projection nodes at {facts.projections}, not one at {facts.head}")
    if len(facts.checksums) != 2 or len(set(facts.checksums)) != 1:
        found.append(f"checksums {facts.checksums}")
    seen = tuple(facts.bucket.get(name) for name in ("model", "task", "n", "ok", "tokens_in", "tokens_out"))
    if seen != (REAL, "extraction", 1, 1, *TOKENS):
        found.append(f"the bucket of scenario 5: {seen}")
    return found


def controls(facts: Facts) -> dict[str, Facts]:
    """Each thing that could be wrong, put in."""

    def more(name: str, by: int) -> dict[str, int]:
        return {**facts.of_graph, name: facts.of_graph[name] + by}

    found = {f"one more of {name}": replace(facts, of_graph=more(name, 1)) for name in EXACT}
    return {
        **found,
        "a cost that is off by two millionths": replace(facts, of_graph=more("cost_pusd", 2_000_000)),
        "two Projection nodes": replace(facts, projections=facts.projections * 2),
        "a position behind the head": replace(facts, projections=(facts.head - 1,)),
        "another checksum": replace(facts, checksums=(*facts.checksums[:1], "0")),
        "a graph that was not deleted": replace(facts, left=1),
        "a kill that came too late": replace(facts, kills_during=(*facts.kills_during[:-1], facts.head)),
        "a bucket under the alias": replace(facts, bucket={**facts.bucket, "model": "openai/tta"}),
        "tokens counted by words": replace(facts, bucket={**facts.bucket, "tokens_out": 56}),
    }


async def scenario_9(home: Home, outcomes: int = OUTCOMES) -> Wrong:
    """Play it on one home."""
    bucket = await _bucket_of_scenario_5(home)
    _delete(home)
    with tempfile.TemporaryDirectory(prefix="understudy-scenario-9-") as folder:
        first, state = Path(folder) / "first", Path(folder) / "state"
        await fill(first, Log(outcomes))
        shutil.copytree(first, state)
        async with projecting(home, first, rare_chain_days=30) as running:
            await running.until(await _head(running), WITHIN_S)
        _delete(home)
        left = _nodes(home)
        settings: dict[str, Any] = {"read_at_once": 1_000, "rows_at_once": 500, "lease_ms": 1_500}
        async with projecting(home, state, rare_chain_days=30, **settings) as running:
            kills = [await _kill(running, share) for share in (0.2, 0.6)]
            payloads = await running.payloads()
            await running.until(len(payloads), WITHIN_S)
            graph = dump(home, (await running.status()).prefix)
            places = tuple(one["seq"] for one in projections(home))
            first_sum = await running.checksum()
            before = await running.ask(RebuildGraph(), "rebuild")
            await running.until(len(payloads), WITHIN_S, other_than=before.prefix)
            second_sum = await running.checksum()
    facts = Facts(
        outcomes=outcomes,
        left=left,
        kills_during=tuple(kills),
        of_log=totals(read(payloads)),
        of_graph=totals(graph),
        projections=places,
        head=len(payloads),
        checksums=(first_sum.checksum, second_sum.checksum),
        bucket=bucket,
    )
    return judged(facts, wrong, controls(facts))


async def _head(running: Projecting) -> int:
    return (await running.bus.stream_state("TTA_EVT")).last_seq


async def _kill(running: Projecting, share: float) -> int:
    """kill -9 of the projector once it has projected that share; where it was."""
    wanted = int(share * await _head(running))
    seen = await running.until(wanted, WITHIN_S, every_s=0.01)
    os.kill(pids(running.supervisor, "projector")[0], signal.SIGKILL)
    return seen[-1][1]


async def _bucket_of_scenario_5(home: Home) -> dict[str, Any]:
    """What the graph makes of the run of that scenario."""
    found: dict[str, Any] = {}

    async def look(of: System, run_id: str) -> None:
        del run_id  # the only run of its task
        async with asyncio.timeout(WITHIN_S):
            while not found:
                await asyncio.sleep(0.1)
                answer = await of.operator.bus.request("tta.ask.graph.status", encode(AskGraphStatus()), timeout_s=5)
                prefix = getattr(decode(answer.payload), "prefix", "")
                rows = dump(home, prefix)["buckets"].values() if prefix else ()
                found.update(next((row for row in rows if row["task"] == "extraction"), {}))

    await played(graph=uri_of(home), look=look)
    return found


def _delete(home: Home) -> None:
    """All of it, as somebody would who shares the database."""
    with _driver(home) as driver:
        while _count(driver, home, "MATCH (n) WITH n LIMIT 5000 DETACH DELETE n RETURN count(*) AS n"):
            pass


def _nodes(home: Home) -> int:
    with _driver(home) as driver:
        return _count(driver, home, "MATCH (n) RETURN count(n) AS n")


def _driver(home: Home) -> Any:
    auth = (home.user, home.password) if home.user else None
    return GraphDatabase.driver(home.uri, auth=auth, notifications_min_severity="OFF")


def _count(driver: Any, home: Home, statement: str) -> int:
    return int(driver.execute_query(statement, database_=home.database).records[0]["n"])
