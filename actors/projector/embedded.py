"""The graph's home where no Neo4j is named: an ArcadeDB that speaks Bolt, in a process of its own on loopback.

A transaction that it has acknowledged outlives a kill -9 of it; a power cut may take the last ones, whole, and the
projector then goes on from where the graph says it is.

`python -m understudy.actors.projector.embedded`, its errand as one JSON line on standard input, which stays open: when
it closes, the supervisor is gone and so are we. Says one JSON line when it answers.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec

from understudy.actors.host.linux import end_with, name_process, no_core_dumps

PLUGIN = "Bolt:com.arcadedb.bolt.BoltProtocolPlugin"
ORPHAN_S = 5.0


class EmbeddedErrand(msgspec.Struct, frozen=True, kw_only=True):
    """`folder` holds databases and logs. `parent`: the supervisor's process id."""

    folder: str
    bolt_port: int
    http_port: int
    password: str
    database: str
    heap_mb: int = 512
    parent: int = 0


def serve(errand: EmbeddedErrand) -> Any:
    """Start the server and its database. Its recovery after a crash happens here."""
    from arcadedb_embedded.server import ArcadeDBServer  # pyright: ignore[reportMissingTypeStubs]

    os.umask(0o077)  # databases and logs are this user's alone
    Path(errand.folder).mkdir(parents=True, exist_ok=True)
    os.chdir(errand.folder)  # its logs go to ./log
    server: Any = ArcadeDBServer(
        str(Path(errand.folder) / "store"),
        root_password=errand.password,
        jvm_kwargs={"heap_size": f"{errand.heap_mb}m"},
        config={
            "mode": "production",  # its page says nothing to guests, its errors hold no stack traces
            "host": "127.0.0.1",
            "http_port": errand.http_port,
            "server_plugins": PLUGIN,
            "bolt_port": errand.bolt_port,
            "bolt_host": "127.0.0.1",
        },
    )
    server.start()
    server.create_database(errand.database)  # or opens it, where it is there
    return server


def main() -> None:
    """Entry point of the process."""
    line = sys.stdin.buffer.readline()
    if not line:
        os._exit(0)
    supervisor = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the JVM prints goes into the log
    no_core_dumps()
    errand = msgspec.json.decode(line, type=EmbeddedErrand)
    name_process("graph-server")
    if errand.parent:
        end_with(errand.parent)
    server = serve(errand)
    supervisor.write(msgspec.json.encode({"ready": True}) + b"\n")
    supervisor.flush()
    sys.stdin.buffer.read()
    end = threading.Timer(ORPHAN_S, os._exit, (1,))
    end.daemon = True
    end.start()
    server.stop()
    os._exit(0)


if __name__ == "__main__":
    main()
