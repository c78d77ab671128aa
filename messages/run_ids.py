"""Run ids are ULIDs (github.com/ulid/spec): their first 48 bits are when the run began. Pure."""

from __future__ import annotations

import re

_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_DIGITS = {digit: n for n, digit in enumerate("0123456789ABCDEFGHJKMNPQRSTVWXYZ")}

SKEW_MS = 60_000
"""So far the clock of a selector, which makes the ids, may be ahead of the server's, which stamps what is stored."""


def begun_ms(run_id: str) -> int | None:
    """When a run began by its selector's clock, Unix milliseconds; None for what is no run id."""
    if not _ULID.fullmatch(run_id):
        return None
    found = 0
    for digit in run_id[:10]:
        found = found << 5 | _DIGITS[digit]
    return found
