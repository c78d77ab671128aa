"""The port on a real nats-server. See `port.Bus` for what each call promises; here is how NATS keeps it.

One connection per `NatsBus`, callbacks only (iterators cost half the throughput), headers only where the server reads
them. Reading and working live in `nats_reader` and `nats_worker`, the log's requests in `nats_log`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

from nats.aio.subscription import Subscription as NatsSubscription
from nats.errors import Error
from nats.micro.service import Endpoint, ServiceConfig

from understudy.bus import nats_log
from understudy.bus.guarded import GuardedClient
from understudy.bus.nats_fast import Direct, elsewhere
from understudy.bus.nats_message import received, received_from
from understudy.bus.nats_micro import MicroService, count
from understudy.bus.nats_poller import Poller
from understudy.bus.nats_reader import OrderedReader
from understudy.bus.nats_worker import Worker
from understudy.bus.port import (
    Ack,
    BusError,
    Closed,
    Foreign,
    Handler,
    NotAnInbox,
    OnStored,
    Outgoing,
    Reading,
    Received,
    StreamState,
    Subscription,
    WorkHandler,
)
from understudy.bus.subjects import claims_bucket, is_inbox

_API_TIMEOUT_S = 3.0


class NatsBus:
    """A connection to nats-server that implements `port.Bus`. Made by `open`, ended by `close`."""

    def __init__(self, client: GuardedClient, *, app: str, on_error: Callable[[Exception], None]) -> None:
        self.client = client
        self._bucket = claims_bucket(app)
        self._on_error = on_error
        self._running: set[_Ending] = set()
        self._met_foreign = False

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        name: str,
        app: str = "tta",
        user: str = "",
        password: str = "",
        inbox_prefix: str = "_INBOX",
        connect_timeout_s: float = 10.0,
        on_state: Callable[[str], None] | None = None,
        on_error: Callable[[Exception], None] | None = None,
        watch_s: float = 2.0,
        backoff_cap_s: float = 1.0,
    ) -> Self:
        """Connect within `connect_timeout_s` or raise BusDown; after a cut, try again at least every `backoff_cap_s`.

        `on_state` is told connected, disconnected, reconnected, closed and permission:<subject>; `on_error` gets what
        handlers raise and what goes wrong in the background. Both are called on the event loop and may raise.
        """
        client = GuardedClient()
        await client.open(
            url,
            name=name,
            user=user,
            password=password,
            inbox_prefix=inbox_prefix,
            connect_timeout_s=connect_timeout_s,
            on_state=on_state,
            on_error=on_error,
            watch_s=watch_s,
            backoff_cap_s=backoff_cap_s,
        )
        return cls(client, app=app, on_error=on_error or (lambda _: None))

    @property
    def connected(self) -> bool:
        """Whether a publish would be tried now."""
        return self.client.is_connected

    @property
    def max_payload(self) -> int:
        """Bytes the server takes in one message, headers included."""
        return self.client.max_payload

    @property
    def slow_consumers(self) -> int:
        """Messages lost so far because a subscription's queue was full."""
        return self.client.slow_consumers

    def new_inbox(self) -> str:
        """See `port.Bus.new_inbox`."""
        return self.client.new_inbox()

    async def publish(
        self, subject: str, payload: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """See `port.Bus.publish`."""
        try:
            await self.client.publish(subject, payload, reply, dict(headers) if headers else None)
        except (Error, OSError) as error:
            raise nats_log.translate(error) from error

    def send(self, subject: str, payload: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None) -> None:
        """See `port.Bus.send`."""
        try:
            self.client.send(subject, payload, reply, dict(headers) if headers else None)
        except (Error, OSError) as error:
            raise nats_log.translate(error) from error

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> Received:
        """See `port.Bus.request`; a BusError when the answering service's handler failed."""
        msg = await nats_log.raw_request(self.client, subject, payload, timeout_s=timeout_s)
        if msg.headers and "Nats-Service-Error" in msg.headers:
            raise BusError(f"{subject}: {msg.headers['Nats-Service-Error']}")
        return received(msg)

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "", settle: bool = True) -> Subscription:
        """See `port.Bus.subscribe`. While disconnected, interest is registered at the reconnect."""
        try:
            sub = await self.client.listen(subject, self._direct(handler), queue)
        except Error as error:
            raise nats_log.translate(error) from error
        if settle:
            await self.client.settle()
        return self._track(lambda: self.client.end_subscription(sub, deliver=True))

    async def serve(self, name: str, version: str, description: str, endpoints: Mapping[str, Handler]) -> Subscription:
        """See `port.Bus.serve`. A handler that raises is reported, and answered as a service error."""
        config = ServiceConfig(name=name, version=version, description=description, queue_group=name)
        try:
            service = MicroService(self.client, config)
            await service.start()
            for subject, handler in endpoints.items():
                endpoint = subject.replace(".", "-").replace("*", "any").replace(">", "all")
                await service.add_endpoint(name=endpoint, subject=subject, handler=elsewhere)
                made = service._endpoints[-1]  # pyright: ignore[reportPrivateUsage]
                sub = made._subscription  # pyright: ignore[reportPrivateUsage]
                assert sub is not None
                self.client.direct[sub._id] = self._direct(handler, made)  # pyright: ignore[reportPrivateUsage]
        except Error as error:
            raise nats_log.translate(error) from error
        await self.client.settle()
        return self._track(lambda: self._end_service(service))

    async def store(self, events: Sequence[Outgoing], *, timeout_s: float) -> list[Ack]:
        """See `port.Bus.store`; Conflict when a stream was made to refuse it."""
        return await nats_log.store(self.client, events, timeout_s=timeout_s)

    def put(self, event: Outgoing, done: OnStored, *, timeout_s: float) -> None:
        """See `port.Bus.put`."""
        nats_log.put(self.client, event, done, timeout_s=timeout_s)

    async def read(
        self,
        stream: str,
        subjects: Sequence[str],
        handler: Handler,
        *,
        after_seq: int = 0,
        since_ms: int = 0,
        every_s: float = 0.0,
    ) -> Reading:
        """See `port.Bus.read`. Raises BusDown, or BusError when there is no such stream."""
        if every_s:
            (subject,) = subjects
            poller = Poller(
                self.client, stream, subject, handler, after_seq, since_ms, every_s=every_s, report=self._report
            )
            await poller.start()
            return self._track(poller.stop, poller.look)
        reader = OrderedReader(
            self.client,
            stream,
            subjects,
            handler,
            after_seq=after_seq,
            since_ms=since_ms,
            report=self._report,
        )
        try:
            await reader.start()
        except Error as error:
            raise nats_log.translate(error) from error
        return self._track(reader.stop)

    async def get(self, stream: str, seq: int, subject: str = "", *, since_ms: int = 0) -> Received | None:
        """See `port.Bus.get`."""
        begin = nats_log.beginning(seq, since_ms)
        found = await nats_log.get(self.client, stream, begin, subject, timeout_s=_API_TIMEOUT_S)
        if found is not None and found.foreign:
            self._report(Foreign(found.subject, found.seq))
        return found

    async def get_many(self, stream: str, seq: int, subject: str, at_most: int, *, since_ms: int = 0) -> list[Received]:
        """See `port.Bus.get_many`."""
        begin = nats_log.beginning(seq, since_ms)
        found = await nats_log.get_many(self.client, stream, begin, subject, at_most, timeout_s=_API_TIMEOUT_S)
        for one in found:
            if one.foreign:
                self._report(Foreign(one.subject, one.seq))
        return found

    async def work(self, stream: str, consumer: str, handler: WorkHandler, *, at_once: int) -> Subscription:
        """See `port.Bus.work`. A delivery stays in hand until it is settled; a handler that raises means retry."""
        if self.client.is_closed:
            raise Closed("this connection is closed")
        worker = Worker(self.client, stream, consumer, handler, at_once=at_once, report=self._report)
        await worker.start()
        return self._track(worker.stop)

    async def stream_state(self, stream: str) -> StreamState:
        """See `port.Bus.stream_state`."""
        info = await self._state(stream)
        return StreamState(str(info["created"]), int(info["state"]["first_seq"]), int(info["state"]["last_seq"]))

    async def last_seq(self, stream: str) -> int:
        """See `port.Bus.last_seq`. Raises BusDown, or BusError when there is no such stream."""
        return int((await self._state(stream))["state"]["last_seq"])

    async def stream_bytes(self, stream: str) -> tuple[int, int]:
        """Bytes a stream holds and may hold (-1: no limit); for the warning before it refuses new events."""
        info = await self._state(stream)
        return int(info["state"]["bytes"]), int(info["config"]["max_bytes"])

    async def claim(self, key: str, value: bytes, *, ttl_s: float) -> bytes | None:
        """See `port.Bus.claim`. After BusDown the claim may be ours: repeat, and compare the value that holds it."""
        return await nats_log.claim(self.client, self._bucket, key, value, ttl_s=ttl_s, timeout_s=_API_TIMEOUT_S)

    async def close(self) -> None:
        """Stop what runs, in order, then the connection. Bounded, and harmless when repeated."""
        await asyncio.gather(*(ending.stop() for ending in list(self._running)), return_exceptions=True)
        await self.client.shut()

    async def _state(self, stream: str) -> dict[str, Any]:
        return await nats_log.api(self.client, f"STREAM.INFO.{stream}", timeout_s=_API_TIMEOUT_S)

    def _track(self, stop: Callable[[], Awaitable[None]], look: Callable[[], None] = lambda: None) -> _Ending:
        ending = _Ending(stop, look, self._running)
        self._running.add(ending)
        return ending

    def _direct(self, handler: Handler, endpoint: Endpoint | None = None) -> Direct:
        """Called by the read loop itself. What a service's handler takes is counted as micro does it."""

        def on_message(subject: str, payload: bytes, reply: str, headers: dict[str, str] | None) -> None:
            handler(received_from(subject, payload, reply, headers))

        def on_ask(subject: str, payload: bytes, reply: str, headers: dict[str, str] | None) -> None:
            assert endpoint is not None
            began = time.perf_counter_ns()
            if reply and not is_inbox(reply):
                self._report(NotAnInbox(subject, reply))
                return
            try:
                handler(received_from(subject, payload, reply, headers))
            except Exception as error:  # noqa: BLE001  # a handler's mistake must not end the reading
                self._report(error)
                if reply:
                    self._answer_failed(endpoint, reply, error)
            count(endpoint, time.perf_counter_ns() - began)

        return on_message if endpoint is None else on_ask

    def _answer_failed(self, endpoint: Endpoint, reply: str, error: Exception) -> None:
        endpoint._num_errors += 1  # pyright: ignore[reportPrivateUsage]
        endpoint._last_error = repr(error)  # pyright: ignore[reportPrivateUsage]
        headers = {"Nats-Service-Error": "the handler failed", "Nats-Service-Error-Code": "500"}
        with suppress(Error, OSError):
            self.client.send(reply, b"", headers=headers)

    async def _end_service(self, service: MicroService) -> None:
        """Micro would throw away the asks that have arrived; deliver them first."""
        endpoints = service._endpoints  # pyright: ignore[reportPrivateUsage]
        subs: list[NatsSubscription | None] = [e._subscription for e in endpoints]  # pyright: ignore[reportPrivateUsage]
        subs.extend(service._subscriptions.values())  # pyright: ignore[reportPrivateUsage]
        endpoints.clear()
        service._subscriptions.clear()  # pyright: ignore[reportPrivateUsage]
        await asyncio.gather(*(self.client.end_subscription(s, deliver=True) for s in subs if s is not None))
        await service.stop()

    def _report(self, error: Exception) -> None:
        if isinstance(error, Foreign):  # once: a flood of them must not become one of lines
            if self._met_foreign:
                return
            self._met_foreign = True
        with suppress(Exception):
            self._on_error(error)


class _Ending:
    """Something that runs until it is stopped, once."""

    def __init__(self, stop: Callable[[], Awaitable[None]], look: Callable[[], None], running: set[_Ending]) -> None:
        self._stop, self.look, self._running = stop, look, running

    async def stop(self) -> None:
        """Deliver what has arrived, then no more."""
        if self in self._running:
            self._running.discard(self)
            await self._stop()
