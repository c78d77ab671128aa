"""How much of a provider may be used at once and by whom: limits, lanes per priority class, the queue before them."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from understudy.messages.base import Finite, Part
from understudy.messages.units import Count, Positive

Priority = Literal["critical", "high", "low", "best_effort"]
PRIORITIES: tuple[Priority, ...] = ("critical", "high", "low", "best_effort")
"""From the first served to the last."""

Share = Annotated[float, Meta(gt=0.0, le=1.0)]


class Limits(Part, Finite, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a provider's account allows, over all its models; None: no limit. Each is used up to `1 - buffer_ratio`.

    `tokens_per_min` counts prompt (guessed) and `max_tokens` when a request starts, and what was really used when it
    ends. Both rates hold in any 60 s, not only in whole minutes.
    """

    concurrent: Positive | None = None
    requests_per_min: Positive | None = None
    tokens_per_min: Positive | None = None
    buffer_ratio: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.1


class Lane(Part, Finite, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a priority class may use a provider: up to which share of each limit, and of a model's slots, one of it may
    start (the class's own default where absent); at most how many of it at once."""

    share: Share | None = None
    at_once: Positive | None = None


class Lanes(Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One per priority class. What `low` and `best_effort` leave free is there when somebody more urgent comes."""

    critical: Lane = Lane()
    high: Lane = Lane()
    low: Lane = Lane()
    best_effort: Lane = Lane()


SHARES: dict[Priority, float] = {"critical": 1.0, "high": 1.0, "low": 0.8, "best_effort": 0.5}
"""Where the topology does not say otherwise."""

QueueBound = Annotated[Count, Meta(le=4096)]
"""So many requests may wait for one provider's process: each start looks at all that wait."""

QUEUE = 256

QueueBytes = Positive
"""So many bytes of requests (as they came over the bus) may wait for one provider's process."""

QUEUE_BYTES = 64_000_000
"""At 4 MB, the most that a request may have by default, sixteen; of usual ones far more than `QUEUE`."""
