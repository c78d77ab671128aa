"""A connection to the simulated broker: `port.Bus` without a network. Made by `memory.Broker.connect`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from understudy.bus.memory_connection import Connection, Core
from understudy.bus.memory_log import no_stream
from understudy.bus.memory_parts import Reader, Service, Sub, Worker
from understudy.bus.port import (
    Ack,
    BusDown,
    BusError,
    Foreign,
    Handler,
    NoResponders,
    NotAnInbox,
    OnStored,
    Outgoing,
    Reading,
    Received,
    StreamState,
    Subscription,
    TooLarge,
    WorkHandler,
)
from understudy.bus.subjects import is_guest_inbox, is_inbox

if TYPE_CHECKING:
    from understudy.bus.memory import Broker

MAX_BATCH = 1000
"""Most events of one atomic batch (the server's limit)."""

_API_TIMEOUT_S = 3.0
_SERVICE_ERROR = "Nats-Service-Error"


class _Answers(Sub):
    """Where a connection's requests are answered."""

    def __init__(self, bus: MemoryBus, pattern: str, asks: dict[str, asyncio.Future[Core]]) -> None:
        super().__init__(bus, pattern, lambda _: None, "")
        self.live = True
        self._asks = asks

    def _receive(self, message: Core) -> None:
        future = self._asks.get(message.subject)
        if future is not None and not future.done():
            self.bus.broker.note("deliver", self.bus.name, message.subject, message.payload)
            future.set_result(message)


class MemoryBus(Connection):
    """See `port.Bus` for every call; `crash` is what a killed process does to its connection."""

    def __init__(
        self,
        broker: Broker,
        name: str,
        *,
        inbox_prefix: str,
        on_state: Callable[[str], None] | None,
        on_error: Callable[[Exception], None] | None,
    ) -> None:
        super().__init__(broker, name, on_state=on_state, on_error=on_error)
        self._prefix = inbox_prefix
        self._asks: dict[str, asyncio.Future[Core]] = {}
        self._putting: dict[asyncio.Task[None], None] = {}  # a dict: ended in order
        self._answers = _Answers(self, f"{self.new_inbox()}.*", self._asks)

    def new_inbox(self) -> str:
        """See `port.Bus.new_inbox`; unique, drawn from the seed."""
        return f"{self._prefix}.{self.broker.luck.getrandbits(96):024x}"

    # --- core ------------------------------------------------------------------------------------------------------

    async def publish(
        self, subject: str, payload: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """See `port.Bus.publish`."""
        self.check(payload, headers)
        message = Core(subject, bytes(payload), reply, dict(headers) if headers else None)
        self.broker.faults.to_server(self.link, lambda: self.broker.publish(self, message))

    def send(self, subject: str, payload: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None) -> None:
        """See `port.Bus.send`."""
        self.check(payload, headers)
        message = Core(subject, bytes(payload), reply, dict(headers) if headers else None)
        self.broker.faults.to_server(self.link, lambda: self.broker.publish(self, message))

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> Received:
        """See `port.Bus.request`; a BusError when the answering service's handler failed."""
        reply = f"{self._answers.pattern[:-1]}{self.broker.luck.getrandbits(64):016x}"
        future: asyncio.Future[Core] = asyncio.get_running_loop().create_future()
        self._asks[reply] = future
        try:
            await self.publish(subject, payload, reply=reply)
            async with asyncio.timeout(timeout_s):
                answer = await future
        except TimeoutError as error:
            raise BusDown("no answer in time") from error
        finally:
            del self._asks[reply]
        if answer.no_responders:
            raise NoResponders("nobody listens")
        if answer.headers and _SERVICE_ERROR in answer.headers:
            raise BusError(f"{subject}: {answer.headers[_SERVICE_ERROR]}")
        return answer.received()

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "", settle: bool = True) -> Subscription:
        """See `port.Bus.subscribe`. While not connected, interest is registered at the reconnect."""
        self.check_open()
        sub = Sub(self, subject, handler, queue)
        await sub.start(settle=settle)
        return sub

    async def serve(self, name: str, version: str, description: str, endpoints: Mapping[str, Handler]) -> Subscription:
        """See `port.Bus.serve`. A handler that raises is reported, and answered as a service error."""
        self.check_open()
        about = {"name": name, "id": f"{self.broker.luck.getrandbits(64):016x}", "version": version, "metadata": {}}
        ping = about | {"type": "io.nats.micro.v1.ping_response"}
        served = [{"name": s.replace(".", "-"), "subject": s, "queue_group": name, "metadata": {}} for s in endpoints]
        info = about | {
            "type": "io.nats.micro.v1.info_response",
            "description": description,
            "endpoints": served,
        }
        subs = [Sub(self, one, self._to_inboxes(handler), name, self._failed) for one, handler in endpoints.items()]
        for verb, answer in (("PING", json.dumps(ping).encode()), ("INFO", json.dumps(info).encode())):
            for tail in ("", f".{name}", f".{name}.{about['id']}"):
                subs.append(Sub(self, f"$SRV.{verb}{tail}", self._answerer(answer), ""))
        service = Service(self, subs)
        await service.start()
        return service

    # --- the log ---------------------------------------------------------------------------------------------------

    async def store(self, events: Sequence[Outgoing], *, timeout_s: float) -> list[Ack]:
        """See `port.Bus.store`. Events of a batch of which some are known already are stored one by one."""
        self.check_open()
        deadline = asyncio.get_running_loop().time() + timeout_s
        if len(events) > MAX_BATCH:
            raise TooLarge(f"{len(events)} events; an atomic batch takes {MAX_BATCH}")
        for event in events:
            self.check(event.payload, {"Nats-Msg-Id": event.msg_id})
        if len(events) > 1:
            acks = await self._store(events, deadline)
            if acks is not None:
                return acks
        return [ack for event in events for ack in await self._store([event], deadline) or ()]

    def put(self, event: Outgoing, done: OnStored, *, timeout_s: float) -> None:
        """See `port.Bus.put`."""

        async def storing() -> None:
            try:
                (answer,) = await self.store([event], timeout_s=timeout_s)
            except BusError as error:
                answer = error
            done(answer)

        task = asyncio.create_task(storing())
        self._putting[task] = None
        task.add_done_callback(self._putting.pop)

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
        if since_ms:
            found = await self.call(lambda: self.broker.stream(stream), _API_TIMEOUT_S)
            after_seq = max(after_seq, found.before(since_ms))
        reader = Reader(self, stream, subjects, handler, after_seq, every_s)
        await reader.start()
        return reader

    async def get(self, stream: str, seq: int, subject: str = "", *, since_ms: int = 0) -> Received | None:
        """See `port.Bus.get`."""
        entry = await self.call(lambda: self.broker.stream(stream).find(seq, subject, since_ms), _API_TIMEOUT_S)
        if entry is None:
            return None
        if entry.foreign:
            self.report(Foreign(entry.subject, entry.seq))
        return entry.received()

    async def get_many(self, stream: str, seq: int, subject: str, at_most: int, *, since_ms: int = 0) -> list[Received]:
        """See `port.Bus.get_many`."""
        found = await self.call(
            lambda: self.broker.stream(stream).find_many(seq, subject, at_most, since_ms), _API_TIMEOUT_S
        )
        for entry in found:
            if entry.foreign:
                self.report(Foreign(entry.subject, entry.seq))
        return [entry.received() for entry in found]

    async def work(self, stream: str, consumer: str, handler: WorkHandler, *, at_once: int) -> Subscription:
        """See `port.Bus.work`. A delivery stays in hand until it is settled; a handler that raises means retry."""
        self.check_open()
        worker = Worker(self, stream, consumer, handler, at_once)
        await worker.start()
        return worker

    async def stream_state(self, stream: str) -> StreamState:
        """See `port.Bus.stream_state`."""
        return await self.call(lambda: self.broker.stream(stream).state(), _API_TIMEOUT_S)

    async def last_seq(self, stream: str) -> int:
        """See `port.Bus.last_seq`. Raises BusDown, or BusError when there is no such stream."""
        return await self.call(lambda: self.broker.stream(stream).last, _API_TIMEOUT_S)

    async def stream_bytes(self, stream: str) -> tuple[int, int]:
        """Bytes a stream holds and may hold (-1: no limit)."""

        def measure() -> tuple[int, int]:
            found = self.broker.streams.get(stream)
            if found is None:
                raise no_stream(stream)
            return found.bytes, found.max_bytes or -1

        return await self.call(measure, _API_TIMEOUT_S)

    async def claim(self, key: str, value: bytes, *, ttl_s: float) -> bytes | None:
        """See `port.Bus.claim`. After BusDown the claim may be ours: repeat, and compare the value that holds it."""
        self.check(value, None)
        claims = self.broker.claims
        return await self.call(lambda: claims.claim(key, bytes(value), ttl_s), _API_TIMEOUT_S, may_lose=True)

    # --- the end ---------------------------------------------------------------------------------------------------

    async def close(self) -> None:
        """Stop what runs, send what is on its way, then end. Bounded, and harmless when repeated."""
        if self.closed:
            return
        await asyncio.gather(*(one.stop() for one in list(self.running)), return_exceptions=True)
        with suppress(BusError):
            await self.call(lambda: None, 2.0)
        self._end()

    def crash(self) -> None:
        """The process is killed: nothing is delivered any more, what it had sent and not yet arrived is lost."""
        self.crashed = True
        self._end()

    def _end(self) -> None:
        if self.closed:
            return
        self.closed = True
        self.link.become("closed")
        for one in list(self.running):
            one.leave()
            one.abandon()
        for task in list(self._putting):
            task.cancel()
        self.broker.lose(self)
        if not self.crashed:
            self.tell("closed")

    # --- what the broker calls -------------------------------------------------------------------------------------

    def listening(self) -> list[Sub]:
        """Subscriptions the broker knows of."""
        return [self._answers, *(one for one in self.running if isinstance(one, Sub) and one.live)]

    def unheard(self, reply: str) -> None:
        """At the broker: tell this connection that nobody listens, where it waits for the reply."""
        notice = Core(reply, b"", no_responders=True)
        for sub in self.listening():
            if sub.hears(reply):
                sub.send(notice)

    # --- within ----------------------------------------------------------------------------------------------------

    async def _store(self, events: Sequence[Outgoing], deadline: float) -> list[Ack] | None:
        left_s = deadline - asyncio.get_running_loop().time()
        return await self.call(lambda: self.broker.store(self, events), left_s, may_lose=True)

    def _answerer(self, answer: bytes) -> Handler:
        return lambda asked: self._send(Core(asked.reply, answer)) if is_guest_inbox(asked.reply) else None

    def _to_inboxes(self, handler: Handler) -> Handler:
        def handle(asked: Received) -> None:
            if asked.reply and not is_inbox(asked.reply):
                self.report(NotAnInbox(asked.subject, asked.reply))
            else:
                handler(asked)

        return handle

    def _failed(self, asked: Core) -> None:
        if asked.reply:
            self._send(Core(asked.reply, b"", headers={_SERVICE_ERROR: "the handler failed"}))

    def _send(self, message: Core) -> None:
        self.broker.faults.to_server(self.link, lambda: self.broker.publish(self, message))
