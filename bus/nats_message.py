"""From nats-py's message to the port's `Received`, as cheaply as can be: this runs once for every message."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
from nats.aio.msg import Msg

from understudy.bus.port import Received

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
_ACK = "$JS.ACK."
_ACK_TOKENS = 9


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


def received(msg: Msg) -> Received:
    """A core message; for republished ones with the stream's sequence and store time."""
    return received_from(msg.subject, msg.data, msg.reply, msg.headers)


def received_from(subject: str, payload: bytes, reply: str, headers: dict[str, str] | None) -> Received:
    """The same from a message's parts."""
    if headers is None:
        return Received(subject, payload, reply)
    if headers.get("Status") == "503":
        return Received(subject, b"", no_responders=True)
    seq, at = headers.get("Nats-Sequence"), headers.get("Nats-Time-Stamp")
    if seq is None or at is None:
        return Received(subject, payload, reply)
    return Received(subject, payload, reply, _number(seq), unix_ms(at))


def _number(text: str) -> int:
    """Headers may be forged by any sender; a wrong one is no reason to fail."""
    return int(text) if text.isdecimal() else 0


def unix_ms(text: str) -> int:
    """A time as the server writes it; 0 when it is none."""
    try:
        return (datetime.fromisoformat(text) - _EPOCH) // _MILLISECOND
    except (ValueError, TypeError):
        return 0
