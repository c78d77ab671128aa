"""A log that changes while it is exported, and two exports at once: no hole, no mixture, nothing of another's lost."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from understudy.bus import history
from understudy.bus.client import Client
from understudy.bus.log_query import LogQuery
from understudy.bus.nats_bus import NatsBus
from understudy.bus.nats_log import api
from understudy.bus.port import Bus, BusError, NotAllowed, Outgoing, Received
from understudy.bus.provision import BusSpec, provision
from understudy.bus.server import NatsServer
from understudy.messages.events import AttemptEnded
from understudy.messages.wire import encode
from understudy.tools import exporting
from understudy.tools.common import Refused
from understudy.tools.exporting import Manifest, export, parquet
from understudy.tools.exporting.text import TextWriter, jsonl
from understudy.tools.rawlog import exported_file

pytest.importorskip("pyarrow", reason="needs the extra `analysis`")

SPEC = BusSpec(evt_max_bytes=64 << 20, trace_max_bytes=1 << 20)


def nats_bus(client: Client) -> NatsBus:
    assert isinstance(client.bus, NatsBus)
    return client.bus


async def fill(bus: Bus, word: str, count: int) -> None:
    for n in range(count):
        failed = AttemptEnded(at_ms=n, run_id=f"r{n}", attempt=1, model=word, reason="empty")
        await bus.store([Outgoing("tta.evt.attempt.ended", encode(failed), f"{word}{n}")], timeout_s=5)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats", sync="2m") as running:
        yield running


@pytest.fixture
async def client(server: NatsServer) -> AsyncIterator[Client]:
    """A connection to a log of fifty events."""
    async with await Client.connect(server.url) as found:
        await provision(nats_bus(found), SPEC)
        await fill(found.bus, "old", 50)
        yield found


class Struck(TextWriter):
    """Something happens to the log when the first part is written, while the export is not asking for more of it."""

    def __init__(self, out: Path, reading: asyncio.Lock, strike: Callable[[], Coroutine[Any, Any, Any]]):
        super().__init__(out, jsonl(out)._lines)  # pyright: ignore[reportPrivateUsage]
        self._loop, self._reading, self._strike = asyncio.get_running_loop(), reading, strike
        self._struck = False

    def append(self, rows: list[Received], manifest: Manifest) -> None:
        super().append(rows, manifest)
        if not self._struck:
            self._struck = True
            asyncio.run_coroutine_threadsafe(self._between(), self._loop).result(10)

    async def _between(self) -> None:
        async with self._reading:
            await self._strike()


async def exported(client: Client, out: Path, writer: TextWriter | None = None, model: str | None = None) -> Any:
    asked: dict[str, str | list[str]] = {} if model is None else {"model": model}
    wanted = Manifest(format="jsonl", stream="TTA_EVT", created="", asked=asked, query=LogQuery(model=model))
    manifest_at = out.with_name(out.name + ".manifest.json")
    return await export(client, out, manifest_at, writer or jsonl(out), wanted, lambda _: None)


def seqs(out: Path) -> list[int]:
    return [one.seq for one in exported_file(out)]


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> asyncio.Lock:
    """Ten events a part, and no more of the log in hand than that. The lock is held while more is read."""
    reading = asyncio.Lock()
    monkeypatch.setattr(exporting, "PART_ROWS", 10)
    monkeypatch.setattr(history, "AHEAD", 5)
    matching = exporting.matching

    async def few(*args: Any, **more: Any) -> Any:
        parts = matching(*args, **more)
        while True:
            async with reading:
                found = await anext(parts, None)
            if found is None:
                return
            for one in found.messages:
                yield found._replace(upto_seq=one.seq, messages=[one])
                await asyncio.sleep(0.01)

    monkeypatch.setattr(exporting, "matching", few)
    return reading


async def test_a_log_that_is_cut_while_it_is_read(client: Client, tmp_path: Path, slowly: asyncio.Lock) -> None:
    out = tmp_path / "log.jsonl"

    async def cut() -> None:
        await api(nats_bus(client).client, "STREAM.PURGE.TTA_EVT", {"seq": 40})

    with pytest.raises(Refused) as refused:
        await exported(client, out, Struck(out, slowly, cut))
    assert refused.value.code == "log_cut" and "begins at 40" in refused.value.text
    held = seqs(out)
    assert held == list(range(1, len(held) + 1)) and 10 <= len(held) < 40
    with pytest.raises(Refused) as refused:
        await exported(client, out)
    assert refused.value.code == "log_cut" and seqs(out) == held


async def test_a_cut_behind_what_is_read_takes_nothing_away(
    client: Client, tmp_path: Path, slowly: asyncio.Lock
) -> None:
    out = tmp_path / "log.jsonl"

    async def cut() -> None:
        await api(nats_bus(client).client, "STREAM.PURGE.TTA_EVT", {"seq": 8})

    await exported(client, out, Struck(out, slowly, cut))
    assert seqs(out) == list(range(1, 51))


async def test_a_log_that_is_made_anew_while_it_is_read(client: Client, tmp_path: Path, slowly: asyncio.Lock) -> None:
    out = tmp_path / "log.jsonl"

    async def anew() -> None:
        await api(nats_bus(client).client, "STREAM.DELETE.TTA_EVT")
        await provision(nats_bus(client), SPEC)
        await fill(client.bus, "new", 60)

    with pytest.raises(Refused) as refused:
        await exported(client, out, Struck(out, slowly, anew))
    assert refused.value.code == "other_log"
    assert b'"new"' not in out.read_bytes() and seqs(out) == list(range(1, len(seqs(out)) + 1))


async def test_a_log_that_is_taken_away_while_it_is_read(client: Client, tmp_path: Path, slowly: asyncio.Lock) -> None:
    out = tmp_path / "log.jsonl"

    async def away() -> None:
        await api(nats_bus(client).client, "STREAM.DELETE.TTA_EVT")

    with pytest.raises(BusError, match="stream not found"):
        await exported(client, out, Struck(out, slowly, away))
    assert seqs(out) == list(range(1, len(seqs(out)) + 1)) and len(seqs(out)) >= 10


class Later(TextWriter):
    """Another export is made between the look at what is there and the lock."""

    def __init__(self, out: Path, url: str):
        super().__init__(out, jsonl(out)._lines)  # pyright: ignore[reportPrivateUsage]
        self._out, self._url = out, url

    def handle(self) -> int:
        async def other() -> None:
            async with await Client.connect(self._url) as client:
                await exported(client, self._out)

        thread = threading.Thread(target=lambda: asyncio.run(other()))
        thread.start()
        thread.join()
        return super().handle()


async def test_who_was_a_moment_later_does_not_take_the_others_parts(
    server: NatsServer, client: Client, tmp_path: Path
) -> None:
    out = tmp_path / "log.jsonl"
    with pytest.raises(Refused) as refused:
        await exported(client, out, Later(out, server.url), model="nobody")
    assert refused.value.code == "other_export" and seqs(out) == list(range(1, 51))


async def test_an_export_is_for_its_owner_alone(client: Client, tmp_path: Path) -> None:
    out = tmp_path / "log.jsonl"
    await exported(client, out)
    parts = parquet.ParquetWriter(tmp_path / "log.parquet")
    parts.handle()
    parts.close()
    assert [path.stat().st_mode & 0o077 for path in (out, tmp_path / "log.parquet")] == [0, 0]


async def test_a_manifest_that_is_no_text(client: Client, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl.manifest.json").write_bytes(b'{"format":"\xff"}')
    with pytest.raises(Refused) as refused:
        await exported(client, tmp_path / "log.jsonl")
    assert refused.value.code == "invalid" and not (tmp_path / "log.jsonl").exists()


GUEST = """
accounts { APP { jetstream: enabled, users: [
  { user: guest, password: pw, permissions { publish { allow: ["tta.ask.>"] }, subscribe { allow: ["_INBOX.>"] } } }
] } }
"""


async def test_a_guest_is_told_at_once_who_may_read_the_log(server: NatsServer, tmp_path: Path) -> None:
    server.stop()
    server.extra = GUEST
    server.start()
    async with await Client.connect(server.url, user="guest", password="pw") as guest, asyncio.timeout(2):
        with pytest.raises(NotAllowed):
            await exported(guest, tmp_path / "log.jsonl")
    assert not list(tmp_path.glob("log*"))
