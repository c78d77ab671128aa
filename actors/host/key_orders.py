"""What the supervisor does about keys while the topology runs: check, rotate, settle, tell the log. By ids alone.

The vault's file says which key is live; a process that is started reads it there. So a process that ends, or is being
started, in the middle of an order needs nothing: the vault is changed before `settle` is ordered, and what is live then
is what it starts with.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from understudy.actors.host.key_pipe import KeyPipe, NotTold, Told
from understudy.actors.host.keys import KeyMissing
from understudy.bus.port import BusError, Outgoing
from understudy.bus.subjects import evt_stream
from understudy.messages.keys import KeyAdded, KeyChanged, KeyOrder, KeyRefused, KeyRevoked, KeyRotated
from understudy.messages.wire import WireError, decode, encode, made_of, tag_of

if TYPE_CHECKING:
    from understudy.actors.host.key_opener import Change
    from understudy.actors.host.operations import Operation
    from understudy.actors.host.seats import Process
    from understudy.actors.host.supervisor import Supervisor

STORE_S = 5.0
REFUSED = (401, 403)
CHANGES: dict[str, type[KeyChanged]] = {"add": KeyAdded, "rotate": KeyRotated, "revoke": KeyRevoked}
"""What the audit calls a change, and the event that tells it."""


class KeyOrders:
    """The supervisor's part in a key's life."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._of = supervisor
        self._rotating: dict[str, str] = {}  # by name: the key that is not live yet and may be used all the same
        self._telling = asyncio.Lock()
        self._found: set[str] = set()

    async def carry_out(self, operation: Operation, order: KeyOrder) -> None:
        """An order of the command line; problems are told in `operation`."""
        processes = self._users(order.name)
        match order.do:
            case "check":
                await self._check(operation, order, processes)
            case "rotate":
                await self._rotate(operation, order, processes)
            case "settle":
                switched = [p for p in processes if await self._settle(operation, p, order.name)]
                await self._others_end(operation, switched, order.wait_ms)
                await self.announce()

    def _users(self, name: str) -> list[Process]:
        """Processes whose provider's key is this one of the vault."""
        keys = {n: p.key for n, p in self._of.topology.providers.items()}
        return [p for p in self._of.processes if (key := keys.get(p.provider)) is not None and key.vault == name]

    # --- check, rotate -----------------------------------------------------------------------------------------------

    async def _check(self, operation: Operation, order: KeyOrder, processes: list[Process]) -> None:
        for process in self._all_run(operation, order.name, processes):
            key_id = "" if process.keys is None else process.keys.key_id
            await self._judge(operation, process, key_id, await self._ask(process, key_id), unchecked=order.unchecked)

    async def _rotate(self, operation: Operation, order: KeyOrder, processes: list[Process]) -> None:
        """All processes try the new key before the first one uses it. Where one cannot, all are as before."""
        key_id, done = order.key_id, False
        if not self._all_run(operation, order.name, processes):
            return
        self._rotating[order.name] = key_id
        try:
            if await self._all_take(operation, order, processes):
                for process in processes:
                    await self._switch(operation, process, key_id)
                done = not operation.problems
        finally:
            if not done:
                del self._rotating[order.name]
                for process in processes:
                    await self._settle(operation, process, order.name)
        if done:
            await self._others_end(operation, processes, order.wait_ms)

    async def _all_take(self, operation: Operation, order: KeyOrder, processes: list[Process]) -> bool:
        """Whether all may use the key."""
        for process in processes:
            told = await self._ask(process, order.key_id, deliver=True)
            await self._judge(operation, process, order.key_id, told, unchecked=order.unchecked)
        return not operation.problems

    async def _switch(self, operation: Operation, process: Process, key_id: str) -> None:
        pipe, instance = process.keys, process.seat.instance
        try:
            if pipe is None:
                raise NotTold("the process has ended")
            async with pipe.one:
                if not pipe.handed:
                    raise NotTold("the process is being started")
                await self._use(process, pipe, key_id)
            operation.lines.append(f"{instance:30} uses {key_id}")
        except (KeyMissing, NotTold) as error:
            if pipe is not None and pipe.handed and not pipe.closed:
                operation.problems = (*operation.problems, f"{instance}: {error}")
            else:
                operation.lines.append(f"{instance:30} {error}: it takes {key_id} up as soon as the vault has it live")

    async def _others_end(self, operation: Operation, processes: Sequence[Process], wait_ms: int) -> None:
        """Say how long calls on other keys went on, or how many still do."""

        async def one(process: Process) -> None:
            pipe, instance, began = process.keys, process.seat.instance, time.monotonic()
            if pipe is None or not pipe.key_id:
                return
            try:
                left = (await pipe.order("wait", pipe.key_id, wait_ms)).left
            except NotTold as error:
                operation.lines.append(f"{instance:30} {error}")
                return
            others = f"{left} calls on another key still run" if left else "no call on another key is under way"
            operation.lines.append(f"{instance:30} after {time.monotonic() - began:.2f} s {others}")

        await asyncio.gather(*map(one, processes))

    def _all_run(self, operation: Operation, name: str, processes: list[Process]) -> list[Process]:
        """These processes, or none and why."""
        if not processes:
            operation.problems = (f"no provider of the running topology has `key: {{vault: {name}}}`",)
        for process in processes:
            if process.keys is None or not process.ready:
                why = process.trouble or "it is being started"
                operation.problems = (*operation.problems, f"{process.seat.instance} does not run: {why}")
        operation.refused = bool(operation.problems)
        return [] if operation.problems else processes

    async def _judge(self, operation: Operation, process: Process, key_id: str, told: Told, *, unchecked: bool) -> None:
        who = process.seat.instance
        if told.ok:
            operation.lines.append(f"{who:30} {key_id}: the provider takes it")
        elif unchecked and not told.known:
            operation.lines.append(f"{who:30} {key_id}: {told.why}")
        else:
            operation.problems = (*operation.problems, f"{who}: {key_id}: {told.why}")
        if told.known and told.status in REFUSED:
            operation.key_refused = True
            now = int(time.time() * 1000)
            event = KeyRefused(at_ms=now, provider=process.provider, key_id=key_id, status=told.status)
            try:
                await self._store(event, f"key.refused.{key_id}.{process.provider}.{now}")
            except BusError as error:
                self._of.say("key_not_announced", why=f"{error.code}: {error}")

    async def _ask(self, process: Process, key_id: str, *, deliver: bool = False) -> Told:
        """What the provider says of a key, or that nobody knows."""
        pipe = process.keys
        try:
            if pipe is None:
                raise NotTold("the process has ended")
            if not key_id:
                raise NotTold("no key is in use")
            if deliver:
                async with pipe.one:
                    await self._have(process, pipe, key_id)
            return await pipe.order("check", key_id)
        except (KeyMissing, NotTold) as error:
            return Told(0, ok=False, why=str(error), known=False)

    # --- what the vault says -----------------------------------------------------------------------------------------

    async def _have(self, process: Process, pipe: KeyPipe, key_id: str) -> None:
        """The process has this key. Raises KeyMissing. Whoever calls holds `pipe.one`."""
        if key_id not in pipe.held:
            of = self._of
            pipe.unsure.add(key_id)  # it may be written although nobody says so
            await of.desk.deliver(of.topology, process.provider, pipe, process.seat.instance, key_id)
            pipe.unsure.discard(key_id)

    async def _use(self, process: Process, pipe: KeyPipe, key_id: str) -> None:
        """New calls go out with this key. Raises KeyMissing, NotTold. Whoever calls holds `pipe.one`."""
        await self._have(process, pipe, key_id)
        await pipe.use(key_id)
        self._of.key_ids[process.provider] = key_id

    async def _settle(self, operation: Operation, process: Process, name: str) -> bool:
        """Use what is live in the vault, forget all else. Whether another key is used now."""
        pipe, instance = process.keys, process.seat.instance
        if pipe is None:  # what is live is read at the next start
            return False
        problems, switched = list[str](), False
        async with pipe.one:
            if not pipe.handed:  # nor was anything read before the vault was changed
                return False
            try:
                states = self._of.desk.states(self._of.topology, name)
            except KeyMissing as missing:
                operation.problems = (*operation.problems, f"{instance}: {missing}")
                return False
            trying = self._rotating.get(name, "")
            live = next((k for k, state in states.items() if state == "live"), "")
            keep = {live, trying if states.get(trying) == "next" else ""} - {""}
            if live and pipe.key_id not in keep:
                try:
                    await self._use(process, pipe, live)
                    operation.lines.append(f"{instance:30} uses {live}")
                    switched = True
                except (KeyMissing, NotTold) as error:
                    problems.append(f"{instance}: {error}")
            for key_id in sorted((pipe.held | pipe.unsure) - keep):
                try:
                    await pipe.forget(key_id)
                    operation.lines.append(f"{instance:30} has forgotten {key_id}")
                except NotTold as error:
                    problems.append(f"{instance}: {error}")
        if not pipe.closed:  # else it has forgotten all, and the next process reads what is live
            operation.problems = (*operation.problems, *problems)
        return switched

    # --- the log -----------------------------------------------------------------------------------------------------

    async def announce(self) -> None:
        """Tell the log what was done to keys and it does not know, also from before this start; tell the operator what
        is wrong with the audit. A short-lived process reads it, as its entries prove nothing without the root key."""
        of = self._of
        if not any(p.key is not None and p.key.vault is not None for p in of.topology.providers.values()):
            return
        async with self._telling:
            try:
                known = [event for cls in CHANGES.values() for event in await self._announced(cls)]
                anchors = tuple((event.audit_n, event.audit_hash) for event in known)
                changes, findings = await of.desk.audit(of.topology, tuple(CHANGES), anchors)
                await self._tell(changes, {hash_ for _, hash_ in anchors})
            except (BusError, KeyMissing, OSError) as error:
                of.say("key_not_announced", why=f"{error}; it is told after the next change, or at the next start")
                return
        for found in findings:
            if found not in self._found:
                of.say("key_audit", found=found)
        self._found = set(findings)

    async def _tell(self, changes: Sequence[Change], known: set[str]) -> None:
        """In their order; what cannot be stored ends it, so that none is passed over. Raises BusError."""
        newest = max((c.n for c in changes if c.hash in known), default=0)
        for change in changes:
            if change.n > newest:
                try:
                    await self._store(_event(change), f"key.{change.hash}")
                except WireError as error:
                    self._of.say("key_not_announced", why=f"entry {change.n} of the audit cannot be told: {error.text}")

    async def _announced(self, cls: type[KeyChanged]) -> list[KeyChanged]:
        """What the log knows. Raises BusError."""
        found: list[KeyChanged] = []
        app, seq = self._of.topology.app, 0
        subject = f"{app}.evt.{tag_of(cls).rsplit('.', 1)[0]}"
        while (received := await self._of.bus_side.bus.get(evt_stream(app), seq + 1, subject)) is not None:
            seq = received.seq
            try:
                event = decode(received.payload)
            except WireError:
                continue
            if isinstance(event, KeyChanged):
                found.append(event)
        return found

    async def _store(self, event: KeyChanged | KeyRefused, msg_id: str) -> None:
        """Raises BusError."""
        subject = f"{self._of.topology.app}.evt.{tag_of(type(event)).rsplit('.', 1)[0]}"
        await self._of.bus_side.bus.store([Outgoing(subject, encode(event), msg_id)], timeout_s=STORE_S)


def _event(change: Change) -> KeyChanged:
    """Raises WireError."""
    fields = {
        "at_ms": change.at_ms,
        "name": change.name,
        "key_id": change.key_id,
        "audit_n": change.n,
        "audit_hash": change.hash,
        **({"was": change.was} if change.purpose == "rotate" else {}),
    }
    return made_of(CHANGES[change.purpose], fields)
