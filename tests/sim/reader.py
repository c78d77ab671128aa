"""A caller as anybody would write it: asks once, reads by the seam rule, counts `seq`, stops at the first end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from sim.disk import Platter

from understudy.bus.memory_bus import MemoryBus
from understudy.bus.port import BusDown, Received, Subscription
from understudy.messages.base import Message
from understudy.messages.generate import Cancel, Delta, Failed, Finished, Generate, Seam, Started, Turn
from understudy.messages.wire import decode, encode

AGAIN_S = 0.05


@dataclass
class Reader:
    """One request and what came of it. Times are virtual seconds."""

    name: str
    prompt: str
    script: str
    stream: bool
    deadline_s: float
    asked_s: float = 0.0
    run_id: str = ""
    instance: str = ""
    kept: list[tuple[int, str]] = field(default_factory=list[tuple[int, str]])
    next_seq: int = 0
    end: Finished | Failed | None = None
    ended_s: float = 0.0
    synced_seq: int = 0  # of the log, when the end was heard
    others: list[Finished | Failed] = field(default_factory=list[Finished | Failed])  # ends after the first
    wrong: list[str] = field(default_factory=list[str])
    may_be_kept: bool = False  # its answer may come from the response cache
    gone: bool = False  # it has closed its inbox
    cancelled: bool = False
    harmed: bool = False  # the simulated bus lost, doubled or overtook something on the way here
    disordered: bool = False  # it doubled or overtook something
    end_lost: bool = False  # and it may have been the end
    owed: bool = False  # P1 promises it an end
    seams: int = 0
    inbox: str = ""

    @property
    def text(self) -> str:
        """What it holds by the seam rule."""
        return "".join(text for _, text in self.kept)

    @property
    def done(self) -> bool:
        """Whether it waits no longer."""
        return self.end is not None or self.gone

    def hear(self, message: Message, now_s: float, synced_seq: int) -> None:
        """One message of the answer."""
        run_id = getattr(message, "run_id", None)
        if self.gone or (self.run_id and run_id and run_id != self.run_id):
            return
        if run_id and not self.run_id:
            self.run_id = run_id
        if self.end is not None:
            if isinstance(message, Finished | Failed):
                self.others.append(message)
            return
        match message:
            case Started():
                self.instance = message.instance
            case Delta():
                self._append(message)
            case Seam():
                self.seams += 1
                self.kept = [one for one in self.kept if one[0] <= message.keep_seq]
            case Finished() | Failed():
                self.end, self.ended_s, self.synced_seq = message, now_s, synced_seq
            case _:
                pass

    def _append(self, delta: Delta) -> None:
        if delta.seq != self.next_seq and not self.harmed:
            self.wrong.append(f"delta {delta.seq} came where {self.next_seq} was to come")
        elif delta.seq < self.next_seq and not self.disordered:
            self.wrong.append(f"delta {delta.seq} came again or late, after {self.next_seq - 1}")
        self.next_seq = delta.seq + 1
        self.kept.append((delta.seq, delta.text))
        if not self.harmed and not self.script.startswith(self.text):
            self.wrong.append(f"holds {self.text!r}, the script is {self.script!r}")


class Caller:
    """One connection that asks several requests. Inboxes are below one subscription; who may vanish has its own."""

    def __init__(self, bus: MemoryBus, app: str, platter: Platter) -> None:
        self.bus, self._platter = bus, platter
        self._ask, self._cancel = f"{app}.ask.model.generate", f"{app}.ask.model.cancel"
        self._inbox = bus.new_inbox()
        self._readers: dict[str, Reader] = {}
        self._own: dict[str, Subscription] = {}
        self._tasks: dict[asyncio.Task[None], None] = {}

    async def start(self) -> None:
        """Listen."""
        await self.bus.subscribe(f"{self._inbox}.*", self._on_message)

    async def ask(self, reader: Reader, *, own: bool) -> None:
        """Offer the request until somebody takes it: no responders means that it certainly was not run."""
        if own:
            reader.inbox = f"{self.bus.new_inbox()}.own"
            self._own[reader.inbox] = await self.bus.subscribe(reader.inbox, self._on_message)
        else:
            reader.inbox = f"{self._inbox}.{reader.name}"
        self._readers[reader.inbox] = reader
        reader.asked_s = asyncio.get_running_loop().time()
        await self._offer(reader)

    async def _offer(self, reader: Reader) -> None:
        ask = Generate(
            messages=(Turn(role="user", content=reader.prompt),),
            stream=reader.stream,
            deadline_ms=int(reader.deadline_s * 1000),
            cache=reader.may_be_kept or None,
            conversation_id="kept" if reader.may_be_kept else None,
            temperature=0.0 if reader.may_be_kept else None,
        )
        await self._send(self._ask, encode(ask), reader.inbox)

    async def _send(self, subject: str, payload: bytes, reply: str = "") -> None:
        while True:
            try:
                return await self.bus.publish(subject, payload, reply=reply)
            except BusDown:
                await asyncio.sleep(AGAIN_S)

    def leave(self, reader: Reader) -> None:
        """Vanish: nobody listens on its inbox any longer."""
        reader.gone = True
        own = self._own.pop(reader.inbox, None)
        if own is not None:
            self._do(own.stop())

    def cancel(self, reader: Reader, run_id: str, instance: str) -> None:
        """Say that the answer is no longer wanted; the end still comes."""
        reader.cancelled = True
        self._do(self._send(f"{self._cancel}.{instance}", encode(Cancel(run_id=run_id))))

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    def _on_message(self, received: Received) -> None:
        reader = self._readers[received.subject]
        if received.no_responders:
            self._do(self._again(reader))
            return
        message = decode(received.payload)
        if isinstance(message, Message):
            reader.hear(message, asyncio.get_running_loop().time(), self._platter.seq)

    async def _again(self, reader: Reader) -> None:
        await asyncio.sleep(AGAIN_S)
        if not reader.done:
            await self._offer(reader)
