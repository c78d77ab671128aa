"""What the other selectors have in hand, and what becomes of it when one of them dies.

Every selector reads the decisions of all from the trace stream, now and then, and crosses out those whose end the log
holds, which may come first. When one dies, each survivor stores `interrupted` as the end of its open runs; the log
takes the first, and whoever comes second says that one. A run that ended while its selector was dying thus keeps its
true end. Decisions of the dead that are read later are treated alike. Pure.

Silence is measured against our own heartbeats as they come back from the bus: while we are deaf (a cut connection, a
stopped process or nats-server), and until we have heard for as long as silence may last, nobody is declared dead.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from msgspec import Struct

from understudy.messages.brief import RequestBrief
from understudy.messages.events import RequestEnded, SelectionMade

DEAF_MS = 750.0
"""Our own heartbeats come back four times a second."""
FORGET_MS = 10_000.0
"""An open decision is forgotten so long after its deadline: its caller has gone."""
EARLY_MS = 3_000.0
"""So long an end is kept whose decision has not been read yet."""
RECENT_MS = 5_000.0
"""An end of our own former life that is older than this was surely said."""


class Ending(Struct, frozen=True):
    """An end that the log holds, with its bytes where only the light form was read, and when it was."""

    end: RequestBrief | RequestEnded
    payload: bytes
    seen_ms: float


class Closing(Struct, frozen=True):
    """A run whose end the log holds; its selector may have died before saying it."""

    made: SelectionMade
    ending: Ending


@dataclass(slots=True)
class Siblings:
    """Open decisions of other selectors (and of an earlier life of our own), and when each was last heard."""

    mine: str = ""
    born_ms: float = 0.0
    open: dict[str, SelectionMade] = field(default_factory=dict[str, SelectionMade])
    heard_ms: dict[str, float] = field(default_factory=dict[str, float])
    closing: dict[str, dict[str, Closing]] = field(default_factory=dict[str, dict[str, Closing]])  # per selector
    early: dict[str, Ending] = field(default_factory=dict[str, Ending])
    gone_ms: dict[str, float] = field(default_factory=dict[str, float])  # the dead, and until when they lived
    back_ms: float = float("-inf")  # when we began to hear again

    def decided(self, made: SelectionMade, now: float) -> None:
        """A decision was made. Our own, of this life, are in our hands already."""
        if made.instance == self.mine and made.at_ms >= self.born_ms:
            return
        early = self.early.pop(made.run_id, None)
        if early is not None:
            self._close(made, early)
        elif made.deadline_at_ms + FORGET_MS > now:
            self.open[made.run_id] = made
        if not self.is_gone(made):
            self.heard_ms.setdefault(made.instance, now)

    def is_gone(self, made: SelectionMade) -> bool:
        """Whether it was made by a selector that has died since."""
        return made.at_ms <= self.gone_ms.get(made.instance, float("-inf"))

    def ended(self, end: RequestBrief | RequestEnded, payload: bytes, now: float) -> None:
        """The log holds its end. Its selector has said so once it has lived on for a heartbeat; until then we know."""
        made = self.open.pop(end.run_id, None)
        if made is not None:
            self._close(made, Ending(end, payload, now))
        elif end.instance != self.mine:
            self.early[end.run_id] = Ending(end, payload, now)

    def _close(self, made: SelectionMade, ending: Ending) -> None:
        end = ending.end
        if end.instance != made.instance:
            return
        if made.instance != self.mine or end.at_ms > self.born_ms - RECENT_MS:
            self.closing.setdefault(made.instance, {})[end.run_id] = Closing(made, ending)

    def beat(self, instance: str, now: float) -> None:
        """It is alive; what had ended before the heartbeat before this one has been said."""
        before, self.heard_ms[instance] = self.heard_ms.get(instance, now), now
        if instance == self.mine and now - before > DEAF_MS:
            self.back_ms = now  # what the others said meanwhile is lost, or only now on its way
        closing = self.closing.get(instance, {})
        for run_id in [i for i, one in closing.items() if one.ending.seen_ms < before]:
            del closing[run_id]

    def deaf(self, ms: float) -> None:
        """For so long nobody could be heard; with the bus just back, others may still be on their way to it."""
        for name in self.heard_ms:
            if name != self.mine:
                self.heard_ms[name] += ms

    def now_as_heard(self, limit_ms: float, now: float) -> float | None:
        """The time by our own last heartbeat that came back; None while we are deaf, or were until just now."""
        own = self.heard_ms.get(self.mine)
        return None if own is None or now - own > DEAF_MS or now - self.back_ms < limit_ms else own

    def hear_nobody(self, limit_ms: float, now: float) -> bool:
        """Whether silence says nothing about those who should speak."""
        return self.mine in self.heard_ms and self.now_as_heard(limit_ms, now) is None

    def silent(self, limit_ms: float, now: float) -> list[str]:
        """Selectors that have not been heard for longer than the limit while we ourselves were."""
        heard = self.now_as_heard(limit_ms, now)
        if heard is None:
            return []
        return sorted(name for name, at in self.heard_ms.items() if heard - at > limit_ms)

    def orphans(self, instance: str, until_ms: float) -> list[SelectionMade]:
        """Take the open runs of a dead selector: those it had begun until then."""
        found = [m for m in self.open.values() if m.instance == instance and m.at_ms <= until_ms]
        self._forget(m.run_id for m in found)
        return found

    def unsaid(self, instance: str, until_ms: float) -> list[Closing]:
        """Take the ends that a dead selector may not have said, of runs that it had begun until then."""
        closing = self.closing.get(instance, {})
        found = [one for one in closing.values() if one.made.at_ms <= until_ms]
        for one in found:
            del closing[one.made.run_id]
        return found

    def orphan(self, run_id: str) -> SelectionMade | None:
        """Take one open run."""
        return self.open.pop(run_id, None)

    def sweep(self, now: float) -> None:
        """Forget what nobody waits for any longer."""
        self._forget([run_id for run_id, made in self.open.items() if made.deadline_at_ms + FORGET_MS < now])
        for run_id in [run_id for run_id, early in self.early.items() if early.seen_ms + EARLY_MS < now]:
            del self.early[run_id]

    def _forget(self, run_ids: Iterable[str]) -> None:
        for run_id in list(run_ids):
            del self.open[run_id]
