"""The short way through nats-py: cut anywhere, a stream of bytes means what it means to nats-py's own parser."""

from __future__ import annotations

import asyncio
import itertools
import signal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client
from nats.protocol.parser import Parser

from tests.bus.kit import Opener, Until
from understudy.bus.nats_fast import BACKED_UP_BYTES, FastClient, header_fields
from understudy.bus.port import BusDown, Received
from understudy.bus.server import NatsServer

WORD = st.text("abcdefgh.XYZ0", min_size=1, max_size=12)
HEADERS = st.sampled_from([b"NATS/1.0\r\n\r\n", b"NATS/1.0 503\r\n\r\n", b"NATS/1.0\r\nNats-Msg-Id: a:b\r\n\r\n"])
MESSAGE = st.tuples(WORD, st.integers(1, 3), st.none() | WORD, st.none() | HEADERS, st.binary(max_size=40))


class Listening(FastClient):
    """A client that was never connected and notes what it would have delivered: 1 and 2 directly, 3 nats-py's way."""

    def __init__(self) -> None:
        super().__init__()
        self.got: list[tuple[Any, ...]] = []
        for sid in (1, 2):
            self.direct[sid] = lambda *parts, sid=sid: self.got.append((sid, *parts))

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        if sid in self.direct:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:
            fields = header_fields(headers) if headers else None
            self.got.append((sid, subject.decode(), data, reply.decode(), fields))

    async def _process_ping(self) -> None:
        self.got.append(("ping",))


def wire(message: tuple[str, int, str | None, bytes | None, bytes]) -> bytes:
    subject, sid, reply, headers, payload = message
    words = [subject, str(sid), *([reply] if reply else [])]
    if headers is None:
        head = " ".join(["MSG", *words, str(len(payload))])
    else:
        head = " ".join(["HMSG", *words, str(len(headers)), str(len(headers) + len(payload))])
    return head.encode() + b"\r\n" + (headers or b"") + payload + b"\r\n"


@given(st.lists(MESSAGE | st.just(None), max_size=8), st.lists(st.integers(0, 600), max_size=6))
def test_every_message_arrives_wherever_the_bytes_are_cut(messages: list[Any], cuts: list[int]) -> None:
    data = b"".join(b"PING\r\n" if one is None else wire(one) for one in messages)
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    client = Listening()

    async def feed(parser: Parser) -> list[tuple[Any, ...]]:
        client.got = []
        for begin, end in itertools.pairwise(bounds):
            await parser.parse(data[begin:end])
        return client.got

    ours, theirs = asyncio.run(feed(client._ps)), asyncio.run(feed(Parser(client)))
    assert ours == theirs and len(ours) == len(messages)


class Wire:
    """nats-py's transport as far as its read loop sees it."""

    def __init__(self) -> None:
        self._io_reader = asyncio.StreamReader()

    async def read(self, size: int) -> bytes:
        return await self._io_reader.read(size)

    def at_eof(self) -> bool:
        return self._io_reader.at_eof()


@given(st.lists(MESSAGE | st.just(None), max_size=200), st.lists(st.tuples(st.integers(1, 3000), st.booleans())))
def test_what_goes_past_the_read_loop_keeps_its_order(messages: list[Any], chunks: list[tuple[int, bool]]) -> None:
    """Bytes of any sizes, some while the read loop waits, some while it is still busy with those before."""
    data = b"".join(b"PING\r\n" if one is None else wire(one) for one in messages)

    async def read() -> list[tuple[Any, ...]]:
        client, line = Listening(), Wire()
        client._transport = line  # type: ignore[assignment]
        loop = asyncio.create_task(client._read_loop())
        await asyncio.sleep(0)
        at = 0
        for size, pause in [*chunks, (len(data), True)]:
            if data[at : at + size]:
                line._io_reader.feed_data(data[at : at + size])
            at += size
            for _ in range(20 if pause else 0):
                await asyncio.sleep(0)
        for _ in range(1000):
            if len(client.got) == len(messages):
                break
            await asyncio.sleep(0)
        loop.cancel()
        return client.got

    async def parsed() -> list[tuple[Any, ...]]:
        client = Listening()
        await Parser(client).parse(data)
        return client.got

    assert asyncio.run(read()) == asyncio.run(parsed())


@given(
    st.dictionaries(st.text("abcXYZ-", min_size=1), st.text("abc: /0", max_size=9)),
    st.sampled_from(["", " 503", " 100 Idle"]),
)
def test_headers_are_read_as_nats_py_reads_them(fields: dict[str, str], status: str) -> None:
    # After a status without description nats-py takes the next field for one; the server sends no such thing.
    if status:
        fields = {k: v for k, v in fields.items() if v.strip() and status == " 100 Idle"}
    lines = [f"NATS/1.0{status}", *(f"{k}: {v}" for k, v in fields.items())]
    raw = ("\r\n".join(lines) + "\r\n\r\n").encode()
    theirs = asyncio.run(Client()._process_headers(raw)) or {}
    assert {k: v.strip() for k, v in theirs.items()} == header_fields(raw)


@pytest.mark.parametrize(
    "rest", [b"MSG a 1 60\r\nold half", b"MSG a 3 60\r\nold half", b"MSG a", b"HMSG a 1 12 12\r\nNA"]
)
def test_half_a_message_of_the_old_connection_does_not_reach_the_new_one(rest: bytes) -> None:
    """Bytes that arrive after nats-py has given a connection up, and before it has closed it."""

    async def read() -> list[tuple[Any, ...]]:
        client = Listening()
        for data in (rest, b"MSG a 1 3\r\nnew\r\n"):
            line = Wire()
            client._transport = line  # type: ignore[assignment]
            loop = asyncio.create_task(client._read_loop())
            await asyncio.sleep(0)
            line._io_reader.feed_data(data)
            for _ in range(20):
                await asyncio.sleep(0)
            loop.cancel()
        return client.got

    assert asyncio.run(read()) == [(1, "a", b"new", "", None)]


async def test_a_server_that_takes_nothing_is_noticed_and_nothing_is_lost(
    server: NatsServer, connect: Opener, until: Until
) -> None:
    seen: list[Received] = []
    bus, reader = await connect(watch_s=0), await connect(watch_s=0)
    await reader.subscribe("big", seen.append)
    body, sent = b"x" * 1_000_000, 0
    server.signal(signal.SIGSTOP)
    try:
        with pytest.raises(BusDown):
            for sent in range(3 * BACKED_UP_BYTES // len(body) + 100):  # noqa: B007  # how many were taken
                bus.send("big", body)
                await asyncio.sleep(0)
    finally:
        server.signal(signal.SIGCONT)
    await until(lambda: len(seen) == sent, within_s=20)
    bus.send("big", b"after")
    await until(lambda: seen[-1].payload == b"after")
