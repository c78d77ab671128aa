"""Does anybody listen on a subject? Asked by NATS message tracing, which delivers nothing to anybody.

A message with these headers goes nowhere; the server publishes instead, on `destination`, what it would have done with
it (NATS ADR-41, message path tracing). A trace without an egress means that nobody listens.
"""

from __future__ import annotations

import msgspec

DESTINATION = "Nats-Trace-Dest"
ONLY = "Nats-Trace-Only"


class _Step(msgspec.Struct):
    type: str = ""


class _Trace(msgspec.Struct):
    events: list[_Step] = []


_decode = msgspec.json.Decoder(_Trace).decode


def trace_only(destination: str) -> dict[str, str]:
    """Headers of a message that is traced and not delivered."""
    return {DESTINATION: destination, ONLY: "true"}


def nobody_listens(trace: bytes) -> bool:
    """Whether a trace shows that nobody would have got the message. What is no trace says nothing: False."""
    try:
        steps = _decode(trace).events
    except msgspec.DecodeError:
        return False
    return bool(steps) and all(step.type != "eg" for step in steps)
