"""Processes on one virtual loop: each can be killed, stopped (SIGSTOP) and continued without the others noticing more
than they would on real machines.

What a process runs carries its `Gate` in its context: its tasks, its timers, what arrives from the bus. While the gate
is shut all of that is held, in order, as a stopped process's work is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

from understudy.bus.memory_bus import MemoryBus
from understudy.bus.port import Handler, Reading, Subscription
from understudy.bus.sim_loop import SimLoop

T = TypeVar("T")


class Gate:
    """Open, or holding everything that a stopped process would have done."""

    def __init__(self) -> None:
        self.shut = False
        self.held: list[tuple[Context, list[asyncio.Handle], Callable[..., Any], tuple[Any, ...]]] = []
        self.tasks: dict[asyncio.Task[Any], None] = {}

    def let(self, context: Context, own: list[asyncio.Handle], callback: Callable[..., Any], args: Any) -> None:
        """Run what is due, or hold it."""
        if self.shut:
            self.held.append((context, own, callback, args))
        else:
            callback(*args)

    def open(self, timers_first: bool) -> None:
        """SIGCONT: what was held happens now. A real loop runs its due timers before what its socket holds, or not."""
        self.shut = False
        held, self.held = self.held, []
        if timers_first:
            held.sort(key=lambda one: not isinstance(one[1][0] if one[1] else None, asyncio.TimerHandle))
        loop = asyncio.get_running_loop()
        for context, own, callback, args in held:
            loop.call_soon(_unless_cancelled, own, callback, args, context=context)


def _unless_cancelled(own: list[asyncio.Handle], callback: Callable[..., Any], args: Any) -> None:
    if not (own and own[0].cancelled()):
        callback(*args)


NOBODY = Context()
"""Where work runs that belongs to no process: the world's own."""

GATE: ContextVar[Gate | None] = ContextVar("gate", default=None)


class WorldLoop(SimLoop):
    """Virtual time that knows whose work it does."""

    def create_task(self, coro: Any, *, name: object = None, context: Context | None = None) -> asyncio.Task[Any]:
        """As ever; a process's tasks end with it."""
        task = super().create_task(coro, name=name, context=context)
        gate = GATE.get() if context is None else context.get(GATE)
        if gate is not None:
            gate.tasks[task] = None
            task.add_done_callback(lambda done: gate.tasks.pop(done, None))
        return task

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> asyncio.Handle:
        """As ever, through the gate of the process whose context it is."""
        gate = GATE.get() if context is None else context.get(GATE)
        if gate is None:
            return super().call_soon(callback, *args, context=context)
        own: list[asyncio.Handle] = []
        where = context or copy_context()
        handle = super().call_soon(gate.let, where, own, callback, args, context=where)
        own.append(handle)
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> asyncio.TimerHandle:
        """As ever, through the gate of the process whose context it is."""
        gate = GATE.get() if context is None else context.get(GATE)
        if gate is None:
            return super().call_at(when, callback, *args, context=context)
        own: list[asyncio.Handle] = []
        where = context or copy_context()
        handle = super().call_at(when, gate.let, where, own, callback, args, context=where)
        own.append(handle)
        return handle


class OwnBus:
    """A connection whose handlers run as part of its process. Everything else is the memory bus itself."""

    def __init__(self, bus: MemoryBus, process: Process) -> None:
        self._bus, self._process = bus, process

    def __getattr__(self, name: str) -> Any:
        return getattr(self._bus, name)

    async def subscribe(self, subject: str, handler: Handler, **how: Any) -> Subscription:
        """See `port.Bus.subscribe`."""
        return await self._bus.subscribe(subject, self._process.entered(handler), **how)

    async def serve(self, name: str, version: str, description: str, endpoints: Mapping[str, Handler]) -> Subscription:
        """See `port.Bus.serve`."""
        own = {subject: self._process.entered(handler) for subject, handler in endpoints.items()}
        return await self._bus.serve(name, version, description, own)

    async def read(self, stream: str, subjects: Sequence[str], handler: Handler, **where: Any) -> Reading:
        """See `port.Bus.read`."""
        return await self._bus.read(stream, subjects, self._process.entered(handler), **where)


class Process:
    """One life of one actor: from its start until it is killed."""

    def __init__(self, name: str) -> None:
        self.name, self.gate, self.dead = name, Gate(), False
        self.context = copy_context()
        self.context.run(GATE.set, self.gate)

    def entered(self, handler: Callable[[T], None]) -> Callable[[T], None]:
        """The handler, run inside this process."""

        def receive(received: T) -> None:
            if self.dead:
                return
            if self.gate.shut:
                self.gate.held.append((self.context, [], handler, (received,)))
            else:
                self.context.run(handler, received)

        return receive

    def start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Begin a task of this process."""
        return asyncio.get_running_loop().create_task(work, name=self.name, context=self.context)

    def kill(self, bus: MemoryBus) -> None:
        """SIGKILL: nothing leaves any more and nothing is closed in good order."""
        self.dead = True
        bus.crash()
        for task in list(self.gate.tasks):
            task.cancel()
        self.gate.held = [one for one in self.gate.held if one[1]]  # what arrived is lost; its tasks still have to end
        self.gate.open(timers_first=False)
