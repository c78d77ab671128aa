"""Fill an event log with copies of measured events: their form and size, with fresh ids, times and figures."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable, Sequence

from understudy.actors.host.clock import ulid
from understudy.bus.nats_bus import NatsBus
from understudy.bus.nats_log import MAX_BATCH
from understudy.bus.port import Outgoing, Received

ONCE = ("topology.applied", "model.loaded", "model.unloaded")
"""Facts of a start, not of requests."""

AT_ONCE = 4
"""Atomic batches under way at once."""

_VARIES = re.compile(
    rb"(?P<ulid>\b[0-9A-HJKMNP-TV-Z]{26}\b)|(?P<ms>\b1\d{12}\b)|(?P<float>\b\d+\.\d{3,}\b)|(?P<hex>\b[0-9a-f]{32}\b)"
)
_ID = re.compile(rb'"id":"([^"]+)"')


class Template:
    """One measured event, taken apart at what differs from event to event."""

    def __init__(self, subject: str, payload: bytes) -> None:
        self.subject, self.size = subject, len(payload)
        self._fixed: list[bytes] = []
        self._kinds: list[tuple[str, bytes]] = []
        at = 0
        for found in _VARIES.finditer(payload):
            self._fixed.append(payload[at : found.start()])
            self._kinds.append((found.lastgroup or "", found.group()))
            at = found.end()
        self._fixed.append(payload[at:])
        times = [int(old) for kind, old in self._kinds if kind == "ms"]
        self._first_ms = times[0] if times else 0

    def copy(self, at_ms: int, luck: random.Random) -> Outgoing:
        """Another event of the same form: equal ids stay equal, times keep their distances, figures their digits."""
        fresh: dict[bytes, bytes] = {}
        parts = [self._fixed[0]]
        for (kind, old), text in zip(self._kinds, self._fixed[1:], strict=True):
            if kind == "ms":
                parts.append(b"%d" % (at_ms + int(old) - self._first_ms))
            else:
                new = fresh.get(old)
                if new is None:
                    new = fresh[old] = _another(kind, old, at_ms, luck)
                parts.append(new)
            parts.append(text)
        payload = b"".join(parts)
        found = _ID.search(payload)
        # Changes of health are numbered, not drawn: the log would take a copy's number for the same change.
        own = found is not None and _VARIES.search(found[1]) is not None
        msg_id = found[1].decode() if found and own else ulid(at_ms, luck.getrandbits(80))
        return Outgoing(self.subject, payload, msg_id)


def _another(kind: str, old: bytes, at_ms: int, luck: random.Random) -> bytes:
    if kind == "ulid":
        return ulid(at_ms, luck.getrandbits(80)).encode()
    if kind == "hex":
        return b"%032x" % luck.getrandbits(128)
    whole, _, digits = old.partition(b".")
    return b"%s.%0*d" % (whole, len(digits), luck.randrange(1, 10 ** len(digits)))


class Measured:
    """Events as a run of the real thing left them in the log, to be copied in equal shares."""

    def __init__(self, received: Sequence[Received]) -> None:
        names = [".".join(r.subject.split(".")[2:4]) for r in received]
        found = [(n, r) for n, r in zip(names, received, strict=True) if n not in ONCE]
        self.templates = [Template(r.subject, r.payload) for _, r in found]
        self.first = Template(received[0].subject, received[0].payload)  # `topology.applied`: a log begins with it
        self.requests_ratio = sum(n == "request.ended" for n, _ in found) / len(found)
        self.shares = {n: sum(n == m for m, _ in found) for n, _ in found}


async def fill(
    bus: NatsBus,
    templates: Sequence[Template],
    count: int,
    start_ms: int,
    gap_ms: int,
    tell: Callable[[int], None],
) -> None:
    """Store `count` copies, from all templates in turn, in atomic batches. `tell` hears how many are stored."""
    luck, made, stored = random.Random(0), 0, 0

    async def worker() -> None:
        nonlocal made, stored
        while made < count:
            size = min(MAX_BATCH, count - made)
            events = [
                templates[(made + i) % len(templates)].copy(start_ms + (made + i) * gap_ms, luck) for i in range(size)
            ]
            made += size
            await bus.store(events, timeout_s=60)
            stored += size
            tell(stored)

    await asyncio.gather(*(worker() for _ in range(AT_ONCE)))
