"""Where a graph stands and who writes it: the Projection node, as everybody sees it who needs no driver."""

from __future__ import annotations

import msgspec

from understudy.messages.buckets import DAY_MS
from understudy.messages.graph import Half


class NotOurs(Exception):
    """Somebody else writes here: a newer fence, or a position that we did not leave."""


class Held(Exception):
    """Somebody else has the lease, until then (Unix milliseconds)."""

    def __init__(self, holder: str, until_ms: int) -> None:
        super().__init__(f"{holder} holds the lease of this graph until {until_ms}")
        self.holder, self.until_ms = holder, until_ms


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """In days by the events' own times: buckets by the hour, then by the day; chains seen less than three times."""

    hourly_days: int = 35
    daily_days: int = 400
    rare_chain_days: int = 7

    def gone(self, day: int) -> int:
        """Hours before that time (Unix milliseconds) are no longer kept on that day (since 1970); their days are."""
        return (day - self.hourly_days) * DAY_MS

    def limits(self, day: int) -> dict[str, int]:
        """What is older goes when that day begins (both by days since 1970): Unix milliseconds. What goes once a week
        goes as of the week's beginning, for a batch may hold several days of it."""
        return {
            "before": self.gone(day),
            "long_before": (day - self.daily_days) * DAY_MS,
            "week_before": (day - day % 7 - self.daily_days) * DAY_MS,
            "rare_before": (day - self.rare_chain_days) * DAY_MS,
        }


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The Projection node. `half` serves; `building`, where there is one, is to replace it. Who has a fence that is not
    the newest may not write."""

    stream: str
    fence: int
    half: Half
    building: Half | None
