"""Servers that a graph can live in: the embedded one of the extra `graph`, and a real Neo4j where one is at hand.

A Neo4j is looked for beside the repository (`../shared/neo4j`, with `neo4j_up.py`), or where `UNDERSTUDY_NEO4J` says.
Both are started on loopback, on a store of their own, and can be killed and started again.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

HomeName = Literal["embedded", "neo4j"]
START_S = 90.0
PASSWORD = "a bench on loopback"


class Missing(Exception):
    """This home is not at hand, and why."""


class Home(Protocol):
    """A graph server that runs."""

    name: HomeName
    uri: str
    user: str
    password: str
    database: str

    @property
    def pid(self) -> int: ...
    def kill(self) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...


class Embedded:
    """`actors/projector/embedded.py`, as the supervisor starts it."""

    name: HomeName = "embedded"
    user, password, database = "root", PASSWORD, "understudy"

    def __init__(self) -> None:
        if importlib.util.find_spec("arcadedb_embedded") is None:
            raise Missing("arcadedb-embedded is not installed: pip install 'understudy[graph]'")
        self._folder = Path(tempfile.mkdtemp(prefix="understudy-graph-"))
        self._ports = [_free_port(), _free_port()]
        self.uri = f"bolt://127.0.0.1:{self._ports[0]}"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """On the same store and ports as before."""
        errand: dict[str, Any] = {"folder": str(self._folder), "password": self.password, "database": self.database}
        errand |= {"bolt_port": self._ports[0], "http_port": self._ports[1]}
        with (self._folder / "console.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "understudy.actors.projector.embedded"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(errand).encode() + b"\n")
        self._process.stdin.flush()
        if not self._process.stdout.readline():
            raise RuntimeError((self._folder / "console.log").read_text(errors="replace")[-2000:])

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def stop(self) -> None:
        """For good."""
        if self._process is not None and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


class Neo4j:
    """A real Neo4j Community, from its own jars."""

    name: HomeName = "neo4j"
    user, password, database = "", "", "neo4j"

    def __init__(self) -> None:
        self._module = neo4j_module()
        self._folder = Path(tempfile.mkdtemp(prefix="understudy-neo4j-"))
        self._server: Any = self._module.Server(data=self._folder)
        self.uri = str(self._server.uri)

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        return int(self._server.pid)

    def start(self) -> None:
        """On the same store and port as before."""
        self._server.start(START_S)

    def kill(self) -> None:
        """kill -9."""
        self._server.kill()

    def stop(self) -> None:
        """For good."""
        if self._server.process is not None and self._server.process.poll() is None:
            self._server.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


def neo4j_module() -> Any:
    """What starts a Neo4j. Raises Missing."""
    folder = Path(os.environ.get("UNDERSTUDY_NEO4J", "../shared/neo4j"))
    file = folder / "neo4j_up.py"
    if not file.exists():
        raise Missing(f"no Neo4j at {folder}: name a folder with neo4j_up.py and its jars as UNDERSTUDY_NEO4J")
    if shutil.which("java") is None:
        raise Missing("a Neo4j needs java (17 or 21) on PATH")
    spec = importlib.util.spec_from_file_location("neo4j_up", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["neo4j_up"] = module
    spec.loader.exec_module(module)
    return module


HOMES: dict[HomeName, type[Embedded] | type[Neo4j]] = {"embedded": Embedded, "neo4j": Neo4j}


@contextmanager
def home(name: HomeName) -> Generator[Home]:
    """A server that runs, gone at the end. Raises Missing."""
    server: Home = HOMES[name]()
    try:
        server.start()
        until_answers(server)
        yield server
    finally:
        server.stop()


def until_answers(server: Home) -> None:
    """Its database answers a statement (the port opens earlier). Raises one of `BoltError` when it never does."""
    from neo4j import GraphDatabase

    from understudy.actors.projector.bolt import BoltError

    until = time.monotonic() + START_S
    auth = (server.user, server.password) if server.user else None
    while True:
        try:
            with GraphDatabase.driver(server.uri, auth=auth, notifications_min_severity="OFF") as driver:
                driver.execute_query("RETURN 1", database_=server.database)
            return
        except BoltError:  # nobody listens yet, hangs up in the middle, or does not have the database yet
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def wanted(name: str) -> tuple[HomeName, ...]:
    """`embedded`, `neo4j`, or both for an empty name."""
    return (name,) if name in ("embedded", "neo4j") else ("embedded", "neo4j")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
