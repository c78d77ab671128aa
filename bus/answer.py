"""One request of a component: asked, read, and asked again where the bus or a selector failed, until it has its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Generator
from types import TracebackType
from typing import Any, Self

from msgspec.structs import replace

from understudy.bus.port import Bus, BusError, Received, Subscription
from understudy.bus.reading import Need, Piece, Reading
from understudy.messages.base import Message
from understudy.messages.generate import ADVICE, Cancel, Failed, Finished, Generate, Resend, Resume, Started
from understudy.messages.tools import ToolCall
from understudy.messages.wire import WireError, decode, encode

DEFAULT_DEADLINE_MS = 60_000
GRACE_S = 3.0
"""An end reaches the reader by deadline + 2 s; a little more for the way."""
NOBODY_S = 5.0
"""So long a request is offered again while nobody listens (certainly not run, so safe to repeat)."""
QUIET_S = 1.0
"""After so long without a word we ask whether the run is still there."""
AGAIN_S = 0.1
UNHEARD = 3
"""So often a selector may not be there before the request is offered to another one."""


class AnswerFailed(Exception):
    """The request ended without a whole answer; `failed` has the code and what to do, `text` what had come."""

    def __init__(self, failed: Failed, text: str = "") -> None:
        super().__init__(f"{failed.code}: {failed.text}")
        self.failed, self.text, self.code = failed, text, failed.code


class _Nobody(Message, frozen=True, tag="nobody"):
    """The server's notice that nobody listens on the subject."""


class _Lost(Message, frozen=True, tag="lost"):
    """The connection was made anew: messages may be missing."""


class Answer:
    """One request: await it for the whole, or iterate over its pieces. `text` is what holds after the seam rule.

    It carries a `request_id`, so that asking again is safe. Where a selector died, the answer goes on as a new run from
    the text that was kept; to the application that is one more seam.
    """

    def __init__(self, bus: Bus, app: str, ask: Generate, watch: set[Answer]) -> None:
        self._bus, self._app, self._watch = bus, app, watch
        self._inbox = bus.new_inbox()
        token = self._inbox.rpartition(".")[2]
        self._ask = ask if ask.request_id else replace(ask, request_id=token)
        self._asked = self._ask  # the newest form: with less time, and what is resumed
        self._queue: asyncio.Queue[Message] = asyncio.Queue()
        self._sub: Subscription | None = None
        self._read = Reading()
        self._runs = self._unheard = 0
        self._until = self._nobody_until = 0.0

    @property
    def text(self) -> str:
        """What the reader holds now."""
        return self._read.text

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tools that the model calls, as far as it was told."""
        return self._read.tool_calls

    @property
    def run_id(self) -> str:
        """The run that speaks now; '' before it has begun."""
        return self._read.run_id

    @property
    def instance(self) -> str:
        """The selector that conducts it."""
        return self._read.instance

    @property
    def model(self) -> str:
        """The model that speaks now."""
        return self._read.model

    @property
    def finished(self) -> Finished | None:
        """The whole answer, once it is there."""
        return self._read.finished

    def __await__(self) -> Generator[Any, None, Finished]:
        return self._whole().__await__()

    async def _whole(self) -> Finished:
        async with self:
            async for _ in self:
                pass
        assert self.finished is not None
        return self.finished

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self._leave()

    async def __aiter__(self) -> AsyncIterator[Piece]:
        """Pieces in order, ending with `Finished`. Raises AnswerFailed."""
        self._until = self._now() + (self._ask.deadline_ms or DEFAULT_DEADLINE_MS) / 1000 + GRACE_S
        self._nobody_until = min(self._until, self._now() + NOBODY_S)
        self._watch.add(self)
        try:
            await self._begin()
            while True:
                pieces, need = self._take(await self._next())
                for piece in pieces:
                    yield piece
                if self.finished is not None:
                    return
                await self._do(need)
        finally:
            await self._leave()

    # --- what is to be done ----------------------------------------------------------------------------------------

    def _take(self, message: Message | None) -> tuple[list[Piece], Need]:
        match message:
            case None | _Lost():
                # Whoever took it may be slow, or stopped; the next repeat may reach another. Only `nobody` is nobody.
                self._nobody_until = min(self._until, self._now() + NOBODY_S)
                return [], "resend" if self.instance else "repeat"
            case _Nobody():  # of a selector that was there: it is gone, and a sibling ends its runs soon
                self._unheard += 1
                return [], "" if self.instance and self._unheard < UNHEARD else "repeat"
            case _:
                self._unheard = 0
                pieces, need = self._read.take(message)
                for piece in pieces:
                    if isinstance(piece, Started) and self._ask.deadline_ms is None:
                        self._until = max(self._until, self._now() + piece.deadline_ms / 1000 + GRACE_S)
                return pieces, need

    async def _do(self, need: Need) -> None:
        match need:
            case "resend":
                order = Resend(run_id=self.run_id, from_seq=self._read.next_seq)
                await self._publish(f"{self._app}.ask.model.resend.{self.instance}", encode(order))
            case "repeat":
                await self._repeat()
            case "resume":
                await self._resume()
            case "fail":
                assert self._read.failed is not None
                raise AnswerFailed(self._read.failed, self.text)
            case "":
                pass

    async def _repeat(self) -> None:
        """Ask for the same run once more; the `request_id` makes it one, however often."""
        if not self.run_id and self._now() > self._nobody_until:
            raise AnswerFailed(self._read.failed or self._nobody(), self.text)
        await asyncio.sleep(AGAIN_S)
        await self._send()

    async def _resume(self) -> None:
        """That run is over, the answer is not: go on as a new one from the text that we hold."""
        self._runs += 1
        self._read.leave_run()
        self._nobody_until = min(self._until, self._now() + NOBODY_S)
        text = self._read.text
        resume = Resume(run_id=self._ask.request_id or "", text=text) if text else self._ask.resume
        self._asked = replace(self._ask, request_id=f"{self._ask.request_id}-{self._runs}", resume=resume)
        await self._send()

    # --- the way out and in ----------------------------------------------------------------------------------------

    async def _begin(self) -> None:
        """Subscribe, and offer the request until the bus takes it."""
        self._sub = await self._bus.subscribe(self._inbox, self._on_message, settle=False)
        await self._send()

    async def _send(self) -> None:
        left_ms = int((self._until - GRACE_S - self._now()) * 1000)
        if left_ms <= 0:
            raise AnswerFailed(self._late(), self.text)
        given = self._ask.deadline_ms
        ask = self._asked if given is None and not self._runs else replace(self._asked, deadline_ms=left_ms)
        await self._publish(f"{self._app}.ask.model.generate", encode(ask))

    async def _publish(self, subject: str, payload: bytes) -> None:
        """Without a connection nothing is sent; the silence makes us try again."""
        with contextlib.suppress(BusError):
            await self._bus.publish(subject, payload, reply=self._inbox)

    def _on_message(self, received: Received) -> None:
        if received.no_responders:
            self._queue.put_nowait(_Nobody())
            return
        with contextlib.suppress(WireError):
            message = decode(received.payload)
            if isinstance(message, Message):
                self._queue.put_nowait(message)

    def connection_lost(self) -> None:
        """Told by the client when its connection was made anew."""
        self._queue.put_nowait(_Lost())

    async def _next(self) -> Message | None:
        """The next message; None after a silence. Raises AnswerFailed at the deadline."""
        left_s = self._until - self._now()
        if left_s <= 0:
            raise AnswerFailed(self._late(), self.text)
        try:
            async with asyncio.timeout(min(QUIET_S, left_s)):
                return await self._queue.get()
        except TimeoutError:
            return None

    async def _leave(self) -> None:
        """Close the inbox; cancel the run if it has not ended."""
        self._watch.discard(self)
        sub, self._sub = self._sub, None
        if sub is None:
            return
        if self.finished is None and self.instance and self._read.failed is None:
            subject = f"{self._app}.ask.model.cancel.{self.instance}"
            with contextlib.suppress(BusError):
                await self._bus.publish(subject, encode(Cancel(run_id=self.run_id)))
        await sub.stop()

    def _late(self) -> Failed:
        code = "deadline_exceeded" if self._bus.connected else "bus_down"
        return Failed(code=code, text=ADVICE[code])

    @staticmethod
    def _nobody() -> Failed:
        return Failed(code="bus_down", text="Nobody answers `model.generate`: is `understudy up` running?")

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
