"""The log as an exported file, and as it is stored: byte for byte, whatever the events mean.

An exported log has one line per event: `{"seq": 7, "subject": "tta.evt...", "payload": <the event's own bytes>,
"stored_ms": 1760000000000}` (Unix milliseconds, when the server stored it). A payload that is not one line of JSON
without white space around it stands in `base64` instead. What is no event has `"foreign": true`, no payload.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from understudy.actors.selector.replay import Record
from understudy.bus.port import Received
from understudy.tools.common import needs


class Line(msgspec.Struct, omit_defaults=True):
    """One event of an exported log."""

    seq: int
    subject: str
    payload: msgspec.Raw = msgspec.Raw()
    base64: bytes = b""
    foreign: bool = False
    stored_ms: int = 0


_line = msgspec.json.Decoder(Line)
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def export(received: Received) -> bytes:
    """One line of an exported log."""
    return msgspec.json.encode(_as_line(received))


def _as_line(received: Received) -> Line:
    seq, subject, stored_ms = received.seq, received.subject, received.at_ms
    if received.foreign:
        return Line(seq, subject, foreign=True, stored_ms=stored_ms)
    try:
        msgspec.json.decode(received.payload)
        whole = b"\n" not in received.payload and received.payload.strip() == received.payload  # else it is lost
    except UNREADABLE:
        whole = False
    if whole:
        return Line(seq, subject, msgspec.Raw(received.payload), stored_ms=stored_ms)
    return Line(seq, subject, base64=received.payload, stored_ms=stored_ms)


def exported(data: bytes) -> Iterator[Record]:
    """The events of an exported log. A line that cannot be read becomes one that no decoder will accept."""
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            found = _line.decode(line)
        except UNREADABLE:
            yield Record(0, "", b"unreadable line: " + line[:60])
            continue
        yield Record(found.seq, found.subject, bytes(found.payload) or found.base64, found.foreign)


def exported_file(path: Path) -> Iterator[Record]:
    """The same of a file, or of a folder of Parquet. Raises OSError; Refused without the extra `analysis`."""
    return _parquet(path) if path.is_dir() else exported(path.read_bytes())


def _parquet(folder: Path) -> Iterator[Record]:
    names = sorted(str(part) for part in folder.glob("part-*.parquet"))
    if not names:  # nothing was asked for that the log held
        return
    parts = needs("pyarrow.dataset", "analysis").dataset(names)
    for batch in parts.to_batches(columns=["seq", "subject", "payload", "foreign"]):
        for row in batch.to_pylist():
            yield Record(**row)
