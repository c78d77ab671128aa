"""How long a model takes to its first token, as a decaying histogram with logarithmic buckets. Pure.

Whole numbers and exact bounds: every replica, and every replay, has the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

PARTS = 8
"""Buckets per doubling: a bound is at most an eighth above what was counted."""
ENOUGH, MOST = 20, 512
"""So many make a quantile worth using; at the second all counts are halved, so that what is old fades."""
SHARE = 0.95


def bucket_of(ms: float) -> int:
    """The bucket of a duration: the doubling it lies in, and the part of that."""
    mantissa, exponent = math.frexp(max(ms, 1e-3))
    return exponent * PARTS + int((mantissa - 0.5) * 2 * PARTS)


def bound_of(bucket: int) -> float:
    """Its upper bound, in ms."""
    exponent, part = divmod(bucket, PARTS)
    return math.ldexp(0.5 + (part + 1) / (2 * PARTS), exponent)


@dataclass(slots=True)
class Slowness:
    """Counts by bucket."""

    counts: dict[int, int] = field(default_factory=dict[int, int])
    total: int = 0

    def add_at_least(self, ms: float) -> None:
        """No first token had come when nobody waited any longer. Below the percentile that says nothing of it: who was
        given up after a moment, as the other model spoke, is not as quick as that."""
        p95_ms = self.p95_ms()
        if p95_ms is not None and bound_of(bucket_of(ms)) >= p95_ms:
            self.add(ms)

    def add(self, ms: float) -> None:
        """One first token."""
        bucket = bucket_of(ms)
        self.counts[bucket] = self.counts.get(bucket, 0) + 1
        self.total += 1
        if self.total >= MOST:
            self.counts = {b: half for b, n in self.counts.items() if (half := n // 2)}
            self.total = sum(self.counts.values())

    def p95_ms(self) -> float | None:
        """The bound under which 95 % lie, one of them more or less; None while there are too few."""
        if self.total < ENOUGH:
            return None
        wanted, seen = SHARE * self.total - 1, 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= wanted:
                return bound_of(bucket)
        return None
