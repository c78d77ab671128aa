"""Structured log lines: JSON, buffered, never any content. One line per request, attempt and change of state."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import IO, Any

import msgspec

FLUSH_LINES = 64
FLUSH_S = 0.25


class Log:
    """Collects lines and writes them together: unbuffered logging costs more than the work it tells of."""

    def __init__(self, actor: str, instance: str, out: IO[bytes] | None = None) -> None:
        self._base = {"actor": actor, "instance": instance}
        self._out = out or sys.stderr.buffer
        self._lines: list[bytes] = []

    def line(self, event: str, **fields: Any) -> None:
        """One line: what happened, and facts about it. Never pass content."""
        now = round(time.time(), 3)
        self._lines.append(msgspec.json.encode({"t": now, **self._base, "event": event, **fields}))
        if len(self._lines) >= FLUSH_LINES:
            self.flush()

    def flush(self) -> None:
        """Write what was collected."""
        if self._lines:
            lines, self._lines = self._lines, []
            with contextlib.suppress(OSError):  # a full disk loses lines, and ends nobody
                self._out.write(b"\n".join(lines) + b"\n")
                self._out.flush()
