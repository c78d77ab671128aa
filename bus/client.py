"""What other components import: ask for answers, listen to changes, read the log. Needs nats-py and msgspec only.

    async with await Client.connect("nats://127.0.0.1:4222") as client:
        answer = await client.generate("Describe the cave.")            # the whole
        async for piece in client.generate("Describe the cave."):        # the pieces
            ...

Every call has a deadline; leaving the block cancels what is under way; the connection comes back by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Generator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from understudy.bus.nats_bus import NatsBus
from understudy.bus.port import BusError, NoResponders, Received, Subscription
from understudy.bus.subjects import evt_stream
from understudy.messages.base import Ask, Message
from understudy.messages.catalogue import FeedbackTaken, GiveFeedback, ListModels, Models, Select, Selected
from understudy.messages.events import Event
from understudy.messages.generate import (
    ADVICE,
    Cancel,
    Delta,
    Failed,
    Finished,
    Generate,
    Seam,
    Started,
    Turn,
    Waiting,
)
from understudy.messages.wire import WireError, decode, encode

Piece = Started | Waiting | Delta | Seam | Finished
Prompt = str | Sequence[Turn] | Sequence[dict[str, str]]
M = TypeVar("M", bound=Message)

DEFAULT_DEADLINE_MS = 60_000
GRACE_S = 3.0
"""An end reaches the reader by deadline + 2 s; a little more for the way."""
NOBODY_S = 5.0
"""So long a request is offered again while nobody listens (certainly not run, so safe to repeat)."""


class AnswerFailed(Exception):
    """The request ended without a whole answer; `failed` has the code and what to do, `text` what had come."""

    def __init__(self, failed: Failed, text: str = "") -> None:
        super().__init__(f"{failed.code}: {failed.text}")
        self.failed, self.text, self.code = failed, text, failed.code


class Change(msgspec.Struct, frozen=True):
    """An announcement about a model, with its position in the log (0 in a snapshot's entries)."""

    seq: int
    event: Event


def turns(prompt: Prompt) -> tuple[Turn, ...]:
    """A conversation from a text, from dicts or from turns."""
    if isinstance(prompt, str):
        return (Turn(role="user", content=prompt),)
    return tuple(msgspec.convert(p, Turn) if isinstance(p, dict) else p for p in prompt)


class Answer:
    """One request: await it for the whole, or iterate over its pieces. `text` is what holds after the seam rule."""

    def __init__(self, client: Client, ask: Generate) -> None:
        self._client, self._ask = client, ask
        self._queue: asyncio.Queue[Message] = asyncio.Queue()
        self._sub: Subscription | None = None
        self._kept: list[tuple[int, str]] = []
        self.run_id = ""
        self.instance = ""
        self.model = ""
        self.finished: Finished | None = None

    @property
    def text(self) -> str:
        """What the reader holds now."""
        return "".join(text for _, text in self._kept)

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
        until = time.monotonic() + (self._ask.deadline_ms or DEFAULT_DEADLINE_MS) / 1000 + GRACE_S
        try:
            await self._send(until)
            while True:
                message = await self._next(until)
                self._keep(message)
                if isinstance(message, Failed):
                    raise AnswerFailed(message, self.text)
                if isinstance(message, Started | Waiting | Delta | Seam | Finished):
                    yield message
                if isinstance(message, Finished):
                    return
        finally:
            await self._leave()

    def _keep(self, message: Message) -> None:
        """The one rule of readers: at a seam drop what is later than `keep_seq`, then append."""
        match message:
            case Started():
                self.run_id, self.instance, self.model = message.run_id, message.instance, message.model
            case Seam():
                self._kept = [one for one in self._kept if one[0] <= message.keep_seq]
                self.model = message.to_model
            case Delta():
                self._kept.append((message.seq, message.text))
            case Finished():
                self.finished, self.run_id, self.model = message, message.run_id, message.model
            case _:
                pass

    async def _send(self, until: float) -> None:
        bus = self._client.bus
        inbox = bus.new_inbox()
        self._sub = await bus.subscribe(inbox, self._on_message)
        subject = f"{self._client.app}.ask.model.generate"
        nobody_until = min(until, time.monotonic() + NOBODY_S)
        while True:
            try:
                await bus.publish(subject, encode(self._ask), reply=inbox)
            except BusError as error:
                if time.monotonic() > nobody_until:
                    raise AnswerFailed(Failed(code="bus_down", text=ADVICE["bus_down"])) from error
                await asyncio.sleep(0.05)
                continue
            first = await self._next(until)
            if not isinstance(first, _Nobody):
                self._queue._queue.appendleft(first)  # type: ignore[attr-defined]
                return
            if time.monotonic() > nobody_until:
                raise AnswerFailed(
                    Failed(code="bus_down", text="Nobody answers `model.generate`: is `understudy up` running?")
                )
            await asyncio.sleep(0.05)

    def _on_message(self, received: Received) -> None:
        if received.no_responders:
            self._queue.put_nowait(_Nobody())
            return
        with contextlib.suppress(WireError):
            message = decode(received.payload)
            if isinstance(message, Message):
                self._queue.put_nowait(message)

    async def _next(self, until: float) -> Message:
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                return await self._queue.get()
        except TimeoutError:
            raise AnswerFailed(Failed(code="deadline_exceeded", text=ADVICE["deadline_exceeded"]), self.text) from None

    async def _leave(self) -> None:
        """Close the inbox; cancel the run if it has not ended."""
        sub, self._sub = self._sub, None
        if sub is None:
            return
        if self.finished is None and self.instance:
            subject = f"{self._client.app}.ask.model.cancel.{self.instance}"
            with contextlib.suppress(BusError):
                await self._client.bus.publish(subject, encode(Cancel(run_id=self.run_id)))
        await sub.stop()


class _Nobody(Message, frozen=True, tag="nobody"):
    """The server's notice that nobody listens on the subject."""


class Client:
    """A component's connection. Make it with `connect`, leave it with `close` or `async with`."""

    def __init__(self, bus: NatsBus, app: str) -> None:
        self.bus, self.app = bus, app

    @classmethod
    async def connect(
        cls,
        url: str = "nats://127.0.0.1:4222",
        *,
        app: str = "tta",
        name: str = "component",
        user: str = "",
        password: str = "",
        timeout_s: float = 10.0,
    ) -> Client:
        """Connect. Raises BusDown when the server cannot be reached in time."""
        bus = await NatsBus.open(url, name=name, app=app, user=user, password=password, connect_timeout_s=timeout_s)
        return cls(bus, app)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection."""
        await self.bus.close()

    def generate(self, prompt: Prompt, **fields: Any) -> Answer:
        """Ask for an answer; `fields` are those of the contract (task, model, max_tokens, deadline_ms, ...)."""
        ask = msgspec.convert({"messages": msgspec.to_builtins(turns(prompt)), **fields, "stream": True}, Generate)
        return Answer(self, ask)

    async def select(self, prompt: Prompt, **fields: Any) -> Selected:
        """The decision alone: which models would be tried, in which order, and why not the others."""
        ask = msgspec.convert({"messages": msgspec.to_builtins(turns(prompt)), **fields}, Select)
        return await self._ask("model.select", ask, Selected)

    async def models(self) -> Models:
        """All models and how they are."""
        return await self._ask("model.list", ListModels(), Models)

    async def feedback(self, run_id: str, rating: float, reason: str | None = None) -> FeedbackTaken:
        """What you thought of an answer: `rating` from 0 to 1."""
        return await self._ask(
            "feedback.give", GiveFeedback(run_id=run_id, rating=rating, reason=reason), FeedbackTaken
        )

    async def _ask(self, name: str, ask: Ask, answer: type[M]) -> M:
        """One question, one answer; offered again while nobody listens. Raises AnswerFailed."""
        until = time.monotonic() + NOBODY_S
        while True:
            try:
                received = await self.bus.request(f"{self.app}.ask.{name}", encode(ask), timeout_s=5.0)
                break
            except NoResponders:
                if time.monotonic() > until:
                    text = f"Nobody answers `{name}`: is `understudy up` running?"
                    raise AnswerFailed(Failed(code="bus_down", text=text)) from None
                await asyncio.sleep(0.1)
            except BusError as error:
                raise AnswerFailed(Failed(code="bus_down", text=f"{error} {ADVICE['bus_down']}")) from error
        message = decode(received.payload)
        if isinstance(message, Failed):
            raise AnswerFailed(message)
        if not isinstance(message, answer):
            raise AnswerFailed(Failed(code="internal", text=f"{name} was answered with {type(message).__name__}"))
        return message

    async def changes(self) -> AsyncIterator[Change]:
        """Announcements about models, live: each stored change once, in order."""
        queue: asyncio.Queue[Received] = asyncio.Queue()
        sub = await self.bus.subscribe(f"{self.app}.live.model.>", queue.put_nowait)
        try:
            while True:
                received = await queue.get()
                change = _change(received)
                if change is not None:
                    yield change
        finally:
            await sub.stop()

    async def events(self, *, after_seq: int = 0, follow: bool = False) -> AsyncIterator[Change]:
        """The log from a position on, for analysis (needs a user that may read it, e.g. the operator's)."""
        stream = evt_stream(self.app)
        head = await self.bus.last_seq(stream)
        queue: asyncio.Queue[Received] = asyncio.Queue()
        if head <= after_seq and not follow:
            return
        sub = await self.bus.read(stream, [f"{self.app}.evt.>"], queue.put_nowait, after_seq=after_seq)
        try:
            while True:
                received = await queue.get()
                change = _change(received)
                if change is not None:
                    yield change
                if received.seq >= head and not follow:
                    return
        finally:
            await sub.stop()


def _change(received: Received) -> Change | None:
    """An event with its position; None for one that a newer writer wrote."""
    try:
        message = decode(received.payload)
    except WireError:
        return None
    return Change(received.seq, message) if isinstance(message, Event) else None
