"""A month of 1 million calls in a real log: how soon compare and trends answer, and what drift is found.

The first month goes into the log of a real nats-server, as the events that a selector writes (without the decision
inside); the benchmarker folds it as `up` starts it, is asked over the bus, and every figure that it shows is counted
again from the bytes of the log's files by code of its own (`trends_reader.py`). Then the month goes on: a model gets
twice as slow, and a plain component hears of it. Twenty months, the first among them, go through the benchmarker's step
event by event, two at a time: which planted regressions are found by the end of the second hour, and what else is said.

The bench itself is judged by controls: hours in another order, a deaf detector, a month without a regression, and a
log from which an hour is missing must all look different.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager, suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec

from understudy.actors.host.clock import ulid
from understudy.actors.host.supervisor import Supervisor
from understudy.bus.client import Client
from understudy.bus.nats_bus import NatsBus
from understudy.bus.nats_log import MAX_BATCH
from understudy.bus.port import Bus, Outgoing
from understudy.bus.provision import BusSpec, provision
from understudy.bus.server import NatsServer
from understudy.bus.subjects import evt_stream
from understudy.messages.benchmarks import ModelDrifted
from understudy.messages.buckets import HOUR_MS
from understudy.messages.comparison import MONTH_MS, CompareModels, Comparison, Trends, TrendsFound
from understudy.messages.events import RequestEnded
from understudy.messages.generate import Attempt, Usage
from understudy.messages.topology import Topology
from understudy.messages.wire import encode
from understudy.tools.bench import trends_reader as reader
from understudy.tools.bench.report import Result, bar, median
from understudy.tools.bench.stage import machine, pids, rss_mb, running, topology_on
from understudy.tools.bench.trends_detect import Judged, detect, summary
from understudy.tools.bench.trends_world import HOURS, MODELS, Call, World

SEEDS, AT_ONCE, ASKS = 20, 2, 10
CONTROLS = ("shuffled", "deaf", "quiet")
READY_S = 300.0
LIVE_HOURS = 2
LOG_BYTES = 1_500_000_000
HEARD_S = 20.0


async def measure(quick: bool = False) -> Result:
    """The log and its answers, then the months, so that neither takes the other's time."""
    with tempfile.TemporaryDirectory(prefix="understudy-trends-") as folder:
        answers = await _answers(Path(folder))
    months, controls = await asyncio.to_thread(_months, 2 if quick else SEEDS)
    found = summary(months)
    bars = (
        bar("trends_s", max(answers["trends_s"]), "s", 2),
        bar("compare_s", max(answers["compare_s"]), "s", 2),
        bar("regressions_found_ratio", found["found_ratio"], "of all", 0.95, 0.98, "higher"),
        bar("false_alarms_per_model_month", found["false_alarms_per_model_month"], "alarms", 1, 0.1),
    )
    detail = {"answers": answers, "months": found, "controls": controls, "machine": machine()}
    _trust(answers, controls, found)
    return Result(bench="trends", bars=bars, detail=detail)


def _trust(answers: dict[str, Any], controls: dict[str, Any], found: dict[str, Any]) -> None:
    """Figures of a bench that cannot fail, or that shows something else than the log has, are not printed."""
    faults = [f"shown and counted differ: {one}" for one in answers["differences"][:5]]
    faults += [] if answers["differences_without_an_hour"] else ["a missing hour was not noticed"]
    faults += [] if answers["heard"] == {"latency_ms": "worse"} else [f"a component heard {answers['heard']}"]
    faults += [] if controls["shuffled"]["found_ratio"] < 0.5 else ["shuffled hours are as good as sorted ones"]
    faults += [] if controls["deaf"]["found"] == 0 else ["a deaf detector finds something"]
    quiet = controls["quiet"]["false_alarms_per_model_month"]
    faults += [] if quiet <= 1 and not controls["quiet"]["planted"] else ["a quiet month is full of alarms"]
    faults += [] if found["planted"] and found["false_recoveries"] <= found["planted"] else ["nothing was planted"]
    if faults:
        raise RuntimeError("; ".join(faults))


def _tell(text: str) -> None:
    """Progress, for people."""
    print(text, file=sys.stderr, flush=True)


# --- twenty months ---------------------------------------------------------------------------------------------------


def _months(seeds: int) -> tuple[list[Judged], dict[str, Any]]:
    with ProcessPoolExecutor(AT_ONCE, mp_context=get_context("spawn")) as pool:
        months = [pool.submit(detect, seed) for seed in range(1, seeds + 1)]
        controls = {name: pool.submit(detect, 1, name) for name in CONTROLS}
        found: list[Judged] = []
        for one in months:
            found.append(one.result())
            _tell(f"month {found[-1].seed}: {found[-1].found()} of {found[-1].planted} found, {found[-1].false_alarms}")
        return found, {name: summary([one.result()]) for name, one in controls.items()}


# --- one month in a real log -----------------------------------------------------------------------------------------


async def _answers(state: Path) -> dict[str, Any]:
    world, topology = World(1), _topology()
    first_h = int(time.time() * 1000) // HOUR_MS - HOURS
    began = time.monotonic()
    stored = await _fill(state, topology, _events(world, first_h))
    fill_s = time.monotonic() - began
    _tell(f"{stored:,} events stored in {fill_s:.0f} s")
    counted = reader.Counted(_stream(state, topology))
    async with (
        running(topology, state, _say_ready(ready := {}), READY_S) as supervisor,
        _operator(supervisor) as client,
    ):
        until_ms = (first_h + HOURS) * HOUR_MS - 1  # of the month, before it goes on
        found = await _asked(client, until_ms)
        (pid,) = pids(supervisor, "benchmarker")
        found |= {"rss_mb": round(rss_mb(pid), 1), "cli_s": await _command(state)}
        heard = await _goes_on(supervisor, client.bus, world, first_h)
    size = sum(file.stat().st_size for file in (state / "snapshots").glob("benchmarker*"))
    found |= {"events": stored, "counted_events": counted.events, "fill_s": round(fill_s, 1)}
    found |= {"ready_s": ready.get("benchmarker-1"), "snapshot_mb": round(size / 1e6, 2), **heard}
    found |= _compared(counted, found.pop("comparison"), found.pop("trends"))
    return found


def _topology() -> Topology:
    """The benchmarker alone, for models of a provider that nobody asks anything."""
    models: dict[str, dict[str, Any]] = {name: {} for name in MODELS}
    tasks = {name: {"latency": "interactive"} for name in ("chat", "narrative", "summary")}
    topology = topology_on("http://127.0.0.1:1/v1", models, tasks=tasks, log={"max_bytes": LOG_BYTES})
    return msgspec.structs.replace(topology, actors={"benchmarker": topology.actors["benchmarker"]})


def _say_ready(ready: dict[str, float]) -> Any:
    def say(word: str, **facts: Any) -> None:
        if word == "actor_ready":
            ready[facts["instance"]] = facts["s"]

    return say


@asynccontextmanager
async def _operator(supervisor: Supervisor) -> AsyncGenerator[Client, None]:
    password = supervisor.operator_password
    async with await Client.connect(supervisor.url, user="operator", password=password) as client:
        yield client


def _events(world: World, first_h: int) -> Iterator[Outgoing]:
    """Of the whole month, in order."""
    number = 0
    for calls in world.calls():
        for call in calls:
            number += 1
            yield _outgoing(call, first_h, number)


def _outgoing(call: Call, first_h: int, number: int) -> Outgoing:
    """A run as a selector writes its end, without the decision inside."""
    at_ms = (first_h + call.hour) * HOUR_MS + call.ms
    run_id = ulid(at_ms, number)
    good = not call.error
    attempt = Attempt(
        model=call.model,
        outcome=call.error or "ok",
        total_ms=round(call.total_ms, 3),
        first_token_ms=round(call.first_token_ms, 3) if good else None,
        tokens=60 if good else 0,
    )
    event = RequestEnded(
        at_ms=at_ms,
        id=f"end.{run_id}",
        run_id=run_id,
        instance="selector-1",
        outcome="finished" if good else "all_failed",
        task=call.task,
        as_of_seq=number,
        topology="0123456789abcdef",
        digest="0123456789abcdef0123456789abcdef",
        model=call.model if good else None,
        finish_reason="stop" if good else None,
        attempts=(attempt,),
        usage=Usage(prompt_tokens=120, completion_tokens=60) if good else Usage(),
        total_ms=round(call.total_ms, 3),
    )
    return Outgoing("tta.evt.request.ended", encode(event), f"end.{run_id}")


async def _fill(state: Path, topology: Topology, events: Iterator[Outgoing]) -> int:
    """One batch after the other, as a log is in order."""
    server = NatsServer(state / "nats", sync="2m").start()
    stored = 0
    try:
        bus = await NatsBus.open(server.url, name="bench")
        try:
            await provision(bus, BusSpec(evt_max_bytes=topology.log.max_bytes, trace_max_bytes=100_000_000))
            batch = list[Outgoing]()
            for event in events:
                batch.append(event)
                if len(batch) == MAX_BATCH:
                    stored += len(await bus.store(batch, timeout_s=60))
                    batch = []
            if batch:
                stored += len(await bus.store(batch, timeout_s=60))
        finally:
            await bus.close()
    finally:
        await asyncio.to_thread(server.stop, wait_s=120)
    return stored


def _stream(state: Path, topology: Topology) -> Path:
    return next(state.rglob(f"streams/{evt_stream(topology.app)}")) / "msgs"


async def _asked(client: Client, until_ms: int) -> dict[str, Any]:
    """In turns, over the bus."""
    compare, trends = CompareModels(window_ms=MONTH_MS, until_ms=until_ms), Trends(until_ms=until_ms)
    took: dict[str, list[float]] = {"compare_s": [], "trends_s": []}
    found: dict[str, Any] = {}
    for _ in range(ASKS):
        began = time.perf_counter()
        found["comparison"] = await client.ask("benchmark.compare", compare, Comparison, timeout_s=60)
        took["compare_s"].append(round(time.perf_counter() - began, 4))
        began = time.perf_counter()
        found["trends"] = await client.ask("benchmark.trends", trends, TrendsFound, timeout_s=60)
        took["trends_s"].append(round(time.perf_counter() - began, 4))
    _tell(f"compare {median(took['compare_s']):.2f} s, trends {median(took['trends_s']):.2f} s")
    return {**took, **found}


async def _command(state: Path) -> float:
    """What a person waits for: the whole command, the start of Python included."""
    began = time.perf_counter()
    words = ("-c", "from understudy.tools.cli import main; main()", "benchmark", "trends", "--state", str(state))
    process = await asyncio.create_subprocess_exec(sys.executable, *words, stdout=asyncio.subprocess.DEVNULL)
    code = await process.wait()
    return round(time.perf_counter() - began, 2) if code == 0 else -1.0


async def _goes_on(supervisor: Supervisor, bus: Bus, world: World, first_h: int) -> dict[str, Any]:
    """The first model gets twice as slow; a component without any rights of its own listens.

    By their own times these hours are still to come: those up to now were closed when the processes started.
    """
    heard: dict[str, str] = {}
    arrived = asyncio.Event()
    async with await Client.connect(supervisor.url) as component:

        def on_drift(received: Any) -> None:
            event = msgspec.json.decode(received.payload, type=ModelDrifted)
            if event.model == MODELS[0]:
                heard[event.figure] = event.direction
                arrived.set()

        await component.bus.subscribe("tta.live.model.drifted.*", on_drift)
        usual = list(World(1, quiet=True).calls([world.models[0]]))[-24:]
        number, began = 2_000_000, time.monotonic()
        for n in range(1, LIVE_HOURS + 2):  # of the last the first moments alone
            calls = [call._replace(hour=HOURS + n, total_ms=2 * call.total_ms) for call in usual[n]]
            if n > LIVE_HOURS:
                calls = [call._replace(ms=20_000 + i) for i, call in enumerate(calls[:3])]
            await bus.store([_outgoing(call, first_h, number + i) for i, call in enumerate(calls)], timeout_s=10)
            number += len(calls)
        with suppress(TimeoutError):
            await asyncio.wait_for(arrived.wait(), HEARD_S)
    return {"heard": heard, "heard_after_s": round(time.monotonic() - began, 2)}


def _compared(counted: reader.Counted, comparison: Comparison, trends: TrendsFound) -> dict[str, Any]:
    """What is shown beside what the bytes say; then with an hour of the bytes taken away, which must be noticed."""
    shown = [msgspec.json.decode(encode(one)) for one in (comparison, trends)]
    checks = (reader.differences_of_comparison, reader.differences_of_trends)
    differences = [one for check, of in zip(checks, shown, strict=True) for one in check(counted, of)]
    hours = counted.hours[MODELS[3]]
    del hours[sorted(hours)[300]]
    missed = [one for check, of in zip(checks, shown, strict=True) for one in check(counted, of)]
    changes = sum(len(one.changes) for one in trends.models)
    return {"differences": differences, "differences_without_an_hour": len(missed), "change_points": changes}
