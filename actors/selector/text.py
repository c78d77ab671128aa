"""The text of a run across its attempts: what readers hold, what is held back, where a seam falls."""

from __future__ import annotations

from dataclasses import dataclass, field

from understudy.messages.run import MIN_OVERLAP_CHARS

MAX_OVERLAP = 400


@dataclass(slots=True)
class Script:
    """The answer so far.

    Held back are trailing white space, so that a next model joins at a word's end, and what may be the beginning of a
    stop string: a seam drops it and the next model says it again, so no seam ever splits a stop string.
    """

    stops: tuple[str, ...] = ()
    pieces: list[str] = field(default_factory=list[str])
    seq: int = 0  # the next delta's number
    held: str = ""
    unsure: str | None = None  # instructed continuation: beginning not yet compared with our end
    trimmed_chars: int = 0  # of the current continuation: what it repeated
    begun: int = 0  # pieces before the current attempt
    beside: int = 0  # what readers hold besides the text: parts of tool calls, reasoning
    called: bool = False  # the current attempt has begun a tool call
    stop_begun: bool = False  # the last seam fell where a stop string may have begun: the next model may just end

    def text(self) -> str:
        """What readers have."""
        return "".join(self.pieces)

    def new_text(self) -> str:
        """What the current attempt has added to it."""
        return "".join(self.pieces[self.begun :])

    def add(self, text: str) -> str:
        """Take text in; what may be shown now ('' when all is held back)."""
        if self.unsure is not None:
            self.unsure += text
            if len(self.unsure) < MAX_OVERLAP and self._may_overlap():
                return ""
            text = self._settle()
        text = self.held + text
        shown = self._safe(text)
        self.held = text[len(shown) :]
        return self._show(shown)

    def finish(self) -> str:
        """The attempt ended well: nothing is held back any longer."""
        text, self.held = self.held + self._settle(), ""
        return self._show(text)

    def added(self) -> bool:
        """Has the current attempt called a tool, or said more than white space, beyond what it repeated?"""
        waits = self.held + ("" if self.unsure is None else self._trimmed(self.unsure))
        return self.called or len(self.pieces) > self.begun or bool(waits.strip())

    def aside(self, called: bool) -> None:
        """Readers were told something that is not text; `called`: of a tool call."""
        self.seq += 1
        self.beside += 1
        self.called = self.called or called

    def empty(self) -> bool:
        """Do readers hold nothing?"""
        return not self.pieces and not self.beside

    def continue_from_here(self, instructed: bool) -> int:
        """Another model goes on: the last sequence number that stays."""
        begun = bool(self.held.strip()) or self._stop_begun(self.held) > 0
        self.stop_begun = begun or (self.stop_begun and not self.added())
        self.held = ""
        self.unsure = "" if instructed else None
        self.trimmed_chars, self.begun, self.called = 0, len(self.pieces), False
        return self.seq - 1

    def restart(self) -> int:
        """Another model begins anew: readers drop everything. Sequence numbers go on."""
        self.pieces.clear()
        self.held, self.unsure, self.stop_begun = "", None, False
        self.trimmed_chars, self.begun, self.beside, self.called = 0, 0, 0, False
        return -1

    def _show(self, text: str) -> str:
        if text:
            self.pieces.append(text)
            self.seq += 1
        return text

    def _settle(self) -> str:
        """The beginning of an instructed continuation, without what it repeated."""
        begin, self.unsure = self.unsure or "", None
        text = self._trimmed(begin) if begin else ""
        self.trimmed_chars += len(begin) - len(text)
        return text

    def _safe(self, text: str) -> str:
        """The part that may be shown: it ends neither in white space nor in the beginning of a stop string."""
        shown = text.rstrip()
        while begun := self._stop_begun(shown):
            shown = shown[:-begun].rstrip()
        return shown

    def _stop_begun(self, text: str) -> int:
        """How many characters at the end may be the beginning of a stop string."""
        sizes = (n for s in self.stops for n in range(1, min(len(s), len(text) + 1)) if text.endswith(s[:n]))
        return max(sizes, default=0)

    def _may_overlap(self) -> bool:
        """Could what came so far still be the beginning of a repeated end?"""
        begin = (self.unsure or "").lstrip()
        return not begin or begin in self.text()[-MAX_OVERLAP:]

    def _trimmed(self, begin: str) -> str:
        tail = self.text()[-MAX_OVERLAP:]
        stripped = begin.lstrip()
        for size in range(min(len(tail), len(stripped)), MIN_OVERLAP_CHARS - 1, -1):
            if tail.endswith(stripped[:size]):
                return stripped[size:]
        return begin
