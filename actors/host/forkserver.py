"""A process with its imports done, which forks an actor's process instead of having it started anew.

`python -m understudy.actors.host.forkserver KIND [model type ...]`, with a Unix socket as standard input. The kinds:
`local` has torch and transformers, for runners of local models; `actors` has what the others share. It starts no
thread, opens no connection, touches no GPU and sees no secret: a request brings the standard streams of one process
(and the pipe on which it will get a key, where it needs one), and the errand comes to the process through them. It
forks twice, so that the new process is nobody's child but the supervisor's (which adopts orphans): a forkserver that
dies takes nobody with it and owes nobody an exit code.

It ends by itself once our code on disk is another than it has imported: a process that took half of its modules from
here and imported the rest would be of two versions.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import re
import socket
import sys
import traceback
from pathlib import Path
from typing import NoReturn

from understudy.actors.host import child
from understudy.actors.host.linux import end_with

PRELOAD: dict[str, tuple[str, ...]] = {
    "local": (
        "uvloop",
        "torch",
        "transformers",
        "transformers.generation",
        "understudy.actors.runner.core",
        "understudy.actors.runner.local_edge",
        "understudy.actors.runner.local.engine",
    ),
    "actors": (  # what only one process uses is imported there: here it would lie in the memory of all
        "uvloop",
        "understudy.actors.selector.core",
        "understudy.actors.runner.core",
        "understudy.actors.runner.http_edge",
    ),
}
STREAMS = 3


def preload(kind: str, model_types: list[str]) -> None:
    """Imports what processes of this kind need, and the code of these families of models, as far as it is there."""
    names = [f"transformers.models.{t}.modeling_{t}" for t in model_types if re.fullmatch(r"[a-z0-9_]+", t)]
    for name in (*PRELOAD[kind], *names):
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that a process's collector does not touch, and so copy, what it shares with its siblings


def code() -> dict[str, int]:
    """When those of our own modules that are imported were last written, by file. Raises OSError where one is gone."""
    ours = [module.__file__ for name, module in sys.modules.items() if name.startswith("understudy.")]
    return {file: Path(file).stat().st_mtime_ns for file in ours if file}


def unchanged(imported: dict[str, int]) -> bool:
    """Whether the files are still those that were imported."""
    try:
        return imported == code()
    except OSError:
        return False


def fork_process(streams: dict[int, int], control: socket.socket) -> int:
    """Process id of a new process, whose parent has ended by then. `streams`: descriptors by the number they will have
    there."""
    told, tell = os.pipe()
    between = os.fork()
    if between:
        os.close(tell)
        os.waitpid(between, 0)
        with os.fdopen(told, "rb") as pipe:
            return int(pipe.read())
    try:
        process = os.fork()
        if process:
            os.write(tell, str(process).encode())
            os._exit(0)
        os.close(told)
        os.close(tell)
        control.close()
        become_actor(streams)
    except BaseException:  # noqa: BLE001 - told in the log, as a process that was started anew would tell it
        traceback.print_exc()
    finally:  # a copy of this process must never go on as the forkserver
        os._exit(1)


def become_actor(streams: dict[int, int]) -> NoReturn:
    """In the forked process: take the streams and live as any actor process does."""
    os.setsid()
    for target, stream in sorted(streams.items()):  # the standard ones first: then theirs stand in nobody's way
        if stream != target:
            os.dup2(stream, target, inheritable=target < STREAMS)
            os.close(stream)
    torch = sys.modules.get("torch")
    if torch is not None and getattr(torch.cuda, "_is_in_bad_fork", bool)():
        # something imported touched the GPU after all, which no forked process can use: start afresh, as the same one
        os.execv(sys.executable, [sys.executable, "-m", "understudy.actors.host.child"])
    child.main()
    os._exit(0)


def serve(control: socket.socket, imported: dict[str, int]) -> None:
    """One process per request, until the supervisor's end is closed. A request names the numbers of its descriptors."""
    while True:
        data, streams, _, _ = socket.recv_fds(control, 64, STREAMS + 1)
        if not data or not unchanged(imported):
            return
        targets = [int(word) for word in data.split()]
        if len(streams) == len(targets):
            control.send(str(fork_process(dict(zip(targets, streams, strict=True)), control)).encode())
        for stream in streams:
            os.close(stream)


def main() -> None:
    """Entry point of the process."""
    end_with(os.getppid())
    control = socket.socket(fileno=os.dup(0))
    preload(sys.argv[1], sys.argv[2:])
    imported = code()
    threads = len(list(Path("/proc/self/task").iterdir()))
    if threads != 1:
        sys.exit(
            f"forkserver: {threads} threads after the imports, cannot fork safely; plain processes are started instead"
        )
    control.send(b"ready")
    serve(control, imported)


if __name__ == "__main__":
    main()
