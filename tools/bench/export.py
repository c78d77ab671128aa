"""Export and re-import: a log of measured events as Parquet, read by pandas, folded to the same state.

Some requests are really run against the fake provider, priced ones and failovers among them, and the log is filled
with copies of what they left, ratings and benchmarks beside them. Then all of it is exported and read back. The state
of the selector's fold and the counters of outcomes, of the log's own bytes and of the file's, must have one hash each;
so must the rows, and sums of the columns beside those that nats-py and `json` alone make of the log. Controls: one
figure altered, one row dropped, one doubled, one column's value wrong; the same comparison must find each.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec

from understudy.bus.client import Client
from understudy.bus.log_query import LogQuery
from understudy.bus.nats_bus import NatsBus
from understudy.bus.port import Received
from understudy.bus.server import NatsServer
from understudy.bus.subjects import evt_stream
from understudy.messages.benchmarks import BenchmarkMeasured, TaskScore
from understudy.messages.events import FeedbackGiven
from understudy.messages.topology import Topology
from understudy.messages.wire import encode
from understudy.tools.bench.coldstart import DISK_BYTES_PER_EVENT, SPARE_BYTES, fill_log, measured_events
from understudy.tools.bench.exported import Folds, Sums, folds, raw_log, sums_of
from understudy.tools.bench.filling import Measured, Template
from understudy.tools.bench.report import Result, bar
from understudy.tools.bench.stage import fake_provider, machine, topology_on
from understudy.tools.common import needs
from understudy.tools.exporting import Manifest, export
from understudy.tools.exporting.parquet import MANIFEST, ParquetWriter

EVENTS, QUICK_EVENTS = 300_000, 20_000
EVENTS_PER_S = 30_000
AT_MS = 1_800_000_000_000
RUN = "01M80D2EDAQ0Z1FR5A7G1SGF58"


async def measure(quick: bool = False) -> Result:
    """Fill, export, read back, compare; then the controls."""
    events = QUICK_EVENTS if quick else EVENTS
    with tempfile.TemporaryDirectory(prefix="understudy-export-") as folder:
        state, out = Path(folder), Path(folder) / "events.parquet"
        async with fake_provider() as (url, _):
            topology = _topology(url, events)
            measured = await measured_events(topology, state)
        (state / "nats").rename(state / "measured")  # the log of copies begins anew
        _add_judgements(measured)
        await fill_log(measured, evt_stream(topology.app), state, events, events)
        server = NatsServer(state / "nats").start()
        try:
            read_per_s = await _read_rate(server.url, topology.app)
            done = await _export(server.url, topology.app, out)
            _tell(f"exported {done.rows:,} events in {done.s} s; reading them back")
            stream = evt_stream(topology.app)
            wanted, rows = await raw_log(server.url, stream, f"{topology.app}.evt.>")
        finally:
            server.stop()
        differ, detail = _compare(out, wanted, folds(rows))
        size = sum(path.stat().st_size for path in out.glob("part-*"))
    held = not differ and all(detail["controls"].values())
    bars = (
        bar("events_per_s", done.rows / done.s, "events/s", EVENTS_PER_S, better="higher"),
        bar("hash_equal", int(held), "of 1", 1, better="higher"),
    )
    detail |= {"events": done.rows, "export_s": done.s, "read_alone_per_s": round(read_per_s), "differ": differ}
    detail |= {"log_bytes_per_event": round(sum(len(p) for _, p in rows) / len(rows)), "shares": measured.shares}
    detail |= {"parquet_bytes_per_event": round(size / done.rows), "machine": machine()}
    return Result(bench="export", bars=bars, detail=detail)


def _topology(url: str, events: int) -> Topology:
    prices = {"usd_per_mtok_in": 0.5, "usd_per_mtok_out": 1.5}
    models: dict[str, dict[str, Any]] = {
        f"{fault}@{n}": {"continues": "native", "fallbacks": ["ok@healthy"], **(prices if n % 2 else {})}
        for n, fault in enumerate(("ok", "ok", "ok", "500", "cut"))
    }
    models["ok@healthy"] = {"continues": "native"}
    return topology_on(url, models, log={"max_bytes": SPARE_BYTES + events * DISK_BYTES_PER_EVENT})


def _add_judgements(measured: Measured) -> None:
    """What people and benchmarks say of models: of their own form, as nobody was asked here."""
    for n in range(len(measured.templates) // 20):
        run_id = RUN[:-2] + f"{n:02d}"
        given = FeedbackGiven(at_ms=AT_MS, id=f"order.{run_id}", run_id=run_id, rating=n % 5 / 4, model="ok@0")
        measured.templates.append(
            Template("tta.evt.feedback.given", encode(msgspec.structs.replace(given, task="general")))
        )
    score = TaskScore(task="general", items=10, scored=10, score_u=7_000_000)
    suite = BenchmarkMeasured(
        at_ms=AT_MS, id=RUN, bench_id=RUN, model="ok@1", suite="basic", suite_hash="0" * 32, seed=1, tasks=(score,)
    )
    measured.templates.append(Template("tta.evt.benchmark.measured", encode(suite)))


async def _read_rate(url: str, app: str) -> float:
    """Events per second that our reader takes from the stream when nothing is made of them: the machine's own part."""
    bus = await NatsBus.open(url, name="bench")
    head, done, seen = await bus.last_seq(evt_stream(app)), asyncio.Event(), 0

    def take(received: Received) -> None:
        nonlocal seen
        seen += 1
        if received.seq >= head:
            done.set()

    began = time.perf_counter()
    reading = await bus.read(evt_stream(app), [f"{app}.evt.>"], take)
    await done.wait()
    took_s = time.perf_counter() - began
    await reading.stop()
    await bus.close()
    return seen / took_s


async def _export(url: str, app: str, out: Path) -> Any:
    async with await Client.connect(url, app=app) as client:
        wanted = Manifest(format="parquet", stream=evt_stream(app), created="", asked={}, query=LogQuery())
        return await export(client, out, out / MANIFEST, ParquetWriter(out), wanted, _tell)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


# --- the comparison ------------------------------------------------------------------------------------------------


def _compare(out: Path, wanted: Sums, folded: Folds) -> tuple[list[str], dict[str, Any]]:
    """What differs between the log and the file (nothing, one hopes), and which control was found by what."""
    pandas = needs("pandas", "analysis")
    frame = pandas.read_parquet(out)
    differ = _differences(frame, wanted, folded)
    last = frame.index[(frame["type"] == "request.ended.v1") & frame["first_token_ms"].notna()][-1]
    altered, dropped = frame.copy(), frame.drop(index=last)
    altered.at[last, "payload"] = _altered(frame.at[last, "payload"])
    doubled = pandas.concat([frame[: last + 1], frame[last:]])
    wrong = frame.copy()
    wrong.at[last, "prompt_tokens"] += 1
    controls = {"altered": altered, "dropped": dropped, "doubled": doubled, "wrong_column": wrong}
    caught = {name: _differences(one, wanted, folded) for name, one in controls.items()}
    return differ, {"sums": msgspec.to_builtins(wanted), "folds": folded._asdict(), "controls": caught}


def _differences(frame: Any, wanted: Sums, folded: Folds) -> list[str]:
    """By name: which sums, digests or folds of a data frame are not those of the log."""
    found, again = sums_of(frame), folds(zip(frame["seq"], frame["payload"], strict=True))
    pairs = {name: (getattr(wanted, name), getattr(found, name)) for name in wanted.__struct_fields__}
    pairs |= {"fold_selector": (folded.selector, again.selector), "fold_buckets": (folded.buckets, again.buckets)}
    return [name for name, (ours, theirs) in pairs.items() if ours != theirs]


def _altered(payload: bytes) -> bytes:
    """One figure of one event, by one digit."""
    figure = re.search(rb'"first_token_ms":(\d)', payload)
    assert figure is not None
    return payload[: figure.start(1)] + b"%d" % ((int(figure[1]) + 1) % 10) + payload[figure.end(1) :]
