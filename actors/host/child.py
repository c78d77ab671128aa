"""One actor process: `python -m understudy.actors.host.child`, its errand as one JSON line on standard input.

The errand holds what this process may know and nothing else: its NATS user and its actor's lines of the topology. A
provider's runner gets its key on a pipe of its own (`key_pipe.py`). Standard input stays open; when it closes, the
supervisor is gone and so are we.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

import msgspec

from understudy.actors.host.core_port import Edge
from understudy.actors.host.key_pipe import Frame, first_key, follow
from understudy.actors.host.linux import end_with, hold_secrets, name_process
from understudy.actors.host.log_sync import Blocks, LogSync
from understudy.actors.host.logs import Log
from understudy.actors.host.loop import Crashed, Host, settings_of
from understudy.actors.host.outbox import RECONNECT_S
from understudy.actors.host.permissions import Seat, inbox_of
from understudy.actors.host.seats import askers, listen_s
from understudy.actors.host.snapshots import Snapshots
from understudy.actors.host.telling import places
from understudy.bus.nats_bucket import Bucket
from understudy.bus.nats_bus import NatsBus
from understudy.bus.port import BusError
from understudy.bus.subjects import cache_bucket
from understudy.messages.topology import ActorPlan, Model, Provider, Topology

EXIT_CRASHED = 70
EXIT_NO_BUS = 69
EXIT_CONFIG = 78
ORPHAN_S = 6.0


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """What a process is to be."""

    seat: Seat
    url: str
    password: str
    topology: Topology
    folder: str  # relative model paths are taken from here
    snapshots: str = ""  # folder of snapshots; none are kept without
    log_folder: str = ""  # the log's message files, where the embedded server keeps them on this machine
    extra: dict[str, Any] = {}  # settings that only the supervisor knows
    provider: str = ""
    models: tuple[str, ...] = ()
    key_fd: int = -1  # where the provider's key comes from; -1: it needs none
    drain_ms: float = 10_000  # after SIGUSR1: what is in hand may go on for so long (after SIGTERM: not at all)
    parent: int = 0  # the supervisor's process id


_to_supervisor: IO[bytes] = sys.stdout.buffer


def keep_stdout() -> None:
    """From now on only we speak to the supervisor: what libraries print goes where their errors go, into the log."""
    global _to_supervisor
    sys.stdout.flush()
    _to_supervisor = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)


def _say(**fields: Any) -> None:
    """One line to the supervisor."""
    _to_supervisor.write(msgspec.json.encode(fields) + b"\n")
    _to_supervisor.flush()


def edge_of(errand: Errand, first: list[Frame], settings: Any, bus: NatsBus, log: Log, now_ms: Any) -> Edge | None:
    """The edge of a runner, the response cache, the projector or the benchmarker; other actors have none. The first key
    is taken out of the list: nobody but the edge is to know it, which forgets it once it is revoked."""
    if errand.seat.actor == "response_cache":
        from understudy.actors.response_cache.edge import CacheEdge

        hold_secrets()  # the keys of all conversations
        bucket = Bucket(bus.client, cache_bucket(errand.topology.app))
        return CacheEdge(Path(settings.folder), bucket, now_ms, log, settings.ttl_s)
    if errand.seat.actor == "projector":
        from understudy.actors.projector.edge import edge_of as projector_edge

        return projector_edge(settings, bus, errand.topology.app, now_ms, log)
    if errand.seat.actor == "benchmarker":
        from understudy.actors.benchmarker.edge import BenchmarkerEdge

        return BenchmarkerEdge(Path(errand.folder), now_ms)
    if errand.seat.actor != "runner":
        return None
    models: dict[str, Model] = {m: errand.topology.models[m] for m in errand.models}
    provider: Provider = errand.topology.providers[errand.provider]
    if provider.kind == "local":
        from understudy.actors.runner.local_edge import LocalEdge

        (model_id, model), *_ = models.items()
        return LocalEdge(model_id, model, Path(errand.folder) / (model.path or ""), now_ms)
    from understudy.actors.runner.http_edge import HttpEdge

    if first:
        key = first.pop()
        edge = HttpEdge(provider, models, key.key, now_ms, key.key_id)
    else:
        edge = HttpEdge(provider, models, None, now_ms)
    edge.audit = log.record
    edge.gate_failed = lambda error: log.line("gate_failed", error=type(error).__name__, at=places(error)[-3:])
    return edge


class NoLogFiles(Exception):
    """The log's message files cannot be synced."""


def _disk(errand: Errand, plan: ActorPlan, log: Log) -> tuple[Blocks | None, LogSync | None]:
    """What snapshots and stored events are synced by. Raises NoLogFiles."""
    if not errand.log_folder:
        return None, None
    folder = Path(errand.log_folder)
    try:
        blocks = Blocks(folder) if plan.folds else None
        return blocks, LogSync(folder, lambda error: log.line("not_synced", why=str(error))) if plan.emits else None
    except OSError as error:
        raise NoLogFiles(f"the event log's files cannot be synced: {error}") from None


def _host(errand: Errand, first: list[Frame], bus: NatsBus, log: Log) -> Host:
    seat, topology = errand.seat, errand.topology
    core: Any = importlib.import_module(f"understudy.actors.{seat.actor}.core")
    plan = topology.actors[seat.actor]
    settings = settings_of(core, plan, errand.extra)
    blocks, sync = _disk(errand, plan, log)
    snapshots = None
    if plan.folds and errand.snapshots:
        snapshots = Snapshots(Path(errand.snapshots), core, seat.actor, seat.instance, settings, blocks)
    host = Host(
        core,
        bus,
        plan,
        seat,
        app=topology.app,
        settings=settings,
        edge=None,
        log=log,
        max_ask_bytes=topology.bus.max_request_bytes,
        listen_s=listen_s(topology),
        snapshots=snapshots,
        sync=sync,
        askers=askers(topology, plan),
    )
    host.edge = edge_of(errand, first, settings, bus, log, host.clock.now_ms)
    return host


async def _parent_gone(stop: asyncio.Event) -> None:
    """Standard input ends when the supervisor does, however it died: stop in order, and in any case soon."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    stop.set()
    await asyncio.sleep(ORPHAN_S)
    os._exit(EXIT_NO_BUS)


async def _connect(errand: Errand, log: Log, stop: asyncio.Event, told: list[Callable[[str], None]]) -> NatsBus:
    """The process's own connection; its states are passed on to whoever is in `told`. Raises BusError."""

    def on_state(word: str) -> None:
        log.line("bus", state=word)
        for listener in told:
            listener(word)
        if word == "closed":  # for good: a process without a connection is of no use
            stop.set()

    return await NatsBus.open(
        errand.url,
        name=errand.seat.instance,
        app=errand.topology.app,
        user=errand.seat.instance,
        password=errand.password,
        inbox_prefix=inbox_of(errand.seat.instance),
        backoff_cap_s=RECONNECT_S,
        on_state=on_state,
        on_error=lambda error: log.line("bus_error", error=type(error).__name__, text=str(error)[:200]),
    )


async def _follow_keys(fd: int, host: Host) -> None:
    """Orders about keys, once the edge holds the first."""
    await host.ready.wait()
    await follow(fd, cast(Any, host.edge).keys, _say)


async def run(errand: Errand, first: list[Frame]) -> int:
    """Connect, run the host with its first key, where it has one, stop in order. Returns the exit code."""
    seat, keyed = errand.seat, bool(first)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    watch = asyncio.create_task(_parent_gone(stop))
    log, told = Log(seat.actor, seat.instance), list[Callable[[str], None]]()
    try:
        bus = await _connect(errand, log, stop, told)
        host = _host(errand, first, bus, log)
    except BusError as error:
        _say(failed=f"cannot reach nats-server at {errand.url}: {error}")
        return EXIT_NO_BUS
    except NoLogFiles as error:
        _say(failed=str(error))
        return EXIT_CONFIG
    told += [host.hearing.connection, host.connection]
    keys = asyncio.create_task(_follow_keys(errand.key_fd, host)) if keyed else None

    def end(within_ms: float) -> None:
        host.drain_ms = within_ms
        stop.set()

    for number, within_ms in ((signal.SIGTERM, 0.0), (signal.SIGINT, 0.0), (signal.SIGUSR1, errand.drain_ms)):
        asyncio.get_running_loop().add_signal_handler(number, end, within_ms)
    try:
        await host.run(stop, _ready)
    except Crashed as crash:
        log.line("crashed", why=str(crash))
        return EXIT_CRASHED
    except BusError as error:
        _say(failed=f"bus: {error.code}: {error}")
        return EXIT_NO_BUS
    except Exception as error:  # noqa: BLE001 - loading a model may fail in any way; the supervisor is told
        _say(failed=f"{type(error).__name__}: {error}"[:500])
        return EXIT_CONFIG
    finally:
        watch.cancel()
        if keys is not None:
            keys.cancel()
        log.flush()
        await bus.close()
    return 0


def _take_key(fd: int, first: list[Frame]) -> bool:
    """False when the supervisor is gone."""
    key = first_key(fd)
    first += [] if key is None else [key]
    return key is not None


def _ready(facts: dict[str, Any]) -> None:
    """Tell the supervisor. What was loaded until now stays: the collector need not walk it after every few messages."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    _say(ready=True, facts=facts)


def _loop_factory() -> Any:
    """uvloop halves the latency of a hop; without it everything works, slower."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def main() -> None:
    """Entry point of a process."""
    line = sys.stdin.buffer.readline()
    if not line:  # the supervisor was gone before it had an errand
        os._exit(0)
    keep_stdout()
    errand = msgspec.json.decode(line, type=Errand)
    name_process(errand.seat.instance)
    if errand.parent and errand.provider and errand.topology.providers[errand.provider].kind == "local":
        end_with(errand.parent)  # stuck in a model's code, it would not see its standard input end
    first = list[Frame]()
    if errand.key_fd >= 0 and not _take_key(errand.key_fd, first):
        os._exit(0)  # as above
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        code = runner.run(run(errand, first))
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(code)  # engine threads and libraries have nothing left to say


if __name__ == "__main__":
    main()
