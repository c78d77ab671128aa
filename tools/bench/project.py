"""The log projected into the performance graph, in each home that is at hand.

    understudy bench project                  # the embedded server, and a Neo4j where one is beside the repository
    understudy bench project --home neo4j     # only there
    understudy bench project --quick          # a tenth of it, to see that it works; not to quote

100,000 outcomes are projected, compared row by row with what a reader makes of the log's raw bytes that shares no code
with the fold, built anew beside the first, and summed. The rate is the process's own, from the log to the graph; then a
bare loop hands the same prepared rows, cut by the same rule, to the same driver, without log, fold, lease and so on.
Five times, each between two rebuilds whose mean it is compared with, as a JVM gets faster from one to the next; the
median of the five ratios counts. Then a log of ten times as many shows what an event costs as the graph grows: four
times on one server, each time after a smaller log of as many days, beside which it is built. Each tenth is the best of
the four, since what a JVM takes to compile its code, for writing and for deleting what is too old, is not the graph's
growth, and what else a shared machine does falls on some tenths of a round and not on others. The large graphs, too,
have to come to one checksum, in all rounds and homes (what is too old is told by the log's own times: not to be begun
just before midnight, UTC); and the graph of the smaller log, half of whose hours are gone, so that windows see their
days, is compared with the raw log row by row.
"""

from __future__ import annotations

import itertools
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from understudy.actors.projector import cypher
from understudy.actors.projector.core import PROJECTS
from understudy.actors.projector.rows import Folding, Rows
from understudy.actors.projector.state import Settings
from understudy.bus.subjects import evt_stream
from understudy.messages.buckets import DAY_MS, OutcomeBrief
from understudy.messages.events import RequestEnded
from understudy.messages.graph import Fact, RebuildGraph
from understudy.messages.wire import reader_of
from understudy.tools.bench.graph.dump import dump, faulty, projections
from understudy.tools.bench.graph.ground import Projecting, fill, projecting
from understudy.tools.bench.graph.homes import Home, Missing, home, wanted
from understudy.tools.bench.graph.reader import Tables, aged, differences, last_day, read, totals
from understudy.tools.bench.graph.workload import Log
from understudy.tools.bench.report import Result, bar, median
from understudy.tools.bench.stage import machine

OUTCOMES, MANY, WITHIN_S = 100_000, 1_000_000, 900.0
WARM, ROUNDS, TURNS = 60_000, 4, 5
OTHER = {"Pm": "Pm2", "Pm2": "Pm"}


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """The bare loop between two rebuilds: outcomes per second, and batches of the one before and of the loop."""

    before_per_s: float
    bare_per_s: float
    after_per_s: float
    batches: int
    bare_batches: int

    def ratio(self) -> float:
        """By the mean of the times."""
        return statistics.harmonic_mean((self.before_per_s, self.after_per_s)) / self.bare_per_s


class Projected(msgspec.Struct, frozen=True, kw_only=True):
    """One home. Rates in outcomes per second; `cold`: a server that was just started; `growth`: microseconds per event
    by tenths of the large log, the best of the rounds; `checksums` are of the small graph, `large_checksums` of the
    rounds'."""

    events: int
    buckets: int
    rows_wrong: int
    wrong: list[str]
    totals: dict[str, int]
    totals_wrong: int
    cold_per_s: float
    turns: list[Turn]
    checksums: list[str]
    projections: int
    growth_us: list[float]
    rounds_us: list[list[float]]
    large_checksums: list[str]
    days_wrong: list[str]

    def rate(self) -> float:
        """On the server that was just started, or the median of those built anew, whichever is less."""
        return min(self.cold_per_s, median([self.turns[0].before_per_s, *(turn.after_per_s for turn in self.turns)]))

    def ratio_to_bare(self) -> float:
        """Of the middle turn."""
        return median([turn.ratio() for turn in self.turns])

    def growth_ratio(self) -> float:
        """The dearest tenth over the first one that begins at 10^4 events."""
        return max(self.growth_us) / self.growth_us[0] if self.growth_us else 0.0


async def measure(quick: bool = False, home_name: str = "") -> Result:
    """All homes that are at hand."""
    outcomes, many = (OUTCOMES // 10, MANY // 20) if quick else (OUTCOMES, MANY)
    found: dict[str, Projected] = {}
    missing: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="understudy-project-") as folder:
        small, large, warm = (Path(folder) / name for name in ("small", "large", "warm"))
        _tell(f"filling two logs: {outcomes:,} and {many:,} outcomes")
        await fill(small, Log(outcomes, days=7.0 * outcomes / OUTCOMES))
        await fill(large, Log(many, days=7.0 * many / OUTCOMES), _tell_filled)
        await fill(warm, Log(min(WARM, many // 2), days=7.0 * MANY / OUTCOMES))
        planted: dict[str, int] = {}
        for name in wanted(home_name):
            try:
                with home(name) as server:
                    found[name], tables = await _small(server, Path(folder) / name, small, outcomes)
                    planted = {what: len(differences(tables, one)) for what, one in faulty(tables).items()}
                with home(name) as server:
                    days_wrong, spoiled = await _days_wrong(server, warm)
                    planted |= spoiled
                with home(name) as server:
                    told = [await _large(server, warm, large) for _ in range(1 if quick else ROUNDS)]
                rounds, sums = [us for us, _ in told], [one for _, one in told]
                best = [min(tenth) for tenth in zip(*rounds, strict=True)]
                found[name] = msgspec.structs.replace(
                    found[name],
                    growth_us=best,
                    rounds_us=rounds,
                    large_checksums=sums,
                    rows_wrong=found[name].rows_wrong + len(days_wrong),
                    days_wrong=days_wrong[:10],
                )
            except Missing as why:
                missing[name] = str(why)
    return _result(found, missing, planted, broken_folds(outcomes // 10))


def _result(
    found: dict[str, Projected], missing: dict[str, str], planted: dict[str, int], broken: dict[str, int]
) -> Result:
    controls = {**planted, **broken}
    homes = found.values()
    small = {one for each in homes for one in each.checksums}
    large = {one for each in homes for one in each.large_checksums}
    wrong = sum(one.rows_wrong + one.totals_wrong + abs(one.projections - 1) for one in homes)
    return Result(
        bench="project",
        bars=(
            bar("rows_wrong", wrong if found else 1, "rows", 0),
            bar("outcomes_per_s", min((one.rate() for one in homes), default=0.0), "1/s", 4_000, better="higher"),
            bar("ratio_to_bare", min((one.ratio_to_bare() for one in homes), default=0.0), "x", 0.7, better="higher"),
            bar("growth_ratio", max((one.growth_ratio() for one in homes), default=9.9), "x", 1.3),
            bar("checksums_differ", sum(max(0, len(sums) - 1) for sums in (small, large)), "", 0),
            bar("planted_missed", sum(not count for count in controls.values()), "", 0),
        ),
        detail={"homes": found, "missing": missing, "planted": controls, "machine": machine()},
    )


async def _small(server: Home, state: Path, log: Path, outcomes: int) -> tuple[Projected, Tables]:
    shutil.copytree(log, state)
    async with projecting(server, state, rare_chain_days=30) as running:
        head = (await running.bus.stream_state(evt_stream("tta"))).last_seq
        cold = _rate(await running.until(head, WITHIN_S), outcomes / head)
        payloads = await running.payloads()
        expected = read(payloads)
        status = await running.status()
        wrong = differences(expected, dump(server, status.prefix))
        checksums = [(await running.checksum()).checksum]
        turns: list[Turn] = []
        before = await _rebuilt(running, head, outcomes / head)
        for _ in range(TURNS):
            checksums.append((await running.checksum()).checksum)  # by then the one that served before is deleted
            batches, status = status.batches, await running.status()
            bare, bare_batches = await _bare(server, OTHER[status.prefix], payloads, outcomes)
            await _undisturbed(running, status.fence)
            if differences(expected, dump(server, OTHER[status.prefix])):
                raise RuntimeError("the bare loop is no baseline: it has not written the same rows")
            after = await _rebuilt(running, head, outcomes / head)
            turns.append(
                Turn(
                    before_per_s=before,
                    bare_per_s=bare,
                    after_per_s=after,
                    batches=status.batches - batches,
                    bare_batches=bare_batches,
                )
            )
            before = after
        checksums.append((await running.checksum()).checksum)
        status = await running.status()
        got = dump(server, status.prefix)
        wrong += differences(expected, got)
    _tell(f"{server.name}: {cold:,.0f} outcomes/s, before, in and after the bare loop {_rounded(turns)}")
    sums = totals(expected)
    return Projected(
        events=head,
        buckets=len(expected["buckets"]),
        rows_wrong=len(wrong),
        wrong=wrong[:10],
        totals=sums,
        totals_wrong=sum(totals(got)[name] != value for name, value in sums.items()),
        cold_per_s=cold,
        turns=turns,
        checksums=checksums,
        projections=len(projections(server)),
        growth_us=[],
        rounds_us=[],
        large_checksums=[],
        days_wrong=[],
    ), expected


async def _undisturbed(running: Projecting, fence: int) -> None:
    """Who opens the graph again takes a new fence, and empties the half in which the bare loop writes."""
    if (now := (await running.status()).fence) != fence:
        raise RuntimeError(f"the bare loop is no baseline: the projector has opened the graph again ({fence}, {now})")


def _rounded(turns: list[Turn]) -> list[tuple[int, int, int]]:
    return [(round(turn.before_per_s), round(turn.bare_per_s), round(turn.after_per_s)) for turn in turns]


async def _rebuilt(running: Projecting, head: int, share: float) -> float:
    """Beside the one that serves, which has nothing to do meanwhile."""
    before = await running.ask(RebuildGraph(), "rebuild")
    seen = await running.until(head, WITHIN_S, every_s=0.1, other_than=before.prefix)
    while seen and seen[0][1] >= head:  # of the one that served before
        seen.pop(0)
    return _rate(seen, share)


def _rate(seen: list[tuple[float, int]], share: float) -> float:
    """Outcomes per second, from the first sight of a half that is begun and empty to the end."""
    (began, first), (ended, last) = seen[0], next(one for one in seen if one[1] == seen[-1][1])
    return (last - first) * share / (ended - began) if ended > began else 0.0


# --- the bare loop ---------------------------------------------------------------------------------------------------


def prepared(payloads: list[bytes], fold: Folding | None = None, settings: Settings | None = None) -> Iterator[Rows]:
    """Batches, cut by the projector's rule: see `Settings`."""
    decode = reader_of((OutcomeBrief, *(cls for cls in PROJECTS if cls is not RequestEnded)))
    settings, fold, cut = settings or Settings(), fold or Folding(), 0
    for seq, payload in enumerate(payloads, 1):
        event: Any = decode(payload)
        enough = len(fold.rows) >= settings.rows_at_once or seq - 1 - cut >= settings.events(first=not cut)
        ends = enough and seq > 1 and not (seq - 1) % settings.read_at_once
        if ends or (len(fold.rows) and fold.starts_a_day(Fact(seq, event))):
            yield fold.cut()
            cut = seq - 1
        fold.take(seq, event)
    yield fold.cut()


async def _bare(server: Home, prefix: str, payloads: list[bytes], outcomes: int) -> tuple[float, int]:
    """The same rows, handed to the driver one transaction after the other: outcomes per second, and batches."""
    from neo4j import AsyncGraphDatabase

    every = (cypher.batch(one, gone=0) for one in prepared(payloads))
    batches = [[(cypher.of(text, prefix), rows) for text, rows in one] for one in every]
    auth = (server.user, server.password) if server.user else None

    async def write(tx: Any, batch: list[tuple[str, list[dict[str, Any]]]]) -> None:
        for text, rows in batch:
            for at in range(0, len(rows), 2_000):
                await (await tx.run(text, rows=rows[at : at + 2_000])).consume()

    async with AsyncGraphDatabase.driver(server.uri, auth=auth, notifications_min_severity="OFF") as driver:
        began = time.perf_counter()
        for batch in batches:
            async with driver.session(database=server.database) as session:
                await session.execute_write(write, batch)
        return outcomes / (time.perf_counter() - began), len(batches)


# --- growth ----------------------------------------------------------------------------------------------------------


async def _large(server: Home, warm: Path, log: Path) -> tuple[list[float], str]:
    """Microseconds per event by tenths, from 10^4 events on, on a server that has projected another log before; and the
    graph's checksum."""
    await _seen(server, warm)
    seen, checksum = await _seen(server, log)
    seen = seen[min(range(len(seen)), key=lambda n: seen[n][1]) :]  # before that, the other log's graph served
    head = seen[-1][1]
    first = next(seq for _, seq in seen if seq >= min(10_000, head // 10))  # at the end of a batch
    edges = [first + (head - first) * n // 10 for n in range(11)]
    at = [_moment(seen, edge) for edge in edges]
    found = [1e6 * (at[n + 1] - at[n]) / (edges[n + 1] - edges[n]) for n in range(10)]
    _tell(f"{server.name}: {median(found):.0f} us per event, by tenths {[round(one) for one in found]}")
    return found, checksum


async def _days_wrong(server: Home, log: Path) -> tuple[list[str], dict[str, int]]:
    """Rows that are not as the raw log has them, in a graph half of whose hours are gone; and how many were found
    to be wrong where one of a day was."""
    with tempfile.TemporaryDirectory(prefix="understudy-project-") as folder:
        state = Path(folder) / "state"
        shutil.copytree(log, state)
        async with projecting(server, state) as running:
            payloads = await running.payloads()
            await running.until(len(payloads), WITHIN_S, every_s=0.2)
            prefix = (await running.status()).prefix
    expected = read(payloads)
    days = aged(expected, (last_day(payloads) - Settings().hourly_days) * DAY_MS)
    got = dump(server, prefix)
    spoiled: dict[str, int] = {}
    gone = min(row["day"] for row in days["hours"].values() if row["hours"] == 24 and row["at"] is not None)
    for table, name in (("days", "n"), ("days", "lat_max_us"), ("hours", "runs"), ("hours", "at")):
        key = next(key for key in days[table] if key.endswith(f"{gone}d"))
        rows = {**days[table], key: {**days[table][key], name: days[table][key][name] + 1}}
        spoiled[f"{name} of a day"] = len(differences({**days, table: rows}, days))
    return differences(days, got), spoiled


async def _seen(server: Home, log: Path) -> tuple[list[tuple[float, int]], str]:
    """A log that is projected, beside the one before: when the graph was where, and its checksum."""
    with tempfile.TemporaryDirectory(prefix="understudy-project-") as folder:
        state = Path(folder) / "state"
        shutil.copytree(log, state)
        before = next((one["prefix"] for one in projections(server)), "")
        async with projecting(server, state) as running:
            head = (await running.bus.stream_state("TTA_EVT")).last_seq
            seen = await running.until(head, WITHIN_S, every_s=0.2, other_than=before)
            return seen, (await running.checksum()).checksum


def _moment(seen: list[tuple[float, int]], edge: int) -> float:
    """When it was there; between two batches as if it went on evenly."""
    steps = [seen[0], *(b for a, b in itertools.pairwise(seen) if b[1] != a[1])]
    for (t0, s0), (t1, s1) in itertools.pairwise(steps):
        if s0 <= edge <= s1:
            return t0 + (t1 - t0) * (edge - s0) / max(1, s1 - s0)
    return steps[-1][0]


# --- controls --------------------------------------------------------------------------------------------------------


def broken_folds(outcomes: int) -> dict[str, int]:
    """Folds with a fault in them: rows that the reader finds wrong."""
    payloads = [one.payload for one in Log(outcomes, days=1.0, seed=3)]
    expected = read(payloads)

    class Drops(Folding):
        """Loses every thousandth event."""

        def take(self, seq: int, event: Any, stored_ms: int = 0) -> None:
            if seq % 1_000:
                super().take(seq, event, stored_ms)

    class Twice(Folding):
        """Takes every thousandth event twice, as one that is redelivered."""

        def take(self, seq: int, event: Any, stored_ms: int = 0) -> None:
            super().take(seq, event, stored_ms)
            if not seq % 1_000:
                super().take(seq, event, stored_ms)

    found = {"the fold itself": not _wrong(expected, payloads, Folding())}
    found |= {f"fold: {one.__doc__}": _wrong(expected, payloads, one()) for one in (Drops, Twice)}
    return {name: int(count) for name, count in found.items()}


def _wrong(expected: Tables, payloads: list[bytes], fold: Folding) -> int:
    """Buckets of a fold without a graph that are not as the reader has them."""
    got: dict[str, Any] = {}
    for rows in prepared(payloads, fold):
        for key, one in rows.buckets.items():
            row = cypher.bucket_row(*key, one)
            known = got.setdefault(row["key"], row)
            if known is not row:
                for name in (*cypher.COUNTERS,):
                    known[name] += row[name]
                known["lat_max_us"] = max(known["lat_max_us"], row["lat_max_us"])
                known["h"] = [a + b for a, b in zip(known["h"], row["h"], strict=True)]
    return len(differences({"buckets": expected["buckets"]}, {"buckets": got}))


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _tell_filled(done: int) -> None:
    if not done % 100_000:
        _tell(f"  {done:,} events")
