"""HTTP on one connection, against raw bytes on real sockets: framing, faults, floods, readers who leave."""

from __future__ import annotations

import asyncio

import pytest

from tests.actors.runner.rawserver import (
    CHUNKED,
    HELLO,
    OK,
    Caller,
    Noted,
    Peer,
    Server,
    always,
    answers,
    both_loops,
    chunk,
    deaf,
    hang_up,
    one,
    sized,
)
from tests.waiting import until
from understudy.actors.runner import http_wire
from understudy.actors.runner.http_wire import post_head
from understudy.messages.address import target

LONG = OK + b"Content-Length: 5\r\n"

# --- framing -------------------------------------------------------------------------------------------------------

WHOLE: dict[str, bytes] = {
    "chunked": HELLO,
    "length": sized(b"hello"),
    "one-o": sized(b"hello", b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n"),
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n" + sized(b"hello"),
    "hints": b"HTTP/1.1 103 Early Hints\r\nLink: <x>\r\n\r\n" * 3 + HELLO,
    "extension": CHUNKED + b"5;x=y\r\nhello\r\n0\r\n\r\n",
    "trailer": CHUNKED + chunk(b"hello") + b"0\r\nServer-Timing: x\r\n\r\n",
    "no-reason": sized(b"hello", b"HTTP/1.1 200\r\n"),
}


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("step", [1, 3, 10_000])
@both_loops
async def test_whole_responses_and_the_next_on_the_same_connection(name: str, step: int) -> None:
    async def script(peer: Peer) -> None:
        while await peer.request() is not None:
            for at in range(0, len(WHOLE[name]), step):
                await peer.send(WHOLE[name][at : at + step])
                await asyncio.sleep(0)

    async with Server(script) as server, Caller(server.url) as caller:
        for _ in range(3):
            assert await caller.ask() == (200, b"hello", None)
        assert server.accepted == 1


@both_loops
async def test_what_is_sent() -> None:
    async with Server(always(HELLO)) as server, Caller(server.url) as caller:
        await caller.ask(b'{"a":1}')
        assert server.heads == [
            f"POST /v1/chat HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nAccept: text/event-stream\r\n"
            "Content-Length: 7\r\n\r\n".encode()
        ]
        assert server.bodies == [b'{"a":1}']


@pytest.mark.parametrize("head", [OK, OK + b"Connection: close\r\n", b"HTTP/1.0 200 OK\r\n"])
@both_loops
async def test_an_end_by_the_end_of_the_connection(head: bytes) -> None:
    async with Server(hang_up(head + b"\r\nhello")) as server, Caller(server.url) as caller:
        assert await caller.ask() == (200, b"hello", None)
        assert await caller.ask() == (200, b"hello", None)
        assert server.accepted == 2


@pytest.mark.parametrize("head", [OK + b"Connection: close\r\n", b"HTTP/1.0 200 OK\r\n"])
@both_loops
async def test_a_server_that_will_close_is_not_asked_again(head: bytes) -> None:
    async with Server(always(sized(b"hello", head))) as server, Caller(server.url) as caller:
        assert await caller.ask() == (200, b"hello", None)
        await until(lambda: server.ended == 1)  # closed by us: the server waits for another request
        assert await caller.ask() == (200, b"hello", None)
        assert server.accepted == 2


@both_loops
async def test_the_order_of_what_is_heard() -> None:
    async with Server(always(HELLO)) as server, Caller(server.url) as caller:
        noted = caller.send()
        await noted.ended()
        assert noted.order == ["head", "body", "end"]
        assert noted.headers == [(b"Transfer-Encoding", b"chunked")]


@both_loops
async def test_trailers_are_no_headers() -> None:
    async with Server(always(CHUNKED + b"0\r\nRetry-After: 9\r\n\r\n")) as server, Caller(server.url) as caller:
        noted = caller.send()
        assert await noted.ended() == (200, b"", None)
        assert noted.headers == [(b"Transfer-Encoding", b"chunked")]


BROKEN: dict[str, bytes] = {
    "nothing": b"",
    "half a head": OK + b"Content-Le",
    "interim only": b"HTTP/1.1 100 Continue\r\n\r\n",
    "no body": LONG + b"\r\n",
    "short body": LONG + b"\r\nhel",
    "no last chunk": CHUNKED + chunk(b"hello"),
    "half a chunk": CHUNKED + b"5\r\nhel",
    "chunk size": CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n",
    "endless chunk size": CHUNKED + b"f" * 40,
    "chunk too long": CHUNKED + b"3\r\nhello\r\n0\r\n\r\n",
    "two framings": LONG + b"Transfer-Encoding: chunked\r\n\r\n" + chunk(b"hello") + chunk(b""),
    "two lengths": LONG + b"Content-Length: 6\r\n\r\nhello!",
    "negative length": OK + b"Content-Length: -1\r\n\r\nhello",
    "another version": b"HTTP/2 200 OK\r\n\r\n",
    "no HTTP": b"<html>sorry</html>",
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello",
}


@pytest.mark.parametrize("name", BROKEN)
@both_loops
async def test_broken_responses(name: str) -> None:
    async with Server(hang_up(BROKEN[name]), always(HELLO)) as server, Caller(server.url) as caller:
        noted = caller.send()
        assert (await noted.ended())[2] == "broken"
        assert noted.ends == ["broken"]
        assert await caller.ask() == (200, b"hello", None)
        assert server.accepted == 2


@pytest.mark.parametrize(
    ("begin", "more"),
    [
        (OK, b"X-Flood: %b\r\n" % (b"x" * 1000)),
        (OK + b"X: ", b"x" * 1000),
        (b"", b"HTTP/1.1 100 Continue\r\nX: %b\r\n\r\n" % (b"x" * 1000)),
        (CHUNKED + chunk(b"hello") + b"0\r\n", b"X-Flood: %b\r\n" % (b"x" * 1000)),
        (CHUNKED, b"5;%b" % (b"x" * 1000)),
    ],
    ids=["headers", "header", "interim", "trailers", "extension"],
)
@both_loops
async def test_a_flood_without_a_body_is_cut_off(begin: bytes, more: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(begin)
        while True:
            await peer.send(more)
            await asyncio.sleep(0)

    async with Server(script) as server, Caller(server.url) as caller:
        assert (await caller.ask())[2] == "broken"
        await until(lambda: server.ended == 1)


@both_loops
async def test_framing_between_pieces_of_a_body_is_no_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_wire, "HEAD_BYTES", 100)
    async with Server(deaf) as server, Caller(server.url) as caller:
        noted = caller.send()
        await until(lambda: server.bodies)
        (connection,) = caller.client._connections
        for part in (CHUNKED, *(b"5\r\n", b"hello", b"\r\n") * 60, chunk(b"")):
            connection.data_received(part)  # over a socket they might arrive together
        assert await noted.ended() == (200, b"hello" * 60, None)


SURPLUS = [sized(b"evil"), b"HTTP/1.1 2", b"rubbish", b"\r\nHTTP/1.1 200 OK\r\n\r\n"]


@pytest.mark.parametrize(("late", "surplus"), [*((late, s) for late in (0, 1) for s in SURPLUS), (1, b"\r\n")])
@both_loops
async def test_bytes_that_nobody_asked_for_close_the_connection(late: int, surplus: bytes) -> None:
    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(sized(b"hello") + (b"" if late else surplus))
        if late:
            await until(lambda: noted.ends)
            await peer.send(surplus)
        await peer.left()

    async with Server(script, always(HELLO)) as server, Caller(server.url) as caller:
        noted = caller.send()
        assert await noted.ended() == (200, b"hello", None)
        await until(lambda: server.ended == 1)
        assert await caller.ask() == (200, b"hello", None)


@both_loops
async def test_an_answer_before_the_request_was_read() -> None:
    """A server may say no to a request that is too long without reading it; the rest of it would be in the way."""

    async def script(peer: Peer) -> None:
        await peer.send(sized(b"too long", b"HTTP/1.1 413 Content Too Large\r\n"))
        await until(lambda: noted.ends)
        while await peer.reader.read(65536):
            pass

    async with Server(script, always(HELLO)) as server, Caller(server.url) as caller:
        noted = caller.send(bytes(32_000_000))
        assert await noted.ended() == (413, b"too long", None)
        assert await caller.ask() == (200, b"hello", None)
        assert server.accepted == 2


# --- a reader that has enough, or wants no more --------------------------------------------------------------------

DONE = CHUNKED + chunk(b"[DONE]")


@pytest.mark.parametrize("step", [1, 10_000])
@both_loops
async def test_a_response_that_ends_soon_after_its_reader_leaves_the_connection_in_use(step: int) -> None:
    async def script(peer: Peer) -> None:
        while await peer.request() is not None:
            whole = DONE + chunk(b"more") + chunk(b"")
            for at in range(0, len(whole), step):
                await peer.send(whole[at : at + step])
                await asyncio.sleep(0)

    async with Server(script) as server, Caller(server.url, limit=1) as caller:
        for _ in range(3):
            status, body, failure = await caller.ask(enough=b"[DONE]")
            assert (status, body[:6], failure) == (200, b"[DONE]", None)
        assert server.accepted == 1


@pytest.mark.parametrize("rest", [b"", b"no chunk"])
@both_loops
async def test_a_response_that_does_not_end_is_left(rest: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_wire, "LINGER_S", 0.02)
    async with Server(answers(DONE + rest), always(HELLO)) as server, Caller(server.url, limit=1) as caller:
        noted = caller.send(enough=b"[DONE]")
        assert await noted.ended() == (200, b"[DONE]", None)
        assert await caller.ask() == (200, b"hello", None)
        await until(lambda: server.ended == 1)
        assert noted.ends == []


@both_loops
async def test_a_connection_that_was_left_for_a_while_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_wire, "LINGER_S", 0.1)

    async def script(peer: Peer) -> None:
        await one(DONE)(peer)
        await until(lambda: "finished" in first.order)
        await peer.send(chunk(b""))
        await one(DONE)(peer)
        await asyncio.sleep(0.2)  # longer than the first was waited for
        await peer.send(chunk(b"late") + chunk(b""))

    async with Server(script) as server, Caller(server.url) as caller:
        first = caller.send(enough=b"[DONE]")
        await first.ended()
        await until(lambda: caller.client._idle)
        assert await caller.ask() == (200, b"[DONE]late", None)


@both_loops
async def test_nothing_is_heard_after_a_cancel(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Server(always(HELLO)) as server, Caller(server.url) as caller:
        noted = caller.send()
        monkeypatch.setattr(Noted, "on_head", lambda self: self.client.cancel(self))
        await until(lambda: server.ended == 1)
        assert (noted.status, noted.order) == (200, [])


@pytest.mark.parametrize("script", [deaf, answers(CHUNKED + chunk(b"hello"))], ids=["before", "in the middle"])
@both_loops
async def test_a_cancelled_call_closes_its_connection_at_once(script: object) -> None:
    async with Server(script, always(HELLO)) as server, Caller(server.url, limit=1) as caller:  # type: ignore[arg-type]
        noted = caller.send()
        await until(lambda: server.bodies and (script is deaf or noted.body))
        waiting = caller.send()
        caller.client.cancel(noted)
        caller.client.cancel(noted)
        assert await waiting.ended() == (200, b"hello", None)
        await until(lambda: server.ended == 1)
        assert noted.ends == []


@both_loops
async def test_cancelled_while_the_connection_is_being_opened() -> None:
    async def script(peer: Peer) -> None:
        assert await peer.reader.read(1)  # TLS: the client speaks first
        while await peer.reader.read(4096):
            pass

    async with Server(script) as server, Caller(server.url_tls, limit=1) as caller:
        first, second, third = caller.send(), caller.send(), caller.send()
        await until(lambda: server.accepted == 1)
        caller.client.cancel(second)
        caller.client.cancel(first)
        await until(lambda: server.ended == 1)
        await until(lambda: server.accepted == 2)  # the third has its turn
        caller.client.cancel(third)
        await until(lambda: server.ended == 2)
        assert first.ends == second.ends == third.ends == []


# --- heads ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["sec\r\nX: y", "sec\nret", "sec\0ret", "secrét", "sec\x7fret"])
def test_no_line_breaks_get_into_a_head_and_no_value_into_an_error(key: str) -> None:
    with pytest.raises(ValueError, match="Authorization") as caught:
        post_head(target("http://localhost/v1"), "/chat", {"Authorization": key})
    assert "sec" not in repr(caught.value) and caught.value.__cause__ is None
