"""Start the topology on one machine and keep it going: nats-server, streams, one process per seat, restarts, stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import anyio
import anyio.abc
import msgspec

from understudy.actors.host.bus_side import BusSide, CannotStart
from understudy.actors.host.child import Errand
from understudy.actors.host.graph_side import GraphSide
from understudy.actors.host.key_desk import KeyDesk, vault_path
from understudy.actors.host.key_keeper import Keeper
from understudy.actors.host.key_orders import KeyOrders
from understudy.actors.host.key_pipe import KeyPipe
from understudy.actors.host.keys import KeyMissing, hash_key, key_variables
from understudy.actors.host.logs import Log
from understudy.actors.host.operations import Operations
from understudy.actors.host.seats import Process, runner_settings, seats_of
from understudy.actors.host.spawn import Adopted, Child, ForkServer, actor_environment, model_types, told
from understudy.actors.host.state_folder import Taken, take
from understudy.actors.host.watch import Watch
from understudy.bus.port import BusError
from understudy.bus.subjects import evt_stream
from understudy.messages.run import ProcessGone
from understudy.messages.topology import Topology
from understudy.messages.wire import encode

BACKOFF_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
STEADY_S = 10.0
STOP_S = 4.0
GONE_AGAIN_S = 0.05
REST_STOP_S = 1.5
DRAIN_MS = 10_000.0
"""What a process that is restarted on purpose has in hand may go on for so long."""
DRAIN_MARGIN_S = 6.0


class Supervisor:
    """Runs one topology in a state folder until `stop` is set.

    `say(word, **facts)` is told what happens: server, actor_ready, actor_failed, actor_ended, ready, stopping, stopped.
    """

    def __init__(
        self,
        topology: Topology,
        folder: Path,
        state: Path,
        say: Callable[..., None],
        *,
        url: str | None = None,
        file: Path | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        """`file`: where the topology was read from, to be read again by `reload`. `keeper`: holds what can be had only
        once; started here where it is needed and there is none."""
        self.topology, self.folder, self.state, self.say, self.file = topology, folder, state, say, file
        self.bus_side = BusSide(state, url, say)
        self.drain_ms = DRAIN_MS
        self.processes = seats_of(topology)
        self.stop = asyncio.Event()
        self.ready = asyncio.Event()
        self._hash_key = ""
        self._lock: IO[str] | None = None
        self._log: IO[bytes] | None = None
        self._group: anyio.abc.TaskGroup | None = None
        self._operations = Operations(self)
        self.watch = Watch(self)
        self.graph_side = GraphSide(state, folder, say, lambda: self._log)
        self.forks, self.local_forks = ForkServer("actors"), ForkServer("local")
        self.desk = KeyDesk(folder, state, keeper)
        self.key_orders = KeyOrders(self)
        self.key_ids: dict[str, str] = {}  # by provider
        self.key_variables = key_variables(topology)  # kept out of every environment since the start

    @property
    def url(self) -> str:
        """Where clients connect."""
        return self.bus_side.url

    @property
    def operator_password(self) -> str:
        """For tools of the same process; others read it from the state folder's run.json."""
        return self.bus_side.password("operator")

    # --- life ------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Start, keep going, stop. Raises CannotStart before anything is left running."""
        self._take_folder()
        try:
            await self._learn_keys()
            await self._start_bus()
            await self._start_graph()
            async with anyio.create_task_group() as group:
                self._group = group
                for process in self.processes:
                    group.start_soon(self._keep, process)
                group.start_soon(self.bus_side.keep_server, self.stop)
                await self._operations.serve(group)
                group.start_soon(self.key_orders.announce)
                group.start_soon(self.watch.run, Log("supervisor", "supervisor", self._log))
                await self.stop.wait()
                self.say("stopping")
                await self._end_all()
                group.cancel_scope.cancel()
        finally:
            for process in self.processes:  # one that was being started while the rest was stopped
                self._no_keys(process)
                if process.child is not None:
                    _signal(process.child, signal.SIGKILL)
                    if isinstance(process.child, Adopted):
                        process.child.release()
            await self.forks.stop()
            await self.local_forks.stop()
            await self.graph_side.stop()
            await self.bus_side.stop()
            self.desk.close()
            (self.state / "run.json").unlink(missing_ok=True)
            if self._lock is not None:
                self._lock.close()
            if self._log is not None:
                self._log.close()
            self.say("stopped")

    def _take_folder(self) -> None:
        """One supervisor per state folder."""
        try:
            self._lock = take(self.state)
        except Taken:
            raise CannotStart(
                f"another `understudy up` already runs on {self.state}; stop it, or choose another folder with --state"
            ) from None
        (self.state / "run.json").unlink(missing_ok=True)  # of one that was killed
        self._log = (self.state / "actors.log").open("ab", buffering=0)

    async def _learn_keys(self) -> None:
        """Their ids alone; a key that is missing is told before anything is started. Raises CannotStart."""
        try:
            self.key_ids = await self.desk.ids(self.topology)
        except (KeyMissing, OSError) as error:
            raise CannotStart(str(error)) from None

    async def _start_graph(self) -> None:
        """Its server comes up beside everything else; nobody waits for it. Raises CannotStart."""
        try:
            await self.graph_side.apply(self.topology)
        except (KeyMissing, OSError) as error:
            raise CannotStart(str(error)) from None

    async def _start_bus(self) -> None:
        try:
            self._hash_key = hash_key(self.state)
        except (KeyMissing, OSError) as error:
            raise CannotStart(str(error)) from None
        await self.bus_side.start(self.topology, self.processes)
        self.write_run_file()
        used, _ = await self.bus_side.bus.stream_bytes(evt_stream(self.topology.app))
        self.say("server", url=self.url, log_bytes=used)

    def write_run_file(self) -> None:
        """How the command line finds us; with a full disk it stays as it was, and what runs goes on."""
        try:
            self._write_run_file()
        except OSError as error:
            self.say("run_file_failed", why=str(error))

    def _write_run_file(self) -> None:
        """Readable by this user alone, since it holds the operator's password."""
        path = self.state / "run.json"
        fresh = path.with_suffix(".new")  # a reader finds the old file or the new one, never half of one
        fresh.touch(mode=0o600)
        seen = self.watch.seen
        body = {
            "pid": os.getpid(),
            "url": self.url,
            "app": self.topology.app,
            "password": self.operator_password,
            "log": {"level": seen.level, "bytes": seen.used, "max_bytes": seen.limit},
            "cache": {"bytes": seen.kept, "max_bytes": seen.kept_limit},
            "dead": seen.dead,
            "graph": {**msgspec.structs.asdict(self.graph_side.home), "pid": self.graph_side.pid},
            "keeper": self.desk.keeper_lives(),
            "vault": str(vault_path(self.topology, self.folder, self.state)),
            "processes": [
                {"instance": p.seat.instance, "actor": p.seat.actor, "pid": p.pid, "ready": p.ready,
                 "restarts": p.restarts, "models": p.models, "trouble": p.trouble}
                for p in self.processes
            ],
        }  # fmt: skip
        fresh.write_text(json.dumps(body))
        fresh.replace(path)

    # --- processes -------------------------------------------------------------------------------------------------

    def keep(self, process: Process) -> None:
        """From now on this seat's process is started, and started again whenever it ends."""
        assert self._group is not None
        self._group.start_soon(self._keep, process)

    async def _keep(self, process: Process) -> None:
        """Run a seat's process again and again, waiting longer while it keeps dying."""
        falls = 0
        while not (self.stop.is_set() or process.leaving):
            began = time.monotonic()
            code = await self._run_once(process, began)
            if self.stop.is_set() or process.leaving:
                return
            process.restarts += 1
            if process.renewing:
                process.renewing, falls = False, 0
                continue
            falls = 0 if time.monotonic() - began > STEADY_S else falls + 1
            wait_s = BACKOFF_S[min(falls, len(BACKOFF_S)) - 1] if falls else 0.0
            self.say("actor_ended", instance=process.seat.instance, code=code, again_in_s=wait_s, why=process.trouble)
            await asyncio.sleep(wait_s)

    async def end(self, process: Process, *, again: bool) -> None:
        """End a process in order: it drains, then it goes. With `again` another takes its seat at once."""
        child = process.child
        process.renewing, process.leaving = again, not again
        if child is None or child.returncode is not None:
            process.renewing = False
            return
        _signal(child, signal.SIGUSR1)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.drain_ms / 1000 + DRAIN_MARGIN_S):
                await child.wait()
        _signal(child, signal.SIGKILL)
        await child.wait()

    async def _run_once(self, process: Process, began: float) -> int | None:
        """The exit code; None when the process could not be started."""
        process.started += 1
        provider = self.topology.providers.get(process.provider)
        try:
            process.keys = KeyPipe() if provider is not None and provider.key is not None else None
            errand = msgspec.json.encode(self._errand(process)) + b"\n"
            child = await self._spawn(process)
        except (OSError, RuntimeError) as error:  # no process, descriptor, memory or thread to be had just now
            process.trouble = f"cannot be started: {error}"
            self._no_keys(process)
            return None
        process.child, process.pid, process.ready, process.trouble = child, child.pid, False, ""
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(errand)
        if not await self._hand_key(process, child):
            return None
        async for said in told(child.stdout):
            self._heard(process, said, began)
        code = await child.wait()
        process.ready, process.pid = False, 0
        self._no_keys(process)
        assert self._group is not None
        self._group.start_soon(self._announce_gone, process, code)
        return code

    async def _hand_key(self, process: Process, child: Child) -> bool:
        """Where it needs one, somebody else writes the key into its pipe meanwhile. Without, it is not to live."""
        pipe = process.keys
        if pipe is None:
            return True
        pipe.inherited()
        try:
            async with pipe.one:
                pipe.key_id = await self.desk.deliver(self.topology, process.provider, pipe, process.seat.instance)
                pipe.handed = True
        except (KeyMissing, OSError) as error:
            _signal(child, signal.SIGKILL)
            await child.wait()
            process.pid, process.trouble = 0, str(error)
            self._no_keys(process)
            return False
        self.key_ids[process.provider] = pipe.key_id
        return True

    def _no_keys(self, process: Process) -> None:
        if process.keys is not None:
            process.keys.close()
            process.keys = None

    async def _spawn(self, process: Process) -> Child:
        """A fork of a process that has imported what it needs, where that is possible; else a new process."""
        assert self._log is not None
        environment = actor_environment(without=self.key_variables)
        provider = self.topology.providers.get(process.provider)
        key_fd = -1 if process.keys is None else process.keys.reader
        if provider is not None and provider.kind == "local":
            families = model_types(self.topology, self.folder)
            forked = await self.local_forks.fork(environment, self._log, families, key_fd)
        else:
            forked = await self.forks.fork(environment, self._log, key_fd=key_fd)
        if forked is not None:
            return forked
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "understudy.actors.host.child",
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=self._log,
            env=environment, start_new_session=True, pass_fds=() if key_fd < 0 else (key_fd,),
        )  # fmt: skip

    def _errand(self, process: Process) -> Errand:
        seat, extra = process.seat, dict[str, Any]()
        if seat.actor in ("selector", "response_cache"):
            extra["hash_key"] = self._hash_key
        if seat.actor == "response_cache":
            extra |= {"folder": str(self.state / "conversations"), "ttl_s": self.topology.cache.ttl_s}
        if seat.actor == "projector":
            extra |= msgspec.structs.asdict(self.graph_side.home)
        if seat.actor == "runner":
            extra |= runner_settings(self.topology, process)
        return Errand(
            seat=seat,
            url=self.url,
            password=self.bus_side.password(seat.instance),
            topology=self.topology,
            folder=str(self.folder),
            snapshots=str(self.state / "snapshots"),
            log_folder=str(self.bus_side.log_folder or ""),
            extra=extra,
            provider=process.provider,
            models=process.models,
            key_fd=-1 if process.keys is None else process.keys.reader,
            drain_ms=self.drain_ms,
            parent=os.getpid(),
        )

    def _heard(self, process: Process, said: dict[str, Any], began: float) -> None:
        if said.get("ready"):
            process.ready = True
            took = round(time.monotonic() - began, 2)
            self.say("actor_ready", instance=process.seat.instance, s=took, facts=said.get("facts"), pid=process.pid)
        elif "key" in said and process.keys is not None:
            process.keys.heard(said["key"])
            return
        elif "failed" in said:
            process.trouble = str(said["failed"])
            self.say("actor_failed", instance=process.seat.instance, why=process.trouble)
        self.write_run_file()
        if all(p.ready for p in self.processes) and not self.ready.is_set():
            self.ready.set()
            self.say("ready", url=self.url)

    async def _announce_gone(self, process: Process, code: int) -> None:
        """Those who wait for an answer of the dead hear at once, before any timeout."""
        self.write_run_file()
        seat = process.seat
        gone = ProcessGone(
            actor=seat.actor,
            instance=seat.instance,
            models=process.models,
            exit_code=code,
            at_ms=int(time.time() * 1000),
        )
        while not process.ready:  # with the bus away it waits, but never until it would speak of the next process
            try:
                await self.bus_side.bus.publish(f"{self.topology.app}.obs.process.gone.{seat.instance}", encode(gone))
            except BusError:
                await asyncio.sleep(GONE_AGAIN_S)
            else:
                return

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


def _signal(child: Child, number: int) -> None:
    if child.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)
