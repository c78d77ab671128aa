"""A real nats-server per test, connections that are always closed, and waiting without sleeping blindly."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import waiting
from tests.bus.kit import Opener, Until
from tests.bus.stories import Play, on_memory, on_server
from understudy.bus.nats_bus import NatsBus
from understudy.bus.provision import BusSpec, ConsumerSpec, provision
from understudy.bus.server import NatsServer

SPEC = BusSpec(
    evt_max_bytes=64 << 20,
    trace_max_bytes=16 << 20,
    dead_max_bytes=16 << 20,
    claims_max_bytes=16 << 20,
    claims_marker_ttl_s=5.0,
    consumers=(
        ConsumerSpec(stream="TTA_EVT", name="jobs", subjects=("tta.evt.job.>",), ack_wait_s=1.0, max_deliver=5),
    ),
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats", max_payload=1 << 20) as running:
        yield running


@pytest.fixture
async def connect(server: NatsServer) -> AsyncIterator[Opener]:
    """Open as many connections as wanted; `events` collects what on_state and on_error are told."""
    opened: list[NatsBus] = []

    async def open_one(name: str = "tester", *, url: str = "", **options: Any) -> NatsBus:
        bus = await NatsBus.open(url or server.url, name=name, **options)
        opened.append(bus)
        return bus

    yield open_one
    await asyncio.gather(*(bus.close() for bus in opened))


@pytest.fixture
async def bus(connect: Opener) -> NatsBus:
    """A connection to a server that has the streams, the claims bucket and the consumer `jobs`."""
    ready = await connect("bus")
    await provision(ready, SPEC)
    return ready


@pytest.fixture
def freeze(server: NatsServer) -> Callable[[], None]:
    """Stop the server's process and wait until it has stopped: SIGSTOP alone may let it answer once more."""

    def stop() -> None:
        server.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, server.pid, os.WSTOPPED | os.WNOWAIT)

    return stop


@pytest.fixture
def spec() -> BusSpec:
    return SPEC


@pytest.fixture
def until() -> Until:
    """Wait until a condition holds, at most `within_s` seconds."""
    return functools.partial(waiting.until, within_s=5.0)


@pytest.fixture(params=["memory", "nats"])
def play(request: pytest.FixtureRequest) -> Play:
    """Runs a story on one of the buses."""
    if request.param == "memory":
        return on_memory
    server: NatsServer = request.getfixturevalue("server")
    return lambda story: on_server(server, story)
