"""The short way through nats-py: messages go to their handler where they are parsed, a publish only fills a buffer.

nats-py puts each message into a queue and wakes a task for it, and each publish wakes a task that writes. Half of the
time of a small message went there. Here

- handlers registered in `direct` are called where the bytes arrive, in the order of the wire; nothing queues up here:
  what is not read yet waits in the socket, and the server ends a connection that leaves too much unread
- while nats-py's read loop waits for bytes, whole messages never get to it; whatever else arrives (control lines, parts
  of a message, messages with a handler of nats-py's own) it reads as ever
- `post` appends to nats-py's own buffer and writes once per turn of the event loop, however many messages that were
- a request costs one future and one timer

Everything else (connecting, reconnecting, subscriptions, control lines) is nats-py's, unchanged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import BadHeaderError, BadSubjectError, OutboundBufferLimitError
from nats.errors import TimeoutError as NoAnswer
from nats.protocol.parser import AWAITING_CONTROL_LINE, Parser

from understudy.bus.nats_message import REPEATED, as_stored

Direct = Callable[[str, bytes, str, dict[str, str] | None], None]
"""Called with subject, payload, reply and headers; must return at once. What it raises is reported.

A consumer's delivery brings no headers but none (None) where they are those of an event, and empty ones elsewhere.
"""

Answered = Callable[[Msg | Exception], None]
"""Called once, on the event loop, with the one answer, nats-py's TimeoutError, or why none can come any more."""

BACKED_UP_BYTES = 8 << 20
"""Bytes that wait for the socket before a `post` is refused: the server takes nothing."""

_YIELD_EVERY = 64


def _breaks_line(subject: str) -> bool:
    """Would it end its word of a protocol line? (Faster than a set or an expression.)"""
    return " " in subject or "\n" in subject or "\r" in subject or "\t" in subject


_DELIVERY = b"$JS.ACK."
_SHORT_BYTES = 128 << 10
"""A message of which a part is here waits for the rest as it is, if it is short; a long one is gathered by nats-py."""


class FastClient(Client):
    """nats-py's client with `post`, `direct` and a light `ask`."""

    def __init__(self) -> None:
        super().__init__()
        self.direct: dict[int, Direct] = {}
        self._parser = FastParser(self)
        self._ps = self._parser
        self._write_due = False
        self._turns: asyncio.AbstractEventLoop | None = None  # kept: looking it up is a call into the kernel
        self._asked = 0
        self._answers_at = ""
        self._answers: dict[str, tuple[Answered, asyncio.TimerHandle]] = {}

    def post(self, subject: str, payload: bytes, reply: str = "", headers: dict[str, str] | None = None) -> None:
        """Send without waiting; the caller has made sure of the connection and the size.

        Raises OutboundBufferLimitError while the socket takes nothing, BadSubjectError, BadHeaderError.
        """
        if not subject or _breaks_line(subject) or _breaks_line(reply):
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
            self._loop().call_soon(self._write_pending)

    def _loop(self) -> asyncio.AbstractEventLoop:
        if self._turns is None:
            self._turns = asyncio.get_running_loop()
        return self._turns

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
            self._loop().call_later(0.005, self._write_pending)
            return
        commands, self._pending, self._pending_data_size = self._pending, [], 0
        writer.write(b"".join(commands))

    async def listen(self, subject: str, handler: Direct, queue: str = "") -> Subscription:
        """Subscribe with a handler that the read loop calls itself."""
        sub = await self.subscribe(subject, queue=queue, cb=elsewhere)
        self.direct[sub._id] = handler  # pyright: ignore[reportPrivateUsage]
        return sub

    async def hear_answers(self) -> None:
        """Be ready for `inquire`; once, after connecting."""
        prefix = self.new_inbox() + "."
        await self.listen(f"{prefix}*", self._answered)
        self._answers_at = prefix

    def inquire(
        self, subject: str, payload: bytes, headers: dict[str, str] | None, timeout_s: float, answered: Answered
    ) -> str:
        """One request, one answer, never told before this returns; returns a token for `forget`. Raises as `post`."""
        self._asked += 1
        token = f"{self._asked:x}"
        self.post(subject, payload, self._answers_at + token, headers)
        late = self._loop().call_later(timeout_s, self._resolve, token, NoAnswer())
        self._answers[token] = answered, late
        return token

    def forget(self, token: str) -> None:
        """Nobody waits for this answer any longer."""
        _, late = self._answers.pop(token, (None, None))
        if late is not None:
            late.cancel()

    async def ask(self, subject: str, payload: bytes, headers: dict[str, str] | None, timeout_s: float) -> Msg:
        """One request, one answer. Raises what `post` raises, and nats-py's TimeoutError."""
        if not self._answers_at:
            await self.hear_answers()
        waiting: asyncio.Future[Msg | Exception] = asyncio.get_running_loop().create_future()

        def answered(answer: Msg | Exception) -> None:
            if not waiting.done():
                waiting.set_result(answer)

        token = self.inquire(subject, payload, headers, timeout_s, answered)
        try:
            answer = await waiting
        finally:
            self.forget(token)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def give_up_answers(self, why: Exception) -> None:
        """No answer comes over a connection that is gone."""
        for token in list(self._answers):
            self._resolve(token, why)

    def _answered(self, subject: str, payload: bytes, reply: str, headers: dict[str, str] | None) -> None:
        self._resolve(subject.rpartition(".")[2], Msg(self, subject, reply, payload, headers))

    def _resolve(self, token: str, answer: Msg | Exception) -> None:
        waiting = self._answers.pop(token, None)
        if waiting is None:
            return
        answered, late = waiting
        late.cancel()
        try:
            answered(answer)
        except Exception as error:  # noqa: BLE001  # told from timers and disconnects too
            self.handler_failed(error)

    def hand_over(self, sid: int, subject: bytes, reply: bytes, payload: bytes, headers: bytes | None) -> None:
        """A message that has arrived, to the handler of its subscription."""
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(payload)
        try:
            if reply.startswith(_DELIVERY):  # the headers of whoever stored it: only whether they are an event's
                found = None if as_stored(headers) else {}
            else:
                found = None if headers is None else header_fields(headers)
            self.direct[sid](subject.decode(), payload, reply.decode(), found)
        except Exception as error:  # noqa: BLE001  # raising into nats-py would kill its read loop
            self.handler_failed(error)

    def handler_failed(self, error: Exception) -> None:
        """Told what a handler in `direct` raised."""

    async def _read_loop(self) -> None:
        # The old connection may have left half a message behind: bytes come past its read loop until it is closed.
        self._parser.reset()
        reader: asyncio.StreamReader | None = getattr(self._transport, "_io_reader", None)
        if reader is not None:
            reader.feed_data = _Shortcut(self._parser, reader)  # pyright: ignore[reportAttributeAccessIssue]
        await super()._read_loop()

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        if sid in self.direct:
            self.hand_over(sid, subject, reply, data, headers or None)
        else:
            await super()._process_msg(sid, subject, reply, data, headers)


class FastParser(Parser):
    """Whole messages that arrive together are cut out in one pass; anything else is nats-py's to parse."""

    nc: FastClient

    async def parse(self, data: bytes = b"") -> None:
        """As nats-py's; gives way to other tasks every 64 messages."""
        if self.state != AWAITING_CONTROL_LINE:
            await super().parse(data)
            return
        while True:
            left = self.cut(data, _YIELD_EVERY)
            if len(left) == len(data) or not left:
                break
            data = left
            await asyncio.sleep(0)  # else a backlog runs to its end before anybody else does
        if left:
            await super().parse(left)

    def cut(self, data: bytes, limit: int) -> bytes:
        """Hand over whole messages from the front of what was kept and `data`, at most `limit`; returns the rest.

        A short message of which only a part is here is kept: nothing is returned then. The caller has made sure that
        nats-py's own parser is not within a message.
        """
        if self.buf:  # what the last turn left over: else a flood would never come back to the short way
            data = bytes(self.buf) + data
            self.buf.clear()
        at, size, nc = 0, len(data), self.nc
        while at < size and limit > 0:
            eol = data.find(b"\r\n", at)
            words = data[at:eol].split(b" ")
            has_headers = words[0] == b"HMSG"
            known = has_headers or words[0] == b"MSG"
            if not known or eol < 0 or not 4 <= len(words) - has_headers <= 5 or not words[-1].isdigit():
                break
            sid = int(words[2])
            if sid not in nc.direct:
                break
            begin = eol + 2
            end = begin + int(words[-1])
            if end + 2 > size:
                if end - at > _SHORT_BYTES:
                    break
                self.buf.extend(data[at:])
                return b""
            at, headers = end + 2, None
            if has_headers:
                headers = data[begin : begin + int(words[-2])]
                begin += len(headers)
            limit -= 1
            nc.hand_over(sid, words[1], words[3] if len(words) == 5 + has_headers else b"", data[begin:end], headers)
        return data[at:] if at else data


class _Shortcut:
    """In the place of a stream reader's `feed_data`: while its one reader waits, whole messages go past it."""

    def __init__(self, parser: FastParser, reader: asyncio.StreamReader) -> None:
        self._parser, self._reader = parser, reader
        self._feed = reader.feed_data

    def __call__(self, data: bytes) -> None:
        """Bytes have arrived."""
        waits = self._reader._waiter is not None  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        if waits and self._parser.state == AWAITING_CONTROL_LINE:
            data = self._parser.cut(bytes(data), _YIELD_EVERY)
        if data:
            self._feed(data)


async def elsewhere(_: object) -> None:
    """nats-py wants a callback; messages go to the handler in `direct`."""


def header_fields(raw: bytes) -> dict[str, str]:
    """Headers as nats-py gives them, the last of a name: the status line as `Status` and `Description`, where there is
    one, and `REPEATED`."""
    first, *lines = raw.decode(errors="surrogateescape").split("\r\n")
    fields: dict[str, str] = {}
    words = first.split(" ", 2)
    if len(words) > 1:
        fields["Status"] = words[1]
        if len(words) > 2:
            fields["Description"] = words[2]
    for line in lines:
        key, colon, value = line.partition(":")
        if colon:
            if key == "Nats-Stream" and key in fields:
                fields[REPEATED] = key
            fields[key] = value.strip()
    return fields


def _header_lines(headers: dict[str, str]) -> bytes:
    lines = ["NATS/1.0"]
    for key, value in headers.items():
        if not key or ":" in key or not key.isascii() or not key.isprintable() or "\r" in value or "\n" in value:
            raise BadHeaderError(key)
        lines.append(f"{key}: {value}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()
