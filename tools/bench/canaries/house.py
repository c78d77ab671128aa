"""`understudy up` in a folder of its own, with a vault opened by a passphrase, as an operator starts it.

All that it and every command print is kept, to be searched. Core dumps are allowed and would fall into the folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import msgspec

from understudy.bus.client import Client
from understudy.messages.topology import Topology

CLI = "import sys; from understudy.tools.cli import main; main(sys.argv[1:])"
READY_S, COMMAND_S, BACK_S = 60.0, 60.0, 30.0


class House:
    """Start it with `async with`; the folder must exist."""

    def __init__(self, folder: Path, topology: Topology, passphrase: str) -> None:
        self.folder, self.state = folder, folder / "state"
        self.printed: dict[str, bytearray] = {}
        self._passphrase = passphrase
        (folder / "tmp").mkdir()
        (folder / "topology.yaml").write_bytes(msgspec.json.encode(topology))  # JSON is YAML
        self._environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "GOTRACEBACK": "crash"}

    async def __aenter__(self) -> Self:
        self._process = await self._start("up", "--json", secret=True)
        self._reading = [
            asyncio.create_task(self._keep("up", stream)) for stream in (self._process.stdout, self._process.stderr)
        ]
        await self.settled()
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        await asyncio.wait_for(self._process.wait(), COMMAND_S)
        await asyncio.gather(*self._reading)

    # --- commands ----------------------------------------------------------------------------------------------------

    async def _start(self, *words: str, secret: bool = False, where: bool = True) -> asyncio.subprocess.Process:
        """A command of ours. `secret`: it may read the passphrase from a descriptor."""
        more = ["--state", str(self.state)] if where else []
        if words[0] in ("up", "keys"):
            more += ["--topology", str(self.folder / "topology.yaml")]
        fds = [self._secret()] if secret else list[int]()
        more += ["--passphrase-fd", str(fds[0])] if secret else []
        try:
            return await asyncio.create_subprocess_exec(
                sys.executable, "-c", CLI, *words, *more, cwd=self.folder, env=self._environment, pass_fds=fds,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_allow_cores,
            )  # fmt: skip
        finally:
            for fd in fds:
                os.close(fd)

    def _secret(self) -> int:
        reader, writer = os.pipe()
        os.write(writer, self._passphrase.encode() + b"\n")
        os.close(writer)
        return reader

    async def command(self, *words: str, key: str = "", secret: bool = False, good: tuple[int, ...] = (0,)) -> bytes:
        """Run one to its end; `key` on its standard input. Raises RuntimeError."""
        process = await self._start(*words, secret=secret)
        out, err = await asyncio.wait_for(process.communicate(key.encode() + b"\n"), COMMAND_S)
        self.printed.setdefault(" ".join(words[:2]), bytearray()).extend(out + err)
        if process.returncode not in good:
            raise RuntimeError(f"understudy {words[0]} ended with {process.returncode}: {err.decode()[-500:]}")
        return out

    async def _keep(self, name: str, stream: asyncio.StreamReader | None) -> None:
        assert stream is not None
        while data := await stream.read(65_536):
            self.printed.setdefault(name, bytearray()).extend(data)

    # --- processes ---------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Of the supervisor."""
        return self._process.pid

    def run_file(self) -> dict[str, Any]:
        """What it says about itself."""
        return json.loads((self.state / "run.json").read_text())

    def pids(self) -> dict[str, int]:
        """By instance."""
        return {p["instance"]: p["pid"] for p in self.run_file()["processes"]}

    async def settled(self) -> None:
        """Every process is ready. Raises RuntimeError, TimeoutError."""
        async with asyncio.timeout(READY_S):
            while True:
                if self._process.returncode is not None:
                    raise RuntimeError(f"`up` ended: {bytes(self.printed.get('up', b'')).decode()[-800:]}")
                with contextlib.suppress(OSError, ValueError):
                    found = self.run_file()["processes"]
                    if found and all(p["ready"] for p in found):
                        return
                await asyncio.sleep(0.05)

    async def strike(self, instance: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a process, and wait until another one is in its place."""
        before = self.pids()[instance]
        os.kill(before, number)
        await self.replaced(instance, before)

    async def replaced(self, instance: str, before: int) -> None:
        """Until the instance has another process, and all are ready. Raises TimeoutError."""
        async with asyncio.timeout(BACK_S):
            while True:
                if self.pids().get(instance) not in (0, None, before):
                    break
                await asyncio.sleep(0.03)
        await self.settled()

    async def operator(self) -> Client:
        """The operator's connection."""
        about = self.run_file()
        return await Client.connect(about["url"], user="operator", password=about["password"])


def _allow_cores() -> None:
    """As on a machine where somebody wants to see crashes."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
