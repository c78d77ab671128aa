"""An asyncio event loop on virtual time: it never sleeps, and runs the same way every time.

When nothing is ready, time jumps to the next timer. Real threads and sockets have no place here: nothing they do can
wake this loop. What could hang is an error that says so: everything waits for ever (`Stuck`), the story takes longer
than it may (`TooLong`), or it spins without time moving on (`Spinning`).
"""

from __future__ import annotations

import asyncio
import selectors
import weakref
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any, TypeVar

T = TypeVar("T")

_MAX_TURNS = 1_000_000
"""Turns of the loop within one instant before it counts as spinning."""


class SimError(Exception):
    """The simulation cannot go on."""


class Stuck(SimError):
    """Every task waits for something that nothing will bring about: no timer is left."""


class TooLong(SimError):
    """Virtual time passed the limit."""


class Spinning(SimError):
    """The loop turned a million times while virtual time stood still."""


class _VirtualTime(selectors.SelectSelector):
    """Asked to wait, it moves the clock instead."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.limit_s = float("inf")
        self._turns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stuck(f"at {self.now_s:.6f} s everything waits and no timer is left")
        if timeout <= 0:
            self._turns += 1
            if self._turns > _MAX_TURNS:
                raise Spinning(f"time stands still at {self.now_s:.6f} s")
            return []
        self._turns = 0
        if self.now_s + timeout > self.limit_s:
            raise TooLong(f"the limit of {self.limit_s} s of virtual time has passed")
        self.now_s += timeout
        return []


class SimLoop(asyncio.SelectorEventLoop):
    """The loop; `time()` is virtual seconds since its making."""

    def __init__(self) -> None:
        self._virtual = _VirtualTime()
        super().__init__(self._virtual)
        self._born: weakref.WeakKeyDictionary[asyncio.Task[Any], int] = weakref.WeakKeyDictionary()
        self._births = 0

    def time(self) -> float:
        """Virtual seconds."""
        return self._virtual.now_s

    def limit(self, limit_s: float) -> None:
        """Raise TooLong when time would pass `limit_s`."""
        self._virtual.limit_s = limit_s

    def create_task(
        self,
        coro: Any,
        *,
        name: object = None,
        context: Context | None = None,
    ) -> asyncio.Task[Any]:
        """As ever, and remember the order of birth: sets of tasks have none that two runs share."""
        task: asyncio.Task[Any] = super().create_task(coro, name=None if name is None else str(name), context=context)
        self._births += 1
        self._born[task] = self._births
        return task

    def end(self) -> None:
        """Cancel what is left, in order of birth, and close."""
        self._virtual.limit_s = float("inf")
        try:
            left = sorted(asyncio.all_tasks(self), key=lambda task: self._born[task])
            for task in left:
                task.cancel()
            if left:
                self.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            self.run_until_complete(self.shutdown_asyncgens())
        finally:
            self.close()


def run(main: Callable[[], Coroutine[Any, Any, T]], limit_s: float = 3600.0) -> T:
    """Run `main()` to its end on a loop of its own, for at most `limit_s` virtual seconds.

    Raises what `main` raises; Stuck, TooLong, Spinning. Tasks left over are cancelled.
    """
    loop = SimLoop()
    loop.limit(limit_s)
    try:
        return loop.run_until_complete(main())
    finally:
        loop.end()
