"""One heap and one timer for all deadlines of a process."""

from __future__ import annotations

import asyncio
import heapq
import math
from collections.abc import Callable

from understudy.messages.step import Wake


class Timers:
    """Holds the newest `Wake` per key and calls `due(key, generation)` when its time has come.

    `now_ms` is the host's clock (Unix milliseconds, never going back). `before` is told when the first of those that
    are due now should have come: before any of them does.
    """

    def __init__(
        self,
        now_ms: Callable[[], float],
        due: Callable[[str, int], None],
        before: Callable[[float], None] = lambda _: None,
    ) -> None:
        self._now_ms, self._due, self._before = now_ms, due, before
        self._heap: list[tuple[float, int, str, int]] = []
        self._live: dict[str, int] = {}
        self._count = 0
        self._handle: asyncio.TimerHandle | None = None
        self._next_ms = float("inf")

    def set(self, wake: Wake) -> None:
        """A newer Wake with the same key replaces the older; `at_ms` 0 forgets it."""
        if wake.at_ms == 0:
            self._live.pop(wake.key, None)
            return
        self._count += 1
        self._live[wake.key] = self._count
        heapq.heappush(self._heap, (wake.at_ms, self._count, wake.key, wake.generation))
        if wake.at_ms < self._next_ms:
            self._arm(wake.at_ms)

    def _arm(self, at_ms: float) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._next_ms = at_ms
        # Whole milliseconds, rounded up: uvloop rounds to them, and a timer that comes early spins until it is due.
        delay = max(1, math.ceil(at_ms - self._now_ms())) / 1000
        self._handle = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        self._handle, self._next_ms = None, float("inf")
        now = self._now_ms()
        if self._heap:
            self._before(self._heap[0][0])
        while self._heap and self._heap[0][0] <= now:
            _, count, key, generation = heapq.heappop(self._heap)
            if self._live.get(key) == count:
                del self._live[key]
                self._due(key, generation)
        while self._heap and self._live.get(self._heap[0][2]) != self._heap[0][1]:
            heapq.heappop(self._heap)
        if self._heap and self._heap[0][0] < self._next_ms:
            self._arm(self._heap[0][0])

    def stop(self) -> None:
        """Forget everything."""
        if self._handle is not None:
            self._handle.cancel()
        self._heap.clear()
        self._live.clear()
