"""A reader of a stream that asks now and then: all that came since costs the server and us little more than one.

A consumer wakes its reader for every message. Where nobody waits for the single message, a batched direct get of
everything after the last one seen is far cheaper (JetStream API: `$JS.API.DIRECT.GET.<stream>` with `batch`, answered
by the messages and a status 204, or by 404 where there is none; each names the one before it, so that a gap shows).
Who hears elsewhere that something is there which should not wait has it asked for at once (`look`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from nats.aio.subscription import Subscription
from nats.errors import Error

from understudy.bus.guarded import GuardedClient
from understudy.bus.nats_log import api, server_time, translate
from understudy.bus.nats_message import handed_out
from understudy.bus.port import Foreign, Handler, Received

BATCH = 1000
LATE_S = 2.0
"""An answer that has not ended by then is asked for again."""


class Poller:
    """One `port.Bus.read` with `every_s`. `start` raises when the stream cannot be read now."""

    def __init__(
        self,
        client: GuardedClient,
        stream: str,
        subject: str,
        handler: Handler,
        after_seq: int,
        since_ms: int,
        *,
        every_s: float,
        report: Callable[[Exception], None],
    ) -> None:
        self.last_seq = after_seq
        self._client, self._stream, self._subject, self._handler = client, stream, subject, handler
        self._since_ms, self._every_s, self._report = since_ms, every_s, report
        self._inbox, self._asked = client.new_inbox(), 0
        self._waiting = self._again_then = False  # for an answer; told to look meanwhile
        self._sub: Subscription | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Begin. Raises BusDown, or ApiRefused when there is no such stream."""
        await api(self._client, f"STREAM.INFO.{self._stream}")
        try:
            self._sub = await self._client.listen(f"{self._inbox}.*", self._on_message)
        except Error as error:
            raise translate(error) from error
        self._client.on_reconnect.append(self._ask)
        self._ask()

    async def stop(self) -> None:
        """Deliver what has arrived, then no more. Bounded."""
        sub, self._sub = self._sub, None
        if self._timer is not None:
            self._timer.cancel()
        if self._ask in self._client.on_reconnect:
            self._client.on_reconnect.remove(self._ask)
        if sub is not None:
            await self._client.end_subscription(sub, deliver=False)

    def look(self) -> None:
        """See `port.Reading.look`."""
        if self._waiting:
            self._again_then = True  # the answer under way may have passed it by
        elif self._sub is not None:
            self._ask()

    def _ask(self) -> None:
        """For the next messages; a later answer to an earlier question is not heard."""
        self._asked += 1
        self._waiting, self._again_then = True, False
        body: dict[str, Any] = {"batch": BATCH, "next_by_subj": self._subject}
        if self._since_ms and not self.last_seq:
            body["start_time"] = server_time(self._since_ms)
        else:
            body["seq"] = self.last_seq + 1
        with suppress(Error, OSError):  # no connection now: the question is repeated
            question = json.dumps(body).encode()
            self._client.send(f"$JS.API.DIRECT.GET.{self._stream}", question, f"{self._inbox}.{self._asked}")
        self._again(LATE_S)

    def _again(self, in_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._sub is not None:
            self._timer = asyncio.get_running_loop().call_later(in_s, self._ask)

    def _on_message(self, subject: str, payload: bytes, reply: str, headers: dict[str, str] | None) -> None:
        if self._sub is None or not subject.endswith(f".{self._asked}"):
            return
        fields = headers or {}
        if int(fields.get("Nats-Last-Sequence", "0")) > self.last_seq:  # what stood before this did not come
            self._ask()
        elif "Nats-Sequence" in fields:
            self._take(handed_out(fields, payload))
        else:  # the end: a status
            more = self._again_then or fields.get("Nats-Num-Pending", "0") != "0"
            self._waiting = False
            self._again(0.0 if more else self._every_s)

    def _take(self, found: Received) -> None:
        if found.seq <= self.last_seq:
            return
        self.last_seq = found.seq
        if found.foreign:
            self._report(Foreign(found.subject, found.seq))
        try:
            self._handler(found)
        except Exception as error:  # noqa: BLE001  # a handler's mistake must not end the reading
            self._report(error)
