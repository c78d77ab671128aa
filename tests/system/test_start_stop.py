"""Start, stop, kill -9 of the server and of the supervisor, and what does not start at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import nats
import pytest
import yaml

from understudy.actors.host.bus_side import CannotStart
from understudy.actors.host.topology import TopologyError, parse

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(30)]


def small(url: str, kit: Any, folder: Path, *models: str) -> dict[str, Any]:
    """A topology of these models alone; its key lies in the folder."""
    (folder / "key").write_text(kit.KEY)
    few = {model: {"provider": "lab"} for model in models}
    return kit.topology_of(url, "key", models=few, aliases={}, tasks={"general": {"latency": "quick"}})


async def test_stop_leaves_nothing_and_a_second_supervisor_is_refused(fake: Any, kit: Any, tmp_path: Path) -> None:
    topology = small(fake.url, kit, tmp_path, "ok@1", "crawl@1")
    system = await kit.System(fake, tmp_path, topology).start()
    assert system.supervisor.bus_side.server is not None
    pids = {*system.pids, system.supervisor.bus_side.server.pid}
    assert all(kit.alive(pid) for pid in pids)
    assert len(pids) == 9  # two selectors, tracker, ledger, manager, response cache, benchmarker, a runner, the server
    run_file = tmp_path / "run.json"
    assert run_file.stat().st_mode & 0o077 == 0
    with pytest.raises(CannotStart, match="another"):
        await kit.System(fake, tmp_path, topology).supervisor.run()
    assert run_file.exists(), "the refused one must not take the running one's file away"
    assert all(kit.alive(pid) for pid in pids)
    nc = await nats.connect(system.url, allow_reconnect=False)
    reading = kit.Stream(nc, kit.ask_for("Stopped while speaking.", model="crawl@1", max_tokens=4000))
    async with reading:
        await reading.until_delta(3)
        began = kit.clock()
        await system.stop()
        assert kit.clock() - began < 5
    await nc.close()
    await kit.until(lambda: not any(kit.alive(pid) for pid in pids), 2)
    assert not run_file.exists()
    assert system.said[-1][0] == "stopped"
    await kit.until(lambda: all(s.ended != "open" for s in system.upstream("Stopped while speaking.")))
    again = await kit.System(fake, tmp_path, topology).start()
    await again.stop()


async def test_kill_9_of_the_server_loses_no_outcome_and_it_comes_back(fake: Any, kit: Any, tmp_path: Path) -> None:
    topology = small(fake.url, kit, tmp_path, "ok@1")
    system = await kit.System(fake, tmp_path, topology).start()
    try:
        nc = await nats.connect(system.url, reconnect_time_wait=0.05, max_reconnect_attempts=-1, error_cb=_quiet)
        ask = json.dumps(kit.ask_for("Server.")).encode()
        runs = [json.loads((await nc.request("tta.ask.model.generate", ask)).data)["run_id"] for _ in range(5)]
        server = system.supervisor.bus_side.server
        old = server.pid
        os.kill(old, signal.SIGKILL)
        await kit.until(lambda: server.pid not in (0, old))
        until, end = kit.clock() + 10, None
        while end is None or end["type"] != "model.finished.v1":
            assert kit.clock() < until, end
            with contextlib.suppress(nats.errors.Error):
                end = json.loads((await nc.request("tta.ask.model.generate", ask, timeout=2)).data)
            await asyncio.sleep(0.05)
        await nc.close()
        ended = [e["run_id"] for e in await system.events() if e["type"] == "request.ended.v1"]
        assert [ended.count(run) for run in [*runs, end["run_id"]]] == [1] * 6
        assert all(p.restarts == 0 for p in system.supervisor.processes)
    finally:
        await system.stop()


async def _quiet(_: Exception) -> None:
    return None


async def test_kill_9_of_the_supervisor_leaves_nothing_running(fake: Any, kit: Any, tmp_path: Path) -> None:
    topology = small(fake.url, kit, tmp_path, "ok@1")
    (tmp_path / "topology.yaml").write_text(yaml.safe_dump(topology))
    program = (
        "import asyncio, pathlib as p; from understudy.actors.host.supervisor import Supervisor;"
        "from understudy.actors.host.topology import read; f = p.Path('.').resolve();"
        "asyncio.run(Supervisor(read(f / 'topology.yaml'), f, f / 'state', lambda *_, **__: None).run())"
    )
    supervisor = await asyncio.create_subprocess_exec(sys.executable, "-c", program, cwd=tmp_path)
    run_file, pids = tmp_path / "state" / "run.json", list[int]()

    def ready() -> bool:
        with contextlib.suppress(OSError, ValueError):
            processes = json.loads(run_file.read_text())["processes"]
            pids[:] = [p["pid"] for p in processes]
            return all(p["ready"] for p in processes)
        return False

    try:
        await kit.until(ready, 15)
        pids.append(int((tmp_path / "state" / "nats" / "nats.pid").read_text()))
        assert len(pids) == 9 and all(map(kit.alive, pids))
        assert (await kit.cli("status", "--state", str(tmp_path / "state")))[0] == 0
    finally:
        supervisor.kill()
        await supervisor.wait()
    code, out, err = await kit.cli("status", "--state", str(tmp_path / "state"))
    assert (code, out) == (1, "") and err.startswith("not_running: ") and run_file.exists()
    await kit.until(lambda: not any(map(kit.alive, pids)), 12)


async def test_a_stop_ends_what_is_in_hand(fake: Any, kit: Any, tmp_path: Path) -> None:
    topology = small(fake.url, kit, tmp_path, "crawl@1")
    system = await kit.System(fake, tmp_path, topology).start()
    nc = await nats.connect(system.url, allow_reconnect=False, error_cb=_quiet)
    async with kit.Stream(nc, kit.ask_for("In hand.", model="crawl@1", max_tokens=4000)) as reading:
        await reading.until_delta(3)
        stopping = asyncio.create_task(system.stop())
        try:
            end = await reading.end()
        finally:
            await stopping
            await nc.close()
    assert (end["type"], end["code"], end["resumable"]) == ("model.failed.v1", "interrupted", True)


@pytest.mark.parametrize("url", ["http://10.0.0.1:8000/v1", "http://127.0.0.1.example/v1",
                                 "http://0.0.0.0:1/v1", "//127.0.0.1/v1", "http://key@127.0.0.1/v1", "http://[::1",
                                 "http://127.0.0.1:99999/v1", "ftp://127.0.0.1/v1", "localhost:8000/v1"])  # fmt: skip
async def test_an_endpoint_elsewhere_without_https_is_refused(kit: Any, tmp_path: Path, url: str) -> None:
    topology = small("http://127.0.0.1:1/v1", kit, tmp_path, "ok@1")
    parse(yaml.safe_dump(topology), tmp_path)
    topology["consent"] = {"text": "Your words go to lab."}
    topology["providers"]["lab"]["url"] = "https://api.example.com/v1"
    parse(yaml.safe_dump(topology), tmp_path)
    topology["providers"]["lab"]["url"] = url
    with pytest.raises(TopologyError) as refused:
        parse(yaml.safe_dump(topology), tmp_path)
    assert [p.path for p in refused.value.problems] == ["$.providers.lab.url"]


async def test_a_missing_key_is_said_before_anything_starts(kit: Any, fake: Any, tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match="no key in the file"):
        await kit.System(fake, tmp_path, kit.topology_of(fake.url, "key")).supervisor.run()
    assert not (tmp_path / "nats").exists()
