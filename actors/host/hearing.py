"""Knows when this process could hear nothing, and for how long: then the silence of others says nothing about them.

Two things make a living process deaf: its connection to the bus is away, or it is not run (a saturated machine, a
SIGSTOP). Both end with everybody else looking silent, and a step that judged by the clock alone would call them dead.
"""

from __future__ import annotations

from collections.abc import Callable

LATE_MS = 100.0
"""A timer that comes this late means that the process was not run; less is the ordinary jitter of a busy loop."""

RETURN_MS = 2_500.0
"""After a cut, others get so long to find their own way back, to say what waited meanwhile, and to beat again: until
then nobody is taken for gone, neither who is silent nor who does not answer a question."""


class Hearing:
    """Calls `deaf(ms, cut)` for every stretch without hearing, before anything is judged by silence."""

    def __init__(self, now_ms: Callable[[], float], deaf: Callable[[float, bool], None]) -> None:
        self._now_ms, self._deaf = now_ms, deaf
        self._told_ms = 0.0  # deafness up to here has been told
        self._cut = False

    def before_timers(self, due_ms: float) -> None:
        """Timers are about to be handled, of which the first was due at `due_ms`."""
        now = self._now_ms()
        since = self._told_ms if self._cut else max(due_ms, self._told_ms)
        if self._cut or now - since > LATE_MS:
            self._tell(now, now - since, self._cut)

    def connection(self, word: str) -> None:
        """`disconnected` and `reconnected`, as the bus says them; other words mean nothing here."""
        now = self._now_ms()
        if word == "disconnected" and not self._cut:
            self._cut, self._told_ms = True, now
        elif word == "reconnected" and self._cut:
            self._cut = False
            self._tell(now, now - self._told_ms + RETURN_MS, cut=True)

    def _tell(self, now: float, ms: float, cut: bool) -> None:
        self._told_ms = now
        self._deaf(ms, cut)
