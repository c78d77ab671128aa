"""The text of a run across its attempts: what readers hold, what is held back, where a seam falls."""

from __future__ import annotations

from dataclasses import dataclass, field

MIN_OVERLAP = 12
"""An instructed continuation may repeat the end of the text before it; from this many equal characters on it is cut."""
MAX_OVERLAP = 400


@dataclass(slots=True)
class Script:
    """The answer so far. Trailing white space is held back, so that a next model joins at a word's end."""

    pieces: list[str] = field(default_factory=list[str])
    seq: int = 0  # the next delta's number
    held: str = ""
    unsure: str | None = None  # instructed continuation: beginning not yet compared with our end

    def text(self) -> str:
        """What readers have."""
        return "".join(self.pieces)

    def add(self, text: str) -> str:
        """Take text in; what may be shown now ('' when all is held back)."""
        if self.unsure is not None:
            self.unsure += text
            if len(self.unsure) < MAX_OVERLAP and self._may_overlap():
                return ""
            text, self.unsure = self._trimmed(self.unsure), None
        text = self.held + text
        shown = text.rstrip()
        self.held = text[len(shown) :]
        return self._show(shown)

    def finish(self) -> str:
        """The attempt ended well: nothing is held back any longer."""
        rest = "" if self.unsure is None else self._trimmed(self.unsure)
        self.unsure = None
        text, self.held = self.held + rest, ""
        return self._show(text)

    def continue_from_here(self, instructed: bool) -> int:
        """Another model goes on: the last sequence number that stays."""
        self.held = ""
        self.unsure = "" if instructed else None
        return self.seq - 1

    def restart(self) -> int:
        """Another model begins anew: readers drop everything. Sequence numbers go on."""
        self.pieces.clear()
        self.held, self.unsure = "", None
        return -1

    def _show(self, text: str) -> str:
        if text:
            self.pieces.append(text)
            self.seq += 1
        return text

    def _may_overlap(self) -> bool:
        """Could what came so far still be the beginning of a repeated end?"""
        begin = (self.unsure or "").lstrip()
        return not begin or begin in self.text()[-MAX_OVERLAP:]

    def _trimmed(self, begin: str) -> str:
        tail = self.text()[-MAX_OVERLAP:]
        stripped = begin.lstrip()
        for size in range(min(len(tail), len(stripped)), MIN_OVERLAP - 1, -1):
            if tail.endswith(stripped[:size]):
                return stripped[size:]
        return begin
