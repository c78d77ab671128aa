"""What the supervisor does about keys while the topology runs: check, rotate, forget, tell the log. By ids alone."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from understudy.actors.host.key_desk import vault_path
from understudy.actors.host.key_pipe import NotTold, Told
from understudy.actors.host.keys import KeyMissing
from understudy.bus.port import BusError, Outgoing
from understudy.bus.subjects import evt_stream
from understudy.messages.keys import KeyAdded, KeyChanged, KeyOrder, KeyRefused, KeyRevoked, KeyRotated
from understudy.messages.wire import WireError, decode, encode, made_of, tag_of

if TYPE_CHECKING:
    from understudy.actors.host.operations import Operation
    from understudy.actors.host.seats import Process
    from understudy.actors.host.supervisor import Supervisor
    from understudy.actors.host.vault_audit import Entry

STORE_S = 5.0
CHANGES: dict[str, type[KeyChanged]] = {"add": KeyAdded, "rotate": KeyRotated, "revoke": KeyRevoked}
"""What the audit calls a change, and the event that tells it."""


class KeyOrders:
    """The supervisor's part in a key's life."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._of = supervisor

    async def carry_out(self, operation: Operation, order: KeyOrder) -> None:
        """An order of the command line; problems are told in `operation`."""
        processes = self._users(order.name)
        match order.do:
            case "check":
                await self._check(operation, order, processes)
            case "rotate":
                await self._rotate(operation, order, processes)
            case "forget":
                await self._forget(operation, order.key_id, processes)
            case "settle":
                for process in processes:
                    await self._settle(operation, process)
                await self.announce()

    def _users(self, name: str) -> list[Process]:
        """Processes whose provider's key is this one of the vault."""
        keys = {n: p.key for n, p in self._of.topology.providers.items()}
        return [p for p in self._of.processes if (key := keys.get(p.provider)) is not None and key.vault == name]

    # --- check, rotate -----------------------------------------------------------------------------------------------

    async def _check(self, operation: Operation, order: KeyOrder, processes: list[Process]) -> None:
        if not self._all_run(operation, order.name, processes):
            return
        for process in processes:
            assert process.keys is not None
            told = await self._ask(process, process.keys.key_id)
            self._judge(operation, process, process.keys.key_id, told)
            await self._refused(process, process.keys.key_id, told)

    async def _rotate(self, operation: Operation, order: KeyOrder, processes: list[Process]) -> None:
        """All processes try the new key before the first one uses it; one refusal, and none does."""
        if not self._all_run(operation, order.name, processes):
            return
        key_id = order.key_id
        for process in processes:
            try:
                await self._deliver(process, key_id)
                told = await self._ask(process, key_id)
            except KeyMissing as missing:
                told = Told("check", key_id, ok=False, why=str(missing))
            self._judge(operation, process, key_id, told)
            await self._refused(process, key_id, told)
        if operation.problems:
            await self._forget(operation, key_id, processes)
            return
        for process in processes:
            await self._use(operation, process, key_id, order.wait_ms)
        if operation.problems:  # the vault still says the old one
            for process in processes:
                await self._settle(operation, process)

    async def _use(self, operation: Operation, process: Process, key_id: str, wait_ms: int) -> None:
        assert process.keys is not None
        instance, began = process.seat.instance, time.monotonic()
        try:
            told = await process.keys.order("use", key_id, wait_ms)
        except NotTold as error:
            operation.problems = (*operation.problems, f"{instance}: {error}")
            return
        self._of.key_ids[process.provider] = key_id
        took = time.monotonic() - began
        others = f"{told.left} calls on the old key still run" if told.left else "calls on the old key have ended"
        operation.lines.append(f"{instance:30} uses {key_id}; after {took:.2f} s {others}")

    def _all_run(self, operation: Operation, name: str, processes: list[Process]) -> bool:
        if not processes:
            text = f"no provider of the running topology has `key: {{vault: {name}}}`"
            operation.refused, operation.problems = True, (text,)
        for process in processes:
            if process.keys is None or not process.ready:
                why = process.trouble or "it is being started"
                operation.problems = (*operation.problems, f"{process.seat.instance} does not run: {why}")
        return not operation.problems

    def _judge(self, operation: Operation, process: Process, key_id: str, told: Told) -> None:
        if told.ok:
            how = told.why or "the provider takes it"
            operation.lines.append(f"{process.seat.instance:30} {key_id}: {how}")
        else:
            operation.problems = (*operation.problems, f"{process.seat.instance}: {key_id}: {told.why}")

    async def _ask(self, process: Process, key_id: str) -> Told:
        assert process.keys is not None
        try:
            return await process.keys.order("check", key_id)
        except NotTold as error:
            return Told("check", key_id, ok=False, why=str(error))

    async def _refused(self, process: Process, key_id: str, told: Told) -> None:
        if told.status not in (401, 403):
            return
        now = int(time.time() * 1000)
        event = KeyRefused(at_ms=now, provider=process.provider, key_id=key_id, status=told.status)
        await self._store(event, f"key.refused.{key_id}.{process.provider}.{now}")

    # --- what the vault says -----------------------------------------------------------------------------------------

    async def _deliver(self, process: Process, key_id: str = "") -> str:
        """Raises KeyMissing."""
        pipe = process.keys
        if pipe is None:
            raise KeyMissing("the process has ended")
        async with pipe.one:
            instance = process.seat.instance
            return await self._of.desk.deliver(self._of.topology, process.provider, pipe, instance, key_id)

    async def _settle(self, operation: Operation, process: Process) -> None:
        """Whoever does not use what is live in the vault does from now on; all else is forgotten."""
        pipe, instance = process.keys, process.seat.instance
        if pipe is None:  # what is live is read at the next start
            return
        try:
            async with pipe.one:
                before = pipe.key_id
            key_id = await self._deliver(process)
            if key_id != before:
                await pipe.order("use", key_id)
                operation.lines.append(f"{instance:30} uses {key_id}")
                if before:
                    await pipe.order("forget", before)
            self._of.key_ids[process.provider] = key_id
        except (KeyMissing, NotTold) as error:
            operation.lines.append(f"{instance:30} {error}")

    async def _forget(self, operation: Operation, key_id: str, processes: list[Process]) -> None:
        for process in processes:
            if process.keys is None:
                continue
            try:
                await process.keys.order("forget", key_id)
                operation.lines.append(f"{process.seat.instance:30} has forgotten {key_id}")
            except NotTold as error:
                operation.lines.append(f"{process.seat.instance:30} {error}")

    # --- the log -----------------------------------------------------------------------------------------------------

    async def announce(self) -> None:
        """Tell the log what the audit says was done to keys and the log does not know: also from before this start."""
        try:
            from understudy.actors.host.vault_audit import entries  # brings `cryptography`
        except ImportError:  # then nobody can have a vault
            return
        of = self._of
        path = vault_path(of.topology, of.folder, of.state)
        changes = [e for e in await asyncio.to_thread(entries, path) if e.purpose in CHANGES]
        if not changes:
            return
        known = {hash_ for cls in CHANGES.values() for hash_ in await self._announced(cls)}
        newest = max((e.n for e in changes if e.hash in known), default=0)
        for entry in changes:
            if entry.n > newest:
                await self._store(_event(entry), f"key.{entry.hash}")

    async def _announced(self, cls: type[KeyChanged]) -> list[str]:
        """Hashes of audit entries that the log knows."""
        found: list[str] = []
        app, seq = self._of.topology.app, 0
        subject = f"{app}.evt.{tag_of(cls).rsplit('.', 1)[0]}"
        while (received := await self._of.bus_side.bus.get(evt_stream(app), seq + 1, subject)) is not None:
            seq = received.seq
            try:
                event = decode(received.payload)
            except WireError:
                continue
            if isinstance(event, KeyChanged):
                found.append(event.audit_hash)
        return found

    async def _store(self, event: KeyChanged | KeyRefused, msg_id: str) -> None:
        subject = f"{self._of.topology.app}.evt.{tag_of(type(event)).rsplit('.', 1)[0]}"
        try:
            await self._of.bus_side.bus.store([Outgoing(subject, encode(event), msg_id)], timeout_s=STORE_S)
        except BusError as error:
            self._of.say("key_not_announced", why=f"{error.code}: {error}; it is told at the next start")


def _event(entry: Entry) -> KeyChanged:
    fields = {
        "at_ms": entry.at_ms,
        "name": entry.name,
        "key_id": entry.key_id,
        "audit_n": entry.n,
        "audit_hash": entry.hash,
        **({"was": entry.was} if entry.purpose == "rotate" else {}),
    }
    return made_of(CHANGES[entry.purpose], fields)
