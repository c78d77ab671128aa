"""What a reader of a streamed answer holds, and what it has to do next. Pure.

The one rule: at a seam drop what is later than `keep_seq`, then append. On top of it, what a reader needs who wants the
whole answer although messages, connections and selectors may be lost: pieces that come twice are dropped, a gap is
asked for again, and a run whose selector died goes on as another run with the text that was kept. To the application
both runs are one: numbers go on, and a seam tells where they meet.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec.structs import replace

from understudy.messages.base import Message
from understudy.messages.generate import Delta, Failed, Finished, Resent, Seam, Started, Waiting
from understudy.messages.tools import ToolCall

Piece = Started | Waiting | Delta | Seam | Finished
Need = Literal["", "resend", "repeat", "resume", "fail"]
"""resend: something was lost; repeat: ask for this run again; resume: go on as a new run; fail: it is over."""

GOES_ON = frozenset({"interrupted", "text_lost"})
"""Ends of a run that are no end of the answer; nor is `cancelled` where a selector had only lost sight of us."""


@dataclass(slots=True)
class Reading:
    """One answer, over as many runs as it takes."""

    run_id: str = ""
    instance: str = ""
    model: str = ""
    kept: list[Delta] = field(default_factory=list[Delta])
    failed: Failed | None = None
    finished: Finished | None = None
    left: set[str] = field(default_factory=set[str])  # runs that are over
    _next: int = 0  # of the run: the number of the delta that is expected
    _offset: int = 0  # what is added to the run's numbers
    _seam: Seam | None = None  # the last one, until a delta follows
    _seams: int = 0  # of the run
    _seams_before: int = 0  # of the runs before, and where they meet
    _from: str = ""  # who spoke before this run

    @property
    def text(self) -> str:
        """What the reader holds now."""
        return "".join(one.text for one in self.kept if one.kind == "text")

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls that the reader holds, each as far as it was told."""
        parts: dict[int, list[str]] = {}
        for one in self.kept:
            if one.call is not None and one.call.name:
                parts[one.call.index] = [one.call.id, one.call.name, one.text]
            elif one.call is not None and one.call.index in parts:
                parts[one.call.index][2] += one.text
        return tuple(ToolCall(id=i, name=name, arguments=text.strip() or "{}") for i, name, text in parts.values())

    @property
    def next_seq(self) -> int:
        """The number that `Resend` is to begin with."""
        return self._next

    def take(self, message: Message) -> tuple[list[Piece], Need]:
        """What of it is new to the application, and what is to be done."""
        run_id = getattr(message, "run_id", None) or ""
        if run_id and run_id in self.left:  # a refusal may name no run
            return [], ""
        match message:
            case Started():
                return self._started(message)
            case Delta():
                return self._delta(message)
            case Seam():
                return self._at_seam(message)
            case Resent(known=False):
                return [], "repeat"
            case Resent():
                return [], "resend" if message.next_seq < self._next else ""
            case Finished():
                return self._ended(message)
            case Failed():
                self.failed = message
                goes_on = message.code in GOES_ON or (message.code == "cancelled" and message.resumable)
                return [], "resume" if goes_on else "repeat" if message.code == "bus_down" else "fail"
            case Waiting():
                return [message], ""
            case _:
                return [], ""

    def leave_run(self) -> None:
        """The next run goes on with the text that is held."""
        ended = self.failed.run_id if self.failed is not None else None  # one that ended before it had `started`
        self.left.update(run_id for run_id in (self.run_id, ended) if run_id)
        self._offset += self._next
        self._seams_before, self._seams = self._seams_before + self._seams, 0
        self._from = self.model
        self.run_id, self.instance, self._next, self._seam = "", "", 0, None

    def _held(self) -> dict[str, Any]:
        """What a recorded end, which holds no content, leaves to the reader."""
        thoughts = "".join(one.text for one in self.kept if one.kind == "reasoning")
        return {"text": self.text, "tool_calls": self.tool_calls, "reasoning": thoughts or None}

    def _started(self, message: Started) -> tuple[list[Piece], Need]:
        if message.run_id == self.run_id:
            return [], ""
        self.run_id, self.instance, self.model = message.run_id, message.instance, message.model
        before, self._from = self._from, ""
        if not before or not self.kept:
            return [message], ""
        self._seams_before += 1
        goes_on = bool(self.text)  # else the next run was not told of anything: half a tool call is nothing to keep
        self.kept = self.kept if goes_on else []
        seam = Seam(
            run_id=message.run_id,
            mode="continue" if goes_on else "restart",
            keep_seq=self._offset - 1 if goes_on else -1,
            next_seq=self._offset,
            from_model=before,
            to_model=message.model,
            reason="interrupted",
        )
        return [message, seam], ""

    def _delta(self, delta: Delta) -> tuple[list[Piece], Need]:
        if delta.seq != self._next or delta.seams > self._seams:
            return [], "resend" if delta.seq >= self._next else ""
        self._next += 1
        self._seam = None
        delta = replace(delta, seq=delta.seq + self._offset, seams=delta.seams + self._seams_before)
        self.kept.append(delta)
        return [delta], ""

    def _at_seam(self, seam: Seam) -> tuple[list[Piece], Need]:
        if seam.next_seq > self._next:
            return [], "resend"
        if seam.next_seq < self._next or seam == self._seam:
            return [], ""
        self._seam = seam
        self._seams += 1
        # A restart drops all, also what an earlier run said; anything else keeps at least that.
        keep = -1 if seam.mode != "continue" and seam.keep_seq < 0 else seam.keep_seq + self._offset
        self.kept = [one for one in self.kept if one.seq <= keep]
        self.model = seam.to_model
        return [replace(seam, keep_seq=keep, next_seq=seam.next_seq + self._offset)], ""

    def _ended(self, end: Finished) -> tuple[list[Piece], Need]:
        if end.text is None and end.last_seq + 1 != self._next:
            return [], "resume"  # the log holds no text, and we do not hold all of it
        last_seq = end.last_seq + self._offset if end.last_seq >= 0 else self._offset - 1
        said = {} if end.text is not None else self._held()
        self.finished = replace(end, last_seq=last_seq, **said)
        self.run_id, self.model = end.run_id, end.model
        return [self.finished], ""
