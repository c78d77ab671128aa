"""Time and identity for a process: the only place under `actors/` where a core's time and luck come from.

The host takes a `Clock`, so that a simulation can bring one on virtual time with seeded luck.
"""

from __future__ import annotations

import os
import time
from typing import Protocol

LUCK = 16 * 64
"""So many characters are drawn at once: a call into the kernel for each id was a good part of what it cost."""
_CROCKFORD = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CROCKFORD_OF_BYTE = _CROCKFORD * 8  # 256 bytes onto 32 characters, each as often
_PAIRS = tuple(chr(a) + chr(b) for a in _CROCKFORD for b in _CROCKFORD)  # ten bits as two characters


class Clock(Protocol):
    """Where a host's time and luck come from."""

    def now_ms(self) -> float:
        """Unix milliseconds that never go back within a process."""
        ...

    def new_id(self, now_ms: float) -> str:
        """A fresh ULID of that time."""
        ...


class SystemClock:
    """The wall at the start, moved on by the monotonic clock; luck from the operating system."""

    def __init__(self) -> None:
        self._wall_ms = time.time() * 1000
        self._mono = time.monotonic()
        self._luck = ""  # characters drawn ahead
        self._stamped = 0, ""  # the last millisecond, as ids begin with it

    def now_ms(self) -> float:
        """Now."""
        return self._wall_ms + (time.monotonic() - self._mono) * 1000

    def new_id(self, now_ms: float) -> str:
        """See `ulid`. Sixteen characters of five bits each are the 80 bits of luck."""
        if not self._luck:
            self._luck = os.urandom(LUCK).translate(_CROCKFORD_OF_BYTE).decode()
        luck, self._luck = self._luck[:16], self._luck[16:]
        ms = int(now_ms)
        if self._stamped[0] != ms:
            self._stamped = ms, _stamp(ms)
        return self._stamped[1] + luck


def ulid(now_ms: float, luck: int) -> str:
    """A ULID: 48 bits of time, 80 of luck, 26 characters that sort by time (specification: github.com/ulid/spec)."""
    return _stamp(int(now_ms)) + "".join(_PAIRS[luck >> shift & 1023] for shift in range(70, -1, -10))


def _stamp(now_ms: int) -> str:
    p, n = _PAIRS, now_ms
    return p[n >> 40] + p[n >> 30 & 1023] + p[n >> 20 & 1023] + p[n >> 10 & 1023] + p[n & 1023]
