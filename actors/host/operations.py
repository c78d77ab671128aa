"""Orders to a running supervisor: reload the topology, restart processes, what becomes of keys. Told line by line.

Asked on `<app>.ask.supervisor.<order>`, which only the operator may. What is under way is remembered here and asked
for with `progress`, so that the command line can follow it across a restart of nats-server itself. Orders that stop or
start something, or wait for callers, go one at a time; a key is checked and revoked whatever else is under way.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from understudy.actors.host.change import Change, plan_change
from understudy.actors.host.clock import SystemClock
from understudy.actors.host.keys import KeyMissing, key_variables
from understudy.actors.host.permissions import merged
from understudy.actors.host.seats import Process
from understudy.actors.host.telling import places
from understudy.actors.host.topology import TopologyError, read
from understudy.bus.port import BusError, Received
from understudy.bus.server import ServerFailed
from understudy.messages.generate import Failed
from understudy.messages.keys import KeyOrder
from understudy.messages.operate import Progress, Progressed, Reload, Restart
from understudy.messages.wire import WireError, decode_as, encode

if TYPE_CHECKING:
    import anyio.abc

    from understudy.actors.host.supervisor import Supervisor

READY_S = 120.0
REMEMBERED = 32  # orders that can be asked about
TRIES = 3
SERVER = "nats-server"


class NotDone(Exception):
    """An order stopped half-way; the text says where, why, and what to do."""


@dataclass(slots=True)
class Operation:
    """An order and what has been said about it."""

    id: str
    lines: list[str] = field(default_factory=list[str])
    done: bool = False
    refused: bool = False
    problems: tuple[str, ...] = ()
    key_refused: bool = False

    def shown(self, after: int) -> Progressed:
        """For whoever asks."""
        return Progressed(
            operation=self.id,
            lines=tuple(self.lines[after:]),
            done=self.done,
            refused=self.refused,
            problems=self.problems,
            key_refused=self.key_refused,
        )


class Operations:
    """The supervisor's ear for orders."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._of = supervisor
        self._group: anyio.abc.TaskGroup | None = None
        self._now: Operation | None = None  # the one that no other may disturb
        self._known: dict[str, Operation] = {}

    async def serve(self, group: anyio.abc.TaskGroup) -> None:
        """Take orders; what they need is done in `group`."""
        self._group = group
        subject = f"{self._of.topology.app}.ask.supervisor"
        orders = {"reload": self._reload, "restart": self._restart, "keys": self._keys, "progress": self._progress}
        for order, handler in orders.items():
            await self._of.bus_side.bus.subscribe(f"{subject}.{order}", handler)

    # --- orders ----------------------------------------------------------------------------------------------------

    def _reload(self, received: Received) -> None:
        self._order(received, Reload)

    def _restart(self, received: Received) -> None:
        self._order(received, Restart)

    def _keys(self, received: Received) -> None:
        self._order(received, KeyOrder)

    def _order(self, received: Received, cls: type[Reload | Restart | KeyOrder]) -> None:
        try:
            ask = decode_as(cls, received.payload)
        except WireError as error:
            self._answer(received.reply, Failed(code="invalid", text=error.text, path=error.path))
            return
        beside = isinstance(ask, KeyOrder) and ask.do != "rotate"
        if not beside and self._now is not None and not self._now.done:
            busy = Operation("", done=True, refused=True, problems=("another order is under way; wait for its end",))
            self._answer(received.reply, busy.shown(0))
            return
        operation = Operation(SystemClock().new_id(time.time() * 1000))
        self._now = self._now if beside else operation
        self._known[operation.id] = operation
        for old in [id_ for id_, one in self._known.items() if one.done][:-REMEMBERED]:
            del self._known[old]
        assert self._group is not None
        self._group.start_soon(self._run, operation, ask, received.reply)

    def _progress(self, received: Received) -> None:
        try:
            ask = decode_as(Progress, received.payload)
        except WireError as error:
            self._answer(received.reply, Failed(code="invalid", text=error.text, path=error.path))
            return
        lost = Operation(ask.operation, done=True, problems=("this order is not known here (any longer)",))
        self._answer(received.reply, self._known.get(ask.operation, lost).shown(ask.after))

    def _answer(self, reply: str, message: Progressed | Failed) -> None:
        if reply and self._group is not None:
            self._group.start_soon(self._send, reply, message)

    async def _send(self, reply: str, message: Progressed | Failed) -> None:
        if reply:
            with contextlib.suppress(BusError):
                await self._of.bus_side.bus.publish(reply, encode(message))

    async def _run(self, operation: Operation, ask: Reload | Restart | KeyOrder, reply: str) -> None:
        await self._send(reply, operation.shown(0))  # first: the order may be to stop the server that carries it
        try:
            match ask:
                case Reload():
                    await self.reload(operation)
                case Restart():
                    await self.restart(operation, ask.names)
                case KeyOrder():
                    await self._of.key_orders.carry_out(operation, ask)
        except (NotDone, BusError, ServerFailed) as error:
            operation.problems = (*operation.problems, str(error))
        except Exception as error:  # noqa: BLE001 - one wrong order must not end what runs
            why = f"internal: {type(error).__name__} at {(places(error) or ['?'])[-1]}; what runs was left as it is now"
            operation.problems = (*operation.problems, why)
            self._of.say("order_raised", error=type(error).__name__, at=places(error)[-6:])
        operation.done = True
        self._of.say("order_done", lines=len(operation.lines), problems=operation.problems)

    # --- restart ---------------------------------------------------------------------------------------------------

    async def restart(self, operation: Operation, names: tuple[str, ...]) -> None:
        """One process after the other, each ready before the next one's turn; nats-server last."""
        known = {n for p in self._of.processes for n in (p.seat.instance, p.seat.actor)} | {SERVER}
        if unknown := [n for n in names if n not in known]:
            operation.refused = True
            operation.problems = (f"unknown: {', '.join(unknown)}; known are: {', '.join(sorted(known))}",)
            return
        if SERVER in names and self._of.bus_side.server is None:
            operation.refused, operation.problems = True, ("nats-server is not ours to restart (started with --nats)",)
            return
        await self._of.forks.renew()
        for process in list(self._of.processes):
            if not names or {process.seat.instance, process.seat.actor} & set(names):
                await self._renew(operation, process)
        if self._of.bus_side.server is not None and (not names or SERVER in names):
            began = time.monotonic()
            await self._of.bus_side.restart_server()
            operation.lines.append(f"{SERVER:30} restarted in {time.monotonic() - began:.2f} s")

    async def _renew(self, operation: Operation, process: Process) -> None:
        began, before = time.monotonic(), process.started
        await self._of.end(process, again=True)
        drained = time.monotonic()
        await self._until_ready(process, before)
        took = f"drained {drained - began:.2f} s, ready after {time.monotonic() - drained:.2f} s"
        operation.lines.append(f"{process.seat.instance:30} restarted: {took}")

    async def _until_ready(self, process: Process, before: int) -> None:
        """A process started later than number `before` of its seat is ready. Raises NotDone."""
        until = time.monotonic() + READY_S
        while not (process.ready and process.started > before):
            if time.monotonic() > until or process.started > before + TRIES:
                why = process.trouble or "it gives no reason; see actors.log"
                raise NotDone(
                    f"{process.seat.instance} does not get ready: {why}. What came after it was left as it is."
                )
            await asyncio.sleep(0.02)

    # --- reload ----------------------------------------------------------------------------------------------------

    async def reload(self, operation: Operation) -> None:
        """Read the file again; refuse it as a whole, or apply what differs."""
        of = self._of
        if of.file is None:
            operation.refused, operation.problems = True, ("this supervisor was not started from a file",)
            return
        try:
            wanted = read(of.file)
            if fresh := sorted(key_variables(wanted) - of.key_variables):
                text = (
                    f"the variable {fresh[0]} stands in the environment of all that runs: restart `up` to use its key"
                )
                raise KeyMissing(text)
            of.graph_side.check(wanted)
            change = plan_change(of.topology, of.processes, wanted, of.key_ids, await of.desk.ids(wanted))
        except TopologyError as error:
            operation.refused, operation.problems = True, tuple(map(str, error.problems))
            return
        except KeyMissing as missing:
            operation.refused, operation.problems = True, (str(missing),)
            return
        operation.lines.append(change.summary())
        if not change.same:
            await self._apply(operation, change)

    async def _apply(self, operation: Operation, change: Change) -> None:
        """Permissions widen first and narrow last; selectors learn of it before models come and go."""
        of = self._of
        before = of.bus_side.users_of(of.topology, of.processes)
        after = of.bus_side.users_of(change.topology, change.processes)
        await of.bus_side.permit(merged(before, after))
        await of.bus_side.provision(change.topology)
        await of.bus_side.announce(change.topology)
        of.topology, of.key_ids = change.topology, change.key_ids
        try:
            await of.graph_side.apply(change.topology)
        except (KeyMissing, OSError) as error:
            operation.problems = (*operation.problems, str(error))
        of.processes = [*change.processes, *change.removed]
        change.settle()
        for process in change.added:
            of.keep(process)
        for process in change.added:
            await self._until_ready(process, 0)
            operation.lines.append(f"{process.seat.instance:30} started")
        for process in change.changed:
            await self._renew(operation, process)
        for process in change.removed:
            await of.end(process, again=False)
            of.processes.remove(process)
            operation.lines.append(f"{process.seat.instance:30} ended")
        await of.bus_side.permit(after)
        of.write_run_file()
