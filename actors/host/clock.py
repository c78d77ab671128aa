"""Time and identity for a process: the only place under `actors/` where a core's time and luck come from."""

from __future__ import annotations

import os
import time

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Clock:
    """Unix milliseconds that never go back: the wall at the start, moved on by the monotonic clock."""

    def __init__(self) -> None:
        self._wall_ms = time.time() * 1000
        self._mono = time.monotonic()

    def now_ms(self) -> float:
        """Now."""
        return self._wall_ms + (time.monotonic() - self._mono) * 1000


def ulid(now_ms: float) -> str:
    """A ULID: 48 bits of time, 80 of luck, 26 characters that sort by time (specification: github.com/ulid/spec)."""
    value = (int(now_ms) << 80) | int.from_bytes(os.urandom(10))
    return "".join(_ALPHABET[(value >> shift) & 31] for shift in range(125, -1, -5))
