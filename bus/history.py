"""A stream read to what was its head: everything in order, or an error; never a part that looks like the whole."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from understudy.bus.port import Bus, BusDown, BusError, Received

AHEAD = 10_000
"""Messages that wait for a slow taker; what comes beyond is read again, later."""
QUIET_S = 1.0
"""After so long without a message we ask whether the stream holds more."""
LOST = 10
"""So often in a row the stream may hold more, or not answer, and nothing come."""


async def stored(
    bus: Bus, stream: str, subject: str, *, after_seq: int = 0, since_ms: int = 0, follow: bool = False
) -> AsyncIterator[Received]:
    """Everything from a position or a time (Unix milliseconds) to what is the head now; `follow`: then what comes.

    Raises BusDown when the stream cannot be read, or not to its end; a short absence of the server is waited out.
    """
    head, seen = await bus.last_seq(stream), after_seq
    while follow or seen < head:
        ahead = _Ahead()
        reading = await bus.read(stream, [subject], ahead.take, after_seq=seen, since_ms=since_ms)
        try:
            while not ahead.full:
                received = await ahead.next(None if follow else QUIET_S)
                if received is not None:
                    seen = received.seq
                    yield received
                    if seen >= head and not follow:
                        return
                elif not await _to_come(bus, stream, subject, seen, head, since_ms if seen == after_seq else 0):
                    return
                elif ahead.quiet >= LOST:
                    raise BusDown(f"{stream} holds more than {seen}, but nothing comes")
        finally:
            await reading.stop()
        while ahead.waiting:
            received = ahead.waiting.popleft()
            seen = received.seq
            yield received
            if seen >= head and not follow:
                return


class _Ahead:
    """What was read and not taken yet. Once it is full it takes nothing more: a gap would follow."""

    def __init__(self) -> None:
        self.waiting: deque[Received] = deque()
        self.full = False
        self.quiet = 0  # so often in a row nothing came
        self._came = asyncio.Event()

    def take(self, received: Received) -> None:
        self.full = self.full or len(self.waiting) >= AHEAD
        if not self.full:
            self.waiting.append(received)
            self._came.set()

    async def next(self, within_s: float | None) -> Received | None:
        """The oldest, as soon as there is one; None when none comes in time."""
        if not self.waiting:
            self._came.clear()
            try:
                async with asyncio.timeout(within_s):
                    await self._came.wait()
            except TimeoutError:
                self.quiet += 1
                return None
        self.quiet = 0
        return self.waiting.popleft()


async def _to_come(bus: Bus, stream: str, subject: str, seen: int, head: int, since_ms: int) -> bool:
    """Whether the stream holds something up to `head` that has not come: silence alone says nothing.

    With `since_ms` nothing has come yet, and what is older never will.
    """
    try:
        one = await bus.get(stream, head if since_ms else seen + 1, subject)
    except BusError:
        return True  # nobody knows
    return one is not None and one.seq <= head and one.at_ms >= since_ms
