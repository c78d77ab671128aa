"""Looks after an engine's thread from the event loop: dead or stuck, it serves nobody, and only a restart helps."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from understudy.actors.runner.local.engine import Engine

LOOK_S = 1.0
STUCK_S = 60.0
"""So long one step may take: a long prompt of a large model on a slow machine. Its callers have turned away by then."""


class Watchdog:
    """Tells `on_dead` once, with a word for the log: `thread_ended` or `stuck`."""

    def __init__(
        self, engine: Engine, on_dead: Callable[[str], None], *, look_s: float = LOOK_S, stuck_s: float = STUCK_S
    ) -> None:
        self._engine, self._on_dead = engine, on_dead
        self._look_s, self._patience = look_s, max(1, round(stuck_s / look_s))
        self._beat, self._unchanged = engine.heartbeat_monotonic, 0
        self._timer = asyncio.get_running_loop().call_later(look_s, self._look)

    def stop(self) -> None:
        """Look no longer."""
        self._timer.cancel()

    def _look(self) -> None:
        """Looks are counted, not seconds: a process that was not run for a while has had no time for its steps."""
        engine, beat = self._engine, self._engine.heartbeat_monotonic
        self._unchanged = self._unchanged + 1 if beat == self._beat else 0
        self._beat = beat
        if not engine.is_alive() or self._unchanged >= self._patience:
            self._on_dead("stuck" if engine.is_alive() else "thread_ended")
            return
        self._timer = asyncio.get_running_loop().call_later(self._look_s, self._look)
