"""A process that holds what can be had only once: keys from environment variables, and a passphrase's root key.

Restarted runners need a key again, with no person at a terminal, and the environment of a process cannot be cleaned. So
`understudy up` starts this process first, which inherits the variables and asks for the passphrase, and then replaces
itself (execve) without them. It hands a secret to whoever the supervisor's descriptor leads to: the supervisor passes
the writing end of a pipe whose reading end a short-lived child inherits (`key_opener.py`), and reads nothing itself.
Files, systemd's credentials and the OS keyring can be read at any time: for them no such process is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, NoReturn

import msgspec

from understudy.actors.host.linux import hold_secrets
from understudy.messages.topology import Topology

VARIABLE = "UNDERSTUDY_KEEPER"
ANSWER_S = 5.0
TRIES = 3
LINE_BYTES = 1_024
INTERRUPTED = 130


class Task(msgspec.Struct, frozen=True):
    """What to hold. `vault`: whose passphrase to ask for; '' for none. `passphrase_fd`: where to read it from."""

    variables: tuple[str, ...] = ()
    vault: str = ""
    passphrase_fd: int = -1


class Give(msgspec.Struct, frozen=True):
    """Write a secret into the descriptor that comes along."""

    what: Literal["variable", "root"]
    name: str = ""


class KeeperFailed(Exception):
    """No keeper; the text says what to do."""


def task_for(topology: Topology, vault: Path, passphrase_fd: int = -1) -> Task | None:
    """What a keeper would have to hold for this topology; None: nothing. Raises VaultError."""
    sources = [p.key for p in topology.providers.values() if p.key is not None]
    variables = tuple(sorted({s.env for s in sources if s.env is not None and os.environ.get(s.env)}))
    locked = any(s.vault is not None for s in sources) and vault.exists() and _has_passphrase(vault)
    if not variables and not locked:
        return None
    return Task(variables, str(vault) if locked else "", passphrase_fd)


def _has_passphrase(path: Path) -> bool:
    from understudy.actors.host.vault import read_public  # brings `cryptography`
    from understudy.actors.host.vault_root import Passphrase

    return isinstance(read_public(path).root, Passphrase)


class Keeper:
    """The supervisor's side."""

    def __init__(self, control: socket.socket, pid: int, *, root: bool) -> None:
        """`root`: it holds a vault's root key."""
        self._control, self.pid, self.root = control, pid, root
        self._one = asyncio.Lock()

    @classmethod
    def start(cls, task: Task) -> Keeper:
        """Waits for the passphrase, where one is asked for. Raises KeeperFailed."""
        ours, theirs = socket.socketpair()
        fds = (task.passphrase_fd,) if task.passphrase_fd >= 0 else ()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "understudy.actors.host.key_keeper"], stdin=theirs.fileno(), pass_fds=fds
            )
        ours.sendall(msgspec.json.encode(task) + b"\n")
        with contextlib.suppress(OSError):
            for fd in fds:  # it has its own; ours was never read
                os.close(fd)
        said = _line(ours)
        if said != b"ready\n":
            process.wait()
            ours.close()
            raise KeeperFailed(said.decode().strip() or "the process that keeps secrets did not start")
        process.returncode = 0  # it lives on, and `close` waits for it: Popen is not to warn of that
        return cls(ours, process.pid, root=bool(task.vault))

    @classmethod
    def inherited(cls) -> Keeper | None:
        """The one that this process had before it replaced itself."""
        found = os.environ.pop(VARIABLE, "")
        if not found:
            return None
        fd, pid, root = map(int, found.split(","))
        os.set_inheritable(fd, False)
        return cls(socket.socket(fileno=fd), pid, root=bool(root))

    def bequeath(self) -> str:
        """The value of `VARIABLE` for the program that replaces this one."""
        os.set_inheritable(self._control.fileno(), True)
        return f"{self._control.fileno()},{self.pid},{int(self.root)}"

    async def give(self, what: Literal["variable", "root"], name: str = "") -> int:
        """A descriptor to be inherited by who reads the secret (empty where there is none). Raises KeeperFailed."""
        reader, writer = os.pipe()
        try:
            async with self._one:
                ask = msgspec.json.encode(Give(what, name)) + b"\n"
                self._control.settimeout(ANSWER_S)
                await asyncio.to_thread(socket.send_fds, self._control, [ask], [writer])
                if await asyncio.to_thread(self._control.recv, 1) != b"1":
                    raise OSError
        except OSError:
            os.close(reader)
            text = "the process that keeps the passphrase or the variables is gone: restart `understudy up`"
            raise KeeperFailed(text) from None
        finally:
            os.close(writer)
        return reader

    def lives(self) -> bool:
        """Whether it was not killed."""
        try:
            return os.waitpid(self.pid, os.WNOHANG) == (0, 0)
        except ChildProcessError:
            return False

    def close(self) -> None:
        """It ends, also where it is stuck; it has nothing to save."""
        self._control.close()
        if self.lives():  # else its number may be another's by now
            with contextlib.suppress(ChildProcessError, ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)


# --- in the process --------------------------------------------------------------------------------------------------


def _unlock(task: Task) -> bytes:
    """The root key, proven on the vault. Raises VaultError."""
    from understudy.actors.host.vault import Vault, read_public
    from understudy.actors.host.vault_root import VaultError, ask_on_terminal, read_passphrase, read_root

    path = Path(task.vault)
    for left in reversed(range(1 if task.passphrase_fd >= 0 else TRIES)):
        given = (
            read_passphrase(task.passphrase_fd)
            if task.passphrase_fd >= 0
            else ask_on_terminal(f"Passphrase of {path}: ")
        )
        root = read_root(read_public(path).root, lambda given=given: given)
        try:
            Vault.open(path, root)
        except VaultError as error:
            if error.code != "wrong_root" or not left:
                raise
            sys.stderr.write("That is not it.\n")
        else:
            return root
    raise AssertionError("the last try raises")


def _apart(task: Task) -> bytes:
    """The root key, read by a child of our own that ends: what a person typed stays in no memory that lives on.

    Raises KeeperFailed; the text is a VaultError's own, or the name of another error, which might hold a secret.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _tell_root(task, writer)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == INTERRUPTED:
        os._exit(INTERRUPTED)
    if code != 0:
        raise KeeperFailed(said.decode() or "the process that asks for the passphrase did not end well")
    return said


def _tell_root(task: Task, writer: int) -> NoReturn:
    """In the child: write the root key, or why there is none, and end; nothing of the parent's work is gone on with."""
    said, code = b"", 1
    try:
        said, code = _unlock(task), 0
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:  # noqa: BLE001 - no text but a VaultError's own may be shown: a secret is about
        known: Any = getattr(error, "code", "")
        text = f"{known}: {error}" if isinstance(known, str) and known else type(error).__name__
        said = text.replace("\n", " ").encode()
    finally:
        os.write(writer, said)
        os._exit(code)


def _serve(control: socket.socket, secrets: dict[tuple[str, str], bytes]) -> None:
    """Until the supervisor's end is closed."""
    while True:
        line, fds, _, _ = socket.recv_fds(control, LINE_BYTES, 1)
        if not line:
            return
        ask = msgspec.json.decode(line, type=Give)
        for fd in fds:
            with contextlib.suppress(OSError), os.fdopen(fd, "wb") as pipe:
                pipe.write(secrets.get((ask.what, ask.name), b""))
        control.sendall(b"1")


def main() -> None:
    """Entry point of the process."""
    hold_secrets()
    control = socket.socket(fileno=os.dup(0))
    line = _line(control)
    if not line:
        return
    task = msgspec.json.decode(line, type=Task)
    secrets: dict[tuple[str, str], bytes] = {("variable", v): os.environ[v].encode() for v in task.variables}
    if task.vault:
        try:
            secrets["root", ""] = _apart(task)
        except KeyboardInterrupt:
            os._exit(INTERRUPTED)
        except KeeperFailed as failure:
            control.sendall(str(failure).encode() + b"\n")
            sys.exit(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor, which ends us by closing its end
    control.sendall(b"ready\n")
    _serve(control, secrets)


def _line(control: socket.socket) -> bytes:
    """Up to a line break; '' where the other side has gone."""
    found = b""
    while not found.endswith(b"\n"):
        byte = control.recv(1)
        if not byte:
            return b""
        found += byte
    return found


if __name__ == "__main__":
    main()
