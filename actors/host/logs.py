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
    """Collects lines and writes them together: what a line costs, no request should wait for."""

    def __init__(self, actor: str, instance: str, out: IO[bytes] | None = None) -> None:
        self._base = {"actor": actor, "instance": instance}
        self._out = out or sys.stderr.buffer
        self._lines: list[dict[str, Any]] = []

    def line(self, event: str, **fields: Any) -> None:
        """One line: what happened, and facts about it. Never pass content."""
        self._add(event, fields)
        if len(self._lines) >= FLUSH_LINES:
            self.flush()

    def record(self, event: str, **fields: Any) -> None:
        """One line that is with the system when this returns. Raises OSError where it cannot be written."""
        self._add(event, fields)
        self._write()

    def flush(self) -> None:
        """Write what was collected."""
        with contextlib.suppress(OSError):  # a full disk loses lines, and ends nobody
            self._write()

    def _add(self, event: str, fields: dict[str, Any]) -> None:
        self._lines.append({"t": round(time.time(), 3), **self._base, "event": event, **fields})

    def _write(self) -> None:
        if self._lines:
            lines, self._lines = self._lines, []
            self._out.write(msgspec.json.Encoder().encode_lines(lines))
            self._out.flush()
