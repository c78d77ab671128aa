"""`understudy models pull`: followed, listed by itself, refused, ended by who leaves, the operator's alone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests import interrupts
from tests.waiting import until
from understudy.tools.fake.pulls import Pullable, digest_of
from understudy.tools.fake.server import FakeProvider

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(60)]
LATER_S = 3_600
"""How often the list is read: a model that is listed sooner is so because it was pulled."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def home() -> AsyncIterator[FakeProvider]:
    async with FakeProvider() as provider:
        provider.pulls.registry |= {
            "tale:1b": Pullable(layers=[4_000_000, 400], gap_ms=30),
            "full": Pullable(fault="error", after=3),
            "slow": Pullable(layers=[100_000_000], step=1_000, gap_ms=20),
            "silent": Pullable(fault="stall", after=2),
        }
        yield provider


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(home: Any, kit: Any, tmp_path_factory: Any) -> AsyncIterator[Any]:
    listed = {"kind": "ollama", "url": home.root, "catalogue": {"refresh_s": LATER_S, "admit": {"ids": ["*"]}}}
    topology = kit.topology_of(
        home.url,
        "key",
        providers={"home": listed, "lab": {"kind": "openai", "url": home.url}},
        models={"ok@1": {"provider": "lab"}},
        aliases={},
        tasks={"general": {"latency": "patient"}},
    )
    running = await kit.System(home, tmp_path_factory.mktemp("pulls"), topology).start()
    try:
        yield running
    finally:
        await running.stop()


async def pulled(system: Any, *words: str) -> tuple[int, list[dict[str, Any]]]:
    code, out, err = await system.cli("models", "pull", *words, "--json")
    assert not err, err
    return code, [json.loads(line) for line in out.splitlines()]


async def begin(system: Any, name: str) -> asyncio.subprocess.Process:
    """The command in a process of its own, which has said its first words."""
    code = "import sys; from understudy.tools.cli import main; main(sys.argv[1:])"
    words = ("models", "pull", "home", name, "--json", "--state", str(system.state))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *words,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, preexec_fn=interrupts.heed,
    )  # fmt: skip
    assert process.stdout is not None
    while True:
        said = json.loads(await process.stdout.readline())
        if said.get("status"):
            return process


async def test_it_is_followed_and_then_listed_by_itself(system: Any, home: FakeProvider) -> None:
    code, said = await pulled(system, "home", "tale:1b")
    assert code == 0 and said[-1] == {
        "type": "pull.ended.v1", "name": "tale:1b", "digest": digest_of("tale:1b", 0), "bytes": 4_000_400
    }  # fmt: skip
    progress = said[:-1]
    assert {one["type"] for one in progress} == {"pull.progress.v1"}
    words = [one.get("status", "") for one in progress]
    assert [w for n, w in enumerate(words) if words[n - 1] != w or not n] == [
        "", "pulling manifest", f"pulling {digest_of('tale:1b', 0)[7:19]}", f"pulling {digest_of('tale:1b', 1)[7:19]}",
        "verifying sha256 digest", "writing manifest",
    ]  # fmt: skip
    assert len(progress) < home.pulls.log[-1].lines, "not every line is told"
    async with await system.operator() as client:
        found = await asyncio.wait_for(_listed(client, "tale:1b"), 10)
    assert found.candidate and found.location == "local"


async def _listed(client: Any, model: str) -> Any:
    while True:
        cards = [card for card in (await client.models()).models if card.id == model]
        if cards:
            return cards[0]
        await asyncio.sleep(0.05)


async def test_for_people_it_is_a_line_per_change_where_none_can_be_rewritten(system: Any) -> None:
    code, out, err = await system.cli("models", "pull", "home", "tale:1b")
    lines = out.splitlines()
    assert (code, err, lines[0], lines[1]) == (0, "", "asked", "pulling manifest")
    assert lines[-1] == f"pulled tale:1b into home: 4 MB, {digest_of('tale:1b', 0)}"


async def test_what_goes_wrong_is_said_with_a_code(system: Any) -> None:
    code, said = await pulled(system, "home", "full")
    assert (code, said[-1]["type"], said[-1]["code"]) == (1, "pull.failed.v1", "refused")
    assert "no space left on device" in said[-1]["text"]
    code, said = await pulled(system, "home", "nowhere")
    assert (code, said[-1]["code"]) == (1, "not_found")
    code, _, err = await system.cli("models", "pull", "home", "nowhere")
    assert code == 1 and err.startswith("not_found: No registry has a model of this name")


async def test_only_providers_that_pull_are_asked(system: Any, home: FakeProvider) -> None:
    before = len(home.pulls.log)
    for provider, words in (("lab", "'lab' is of the kind openai"), ("nobody", "'nobody' is unknown")):
        code, (said,) = await pulled(system, provider, "tale:1b")
        assert (code, said["error"]) == (1, "invalid") and words in said["text"] and "Such are: home" in said["text"]
    code, (said,) = await pulled(system, "home", "with space")
    assert (code, said["error"]) == (1, "invalid") and said["text"].startswith("$.name")
    assert len(home.pulls.log) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["Ctrl-C", "killed"])
@pytest.mark.parametrize("name", ["slow", "silent"])
async def test_who_leaves_has_ended_it(system: Any, home: FakeProvider, name: str, number: signal.Signals) -> None:
    process = await begin(system, name)
    code, said = await pulled(system, "home", f"{name}:latest")
    assert (code, said[-1]["code"]) == (1, "pulling"), "once at a time"
    seen = home.pulls.log[-1]
    assert (seen.model, seen.ended) == (name, "open")
    os.kill(process.pid, number)
    await process.communicate()
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    await until(lambda: seen.ended == "client_closed")


async def test_a_guest_may_neither_ask_nor_listen(system: Any, home: FakeProvider, nc: Any) -> None:
    before, errors = len(home.pulls.log), list[str]()

    async def note(error: Exception) -> None:
        errors.append(str(error))

    nc._error_cb = note
    ask = json.dumps({"provider": "home", "name": "slow"}).encode()
    await nc.publish("tta.ask.catalogue.pull", ask, reply="_INBOX.mine")
    await nc.publish("tta.ask.runner.pull.home", ask, reply="_INBOX.mine")
    await nc.subscribe("_INBOX_A.operator.>")
    await nc.flush()
    await until(lambda: len(errors) == 3)
    assert all("permissions violation" in one.lower() for one in errors)
    assert len(home.pulls.log) == before
