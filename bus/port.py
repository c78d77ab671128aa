"""The port through which actors meet the bus: what every bus can do, whichever it is.

Two buses implement it: `nats_bus.NatsBus` (a real nats-server) and `memory.MemoryBus` (the simulated one). One
conformance suite runs on both.

Errors (every one is a `BusError` with a stable `code`):

    BusError
    ├── BusDown        bus_down      not connected, or the server did not answer in time: the outcome is unknown
    ├── NoResponders   no_responders nobody listens on that subject: certainly not run, safe to repeat
    ├── TooLarge       too_large     payload and headers exceed what the server takes
    ├── LogFull        log_full      the stream has reached its limit and refuses new events
    ├── Conflict       conflict      an expectation (last sequence, key absent) did not hold
    ├── NotAllowed     not_allowed   the server does not let this user do that
    ├── NotAnInbox     not_an_inbox  (reported only) an ask named a reply subject that we do not answer
    └── Closed         closed        this connection is closed for good
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import msgspec


class BusError(Exception):
    """What a bus may raise. `code` is stable, the text may improve."""

    code = "bus_error"


class BusDown(BusError):
    """Not connected, or no answer in time. The outcome is unknown: repeat only with the same message id."""

    code = "bus_down"


class NoResponders(BusError):
    """Nobody listens on the subject. Certainly not run."""

    code = "no_responders"


class TooLarge(BusError):
    """Payload plus headers exceed the server's limit."""

    code = "too_large"


class LogFull(BusError):
    """The stream is at its limit and refuses new events."""

    code = "log_full"


class Conflict(BusError):
    """An expected last sequence or an absent key was not as expected."""

    code = "conflict"


class NotAllowed(BusError):
    """The server does not let this user do that; another user may."""

    code = "not_allowed"


class NotAnInbox(BusError):
    """A service was asked to answer somewhere else than in an inbox. Never raised: told to `on_error`."""

    code = "not_an_inbox"

    def __init__(self, subject: str, reply: str) -> None:
        prefix = reply.partition(".")[0][:32]
        super().__init__(f"{subject}: asked to answer on {prefix!r}; answers go to `_INBOX.` (or an actor's) alone")


class Foreign(BusError):
    """The event log holds a message that no `store` put there. Never raised: told to `on_error`, once a connection."""

    code = "foreign"

    def __init__(self, subject: str, seq: int) -> None:
        super().__init__(f"{seq} on {subject}: no event, but what the server answered somebody with; passed over")


class Closed(BusError):
    """This connection is closed for good; open another."""

    code = "closed"


class Received(msgspec.Struct, frozen=True):
    """One message as it came from the bus.

    `seq` and `at_ms` are the stream's sequence and the server's store time (Unix milliseconds) for messages read from
    a stream or republished from one; both are 0 for core messages. `no_responders` marks the server's own notice that
    a message we sent with this subject as its reply found no listener. `foreign` marks a message of the event log that
    no `store` put there (see `nats_message`); it has a place and no payload, so that nothing is read into it.
    """

    subject: str
    payload: bytes
    reply: str = ""
    seq: int = 0
    at_ms: int = 0
    no_responders: bool = False
    foreign: bool = False


class Ack(msgspec.Struct, frozen=True):
    """The log's answer to a stored event. `duplicate`: an event with this id was there before, at `seq`."""

    seq: int
    duplicate: bool = False


class StreamState(msgspec.Struct, frozen=True):
    """What a stream holds now. `created` tells it from any other of the same name; nothing cut: `first_seq` <= 1."""

    created: str
    first_seq: int
    last_seq: int


Handler = Callable[[Received], None]
"""Called on the event loop, once per message, in order of arrival. Must return at once: no waiting, no raising."""


class Subscription(Protocol):
    """Something that delivers until it is stopped."""

    async def stop(self) -> None:
        """Deliver what has arrived, then no more."""
        ...


class Reading(Subscription, Protocol):
    """What reads a stream until it is stopped."""

    def look(self) -> None:
        """Ask for what has come now, where it is asked for now and then; never raises."""
        ...


class Delivery(Protocol):
    """One message of a work consumer, until it is settled by exactly one of the three calls."""

    message: Received
    tries: int

    async def ack(self) -> None: ...
    async def retry(self, delay_s: float) -> None: ...
    async def drop(self, reason: str) -> None: ...


WorkHandler = Callable[[Delivery], Awaitable[None]]


class Outgoing(msgspec.Struct, frozen=True):
    """One event on its way to the log: subject, payload and the message id under which it is stored once."""

    subject: str
    payload: bytes
    msg_id: str


OnStored = Callable[[Ack | BusError], None]
"""Called once, on the event loop, with the log's answer or why there is none. Must return at once: no raising."""


class Bus(Protocol):
    """What an actor's host may ask of a bus."""

    @property
    def connected(self) -> bool:
        """Whether a publish would be tried now."""
        ...

    def new_inbox(self) -> str:
        """A subject under this connection's own inbox prefix that nobody else can guess or read."""
        ...

    async def publish(
        self, subject: str, payload: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        """Send at most once. Raises BusDown (nothing was sent), TooLarge, Closed."""
        ...

    def send(self, subject: str, payload: bytes, *, reply: str = "", headers: Mapping[str, str] | None = None) -> None:
        """As `publish`, without waiting. BusDown also while the server takes so little that too much waits for it."""
        ...

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> Received:
        """Ask once and wait for one reply. Raises NoResponders, BusDown (no answer in time), TooLarge, Closed."""
        ...

    async def subscribe(self, subject: str, handler: Handler, *, queue: str = "", settle: bool = True) -> Subscription:
        """Core subscription; with `queue`, one member of the group receives each message.

        The server knows of it when this returns; without `settle`, before anything that is sent afterwards.
        """
        ...

    async def serve(self, name: str, version: str, description: str, endpoints: Mapping[str, Handler]) -> Subscription:
        """Answer asks as a NATS micro service `name` (queue group = name), one endpoint per subject.

        An ask whose reply is no inbox (`subjects.is_inbox`) is reported and never handed over: an answer there would be
        written with our permissions. PING, INFO and STATS are answered in components' inboxes alone.
        """
        ...

    async def store(self, events: Sequence[Outgoing], *, timeout_s: float) -> list[Ack]:
        """Put events into the log, in order, each once per id; several travel as one atomic batch.

        Raises BusDown (unknown: repeat with the same ids), LogFull, TooLarge, Closed.
        """
        ...

    def put(self, event: Outgoing, done: OnStored, *, timeout_s: float) -> None:
        """As `store` for one event, without waiting: it is on its way when this returns, and `done` is told later."""
        ...

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
        """Ordered, unacknowledged: everything after `after_seq`, then what comes; gaps are fetched again by itself.

        With `since_ms` (Unix milliseconds, the server's store time) it begins there instead. With `every_s` what comes
        is asked for that often, so that many messages cost little more than one; of one subject pattern only.
        """
        ...

    async def get(self, stream: str, seq: int, subject: str = "", *, since_ms: int = 0) -> Received | None:
        """One stored message; None when the stream does not hold it (any longer). Raises BusDown, Closed.

        With `subject` (wildcards allowed) the first one on it at `seq` or later. With `since_ms` (Unix milliseconds,
        the server's store time) the first one from then on, whatever `seq` is.
        """
        ...

    async def get_many(self, stream: str, seq: int, subject: str, at_most: int, *, since_ms: int = 0) -> list[Received]:
        """The first stored messages on a subject (wildcards allowed) at `seq` or later, in order, no gap between them.

        With `since_ms` those stored from that time on, whatever `seq` is.

        Fewer than `at_most` may come although there are more; none only where there is none. Raises BusDown, Closed.
        """
        ...

    async def work(self, stream: str, consumer: str, handler: WorkHandler, *, at_once: int) -> Subscription:
        """Shared durable consumer (it must exist): at most `at_once` deliveries in hand."""
        ...

    async def stream_state(self, stream: str) -> StreamState:
        """Which stream this is and from where to where it goes. Raises BusDown, or BusError when there is none."""
        ...

    async def last_seq(self, stream: str) -> int:
        """The stream's last sequence, 0 when empty."""
        ...

    async def claim(self, key: str, value: bytes, *, ttl_s: float) -> bytes | None:
        """Create `key` in the claims bucket; None when it is ours now, else the value that holds it."""
        ...

    async def close(self) -> None: ...
