"""Facts that an actor consults: read from the log when it needs to know, up to that very moment.

A fold that follows the log is a few milliseconds behind it. Who must not act on what was taken back a moment ago asks
instead: the log is read on from where the reading was, and only then the question is answered. With nothing new that is
one direct get. Facts that cannot be read are not passed over: from then on every question is answered with `ok: false`.
What the bus marks as `foreign` is none.

A ring tells of something new, and may be lost. While something is in hand that rests on the facts, they are read every
second too; and nothing is read before the first question, as most processes of an actor may never ask one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from understudy.bus.port import Bus, BusError, Received
from understudy.bus.subjects import evt_stream
from understudy.messages.events import Event
from understudy.messages.step import Consulted, Happened, Input
from understudy.messages.wire import WireError, decode

BATCH = 500
"""So many at once are read once there is something new: after a year there may be thousands, and requests wait."""


class Consulting:
    """Performs `Consult`; answers through `feed`. `family` is the first word of all facts that the actor consults."""

    def __init__(
        self, bus: Bus, app: str, family: str, now_ms: Callable[[], float], feed: Callable[[Input], None]
    ) -> None:
        self._bus, self._stream, self._subject = bus, evt_stream(app), f"{app}.evt.{family}.>"
        self._now_ms, self._feed = now_ms, feed
        self._seq = 0
        self._keys: list[str] = []
        self._again = self._asked = False
        self._reading: asyncio.Task[None] | None = None

    def put(self, key: str) -> asyncio.Task[None] | None:
        """A question: answered by a reading that begins after it. The task, if one was begun."""
        self._keys.append(key)
        self._asked = True
        return self.look()

    def look(self) -> asyncio.Task[None] | None:
        """Read on; something may have been said. The task, if one was begun."""
        if not self._asked:
            return None
        self._again = True
        if self._reading is not None and not self._reading.done():
            return None
        self._reading = asyncio.get_running_loop().create_task(self._read())
        return self._reading

    async def _read(self) -> None:
        while self._again:
            self._again = False
            keys, self._keys = self._keys, []
            ok = await self._read_on()
            for key in keys:
                self._feed(Consulted(self._now_ms(), key, ok))

    async def _read_on(self) -> bool:
        """Up to the last fact. False: the log could not be read, or holds one that cannot be."""
        try:
            first = await self._bus.get(self._stream, self._seq + 1, self._subject)
            found = [] if first is None else [first]
            while found:
                for one in found:
                    if not self._take(one):
                        return False
                found = await self._bus.get_many(self._stream, self._seq + 1, self._subject, BATCH)
        except (BusError, WireError):
            return False
        return True

    def _take(self, found: Received) -> bool:
        """Raises WireError."""
        event = None if found.foreign else decode(found.payload)
        if event is not None and not isinstance(event, Event):
            return False
        if event is not None:
            self._feed(Happened(self._now_ms(), found.seq, event))
        self._seq = found.seq
        return True
