"""Text as it arrives, but not more often than a reader can tell: the first piece at once, a flood in few messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from understudy.messages.tools import Kind, ToolPart

GAP_S = 0.005
"""Two pieces of one call are at least so far apart; slower streams (below 200 pieces/s) are passed on untouched."""


class Gather:
    """One call's text on its way out: `say(text, tokens, kind, call)` is called with one or several pieces joined."""

    __slots__ = ("_call", "_gap_s", "_kind", "_loop", "_next_at", "_say", "_text", "_timer", "_tokens")

    def __init__(self, say: Callable[[str, int, Kind, ToolPart | None], None], gap_s: float = GAP_S) -> None:
        self._say, self._gap_s = say, gap_s
        self._kind: Kind = "text"
        self._call: ToolPart | None = None
        self._loop = asyncio.get_running_loop()
        self._next_at = 0.0
        self._text = ""
        self._tokens = 0
        self._timer: asyncio.TimerHandle | None = None

    def aside(self, text: str, tokens: int, kind: Kind, call: ToolPart | None) -> None:
        """Take a piece of something else than the text: what is held of another thing leaves before it.

        The first piece of a tool call may hold nothing but the call's name.
        """
        if kind != self._kind or call != self._call:
            self.flush()
            self._kind, self._call = kind, call
        if text or (call is not None and call.name):
            self._take(text, tokens)

    def add(self, text: str, tokens: int) -> None:
        """Take a piece of the text: it leaves now, or with others when the gap is over."""
        if not text:
            return
        if self._kind != "text":
            self.flush()
            self._kind, self._call = "text", None
        self._take(text, tokens)

    def _take(self, text: str, tokens: int) -> None:
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
        if self._text or self._tokens:
            text, tokens, self._text, self._tokens = self._text, self._tokens, "", 0
            self._next_at = self._loop.time() + self._gap_s
            self._say(text, tokens, self._kind, self._call)
