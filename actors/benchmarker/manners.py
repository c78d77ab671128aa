"""When the next item may be asked, so that people hardly notice. Pure.

    a model of this machine   not while anybody else has used it in the last `quiet_ms`: it shares its CPU with us
    others                    not while others leave less than `share` of its slots free, or anybody waits for one
    anybody at work anywhere  at most one ask each `pace_ms`, of all models together
    nobody                    as fast as it answers

Who else works is known by the log (outcomes without our label) and by the runners' heartbeats, of which our own calls
are taken off. Both are late by a moment; requests that begin then meet at most `at_once` items.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import msgspec

from understudy.messages.benchmarks import Waits
from understudy.messages.run import RunnerBeat
from understudy.messages.units import PositiveMs, Ratio

STALE_MS = 3_000
"""A heartbeat that is older says nothing any more."""
OWN_MS = 600
"""So long after its end one of our calls may still stand in a heartbeat."""


class Manners(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """See the module."""

    share: Ratio = 0.5
    pace_ms: PositiveMs = 1_000
    quiet_ms: PositiveMs = 2_000


@dataclass(slots=True)
class Room:
    """What is known of who else works. Times in Unix milliseconds."""

    loads: dict[str, tuple[float, int, int]] = field(default_factory=dict[str, tuple[float, int, int]])
    """By model: when it was heard, others' requests in flight, and waiting."""
    used_ms: dict[str, float] = field(default_factory=dict[str, float])  # by others, by model
    own: dict[str, int] = field(default_factory=dict[str, int])  # in flight
    own_peak: dict[str, tuple[float, int]] = field(default_factory=dict[str, tuple[float, int]])  # until when, how many
    asked_ms: float = 0.0

    def begin(self, model: str, now: float, count: int = 1) -> None:
        """We ask."""
        self.own[model] = self.own.get(model, 0) + count
        self.own_peak[model] = (now + 86_400_000, max(self.own[model], self._peak(model, now)))
        self.asked_ms = now

    def end(self, model: str, now: float) -> None:
        """One of ours is over."""
        self.own[model] = max(0, self.own.get(model, 0) - 1)
        if not self.own[model]:
            self.own_peak[model] = (now + OWN_MS, self._peak(model, now))

    def _peak(self, model: str, now: float) -> int:
        until, peak = self.own_peak.get(model, (0.0, 0))
        return peak if now <= until else 0

    def hear(self, beat: RunnerBeat, now: float) -> None:
        """How busy a runner's models are, without us."""
        for model, load in beat.models.items():
            others = max(0, load.in_flight + load.waiting - self._peak(model, now))
            self.loads[model] = (now, others, load.waiting)
            if others:
                self.used_ms[model] = now

    def used(self, model: str, at_ms: float) -> None:
        """The log has somebody else's outcome."""
        self.used_ms[model] = max(at_ms, self.used_ms.get(model, 0.0))

    def quiet(self, model: str, now: float, quiet_ms: float) -> bool:
        """Has nobody else used it for so long?"""
        return now - self.used_ms.get(model, 0.0) > quiet_ms

    def may(self, model: str, slots: int, local: bool, count: int, now: float, manners: Manners) -> Waits:
        """May `count` asks begin now? '': yes, else what to wait for. `local`: it computes beside the people's own."""
        own, (others, waiting) = self.own.get(model, 0), self._others(model, now)
        most = max(1, math.floor(manners.share * slots))
        if own and own + count > most:
            return "answer"
        if waiting or others > (1 - manners.share) * slots or (count > most and others):
            return "busy"
        if local and (others or not self.quiet(model, now, manners.quiet_ms)):
            return "busy"
        at_work = any(now - at_ms <= manners.quiet_ms for at_ms in self.used_ms.values())
        return "pace" if at_work and now - self.asked_ms < manners.pace_ms else ""

    def _others(self, model: str, now: float) -> tuple[int, int]:
        at_ms, others, waiting = self.loads.get(model, (0.0, 0, 0))
        return (others, waiting) if now - at_ms <= STALE_MS else (0, 0)
