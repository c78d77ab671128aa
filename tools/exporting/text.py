"""JSON lines, as `events --json` prints them, and CSV with the columns of `messages/columns.py`."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from understudy.bus.port import Received
from understudy.messages.columns import COLUMNS, FACTS, Kind, facts_of, values
from understudy.tools.common import Refused
from understudy.tools.exporting import Manifest
from understudy.tools.rawlog import export

FORMULA = ("=", "+", "-", "@", "\t", "\r")
Lines = Callable[[list[Received]], bytes]


class TextWriter:
    """Appends to a file. `lines` makes its bytes, `header` stands at its beginning."""

    def __init__(self, path: Path, lines: Lines, header: bytes = b"") -> None:
        self._path, self._lines, self._header = path, lines, header
        self._fd = -1

    def handle(self) -> int:
        """See `Writer`."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        return self._fd

    def open(self, manifest: Manifest) -> None:
        """See `Writer`."""
        size = os.fstat(self._fd).st_size
        if size < manifest.bytes:
            raise Refused("damaged", f"{self._path} has {size} bytes and had {manifest.bytes}: somebody has cut it")
        os.truncate(self._fd, manifest.bytes)
        os.lseek(self._fd, 0, os.SEEK_END)
        if not manifest.bytes:
            self._write(self._header, manifest)

    def append(self, rows: list[Received], manifest: Manifest) -> None:
        """See `Writer`."""
        self._write(self._lines(rows), manifest)

    def _write(self, data: bytes, manifest: Manifest) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self._fd, left) :]
        os.fsync(self._fd)
        manifest.bytes += len(data)

    def close(self) -> None:
        """See `Writer`."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def jsonl(path: Path) -> TextWriter:
    """One line per event; `understudy replay --file` reads it."""
    return TextWriter(path, lambda rows: b"".join(export(one) + b"\n" for one in rows))


def csv_file(path: Path) -> TextWriter:
    """RFC 4180 with a header. Lists are JSON; a payload that is no UTF-8 stands in `payload_base64` instead.

    Names come from providers, and spreadsheets compute what begins like a formula: see `_inert`.
    """
    return TextWriter(path, _csv_lines, _csv([[one.name for one in COLUMNS] + ["payload_base64"]]))


def _csv_lines(rows: list[Received]) -> bytes:
    payloads = [one.payload for one in rows]
    columns: list[list[Any]] = [[one.seq for one in rows], [_time(one.at_ms) for one in rows]]
    columns.append([one.subject for one in rows])
    found = values([facts_of(payload) for payload in payloads], payloads)
    columns += [[None if v is None else _SAID[one.kind](v) for v in found[one.name]] for one in FACTS]
    columns.append([_flag(one.foreign) for one in rows])
    texts = [_text(payload) for payload in payloads]
    columns += [[text for text, _ in texts], [code for _, code in texts]]
    return _csv(zip(*columns, strict=True))


def _csv(rows: Any) -> bytes:
    out = io.StringIO(newline="")
    csv.writer(out).writerows(rows)
    return out.getvalue().encode()


def _time(at_ms: int) -> str:
    try:
        at = datetime.fromtimestamp(at_ms / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return ""  # no year that a calendar has; the payload holds the number
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _flag(value: bool) -> str:
    return "true" if value else "false"


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _inert(text: str) -> str:
    """With a ' before what a spreadsheet would take for a formula."""
    return "'" + text if text.startswith(FORMULA) else text


_SAID: dict[Kind, Callable[[Any], Any]] = {
    **dict.fromkeys(("integer", "float", "usd"), lambda value: value),
    "text": _inert,
    "flag": _flag,
    "time": _time,
    "words": _json,
    "attempts": _json,
}


def _text(payload: bytes) -> tuple[str, str]:
    """A payload as text, or in base64: the bytes stay what they are, so nothing is put before them."""
    try:
        text = payload.decode()
    except UnicodeDecodeError:
        text = None
    return ("", msgspec.to_builtins(payload)) if text is None or text.startswith(FORMULA) else (text, "")
