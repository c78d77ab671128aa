"""Text as it arrives, but not more often than a reader can tell: the first piece at once, a flood in few messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

GAP_S = 0.005
"""Two pieces of one call are at least so far apart; slower streams (below 200 pieces/s) are passed on untouched."""


class Gather:
    """One call's text on its way out: `say(text, tokens)` is called with one or several pieces joined."""

    __slots__ = ("_gap_s", "_loop", "_next_at", "_say", "_text", "_timer", "_tokens")

    def __init__(self, say: Callable[[str, int], None], gap_s: float = GAP_S) -> None:
        self._say, self._gap_s = say, gap_s
        self._loop = asyncio.get_running_loop()
        self._next_at = 0.0
        self._text = ""
        self._tokens = 0
        self._timer: asyncio.TimerHandle | None = None

    def add(self, text: str, tokens: int) -> None:
        """Take a piece: it leaves now, or with others when the gap is over."""
        if not text:
            return
        self._text += text
        self._tokens += tokens
        if self._timer is not None:
            return
        now = self._loop.time()
        if now >= self._next_at:
            self.flush()
        else:
            self._timer = self._loop.call_at(self._next_at, self.flush)

    def flush(self) -> None:
        """Whatever is held leaves now: before an end, nothing may be left behind."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._text:
            text, tokens, self._text, self._tokens = self._text, self._tokens, "", 0
            self._next_at = self._loop.time() + self._gap_s
            self._say(text, tokens)
