"""What runs on a simulated connection until it is stopped: subscriptions, services, ordered readers, workers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from understudy.bus.faults import TICK_S, Lane
from understudy.bus.memory_log import Consumer, Entry
from understudy.bus.port import BusError, Foreign, Handler, Received, WorkHandler
from understudy.bus.subjects import matches

if TYPE_CHECKING:
    from understudy.bus.memory_bus import MemoryBus
    from understudy.bus.memory_connection import Core

_STOP_S = 5.0
_CALL_S = 2.0
_AFTER_FAILURE_S = 1.0
_AFTER_REFUSAL_S = 0.5


class Running:
    """Something that delivers over a lane of its own until it is stopped."""

    def __init__(self, bus: MemoryBus) -> None:
        self.bus = bus
        self.lane = Lane()
        self.ended = False
        self._stopping = False

    def begin(self) -> None:
        """At the broker: deliver from now on; called again after each reconnect."""
        raise NotImplementedError

    def leave(self) -> None:
        """At the broker: deliver no more; called also when the broker notices that the connection is gone."""
        raise NotImplementedError

    async def start(self) -> None:
        """Ask the broker to begin; while not connected, the reconnect does."""
        self.bus.running.append(self)
        with suppress(BusError):
            await self.bus.call(self.begin, _CALL_S)

    async def stop(self) -> None:
        """Deliver what has arrived, then no more."""
        if self._stopping or self.ended:
            return
        self._stopping = True
        with suppress(BusError):
            await self.bus.call(self.leave, _CALL_S)
        self.leave()
        await self.drain()
        self.abandon()

    async def drain(self) -> None:
        """Wait for what is under way."""
        loop = asyncio.get_running_loop()
        if self.lane.at >= loop.time():
            await asyncio.sleep(self.lane.at - loop.time() + TICK_S)

    def abandon(self) -> None:
        """End here and now."""
        self.ended = True
        if self in self.bus.running:
            self.bus.running.remove(self)


class Sub(Running):
    """A core subscription. `on_fail` hears of a message whose handler raised."""

    def __init__(
        self, bus: MemoryBus, pattern: str, handler: Handler, queue: str, on_fail: Callable[[Core], None] | None = None
    ) -> None:
        super().__init__(bus)
        self.pattern, self.queue, self.live = pattern, queue, False
        self._prefix = pattern.split("*")[0].split(">")[0]  # most subjects differ there already
        self._handler, self._on_fail = handler, on_fail

    async def start(self, *, settle: bool = True) -> None:
        """As always; without `settle`, without waiting for it."""
        if settle:
            await super().start()
            return
        self.bus.running.append(self)
        self.bus.broker.faults.to_server(self.bus.link, self.begin)

    def begin(self) -> None:
        self.live = not (self._stopping or self.ended)
        self.bus.broker.interest_changed()

    def leave(self) -> None:
        self.live = False
        self.bus.broker.interest_changed()

    def hears(self, subject: str) -> bool:
        """Whether a message on `subject` comes here."""
        return subject.startswith(self._prefix) and matches(self.pattern, subject)

    def send(self, message: Core) -> None:
        """From the broker to here."""
        bus = self.bus
        faults, receive = bus.broker.faults, lambda: self._receive(message)
        faults.core_to_client(bus.link, self.lane, message.subject, message.payload, receive)

    def _receive(self, message: Core) -> None:
        if self.ended:
            return
        self.bus.broker.note("deliver", self.bus.name, message.subject, message.payload)
        try:
            self._handler(message.received())
        except Exception as error:  # noqa: BLE001  # a handler's mistake must not end the subscription
            self.bus.report(error)
            if self._on_fail is not None:
                self._on_fail(message)


class Service(Running):
    """The subscriptions of one micro service."""

    def __init__(self, bus: MemoryBus, subs: Sequence[Sub]) -> None:
        super().__init__(bus)
        self._subs = subs

    async def start(self) -> None:
        """Begin with all of them."""
        await asyncio.gather(*(sub.start() for sub in self._subs))

    async def stop(self) -> None:
        """Deliver what has arrived, then no more."""
        await asyncio.gather(*(sub.stop() for sub in self._subs))


class Reader(Running):
    """An ordered reader. The broker sends on from `_cursor`; after a reconnect, on from what has arrived."""

    def __init__(
        self,
        bus: MemoryBus,
        stream: str,
        subjects: Sequence[str],
        handler: Handler,
        after_seq: int,
        every_s: float = 0.0,
    ) -> None:
        super().__init__(bus)
        self.last_seq, self._every_s = after_seq, every_s
        self._due: asyncio.TimerHandle | None = None  # with `every_s`: when what comes is asked for
        self._stream, self._subjects, self._handler = stream, list(subjects), handler
        self._cursor = self._after_seq = after_seq

    def begin(self) -> None:
        if self._stopping or self.ended:
            return
        self.bus.broker.stream(self._stream)
        readers = self.bus.broker.readers[self._stream]
        if self not in readers:
            readers.append(self)
        self._cursor = max(self._after_seq, self.last_seq - self.bus.broker.faults.reread)
        self._send()

    async def start(self) -> None:
        """Begin. Raises BusDown, or BusError when there is no such stream."""
        await self.bus.call(self.begin, 3.0)
        self.bus.running.append(self)

    def leave(self) -> None:
        readers = self.bus.broker.readers.get(self._stream, [])
        if self in readers:
            readers.remove(self)
        self._wait_no_more()

    def pump(self) -> None:
        """Send what is stored and not sent yet, now or when it is asked for."""
        if not self._every_s:
            self._send()
        elif self._due is None:
            self._due = asyncio.get_running_loop().call_later(self._every_s, self._send)

    def look(self) -> None:
        """See `port.Reading.look`."""
        self.bus.broker.faults.to_server(self.bus.link, self._looked)

    def _looked(self) -> None:
        if self in self.bus.broker.readers.get(self._stream, []):
            self._send()

    def _wait_no_more(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _send(self) -> None:
        self._wait_no_more()
        broker, link = self.bus.broker, self.bus.link
        for entry in broker.stream(self._stream).after(self._cursor):
            self._cursor = entry.seq
            if any(matches(pattern, entry.subject) for pattern in self._subjects):
                broker.faults.to_client(link, self.lane, lambda entry=entry: self._receive(entry))

    def _receive(self, entry: Entry) -> None:
        if self.ended:
            return
        self.last_seq = max(self.last_seq, entry.seq)
        if entry.foreign:
            self.bus.report(Foreign(entry.subject, entry.seq))
        self.bus.broker.note("read", self.bus.name, entry.subject, entry.payload)
        try:
            self._handler(entry.received())
        except Exception as error:  # noqa: BLE001  # a handler's mistake must not end the reading
            self.bus.report(error)


class WorkDelivery:
    """See `port.Delivery`."""

    def __init__(
        self, message: Received, tries: int, settle: Callable[[WorkDelivery, str, float | None], None]
    ) -> None:
        self.message, self.tries = message, tries
        self.settled = False
        self._settle = settle

    async def ack(self) -> None:
        """Done: never deliver it again."""
        self._settle(self, "ack", None)

    async def retry(self, delay_s: float) -> None:
        """Deliver it again, not before `delay_s`."""
        self._settle(self, "retry", max(delay_s, 1e-9))

    async def drop(self, reason: str) -> None:
        """Never deliver it again, because it cannot be handled."""
        self._settle(self, f"drop {' '.join(reason.split())}", None)


class Worker(Running):
    """A worker on a durable consumer; it is a `memory_log.Seat`."""

    def __init__(self, bus: MemoryBus, stream: str, consumer: str, handler: WorkHandler, at_once: int) -> None:
        if at_once < 1:
            raise ValueError("at_once must be at least 1")
        super().__init__(bus)
        self.credit = 0
        self._key, self._handler, self._at_once = (stream, consumer), handler, at_once
        self._in_hand = 0
        self._under_way = 0
        self._tasks: dict[asyncio.Task[None], None] = {}  # a set's order would differ from run to run

    @property
    def _consumer(self) -> Consumer | None:
        return self.bus.broker.consumers.get(self._key)

    def begin(self) -> None:
        if self._stopping or self.ended:
            return
        if self._consumer is not None:
            self._under_way = 0  # what an earlier connection carried is lost
            self._consumer.take_seat(self, self._at_once - self._in_hand)
            return
        missing = RuntimeError(f"pull of {self._key[0]}/{self._key[1]}: 503 no such consumer")
        faults, link = self.bus.broker.faults, self.bus.link
        faults.to_client(link, self.lane, lambda: self.bus.report(missing))
        asyncio.get_running_loop().call_later(_AFTER_REFUSAL_S, faults.to_server, link, self.begin)

    def leave(self) -> None:
        if self._consumer is not None:
            self._consumer.leave(self)

    async def stop(self) -> None:
        """Take no more; let the handlers finish, for at most five seconds, then cancel them."""
        if self._stopping or self.ended:
            return
        await super().stop()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=_STOP_S)
            late = [task for task in self._tasks if not task.done()]
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        with suppress(BusError):
            await self.bus.call(lambda: None, _CALL_S)  # the last answers are on their way

    def abandon(self) -> None:
        super().abandon()
        if self.bus.crashed:
            for task in self._tasks:
                task.cancel()

    def send(self, entry: Entry, tries: int) -> None:
        """From the broker to here."""
        self.credit -= 1
        self._under_way += 1
        bus = self.bus
        bus.broker.faults.to_client(bus.link, self.lane, lambda: self._receive(entry, tries))

    def _receive(self, entry: Entry, tries: int) -> None:
        self._under_way -= 1
        if self.ended:
            return
        self._in_hand += 1
        self.bus.broker.note("work", self.bus.name, entry.subject, entry.payload)
        message = entry.received()
        task = asyncio.get_running_loop().create_task(self._handle(WorkDelivery(message, tries, self._settle)))
        self._tasks[task] = None
        task.add_done_callback(lambda task: self._tasks.pop(task, None))

    async def _handle(self, delivery: WorkDelivery) -> None:
        try:
            if delivery.message.foreign:
                self.bus.report(Foreign(delivery.message.subject, delivery.message.seq))
                await delivery.drop("foreign")
            else:
                await self._handler(delivery)
        except Exception as error:  # noqa: BLE001  # a handler's mistake must not end the work
            self.bus.report(error)
            if not delivery.settled:
                await delivery.retry(_AFTER_FAILURE_S)

    def _settle(self, delivery: WorkDelivery, how: str, retry_s: float | None) -> None:
        """The answer also asks for one more. What cannot be sent is delivered again."""
        if delivery.settled:
            raise RuntimeError("a delivery is settled once")
        delivery.settled = True
        self._in_hand -= 1
        bus, seq, tries = self.bus, delivery.message.seq, delivery.tries

        def at_broker() -> None:
            consumer = self._consumer
            if consumer is None:
                return
            bus.broker.note("settle", bus.name, how)
            if self in consumer.seats:
                self.credit = min(self.credit + 1, self._at_once - self._in_hand - self._under_way)
            consumer.settle(seq, tries, retry_s)

        bus.broker.faults.to_server(bus.link, at_broker)
