"""The README's snippets run as they stand, against the committed topology's real processes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from understudy.actors.host.supervisor import Supervisor
from understudy.actors.host.topology import read
from understudy.tools.cli import COMMANDS
from understudy.tools.picture import redraw

pytest.importorskip("torch", reason="local models need the extra `local`")

pytest.importorskip("matplotlib", reason="the notebook's example needs the extra `analysis`")

CLI = "import sys; from understudy.tools.cli import main; main(sys.argv[1:])"
NATS_REQ = '{"messages":[{"role":"user","content":"Look around."}],"max_tokens":20}'


def test_the_picture_shows_the_topology(root: Path, tmp_path: Path):
    copy = tmp_path / "README.md"
    copy.write_text((root / "README.md").read_text())
    assert not redraw(copy, read(root / "topology.yaml")), "run `understudy check --picture README.md`"


@pytest.mark.timeout(120)
async def test_snippets_and_a_go_client_are_answered(root: Path, tmp_path: Path):
    topology = read(root / "topology.yaml")
    topology = msgspec.structs.replace(topology, bus=msgspec.structs.replace(topology.bus, port=0))
    supervisor = Supervisor(topology, root, tmp_path / "state", lambda word, **facts: None)
    running = asyncio.create_task(supervisor.run())
    try:
        async with asyncio.timeout(90):
            await asyncio.wait([running, asyncio.create_task(supervisor.ready.wait())], return_when="FIRST_COMPLETED")
        assert supervisor.ready.is_set()
        snippets = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.S)
        assert len(snippets) == 4
        for snippet in snippets:
            if "events.parquet" in snippet:  # the two before have left something in the log
                await _run(
                    sys.executable, "-c", CLI, "events", "--format", "parquet", "--out", "events.parquet", at=tmp_path
                )
            code = snippet.replace("nats://127.0.0.1:4222", supervisor.url)
            out = await _run(sys.executable, "-c", code, at=tmp_path)
            assert out.strip(), snippet
        replayed = json.loads(
            await _run(sys.executable, "-c", CLI, "replay", "--file", "events.parquet", "--json", at=tmp_path)
        )
        assert replayed["compared"] > 0 and not replayed["differ"]
        assert (tmp_path / "latency.png").stat().st_size > 1000
        nats_req = root.parent / "shared" / "bin" / "nats-req"
        if nats_req.exists():
            out = await _run(str(nats_req), "-s", supervisor.url, "tta.ask.model.generate", NATS_REQ)
            assert "model.finished.v1" in out
    finally:
        supervisor.stop.set()
        await running


async def _run(*command: str, at: Path | None = None) -> str:
    env = {**os.environ, "MPLBACKEND": "Agg"}
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, cwd=at, env=env
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return (out + err).decode()


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_teaches_with_an_example(command: str):
    done = subprocess.run(
        [sys.executable, "-c", f"from understudy.tools.cli import main; main(['{command}', '--help'])"],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0
    assert f"understudy {command}" in done.stdout.split("usage:")[1].split("\n", 3)[3]
