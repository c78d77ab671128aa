"""What an actor sends: at once while the bus takes it, in order after the bus was down."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping

from understudy.bus.port import Bus, BusDown, BusError

LIMIT = 100_000
RETRY_S = 0.02
RECONNECT_S = 0.2
"""An actor whose connection is away tries again at least this often: actors are few, and others wait for them."""
GRACE_S = 0.5
"""After a reconnect others may still be on their way back, and hear nothing: everything is held back so long.

Longer than `RECONNECT_S` and a connect on a busy machine; shorter, and what is said first reaches nobody. At 0.3 s,
with up to 1 s between attempts, 8 of 30 restarts of nats-server under load cost runs their attempt, 5 by a freeze of
4 s; now 10 of 120 do, by a single piece that died with the server and is noticed at the next.
"""


class Overflow(Exception):
    """The bus has been down for so long that no more messages can wait."""


class Outbox:
    """Hands messages straight to the connection; only what it does not take now waits here, and all that comes after.

    `refused(subject, error, size)` is told of a message that will never be taken (too large, closed).
    """

    def __init__(self, bus: Bus, refused: Callable[[str, BusError, int], None]) -> None:
        self._bus, self._refused = bus, refused
        self._waiting: deque[tuple[str, bytes, str, Mapping[str, str] | None]] = deque()
        self._wake = asyncio.Event()
        self._held = False  # the bus is just back

    def __len__(self) -> int:
        return len(self._waiting)

    def send(self, subject: str, payload: bytes, reply: str, headers: Mapping[str, str] | None = None) -> None:
        """Send, or keep until the bus is back. Raises Overflow."""
        if not self._waiting and not self._held and self._sent(subject, payload, reply, headers):
            return
        if len(self._waiting) >= LIMIT:
            raise Overflow(f"the bus has been down for so long that {LIMIT:,} messages wait")
        self._waiting.append((subject, payload, reply, headers))
        self._wake.set()

    def hold(self) -> None:
        """The bus has us again: also what is said only now waits for the others.

        Found by the simulation: an end that the log took first thing after an outage, said before its caller was back.
        """
        self._held = True
        self._wake.set()

    async def run(self) -> None:
        """Send what waits as soon as the bus takes it, until cancelled."""
        while True:
            self._wake.clear()
            if self._waiting or self._held:
                await self._back()
                self._held = False
            while self._waiting:
                if self._sent(*self._waiting[0]):
                    self._waiting.popleft()
                else:
                    await self._back()
            await self._wake.wait()

    async def _back(self) -> None:
        """Until the connection is back, and most others' too."""
        while True:
            await asyncio.sleep(RETRY_S)
            if self._bus.connected:
                break
        await asyncio.sleep(GRACE_S)

    def _sent(self, subject: str, payload: bytes, reply: str, headers: Mapping[str, str] | None) -> bool:
        """Whether this message is done with: taken, or refused for good."""
        try:
            self._bus.send(subject, payload, reply=reply, headers=headers)
        except BusDown:
            return False
        except BusError as error:
            self._refused(subject, error, len(payload))
        return True
