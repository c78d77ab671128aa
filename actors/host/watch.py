"""What the supervisor looks after while all is well: how full log and cache are, dead letters, streams that a server
lost, the keeper of secrets."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from understudy.actors.host.logs import Log
from understudy.bus.port import BusError
from understudy.bus.subjects import cache_bucket, dead_stream, evt_stream
from understudy.messages.operate import LogLevel
from understudy.messages.wire import encode

if TYPE_CHECKING:
    from understudy.actors.host.supervisor import Supervisor

LOOK_S = 1.0
AGAIN_S = 0.2
ROOM_BYTES = 16_384
"""With less room than this the next large outcome may be refused: called full."""

KEEPER_GONE = (
    "the process that keeps the passphrase, or keys from variables, has ended: runners that have their keys go on, "
    "but none can be started again until `understudy up` is restarted"
)

Level = Literal["ok", "filling", "full"]


def level_of(used: int, limit: int, warn_ratio: float) -> Level:
    """How full a log of `limit` bytes is (-1: no limit)."""
    if limit <= 0 or used < min(limit * warn_ratio, limit - ROOM_BYTES):
        return "ok"
    return "full" if used >= limit - ROOM_BYTES else "filling"


@dataclass(slots=True)
class Seen:
    """What was found last."""

    level: Level = "ok"
    used: int = 0
    limit: int = 0
    dead: int = 0
    kept: int = 0  # bytes of kept answers, and how many there may be
    kept_limit: int = 0
    keeper: bool = True


class Watch:
    """Looks every second, tells what changed: to the operator (`say`), into the log file, on the bus, in run.json."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._of = supervisor
        self.seen = Seen()
        self._lost = asyncio.Event()

    async def run(self, log: Log) -> None:
        """Until cancelled."""
        self._of.bus_side.bus.client.on_reconnect.append(self._lost.set)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._lost.wait()
            if self._lost.is_set():
                await self._provide(log)
            with contextlib.suppress(BusError):
                await self._look(log)
            log.flush()

    async def _provide(self, log: Log) -> None:
        """A server that came back may have lost a stream: what it held in memory, or all with its disk."""
        self._lost.clear()
        try:
            done = await self._of.bus_side.provision(self._of.topology)
        except BusError as error:
            log.line("not_provisioned", code=error.code, text=str(error)[:200])
            await asyncio.sleep(AGAIN_S)
            self._lost.set()
            return
        if done:
            log.line("provisioned", done=done)
            self._of.say("provisioned", done=done)

    async def _look(self, log: Log) -> None:
        of, bus = self._of, self._of.bus_side.bus
        used, limit = await bus.stream_bytes(evt_stream(of.topology.app))
        found = Seen(level_of(used, limit, of.topology.log.warn_ratio), used, limit)
        found.keeper = of.desk.keeper_lives()
        found.dead = await bus.last_seq(dead_stream(of.topology.app))
        with contextlib.suppress(BusError):  # a lost cache must not hide a log that is filling
            found.kept, found.kept_limit = await bus.stream_bytes(f"KV_{cache_bucket(of.topology.app)}")
        before, self.seen = self.seen, found
        if found.level != before.level:
            log.line("log_level", level=found.level, bytes=used, max_bytes=limit)
            of.say("log_level", level=found.level, bytes=used, max_bytes=limit)
            message = LogLevel(level=found.level, bytes=used, max_bytes=limit)
            await bus.publish(f"{of.topology.app}.obs.log.level.supervisor", encode(message))
        if found.dead > before.dead:
            log.line("dead_letters", count=found.dead)
            of.say("dead_letters", count=found.dead)
        if before.keeper and not found.keeper:
            log.line("keeper_gone", text=KEEPER_GONE)
            of.say("keeper_gone", why=KEEPER_GONE)
        if found != before:
            of.write_run_file()
