"""An ordered reader of a stream: everything after a sequence, then what comes, without gap or repeat.

nats-py's ordered consumer stalls for 19 s when the server restarts and never recovers from an overflowing queue. This
one counts the consumer's sequence itself and makes a new consumer, from the last seen message on, whenever a message is
missing, three heartbeats fail to come, or the connection was made anew.
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from nats.aio.subscription import Subscription
from nats.errors import Error

from understudy.bus.guarded import GuardedClient, end_task
from understudy.bus.nats_fast import Direct
from understudy.bus.nats_log import api, server_time
from understudy.bus.nats_message import of_log, place
from understudy.bus.port import BusError, Foreign, Handler

HEARTBEAT_S = 0.5
_SILENCE_S = 3 * HEARTBEAT_S
_ABANDONED_AFTER_S = 5
_RETRY_S = (0.05, 0.1, 0.2, 0.5, 1.0)


class OrderedReader:
    """One `port.Bus.read`. `start` raises when the stream cannot be read now; afterwards it repairs itself."""

    def __init__(
        self,
        client: GuardedClient,
        stream: str,
        subjects: Sequence[str],
        handler: Handler,
        *,
        after_seq: int,
        since_ms: int = 0,
        report: Callable[[Exception], None],
    ) -> None:
        self.last_seq = after_seq
        self.recreated = 0
        self._since_ms = since_ms
        self._client, self._stream, self._subjects, self._handler = client, stream, list(subjects), handler
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._name, self._live = "", False
        self._sub: Subscription | None = None
        self._next = 1
        self._broken = asyncio.Event()
        self._heard_at = 0.0
        self._guard: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin. Raises BusDown, or ApiRefused when there is no such stream."""
        await self._create()
        self._client.on_reconnect.append(self._broken.set)
        self._guard = asyncio.create_task(self._keep(), name=f"reader of {self._stream}")

    async def stop(self) -> None:
        """Deliver what has arrived, then no more. Bounded."""
        if self._guard is None:
            return
        self._client.on_reconnect.remove(self._broken.set)
        guard, self._guard = self._guard, None
        await end_task(guard)
        await self._forget(deliver=True)

    async def _create(self) -> None:
        """A consumer of its own name with an inbox of its own: nothing of an earlier one can be mistaken for it."""
        name, inbox = f"read-{secrets.token_hex(8)}", self._client.new_inbox()
        self._next, self._name, self._live = 1, name, True
        self._broken.clear()
        self._sub = await self._client.listen(inbox, self._hearer(name))
        try:
            await api(self._client, f"CONSUMER.CREATE.{self._stream}.{name}", self._config(name, inbox))
        except BusError:
            await self._forget(deliver=False)
            raise
        self._heard_at = self._loop.time()

    def _config(self, name: str, inbox: str) -> dict[str, Any]:
        return {
            "stream_name": self._stream,
            "action": "create",
            "config": {
                "name": name,
                "deliver_subject": inbox,
                **self._start(),
                "ack_policy": "none",
                "max_deliver": 1,
                "idle_heartbeat": int(HEARTBEAT_S * 1e9),
                "flow_control": True,
                "mem_storage": True,
                "num_replicas": 1,
                "inactive_threshold": int(_ABANDONED_AFTER_S * 1e9),
                "filter_subjects": self._subjects,
            },
        }

    def _start(self) -> dict[str, Any]:
        """By time for the first consumer of a reader that wants so; from then on after what was seen."""
        if self._since_ms and not self.last_seq:
            return {"deliver_policy": "by_start_time", "opt_start_time": server_time(self._since_ms)}
        return {"deliver_policy": "by_start_sequence", "opt_start_seq": self.last_seq + 1}

    def _hearer(self, name: str) -> Direct:
        def on_message(subject: str, payload: bytes, reply: str, headers: dict[str, str] | None) -> None:
            if name != self._name or not self._live:
                return
            self._heard_at = self._loop.time()
            at = place(reply)
            if at is None:
                self._control(reply, headers or {})
                return
            if at.consumer_seq != self._next:
                self._break()
                return
            self._next += 1
            self.last_seq = at.seq
            found = of_log(subject, payload, at.seq, at.at_ms, sound=headers is None)
            if found.foreign:
                self._report(Foreign(subject, at.seq))
            try:
                self._handler(found)
            except Exception as error:  # noqa: BLE001  # a handler's mistake must not end the reading
                self._report(error)

        return on_message

    def _control(self, reply: str, headers: dict[str, str]) -> None:
        """Heartbeats, flow control, and the end of the consumer."""
        if headers.get("Status") != "100":
            self._break()
            return
        answer_to = reply or headers.get("Nats-Consumer-Stalled", "")
        if answer_to:
            with suppress(Error, OSError):
                self._client.send(answer_to, b"")
        delivered = headers.get("Nats-Last-Consumer")
        if delivered is not None and int(delivered) != self._next - 1:
            self._break()  # the last messages before this heartbeat were lost

    def _break(self) -> None:
        self._live = False  # whatever else comes from this consumer is ignored
        self._broken.set()

    async def _keep(self) -> None:
        while True:
            wait_s = self._heard_at + _SILENCE_S - self._loop.time()
            try:
                async with asyncio.timeout(max(wait_s, 0)):
                    await self._broken.wait()
            except TimeoutError:
                if self._loop.time() < self._heard_at + _SILENCE_S:
                    continue
            await self._recreate()

    async def _recreate(self) -> None:
        """Try until it works; the first failure of a row is reported, except while there is no connection."""
        await self._forget(deliver=False)
        for attempt in itertools.count():
            try:
                await self._create()
            except (BusError, Error, OSError) as error:
                if attempt == 0 and self._client.is_connected:
                    self._report(error)
                await asyncio.sleep(_RETRY_S[min(attempt, len(_RETRY_S) - 1)])
            else:
                self.recreated += 1
                return

    async def _forget(self, *, deliver: bool) -> None:
        """End subscription and consumer; should the deletion fail, the server forgets it when nobody listens."""
        name, sub = self._name, self._sub
        self._sub = None
        self._live = self._live and deliver
        if sub is not None:
            await self._client.end_subscription(sub, deliver=deliver)
        self._name = ""
        if name:
            with suppress(BusError):
                await api(self._client, f"CONSUMER.DELETE.{self._stream}.{name}", timeout_s=1.0)
