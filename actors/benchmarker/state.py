"""What the benchmarker is told by its operator, and what it knows. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from understudy.actors.benchmarker.drift import DriftPlan
from understudy.actors.benchmarker.history import History
from understudy.messages.units import Positive


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much is kept, and when an hour is over. `drift`: see `DriftPlan`."""

    keep_days: Positive = 35
    keep_buckets: Positive = 200_000  # of a model, a task and an hour; beyond that the oldest days go early
    grace_ms: int = 120_000  # an hour is closed so long after its end: outcomes are stored a moment after they happened
    sweep_ms: int = 30_000
    store_ms: int = 10_000
    drift: DriftPlan = DriftPlan()


@dataclass(slots=True)
class State:
    """The fold, and what is on its way to the log."""

    history: History = field(default_factory=History)
    live: bool = False
    telling: set[str] = field(default_factory=set[str])  # ids of announcements that the log has not answered for
