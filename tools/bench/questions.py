"""The eight questions to the performance graph: equal to plain Python from the raw log, quick, and by their windows.

    understudy bench questions                # both homes, where at hand
    understudy bench questions --home neo4j
    understudy bench questions --quick        # a tenth of the log, to see that it works; not to quote

100,000 outcomes of seven days are projected. Each question is asked for the last day, for a day in the middle and for
all seven; each answer is compared with one computed from the log's raw bytes. The times are of the last day, median of
seven. On Neo4j PROFILE says whether more was walked over than a window of six hours holds. Then the graph is built anew
with hours kept for three days only, and each question asked for two days, of one of which the hours are gone.
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
from neo4j import Driver, GraphDatabase

from understudy.actors.projector import cypher
from understudy.actors.projector.questions import HOUR, QUESTIONS
from understudy.tools.bench.graph.answers import ANSWERS, Known, Row, same
from understudy.tools.bench.graph.ground import fill, projecting
from understudy.tools.bench.graph.homes import Home, Missing, home, wanted
from understudy.tools.bench.graph.reader import aged, last_day, read
from understudy.tools.bench.graph.workload import DAY, Log
from understudy.tools.bench.report import Result, bar, median
from understudy.tools.bench.stage import machine

OUTCOMES, DAYS, TIMES, WITHIN_S = 100_000, 7, 7, 300.0
KEPT_DAYS = 3

GIVEN = {"qualify": {"task": "therapeutic_response"}}


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One home. `ms`: by question; `scans`: operators that PROFILE found where a window should have been looked up."""

    unequal: list[str]
    rows: dict[str, int]
    ms: dict[str, float]
    scans: list[str]
    profiled: int


async def measure(quick: bool = False, home_name: str = "") -> Result:
    """All homes that are at hand."""
    found: dict[str, Asked] = {}
    missing: dict[str, str] = {}
    controls = 0
    for name in wanted(home_name):
        try:
            with home(name) as server, tempfile.TemporaryDirectory(prefix="understudy-questions-") as folder:
                found[name], controls = await _ask(server, Path(folder), OUTCOMES // 10 if quick else OUTCOMES)
        except Missing as why:
            missing[name] = str(why)
    slowest = max((ms for one in found.values() for ms in one.ms.values()), default=9e9)
    return Result(
        bench="questions",
        bars=(
            bar("unequal", sum(len(one.unequal) for one in found.values()) if found else 1, "", 0),
            bar("slowest_ms", slowest, "ms", 500),
            bar("full_scans", sum(len(one.scans) for one in found.values()), "", 0),
            bar("planted_missed", controls, "", 0),
        ),
        detail={"homes": found, "missing": missing, "machine": machine()},
    )


async def _ask(server: Home, state: Path, outcomes: int) -> tuple[Asked, int]:
    log = Log(outcomes, days=DAYS)
    await fill(state, log)
    async with projecting(server, state, rare_chain_days=30) as running:
        payloads = await running.payloads()
        await running.until(len(payloads), WITHIN_S)
        prefix = (await running.status()).prefix
    topology = next(json.loads(one)["body"] for one in payloads if b'"topology.applied.v1"' in one)
    tables = read(payloads)
    known = Known(tables, topology)
    windows = {"last day": (log.until - DAY, log.until), "a day between": (log.until - 4 * DAY, log.until - 3 * DAY)}
    windows["all"] = (log.since, log.until)
    auth = (server.user, server.password) if server.user else None
    with GraphDatabase.driver(server.uri, auth=auth, notifications_min_severity="OFF") as driver:
        unequal, rows, missed = _compare(driver, server, prefix, known, windows)
        ms = {name: _time(driver, server, prefix, name, windows["last day"]) for name in QUESTIONS}
        last_hours = (log.until - 6 * HOUR, log.until)
        scans = _profiled(driver, server, prefix, last_hours) if server.name == "neo4j" else []
        async with projecting(server, state, rare_chain_days=30, hourly_days=KEPT_DAYS) as running:
            await running.until(len(payloads), WITHIN_S, other_than=prefix)
            prefix = (await running.status()).prefix
        gone = (last_day(payloads) - KEPT_DAYS) * DAY
        known = Known({**aged(tables, gone), "chains": tables["chains"]}, topology, gone)
        both = {"days and hours": (gone - DAY, gone + DAY)}
        compared = _compare(driver, server, prefix, known, both)
        unequal, rows, missed = unequal + compared[0], rows | compared[1], missed + compared[2]
    unequal += [
        f"{name}: no rows in any window" for name in QUESTIONS if not any(rows[f"{name}, {w}"] for w in windows)
    ]
    profiled = len(QUESTIONS) if server.name == "neo4j" else 0
    return Asked(unequal=unequal, rows=rows, ms=ms, scans=scans, profiled=profiled), missed


def parameters(name: str, since: int, until: int) -> dict[str, Any]:
    """Of one question: its defaults, what this bench gives, the window."""
    found = {key: default for key, (default, _) in QUESTIONS[name].parameters.items()}
    return {**found, **GIVEN.get(name, {}), "from": since, "to": until}


def _compare(
    driver: Driver, server: Home, prefix: str, known: Known, windows: dict[str, tuple[int, int]]
) -> tuple[list[str], dict[str, int], int]:
    """What is unequal, how many rows each answer has, and how many answers with a fault were taken for right."""
    unequal, rows, missed = list[str](), dict[str, int](), 0
    for name in QUESTIONS:
        for window, (since, until) in windows.items():
            given = parameters(name, since, until)
            plain = {key: value for key, value in given.items() if key not in ("from", "to")}
            expected = ANSWERS[name](known, since, until, **plain)
            got = _run(driver, server, prefix, QUESTIONS[name].cypher, given)
            rows[f"{name}, {window}"] = len(got)
            if not same(expected, got):
                unequal.append(f"{name}, {window}")
            if got:
                missed += same(expected, got[1:]) + same(expected, [_wrong(got[0]), *got[1:]])
    return unequal, rows, missed


def _wrong(row: Row) -> Row:
    """One figure of it changed a little."""
    name = next(key for key, value in row.items() if isinstance(value, int | float) and not isinstance(value, bool))
    return {**row, name: row[name] * 1.000001 + 1e-9}


def _run(driver: Driver, server: Home, prefix: str, text: str, given: dict[str, Any]) -> list[Row]:
    statement: Any = cypher.of(text, prefix)
    return [one.data() for one in driver.execute_query(statement, given, database_=server.database).records]


def _time(driver: Driver, server: Home, prefix: str, name: str, window: tuple[int, int]) -> float:
    took: list[float] = []
    for _ in range(TIMES):
        began = time.perf_counter()
        _run(driver, server, prefix, QUESTIONS[name].cypher, parameters(name, *window))
        took.append((time.perf_counter() - began) * 1000)
    return round(median(took), 2)


_WALKS = (
    "MATCH (b:PmBucket) WHERE b.at >= $from AND b.at < $to RETURN count(b) AS n",
    "MATCH (:PmModel)<-[:OF_MODEL]-(s:PmSeries) MATCH (s)<-[:IN_SERIES]-(b) WHERE b.at >= $from RETURN count(b) AS n",
    """MATCH (:PmTask {name: $task})<-[:FOR_TASK]-(s:PmSeries) MATCH (s)<-[:IN_SERIES]-(b) WHERE b.at >= $from
RETURN count(b) AS n""",
    """MATCH (:PmModel)<-[:OF_MODEL]-(s:PmSeries) MATCH (s)<-[:FROM]-(c:PmChange) WHERE c.at >= $from
RETURN count(c) AS n""",
)
"""What must be found: by the label, and ways from models and tasks that name none."""


def _profiled(driver: Driver, server: Home, prefix: str, window: tuple[int, int]) -> list[str]:
    """Where more was walked over than a window holds: all nodes, buckets or changes, or rows by the thousand. Chains,
    which have no window but that of their last use, may be."""
    count: Any = f"MATCH (b:{prefix}Bucket) WHERE b.at >= $from AND b.at < $to RETURN count(b)"
    times = {"from": window[0], "to": window[1]}
    ((held,),) = driver.execute_query(count, times, database_=server.database).records
    found = list[str]()
    for name, question in QUESTIONS.items():
        statement: Any = "PROFILE " + cypher.of(question.cypher, prefix)
        most = 10**9 if name == "chains" else 3 * held  # one asks for the window before, too
        found += [f"{name}: {one}" for one in _walks(driver, server, statement, parameters(name, *window), most)]
    for statement in _WALKS:
        planted: Any = "PROFILE " + cypher.of(statement, prefix)
        if not _walks(driver, server, planted, {**times, **GIVEN["qualify"]}, 3 * held):
            found.append(f"not found: {statement}")
    return found


def _walks(driver: Driver, server: Home, statement: Any, given: dict[str, Any], most: int) -> list[str]:
    plan: Any = driver.execute_query(statement, given, database_=server.database).summary.profile
    return [one for one, rows in _operators(plan) if _is_scan(one) or rows > most]


def _operators(plan: Any) -> list[tuple[str, int]]:
    """With the rows that each gave."""
    own = f"{plan['operatorType'].split('@')[0]} {plan['args'].get('Details', '')}"
    return [(own, int(plan["args"]["Rows"])), *(one for child in plan.get("children", []) for one in _operators(child))]


def _is_scan(operator: str) -> bool:
    """Every node, every bucket or change; a walk over all models, hours, or chains (which have no window but that of
    their last use) is none."""
    kind, _, details = operator.partition(" ")
    many = any(
        label in details
        for label in ("Bucket", "PmDay", "Pm2Day", "Change", "IN_HOUR", "IN_SERIES", "DURING", ":FROM", ":TO")
    )
    return kind == "AllNodesScan" or (kind.endswith(("NodeByLabelScan", "RelationshipTypeScan")) and many)
