"""What was used within the last minute: requests, and tokens reserved and then settled. Pure.

Exact in any 60 s, also across whole minutes: a provider that counts in fixed minutes, in sliding ones, or by a bucket
that refills, allows at least as much.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

MINUTE_MS = 60_000.0


@dataclass(slots=True)
class Use:
    """One call's tokens, as reserved until they are known."""

    at_ms: float
    tokens: int
    counted: bool = True  # still within the minute


@dataclass(slots=True)
class Windows:
    """Starts of the last minute, and their tokens. It is as long as the limit is large."""

    starts: deque[float] = field(default_factory=deque[float])
    uses: deque[Use] = field(default_factory=deque[Use])
    by_call: dict[str, Use] = field(default_factory=dict[str, Use])  # those under way
    tokens: int = 0

    def slide(self, now: float) -> None:
        """Forget what is older than a minute."""
        while self.starts and self.starts[0] <= now - MINUTE_MS:
            self.starts.popleft()
        while self.uses and self.uses[0].at_ms <= now - MINUTE_MS:
            gone = self.uses.popleft()
            self.tokens -= gone.tokens
            gone.counted = False

    def count(self, call_id: str, tokens: int, now: float) -> None:
        """A call starts."""
        use = self.by_call[call_id] = Use(now, tokens)
        self.starts.append(now)
        self.uses.append(use)
        self.tokens += tokens

    def settle(self, call_id: str, tokens: int | None) -> None:
        """A call is over; what it used is not known of one that failed, so its reservation stands."""
        use = self.by_call.pop(call_id, None)
        if use is not None and use.counted and tokens is not None:
            self.tokens += tokens - use.tokens
            use.tokens = tokens

    def next_ms(self) -> float | None:
        """When the oldest is forgotten."""
        return self.starts[0] + MINUTE_MS if self.starts else None
