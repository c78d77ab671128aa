"""A stage for benches: the fake provider in a process of its own and the actors as `understudy up` starts them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from understudy.actors.host.supervisor import Supervisor
from understudy.actors.host.topology import parse, read
from understudy.messages.topology import Topology
from understudy.tools.interpreter import probe_ms

READY_S = 60.0


class Fake(NamedTuple):
    """A fake provider that runs: its base URL and its process."""

    url: str
    pid: int


@contextlib.asynccontextmanager
async def fake_provider(faults: Path | None = None, key: str | None = None) -> AsyncGenerator[Fake, None]:
    """The fake provider on a free port, with the faults of a file over its own; `key`: it takes no other."""
    command = [sys.executable, "-m", "understudy.tools.fake", "--port", "0"]
    command += ["--faults", str(faults)] if faults is not None else []
    command += ["--require-key", key] if key is not None else []
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 20)).decode()
        yield Fake(next(word for word in line.split() if word.startswith("http")), process.pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


@contextlib.asynccontextmanager
async def bare_process(module: str, *words: str) -> AsyncGenerator[int, None]:
    """A process beside which ours is measured (a module of this folder), once it has said that it is ready; its id."""
    command = [sys.executable, "-m", f"understudy.tools.bench.{module}", *words]
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        await asyncio.wait_for(process.stdout.readline(), 30)
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def topology_on(url: str, models: dict[str, dict[str, Any]], selectors: int = 2, **more: Any) -> Topology:
    """A topology with one HTTP provider and these models; the actors are the committed topology's."""
    committed = msgspec.to_builtins(read(Path("topology.yaml")))
    committed["actors"]["selector"]["replicas"] = selectors
    body: dict[str, Any] = {
        "version": 1,
        "bus": {"port": 0},
        "graph": {"uri": "off"},
        "providers": {"fake": {"kind": "openai", "url": url, "max_connections": 512}},
        "tasks": {"general": {"latency": "interactive", "max_tokens": 256}},
        "models": {name: {"provider": "fake", "slots": 256, **facts} for name, facts in models.items()},
        "actors": committed["actors"],
        **more,
    }
    return parse(msgspec.json.encode(body).decode(), Path.cwd())  # JSON is YAML


def _quiet(word: str, **facts: Any) -> None:
    """A bench says nothing of the actors' progress."""


@contextlib.asynccontextmanager
async def running(
    topology: Topology, state: Path | None = None, say: Callable[..., None] = _quiet, ready_s: float = READY_S
) -> AsyncGenerator[Supervisor, None]:
    """The actors of a topology, ready; stopped at the end. Without `state`, in a temporary state folder."""
    with tempfile.TemporaryDirectory(prefix="understudy-bench-") as folder:
        supervisor = Supervisor(topology, Path.cwd(), state or Path(folder), say)
        task = asyncio.create_task(supervisor.run())
        ready = asyncio.create_task(supervisor.ready.wait())
        try:
            await asyncio.wait([task, ready], timeout=ready_s, return_when=asyncio.FIRST_COMPLETED)
            if not supervisor.ready.is_set():
                raise RuntimeError("the actors did not get ready; see actors.log")
            yield supervisor
        finally:
            ready.cancel()
            supervisor.stop.set()
            await task


def pids(supervisor: Supervisor, actor: str) -> list[int]:
    """Process ids of an actor's living instances."""
    return [p.pid for p in supervisor.processes if p.seat.actor == actor and p.pid]


def cpu_s(pid: int) -> float:
    """User and system seconds of a living process (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Resident memory of a living process in MB (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1000
    return 0.0


def fsync_ms(folder: Path | None = None, rounds: int = 50) -> float:
    """Median milliseconds of appending 300 bytes and fsyncing: the disk's own floor for one stored event."""
    took: list[float] = []
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        for _ in range(rounds):
            file.write(b"x" * 300)
            file.flush()
            began = time.perf_counter()
            os.fsync(file.fileno())
            took.append((time.perf_counter() - began) * 1000)
    return sorted(took)[rounds // 2]


def machine() -> dict[str, float]:
    """What disk and interpreter take, to read other figures by: milliseconds."""
    return {"fsync_ms": round(fsync_ms(), 4), "python_ms": round(min(probe_ms() for _ in range(5)), 2)}


def loop_factory() -> Any:
    """uvloop on our side too, as the actors have it."""
    import uvloop

    return uvloop.new_event_loop
