"""The supervisor's part in keys: it starts who reads them, passes descriptors, and knows ids. It never holds a key."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from understudy.actors.host.key_keeper import Keeper, KeeperFailed, task_for
from understudy.actors.host.key_opener import Done, Job, Wanted, answer_of
from understudy.actors.host.key_pipe import KeyPipe
from understudy.actors.host.keys import KeyMissing, key_variables
from understudy.actors.host.spawn import actor_environment
from understudy.messages.topology import Provider, Topology

OPEN_S = 30.0


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
        return (await self._open(topology, one, pipe, actor, key_id)).ids[name]

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
        writer = -1 if pipe is None else pipe.writer
        secrets: list[int] = []
        try:
            wanted: list[Wanted] = []
            for name, provider in providers.items():
                fd = await self._secret(provider, handed_out=writer >= 0)
                secrets += [fd] if fd >= 0 else []
                assert provider.key is not None
                wanted.append(Wanted(name, provider.key, fd))
            job = Job(tuple(wanted), str(self._folder), str(self._state), str(vault), writer, actor, key_id)
            done = await self._run(job, [*secrets, *([writer] if writer >= 0 else [])], key_variables(topology))
        except KeeperFailed as error:
            raise KeyMissing(str(error)) from None
        finally:
            for fd in secrets:
                os.close(fd)
        if done.code:
            raise KeyMissing(done.text)
        return done

    async def _secret(self, provider: Provider, *, handed_out: bool) -> int:
        """What the keeper gives: a variable's value, the root key; -1: nothing. Raises KeeperFailed."""
        source = provider.key
        if self._keeper is None or source is None:
            return -1
        if source.env is not None:
            return await self._keeper.give("variable", source.env)
        return await self._keeper.give("root") if source.vault is not None and handed_out and self._keeper.root else -1

    async def _run(self, job: Job, fds: Sequence[int], variables: set[str]) -> Done:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "understudy.actors.host.key_opener",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            pass_fds=fds, env=actor_environment(without=variables), start_new_session=True,
        )  # fmt: skip
        try:
            async with asyncio.timeout(OPEN_S):
                said, _ = await process.communicate(msgspec.json.encode(job))
            return answer_of(said)
        except (TimeoutError, msgspec.DecodeError):
            raise KeyMissing("the process that reads keys did not answer; see `understudy keys test`") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
