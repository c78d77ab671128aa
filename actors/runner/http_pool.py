"""A pool of HTTP/1.1 connections to one origin. Only opening a connection is a task."""

from __future__ import annotations

import asyncio
import functools
import ssl
from collections import deque

from understudy.actors.runner.http_wire import Connection, Exchange
from understudy.messages.address import Target

IDLE_S = 60.0
"""An unused connection is closed after so long."""
CLOSE_S = 1.0


class Client:
    """A pool of connections to one origin. `limit`: connections at once; requests beyond it wait in order."""

    def __init__(self, to: Target, *, limit: int, connect_s: float) -> None:
        """`connect_s` bounds name, TCP and TLS together. Belongs to the running loop."""
        self.loop = asyncio.get_running_loop()
        self._target, self._limit, self._connect_s = to, limit, connect_s
        self._tls: ssl.SSLContext | None = None
        if to.tls:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        self._connections: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._idle: deque[Connection] = deque()  # the longest unused first; some may be closed by now
        self._waiting: deque[Exchange] = deque()
        self._sweeper: asyncio.TimerHandle | None = None
        self._empty: asyncio.Future[None] | None = None  # set while closing

    def send(self, exchange: Exchange) -> None:
        """Begin, on the connection used last, a new one, or when one is free.

        A request on a reused connection that ends at once without one byte of an answer is sent again, once, on a new
        one. RFC 9110 (9.2.2) leaves a POST to who knows what it does: here a server that closes an idle connection is
        the common cause, which must not count as a failure of its model, and a generation that nobody saw changes
        nothing but a bill; where there is a bill, the exchange is not `repeatable`. The time limit (`STALE_S`) keeps
        work that made a server fall from being repeated.
        """
        while self._idle:
            connection = self._idle.pop()
            if not connection.transport.is_closing():
                connection.start(exchange)
                return
        if len(self._connections) + len(self._opening) < self._limit:
            self.open(exchange)
        else:
            self._waiting.append(exchange)

    def finish(self, exchange: Exchange) -> None:
        """The reader needs no more, and the response is about to end: the connection may be used again if it does."""
        if exchange.connection is not None:
            exchange.connection.finish()

    def cancel(self, exchange: Exchange) -> None:
        """Nobody wants it any longer; its connection is closed at once, so that the server notices."""
        if exchange.connection is not None:
            exchange.connection.close()
        elif exchange.opening is not None:
            exchange.opening.cancel()
        elif exchange in self._waiting:
            self._waiting.remove(exchange)

    async def close(self) -> None:
        """End everything. Exchanges in hand hear nothing more: cancel them first."""
        self._empty = self.loop.create_future()
        self._waiting.clear()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for task in self._opening:
            task.cancel()
        await asyncio.gather(*self._opening, return_exceptions=True)
        for connection in self._connections:
            connection.close()
        if self._connections:
            await asyncio.wait([self._empty], timeout=CLOSE_S)

    # --- for connections -------------------------------------------------------------------------------------------

    def open(self, exchange: Exchange) -> None:
        """Send on a new connection."""
        task = exchange.opening = self.loop.create_task(self._open(exchange))
        self._opening.add(task)
        task.add_done_callback(self._opened)

    def release(self, connection: Connection) -> None:
        """Its response is whole: it serves the next, or waits for one."""
        transport = connection.transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size():  # answered before the request was read: it would never be
            transport.abort()
            return
        connection.used = True
        if self._waiting:
            connection.start(self._waiting.popleft())
            return
        connection.idle_at = self.loop.time()
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweeper = self.loop.call_later(IDLE_S, self._sweep)

    def lost(self, connection: Connection, again: Exchange | None) -> None:
        """It exists no longer; its place is free, for the exchange to be sent again before all others."""
        self._connections.discard(connection)
        if self._empty is not None and not self._connections and not self._empty.done():
            self._empty.set_result(None)
        if again is not None:
            self.open(again)
        self._next()

    def _next(self) -> None:
        if self._waiting and len(self._connections) + len(self._opening) < self._limit:
            self.open(self._waiting.popleft())

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._opening.discard(task)
        self._next()

    async def _open(self, exchange: Exchange) -> None:
        to = self._target
        make = functools.partial(Connection, self)
        try:
            async with asyncio.timeout(self._connect_s):
                _, connection = await self.loop.create_connection(make, to.host, to.port, ssl=self._tls)
        except (OSError, UnicodeError):  # every failure of name, TCP or TLS, and the time limit
            exchange.opening = None
            exchange.on_end("refused")
            return
        exchange.opening = None
        if connection.transport.is_closing():  # the server accepted it and closed it
            exchange.on_end("broken")
            return
        self._connections.add(connection)
        connection.start(exchange)

    def _sweep(self) -> None:
        self._sweeper = None
        until = self.loop.time() - IDLE_S
        while self._idle and self._idle[0].idle_at <= until:
            self._idle.popleft().close()
        if self._idle:
            self._sweeper = self.loop.call_at(self._idle[0].idle_at + IDLE_S, self._sweep)
