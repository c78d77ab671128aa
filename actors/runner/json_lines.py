"""A stream of JSON values, one per line. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from understudy.actors.runner.sse import MAX_LINE_BYTES, Malformed


class JsonLines:
    """Bytes in, lines out. Cuts may fall anywhere, also inside a UTF-8 character."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Every line that is now complete. Raises Malformed for a line without end."""
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        if len(self._rest) > MAX_LINE_BYTES:
            raise Malformed("a line without end")
        for line in lines:
            if line.strip():
                yield line
