"""nats-py's client with its traps removed; everything else in this package meets NATS through it.

What is guarded, each proved by a test in `tests/bus/test_traps.py`:

- a PONG that comes after its flush was given up kills the read loop of the plain client; here it is dropped
- a callback that raises kills the read loop, or stops the reconnecting; here callbacks cannot raise
- a read loop that died leaves the plain client deaf but "connected"; a watchdog PING finds it and reconnects
- attempts to reconnect end after two minutes, in one wave for all clients; here never, and with jitter
- headers are not counted against `max_payload`, and the server then closes for good; here they are counted
- a request that cannot be sent leaks its future, and one made while disconnected is executed later, when its caller
  has given up; here both are refused before anything exists, and what was still unsent at a disconnect is thrown away
- `connect` and `close` may hang for ever; here they are bounded
- a request whose connection breaks waits for its whole timeout; here it fails at once, with an unknown outcome
- cancelling a task inside nats-py may be swallowed (its flush does so, and Python 3.11's `wait_for`): see `end_task`
"""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from nats.aio.client import Server
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import (
    ConnectionClosedError,
    ConnectionReconnectingError,
    Error,
    MaxPayloadError,
    NoRespondersError,
    SlowConsumerError,
)

from understudy.bus.nats_fast import Answered, FastClient
from understudy.bus.port import BusDown

_HEADER_LINE_BYTES = len("NATS/1.0\r\n\r\n")
_PING = b"PING\r\n"
_PERMISSION = re.compile(r'permissions violation for .*?"([^"]*)"', re.IGNORECASE)
_SLOW_REPORT_EVERY = 1000

StateListener = Callable[[str], None]
"""Told `connected`, `disconnected`, `reconnected`, `closed` and `permission:<subject>`."""

ErrorListener = Callable[[Exception], None]


def wire_size(payload: bytes, headers: dict[str, str] | None) -> int:
    """Bytes the server counts against `max_payload`."""
    if not headers:
        return len(payload)
    lines = sum(len(k.encode()) + len(v.encode()) + 4 for k, v in headers.items())
    return len(payload) + _HEADER_LINE_BYTES + lines


async def end_task(task: asyncio.Task[None], *, timeout_s: float = 2.0) -> bool:
    """Cancel a task until it has ended, again and again, because one cancellation may be swallowed on its way.

    False when it still runs after `timeout_s`.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + timeout_s
    while not task.done() and loop.time() < end:
        task.cancel()
        await asyncio.wait([task], timeout=0.05)
    return task.done()


class GuardedClient(FastClient):
    """A nats-py client that does not go deaf, does not leak, and comes back. Open with `open`, end with `shut`.

    `slow_consumers` counts messages lost because a subscription's queue was full. Functions in `on_reconnect` are
    called after each reconnect, when subscriptions are in place again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.slow_consumers = 0
        self.on_reconnect: list[Callable[[], None]] = []
        self._on_state: StateListener = lambda _: None
        self._on_error: ErrorListener = lambda _: None
        self._watchdog: asyncio.Task[None] | None = None
        self._tries = 0
        self._last_trouble: Exception | None = None

    async def open(
        self,
        url: str,
        *,
        name: str,
        user: str = "",
        password: str = "",
        inbox_prefix: str = "_INBOX",
        connect_timeout_s: float = 10.0,
        on_state: StateListener | None = None,
        on_error: ErrorListener | None = None,
        watch_s: float = 2.0,
        backoff_s: float = 0.1,
        backoff_cap_s: float = 1.0,
    ) -> None:
        """Connect, trying again until `connect_timeout_s` is over; then BusDown with the last reason.

        `watch_s`: distance of the watchdog's PINGs, two missed ones mean a dead connection; 0 turns it off.
        `backoff_cap_s`: at most so long between two attempts to connect again.
        """
        self._on_state, self._on_error = on_state or self._on_state, on_error or self._on_error
        try:
            async with asyncio.timeout(connect_timeout_s):
                await self.connect(
                    url,
                    name=name,
                    user=user or None,
                    password=password or None,
                    inbox_prefix=inbox_prefix,
                    reconnect_to_server_handler=self._picker(backoff_s, backoff_cap_s),
                    **self._habits(),
                )
        except (TimeoutError, Error, OSError) as error:
            await self.shut()
            raise BusDown(f"no connection to {url} as {name!r}: {self._last_trouble or error!r}") from error
        await self.hear_answers()
        if watch_s:
            self._watchdog = asyncio.create_task(self._watch(watch_s), name=f"nats watchdog {name}")
        self._tell("connected")

    def _habits(self) -> dict[str, Any]:
        """Options of nats-py that are the same for every connection; its defaults give up, or wait for minutes."""
        return {
            "error_cb": self._error_happened,
            "disconnected_cb": self._was_disconnected,
            "reconnected_cb": self._was_reconnected,
            "closed_cb": self._was_closed,
            "reconnect_time_wait": 0.1,
            "flush_timeout": 2.0,  # else a publish into a full buffer waits for ever for a half-open peer
            "max_reconnect_attempts": -1,
            "ping_interval": 10,
            "max_outstanding_pings": 2,
        }

    def _picker(self, backoff_s: float, cap_s: float) -> Callable[[list[Server], object], tuple[Server, float]]:
        """Which server to try next, and after how long: clients of a restarted server must not come in one wave."""

        def pick(servers: list[Server], _: object) -> tuple[Server, float]:
            self._tries += 1
            return random.choice(servers), random.uniform(0, min(cap_s, backoff_s * 2 ** min(self._tries, 10)))

        return pick

    async def shut(self, *, timeout_s: float = 2.0) -> None:
        """Close for good within `timeout_s`, whatever the server does."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        try:
            async with asyncio.timeout(timeout_s):
                await self.close()
        except (TimeoutError, Error, OSError):
            self._abort_transport()

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """As in nats-py, but refused at once when it cannot be sent now. MaxPayloadError, Connection...Error."""
        if self._pending_data_size > self._max_pending_size:
            self._refuse_unsendable(payload, headers)
            await super().publish(subject, payload, reply=reply, headers=headers)  # waits until the socket takes it
        else:
            self.send(subject, payload, reply, headers)

    def send(self, subject: str, payload: bytes, reply: str = "", headers: dict[str, str] | None = None) -> None:
        """As `publish`, without ever waiting: OutboundBufferLimitError while the socket takes nothing."""
        self._refuse_unsendable(payload, headers)
        self.post(subject, payload, reply, headers)

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float = 0.5,
        old_style: bool = False,
        headers: dict[str, str] | None = None,
    ) -> Msg:
        """As in nats-py; the check comes before a reply future exists, so nothing is left behind."""
        self._refuse_unsendable(payload, headers)
        if old_style:
            return await super().request(subject, payload, timeout=timeout, old_style=True, headers=headers)
        msg = await self.ask(subject, payload, headers, timeout)
        if msg.headers and msg.headers.get("Status") == "503":
            raise NoRespondersError
        return msg

    def inquire(
        self, subject: str, payload: bytes, headers: dict[str, str] | None, timeout_s: float, answered: Answered
    ) -> str:
        """As the fast client's; refused at once when it cannot be sent now."""
        self._refuse_unsendable(payload, headers)
        return super().inquire(subject, payload, headers, timeout_s, answered)

    async def settle(self, *, timeout_s: float = 2.0) -> bool:
        """Wait until the server has taken what was sent so far; False when it did not say so in time."""
        pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        with suppress(TimeoutError, Error, OSError, AttributeError):
            async with asyncio.timeout(timeout_s):
                await self._send_ping(pong)
                return await pong
        return False

    async def end_subscription(self, sub: Subscription, *, deliver: bool, timeout_s: float = 2.0) -> None:
        """End a subscription within `timeout_s`; with `deliver`, after its handler has seen what had arrived."""
        with suppress(TimeoutError, Error, OSError):
            async with asyncio.timeout(timeout_s):
                await (sub.drain() if deliver and self.is_connected else sub.unsubscribe())
        # A drain that broke off has told the server but left the subscription and its task in place.
        self.direct.pop(sub._id, None)  # pyright: ignore[reportPrivateUsage]
        self._subs.pop(sub._id, None)  # pyright: ignore[reportPrivateUsage]
        sub._stop_processing()  # pyright: ignore[reportPrivateUsage]

    def _refuse_unsendable(self, payload: bytes, headers: dict[str, str] | None) -> None:
        if wire_size(payload, headers) > self.max_payload:
            raise MaxPayloadError
        if not self.is_connected:
            raise ConnectionClosedError if self.is_closed else ConnectionReconnectingError

    async def _process_pong(self) -> None:
        """A PONG for a PING that was given up must not end the read loop (the plain client sets a done future)."""
        self._pings_outstanding = 0
        if self._pongs:
            waiting = self._pongs.pop(0)
            self._pongs_received += 1
            if not waiting.done():
                waiting.set_result(True)

    async def _send_ping(self, future: asyncio.Future[bool] | None = None) -> None:
        """The plain client's PING overtakes what is still in its buffer, so its flush proves nothing; not so here."""
        self._pongs.append(future or asyncio.get_running_loop().create_future())
        await self._send_command(_PING)
        await self._flush_pending()

    async def _watch(self, every_s: float) -> None:
        """PING and PONG travel the whole way through the read loop and need no permission on any subject."""
        missed = 0
        while not self.is_closed:
            await asyncio.sleep(every_s)
            if self.is_reconnecting:
                missed = 0
                self._revive_reconnecting()
            elif self.is_connected:
                missed = 0 if await self.settle(timeout_s=every_s) else missed + 1
            if missed >= 2:
                missed = 0
                self._report(ConnectionError("no PONG for two checks: connecting anew"))
                self._abort_transport()  # else closing waits for ever for a half-open peer to take what is unsent
                await self.force_reconnect()

    def _revive_reconnecting(self) -> None:
        """An error nats-py did not foresee ends its reconnecting silently; start it again."""
        if self._reconnection_task is None or self._reconnection_task.done():
            self._reconnection_task = asyncio.create_task(self._attempt_reconnect())

    def _abort_transport(self) -> None:
        writer = getattr(self._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    async def _error_happened(self, error: Exception) -> None:
        if "authorization" not in str(self._last_trouble).lower():
            self._last_trouble = error  # a refusal is the true reason, though later attempts may just be cut off
        if isinstance(error, SlowConsumerError):
            self.slow_consumers += 1
            if self.slow_consumers % _SLOW_REPORT_EVERY != 1:
                return
        refused = _PERMISSION.search(str(error))
        if refused:
            self._tell(f"permission:{refused[1]}")
        self._report(error)

    async def _was_disconnected(self) -> None:
        # What was not sent yet would go out after the reconnect, when its sender has given up (subscriptions are
        # replayed from their own list).
        self._pending.clear()
        self._pending_data_size = 0
        self._fail_in_flight()
        if not self.is_closed:
            self._tell("disconnected")

    def _fail_in_flight(self) -> None:
        """No answer comes over a connection that is gone: who waits for one hears so now, not when its time is up."""
        self.give_up_answers(ConnectionReconnectingError())
        for pong in self._pongs:
            if not pong.done():
                pong.set_result(False)

    async def _was_reconnected(self) -> None:
        self._tries = 0
        for listener in list(self.on_reconnect):
            try:
                listener()
            except Exception as error:  # noqa: BLE001  # a listener's mistake must not stop the reconnecting
                self._report(error)
        self._tell("reconnected")

    async def _was_closed(self) -> None:
        self._tell("closed")

    def _tell(self, word: str) -> None:
        try:
            self._on_state(word)
        except Exception as error:  # noqa: BLE001  # raising into nats-py would kill its read loop
            self._report(error)

    def handler_failed(self, error: Exception) -> None:
        """A handler's mistake is reported and ends nothing."""
        self._report(error)

    def _report(self, error: Exception) -> None:
        with suppress(Exception):
            self._on_error(error)
