"""The port's promises are stories, told once for every bus: the simulated one on virtual time and the real server."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from tests.bus.kit import EVT
from tests.waiting import until
from understudy.bus import sim_loop
from understudy.bus.memory import Broker, MemoryBus
from understudy.bus.nats_bus import NatsBus
from understudy.bus.port import Bus, Received
from understudy.bus.provision import BusSpec, ConsumerSpec, provision
from understudy.bus.server import NatsServer

JOBS = ConsumerSpec(stream=EVT, name="jobs", subjects=("tta.evt.job.>",), ack_wait_s=0.5, max_deliver=3)
SPEC = BusSpec(
    evt_max_bytes=300_000,
    trace_max_bytes=1 << 20,
    dead_max_bytes=1 << 20,
    claims_max_bytes=1 << 20,
    claims_marker_ttl_s=2.0,
    consumers=(JOBS,),
)


class World:
    """A provisioned server and as many connections as wanted; `errors` is what handlers raised."""

    def __init__(self, open_one: Callable[[str, Callable[[Exception], None]], Awaitable[Any]]) -> None:
        self._open = open_one
        self.opened: list[Any] = []
        self.errors: list[Exception] = []

    async def connect(self, name: str = "tester") -> Any:
        """A connection; the fixture closes it."""
        bus = await self._open(name, self.errors.append)
        self.opened.append(bus)
        return bus

    async def until(self, condition: Callable[[], bool], within: float = 5.0) -> None:
        """Wait until the condition holds."""
        await until(condition, within)

    async def quiet(self, bus: Bus) -> None:
        """Let everything arrive that `bus` was sent before now."""
        seen: list[Received] = []
        subscription = await bus.subscribe("quiet", seen.append)
        await bus.publish("quiet", b"")
        await self.until(lambda: len(seen) == 1)
        await subscription.stop()
        await asyncio.sleep(0.02)


Story = Callable[[World], Coroutine[Any, Any, None]]
Play = Callable[[Story], None]


async def told(world: World, story: Story) -> None:
    try:
        await story(world)
    finally:
        for bus in world.opened:
            await bus.close()


def on_memory(story: Story) -> None:
    async def main() -> None:
        broker = Broker(1, SPEC, max_payload=1 << 20)

        async def open_one(name: str, on_error: Callable[[Exception], None]) -> MemoryBus:
            return broker.connect(name, on_error=on_error)

        await told(World(open_one), story)

    sim_loop.run(main, 120)


def on_server(server: NatsServer, story: Story) -> None:
    async def main() -> None:
        async def open_one(name: str, on_error: Callable[[Exception], None]) -> NatsBus:
            return await NatsBus.open(server.url, name=name, on_error=on_error)

        world = World(open_one)
        await provision(await world.connect("provision"), SPEC)
        await told(world, story)

    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(main())
