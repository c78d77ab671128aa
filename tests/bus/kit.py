"""What the tests of the bus share besides the fixtures: events to store, and the fixtures' types."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from understudy.bus.nats_bus import NatsBus
from understudy.bus.port import Outgoing

EVT = "TTA_EVT"
Until = Callable[..., Awaitable[None]]
Opener = Callable[..., Awaitable[NatsBus]]


def events(*ids: str, subject: str = "tta.evt.a.b", payload: bytes = b"x") -> list[Outgoing]:
    """An event for each id."""
    return [Outgoing(subject, payload, i) for i in ids]
