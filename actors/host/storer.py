"""Puts facts into the log: one at a time while the log is fast, gathered into one atomic batch while it is slow."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from msgspec.structs import replace

from understudy.bus.port import Bus, BusError, LogFull, Outgoing, TooLarge
from understudy.messages.base import Message
from understudy.messages.step import Store, Stored, StoreFailed
from understudy.messages.wire import encode, tag_of

BATCH = 100
RETRY_S = 0.05
RETRY_CAP_S = 1.0


class Storer:
    """Stores events in order, each once by its id, retrying until it gives up; answers through `feed`.

    While one store is under way the next ones queue up and travel together, so a slow fsync is paid once for many.
    """

    def __init__(self, bus: Bus, app: str, now_ms: Callable[[], float], feed: Callable[[Stored | StoreFailed], None]):
        self._bus, self._app, self._now_ms, self._feed = bus, app, now_ms, feed
        self._queue: deque[tuple[Store, Outgoing, float]] = deque()
        self._wake = asyncio.Event()

    @property
    def pending(self) -> int:
        """Events not yet confirmed."""
        return len(self._queue)

    def put(self, store: Store) -> None:
        """Take an event; it is stored as soon as the log takes it."""
        name = tag_of(type(store.event)).rsplit(".", 1)[0]
        subject = f"{self._app}.evt.{name}" + (f".{store.key}" if store.key else "")
        outgoing = Outgoing(subject, encode(_with_id(store)), store.msg_id)
        self._queue.append((store, outgoing, self._now_ms() + store.give_up_ms))
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        wait_s = RETRY_S
        while True:
            while not self._queue:
                self._wake.clear()
                await self._wake.wait()
            batch = [self._queue[i] for i in range(min(BATCH, len(self._queue)))]
            try:
                acks = await self._bus.store([one[1] for one in batch], timeout_s=2.0)
            except (LogFull, TooLarge) as error:
                self._refused(len(batch), error.code)
            except BusError:
                self._expire()
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, RETRY_CAP_S)
            else:
                wait_s = RETRY_S
                for _ in batch:
                    self._queue.popleft()
                now = self._now_ms()
                for (store, _, _), ack in zip(batch, acks, strict=True):
                    self._feed(Stored(now, store.msg_id, ack.seq, ack.duplicate))

    def _refused(self, count: int, code: str) -> None:
        for _ in range(count):
            store, _, _ = self._queue.popleft()
            self._feed(StoreFailed(self._now_ms(), store.msg_id, code))

    def _expire(self) -> None:
        """Those who waited long enough hear so; their events stay queued, with the same ids, until the log is back."""
        now = self._now_ms()
        for i, (store, outgoing, until) in enumerate(self._queue):
            if until <= now:
                self._queue[i] = (store, outgoing, float("inf"))
                self._feed(StoreFailed(now, store.msg_id, "bus_down"))


def _with_id(store: Store) -> Message:
    return replace(store.event, id=store.msg_id)
