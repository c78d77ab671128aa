"""HTTP/1.1 on one connection: a request in one write, the response as callbacks where its bytes arrive.

What it does not do: redirects, proxies, cookies, compression, upgrades, pipelining.
"""

from __future__ import annotations

import asyncio
from typing import Literal, Protocol, cast

import httptools

from understudy.messages.address import Target, plain

LINGER_S = 1.0
"""So long may a response take to end after its reader has read enough; later its connection is closed."""
STALE_S = 1.0
"""A reused connection that ends within this time of a request, without a byte of answer, was closed before it came."""
HEAD_BYTES = 65_536
"""At most so much may arrive in a row that is no body (a head, interim responses, trailers), give or take a read."""

Failure = Literal["refused", "broken"]
"""No connection came about; or it ended, or brought what is no HTTP, before the response was whole."""


class _Surplus(Exception):
    """More than the one response that was asked for."""


def post_head(to: Target, path: str, fields: dict[str, str]) -> bytes:
    """A request's head up to the value of `Content-Length`. Raises ValueError, which names a field, not its value."""
    return request_head("POST", to, path, fields) + b"\r\nContent-Length: "


def get_request(to: Target, path: str, fields: dict[str, str]) -> bytes:
    """A whole request without a body. Raises ValueError, as above."""
    return request_head("GET", to, path, fields) + b"\r\n\r\n"


def request_head(method: str, to: Target, path: str, fields: dict[str, str]) -> bytes:
    """A request's head without its last line end. Raises ValueError, which names a field, not its value."""
    lines = [f"{method} {to.path}{path} HTTP/1.1", f"Host: {to.authority}"]
    for name, value in fields.items():
        if not plain(value):
            raise ValueError(f"the value of {name} must be printable ASCII, without line breaks")
        lines.append(f"{name}: {value}")
    return "\r\n".join(lines).encode()


class Exchange:
    """One request and its response. A subclass says what becomes of it.

    The methods are called on the loop in the order head, body, end; `on_end` once and last. None is called from within
    `Client.send`, `finish` or `cancel`, and none after `finish` or `cancel`.
    """

    __slots__ = ("connection", "headers", "opening", "repeatable", "request", "status")

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.repeatable = True  # it may be sent again where a connection was lost before one byte of an answer
        self.status = 0  # of the response; 0 before its head
        self.headers: list[tuple[bytes, bytes]] = []
        self.connection: Connection | None = None
        self.opening: asyncio.Task[None] | None = None

    def on_head(self) -> None:
        """`status` and `headers` are known."""

    def on_body(self, data: bytes) -> None:
        """A part of the body."""

    def on_end(self, failure: Failure | None) -> None:
        """The response is whole, or what it lacks will not come."""


class Pool(Protocol):
    """Who owns connections."""

    loop: asyncio.AbstractEventLoop

    def release(self, connection: Connection) -> None:
        """Its response is whole."""
        ...

    def lost(self, connection: Connection, again: Exchange | None) -> None:
        """It exists no longer. `again` was on it and is to be sent on another."""
        ...


class Connection(asyncio.Protocol):
    """One connection, one exchange at a time. The parser only notes what it finds; it is handed on afterwards."""

    __slots__ = (
        "_answered",
        "_barren",
        "_body",
        "_keep",
        "_linger",
        "_parser",
        "_pool",
        "_status",
        "_whole",
        "exchange",
        "headers",
        "idle_at",
        "on_body",
        "sent_at",
        "transport",
        "used",
    )
    transport: asyncio.Transport

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._body: list[bytes] = []
        self.on_body = self._body.append  # the parser calls it for every piece, so no function of ours in between
        self.headers: list[tuple[bytes, bytes]] = []
        self.exchange: Exchange | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._status = self._barren = 0
        self._answered, self._whole, self._keep = False, True, False
        self.used, self.sent_at, self.idle_at = False, 0.0, 0.0
        self._parser = httptools.HttpResponseParser(self)

    def start(self, exchange: Exchange) -> None:
        """Send a request, in one write. The connection must be idle."""
        self.exchange, exchange.connection = exchange, self
        self._status = self._barren = 0
        self._answered = self._whole = False
        self.headers = []
        self.sent_at = self._pool.loop.time()
        self.transport.write(exchange.request)

    def finish(self) -> None:
        """The reader has enough: let the response end by itself, if it soon does."""
        self._detach()
        if not self._whole:
            self._linger = self._pool.loop.call_later(LINGER_S, self.close)

    def close(self) -> None:
        """End it now. Nobody is told."""
        self._detach()
        self.transport.abort()

    def _detach(self) -> Exchange | None:
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.connection = None
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        return exchange

    # --- what the transport says -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Open."""
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Parse all of it, then hand on what it held."""
        if self._whole:  # nothing was asked: whatever this is, the next answer must not begin with it
            self.close()
            return
        self._answered = True
        sound = True
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            sound = False
        if self._body:
            self._barren = 0
        elif not self._whole:
            self._barren += len(data)
            sound = sound and self._barren <= HEAD_BYTES
        self._hand_on()
        if self._whole or not sound:
            self._settle(sound)

    def eof_received(self) -> None:
        """The other side says no more: what we still had to say is of no use."""
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone, by either side."""
        exchange, pool = self._detach(), self._pool
        stale = self.used and not self._answered and pool.loop.time() - self.sent_at < STALE_S
        stale = stale and exchange is not None and exchange.repeatable
        pool.lost(self, exchange if stale else None)
        if exchange is not None and not stale:
            exchange.on_end(None if exc is None and self._ends_with_connection() else "broken")

    def _ends_with_connection(self) -> bool:
        """Does the response's head leave its end to the end of the connection?"""
        framed = (b"content-length", b"transfer-encoding")
        return self._status >= 200 and not any(name.lower() in framed for name, _ in self.headers)

    # --- what the parser finds -------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """A response after the one that was asked for is one too many: the parser stops there."""
        if self._whole:
            raise _Surplus

    def on_header(self, name: bytes, value: bytes) -> None:
        """Of a head, or a trailer, which nobody reads."""
        if not self._status:
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Interim responses (1xx) are passed over."""
        status = self._parser.get_status_code()
        if status < 200:
            self.headers = []
        else:
            self._status = status

    def on_message_complete(self) -> None:
        """The response has ended as its head had said."""
        if self._status:
            self._whole, self._keep = True, self._parser.should_keep_alive()

    # --- what becomes of it ----------------------------------------------------------------------------------------

    def _hand_on(self) -> None:
        body = self._body
        data = body[0] if len(body) == 1 else b"".join(body)
        body.clear()
        exchange = self.exchange
        if exchange is None:
            return
        if self._status and not exchange.status:
            exchange.status, exchange.headers, exchange.request = self._status, self.headers, b""
            exchange.on_head()
        if data and self.exchange is exchange:
            exchange.on_body(data)

    def _settle(self, sound: bool) -> None:
        exchange = self._detach()
        if not sound or not self._keep:
            self.transport.abort()
        if exchange is not None:
            exchange.on_end(None if self._whole else "broken")
        self._pool.release(self)
