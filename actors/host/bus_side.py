"""The supervisor's bus: the embedded nats-server with its users, the operator's connection, streams, the topology."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from understudy.actors.host.outbox import RECONNECT_S
from understudy.actors.host.permissions import User, server_text, users
from understudy.actors.host.seats import Process
from understudy.actors.host.topology import hash_of
from understudy.bus.nats_bus import NatsBus
from understudy.bus.port import BusError, LogFull, Outgoing
from understudy.bus.provision import BusSpec, provision
from understudy.bus.server import NatsServer, ServerFailed
from understudy.bus.subjects import evt_stream
from understudy.messages.events import TopologyApplied
from understudy.messages.places import LOOPBACK
from understudy.messages.topology import Topology
from understudy.messages.wire import encode

LOOK_S = 0.1
SYNC = "1s"
"""How often the embedded server syncs by itself what nobody waits for. What is stored is synced by who stores it."""
AGAIN_S = 5.0
CONNECT_S = 5.0
BACK_S = 30.0


class CannotStart(Exception):
    """Why the topology cannot run here; the text says what to do."""


OFF_LOOPBACK = (
    "--nats names a server that is not this machine, or no nats://host:port: requests would go there in clear text, "
    "and whoever reaches it could read and write everything; name one on 127.0.0.1, localhost or [::1]"
)


def on_this_machine(url: str) -> bool:
    """Whether a server's url (or host:port) names a loopback host, which every provider's must do too."""
    try:
        return urlsplit(url if "://" in url else f"nats://{url}").hostname in LOOPBACK
    except ValueError:
        return False


class BusSide:
    """The embedded nats-server, or one that is already there (`external`), as the supervisor uses it."""

    def __init__(self, state: Path, external: str | None, say: Callable[..., None]) -> None:
        self.external = external
        self.url = external or ""
        self.server: NatsServer | None = None
        self._state, self._say = state, say
        self.log_folder: Path | None = None  # whoever stores syncs it; None on a foreign server, which syncs as it may
        self._bus: NatsBus | None = None
        self._passwords: dict[str, str] = {}

    @property
    def bus(self) -> NatsBus:
        """The operator's connection, once started."""
        assert self._bus is not None
        return self._bus

    def password(self, name: str) -> str:
        """A user's password: made once, so that a change of permissions cuts nobody off; none on a foreign server."""
        return "" if self.external is not None else self._passwords.setdefault(name, secrets.token_hex(16))

    def users_of(self, topology: Topology, processes: Sequence[Process]) -> list[User]:
        """The server's users for these processes."""
        passwords = {name: self.password(name) for name in ("operator", *(p.seat.instance for p in processes))}
        return users(topology, [p.seat for p in processes], passwords)

    async def start(self, topology: Topology, processes: Sequence[Process]) -> None:
        """Server, connection, streams, topology. Raises CannotStart."""
        if self.external is not None and not on_this_machine(self.external):
            raise CannotStart(OFF_LOOPBACK)
        if self.external is None:
            plan, text = topology.bus, server_text(self.users_of(topology, processes))
            self.server = NatsServer(
                self._state / "nats", port=plan.port, extra=text, max_payload=plan.max_payload_bytes, sync=SYNC
            )
            try:
                self.server.start()
            except ServerFailed as failure:
                raise CannotStart(f"nats-server did not start: {str(failure)[:500]}") from None
            self.url = self.server.url
        user = "operator" if self.external is None else ""
        try:
            self._bus = await NatsBus.open(
                self.url,
                name="supervisor",
                app=topology.app,
                user=user,
                password=self.password("operator"),
                connect_timeout_s=CONNECT_S,
                backoff_cap_s=RECONNECT_S,
            )
            await self.provision(topology)
            before = self._message_files(topology)
            await self.announce(topology)
            self.log_folder = self._written(before, self._message_files(topology))
        except LogFull as error:
            limit = f"its limit of {topology.log.max_bytes} bytes"
            raise CannotStart(f"log_full: the event log has reached {limit}; raise log.max_bytes ({error})") from None
        except BusError as error:
            raise CannotStart(f"nats-server at {self.url} cannot be used: {error.code}: {error}") from None

    def _message_files(self, topology: Topology) -> dict[Path, int]:
        return {} if self.server is None else self.server.message_files(evt_stream(topology.app))

    def _written(self, before: dict[Path, int], now: dict[Path, int]) -> Path | None:
        """Where the embedded server has just written an event; whoever stores syncs that. Raises CannotStart."""
        if self.server is None:
            return None
        found = next((path.parent for path, size in now.items() if size != before.get(path)), None)
        if found is None:
            raise CannotStart(f"{self.server.folder}: no message file grew; does this server lay its store out anew?")
        return found

    async def stop(self) -> None:
        """Connection, then server."""
        if self._bus is not None:
            with contextlib.suppress(BusError, TimeoutError):
                await self._bus.close()
        if self.server is not None:
            await asyncio.to_thread(self.server.stop)

    async def provision(self, topology: Topology) -> list[str]:
        """Streams and buckets as the topology wants them; what had to be done. Raises BusError."""
        log = topology.log
        spec = BusSpec(
            app=topology.app,
            evt_max_bytes=log.max_bytes,
            evt_max_age_s=log.max_age_days * 86_400.0,
            trace_max_bytes=log.trace_max_bytes,
            cache_max_bytes=topology.cache.max_bytes,
            cache_ttl_s=topology.cache.ttl_s,
        )
        return await provision(self.bus, spec)

    async def announce(self, topology: Topology) -> None:
        """The topology is a fact like others: every decision names its hash. Raises BusError."""
        now = int(time.time() * 1000)
        event = TopologyApplied(at_ms=now, id=f"topology.{now}", hash=hash_of(topology), body=topology)
        subject = f"{topology.app}.evt.topology.applied"
        await self.bus.store([Outgoing(subject, encode(event), event.id)], timeout_s=5)

    async def permit(self, found: list[User]) -> None:
        """Let the running server read its users again. Raises ServerFailed; then it goes on with those it had."""
        if self.server is None:
            return
        before, self.server.extra = self.server.extra, server_text(found)
        try:
            await asyncio.to_thread(self.server.reload)
        except ServerFailed:
            self.server.extra = before
            self.server.write_config()
            raise

    async def keep_server(self, stop: asyncio.Event) -> None:
        """The embedded server comes back on its port with its store; every connection finds its way back by itself."""
        while self.server is not None and not stop.is_set():
            if not self.server.running:
                try:
                    self.server.start()  # from this thread, which lives as long as the server shall
                except ServerFailed as failure:
                    self._say("server_failed", why=str(failure)[:500])
                    await asyncio.sleep(AGAIN_S)
                else:
                    self._say("server_restarted", url=self.url)
            await asyncio.sleep(LOOK_S)

    async def restart_server(self) -> None:
        """Stop the embedded server in order; `keep_server` starts it. Returns when our connection is back.

        Raises ServerFailed when it is not back in time.
        """
        assert self.server is not None
        back = asyncio.Event()
        self.bus.client.on_reconnect.append(back.set)
        try:
            await self.bus.client.settle()  # what was said before, the answer to this order too, goes out first
            await asyncio.to_thread(self.server.stop)
            async with asyncio.timeout(BACK_S):
                await back.wait()
        except TimeoutError:
            raise ServerFailed(f"nats-server was not back within {BACK_S:g} s: {self.server.log_tail(500)}") from None
        finally:
            self.bus.client.on_reconnect.remove(back.set)
