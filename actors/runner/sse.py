"""Server-sent events as chat-completion streams use them: `data:` lines, comments, an empty line between. Pure."""

from __future__ import annotations

from collections.abc import Iterator

MAX_LINE_BYTES = 4_000_000


class Malformed(Exception):
    """Bytes that are not the dialect."""


class Lines:
    """Bytes in, data fields out. Cuts may fall anywhere, also inside a UTF-8 character."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The `data` of every line that is now complete. Raises Malformed for a line without end."""
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_LINE_BYTES:
            raise Malformed("a line without end")
        for line in lines:
            if line.startswith(b"data:"):
                yield line[5:].strip()
            elif line and not line.startswith((b":", b"event:", b"id:", b"retry:")) and line != b"\r":
                raise Malformed("a line that is no event")
