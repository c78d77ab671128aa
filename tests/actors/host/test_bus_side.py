"""Where the supervisor's bus may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from understudy.actors.host.bus_side import BusSide, CannotStart, on_this_machine
from understudy.actors.host.topology import read


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
