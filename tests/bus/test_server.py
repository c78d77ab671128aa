"""The embedded server, what provisioning makes of it, and how its refusals are told."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.bus.kit import Opener, Until
from understudy.bus.nats_bus import NatsBus
from understudy.bus.nats_log import api
from understudy.bus.port import BusDown, NoResponders
from understudy.bus.provision import BusSpec, ConsumerDiffers, provision
from understudy.bus.server import NatsServer, ServerFailed


async def test_provisioning_twice_changes_nothing(bus: NatsBus, spec: BusSpec) -> None:
    assert await provision(bus, spec) == []
    (line,) = await provision(bus, replace(spec, trace_max_age_s=60.0))
    assert line.startswith("updated TTA_TRACE: max_age")
    await provision(bus, spec)
    other = replace(spec.consumers[0], max_deliver=9)
    with pytest.raises(ConsumerDiffers, match=r"max_deliver: 5 -> 9"):
        await provision(bus, replace(spec, consumers=(other,)))
    wider = replace(spec.consumers[0], subjects=("tta.evt.a.>", "tta.evt.b.>"))
    with pytest.raises(ConsumerDiffers, match="filter_subject"):
        await provision(bus, replace(spec, consumers=(wider,)))
    assert (await api(bus.client, "CONSUMER.INFO.TTA_EVT.jobs"))["config"]["max_deliver"] == 5


async def test_streams_are_what_they_promise(bus: NatsBus) -> None:
    evt = (await api(bus.client, "STREAM.INFO.TTA_EVT"))["config"]
    assert (evt["storage"], evt["discard"], evt["allow_atomic"]) == ("file", "new", True)
    assert evt["duplicate_window"] == 600_000_000_000
    assert (await api(bus.client, "STREAM.INFO.TTA_TRACE"))["config"]["persist_mode"] == "async"


async def test_the_server_keeps_port_and_store(server: NatsServer, tmp_path: Path) -> None:
    port, pid = server.port, server.pid
    with pytest.raises(ServerFailed, match="already runs"):
        NatsServer(tmp_path / "nats", port=port).start()
    with pytest.raises(ServerFailed, match="address already in use"):
        NatsServer(tmp_path / "other", port=port).start()
    server.restart()
    assert server.port == port and server.pid not in (0, pid)
    assert "Listening for client connections" in server.log_tail(10_000)
    server.stop()
    assert server.pid == 0 and not server.pid_file.exists()
    with pytest.raises(ServerFailed, match="ended with"):
        NatsServer(tmp_path / "broken", extra="accounts {").start()


CHILD = """
import os, sys
from pathlib import Path
from understudy.bus.server import NatsServer
print(NatsServer(Path(sys.argv[1])).start().pid, flush=True)
os._exit(1)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a child of its parent's death")
async def test_the_server_dies_with_its_parent(tmp_path: Path, until: Until) -> None:
    ran = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, check=False)
    pid = int(ran.stdout)
    await until(lambda: not Path(f"/proc/{pid}").exists() or "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text())


PERMISSIONS = """
accounts { APP { jetstream: enabled, users: [
  { user: all, password: pw }
  { user: few, password: pw, permissions { publish { allow: ["ok.>"] }, subscribe { allow: ["_INBOX_A.few.>"] } } }
] } }
"""


async def test_refused_subjects_are_told(server: NatsServer, connect: Opener, until: Until) -> None:
    """The server refuses silently for the caller; and the watchdog needs no permission of its own."""
    server.stop()
    server.extra = PERMISSIONS
    server.start()
    told: list[str] = []
    bus = await connect(user="few", password="pw", inbox_prefix="_INBOX_A.few", on_state=told.append, watch_s=0.1)
    await bus.publish("secret.x", b"")
    await bus.subscribe("other.y", lambda _: None)
    await until(lambda: {"permission:secret.x", "permission:other.y"} <= set(told))
    with pytest.raises(NoResponders):
        await bus.request("ok.a", b"", timeout_s=2)
    await asyncio.sleep(0.5)  # several turns of the watchdog, in which nothing may happen
    assert "disconnected" not in told
    with pytest.raises(BusDown, match="Authorization"):
        await connect(user="few", password="wrong", connect_timeout_s=0.5)
