"""The supervisor's part in keys: it starts who reads them, passes descriptors, and knows ids. It never holds a key."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from understudy.actors.host.key_keeper import Keeper, KeeperFailed, task_for
from understudy.actors.host.key_opener import Audit, Change, Done, Job, Wanted, answer_of
from understudy.actors.host.key_pipe import KeyPipe
from understudy.actors.host.keys import KeyMissing, key_variables
from understudy.actors.host.spawn import actor_environment
from understudy.messages.topology import Provider, Topology

OPEN_S = 30.0


class _Record(msgspec.Struct):
    key_id: str
    name: str
    state: str


class _Body(msgspec.Struct):
    records: tuple[_Record, ...]


class _File(msgspec.Struct):
    """What is read of a vault here, without `cryptography` (`vault.py` has all of it)."""

    body: _Body


def vault_path(topology: Topology, folder: Path, state: Path) -> Path:
    """Where the vault is."""
    return folder / topology.vault if topology.vault is not None else state / "keys.vault"


class KeyDesk:
    """Key ids of a topology's providers, and their keys into the pipes of those who use them."""

    def __init__(self, folder: Path, state: Path, keeper: Keeper | None) -> None:
        self._folder, self._state, self._keeper = folder, state, keeper

    async def ids(self, topology: Topology) -> dict[str, str]:
        """Of all keys that the topology names, by provider. Raises KeyMissing."""
        await self._keep(topology)
        keyed = {name: p for name, p in topology.providers.items() if p.key is not None}
        return (await self._open(topology, keyed, None)).ids if keyed else {}

    async def deliver(self, topology: Topology, name: str, pipe: KeyPipe, actor: str, key_id: str = "") -> str:
        """Write provider `name`'s live key (or `key_id`) into a pipe; its id. Raises KeyMissing."""
        one = {name: topology.providers[name]}
        found = (await self._open(topology, one, pipe, actor, key_id)).ids[name]
        pipe.held.add(found)
        return found

    def states(self, topology: Topology, name: str) -> dict[str, str]:
        """Of the vault's keys of this name, by id, as its file says: unproven, so nothing but which of a process's keys
        to use or to forget follows from it. Raises KeyMissing."""
        path = vault_path(topology, self._folder, self._state)
        try:
            records = msgspec.json.decode(path.read_bytes(), type=_File).body.records
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise KeyMissing(f"the vault {path} cannot be read ({type(error).__name__})") from None
        return {r.key_id: r.state for r in records if r.name == name}

    async def audit(
        self, topology: Topology, purposes: tuple[str, ...], anchors: tuple[tuple[int, str], ...]
    ) -> tuple[tuple[Change, ...], tuple[str, ...]]:
        """Proven entries of the audit with these purposes, and what is wrong with it. Raises KeyMissing."""
        vault, keeper = vault_path(topology, self._folder, self._state), self._keeper
        try:
            fd = -1 if keeper is None or not keeper.root else await keeper.give("root")
        except KeeperFailed as error:
            raise KeyMissing(str(error)) from None
        try:
            wanted = Audit(purposes, anchors, fd)
            job = Job((), str(self._folder), str(self._state), str(vault), audit=wanted)
            done = await self._run(job, [fd] if fd >= 0 else [], key_variables(topology))
        finally:
            if fd >= 0:
                os.close(fd)
        return done.changes, done.findings

    def keeper_lives(self) -> bool:
        """True too where none is needed."""
        return self._keeper is None or self._keeper.lives()

    def close(self) -> None:
        """The keeper ends."""
        if self._keeper is not None:
            self._keeper.close()
            self._keeper = None

    async def _keep(self, topology: Topology) -> None:
        """A supervisor that nobody gave a keeper (in a test, a bench, the demo) starts its own."""
        if self._keeper is not None:
            return
        try:
            task = task_for(topology, vault_path(topology, self._folder, self._state))
            if task is not None:
                self._keeper = await asyncio.to_thread(Keeper.start, task)
        except KeeperFailed as error:
            raise KeyMissing(str(error)) from None

    async def _open(
        self,
        topology: Topology,
        providers: dict[str, Provider],
        pipe: KeyPipe | None,
        actor: str = "",
        key_id: str = "",
    ) -> Done:
        vault = vault_path(topology, self._folder, self._state)
        if pipe is not None and pipe.closed:
            raise KeyMissing("the process has ended")
        # A descriptor of our own: the pipe may be closed while we wait, and its number be another's.
        writer = -1 if pipe is None else os.dup(pipe.writer)
        secrets: list[int] = []
        try:
            wanted: list[Wanted] = []
            for name, provider in providers.items():
                fd = await self._secret(provider, handed_out=writer >= 0)
                secrets += [fd] if fd >= 0 else []
                assert provider.key is not None
                wanted.append(Wanted(name, provider.key, fd))
            job = Job(tuple(wanted), str(self._folder), str(self._state), str(vault), writer, actor, key_id)
            return await self._run(job, [*secrets, *([writer] if writer >= 0 else [])], key_variables(topology))
        except KeeperFailed as error:
            raise KeyMissing(str(error)) from None
        finally:
            for fd in (*secrets, *([writer] if writer >= 0 else [])):
                os.close(fd)

    async def _secret(self, provider: Provider, *, handed_out: bool) -> int:
        """What the keeper gives: a variable's value, the root key; -1: nothing. Raises KeeperFailed."""
        source = provider.key
        if self._keeper is None or source is None:
            return -1
        if source.env is not None:
            return await self._keeper.give("variable", source.env)
        return await self._keeper.give("root") if source.vault is not None and handed_out and self._keeper.root else -1

    async def _run(self, job: Job, fds: Sequence[int], variables: set[str]) -> Done:
        """Raises KeyMissing."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "understudy.actors.host.key_opener",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            pass_fds=fds, env=actor_environment(without=variables), start_new_session=True,
        )  # fmt: skip
        try:
            async with asyncio.timeout(OPEN_S):
                said, _ = await process.communicate(msgspec.json.encode(job))
            done = answer_of(said)
        except (TimeoutError, msgspec.DecodeError):
            raise KeyMissing("the process that reads keys did not answer; see `understudy keys test`") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if done.code:
            raise KeyMissing(done.text)
        return done
