"""Exports of the log: every event once and in order, also after kill -9 anywhere; columns as they are documented."""

from __future__ import annotations

import base64
import csv
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from understudy.bus.nats_bus import NatsBus
from understudy.bus.nats_log import api
from understudy.bus.port import Outgoing
from understudy.bus.provision import BusSpec, provision
from understudy.bus.server import NatsServer
from understudy.messages.columns import COLUMNS
from understudy.messages.events import AttemptEnded, FeedbackGiven
from understudy.messages.money import Charge
from understudy.messages.wire import encode
from understudy.tools.rawlog import exported_file

pq = pytest.importorskip("pyarrow.parquet", reason="needs the extra `analysis`")

COUNT = 1000
ODD = (b"\xff\xfe no text", b'{"a":\n1}', b'{"type":"new.thing.v1","at_ms":5,"model":"new"}', b'"=1+1"')
FORMATS = ("jsonl", "csv", "parquet")


def event(n: int) -> Outgoing:
    if n % 100 == 50:
        return Outgoing("tta.evt.odd.thing", ODD[n // 100 % len(ODD)], f"e{n}")
    if n % 10 == 3:
        given = FeedbackGiven(
            at_ms=1_800_000_000_000 + n, run_id=f"r{n}", rating=n / COUNT, reason="good", task="story"
        )
        return Outgoing("tta.evt.feedback.given", encode(given), f"e{n}")
    charge = Charge(attempt=1, model="m", cost_usd=f"0.{n:012d}", by="usage")
    model = ("org/näme:free", 'a "quoted", model')[n % 2]
    failed = AttemptEnded(
        at_ms=n, run_id=f"r{n}", attempt=1, model=model, reason="empty", charge=charge, total_ms=n / 7
    )
    return Outgoing("tta.evt.attempt.ended", encode(failed), f"e{n}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with NatsServer(tmp_path_factory.mktemp("nats"), sync="2m") as running:
        yield running


async def fill(bus: NatsBus, first: int, count: int) -> None:
    for n in range(first, first + count):
        if n == 77:  # no event: nobody stored it
            await bus.publish("tta.evt.request.ended", b"{}")
        else:
            await bus.store([event(n)], timeout_s=5)


@pytest.fixture
async def log(server: NatsServer) -> AsyncIterator[NatsBus]:
    """A connection to a log of so many events."""
    bus = await NatsBus.open(server.url, name="writer")
    await provision(bus, BusSpec(evt_max_bytes=64 << 20, trace_max_bytes=1 << 20))
    if not await bus.last_seq("TTA_EVT"):
        await fill(bus, 1, COUNT)
    yield bus
    await bus.close()


STRIKE = """
import os, sys
from understudy.bus import history
from understudy.tools import exporting
from understudy.tools.exporting import parquet, text
exporting.PART_ROWS = int(sys.argv[1])
history.AHEAD = exporting.PART_ROWS // 2  # no part is much larger, however much has come
when, part = sys.argv[2], int(sys.argv[3])
def dies(name, where, after):
    real = getattr(where, name)
    seen = [0]
    def call(*args, **more):
        seen[0] += 1
        if seen[0] == part and not after:
            os.kill(os.getpid(), 9)
        found = real(*args, **more)
        if seen[0] == part and after:
            os.kill(os.getpid(), 9)
        return found
    setattr(where, name, call)
if when == "before_manifest":
    dies("append", parquet.ParquetWriter, True)
    dies("append", text.TextWriter, True)
if when == "mid_part":
    import pyarrow.parquet as pq
    write_table, tables = pq.write_table, [0]
    def torn(table, where, **more):
        tables[0] += 1
        write_table(table, where, **more)
        if tables[0] == part:
            os.truncate(where, os.path.getsize(where) // 2)
            os.kill(os.getpid(), 9)
    pq.write_table = torn
    real = os.write
    def half(fd, data):
        if len(data) > 1000:
            part_of[0] += 1
            if part_of[0] == part:
                real(fd, data[: len(data) // 2])
                os.kill(os.getpid(), 9)
        return real(fd, data)
    part_of = [0]
    text.os.write = half
if when == "before_draft":
    dies("replace", exporting.Path, False)
if when == "after_manifest":
    dies("save", exporting, True)
from understudy.tools.cli import main
main(sys.argv[4:])
"""


def export(url: str, out: Path, *words: str, strike: tuple[str, int] | None = None, rows: int = 130) -> Any:
    """The real command; with `strike` it kills itself with SIGKILL at that moment of that part."""
    kind = out.suffix[1:]
    when, part = strike or ("never", 0)
    command = ["events", "--format", kind, "--out", str(out), "--nats", url, "--json", *words]
    done = subprocess.run(
        [sys.executable, "-c", STRIKE, str(rows), when, str(part), *command],
        capture_output=True,
        text=True,
        check=False,
    )
    if strike is not None:
        assert done.returncode == -signal.SIGKILL, done.stderr
        return None
    return json.loads(done.stdout) | {"exit": done.returncode}


def rows_of(out: Path) -> list[tuple[int, str, bytes, bool]]:
    """What stands in an export: position, subject, bytes, foreign."""
    match out.suffix:
        case ".jsonl":
            return [(one.seq, one.subject, one.payload, one.foreign) for one in exported_file(out)]
        case ".csv":
            with out.open(newline="") as file:
                return [
                    (int(r["seq"]), r["subject"], r["payload"].encode() or base64.b64decode(r["payload_base64"]),
                     r["foreign"] == "true") for r in csv.DictReader(file)
                ]  # fmt: skip
        case _:
            found = pq.read_table(out, columns=["seq", "subject", "payload", "foreign"]).to_pylist()
            return [(r["seq"], r["subject"], r["payload"], r["foreign"]) for r in found]


async def whole(bus: NatsBus) -> list[tuple[int, str, bytes, bool]]:
    """The log, asked for one by one."""
    found = [await bus.get("TTA_EVT", n) for n in range(1, await bus.last_seq("TTA_EVT") + 1)]
    return [(one.seq, one.subject, one.payload, one.foreign) for one in found if one is not None]


@pytest.mark.parametrize("kind", FORMATS)
async def test_every_message_once_and_in_its_place(server: NatsServer, log: NatsBus, kind: str, tmp_path: Path) -> None:
    out = tmp_path / f"log.{kind}"
    done = export(server.url, out)
    wanted = await whole(log)
    assert rows_of(out) == wanted and done["rows"] == done["new_rows"] == len(wanted) >= COUNT
    assert done["through_seq"] == wanted[-1][0]
    assert [seq for seq, _, _, foreign in wanted if foreign] == [77]
    assert {payload for _, _, payload, _ in wanted} >= set(ODD)
    assert export(server.url, out)["new_rows"] == 0 and rows_of(out) == wanted
    if kind == "parquet":
        assert rows_of(out) == [tuple(r.values()) for part in sorted(out.glob("part-*")) for r in pq.read_table(
            part, columns=["seq", "subject", "payload", "foreign"]).to_pylist()]  # fmt: skip


@pytest.mark.parametrize("when", ["before_manifest", "mid_part", "after_manifest"])
@pytest.mark.parametrize("kind", FORMATS)
async def test_a_killed_export_goes_on(server: NatsServer, log: NatsBus, kind: str, when: str, tmp_path: Path) -> None:
    out = tmp_path / f"log.{kind}"
    export(server.url, out, strike=(when, 3))
    torn = when == "mid_part" and kind != "parquet"  # of a folder only whole parts are read
    before = [] if torn or kind == "csv" else rows_of(out)
    export(server.url, out, strike=(when, 2), rows=90)  # and the next one too
    done = export(server.url, out)
    wanted = await whole(log)
    assert before == wanted[: len(before)] and rows_of(out) == wanted
    assert done["rows"] == len(wanted) > done["new_rows"] > 0
    assert not [path for path in tmp_path.rglob("*.draft") if "manifest" not in path.name]


async def test_what_came_later_is_added(server: NatsServer, log: NatsBus, tmp_path: Path) -> None:
    outs = [tmp_path / f"log.{kind}" for kind in FORMATS]
    for out in outs:
        export(server.url, out, "--subject", "feedback.given")
    shutil.copy(outs[2] / "part-000000.parquet", outs[2] / "part-000007.parquet")
    seen = await log.last_seq("TTA_EVT")
    await fill(log, seen + 1, 20)
    wanted = [one for one in await whole(log) if one[1] == "tta.evt.feedback.given"]
    for out in outs:
        done = export(server.url, out, "--subject", "feedback.given")
        assert done["new_rows"] == sum(seq > seen for seq, *_ in wanted) == 2
        assert rows_of(out) == wanted


async def test_another_query_or_log_is_refused(server: NatsServer, log: NatsBus, tmp_path: Path) -> None:
    out = tmp_path / "log.jsonl"
    export(server.url, out, "--model", "m")
    assert export(server.url, out)["error"] == "other_export"
    (tmp_path / "other.csv").write_text("mine")
    assert export(server.url, tmp_path / "other.csv")["error"] == "exists"
    assert (tmp_path / "other.csv").read_text() == "mine"
    parts = tmp_path / "log.parquet"
    export(server.url, parts)
    next(parts.glob("part-*")).unlink()
    assert export(server.url, parts)["error"] == "damaged"
    whole_log = tmp_path / "log.csv"
    export(server.url, whole_log)
    content = whole_log.read_bytes()
    whole_log.write_bytes(content[:-50])
    assert export(server.url, whole_log)["error"] == "damaged"
    whole_log.write_bytes(content)
    await log.last_seq("TTA_EVT")
    with NatsServer(tmp_path / "another", sync="2m") as other:
        bus = await NatsBus.open(other.url, name="writer")
        await provision(bus, BusSpec(evt_max_bytes=1 << 20, trace_max_bytes=1 << 20))
        await fill(bus, 1, 5)
        refused = export(other.url, whole_log)
        assert refused["error"] == "other_log" and "another log" in refused["text"]
        assert whole_log.read_bytes() == content
        kept = tmp_path / "kept.csv"
        export(other.url, kept)
        await fill(bus, 6, 5)
        await api(bus.client, "STREAM.PURGE.TTA_EVT", {"seq": 8})
        assert export(other.url, kept)["error"] == "log_cut"
        await bus.close()


async def test_columns_have_the_types_that_are_documented(server: NatsServer, log: NatsBus, tmp_path: Path) -> None:
    out = tmp_path / "log.parquet"
    export(server.url, out)
    table = pq.read_table(out)
    assert table.column_names == [one.name for one in COLUMNS]
    types = {"integer": "int64", "float": "double", "text": "string", "flag": "bool", "time": "timestamp[ms, tz=UTC]",
             "usd": "decimal128(21, 12)", "words": "list<element: string>", "bytes": "binary"}  # fmt: skip
    for one in COLUMNS:
        assert one.kind == "attempts" or str(table.schema.field(one.name).type) == types[one.kind], one.name
    rows = {row["seq"]: row for row in table.to_pylist()}
    first, given, unread = rows[1], rows[3], rows[50]
    assert first["charge_usd"] == Decimal("0.000000000001") and first["model"] == 'a "quoted", model'
    assert (first["total_ms"], first["attempt"], first["rating"]) == (1 / 7, 1, None)
    assert (given["rating"], given["task"], given["at"]) == (0.003, "story", datetime.fromtimestamp(1.8e9 + 0.003, UTC))
    assert given["model"] is None, "as events of before models were named have it"
    assert (unread["type"], unread["at"], unread["payload"]) == (None, None, ODD[0])
    assert (rows[77]["foreign"], rows[77]["payload"], rows[250]["model"]) == (True, b"", "new")
    stored = await log.get("TTA_EVT", 5)
    assert stored is not None and rows[5]["stored_at"] == datetime.fromtimestamp(stored.at_ms / 1000, UTC)


async def test_csv_holds_the_same_columns(server: NatsServer, log: NatsBus, tmp_path: Path) -> None:
    export(server.url, tmp_path / "log.csv")
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [one.name for one in COLUMNS] + ["payload_base64"]
    assert (rows[0]["charge_usd"], rows[0]["model"]) == ("0.000000000001", 'a "quoted", model')
    assert (rows[2]["at"], rows[2]["rating"]) == ("2027-01-15T08:00:00.003Z", "0.003")
    assert base64.b64decode(rows[49]["payload_base64"]) == ODD[0] and rows[76]["foreign"] == "true"
    stored = await log.get("TTA_EVT", 5)
    assert stored is not None and datetime.fromisoformat(rows[4]["stored_at"]).timestamp() * 1000 == stored.at_ms


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--since", "soon"), "--since: 'soon': write a time"),
        (("--until", "5x"), "--until: '5x'"),
        (("--since", "5m", "--until", "6m"), "--until: `until` has to be later"),
        (("--subject", "a b"), "--subject: 'a b' is no subject"),
        (("--request", "x"), "--request: 'x' is no run id"),
        (("--after", "-5"), "--after: -5 is no position"),
        (("--format", "csv"), "--format: csv needs --out"),
        (("--out", "x"), "--out: say in which --format"),
        (("--follow", "--until", "1m"), "--follow: goes on for ever"),
    ],
)
def test_wrong_words_are_named(words: tuple[str, ...], said: str) -> None:
    code = "import sys; from understudy.tools.cli import main; main(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, "events", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and f"invalid: {said}" in done.stderr


def test_without_pyarrow_the_extra_is_named(tmp_path: Path) -> None:
    code = "import sys; sys.modules['pyarrow'] = None; from understudy.tools.cli import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "events", "--format", "parquet", "--out", str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "pip install 'understudy[analysis]'" in done.stderr
    assert not (tmp_path / "x").exists()


def test_the_columns_are_printed() -> None:
    code = "import sys; from understudy.tools.cli import main; main(sys.argv[1:])"
    for words in (("--columns",), ("--columns", "--json")):
        done = subprocess.run(
            [sys.executable, "-c", code, "events", *words], capture_output=True, text=True, check=True
        )
        assert all(one.name in done.stdout and one.meaning in done.stdout.replace("\\", "") for one in COLUMNS)


@pytest.mark.parametrize("kind", FORMATS)
async def test_two_at_once_are_refused(server: NatsServer, log: NatsBus, kind: str, tmp_path: Path) -> None:
    out = tmp_path / f"log.{kind}"
    export(server.url, out)
    before = rows_of(out)
    fd = os.open(out, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert export(server.url, out)["error"] == "busy"
    os.close(fd)
    assert export(server.url, out)["new_rows"] == 0 and rows_of(out) == before


@pytest.mark.parametrize("kind", FORMATS)
async def test_one_that_was_killed_before_it_wrote_anything(
    server: NatsServer, log: NatsBus, kind: str, tmp_path: Path
) -> None:
    out = tmp_path / f"log.{kind}"
    export(server.url, out, strike=("before_draft", 1))
    assert export(server.url, out)["rows"] == len(await whole(log))
