"""A process with torch and transformers imported, which forks a runner per local model instead of starting it anew.

`python -m understudy.actors.host.forkserver [model type ...]`, with a Unix socket as standard input. It starts no
thread, opens no connection, touches no GPU and sees no secret: a request brings the standard streams of one runner,
and the errand comes to the runner through them. It forks twice, so that the runner is nobody's child but the
supervisor's (which adopts orphans): a forkserver that dies takes no runner with it and owes nobody an exit code.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import re
import socket
import sys
from pathlib import Path
from typing import NoReturn

from understudy.actors.host import child
from understudy.actors.host.linux import end_with

PRELOAD = (
    "uvloop",
    "torch",
    "transformers",
    "transformers.generation",
    "understudy.actors.runner.core",
    "understudy.actors.runner.local_edge",
    "understudy.actors.runner.local.engine",
)
STREAMS = 3


def preload(model_types: list[str]) -> None:
    """Imports what every runner needs, and the code of these families of models, as far as it is there."""
    names = [f"transformers.models.{t}.modeling_{t}" for t in model_types if re.fullmatch(r"[a-z0-9_]+", t)]
    for name in (*PRELOAD, *names):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that a runner's collector does not touch, and so copy, what it shares with its siblings


def fork_runner(streams: list[int], control: socket.socket) -> int:
    """Process id of a new runner, whose parent has ended by then."""
    told, tell = os.pipe()
    between = os.fork()
    if between:
        os.close(tell)
        os.waitpid(between, 0)
        with os.fdopen(told, "rb") as pipe:
            return int(pipe.read())
    try:
        runner = os.fork()
        if runner:
            os.write(tell, str(runner).encode())
            os._exit(0)
        os.close(told)
        os.close(tell)
        control.close()
        become_runner(streams)
    finally:  # a copy of this process must never go on as the forkserver
        os._exit(1)


def become_runner(streams: list[int]) -> NoReturn:
    """In the forked process: take the streams and live as any actor process does."""
    os.setsid()
    for target, stream in enumerate(streams):
        os.dup2(stream, target)
        os.close(stream)
    torch = sys.modules.get("torch")
    if torch is not None and getattr(torch.cuda, "_is_in_bad_fork", bool)():
        # something imported touched the GPU after all, which no forked process can use: start afresh, as the same one
        os.execv(sys.executable, [sys.executable, "-m", "understudy.actors.host.child"])
    child.main()
    os._exit(0)


def serve(control: socket.socket) -> None:
    """One runner per request, until the supervisor's end is closed."""
    while True:
        data, streams, _, _ = socket.recv_fds(control, 16, STREAMS)
        if not data:
            return
        if len(streams) == STREAMS:
            control.send(str(fork_runner(streams, control)).encode())
        for stream in streams:
            os.close(stream)


def main() -> None:
    """Entry point of the process."""
    end_with(os.getppid())
    control = socket.socket(fileno=os.dup(0))
    preload(sys.argv[1:])
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        sys.exit(
            f"forkserver: {threads} threads after the imports, cannot fork safely; runners start as plain processes"
        )
    control.send(b"ready")
    serve(control)


if __name__ == "__main__":
    main()
