"""Cold start: a log of 2 million events of measured size and kinds; how long until the selectors are ready.

Some requests are really run against the fake provider, and the log is filled with copies of what they left, by a server
that syncs every two minutes; everything measured runs with the shipped settings, as `understudy up` starts it: two
selectors and the health tracker fold at once. The snapshot is the one that the actors wrote at a clean stop at 97.5 %.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from understudy.actors.host.loop import LOOK_BACK_S
from understudy.actors.host.supervisor import Supervisor
from understudy.bus.client import AnswerFailed, Client
from understudy.bus.nats_bus import NatsBus
from understudy.bus.port import Received
from understudy.bus.provision import BusSpec, provision
from understudy.bus.server import NatsServer
from understudy.bus.subjects import evt_stream
from understudy.messages.catalogue import ModelCard
from understudy.messages.topology import Topology
from understudy.tools.bench.filling import Measured, fill
from understudy.tools.bench.report import Result, bar
from understudy.tools.bench.stage import cpu_s, fake_provider, fsync_ms, pids, rss_mb, running, topology_on

EVENTS = 2_000_000
SNAPSHOT_RATIO = 0.975
REQUESTS = 300
GAP_MS = 600  # between events by their own times: 2 million are two weeks
MANY = 200_000  # so many events within two minutes are no log that grew by itself
NO_PROBE_MS = 86_400_000
FAULTS = ("ok", "ok", "ok", "ok", "ok", "500", "429", "cut")
READY_S = 600.0
DISK_BYTES_PER_EVENT = 2_500
SPARE_BYTES = 500_000_000


async def measure(events: int = EVENTS) -> Result:
    """Fill to 97.5 %, stop in order (snapshots), fill up, start with the snapshots, start without."""
    with tempfile.TemporaryDirectory(prefix="understudy-coldstart-") as folder:
        _check_disk(Path(folder), events)
        async with fake_provider() as (url, _):
            return await _measure(topology_of(url, events), Path(folder), events)


async def _measure(topology: Topology, state: Path, events: int) -> Result:
    measured = await measured_events(topology, state)
    stream = evt_stream(topology.app)
    _tell(f"{len(measured.templates)} measured events: {measured.shares}")
    for folder in ("nats", "snapshots"):  # the log of copies begins anew, so that its times go one way
        shutil.rmtree(state / folder)
    await fill_log(measured, stream, state, int(events * SNAPSHOT_RATIO), events)
    filled_at = time.monotonic()
    earlier = await _start(topology, state, "without a snapshot, to have one written at the stop")
    await fill_log(measured, stream, state, events, events)
    if events >= MANY:
        await _let_age(filled_at + LOOK_BACK_S)
    with_snapshot = await _start(topology, state, "with a snapshot")
    shutil.rmtree(state / "snapshots")
    full = await _start(topology, state, "without a snapshot")
    disk_bytes = _disk_bytes(state, stream)
    differ = sum(a != b for a, b in zip(with_snapshot["cards"], full["cards"], strict=True))
    bars = (
        bar("ready_snapshot_s", with_snapshot["ready_s"], "s", 10),
        bar("ready_full_s", full["ready_s"], "s", 90),
        bar("bytes_per_request", disk_bytes / (events * measured.requests_ratio), "bytes"),
        bar("cards_differ", differ, "models", 0),
    )
    starts = {"snapshot": with_snapshot, "full": full, "earlier": earlier}
    detail = {name: {k: v for k, v in one.items() if k != "cards"} for name, one in starts.items()}
    detail |= {"events": events, "shares": measured.shares, "disk_bytes": disk_bytes, "fsync_ms": fsync_ms(state)}
    return Result(bench="coldstart", bars=bars, detail=detail)


def topology_of(url: str, events: int) -> Topology:
    models: dict[str, dict[str, Any]] = {
        f"{fault}@{n}": {"continues": "native", "fallbacks": ["ok@healthy"]} for n, fault in enumerate(FAULTS)
    }
    models["ok@healthy"] = {"continues": "native"}
    topology = topology_on(url, models, log={"max_bytes": SPARE_BYTES + events * DISK_BYTES_PER_EVENT})
    tracker = topology.actors[
        "health_tracker"
    ]  # no probe may change between two starts what their cards are compared by
    rests = replace(tracker, settings={**tracker.settings, "backoff_ms": NO_PROBE_MS, "backoff_cap_ms": NO_PROBE_MS})
    return replace(topology, actors={**topology.actors, "health_tracker": rests})


def _disk_bytes(state: Path, stream: str) -> int:
    """All files of a stream: messages, indexes, consumers."""
    return sum(f.stat().st_size for f in next(state.rglob(f"streams/{stream}")).rglob("*") if f.is_file())


def _check_disk(folder: Path, events: int) -> None:
    free, needed = shutil.disk_usage(folder).free, SPARE_BYTES + events * DISK_BYTES_PER_EVENT
    if free < needed:
        sys.exit(
            f"{folder.parent} has {free / 1e9:.1f} GB free and {needed / 1e9:.1f} GB are needed: "
            "set TMPDIR to a larger disk, or measure a smaller log with --events"
        )


def _tell(text: str, end: str = "\n") -> None:
    """Progress, for people."""
    print(text, end=end, file=sys.stderr, flush=True)


@contextlib.asynccontextmanager
async def operator_of(url: str, supervisor: Supervisor | None = None) -> AsyncGenerator[NatsBus, None]:
    password = supervisor.operator_password if supervisor is not None else ""
    bus = await NatsBus.open(url, name="bench", user="operator" if password else "", password=password)
    try:
        yield bus
    finally:
        await bus.close()


async def _let_age(until: float) -> None:
    """Selectors read the facts of their last two minutes again; nobody has millions of them, so let most grow older."""
    wait_s = until - time.monotonic()
    if wait_s > 0:
        _tell(f"waiting {wait_s:.0f} s for the first filling to be older than what selectors look back over")
        await asyncio.sleep(wait_s)


# --- the log -------------------------------------------------------------------------------------------------------


async def measured_events(topology: Topology, state: Path) -> Measured:
    """Run real requests, with some failovers among them, and read what they left in the log."""
    async with running(topology, state) as supervisor:
        async with await Client.connect(supervisor.url) as client:
            for n in range(REQUESTS):
                model = [*topology.models, None, None][n % (len(topology.models) + 2)]
                with contextlib.suppress(AnswerFailed):
                    async for _ in client.generate(f"Tell me about number {n}.", **({"model": model} if model else {})):
                        pass
        async with operator_of(supervisor.url, supervisor) as bus:
            return Measured(await _whole_log(bus, topology.app))


async def _whole_log(bus: NatsBus, app: str) -> list[Received]:
    found: list[Received] = []
    head, done = await bus.last_seq(evt_stream(app)), asyncio.Event()

    def on_event(received: Received) -> None:
        found.append(received)
        if received.seq >= head:
            done.set()

    sub = await bus.read(evt_stream(app), [f"{app}.evt.>"], on_event)
    await asyncio.wait_for(done.wait(), 30)
    await sub.stop()
    return found


async def fill_log(measured: Measured, stream: str, state: Path, upto: int, events: int) -> None:
    server = NatsServer(state / "nats", sync="2m").start()
    try:
        async with operator_of(server.url) as bus:
            await provision(
                bus, BusSpec(evt_max_bytes=SPARE_BYTES + events * DISK_BYTES_PER_EVENT, trace_max_bytes=SPARE_BYTES)
            )
            oldest_ms = int(time.time() * 1000) - events * GAP_MS
            if not await bus.last_seq(stream):
                await bus.store([measured.first.copy(oldest_ms, random.Random(0))], timeout_s=10)
            count, began, told = upto - await bus.last_seq(stream), time.monotonic(), 0

            def tell(stored: int) -> None:
                nonlocal told
                if stored - told >= 100_000 or stored == count:
                    told = stored
                    rate = stored / (time.monotonic() - began)
                    _tell(f"\rfilling: {stored:,} of {count:,} events, {rate:,.0f}/s", "\n" if stored == count else "")

            await fill(bus, measured.templates, count, oldest_ms + (upto - count) * GAP_MS, GAP_MS, tell)
    finally:
        await asyncio.to_thread(server.stop, wait_s=120)


# --- starts --------------------------------------------------------------------------------------------------------


async def _start(topology: Topology, state: Path, how: str) -> dict[str, Any]:
    """Start everything; seconds from each process's spawn until it was ready, what it cost, what selectors say."""
    ready: dict[str, float] = {}

    def say(word: str, **facts: Any) -> None:
        if word == "actor_ready":
            ready[facts["instance"]] = facts["s"]

    _tell(f"starting {how} ... ", end="")
    began = time.monotonic()
    async with running(topology, state, say, READY_S) as supervisor, await Client.connect(supervisor.url) as client:
        up_s = time.monotonic() - began
        models = await client.models()
        selectors = pids(supervisor, "selector")
        found: dict[str, Any] = {
            "ready_s": max(s for name, s in ready.items() if name.startswith("selector")),
            "ready": ready,
            "up_s": round(up_s, 2),  # nats-server's own start included
            "as_of_seq": models.as_of_seq,
            "cpu_s": [round(cpu_s(pid), 2) for pid in selectors],
            "rss_mb": [round(rss_mb(pid), 1) for pid in selectors],
            "cards": [_known(card) for card in models.models],
        }
    _tell(f"selectors ready after {found['ready_s']} s ({up_s:.1f} s with nats-server's own start)")
    return found


def _known(card: ModelCard) -> dict[str, Any]:
    """What the card owes to the fold alone: not what an instance has seen itself."""
    return {name: getattr(card, name) for name in ("id", "last_used_ms", "success_ratio", "first_token_ms")}
