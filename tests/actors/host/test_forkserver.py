"""Actors forked from processes that have their imports done, with real processes: who outlives whom."""

from __future__ import annotations

import asyncio
import functools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests import waiting
from understudy.actors.host.spawn import Adopted, ForkServer, model_types
from understudy.actors.host.supervisor import Supervisor
from understudy.actors.host.topology import parse, read

pytest.importorskip("torch")
pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="elsewhere runners are plain processes"),
    pytest.mark.timeout(240),  # importing torch, on a loaded machine too
]
LIMIT_S = 100.0
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}

# A supervisor in a process of its own, on the topology and state folder that it is told.
UP = """
import asyncio, sys
from pathlib import Path
from understudy.actors.host.supervisor import Supervisor
from understudy.actors.host.topology import read
asyncio.run(Supervisor(read(Path(sys.argv[1])), Path(sys.argv[2]), Path(sys.argv[3]), lambda *a, **k: None).run())
"""


def living(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


until = functools.partial(waiting.until, within_s=LIMIT_S, look_s=0.02)


@pytest.fixture
async def forks() -> AsyncIterator[ForkServer]:
    server = ForkServer("local")
    yield server
    await server.stop()


@pytest.fixture
async def light() -> AsyncIterator[ForkServer]:
    server = ForkServer("actors")
    yield server
    await server.stop()


async def test_the_pipe_of_a_key_comes_under_its_number_and_to_nobody_else(light: ForkServer, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with (tmp_path / "log").open("ab", buffering=0) as log:
        keyed, other = await light.fork(ENVIRONMENT, log, key_fd=reader), await light.fork(ENVIRONMENT, log)
    assert isinstance(keyed, Adopted) and isinstance(other, Adopted)
    pipe = Path(f"/proc/self/fd/{reader}").readlink()

    def held_by(pid: int) -> list[int]:
        return [int(fd.name) for fd in Path(f"/proc/{pid}/fd").iterdir() if fd.readlink() == pipe]

    await until(lambda: held_by(keyed.pid) == [reader])
    assert (held_by(other.pid), held_by(light.pid)) == ([], [])
    for fd in (reader, writer):
        os.close(fd)
    for one in (keyed, other):
        one.stdin.close()
        assert await one.wait() == 0


async def test_renewed_it_forks_what_is_installed_now(light: ForkServer, tmp_path: Path) -> None:
    with (tmp_path / "log").open("ab", buffering=0) as log:
        first = await light.fork(ENVIRONMENT, log)
        before = light.pid
        await light.renew()
        second = await light.fork(ENVIRONMENT, log)
    assert isinstance(first, Adopted) and isinstance(second, Adopted)
    assert light.pid not in (0, before) and living(first.pid)
    for one in (first, second):
        one.stdin.close()
        assert await one.wait() == 0


async def test_what_ends_a_process_at_its_beginning_stands_in_the_log(light: ForkServer, tmp_path: Path) -> None:
    with (tmp_path / "log").open("ab", buffering=0) as log:
        one = await light.fork(ENVIRONMENT, log)
    assert isinstance(one, Adopted)
    one.stdin.write(b"{}\n")  # no errand
    assert await one.wait() == 1
    assert "missing required field `seat`" in (tmp_path / "log").read_text()


def descriptors() -> set[int]:
    """That are open; not the one by which they are listed."""
    listed = list(Path("/proc/self/fd").iterdir())
    return {int(fd.name) for fd in listed if fd.is_symlink()}


def children() -> list[str]:
    own = f"/proc/self/task/{os.getpid()}/children"
    return Path(own).read_text().split()


async def test_descriptors_that_run_out_in_the_middle_leave_nothing_behind(light: ForkServer, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with (tmp_path / "log").open("ab", buffering=0) as log:
        for room in range(5):  # two pipes, and what the process is known by
            await light.renew()
            first = await light.fork(ENVIRONMENT, log)
            assert isinstance(first, Adopted)
            first.stdin.close()
            assert await first.wait() == 0
            await until(lambda one=first: one.stdout.at_eof())
            await asyncio.sleep(0)  # its pipe is closed with the loop's next turn
            before, had = descriptors(), set(children())
            free = sorted(set(range(max(before) + 10)) - before)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free[room], hard))
            try:
                assert await light.fork(ENVIRONMENT, log) is None
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert descriptors() - before == set(), room
            assert set(children()) - had == set(), room


async def test_an_answer_that_nobody_waited_for_is_not_the_next_ones(light: ForkServer, tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    with (tmp_path / "log").open("ab", buffering=0) as log:
        first = await light.fork(ENVIRONMENT, log)
        none = ThreadPoolExecutor()
        none.shutdown()
        loop.set_default_executor(none)
        with pytest.raises(RuntimeError):  # no thread to be had; what was asked for is forked all the same
            await light.fork(ENVIRONMENT, log)
        loop.set_default_executor(ThreadPoolExecutor())
        second = await light.fork(ENVIRONMENT, log)
    assert isinstance(first, Adopted) and isinstance(second, Adopted)
    second.stdin.write(b"{}\n")
    first.stdin.close()
    assert [await one.wait() for one in (first, second)] == [0, 1]


async def test_where_our_code_was_changed_no_process_is_forked_of_the_old(light: ForkServer, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    for name in ("actors", "bus", "messages"):
        shutil.copytree(root / name, tmp_path / "understudy" / name, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path)}
    with (tmp_path / "log").open("ab", buffering=0) as log:
        first = await light.fork(environment, log)
        os.utime(tmp_path / "understudy" / "messages" / "wire.py", (1, 1))
        changed = await light.fork(environment, log)
        second = await light.fork(environment, log)
    assert isinstance(first, Adopted) and changed is None and isinstance(second, Adopted)
    for one in (first, second):
        one.stdin.close()
        assert await one.wait() == 0
    assert (tmp_path / "log").read_text() == ""


async def test_a_killed_forkserver_takes_no_runner_along(forks: ForkServer, tmp_path: Path) -> None:
    with (tmp_path / "log").open("ab", buffering=0) as log:
        await _kill_and_look(forks, lambda: forks.fork(ENVIRONMENT, log, ["llama"]))


async def _kill_and_look(forks: ForkServer, fork: Callable[[], Awaitable[Adopted | None]]) -> None:
    first, second = await fork(), await fork()
    assert isinstance(first, Adopted)
    assert isinstance(second, Adopted)
    before = forks.pid
    os.kill(before, signal.SIGKILL)
    await until(lambda: not forks.pid)
    assert [living(one.pid) and parent_of(one.pid) for one in (first, second)] == [os.getpid()] * 2
    third = await fork()  # another forkserver
    assert isinstance(third, Adopted)
    assert forks.pid not in (0, before)
    first.stdin.close()  # a runner without an errand ends when nobody can send it one any more
    second.send_signal(signal.SIGKILL)
    third.send_signal(signal.SIGTERM)
    assert [await one.wait() for one in (first, second, third)] == [0, -signal.SIGKILL, -signal.SIGTERM]
    with pytest.raises(ProcessLookupError):
        first.send_signal(signal.SIGTERM)


async def test_a_forkserver_that_cannot_start_leaves_the_plain_way(light: ForkServer, tmp_path: Path) -> None:
    shadowed = {**ENVIRONMENT, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    (tmp_path / "understudy").mkdir()
    (tmp_path / "understudy" / "__init__.py").touch()  # not ours
    with (tmp_path / "log").open("ab", buffering=0) as log:
        assert [await light.fork(shadowed, log) for _ in range(4)] == [None] * 4
        assert light.pid == 0
        assert await light.fork(ENVIRONMENT, log) is None  # given up
        await light.renew()
        one = await light.fork(ENVIRONMENT, log)
    assert isinstance(one, Adopted)
    one.stdin.close()
    assert await one.wait() == 0


def local_topology(folder: Path) -> Path:
    """The committed topology, its demo models by absolute paths, on a free port."""
    root = Path(__file__).resolve().parents[3]
    body = msgspec.to_builtins(read(root / "topology.yaml"))
    body["bus"]["port"], body["graph"] = 0, {"uri": "off"}
    for model in body["models"].values():
        model["path"] = str(root / model["path"])
    text = json.dumps(body)
    parse(text, folder)
    (folder / "topology.yaml").write_text(text)
    return folder / "topology.yaml"


async def test_runners_outlive_the_forkserver_and_can_be_restarted(tmp_path: Path) -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    topology = read(local_topology(tmp_path))
    supervisor = Supervisor(topology, tmp_path, tmp_path / "state", lambda word, **facts: said.append((word, facts)))
    task = asyncio.create_task(supervisor.run())
    try:
        await until(lambda: supervisor.ready.is_set() or task.done())
        assert not task.done()
        runners = [p for p in supervisor.processes if p.seat.actor == "runner"]
        assert len(runners) == 2
        before = [p.pid for p in runners]
        assert all(isinstance(p.child, Adopted) for p in runners)
        os.kill(supervisor.local_forks.pid, signal.SIGKILL)
        await until(lambda: not supervisor.local_forks.pid)
        os.kill(before[0], signal.SIGKILL)
        await until(lambda: runners[0].ready and runners[0].pid not in (0, before[0]))
        assert isinstance(runners[0].child, Adopted)
        assert runners[1].pid == before[1]
        assert runners[1].restarts == 0
        assert ("actor_ended", -signal.SIGKILL) in [(word, facts.get("code")) for word, facts in said]
    finally:
        supervisor.stop.set()
        await task
    assert not any(living(p.child.pid) for p in supervisor.processes if p.child is not None)


async def test_stopped_while_a_process_is_being_forked_it_leaves_nothing_open(tmp_path: Path) -> None:
    body = json.loads(local_topology(tmp_path).read_text())
    body["providers"] = {"lab": {"kind": "openai", "url": "http://127.0.0.1:9/v1", "key": {"file": "key"}}}
    body["models"], body["aliases"] = {"m@lab": {"provider": "lab", "context_tokens": 1_000}}, {}
    for task in body["tasks"].values():
        task.pop("fallbacks", None)
    (tmp_path / "key").write_text("a-key-of-nobody")
    (tmp_path / "key").chmod(0o600)
    supervisor = Supervisor(parse(json.dumps(body), tmp_path), tmp_path, tmp_path / "state", lambda *_, **__: None)
    (runner,) = (p for p in supervisor.processes if p.seat.actor == "runner")
    before, had = descriptors(), set(children())
    task = asyncio.create_task(supervisor.run())
    try:
        await until(lambda: task.done() or (runner.keys is not None and runner.child is None))
    finally:
        supervisor.stop.set()
        await task
    await until(lambda: descriptors() <= before and set(children()) <= had, within_s=5.0)


async def test_a_killed_supervisor_leaves_nothing_running(tmp_path: Path) -> None:
    path, state = local_topology(tmp_path), tmp_path / "state"
    up = await asyncio.create_subprocess_exec(sys.executable, "-c", UP, str(path), str(tmp_path), str(state))

    def processes() -> list[dict[str, Any]]:
        try:
            return json.loads((state / "run.json").read_text())["processes"]
        except (OSError, ValueError):
            return []

    try:
        await until(lambda: processes() and all(p["ready"] for p in processes()))
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(up.pid)], capture_output=True, check=True).stdout
        pids = [int(word) for word in children.split()]
        assert {p["pid"] for p in processes()} < set(pids)  # and the forkserver, and nats-server
    finally:
        up.kill()
        await up.wait()
    await until(lambda: not any(living(pid) for pid in pids))


def test_model_types_are_read_from_the_folders(tmp_path: Path) -> None:
    topology = read(local_topology(tmp_path))
    assert model_types(topology, tmp_path) == ["llama", "qwen2"]
    assert model_types(topology, tmp_path / "elsewhere") == ["llama", "qwen2"]  # the paths are absolute
