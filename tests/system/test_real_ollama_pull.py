"""A real Ollama pulls from a registry on this machine, ends in the middle and goes on: part of TTA's scenario 8."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests import interrupts
from tests.ollama_registry import Registry
from tests.real_ollama import serving
from tests.waiting import found, until

pytest.importorskip("gguf", reason="the tiny models are written with the package gguf")
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def registry(shared_bin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp("weights")
    subprocess.run([sys.executable, str(shared_bin / "tiny_gguf.py"), "story.gguf", "11"], cwd=folder, check=True)
    with Registry((folder / "story.gguf").read_bytes()).serving() as registry:
        yield registry


@pytest.fixture(scope="module")
def ollama(shared_bin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(shared_bin, tmp_path_factory.mktemp("ollama")) as (url, _):
        yield url


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(ollama: str, fake: Any, kit: Any, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    listed = {"kind": "ollama", "url": ollama, "catalogue": {"refresh_s": 3_600, "admit": {"ids": ["*"]}}}
    topology = kit.topology_of(
        fake.url, "key", providers={"home": listed}, models={}, aliases={}, tasks={"general": {"latency": "patient"}}
    )
    running = await kit.System(fake, tmp_path_factory.mktemp("pulling"), topology).start()
    try:
        yield running
    finally:
        await running.stop()


def command(system: Any, name: str) -> tuple[str, ...]:
    return ("models", "pull", "home", name, "--insecure", "--json")


async def pulled(system: Any, name: str) -> tuple[int, list[dict[str, Any]]]:
    code, out, err = await system.cli(*command(system, name))
    assert not err, err
    return code, [json.loads(line) for line in out.splitlines()]


async def test_who_leaves_ends_it_and_who_asks_again_goes_on(system: Any, registry: Registry) -> None:
    registry.pause_s = 0.3  # thirty chunks: nine seconds
    code = "import sys; from understudy.tools.cli import main; main(sys.argv[1:])"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *command(system, registry.name), "--state", str(system.state),
        stdout=asyncio.subprocess.PIPE, preexec_fn=interrupts.heed,
    )  # fmt: skip
    assert process.stdout is not None
    said: dict[str, Any] = {}
    while said.get("completed_bytes", 0) < 60_000:
        said = json.loads(await process.stdout.readline())
    os.kill(process.pid, signal.SIGINT)
    await process.communicate()
    assert process.returncode == 130
    await until(lambda: registry.cut == 1)

    registry.pause_s, before = 0.05, len(registry.ranges)
    code, lines = await pulled(system, registry.name)
    assert code == 0 and lines[-1] == {
        "type": "pull.ended.v1", "name": registry.name, "digest": registry.weights, "bytes": registry.bytes
    }  # fmt: skip
    again = registry.ranges[before:]
    assert again and min(begin for begin, _ in again) >= 60_000, "what it had it kept"
    layer = [one.get("completed_bytes", 0) for one in lines[:-1] if one.get("digest") == registry.weights]
    assert layer == sorted(layer) and len(set(layer)) > 3 and layer[0] >= 60_000

    listed = registry.name.removeprefix("http://")
    async with await system.operator() as client:

        async def card() -> Any:
            return [one for one in (await client.models()).models if one.id == listed]

        (one,) = await found(card)
    assert one.candidate and one.location == "local" and one.context_tokens == 2_048


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("http://127.0.0.1:9/library/story:1b", "refused", "connection refused"),
        ("{registry}/library/story:2b", "not_found", "file does not exist"),
        ("a//b", "refused", "HTTP 400 invalid model name"),
    ],
)
async def test_what_goes_wrong(system: Any, registry: Registry, name: str, code: str, words: str) -> None:
    ended, lines = await pulled(system, name.format(registry=f"http://127.0.0.1:{registry.port}"))
    assert (ended, lines[-1]["type"], lines[-1]["code"]) == (1, "pull.failed.v1", code)
    assert words in lines[-1]["text"]
