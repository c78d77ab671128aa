"""The supervisor's side of the forkservers: processes that it adopts, and a forkserver that may die at any time.

Linux only (subreaper, pidfd). Elsewhere, and whenever a forkserver cannot do it, `fork` says None and the supervisor
starts a plain process, which works everywhere and takes the time that its imports take (with torch, seconds).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import IO, Any, Literal

import msgspec

from understudy.actors.host.linux import adopt_orphans
from understudy.messages.topology import Topology

READY_S = 60.0  # importing torch on a loaded machine
FORK_S = 5.0
FAILURES = 3  # in a row, and it is not tried again


class Adopted:
    """A process that something else started and that is now our child: the part of asyncio's `Process` that we use."""

    def __init__(
        self,
        pid: int,
        fd: int,
        stdin: asyncio.WriteTransport,
        stdout: asyncio.StreamReader,
        pipe: asyncio.ReadTransport,
    ) -> None:
        self.pid, self.stdin, self.stdout, self._pipe = pid, stdin, stdout, pipe
        self.returncode: int | None = None
        self._ended = asyncio.Event()
        self._fd = fd
        asyncio.get_running_loop().add_reader(self._fd, self._reap)

    @classmethod
    async def take(cls, pid: int, stdin: IO[bytes], stdout: IO[bytes]) -> Adopted:
        """Wraps our ends of its pipes, which stay the caller's to close where this raises."""
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
        with contextlib.ExitStack() as undo:
            fd = os.pidfd_open(pid)
            undo.callback(os.close, fd)
            pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), stdout)
            undo.callback(pipe.close)
            writer, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, stdin)
            undo.pop_all()
        return cls(pid, fd, writer, reader, pipe)

    async def wait(self) -> int:
        """The exit code, negative for a signal."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def release(self) -> None:
        """Nobody reads on: the pipes are closed, with the loop's next turn."""
        self.stdin.close()
        self._pipe.close()

    def send_signal(self, number: int) -> None:
        """Sends a signal; raises ProcessLookupError when the process has ended."""
        if self.returncode is not None:
            raise ProcessLookupError
        signal.pidfd_send_signal(self._fd, number)

    def _reap(self) -> None:
        asyncio.get_running_loop().remove_reader(self._fd)
        os.close(self._fd)
        try:
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:  # somebody in this process waits for every child there is
            self.returncode = 255
        self.stdin.close()
        self._ended.set()


Child = asyncio.subprocess.Process | Adopted


class ForkServer:
    """Starts a forkserver when it is needed, again when it has died, and asks it for processes, one at a time.

    `kind`: what it has imported, see `forkserver.PRELOAD`.
    """

    def __init__(self, kind: Literal["local", "actors"]) -> None:
        self._kind = kind
        self._environment: Mapping[str, str] = {}
        self._process: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._failures = 0
        self._one = asyncio.Lock()

    @property
    def pid(self) -> int:
        """Of the living forkserver; 0 when there is none."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    async def fork(
        self, environment: Mapping[str, str], log: IO[bytes], families: Iterable[str] = (), key_fd: int = -1
    ) -> Adopted | None:
        """A new process that waits for its errand; None when a plain one must do.

        `families`: model types whose code a new forkserver imports; `log` becomes the process's standard error;
        `key_fd`: a descriptor that it gets too, under the same number.
        """
        async with self._one:
            if self._failures >= FAILURES or not adopt_orphans():
                return None
            try:
                if not self.pid or environment != self._environment:
                    await self._start(environment, log, families)
                child = await self._fork(log, key_fd)
            except OSError:
                self._failures += 1
                await self.stop()
                return None
            except BaseException:  # its answer may still come, and must not be taken for that to the next request
                self._kill()
                raise
            self._failures = 0
            return child

    async def renew(self) -> None:
        """The next process is forked from a new forkserver, which has imported what is installed by then.

        It is tried again, too, where it was given up.
        """
        async with self._one:
            await self.stop()
            self._failures = 0

    async def stop(self) -> None:
        """Ends the forkserver; what it forked lives on."""
        process = self._process
        self._kill()
        if process is not None:
            await process.wait()

    def _kill(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
        self._process = self._control = None

    async def _start(self, environment: Mapping[str, str], log: IO[bytes], families: Iterable[str]) -> None:
        await self.stop()
        self._environment = environment
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "understudy.actors.host.forkserver", self._kind, *families,
                stdin=theirs.fileno(), stdout=asyncio.subprocess.DEVNULL, stderr=log,
                # torch then looks for GPUs without touching them, so that forked processes can still use one
                env={**environment, "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}, start_new_session=True,
            )  # fmt: skip
        if await self._reply(READY_S) != b"ready":
            raise OSError("the forkserver cannot fork")

    async def _fork(self, log: IO[bytes], key_fd: int) -> Adopted:
        assert self._control is not None
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            # Without our ends a process that nobody heard of ends by itself.
            their_stdin, our_stdin = _pipe(theirs, ours)
            our_stdout, their_stdout = _pipe(ours, theirs)
            given = {0: their_stdin.fileno(), 1: their_stdout.fileno(), 2: log.fileno()}
            given |= {} if key_fd < 0 else {key_fd: key_fd}
            socket.send_fds(self._control, [" ".join(map(str, given)).encode()], list(given.values()))
            pid = int(await self._reply(FORK_S) or 0)
            if not pid:
                raise OSError("the forkserver is gone")
            try:
                child = await Adopted.take(pid, our_stdin, our_stdout)
            except BaseException:  # it has no errand yet, and nobody else would wait for it
                _end(pid)
                raise
            ours.pop_all()
            return child

    async def _reply(self, timeout_s: float) -> bytes:
        assert self._control is not None
        self._control.settimeout(timeout_s)
        return await asyncio.to_thread(self._control.recv, 64)


def _pipe(reader: contextlib.ExitStack, writer: contextlib.ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    """Both ends, and who closes them."""
    read_end, write_end = os.pipe()
    return (
        reader.enter_context(os.fdopen(read_end, "rb", 0)),
        writer.enter_context(os.fdopen(write_end, "wb", 0)),
    )


def _end(pid: int) -> None:
    """A child that nobody else waits for; killed, it is gone at once."""
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


async def told(stdout: asyncio.StreamReader) -> AsyncIterator[dict[str, Any]]:
    """What a process says, a JSON object a line, until it ends. Whatever else it prints is none of our business."""
    while True:
        try:
            line = await stdout.readline()
        except ValueError:  # longer than any line of ours; the reader has thrown it away
            continue
        if not line:
            return
        with contextlib.suppress(msgspec.DecodeError):
            yield msgspec.json.decode(line, type=dict[str, Any])


def actor_environment(without: set[str]) -> dict[str, str]:
    """Of every actor process: ours without the provider keys, and what libraries read when they are imported."""
    return {
        **{name: value for name, value in os.environ.items() if name not in without},
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def model_types(topology: Topology, folder: Path) -> list[str]:
    """The families of the local models, whose code is worth importing beforehand; unreadable configs are left out."""
    found: set[str] = set()
    for model in topology.models.values():
        if topology.providers[model.provider].kind == "local" and model.path:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                found.add(str(json.loads((folder / model.path / "config.json").read_text())["model_type"]))
    return sorted(found)
