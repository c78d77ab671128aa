"""What a simulated connection stands on: its link to the broker, calls over it, and what it may not do now."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from understudy.bus.faults import Lane, Link
from understudy.bus.port import BusDown, BusError, Closed, Foreign, Received, TooLarge

if TYPE_CHECKING:
    from understudy.bus.memory import Broker
    from understudy.bus.memory_parts import Running

T = TypeVar("T")

_HEADER_LINE_BYTES = len("NATS/1.0\r\n\r\n")


class Core(msgspec.Struct, frozen=True):
    """A core message on its way; `seq` and `at_ms` (Unix milliseconds) only for republished ones."""

    subject: str
    payload: bytes
    reply: str = ""
    headers: Mapping[str, str] | None = None
    seq: int = 0
    at_ms: int = 0
    no_responders: bool = False
    foreign: bool = False

    def received(self) -> Received:
        """As the receiver sees it."""
        return Received(self.subject, self.payload, self.reply, self.seq, self.at_ms, self.no_responders, self.foreign)


class Connection:
    """One connection's link, what runs on it, and its calls to the broker."""

    def __init__(
        self,
        broker: Broker,
        name: str,
        *,
        on_state: Callable[[str], None] | None,
        on_error: Callable[[Exception], None] | None,
    ) -> None:
        self.broker, self.name = broker, name
        self.running: list[Running] = []
        self.crashed = False
        self.closed = False
        self.link = Link(name, self._link_changed)
        self._lane = Lane()
        self._calls: dict[asyncio.Future[Any], None] = {}  # under way; a set's order would differ from run to run
        self._on_state: Callable[[str], None] = on_state or (lambda _: None)
        self._met_foreign = False
        self._on_error: Callable[[Exception], None] = on_error or (lambda _: None)

    @property
    def connected(self) -> bool:
        """Whether a publish would be tried now."""
        return self.link.state in ("up", "silent")

    @property
    def max_payload(self) -> int:
        """Bytes the broker takes in one message, headers included."""
        return self.broker.max_payload

    async def call(self, action: Callable[[], T], timeout_s: float, *, may_lose: bool = False) -> T:
        """Have the broker do something, and bring back what comes of it. Raises what it raises, BusDown, Closed."""
        self.check_connected()
        faults = self.broker.faults
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def bring(answer: Callable[[], None]) -> None:
            faults.to_client(self.link, self._lane, lambda: None if future.done() else answer())

        def at_broker() -> None:
            try:
                result = action()
            except BusError as error:
                refused = error
                bring(lambda: future.set_exception(refused))
            else:
                if not (may_lose and faults.answer_lost()):
                    bring(lambda: future.set_result(result))

        faults.to_server(self.link, at_broker)
        self._calls[future] = None
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError as error:
            raise BusDown("no answer in time") from error
        finally:
            del self._calls[future]

    def report(self, error: Exception) -> None:
        """Something went wrong in a handler or in the background."""
        if isinstance(error, Foreign):
            if self._met_foreign:
                return
            self._met_foreign = True
        with suppress(Exception):
            self._on_error(error)

    def check(self, payload: bytes, headers: Mapping[str, str] | None) -> None:
        """Whether this may be sent now. Raises Closed, TooLarge, BusDown."""
        self.check_open()
        lines = (
            sum(len(k.encode()) + len(v.encode()) + 4 for k, v in headers.items()) + _HEADER_LINE_BYTES
            if headers
            else 0
        )
        if len(payload) + lines > self.broker.max_payload:
            raise TooLarge("payload and headers exceed what the server takes")
        self.check_connected()

    def check_open(self) -> None:
        """Raises Closed."""
        if self.closed:
            raise Closed("this connection is closed")

    def check_connected(self) -> None:
        """Raises Closed, BusDown."""
        self.check_open()
        if self.link.state == "down":
            raise BusDown("not connected")

    def _link_changed(self) -> None:
        """Tell the broker, and begin anew where the connection is back."""
        state = self.link.state
        self.broker.note("link", self.name, state)
        if state == "down":
            for one in self.running:
                one.leave()
            for call in self._calls:
                if not call.done():
                    call.set_exception(BusDown("the connection broke"))
            self.broker.interest_changed()
            self.tell("disconnected")
        elif state == "up":
            for one in self.running:
                self.broker.faults.to_server(self.link, one.begin)
            self.broker.interest_changed()
            self.tell("reconnected")

    def tell(self, state: str) -> None:
        """Say what has become of the connection: connected, disconnected, reconnected, closed."""
        with suppress(Exception):
            self._on_state(state)
