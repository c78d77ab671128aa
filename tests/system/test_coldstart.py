"""Restarts on the same state folder: from a snapshot where it matches, from the start of the log where not."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from understudy.bus.client import Client

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
ACTORS = {"selector-1", "selector-2", "health_tracker-1", "cost_ledger-1", "model_manager-1", "benchmarker-1"}
FOLDED = ("id", "last_used_ms", "success_ratio", "first_token_ms")  # status follows what runs now


async def restarted(kit: Any, fake: Any, state: Path, topology: dict[str, Any], asks: int = 0) -> tuple[Any, Any]:
    """Start on this state, ask a little, say what the models look like, stop. Returns cards and new log lines."""
    log = state / "actors.log"
    before = log.stat().st_size if log.exists() else 0
    system = await kit.System(fake, state, topology).start()
    try:
        async with await Client.connect(system.url) as client:
            for n in range(asks):
                async for _ in client.generate(f"Number {n}.", model=("ok@1", "500@1")[n % 2]):
                    pass
            await settled(client)
            cards = [{name: getattr(card, name) for name in FOLDED} for card in (await client.models()).models]
    finally:
        await system.stop()
    lines = [json.loads(x) for x in log.read_bytes()[before:].splitlines() if x.startswith(b"{")]
    return cards, lines


async def settled(client: Client) -> None:
    """Both selectors have folded all there is: whichever answers, the position is the same."""
    seen: list[int] = []
    async with asyncio.timeout(8):
        while len(seen) < 8 or len(set(seen[-8:])) > 1:
            seen.append((await client.models()).as_of_seq)
            await asyncio.sleep(0.02)


def of(lines: list[dict[str, Any]], event: str) -> dict[str, dict[str, Any]]:
    return {line["instance"]: line for line in lines if line["event"] == event}


def forged(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """A snapshot that is whole, and not ours."""
    body = json.loads(path.read_bytes().partition(b"\n")[2])
    change(body)
    content = json.dumps(body).encode()
    path.write_bytes(hashlib.sha256(content).hexdigest().encode() + b"\n" + content)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


def other_code(path: Path) -> None:
    forged(path, lambda body: body.update(code="0" * 32))


def other_stream(path: Path) -> None:
    forged(path, lambda body: body.update(created="2020-01-01T00:00:00Z"))


async def test_snapshots_are_written_used_and_refused(
    fake: Any, kit: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    state = tmp_path_factory.mktemp("cold")
    (state / "key").write_text(kit.KEY + "\n")
    topology = kit.topology_of(fake.url, "key")
    first, lines = await restarted(kit, fake, state, topology, asks=4)
    assert any(card["success_ratio"] for card in first)
    assert set(of(lines, "folded")) == ACTORS
    assert not of(lines, "snapshot_used")
    written = sorted(p.name for p in (state / "snapshots").iterdir())
    actors = ("benchmarker", "cost_ledger", "health_tracker", "model_manager", "selector")
    assert written == [f"{actor}.snapshot" for actor in actors]

    cards, lines = await restarted(kit, fake, state, topology)
    assert cards == first
    assert set(of(lines, "snapshot_used")) == ACTORS
    for instance, line in of(lines, "folded").items():
        assert line["from_seq"] == of(lines, "snapshot_used")[instance]["seq"] > 0

    for harm, why in ((flip_a_bit, "damaged"), (other_code, "other code"), (other_stream, "other created")):
        for path in (state / "snapshots").iterdir():
            harm(path)
        cards, lines = await restarted(kit, fake, state, topology)
        assert cards == first, harm.__name__
        assert set(of(lines, "snapshot_unusable")) == ACTORS
        assert all(line["why"].startswith(why) for line in of(lines, "snapshot_unusable").values())
        assert all(line["from_seq"] == 0 for line in of(lines, "folded").values())

    shutil.rmtree(state / "nats")  # a new log that never meets the old snapshots, though its positions do
    cards, lines = await restarted(kit, fake, state, topology, asks=2)
    assert set(of(lines, "snapshot_unusable")) == ACTORS
    assert cards != first
