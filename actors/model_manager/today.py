"""The calendar day of a point in time. Pure."""

from __future__ import annotations

from datetime import UTC, datetime


def day_of(at_ms: float) -> str:
    """YYYY-MM-DD in UTC."""
    return datetime.fromtimestamp(at_ms / 1000, UTC).date().isoformat()
