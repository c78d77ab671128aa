"""Start the topology on one machine and keep it going: nats-server, streams, one process per seat, restarts, stop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import anyio
import msgspec

from understudy.actors.host.child import Errand
from understudy.actors.host.permissions import Seat, server_text, users
from understudy.actors.host.topology import hash_of
from understudy.bus.nats_bus import NatsBus
from understudy.bus.port import BusError, Outgoing
from understudy.bus.provision import BusSpec, provision
from understudy.bus.server import NatsServer, ServerFailed
from understudy.messages.events import TopologyApplied
from understudy.messages.run import ProcessGone
from understudy.messages.slugs import slug
from understudy.messages.topology import Topology
from understudy.messages.wire import encode

BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
STEADY_S = 10.0
STOP_S = 4.0
REST_STOP_S = 1.5
SERVER_LOOK_S = 0.1


class CannotStart(Exception):
    """Why the topology cannot run here; the text says what to do."""


@dataclass(slots=True)
class Process:
    """A seat and the process that holds it now."""

    seat: Seat
    provider: str = ""
    models: tuple[str, ...] = ()
    pid: int = 0
    restarts: int = 0
    ready: bool = False
    trouble: str = ""
    child: asyncio.subprocess.Process | None = field(default=None, repr=False)


def seats_of(topology: Topology) -> list[Process]:
    """Who is to run: replicas of each actor; for runners one per local model and one per HTTP provider."""
    found: list[Process] = []
    for actor, plan in topology.actors.items():
        if actor != "runner":
            found += [Process(Seat(actor, f"{actor}-{n + 1}")) for n in range(plan.replicas)]
            continue
        for name, provider in topology.providers.items():
            models = [m for m, d in topology.models.items() if d.provider == name]
            groups = [[m] for m in models] if provider.kind == "local" else [models] if models else []
            for group in groups:
                tail = slug(group[0]) if provider.kind == "local" else name
                seat = Seat("runner", f"runner-{tail}", tuple(slug(m) for m in group))
                found.append(Process(seat, name, tuple(group)))
    return found


class Supervisor:
    """Runs one topology in a state folder until `stop` is set.

    `say(word, **facts)` is told what happens: server, actor_ready, actor_failed, actor_ended, ready, stopping, stopped.
    """

    def __init__(
        self, topology: Topology, folder: Path, state: Path, say: Callable[..., None], *, url: str | None = None
    ) -> None:
        self.topology, self.folder, self.state, self.say = topology, folder, state, say
        self.external = url
        self.url = url or ""
        self.processes = seats_of(topology)
        self.stop = asyncio.Event()
        self.ready = asyncio.Event()
        self._passwords = {name: secrets.token_hex(16) for name in ("operator", *self._names())}
        self._server: NatsServer | None = None
        self._bus: NatsBus | None = None
        self._lock: IO[str] | None = None
        self._log: IO[bytes] | None = None
        self._keys = self._read_keys()

    @property
    def operator_password(self) -> str:
        """For tools of the same process; others read it from the state folder's run.json."""
        return self._passwords["operator"]

    def _names(self) -> list[str]:
        return [p.seat.instance for p in self.processes]

    # --- life ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Start, keep going, stop. Raises CannotStart before anything is left running."""
        self._take_folder()
        try:
            await self._start_bus()
            async with anyio.create_task_group() as group:
                for process in self.processes:
                    group.start_soon(self._keep, process)
                group.start_soon(self._keep_server)
                await self.stop.wait()
                self.say("stopping")
                await self._end_all()
                group.cancel_scope.cancel()
        finally:
            for process in self.processes:  # one that was being started while the rest was stopped
                if process.child is not None:
                    _signal(process.child, signal.SIGKILL)
            if self._bus is not None:
                with contextlib.suppress(BusError, TimeoutError):
                    await self._bus.close()
            if self._server is not None:
                await asyncio.to_thread(self._server.stop)
            (self.state / "run.json").unlink(missing_ok=True)
            if self._lock is not None:
                self._lock.close()
            if self._log is not None:
                self._log.close()
            self.say("stopped")

    def _take_folder(self) -> None:
        """One supervisor per state folder."""
        self.state.mkdir(parents=True, exist_ok=True)
        self._lock = (self.state / "lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise CannotStart(
                f"another `understudy up` already runs on {self.state}; stop it, or choose another folder with --state"
            ) from None
        self._log = (self.state / "actors.log").open("ab", buffering=0)

    async def _start_bus(self) -> None:
        """The embedded server with the generated permissions, or one that is already there; streams; the topology."""
        if self.external is None:
            found = users(self.topology, [p.seat for p in self.processes], self._passwords)
            plan = self.topology.bus
            self._server = NatsServer(
                self.state / "nats", port=plan.port, extra=server_text(found), max_payload=plan.max_payload_bytes
            )
            try:
                self._server.start()
            except ServerFailed as failure:
                raise CannotStart(f"nats-server did not start: {str(failure)[:500]}") from None
            self.url = self._server.url
        user, password = ("operator", self._passwords["operator"]) if self.external is None else ("", "")
        try:
            self._bus = await NatsBus.open(
                self.url, name="supervisor", app=self.topology.app, user=user, password=password, connect_timeout_s=5
            )
            log = self.topology.log
            spec = BusSpec(
                app=self.topology.app,
                evt_max_bytes=log.max_bytes,
                evt_max_age_s=log.max_age_days * 86_400.0,
                trace_max_bytes=log.trace_max_bytes,
            )
            await provision(self._bus, spec)
            await self._apply(self._bus)
        except BusError as error:
            raise CannotStart(f"nats-server at {self.url} cannot be used: {error.code}: {error}") from None
        self._write_run_file()
        self.say(
            "server", url=self.url, log_bytes=(await self._bus.stream_bytes(f"{self.topology.app.upper()}_EVT"))[0]
        )

    async def _apply(self, bus: NatsBus) -> None:
        """The topology is a fact like others: every decision names its hash."""
        now = int(time.time() * 1000)
        event = TopologyApplied(at_ms=now, id=f"topology.{now}", hash=hash_of(self.topology), body=self.topology)
        subject = f"{self.topology.app}.evt.topology.applied"
        await bus.store([Outgoing(subject, encode(event), event.id)], timeout_s=5)

    def _write_run_file(self) -> None:
        """How the command line finds us; readable by this user alone, since it holds the operator's password."""
        path = self.state / "run.json"
        fresh = path.with_suffix(".new")  # a reader finds the old file or the new one, never half of one
        fresh.touch(mode=0o600)
        body = {
            "pid": os.getpid(),
            "url": self.url,
            "app": self.topology.app,
            "password": self._passwords["operator"] if self.external is None else "",
            "processes": [
                {"instance": p.seat.instance, "actor": p.seat.actor, "pid": p.pid, "ready": p.ready,
                 "restarts": p.restarts, "models": p.models, "trouble": p.trouble}
                for p in self.processes
            ],
        }  # fmt: skip
        fresh.write_text(json.dumps(body))
        fresh.replace(path)

    # --- processes -------------------------------------------------------------------------------------------------

    async def _keep(self, process: Process) -> None:
        """Run a seat's process again and again, waiting longer while it keeps dying."""
        falls = 0
        while not self.stop.is_set():
            began = time.monotonic()
            code = await self._run_once(process, began)
            if self.stop.is_set():
                return
            falls = 0 if time.monotonic() - began > STEADY_S else falls + 1
            wait_s = BACKOFF_S[min(falls, len(BACKOFF_S)) - 1] if falls else 0.0
            process.restarts += 1
            self.say("actor_ended", instance=process.seat.instance, code=code, again_in_s=wait_s, why=process.trouble)
            await asyncio.sleep(wait_s)

    async def _keep_server(self) -> None:
        """The embedded server comes back on its port with its store; every connection finds its way back by itself."""
        while self._server is not None and not self.stop.is_set():
            if not self._server.running:
                try:
                    self._server.start()  # from this thread, which lives as long as the server shall
                except ServerFailed as failure:
                    self.say("server_failed", why=str(failure)[:500])
                    await asyncio.sleep(BACKOFF_S[-1])
                else:
                    self.say("server_restarted", url=self.url)
            await asyncio.sleep(SERVER_LOOK_S)

    async def _run_once(self, process: Process, began: float) -> int:
        environment = {
            **{k: v for k, v in os.environ.items() if k not in self._key_variables()},
            "OMP_NUM_THREADS": "1",
            "OMP_WAIT_POLICY": "PASSIVE",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "understudy.actors.host.child",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=self._log,
            env=environment, start_new_session=True,
        )  # fmt: skip
        process.child, process.pid, process.ready, process.trouble = child, child.pid, False, ""
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(msgspec.json.encode(self._errand(process)) + b"\n")
        async for line in child.stdout:
            self._heard(process, msgspec.json.decode(line), began)
        code = await child.wait()
        process.ready, process.pid = False, 0
        await self._announce_gone(process, code)
        return code

    def _errand(self, process: Process) -> Errand:
        seat, extra = process.seat, dict[str, Any]()
        if seat.actor == "selector":
            extra["hash_key"] = self._hash_key()
        if seat.actor == "runner":
            extra["models"] = {m: self.topology.models[m].slots for m in process.models}
        return Errand(
            seat=seat,
            url=self.url,
            password=self._passwords[seat.instance] if self.external is None else "",
            topology=self.topology,
            folder=str(self.folder),
            extra=extra,
            provider=process.provider,
            models=process.models,
            key=self._keys.get(process.provider),
        )

    def _heard(self, process: Process, said: dict[str, Any], began: float) -> None:
        if said.get("ready"):
            process.ready = True
            took = round(time.monotonic() - began, 2)
            self.say("actor_ready", instance=process.seat.instance, s=took, facts=said.get("facts"), pid=process.pid)
        elif "failed" in said:
            process.trouble = str(said["failed"])
            self.say("actor_failed", instance=process.seat.instance, why=process.trouble)
        self._write_run_file()
        if all(p.ready for p in self.processes) and not self.ready.is_set():
            self.ready.set()
            self.say("ready", url=self.url)

    async def _announce_gone(self, process: Process, code: int) -> None:
        """Those who wait for an answer of the dead hear at once, before any timeout."""
        self._write_run_file()
        if self._bus is None:
            return
        seat = process.seat
        gone = ProcessGone(
            actor=seat.actor,
            instance=seat.instance,
            models=process.models,
            exit_code=code,
            at_ms=int(time.time() * 1000),
        )
        with contextlib.suppress(BusError):
            await self._bus.publish(f"{self.topology.app}.obs.process.gone.{seat.instance}", encode(gone))

    async def _end_all(self) -> None:
        """Selectors first, so that they can end what is in hand; then the rest; whoever lingers is killed."""
        until = time.monotonic() + STOP_S
        for wave in (["selector"], [a for a in self.topology.actors if a != "selector"]):
            children = [p.child for p in self.processes if p.seat.actor in wave and p.child is not None]
            for child in children:
                _signal(child, signal.SIGTERM)
            if wave != ["selector"]:  # nobody hears the rest any longer
                until = min(until, time.monotonic() + REST_STOP_S)
            for child in children:
                with contextlib.suppress(TimeoutError):
                    share = 0.6 if wave == ["selector"] else 1.0
                    await asyncio.wait_for(child.wait(), max(0.05, (until - time.monotonic()) * share))
                _signal(child, signal.SIGKILL)
                await child.wait()

    # --- secrets ---------------------------------------------------------------------------------------------------

    def _key_variables(self) -> set[str]:
        return {p.key.env for p in self.topology.providers.values() if p.key is not None and p.key.env}

    def _read_keys(self) -> dict[str, str]:
        """Provider keys from where the topology names them; handed over by pipe to the one process that needs each."""
        keys: dict[str, str] = {}
        for name, provider in self.topology.providers.items():
            if provider.key is None:
                continue
            if provider.key.env is not None:
                value = os.environ.get(provider.key.env, "")
                where = f"the variable {provider.key.env}"
            else:
                path = self.folder / (provider.key.file or "")
                value = path.read_text().strip() if path.is_file() else ""
                where = f"the file {path}"
            if not value:
                raise CannotStart(
                    f"provider {name}: no key in {where}; put it there, or remove `key` from the topology"
                )
            keys[name] = value
        return keys

    def _hash_key(self) -> str:
        """Keys the hashes of user and conversation ids: made once per state folder, so that hashes stay comparable."""
        path = self.state / "hash.key"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(32))
        return path.read_text().strip()


def _signal(child: asyncio.subprocess.Process, number: int) -> None:
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)
