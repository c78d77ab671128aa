"""Who waits for a run: what they were told, whether they are still there, and telling it again. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from understudy.messages.base import Message
from understudy.messages.generate import ADVICE, Delta, Failed, Resent, Seam, Started
from understudy.messages.step import Effect, Probe, Send

ABSENT_MS, FORGET_ABSENT_MS = 350.0, 1_000.0
"""So long must nobody listen until a caller counts as gone; an absence that was noticed so long ago is over."""
MOST_CALLERS = 16
"""So many may wait for one run: everything is said to each of them. A repeat beyond is told to wait for the end."""
FULL_RETRY_MS = 1_000


def too_many(reply: str) -> Send:
    """The answer to a repeat that finds the run's places taken."""
    text = f"{MOST_CALLERS} callers wait for this `request_id` already. {ADVICE['overloaded']}"
    return Send(reply, Failed(code="overloaded", text=text, retry_after_ms=FULL_RETRY_MS))


@dataclass(slots=True)
class Callers:
    """The reply subject of the first asker, then those of callers who asked again for the same run."""

    run_id: str
    replies: list[str]
    notice: str  # where an absence is noticed: this subject and the number of the caller
    stream: bool
    journal: list[Delta | Seam] = field(default_factory=list[Delta | Seam])  # what a streaming reader was told
    absent: dict[int, tuple[float, float]] = field(default_factory=dict[int, tuple[float, float]])
    """Where nobody listened: since when, and when last noticed."""
    lost_sight: bool = False  # the run was cancelled because no caller was there
    _swept_seq: int = -1

    def say(self, message: Message, vanish: bool = False) -> list[Effect]:
        """To everybody who waits; with `vanish` an absence is noticed."""
        return [Send(one, message, reply=f"{self.notice}.{i}" if vanish else "") for i, one in enumerate(self.replies)]

    def tell(self, piece: Delta | Seam) -> list[Effect]:
        """A piece of the text, which may be asked for again."""
        self.journal.append(piece)
        return self.say(piece, vanish=isinstance(piece, Delta))

    def attach(self, reply: str, started: Started) -> list[Effect]:
        """Somebody asked again: everything from the start, and what is still to come."""
        if reply not in self.replies:
            if len(self.replies) >= MOST_CALLERS:
                return [too_many(reply)]
            self.replies.append(reply)
        self.absent.pop(self.replies.index(reply), None)
        return [Send(reply, one) for one in (started, *self.journal)] if self.stream else []

    def resend(self, reply: str, from_seq: int, next_seq: int) -> list[Effect]:
        """A reader lost something: say again what was said from there on."""
        resent = Resent(run_id=self.run_id, known=True, next_seq=next_seq)
        again = [one for one in self.journal if (one.next_seq if isinstance(one, Seam) else one.seq) >= from_seq]
        return [Send(reply, one) for one in (resent, *again)]

    def probes(self, next_seq: int) -> list[Effect]:
        """Is anybody there? Asked only if nothing was said since the last time; a delta notices it by itself."""
        idle, self._swept_seq = not self.stream or self._swept_seq == next_seq, next_seq
        return [Probe(one, f"{self.notice}.{i}") for i, one in enumerate(self.replies)] if idle else []

    def all_gone(self, which: int, now: float) -> bool:
        """Nobody listens at one of them. One that only lost its connection is back soon, so it takes a second look."""
        since, last = self.absent.get(which, (now, now))
        self.absent[which] = since if now - last < FORGET_ABSENT_MS else now, now
        gone = sum(last - since >= ABSENT_MS for since, last in self.absent.values())
        self.lost_sight = gone >= len(self.replies)
        return self.lost_sight
