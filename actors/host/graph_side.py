"""The supervisor's side of the performance graph: where it lives, and the embedded server, kept going."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from understudy.actors.host.keys import KeyMissing, secret_file, text_of
from understudy.actors.host.spawn import actor_environment, told
from understudy.messages.topology import GraphPlan, Topology

BACKOFF_S = (0.2, 1.0, 5.0, 15.0)
STEADY_S = 60.0
STOP_S = 3.0
DATABASE = "understudy"
NO_DRIVER = "the driver is not installed: pip install 'understudy[graph]'"
NO_SERVER = "the embedded server is not installed: pip install 'understudy[graph]', or name a Neo4j as `graph.uri`"


class Home(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach the graph; `missing` says why there is none."""

    uri: str = ""
    user: str = ""
    password: str = ""
    database: str = ""
    missing: str = ""


class GraphSide:
    """Of one supervisor. The embedded server keeps its ports for as long as that runs."""

    def __init__(self, state: Path, folder: Path, say: Callable[..., None], log: Callable[[], Any]) -> None:
        """`folder`: relative paths of the topology are taken from there. `log`: where processes write, once open."""
        self._state, self._folder, self._say, self._log = state, folder, say, log
        self.home = Home(missing="not started")
        self.pid = 0
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._plan: GraphPlan | None = None

    async def apply(self, topology: Topology) -> None:
        """Make what the topology says; nothing is waited for but the end of a server that is no longer wanted. Raises
        KeyMissing."""
        plan = _plan(topology)
        if plan == self._plan:
            return
        home = self._home(plan)  # where that raises, all stays as it was
        await self.stop()
        self._plan, self.home = plan, home
        if plan.uri == "embedded" and not self.home.missing:
            self._keeping = asyncio.create_task(self._keep(plan))

    def check(self, topology: Topology) -> None:
        """What would keep `apply` from it, before anything is changed. Raises KeyMissing."""
        self._password(_plan(topology))

    def _home(self, plan: GraphPlan) -> Home:
        if plan.uri == "off":
            return Home(missing="the topology says `graph: {uri: off}`")
        if importlib.util.find_spec("neo4j") is None:
            return Home(missing=NO_DRIVER)
        if plan.uri != "embedded":
            user = plan.user if plan.password_file is not None else ""
            return Home(uri=plan.uri, user=user, password=self._password(plan), database=plan.database)
        if importlib.util.find_spec("arcadedb_embedded") is None:
            return Home(missing=NO_SERVER)
        (self._state / "graph").mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._state / "graph").chmod(0o700)
        password = secret_file(self._state / "graph" / "root.key")
        return Home(uri=f"bolt://127.0.0.1:{_free_port()}", user="root", password=password, database=DATABASE)

    def _password(self, plan: GraphPlan) -> str:
        if plan.password_file is None:
            return ""
        found = text_of(self._folder / plan.password_file)
        if not found:
            raise KeyMissing(f"graph.password_file: {plan.password_file} cannot be read, or holds nothing")
        return found

    async def stop(self) -> None:
        """The embedded server ends, in order where it can."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
            self._keeping = None
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            if process.stdin is not None:
                process.stdin.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), STOP_S)
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        self.pid = 0

    async def _keep(self, plan: GraphPlan) -> None:
        """Start it, again and again, waiting longer while it keeps dying."""
        falls, http_port = 0, _free_port()
        while True:
            began = time.monotonic()
            code = await self._run_once(plan, http_port, began)
            falls = 0 if time.monotonic() - began > STEADY_S else falls + 1
            wait_s = BACKOFF_S[min(falls, len(BACKOFF_S)) - 1] if falls else 0.0
            self._say("graph_ended", code=code, again_in_s=wait_s)
            await asyncio.sleep(wait_s)

    async def _run_once(self, plan: GraphPlan, http_port: int, began: float) -> int | None:
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "understudy.actors.projector.embedded",
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=self._log(),
                env=actor_environment(without=set()), start_new_session=True,
            )  # fmt: skip
        except OSError:  # no process to be had just now
            return None
        self._process, self.pid = process, process.pid
        assert process.stdin is not None and process.stdout is not None
        errand = {
            "folder": str(self._state / "graph"),
            "bolt_port": int(self.home.uri.rpartition(":")[2]),
            "http_port": http_port,
            "password": self.home.password,
            "database": self.home.database,
            "heap_mb": plan.heap_mb,
            "parent": os.getpid(),
        }
        process.stdin.write(msgspec.json.encode(errand) + b"\n")
        async for said in told(process.stdout):
            if said.get("ready"):
                self._say("graph_ready", uri=self.home.uri, s=round(time.monotonic() - began, 2))
        return await process.wait()


def _plan(topology: Topology) -> GraphPlan:
    return topology.graph if "projector" in topology.actors else GraphPlan(uri="off")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
