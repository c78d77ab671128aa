"""The pool of HTTP connections: limits and order, reuse, connections that the server closed, IPv6, TLS."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.actors.runner.rawserver import (
    HELLO,
    OK,
    Caller,
    Peer,
    Server,
    always,
    both_loops,
    deaf,
    hang_up,
    one,
    silence,
    sized,
    then,
)
from tests.waiting import until
from understudy.actors.runner import http_pool, http_wire

LONG = OK + b"Content-Length: 5\r\n"

# --- the pool ------------------------------------------------------------------------------------------------------


@both_loops
async def test_the_limit_and_the_order_of_those_who_wait() -> None:
    gate = asyncio.Event()

    async def script(peer: Peer) -> None:
        while await peer.request() is not None:
            await gate.wait()
            await peer.send(HELLO)

    async with Server(script) as server, Caller(server.url, limit=2) as caller:
        noted = [caller.send(b"%d" % n) for n in range(7)]
        await until(lambda: len(server.bodies) == 2)
        caller.client.cancel(noted[3])
        gate.set()
        for n in (0, 1, 2, 4, 5, 6):
            assert await noted[n].ended() == (200, b"hello", None)
        assert server.accepted == 2 and noted[3].order == []
        assert sorted(server.bodies[:2]) == [b"0", b"1"]
        assert server.bodies[2:] == [b"2", b"4", b"5", b"6"]


@both_loops
async def test_a_place_is_taken_over_where_the_server_closes() -> None:
    closing = always(sized(b"hello", OK + b"Connection: close\r\n"))
    async with Server(closing) as server, Caller(server.url, limit=1) as caller:
        for noted in [caller.send() for _ in range(4)]:
            assert await noted.ended() == (200, b"hello", None)
        assert (server.accepted, len(server.bodies)) == (4, 4)


@both_loops
async def test_a_connection_that_is_being_closed_is_not_used() -> None:
    async with Server(always(HELLO)) as server, Caller(server.url) as caller:
        await caller.ask()
        caller.client._idle[0].transport.abort()
        assert await caller.ask() == (200, b"hello", None)
        assert (server.accepted, len(server.bodies)) == (2, 2)


@both_loops
async def test_the_connection_used_last_is_used_next_and_idle_ones_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_pool, "IDLE_S", 0.3)
    peers: list[Peer] = []

    async def script(peer: Peer) -> None:
        while await peer.request() is not None:
            peers.append(peer)
            await until(lambda: len(server.bodies) >= 3)
            await peer.send(HELLO)

    async with Server(script) as server, Caller(server.url) as caller:
        for noted in [caller.send() for _ in range(3)]:
            await noted.ended()
        used = {await caller.ask() and peers[-1] for _ in range(5)}
        assert len(used) == 1 and server.accepted == 3
        await until(lambda: server.ended == 3)
        await caller.ask()
        assert server.accepted == 4


@both_loops
async def test_nobody_at_the_endpoint_is_refused_and_frees_the_place() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound, not listening: nobody else can take it, nobody answers
        async with Caller(f"http://127.0.0.1:{free.getsockname()[1]}", limit=1) as caller:
            for noted in [caller.send() for _ in range(3)]:
                assert await noted.ended() == (0, b"", "refused")


@both_loops
async def test_a_server_that_accepts_and_closes() -> None:
    async def script(peer: Peer) -> None:
        """Leave at once."""

    async with Server(script) as server, Caller(server.url, limit=2) as caller:
        for noted in [caller.send() for _ in range(20)]:
            assert await noted.ended() == (0, b"", "broken")


@pytest.mark.parametrize("host", ["nobody.invalid", "x" * 70 + ".invalid"])
@both_loops
async def test_a_name_that_nobody_has(host: str) -> None:
    async with Caller(f"http://{host}:1") as caller:
        assert await caller.ask() == (0, b"", "refused")


@both_loops
async def test_the_time_to_connect_is_bounded() -> None:
    async with Server(silence) as server, Caller(server.url_tls, connect_s=0.05) as caller:
        assert await caller.ask() == (0, b"", "refused")


@both_loops
async def test_closing_ends_everything() -> None:
    async with Server(then(one(HELLO), deaf)) as server, Caller(server.url, limit=1) as caller:
        await caller.ask()
        for _ in range(2):
            caller.send()
        await until(lambda: len(server.bodies) == 2)
        await caller.client.close()
        await until(lambda: server.ended == 1)
    async with Server(silence) as server, Caller(server.url_tls) as caller:
        caller.send()
        await until(lambda: server.accepted == 1)


# --- connections that the server closed ----------------------------------------------------------------------------


@both_loops
async def test_a_connection_closed_while_idle_is_not_used() -> None:
    async with Server(one(HELLO), always(HELLO)) as server, Caller(server.url) as caller:
        await caller.ask()
        await until(lambda: server.ended == 1)
        assert await caller.ask() == (200, b"hello", None)
        assert (server.accepted, len(server.bodies)) == (2, 2)


@both_loops
async def test_connections_closed_while_idle_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_pool, "IDLE_S", 0.1)
    async with Server(one(HELLO)) as server, Caller(server.url) as caller:
        for noted in [caller.send() for _ in range(3)]:
            await noted.ended()
        await until(lambda: server.ended == 3)
        await until(lambda: not caller.client._idle)
        assert await caller.ask() == (200, b"hello", None)


@both_loops
async def test_a_reused_connection_that_ends_without_a_byte_is_asked_again_once() -> None:
    closing = then(one(HELLO), hang_up())
    async with Server(closing, closing, hang_up()) as server, Caller(server.url, limit=1) as caller:
        await caller.ask(b"1")
        assert await caller.ask(b"2") == (200, b"hello", None)
        assert (server.accepted, server.bodies) == (2, [b"1", b"2", b"2"])
        assert await caller.ask(b"3") == (0, b"", "broken"), "once, not for ever"
        assert (server.accepted, server.bodies[3:]) == (3, [b"3", b"3"])


@both_loops
async def test_what_has_a_price_is_not_asked_again() -> None:
    """One reservation pays for one call."""
    async with Server(then(one(HELLO), hang_up()), always(HELLO)) as server, Caller(server.url) as caller:
        await caller.ask(b"1")
        paid = caller.send(b"2", repeatable=False)
        assert await paid.ended() == (0, b"", "broken")
        assert (server.accepted, server.bodies) == (1, [b"1", b"2"])


@pytest.mark.parametrize("reset", [False, True])
@both_loops
async def test_asked_again_before_all_who_wait_and_within_the_limit(reset: bool) -> None:
    async def script(peer: Peer) -> None:
        await one(HELLO)(peer)
        await peer.request()
        await until(lambda: len(noted) == 3)
        if reset:
            linger = bytes([1, 0, 0, 0, 0, 0, 0, 0])
            peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    async with Server(script, always(HELLO)) as server, Caller(server.url, limit=1) as caller:
        await caller.ask(b"0")
        noted = [caller.send(b"%d" % n) for n in (1, 2, 3)]
        for one_of in noted:
            assert await one_of.ended() == (200, b"hello", None)
        assert (server.accepted, server.bodies) == (2, [b"0", b"1", b"1", b"2", b"3"])


@pytest.mark.parametrize("before", [b"H", b"HTTP/1.1 100 Continue\r\n\r\n"])
@both_loops
async def test_what_was_answered_is_not_asked_again(before: bytes) -> None:
    async with Server(then(one(HELLO), hang_up(before))) as server, Caller(server.url) as caller:
        await caller.ask()
        assert (await caller.ask())[2] == "broken"
        assert len(server.bodies) == 2


@both_loops
async def test_what_was_worked_on_is_not_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_wire, "STALE_S", 0.0)
    async with Server(then(one(HELLO), hang_up())) as server, Caller(server.url) as caller:
        await caller.ask()
        assert (await caller.ask())[2] == "broken"
        assert len(server.bodies) == 2


# --- IPv6 and TLS -----------------------------------------------------------------------------------------------------


@both_loops
async def test_ipv6() -> None:
    try:
        server = await Server(always(HELLO), host="::1").__aenter__()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    async with Caller(server.url) as caller:
        assert await caller.ask() == (200, b"hello", None)
        assert f"Host: [::1]:{server.port}\r\n".encode() in server.heads[0]
    await server.__aexit__()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Self-signed, for `localhost`; key and certificate in one file."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    what = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    names += ["-keyout", str(folder / "key"), "-out", str(folder / "crt")]
    subprocess.run([program, *what, *names], check=True, capture_output=True, timeout=30)
    both = folder / "both.pem"
    both.write_bytes((folder / "key").read_bytes() + (folder / "crt").read_bytes())
    return both


Trust = Callable[[], ssl.SSLContext]


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Trust:
    """A server's context; called, it makes clients trust it as an operator would (SSL_CERT_FILE)."""

    def trust() -> ssl.SSLContext:
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        return context(certificate)

    return trust


def context(certificate: Path) -> ssl.SSLContext:
    found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    found.load_cert_chain(certificate)
    return found


@both_loops
async def test_tls_with_a_trusted_certificate(trusted: Trust) -> None:
    script = then(one(HELLO), one(HELLO), deaf)
    async with Server(script, tls=trusted()) as server, Caller(server.url_by_name) as caller:
        for _ in range(2):
            assert await caller.ask() == (200, b"hello", None)
        noted = caller.send()
        await until(lambda: len(server.bodies) == 3)
        caller.client.cancel(noted)
        await until(lambda: server.ended == 1)
        assert server.accepted == 1


@both_loops
async def test_tls_with_a_certificate_of_another_name(trusted: Trust) -> None:
    async with Server(always(HELLO), tls=trusted()) as server, Caller(server.url) as caller:
        assert await caller.ask() == (0, b"", "refused")


@both_loops
async def test_tls_with_an_unknown_certificate(certificate: Path) -> None:
    async with Server(always(HELLO), tls=context(certificate)) as server, Caller(server.url_by_name) as caller:
        assert await caller.ask() == (0, b"", "refused")
