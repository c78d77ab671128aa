"""A stream read to what was its head: everything in order, or an error; never a part that looks like the whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from understudy.bus.port import Bus, BusDown, BusError, Received

AHEAD = 10_000
"""Messages that wait for a slow taker; what comes beyond is read again, later."""
QUIET_S, SOON_S = 1.0, 0.1
"""After so long without a message we ask whether the stream holds more; at first sooner, as mostly it does not."""
LOST = 10
"""So often in a row the stream may hold more, or not answer, and nothing come."""


async def stored(
    bus: Bus,
    stream: str,
    subject: str | Sequence[str],
    *,
    after_seq: int = 0,
    since_ms: int = 0,
    upto_seq: int | None = None,
    follow: bool = False,
) -> AsyncIterator[Received]:
    """Everything from a position or a time (Unix milliseconds) to what is the head now, or to `upto_seq`; `follow`:
    then what comes. Of several subjects none may cover another.

    Raises BusDown when the stream cannot be read, or not to its end; a short absence of the server is waited out.
    """
    batches = stored_batches(
        bus, stream, subject, after_seq=after_seq, since_ms=since_ms, upto_seq=upto_seq, follow=follow
    )
    async for batch in batches:
        for received in batch:
            yield received


async def stored_batches(
    bus: Bus,
    stream: str,
    subject: str | Sequence[str],
    *,
    after_seq: int = 0,
    since_ms: int = 0,
    upto_seq: int | None = None,
    follow: bool = False,
) -> AsyncIterator[list[Received]]:
    """The same, as many at a time as have come: for those who read by the hundred thousand."""
    subjects = [subject] if isinstance(subject, str) else list(subject)
    head = await bus.last_seq(stream)
    seen = max(after_seq, await _before(bus, stream, since_ms, head)) if since_ms else after_seq
    head = head if upto_seq is None else min(head, upto_seq)
    while follow or seen < head:
        ahead = _Ahead()
        reading = await bus.read(stream, subjects, ahead.take, after_seq=seen)
        try:
            while not ahead.full:
                batch = _upto(await ahead.next(wait=follow), None if follow else head)
                if batch:
                    seen = batch[-1].seq
                    yield batch
                if seen >= head and not follow:
                    return
                if batch:
                    continue
                if not await _to_come(bus, stream, subjects, seen, head):
                    return
                if ahead.quiet >= LOST:
                    raise BusDown(f"{stream} holds more than {seen}, but nothing comes")
        finally:
            await reading.stop()
        batch = _upto(ahead.waiting, None if follow else head)
        if batch:
            seen = batch[-1].seq
            yield batch


async def _before(bus: Bus, stream: str, since_ms: int, head: int) -> int:
    """The position before the first message since a time; the head where there is none."""
    first = await bus.get(stream, 0, since_ms=since_ms)
    return head if first is None else first.seq - 1


def _upto(batch: list[Received], head: int | None) -> list[Received]:
    return batch if head is None or not batch or batch[-1].seq <= head else [one for one in batch if one.seq <= head]


class _Ahead:
    """What was read and not taken yet. Once it is full it takes nothing more: a gap would follow."""

    def __init__(self) -> None:
        self.waiting: list[Received] = []
        self.full = False
        self.quiet = 0  # so often in a row nothing came
        self._came = asyncio.Event()

    def take(self, received: Received) -> None:
        self.full = self.full or len(self.waiting) >= AHEAD
        if not self.full:
            self.waiting.append(received)
            self._came.set()

    async def next(self, *, wait: bool) -> list[Received]:
        """All that has come, as soon as there is something; nothing when nothing comes in time, unless we `wait`."""
        if not self.waiting:
            self._came.clear()
            within_s = None if wait else min(QUIET_S, SOON_S * 2**self.quiet)
            try:
                async with asyncio.timeout(within_s):
                    await self._came.wait()
            except TimeoutError:
                self.quiet += 1
                return []
        self.quiet = 0
        found, self.waiting = self.waiting, []
        return found


async def _to_come(bus: Bus, stream: str, subjects: Sequence[str], seen: int, head: int) -> bool:
    """Whether the stream holds something up to `head` that has not come: silence alone says nothing."""
    for subject in subjects:
        try:
            one = await bus.get(stream, seen + 1, subject)
        except BusError:
            return True  # nobody knows
        if one is not None and one.seq <= head:
            return True
    return False
