"""Ordinary trouble with one process, or with the machine: the supervisor and the others go on."""

from __future__ import annotations

import os
import resource
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]

LIBRARY = """
import sys
print("hello from a library", "[1, 2]", "7", "x" * 200_000, "{", sep="\\n", flush=True)
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(fake: Any, kit: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    """Whose every process prints before it speaks, as libraries do while they are imported."""
    state = tmp_path_factory.mktemp("s")
    (state / "key").write_text(kit.KEY)
    (state / "sitecustomize.py").write_text(LIBRARY)
    models = {"ok@1": {"provider": "lab"}, "ok@2": {"provider": "spare"}}
    topology = kit.topology_of(fake.url, "key", models=models, aliases={}, tasks={"general": {"latency": "quick"}})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(state), os.environ.get("PYTHONPATH", "")]))
        system = await kit.System(fake, state, topology).start()
        try:
            yield system
        finally:
            await system.stop()


async def test_processes_that_print_get_ready(running: Any) -> None:
    assert all(p.ready and p.restarts == 0 for p in running.supervisor.processes)


async def test_a_process_that_cannot_be_started_now_is_started_later(running: Any, kit: Any) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    others = [p.pid for p in running.supervisor.processes if p.seat.instance != "runner-lab"]
    process = running.process("runner-lab")
    try:
        # No room, though the end of a process frees some: as EMFILE, so EAGAIN and ENOMEM of a fork.
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        before = await running.kill("runner-lab")
        await kit.until(lambda: "cannot be started" in process.trouble or running.running.done(), 10)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert not running.running.done()
    assert [facts for word, facts in running.said if word == "actor_ended" and facts["code"] is None]
    await running.back("runner-lab", before)
    assert [p.pid for p in running.supervisor.processes if p.seat.instance != "runner-lab"] == others


async def test_a_run_file_that_cannot_be_written_ends_nothing(running: Any) -> None:
    (running.state / "run.new").mkdir()  # in the way of what is written beside it first
    await running.back("runner-spare", await running.kill("runner-spare"))
    assert any(word == "run_file_failed" for word, _ in running.said)
    (running.state / "run.new").rmdir()
    await running.back("runner-spare", await running.kill("runner-spare"))
    assert (await running.cli("status"))[0] == 0
    assert not running.running.done()
