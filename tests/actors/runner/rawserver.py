"""A loopback server that plays bytes, as no well-behaved one would say them, and exchanges that note what they hear."""

from __future__ import annotations

import asyncio
import functools
import inspect
import re
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Self

import pytest
import uvloop

from tests.waiting import until
from understudy.actors.runner.http_pool import Client
from understudy.actors.runner.http_wire import Exchange, Failure, post_head
from understudy.messages.address import target

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def both_loops(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on asyncio's own loop and on uvloop, where production runs."""

    @pytest.mark.parametrize("loop_of", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
    @functools.wraps(test)
    def run(*, loop_of: Callable[[], asyncio.AbstractEventLoop], **fixtures: Any) -> None:
        errors: list[Any] = []
        with asyncio.Runner(loop_factory=loop_of) as runner:
            runner.get_loop().set_exception_handler(lambda _, context: errors.append(context))
            runner.run(test(**fixtures))
        assert not errors, "a callback or a task raised"

    signature = inspect.signature(test)
    loop_of = inspect.Parameter("loop_of", inspect.Parameter.KEYWORD_ONLY)
    run.__dict__["__signature__"] = signature.replace(parameters=[*signature.parameters.values(), loop_of])
    return run


def chunk(data: bytes) -> bytes:
    """One chunk; the empty one ends a message."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def sized(data: bytes, head: bytes = OK) -> bytes:
    """A whole response of known length."""
    return b"%bContent-Length: %d\r\n\r\n%b" % (head, len(data), data)


HELLO = CHUNKED + chunk(b"hel") + chunk(b"lo") + chunk(b"")
"""A whole response."""


class Peer:
    """The server's side of one connection."""

    def __init__(self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server, self.reader, self.writer = server, reader, writer

    async def request(self) -> bytes | None:
        """The next request's body; None where the client has left."""
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
            size = re.search(rb"Content-Length: (\d+)", head)
            assert size is not None
            body = await self.reader.readexactly(int(size[1]))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None
        self.server.heads.append(head)
        self.server.bodies.append(body)
        return body

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def left(self) -> bool:
        """Wait until the client has closed the connection."""
        try:
            return not await self.reader.read(1)
        except ConnectionError:
            return True


Script = Callable[[Peer], Awaitable[object]]


class Server:
    """Plays `scripts[n]` on connection n, and the last one on all later connections, then closes the connection."""

    def __init__(self, *scripts: Script, host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> None:
        self.scripts, self.host, self.tls = scripts, host, tls
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.accepted = self.ended = 0
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}/v1"

    @property
    def url_by_name(self) -> str:
        return self.url.replace("127.0.0.1", "localhost")

    @property
    def url_tls(self) -> str:
        """Where a client begins a handshake that a plain server knows nothing of."""
        return self.url.replace("http:", "https:")

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, self.host, 0, ssl=self.tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._server.close()
        await self._server.wait_closed()

    def close(self) -> None:
        """Nobody else is let in."""
        self._server.close()

    def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = self.scripts[min(self.accepted, len(self.scripts) - 1)]
        self.accepted += 1
        task = asyncio.get_running_loop().create_task(self._play(script, Peer(self, reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _play(self, script: Script, peer: Peer) -> None:
        try:
            await script(peer)
        except ConnectionError:
            pass  # the client has left in the middle, as some tests want
        finally:
            self.ended += 1
            peer.writer.transport.abort()


def answers(*responses: bytes) -> Script:
    """One response per request, then wait for the client to leave."""

    async def script(peer: Peer) -> None:
        for response in responses:
            if await peer.request() is None:
                return
            await peer.send(response)
        await peer.left()

    return script


def always(response: bytes) -> Script:
    """The same response to every request."""

    async def script(peer: Peer) -> None:
        while await peer.request() is not None:
            await peer.send(response)

    return script


async def silence(peer: Peer) -> None:
    """Read nothing, say nothing."""
    await asyncio.Event().wait()


async def deaf(peer: Peer) -> None:
    """Read the request, never answer, wait for the client to leave."""
    await peer.request()
    await peer.left()


def hang_up(before: bytes = b"") -> Script:
    """Read a request, then close the connection, after some bytes perhaps."""

    async def script(peer: Peer) -> None:
        await peer.request()
        if before:
            await peer.send(before)
            peer.writer.close()
            await peer.writer.wait_closed()

    return script


def then(*scripts: Script) -> Script:
    """One after the other on one connection."""

    async def script(peer: Peer) -> None:
        for one in scripts:
            await one(peer)

    return script


def one(response: bytes) -> Script:
    """A request and its response; the connection stays."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(response)

    return script


class Noted(Exchange):
    """An exchange that notes what it hears; `enough`: finish once the body holds it."""

    def __init__(self, client: Client, head: bytes, body: bytes, enough: bytes = b"") -> None:
        super().__init__(b"%b%d\r\n\r\n%b" % (head, len(body), body))
        self.client, self.enough = client, enough
        self.body = b""
        self.order: list[str] = []
        self.ends: list[Failure | None] = []

    def on_head(self) -> None:
        self.order.append("head")

    def on_body(self, data: bytes) -> None:
        self.order.append("body")
        self.body += data
        if self.enough and self.enough in self.body:
            self.client.finish(self)
            self.order.append("finished")

    def on_end(self, failure: Failure | None) -> None:
        self.order.append("end")
        self.ends.append(failure)

    async def ended(self) -> tuple[int, bytes, Failure | None]:
        """Status, body and how it ended."""
        await until(lambda: self.ends or "finished" in self.order)
        return self.status, self.body, self.ends[0] if self.ends else None


class Caller:
    """A client of one server."""

    def __init__(self, url: str, limit: int = 10, connect_s: float = 5.0) -> None:
        to = target(url)
        self.client = Client(to, limit=limit, connect_s=connect_s)
        self.head = post_head(to, "/chat", {"Accept": "text/event-stream"})

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    def send(self, body: bytes = b"{}", enough: bytes = b"", repeatable: bool = True) -> Noted:
        noted = Noted(self.client, self.head, body, enough)
        noted.repeatable = repeatable
        self.client.send(noted)
        assert noted.order == [], "nothing is called from within send"
        return noted

    async def ask(self, body: bytes = b"{}", enough: bytes = b"") -> tuple[int, bytes, Failure | None]:
        return await self.send(body, enough).ended()
