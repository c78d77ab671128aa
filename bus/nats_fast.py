"""The short way through nats-py: messages go to their handler where they are parsed, a publish only fills a buffer.

nats-py puts each message into a queue and wakes a task for it, and each publish wakes a task that writes. Half of the
time of a small message went there. Here

- handlers registered in `direct` are called by the read loop itself, in the order of the wire; nothing queues up here:
  what is not read yet waits in the socket, and the server ends a connection that leaves too much unread
- `post` appends to nats-py's own buffer and writes once per turn of the event loop, however many messages that were
- a request costs one future and one timer

Everything else (connecting, reconnecting, subscriptions, control lines) is nats-py's, unchanged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import BadHeaderError, BadSubjectError, OutboundBufferLimitError
from nats.errors import TimeoutError as NoAnswer
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

Direct = Callable[[str, bytes, str, dict[str, str] | None], None]
"""Called with subject, payload, reply and headers; must return at once and not raise."""

BACKED_UP_BYTES = 8 << 20
"""Bytes that wait for the socket before a `post` is refused: the server takes nothing."""

_YIELD_EVERY = 64
_NOT_IN_SUBJECTS = frozenset(" \t\r\n")


class FastClient(Client):
    """nats-py's client with `post`, `direct` and a light `ask`."""

    def __init__(self) -> None:
        super().__init__()
        self.direct: dict[int, Direct] = {}
        self._ps = FastParser(self)
        self._write_due = False
        self._asked = 0

    def post(self, subject: str, payload: bytes, reply: str = "", headers: dict[str, str] | None = None) -> None:
        """Send without waiting; the caller has made sure of the connection and the size.

        Raises OutboundBufferLimitError while the socket takes nothing, BadSubjectError, BadHeaderError.
        """
        if not subject or not _NOT_IN_SUBJECTS.isdisjoint(subject) or not _NOT_IN_SUBJECTS.isdisjoint(reply):
            raise BadSubjectError
        if self.backed_up:
            raise OutboundBufferLimitError
        if headers is None:
            command = b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), len(payload), payload)
        else:
            lines = _header_lines(headers)
            sizes = len(lines), len(lines) + len(payload)
            command = b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject.encode(), reply.encode(), *sizes, lines, payload)
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += len(payload)
        self._pending.append(command)
        self._pending_data_size += len(command)
        if not self._write_due:
            self._write_due = True
            asyncio.get_running_loop().call_soon(self._write_pending)

    @property
    def backed_up(self) -> bool:
        """Whether so much waits for the socket that nothing more should be added."""
        return self._pending_data_size > BACKED_UP_BYTES

    def _write_pending(self) -> None:
        """What was posted in this turn goes out together; while the socket takes too little, it stays with us."""
        self._write_due = False
        writer: asyncio.StreamWriter | None = getattr(self._transport, "_io_writer", None)
        if not self._pending or not self.is_connected or writer is None:
            return  # a disconnect throws away what was unsent
        if writer.transport.get_write_buffer_size() > BACKED_UP_BYTES:
            self._write_due = True
            asyncio.get_running_loop().call_later(0.005, self._write_pending)
            return
        commands, self._pending, self._pending_data_size = self._pending, [], 0
        writer.write(b"".join(commands))

    async def ask(self, subject: str, payload: bytes, headers: dict[str, str] | None, timeout_s: float) -> Msg:
        """One request, one answer. Raises what `post` raises, and nats-py's TimeoutError."""
        if not self._resp_sub_prefix:
            await self._init_request_sub()
            sid = next(n for n, s in self._subs.items() if s._cb == self._request_sub_callback)  # pyright: ignore[reportPrivateUsage]
            self.direct[sid] = self._answered
        loop = asyncio.get_running_loop()
        self._asked += 1
        token, answer = f"{self._asked:x}", loop.create_future()
        self._resp_map[token] = answer
        late = loop.call_later(timeout_s, _give_up, answer)
        try:
            self.post(subject, payload, self._resp_sub_prefix.decode() + token, headers)
            return await answer
        finally:
            late.cancel()
            self._resp_map.pop(token, None)

    def _answered(self, subject: str, payload: bytes, reply: str, headers: dict[str, str] | None) -> None:
        answer = self._resp_map.get(subject.rpartition(".")[2])
        if answer is not None and not answer.done():
            answer.set_result(Msg(self, subject, reply, payload, headers))

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        handler = self.direct.get(sid)
        if handler is None:
            await super()._process_msg(sid, subject, reply, data, headers)
            return
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(data)
        handler(subject.decode(), data, reply.decode(), await self._process_headers(headers))


class FastParser(Parser):
    """Whole messages that arrive together are cut out in one pass; anything else is nats-py's to parse."""

    nc: FastClient

    async def parse(self, data: bytes = b"") -> None:
        """As nats-py's; gives way to other tasks every 64 messages."""
        if self.buf or self.state != AWAITING_CONTROL_LINE:
            await super().parse(data)
            return
        at, seen, nc = 0, 0, self.nc
        while data.startswith(b"MSG ", at):
            eol = data.find(b"\r\n", at)
            words = data[at + 4 : eol].split(b" ")
            if eol < 0 or not 3 <= len(words) <= 4 or not words[-1].isdigit():
                break
            begin = eol + 2
            end = begin + int(words[-1])
            if end + 2 > len(data):
                break
            at, payload = end + 2, data[begin:end]
            reply = words[2] if len(words) == 4 else b""
            handler = nc.direct.get(int(words[1]))
            if handler is None:
                await nc._process_msg(int(words[1]), words[0], reply, payload, None)  # type: ignore[arg-type]
            else:
                nc.stats["in_msgs"] += 1
                nc.stats["in_bytes"] += len(payload)
                handler(words[0].decode(), payload, reply.decode(), None)
            seen += 1
            if not seen % _YIELD_EVERY:
                await asyncio.sleep(0)  # else a backlog runs to its end before anybody else does
        if at < len(data):
            await super().parse(data[at:] if at else data)


def _header_lines(headers: dict[str, str]) -> bytes:
    lines = ["NATS/1.0"]
    for key, value in headers.items():
        if not key or ":" in key or not key.isascii() or not key.isprintable() or "\r" in value or "\n" in value:
            raise BadHeaderError(key)
        lines.append(f"{key}: {value}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _give_up(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(NoAnswer())
