"""Puts facts into the log: in order, many under way at once, each again and again until the log has it."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from msgspec.structs import replace

from understudy.actors.host.log_sync import Disk
from understudy.actors.host.outbox import LIMIT, Overflow
from understudy.bus.port import Ack, Bus, BusDown, BusError, Closed, NoResponders, Outgoing
from understudy.messages.base import Message
from understudy.messages.step import Store, Stored, StoreFailed
from understudy.messages.wire import encode, tag_of

WINDOW = 64
"""Stores under way at once; an atomic batch costs more than its events one by one while few wait (README)."""
TIMEOUT_S = 2.0
RETRY_S = 0.05
RETRY_CAP_S = 1.0
BUSY = 10_000
"""So many events wait for the log that nothing should be begun that ends in another one."""
LOOK_MS = 50.0
"""Who has waited too long hears so at most this late: after an outage the deadlines of thousands lie side by side."""


@dataclass(slots=True)
class _Item:
    number: int
    store: Store
    outgoing: Outgoing
    until_ms: float


class Storer:
    """Stores events in order, each once by its id, retrying until it gives up; answers through `feed`.

    After a failure nothing new leaves until all that was under way has been answered or given up; then everything that
    failed is sent again, in its old order and before what came later. What the log refuses for good is told at once.
    """

    def __init__(
        self,
        bus: Bus,
        app: str,
        now_ms: Callable[[], float],
        feed: Callable[[Stored | StoreFailed], None],
        sync: Disk | None = None,
        in_hand: Callable[[], int] = lambda: 0,
    ) -> None:
        """With `sync` an event counts as stored when that has it on the disk; without, when the log says so.

        `in_hand`: how many are being worked on, whose events may share a sync.
        """
        self._bus, self._app, self._now_ms, self._feed = bus, app, now_ms, feed
        self._sync, self._in_hand = sync, in_hand
        self._unsynced: dict[int, _Item] = {}
        self._waiting: deque[_Item] = deque()
        self._under_way: dict[int, _Item] = {}
        self._failed: list[_Item] = []
        self._trouble = asyncio.Event()
        self._settled = asyncio.Event()
        self._over = False
        self._count = 0
        self._wait_s = RETRY_S
        self._timer: asyncio.TimerHandle | None = None
        self._look_at_ms = math.inf  # when the timer comes: not after the first `until_ms`, unless it would spin
        self._looked_ms = -math.inf
        self._put_off = False

    @property
    def pending(self) -> int:
        """Events not yet confirmed."""
        return len(self._waiting) + len(self._under_way) + len(self._failed) + len(self._unsynced)

    @property
    def busy(self) -> bool:
        """Whether so many wait that what would end in another event should be refused."""
        return self.pending >= BUSY

    def put(self, store: Store) -> None:
        """Take an event; it is on its way when this returns, unless the log is slow or away. Raises Overflow."""
        if self.pending >= LIMIT:
            raise Overflow(f"the log has been away for so long that {LIMIT:,} events wait")
        name = tag_of(type(store.event)).rsplit(".", 1)[0]
        subject = f"{self._app}.evt.{name}" + (f".{store.key}" if store.key else "")
        outgoing = Outgoing(subject, encode(_with_id(store)), store.msg_id)
        self._count += 1
        until_ms = self._now_ms() + store.give_up_ms
        self._waiting.append(_Item(self._count, store, outgoing, until_ms))
        if until_ms < self._look_at_ms:
            self._look_at(until_ms)
        self._launch()

    async def run(self) -> None:
        """Repeat what failed, until cancelled."""
        try:
            while True:
                await self._trouble.wait()
                while self._under_way:
                    self._settled.clear()
                    await self._settled.wait()
                self._waiting.extendleft(sorted(self._failed, key=lambda item: -item.number))
                self._failed.clear()
                await asyncio.sleep(self._wait_s)
                self._wait_s = min(self._wait_s * 2, RETRY_CAP_S)
                self._trouble.clear()
                self._launch()
        finally:
            self._over = True
            if self._timer is not None:
                self._timer.cancel()
            if self._sync is not None:
                self._sync.stop()

    def _launch(self) -> None:
        while self._waiting and len(self._under_way) < WINDOW and not self._trouble.is_set():
            item = self._waiting.popleft()
            self._under_way[item.number] = item
            self._bus.put(item.outgoing, partial(self._answered, item), timeout_s=TIMEOUT_S)

    def _answered(self, item: _Item, answer: Ack | BusError) -> None:
        if self._over:
            return
        del self._under_way[item.number]
        self._settled.set()
        told: Stored | StoreFailed | None = None
        match answer:
            case Ack():
                self._wait_s = RETRY_S
                if self._sync is None:
                    told = Stored(self._now_ms(), item.store.msg_id, answer.seq, answer.duplicate)
                else:
                    self._unsynced[item.number] = item
                    others = max(self._in_hand() - 1, len(self._under_way))
                    self._sync.wait(partial(self._synced, item, answer), others)
            case BusDown() | NoResponders() | Closed():
                self._failed.append(item)
                self._trouble.set()
            case _:  # repeated it would be refused again, and hold up all that came later
                told = StoreFailed(self._now_ms(), item.store.msg_id, answer.code)
        self._launch()
        if told is not None:
            self._feed(told)

    def _synced(self, item: _Item, ack: Ack, failure: Exception | None) -> None:
        if self._over:
            return
        del self._unsynced[item.number]
        self._feed(Stored(self._now_ms(), item.store.msg_id, ack.seq, ack.duplicate, synced=failure is None))

    def _look_at(self, at_ms: float) -> None:
        """One timer for all; it is left to come when what it was set for has been stored."""
        if self._timer is not None:
            self._timer.cancel()
        now = self._now_ms()
        self._look_at_ms = max(at_ms, self._looked_ms + LOOK_MS)
        delay_s = max(1, math.ceil(self._look_at_ms - now)) / 1000  # whole milliseconds: see `Timers`
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._look)

    def _look(self) -> None:
        """Those who waited long enough hear so; their events stay queued, with the same ids, until the log is back."""
        now = self._looked_ms = self._now_ms()
        late_ms, self._timer, self._look_at_ms = now - self._look_at_ms, None, math.inf
        self._put_off = late_ms > LOOK_MS and not self._put_off
        if self._put_off:  # this process was not run: what the log said meanwhile has to be read first
            self._look_at(now)
            return
        late: list[_Item] = []
        next_ms = math.inf
        for item in (*self._unsynced.values(), *self._under_way.values(), *self._failed, *self._waiting):
            if item.until_ms <= now:
                item.until_ms = math.inf
                late.append(item)
            else:
                next_ms = min(next_ms, item.until_ms)
        if next_ms < math.inf:
            self._look_at(next_ms)
        for item in sorted(late, key=lambda item: item.number):
            self._feed(StoreFailed(now, item.store.msg_id, "bus_down"))


def _with_id(store: Store) -> Message:
    return replace(store.event, id=store.msg_id)
