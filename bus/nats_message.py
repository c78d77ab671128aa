"""From nats-py's message to the port's `Received`, as cheaply as can be: this runs once for every message.

The server answers an API call wherever its reply subject points, so a stored event, or the server's own JSON, can come
to stand in the event log again. An event that `store` put there has an id (`Nats-Msg-Id`) and none of the headers with
which the server hands out what it holds (`Nats-Stream`). A copy has these, or, asked for with `no_hdr`, no header at
all. Whoever may publish events can of course still write both; nobody else can.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
from msgspec import structs
from nats.aio.msg import Msg

from understudy.bus.port import Received

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_ACK = "$JS.ACK."
_ID, _HANDED_OUT = b"Nats-Msg-Id:", b"Nats-Stream:"
_ACK_TOKENS = 9
REPEATED = "Repeated"
"""Beside the headers of a message that was handed out twice: the server puts its own behind those it finds."""


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where a stream's message stands: deliveries so far, its sequences in stream and consumer, store time (ms)."""

    tries: int
    seq: int
    consumer_seq: int
    at_ms: int


def place(reply: str) -> Place | None:
    """Read the reply subject of a delivery; None when it is not one.

    `$JS.ACK.<stream>.<consumer>.<tries>.<seq>.<consumer seq>.<ns>.<pending>`, or with domain and account before the
    stream and a random token after the end.
    """
    if not reply.startswith(_ACK):
        return None
    tokens = reply.split(".")
    i = 4 if len(tokens) == _ACK_TOKENS else 6
    return Place(int(tokens[i]), int(tokens[i + 1]), int(tokens[i + 2]), int(tokens[i + 3]) // 1_000_000)


def as_stored(raw: bytes | None) -> bool:
    """Are these, of a consumer's delivery, the headers of an event that `store` put there?"""
    return raw is not None and _ID in raw and _HANDED_OUT not in raw


def of_log(subject: str, payload: bytes, seq: int, at_ms: int, *, sound: bool) -> Received:
    """A stream's message; one of the event log that is not `sound` has no payload."""
    if sound or subject.split(".", 2)[1:2] != ["evt"]:
        return Received(subject, payload, seq=seq, at_ms=at_ms)
    return Received(subject, b"", seq=seq, at_ms=at_ms, foreign=True)


def handed_out(headers: dict[str, str], payload: bytes) -> Received:
    """A stream's message from the answer to a direct get, or as the server republished it."""
    subject, at_ms = headers.get("Nats-Subject", ""), unix_ms(headers.get("Nats-Time-Stamp", ""))
    sound = "Nats-Msg-Id" in headers and REPEATED not in headers
    return of_log(subject, payload, _number(headers.get("Nats-Sequence", "")), at_ms, sound=sound)


def received(msg: Msg) -> Received:
    """A core message; for republished ones with the stream's sequence and store time."""
    return received_from(msg.subject, msg.data, msg.reply, msg.headers)


def received_from(subject: str, payload: bytes, reply: str, headers: dict[str, str] | None) -> Received:
    """The same from a message's parts."""
    if headers is None:
        return Received(subject, payload, reply)
    if headers.get("Status") == "503":
        return Received(subject, b"", no_responders=True)
    if "Nats-Sequence" not in headers or "Nats-Time-Stamp" not in headers:
        return Received(subject, payload, reply)
    found = handed_out(headers, payload)
    return structs.replace(found, subject=subject, reply=reply)


def _number(text: str) -> int:
    """Headers may be forged by any sender; a wrong one is no reason to fail."""
    return int(text) if text.isdecimal() else 0


def unix_ms(text: str) -> int:
    """A time as the server writes it; 0 when it is none."""
    try:
        return (datetime.fromisoformat(text) - _EPOCH) // _MILLISECOND
    except (ValueError, TypeError):
        return 0
