"""Where the supervisor's bus may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudy.actors.host.bus_side import BusSide, CannotStart, on_this_machine
from understudy.actors.host.topology import read
from understudy.bus.server import NatsServer


@pytest.mark.parametrize(
    "url",
    ["nats://192.0.2.1:4222", "nats://me:hunter2@nats.example.com", "192.0.2.1:4222", "tls://10.0.0.7", "nats://0.0.0.0",
     "nats://127.0.0.1.example.com:4222", "nats://localhost@192.0.2.1", "nats://[::", "nats://", ""],
)  # fmt: skip
async def test_a_server_that_is_not_this_machine_is_refused(root: Path, tmp_path: Path, url: str) -> None:
    side = BusSide(tmp_path, url, lambda *_, **__: None)
    with pytest.raises(CannotStart, match="not this machine") as refused:
        await side.start(read(root / "topology.yaml"), [])
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("url", ["nats://127.0.0.1:4222", "localhost:4222", "nats://a:b@[::1]:1", "127.0.0.1"])
def test_a_server_on_this_machine_may_be_joined(url: str) -> None:
    assert on_this_machine(url)


async def test_a_store_that_is_laid_out_in_another_way_is_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody could sync it; files that an earlier server left there do not grow."""
    monkeypatch.setattr(NatsServer, "message_files", lambda *_: {tmp_path / "old/1.blk": 100})
    side = BusSide(tmp_path, None, lambda *_, **__: None)
    try:
        with pytest.raises(CannotStart, match="no message file grew"):
            await side.start(read(root / "topology.yaml"), [])
    finally:
        await side.stop()
