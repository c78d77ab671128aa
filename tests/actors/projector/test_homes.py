"""The graph on real servers: over Bolt (leases, fences, batches that are whole or not there, days, halves), what the
edge says of it, and what the questions answer at their edges. One file, so that two JVMs are started once."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from pathlib import Path
from typing import Any, cast

import pytest

from tests.actors.projector.conftest import AT, Clock, begun, connect, ended, rows
from tests.actors.projector.test_rows import applied
from understudy.actors.host.logs import Log
from understudy.actors.projector import cypher
from understudy.actors.projector import edge as edges
from understudy.actors.projector.bolt import Graph
from understudy.actors.projector.place import Held, NotOurs, Retention
from understudy.actors.projector.questions import HOUR, QUESTIONS
from understudy.actors.projector.rows import Folding
from understudy.bus.nats_bus import NatsBus
from understudy.bus.nats_log import api
from understudy.bus.port import Bus, Outgoing
from understudy.bus.provision import BusSpec, provision
from understudy.bus.server import NatsServer
from understudy.messages.buckets import DAY_MS, HOUR_MS, Bucket
from understudy.messages.events import ModelSwitched, ModelUnavailable
from understudy.messages.graph import GraphOpened, GraphTrouble, LogRead, OpenGraph, ReadLog, RenewLease, WriteRows
from understudy.messages.step import Input
from understudy.messages.wire import encode
from understudy.tools.bench.graph.homes import Home
from understudy.tools.graph import OtherVersion, serving

pytestmark = pytest.mark.timeout(120)
BUCKETS = "MATCH (b:PmBucket) RETURN b.key, b.n ORDER BY b.key"
DAYS = BUCKETS.replace("Bucket", "Day")
HUNG = """MATCH (b:PmDay)-[:IN_SERIES]->(s:PmSeries) MATCH (s)-[:OF_MODEL]->(m:PmModel)
MATCH (s)-[:FOR_TASK]->(t:PmTask) RETURN b.key, s.key, m.key, t.name"""


async def test_one_holds_the_lease_until_it_ends(graph: Graph, clock: Clock) -> None:
    first = await graph.take("me", "S", 5_000)
    with pytest.raises(Held) as held:
        await graph.take("you", "S", 5_000)
    assert (held.value.holder, held.value.until_ms) == ("me", 1_005_000)
    clock.now_ms += 4_000
    await graph.renew(first.fence, 5_000)
    clock.now_ms += 4_000
    with pytest.raises(Held):
        await graph.take("you", "S", 5_000)
    clock.now_ms += 1_001
    second = await graph.take("you", "S", 5_000)
    assert second.fence > first.fence
    with pytest.raises(NotOurs):
        await graph.renew(first.fence, 5_000)
    await graph.renew(second.fence, 0)
    assert (await graph.take("me", "S", 5_000)).fence > second.fence


async def test_a_batch_is_written_once_however_often_it_is_sent(graph: Graph) -> None:
    fence = await begun(graph)
    for _ in range(2):
        await graph.write("Pm", fence, 0, 9, 20_000, rows(ended(AT, "a"), ended(AT + 1, "b", "a")))
    assert await graph.rows(BUCKETS) == [[f"a t {AT}", 2], [f"b t {AT}", 1]]
    place = await graph.look()
    assert place is not None and (place.half.seq, place.half.day) == (9, 20_000)


async def test_who_is_elsewhere_or_has_an_old_fence_writes_nothing(graph: Graph, clock: Clock) -> None:
    fence = await begun(graph)
    await graph.write("Pm", fence, 0, 5, 20_000, rows(ended(AT, "a")))
    with pytest.raises(NotOurs, match="at 5, not at 3"):
        await graph.write("Pm", fence, 3, 9, 20_000, rows(ended(AT, "a")))
    clock.now_ms += 5_001
    await graph.take("you", "S", 5_000)
    for late in (graph.write("Pm", fence, 5, 9, 20_000, rows(ended(AT, "a"))), graph.begin("Pm2", fence, "e", "s"),
                 graph.empty("Pm2", fence), graph.swap("Pm2", fence, 0)):  # fmt: skip
        with pytest.raises(NotOurs):
            await late
    assert await graph.rows(BUCKETS) == [[f"a t {AT}", 1]]


async def test_two_that_write_at_the_same_moment_write_it_once(graph: Graph, graph_home: Home, clock: Clock) -> None:
    """The same batch from two connections, at once, again and again: only the position decides."""
    fence, twin = await begun(graph), connect(graph_home, clock)
    try:
        for n in range(20):
            batch = [rows(ended(AT, "a"), ended(AT, "a", "b")) for _ in range(2)]
            both = [
                one.write("Pm", fence, n, n + 1, 20_000, some) for one, some in zip((graph, twin), batch, strict=True)
            ]
            done = await asyncio.gather(*both, return_exceptions=True)
            assert all(one is None or isinstance(one, (NotOurs, *graph.errors)) for one in done), done
            place = await graph.look()
            assert place is not None and place.half.seq == n + 1
    finally:
        await twin.close()
    assert await graph.rows(BUCKETS) == [[f"a t {AT}", 40], [f"b t {AT}", 20]]


async def test_a_batch_that_breaks_off_leaves_nothing(graph: Graph) -> None:
    fence = await begun(graph)
    broken = rows(ended(AT, "a"))
    broken.falls[("x", "y", "t", None)] = next(iter(rows(ended(AT, "a", "b")).falls.values()))  # type: ignore[index]
    broken.chains[("t", "a")] = None  # type: ignore[assignment]
    with pytest.raises(AttributeError):
        await graph.write("Pm", fence, 0, 9, 20_000, broken)
    assert await graph.rows(BUCKETS) == []


async def test_hours_become_days_and_days_and_what_is_rare_go(graph: Graph) -> None:
    fence, fold = await begun(graph), Folding()
    switched = ModelSwitched(at_ms=AT, model="b", from_model="a", run_id="r", mode="continue", reason="x", task="t")
    often = [ended(AT + n, "a", "b") for n in range(3)]
    await graph.write("Pm", fence, 0, 1, 20_000, rows(*often, switched, ended(AT + HOUR_MS, "a"),
                      ended(AT, "c", "b"), fold=fold))  # fmt: skip
    before, _ = await graph.checksum("Pm")
    for n, days in enumerate((1, 3, 12, 13, 20), 1):
        event = ended(AT + days * DAY_MS, "z")
        await graph.write("Pm", fence, n, n + 1, 20_000 + days, rows(event, fold=fold))
        found = {key: count for key, count in await graph.rows(BUCKETS) if not key.startswith("z")}
        day = {key: count for key, count in await graph.rows(DAYS) if not key.startswith("z")}
        chains = {key for (key,) in await graph.rows("MATCH (c:PmChain) RETURN c.key")}
        changes = len(await graph.rows("MATCH (c:PmChange) RETURN c.key"))
        hours = [row for row in await graph.rows(cypher.SUMMED["hours"]) if row[0].startswith(f"{AT}")]
        told = await graph.rows(QUESTIONS["hourly"].cypher, **{"from": AT, "to": AT + DAY_MS})
        fate = await graph.rows(QUESTIONS["fate"].cypher, **{"from": AT, "to": AT + DAY_MS, "models": 0, "limit": 9})
        if days < 10:
            assert day == {f"a t {AT}": 4, f"b t {AT}": 4, f"c t {AT}": 1}, "from the beginning on"
            hung = sorted([row[0], row[1:]] for row in await graph.rows(HUNG) if row[2] != "z")
            assert hung == [[f"{m} t {AT}", [f"{m} t {AT - DAY_MS}w", m, "t"]] for m in "abc"], "each once"
        if days == 1:
            assert found[f"a t {AT}"] == 3 and f"a t {AT + HOUR_MS}" in found and changes == 1 and fate
            assert sorted(hours) == [[f"{AT}", AT, None, 1, 4, 4], [f"{AT}d", None, AT, 24, 5, 5]]
            assert [row[:3] for row in told] == [["a", AT, 3], ["a", AT + HOUR_MS, 1], ["b", AT, 4], ["c", AT, 1]]
        elif days == 3:
            assert found == {} and changes == 0 and chains == {"t a b", "t c b"}
            assert hours == [[f"{AT}d", AT, AT, 24, 5, 5]]
            assert [row[:3] for row in told] == [["a", AT, 4], ["b", AT, 4], ["c", AT, 1]], "days are in windows, too"
            assert not fate, "no hour of a day is known"
        else:
            series = await graph.rows("MATCH (s:PmSeries)-[:OF_MODEL]->(m:PmModel) WHERE m.key <> 'z' RETURN s.key")
            left = {12: (3, 3), 13: (0, 3), 20: (0, 0)}[days]
            assert (len(day), len(series), chains) == (*left, {"t a b"}), "by weeks, and those of whole weeks"
    assert (await graph.checksum("Pm"))[0] != before


async def test_what_comes_late_is_added_to_its_day_wherever_batches_end(graph: Graph) -> None:
    fence, sums = await begun(graph), dict[int, set[str]]()
    switched = ModelSwitched(at_ms=AT, model="b", from_model="a", run_id="r", mode="continue", reason="x", task="t")
    late = [ended(AT, "a"), ended(AT - 20 * DAY_MS, "b"), switched]
    await graph.begin("Pm2", fence, "e", "s")
    begins = [applied(AT - DAY_MS), ended(AT, "a"), applied(AT + 3 * DAY_MS), ended(AT + 3 * DAY_MS, "z")]
    ends, last = [ended(AT + 4 * DAY_MS, "z")], [ended(AT + 13 * DAY_MS, "z")]
    cut_often = (begins[:1], begins[1:2], begins[2:], late, ends, last)
    for prefix, cuts in (("Pm", cut_often), ("Pm2", (begins[:2], [*begins[2:], *late], ends, last))):
        fold = Folding()
        for n, events in enumerate(cuts):
            batch = rows(*events, fold=fold)
            await graph.write(prefix, fence, n, n + 1, fold.day, batch)
            if prefix == "Pm" and events is late:
                assert [key for key, _ in await graph.rows(BUCKETS) if "z" not in key] == [], "its hour is gone"
                assert [f"a t {AT}", 2] in await graph.rows(DAYS)
                hours = await graph.rows(cypher.SUMMED["hours"])
                old = AT - 20 * DAY_MS
                assert [f"{AT}d", AT, AT, 24, 2, 2] in hours and [f"{old}d", old, old, 24, 1, 1] in hours, "in windows"
            sums.setdefault(fold.day, set()).add((await graph.checksum(prefix))[0])
    assert [key for key, _ in await graph.rows(DAYS) if "z" not in key] == [], "what came late goes, too"
    assert len(sums[20_004]) == len(sums[20_013]) == 1 and len(sums[20_003]) == 2


async def test_a_database_of_version_5_is_gone_on_with(graph: Graph) -> None:
    """Its constraint on hours would be broken by the first day."""
    former = ["CREATE CONSTRAINT pmhour_at FOR (x:PmHour) REQUIRE x.at IS UNIQUE",
              "CREATE INDEX pmbucket_at FOR (x:PmBucket) ON (x.at)"]  # fmt: skip
    for statements in ([*former, f"CREATE (:PmHour {{at: {AT}}})"], former):  # again: they are gone, or it would fail
        async with graph.session() as session:
            for statement in statements:
                await (await session.run(statement)).consume()  # type: ignore[arg-type]
        await graph.prepare()
    fence, fold = await begun(graph), Folding()
    for n, (days, some) in enumerate(((0, [ended(AT, "a")]), (3, [ended(AT + 3 * DAY_MS, "a"), ended(AT, "a")]))):
        await graph.write("Pm", fence, n, n + 1, 20_000 + days, rows(*some, fold=fold))
    assert await graph.rows(BUCKETS) == [[f"a t {AT + 3 * DAY_MS}", 1]]
    assert await graph.rows(DAYS) == [[f"a t {AT}", 2], [f"a t {AT + 3 * DAY_MS}", 1]]


async def test_questions_are_not_put_to_a_graph_of_another_version(graph: Graph, graph_home: Home) -> None:
    """It would have nothing in any window."""
    home = {name: getattr(graph_home, name) for name in ("uri", "user", "password", "database")}
    fence = await begun(graph)
    for prefix, version in (("Pm2", cypher.VERSION), ("Pm", cypher.VERSION - 1)):
        await graph.begin(prefix, fence, "e", f"{version}.35.400.7")
        await graph.swap(prefix, fence, 0)
        with (
            pytest.raises(OtherVersion, match=f"version {cypher.VERSION - 1},")
            if prefix == "Pm"
            else contextlib.nullcontext()
        ):
            assert await serving(home) == "Pm2"


async def test_a_day_holds_what_its_hours_held(graph: Graph) -> None:
    fence, fold = await begun(graph), Folding()
    some = rows(*(ended(AT + n * HOUR_MS, "a") for n in range(5)), fold=fold)
    total = Bucket()
    for one in some.buckets.values():
        total.add(one)
    await graph.write("Pm", fence, 0, 1, 20_000, some)
    await graph.write("Pm", fence, 1, 2, 20_003, rows(ended(AT + 3 * DAY_MS, "z"), fold=fold))
    names = (*cypher.COUNTERS, "lat_max_us", "h")
    day = await graph.rows(f"MATCH (b:PmDay {{key: 'a t {AT}'}}) RETURN {', '.join(f'b.{name}' for name in names)}")
    expected = cypher.bucket_row("a", "t", AT, total)
    assert day == [[expected[name] for name in names]] and expected["n"] == 5


async def test_a_sweep_without_its_batch_is_done_once(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep is done and the batch is not: both come again."""
    fence, fold = await begun(graph), Folding()
    await graph.write("Pm", fence, 0, 1, 20_000, rows(*(ended(AT + n * HOUR_MS, "a") for n in range(5)), fold=fold))
    third_day = rows(ended(AT + 3 * DAY_MS, "z"), fold=fold)

    transact, begun_before = graph._in_transaction, list[None]()  # pyright: ignore[reportPrivateUsage]

    async def breaks_off(work: Any) -> Any:
        if begun_before:
            raise OSError("gone")
        begun_before.append(None)
        return await transact(work)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="gone"):
        patch.setattr(graph, "_in_transaction", breaks_off)
        await graph.write("Pm", fence, 1, 2, 20_003, third_day)
    assert (await graph.rows(BUCKETS), await graph.rows(DAYS)) == ([], [[f"a t {AT}", 5]])
    for _ in range(2):
        await graph.write("Pm", fence, 1, 2, 20_003, third_day)
    assert await graph.rows(BUCKETS) == [[f"z t {AT + 3 * DAY_MS}", 1]]
    assert await graph.rows(DAYS) == [[f"a t {AT}", 5], [f"z t {AT + 3 * DAY_MS}", 1]]


async def test_a_half_is_built_beside_the_one_that_serves(graph: Graph) -> None:
    fence = await begun(graph)
    await graph.write("Pm", fence, 0, 5, 20_000, rows(ended(AT, "a")))
    await graph.begin("Pm2", fence, "e", "new")
    place = await graph.look()
    assert place is not None and place.building is not None
    assert (place.half.prefix, place.half.seq, place.building.prefix, place.building.schema) == ("Pm", 5, "Pm2", "new")
    await graph.write("Pm2", fence, 0, 5, 20_000, rows(ended(AT, "a")))
    assert (await graph.checksum("Pm")) == (await graph.checksum("Pm2"))
    with pytest.raises(NotOurs):
        await graph.swap("Pm2", fence, 4)
    for _ in range(2):  # an answer that was lost is asked for again
        await graph.swap("Pm2", fence, 5)
    await graph.empty("Pm", fence)
    assert await graph.rows("MATCH (n:PmBucket) RETURN n.key") == []
    with pytest.raises(NotOurs, match="serves"):
        await graph.empty("Pm2", fence)
    place = await graph.look()
    assert place is not None and (place.half.prefix, place.half.schema, place.building) == ("Pm2", "new", None)


async def test_incidents_that_last_are_told_to_who_goes_on(graph: Graph) -> None:
    fence = await begun(graph)
    gone = ModelUnavailable(at_ms=AT, model="a/b:c", reason="gone", was="healthy", retry_at_ms=0)
    await graph.write("Pm", fence, 0, 1, 20_000, rows(gone))
    (one,) = await graph.incidents("Pm")
    assert (one.key, one.subject, one.kind, one.n) == ("health a/b:c 1", "a/b:c", "unavailable", 1)


async def test_a_deleted_database_is_no_graph_of_ours(graph: Graph) -> None:
    fence = await begun(graph)
    async with graph.session() as session:
        await (await session.run("MATCH (n) DETACH DELETE n")).consume()
    assert await graph.look() is None
    with pytest.raises(NotOurs):
        await graph.write("Pm", fence, 0, 1, 20_000, rows(ended(AT, "a")))
    await graph.prepare()
    assert (await graph.take("me", "S", 5_000)).half.prefix == ""


async def test_what_others_keep_in_the_database_stays(graph: Graph) -> None:
    async with graph.session() as session:
        await (await session.run("CREATE (:World {name: 'theirs'})")).consume()
    with contextlib.suppress(NotOurs):
        fence = await begun(graph)
        await graph.begin("Pm2", fence, "e", "s")
        await graph.empty("Pm2", fence)
    assert await graph.rows("MATCH (w:World) RETURN w.name") == [["theirs"]]


async def test_the_documented_cypher_runs_as_it_stands(graph: Graph) -> None:
    """Every statement, with the defaults that stand before it; as a shell sets parameters."""
    text = re.sub(r"^//.*$", "", Path("deploy/graph/questions.cypher").read_text(encoding="utf-8"), flags=re.M)
    given: dict[str, Any] = {}
    asked = 0
    for statement in filter(None, map(str.strip, text.split(";"))):
        if statement.startswith(":param "):
            name, value = statement.removeprefix(":param ").split(" => ")
            ((given[name],),) = await graph.rows(f"RETURN {value}")
        else:
            assert await graph.rows(statement, **given) == []
            asked += 1
    assert asked == 8 and (given["to"] - given["from"], given["to"] % HOUR_MS) == (7 * DAY_MS, 0)


async def test_the_models_of_a_half_are_told_as_they_were_written(graph: Graph) -> None:
    fence, fold = await begun(graph), Folding()
    await graph.write("Pm", fence, 0, 1, 20_000, rows(applied(AT, a=1.5), ended(AT, "a", "x"), fold=fold))
    assert await graph.written("Pm") == fold.written and set(fold.written) == {"a", "x"}


# --- the edge: whatever becomes of an order, the step hears of it -----------------------------------------------------

SUBJECT = "tta.evt.request.ended"


class Told:
    """An edge, and what it says."""

    def __init__(self, graph: Graph, bus: Bus | None = None) -> None:
        self.said = asyncio.Queue[Input]()
        self.edge = edges.ProjectorEdge(graph, cast("Bus", bus), "tta", lambda: 1.0, Log("projector", "projector-1"))

    async def about(self, order: Any) -> Input:
        await self.edge.start(self.said.put_nowait)
        self.edge.perform(order)
        return await asyncio.wait_for(self.said.get(), 20)


async def test_a_number_that_no_graph_can_hold_is_trouble_and_no_silence(graph: Graph) -> None:
    fence = await begun(graph)
    some = rows(ended(AT, "a"))
    next(iter(some.buckets.values())).n = 2**70
    said = await Told(graph).about(WriteRows("Pm", fence, 0, 9, 20_000, some))
    assert isinstance(said, GraphTrouble) and "Overflow" in said.text


async def test_a_server_that_takes_connections_and_never_answers_is_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edges, "STUCK_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"bolt://127.0.0.1:{server.getsockname()[1]}"
        silent = Graph(uri, "", "", "neo4j", lambda: 1.0, Retention())
        assert isinstance(await Told(silent).about(RenewLease(1, 5_000)), GraphTrouble)
        await silent.close()


async def test_a_log_that_was_made_anew_is_noticed_while_it_is_read(graph: Graph, tmp_path: Path) -> None:
    server = NatsServer(tmp_path, sync="2m").start()
    bus = await NatsBus.open(server.url, name="test")
    try:
        await provision(bus, BusSpec(evt_max_bytes=10_000_000, trace_max_bytes=1_000_000))
        ahead = ended(2**60, "a")  # a time that no graph can hold: counted as one that could not be read
        events = [Outgoing(SUBJECT, encode(one), f"{n}") for n, one in enumerate((ended(AT, "a"), ahead))]
        await bus.store(events, timeout_s=5)
        told = Told(graph, bus)
        opened = await told.about(OpenGraph("me", 5_000))
        assert isinstance(opened, GraphOpened) and opened.head == 2
        read = await told.about(ReadLog("Pm", 0, 10))
        assert isinstance(read, LogRead) and (len(read.facts), read.upto, read.unknown) == (1, 2, 1)
        assert read.facts[0].stored_ms > AT
        await api(bus.client, "STREAM.DELETE.TTA_EVT", timeout_s=5)
        await provision(bus, BusSpec(evt_max_bytes=10_000_000, trace_max_bytes=1_000_000))
        await bus.store([Outgoing(SUBJECT, encode(ended(AT, "a")), f"again {n}") for n in range(5)], timeout_s=5)
        said = await told.about(ReadLog("Pm", 2, 10))
        assert isinstance(said, GraphTrouble) and "another" in said.text
    finally:
        await bus.close()
        await asyncio.to_thread(server.stop)


# --- the questions; that they equal plain Python is `bench questions` -------------------------------------------------

FROM = 490_000 * HOUR
MAKE = """MERGE (m:PmModel {key: $model}) MERGE (s:PmSeries {key: $model + ' t'}) MERGE (s)-[:OF_MODEL]->(m)
CREATE (b:PmBucket {key: $model + ' t ' + toString($at), at: $at, task: 't',
  n: $ok + $err, ok: $ok, err: $err, lat_us: $ok * $us, score_u: 0, score_n: 0, cost_pusd: 0})
CREATE (b)-[:IN_SERIES]->(s) MERGE (h:PmHour {key: toString($at)}) SET h.at = $at, h.hours = 1
CREATE (b)-[:IN_HOUR]->(h)"""


async def test_a_model_that_only_fails_now_got_worse(graph: Graph) -> None:
    """And one that nobody asked in either window, or that was not good before, is not spoken of."""
    async with graph.session() as session:
        for model, before, now in (
            ("dead", (40, 0, 1_000), (0, 40, 0)),
            ("hardly", (40, 0, 1_000), (5, 35, 9_000)),
            ("slower", (40, 0, 1_000), (40, 0, 1_500)),
            ("same", (40, 10, 1_000), (40, 10, 1_000)),
            ("rated", (40, 0, 1_000), (0, 0, 0)),
            ("new", (0, 5, 0), (40, 0, 1_000)),
        ):
            for at, (ok, err, us) in ((FROM - HOUR, before), (FROM, now)):
                await (await session.run(MAKE, {"model": model, "at": at, "ok": ok, "err": err, "us": us})).consume()
    worse, window = QUESTIONS["worse"].cypher, {"from": FROM, "to": FROM + HOUR}
    told = [row[:4] for row in await graph.rows(worse, **window, least=20)]
    assert told == [["dead", None, 1, 40], ["hardly", None, 0.875, 40], ["slower", 1.5, 0, 40], ["same", 1, 0, 50]]
    assert len(await graph.rows(worse, **window, least=0)) == 4
