"""What the chaos bench runs on: `understudy up` as a process of its own, and the topologies of the rounds."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from understudy.actors.host.topology import read

START_S = 90.0
STOP_S = 10.0
KINDS = ("runner", "selector", "health_tracker", "nats-server")
"""What is struck: one word per kind of process."""


class Up:
    """`understudy up --json` in a state folder. Knows which process is which, also after restarts."""

    def __init__(self, topology: dict[str, Any], folder: Path, *, url: str = "") -> None:
        """`url`: join this server instead of starting the embedded one."""
        self.folder, self.state = folder, folder / "state"
        self.external = url
        self.pids: dict[str, int] = {}  # instance -> pid, ready ones only
        self.said: list[dict[str, Any]] = []
        self._run_file: dict[str, Any] = {}
        self._ready = asyncio.Event()
        self._child: asyncio.subprocess.Process | None = None
        self._listening: asyncio.Task[None] | None = None
        (folder / "topology.yaml").write_text(json.dumps(topology))  # JSON is YAML

    async def start(self) -> None:
        """Wait until every actor is ready. Raises RuntimeError."""
        code = "from understudy.tools.cli import main; main()"
        command = [sys.executable, "-c", code, "up", "--json", "--state", str(self.state)]
        command += [
            "--topology",
            str(self.folder / "topology.yaml"),
            *(["--nats", self.external] * bool(self.external)),
        ]
        self._child = await asyncio.create_subprocess_exec(
            *command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True
        )
        self._listening = asyncio.create_task(self._listen())
        try:
            async with asyncio.timeout(START_S):
                await asyncio.wait(
                    [self._listening, asyncio.create_task(self._ready.wait())], return_when=asyncio.FIRST_COMPLETED
                )
        except TimeoutError:
            pass
        if not self._ready.is_set():
            raise RuntimeError(f"`understudy up` did not get ready: {self.said[-3:]}; see {self.state}/actors.log")
        self._run_file = json.loads((self.state / "run.json").read_text())

    async def _listen(self) -> None:
        assert self._child is not None and self._child.stdout is not None
        async for line in self._child.stdout:
            said = json.loads(line)
            self.said.append(said)
            match said["event"]:
                case "actor_ready":
                    self.pids[said["instance"]] = said["pid"]
                case "actor_ended":
                    self.pids.pop(said["instance"], None)
                case "ready":
                    self._ready.set()
                case _:
                    pass

    async def stop(self) -> None:
        """In order as with Ctrl-C; by force when it lingers."""
        if self._child is None:
            return
        for number, patience_s in ((signal.SIGINT, STOP_S), (signal.SIGKILL, STOP_S)):
            with contextlib.suppress(ProcessLookupError, TimeoutError):
                self._child.send_signal(number)
                await asyncio.wait_for(self._child.wait(), patience_s)
                break
        if self._listening is not None:
            await self._listening

    @property
    def url(self) -> str:
        """Where the nats-server is."""
        return self.external or self._run_file["url"]

    @property
    def operator(self) -> dict[str, str]:
        """User and password of the operator, as `nats.connect` takes them; empty on a server that is not ours."""
        return {} if self.external else {"user": "operator", "password": self._run_file["password"]}

    def living(self, kind: str) -> dict[str, int]:
        """Process ids per instance of a kind, those that are up."""
        if kind == "nats-server":
            with contextlib.suppress(OSError, ValueError):
                pid = int((self.state / "nats" / "nats.pid").read_text())
                os.kill(pid, 0)
                return {"nats-server": pid}
            return {}
        words = {p["instance"]: p["actor"] for p in self._run_file["processes"]}
        return {name: pid for name, pid in self.pids.items() if words.get(name) == kind}


def _committed() -> dict[str, Any]:
    return msgspec.to_builtins(read(Path("topology.yaml")))


def _tasks(models: list[str], **parameters: Any) -> dict[str, Any]:
    """One task per model that prefers it, so that all models speak at once."""
    return {"general": parameters, **{f"prefers-{n}": dict(parameters) for n in range(len(models))}}


def _quality(n: int, count: int) -> dict[str, float]:
    return {"default": 0.5, **{f"prefers-{k}": 0.9 if k == n else 0.5 for k in range(count)}}


def http_topology(url: str, port: int = 0) -> dict[str, Any]:
    """Three models that share one script, each behind a provider entry and so in a runner process of its own."""
    names = ["drip@a", "drip@b", "drip@c"]
    models = {
        name: {"provider": f"lab-{n}", "slots": 64, "continues": "native", "quality": _quality(n, len(names))}
        for n, name in enumerate(names)
    }
    return {
        "version": 1,
        "bus": {"port": port},
        "providers": {f"lab-{n}": {"kind": "openai", "url": url} for n in range(len(names))},
        "models": models,
        "tasks": _tasks(names, max_tokens=2_000),
        "graph": {"uri": "off"},
        "actors": _committed()["actors"],
    }


def local_topology(weights: Path, tokens_per_s: float) -> dict[str, Any]:
    """The same weights under three ids, greedy: three local processes that say the same."""
    names = ["twin/a", "twin/b", "twin/c"]
    models = {
        name: {
            "provider": "local",
            "path": str(weights.resolve()),
            "context_tokens": 512,
            "slots": 24,
            "continues": "native",
            "tokens_per_s": tokens_per_s,
            "dtype": "float32",
            "quality": _quality(n, len(names)),
        }
        for n, name in enumerate(names)
    }
    return {
        "version": 1,
        "bus": {"port": 0},
        "providers": {"local": {"kind": "local"}},
        "models": models,
        "tasks": _tasks(names, max_tokens=400, temperature=0.0),
        "graph": {"uri": "off"},
        "actors": _committed()["actors"],
    }
