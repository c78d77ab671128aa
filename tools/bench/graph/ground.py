"""A log in a real nats-server and a projector process on it, as `understudy up` starts it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
import time
from collections.abc import AsyncGenerator, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from understudy.actors.host.supervisor import Supervisor
from understudy.actors.host.topology import parse, read
from understudy.bus.history import stored
from understudy.bus.nats_bus import NatsBus
from understudy.bus.port import Outgoing
from understudy.bus.provision import BusSpec, provision
from understudy.bus.server import NatsServer
from understudy.bus.subjects import evt_stream
from understudy.messages.base import Ask
from understudy.messages.graph import AskGraphStatus, GraphStatus, GraphSum, SumGraph
from understudy.messages.topology import Topology
from understudy.messages.wire import decode, encode
from understudy.tools.bench.graph.homes import Home
from understudy.tools.bench.stage import running

BATCH, LOG_BYTES = 500, 4_000_000_000
ANSWER_S, SUM_S = 5.0, 120.0
T = TypeVar("T")


def topology_of(home: Home | None, replicas: int = 1, **settings: Any) -> Topology:
    """Only a projector, on this home; its password stands in a file beside, as an operator's would. More than one is
    what no topology of an operator's may say: a mistake to be survived."""
    actors = msgspec.to_builtins(read(Path("topology.yaml")).actors)
    projector = {**actors["projector"], "singleton": replicas == 1, "replicas": replicas, "settings": settings}
    graph = {"uri": "embedded"} if home is None else uri_of(home)
    body = {"version": 1, "bus": {"port": 0}, "providers": {}, "models": {}, "graph": graph}
    body |= {"log": {"max_bytes": LOG_BYTES}, "actors": {"projector": projector}}
    return parse(msgspec.json.encode(body).decode(), Path.cwd())


def uri_of(home: Home) -> dict[str, Any]:
    """A home as a topology's `graph` names it."""
    graph: dict[str, Any] = {"uri": home.uri, "database": home.database, "user": home.user or "neo4j"}
    if home.password:
        file = Path(tempfile.mkdtemp(prefix="understudy-graph-key-")) / "password"
        file.write_text(home.password)
        graph["password_file"] = str(file)
    return graph


async def fill(state: Path, events: Iterable[Outgoing], tell: Any = None) -> int:
    """Store events into the log of a state folder, in order; how many."""
    server = NatsServer(state / "nats", sync="2m").start()
    try:
        bus = await NatsBus.open(server.url, name="bench")
        try:
            await provision(bus, BusSpec(evt_max_bytes=LOG_BYTES, trace_max_bytes=64_000_000))
            done = 0
            for part in _parts(events, BATCH):
                await bus.store(part, timeout_s=60)
                done += len(part)
                if tell is not None and done // 50_000 != (done - len(part)) // 50_000:
                    tell(done)
            return done
        finally:
            await bus.close()
    finally:
        await asyncio.to_thread(server.stop, wait_s=60)


def _parts(values: Iterable[T], size: int) -> Iterator[list[T]]:
    rest = iter(values)
    while part := list(itertools.islice(rest, size)):
        yield part


class Projecting:
    """A projector that runs, and what the operator may ask it."""

    def __init__(self, supervisor: Supervisor, bus: NatsBus) -> None:
        self.supervisor, self.bus = supervisor, bus

    async def ask(self, ask: Ask, name: str, timeout_s: float = ANSWER_S) -> Any:
        """An answer, decoded."""
        answer = await self.bus.request(f"tta.ask.graph.{name}", encode(ask), timeout_s=timeout_s)
        return decode(answer.payload)

    async def status(self) -> GraphStatus:
        """How the graph stands."""
        found: GraphStatus = await self.ask(AskGraphStatus(), "status")
        return found

    async def holder(self) -> GraphStatus | None:
        """What the one of several says that holds the lease; who answers is drawn by the server."""
        for _ in range(20):
            at = await self.status()
            if at.state == "projecting":
                return at
        return None

    async def checksum(self) -> GraphSum:
        """Over the half that serves."""
        found = await self.ask(SumGraph(), "sum", SUM_S)
        if not isinstance(found, GraphSum):
            raise RuntimeError(f"no checksum: {found}")
        return found

    async def until(
        self, seq: int, within_s: float, every_s: float = 0.05, other_than: str = ""
    ) -> list[tuple[float, int]]:
        """Until a half that serves, `other_than` that, is at `seq` and nothing is being built; when it was where."""
        seen: list[tuple[float, int]] = []
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            with contextlib.suppress(Exception):  # it may be being started just now
                at = await self.holder()
                if at is None:
                    continue
                seen.append((time.monotonic(), at.building_seq if at.building else at.seq))
                if at.seq >= seq and not at.building and at.prefix not in ("", other_than):
                    return seen
            await asyncio.sleep(every_s)
        raise TimeoutError(f"the graph is not at {seq} after {within_s:g} s: {await self.status()}")

    async def payloads(self) -> list[bytes]:
        """The raw bytes of the whole log."""
        stream = evt_stream("tta")
        return [one.payload async for one in stored(self.bus, stream, "tta.evt.>")]


@contextlib.asynccontextmanager
async def projecting(
    home: Home | None, state: Path, replicas: int = 1, **settings: Any
) -> AsyncGenerator[Projecting, None]:
    """The projector on this home and this log."""
    async with running(topology_of(home, replicas, **settings), state) as supervisor:
        bus = await NatsBus.open(supervisor.url, name="bench", user="operator", password=supervisor.operator_password)
        try:
            yield Projecting(supervisor, bus)
        finally:
            await bus.close()
