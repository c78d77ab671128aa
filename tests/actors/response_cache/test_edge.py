"""The edge on a real nats-server and real files: what is kept, for whom, what an erasure leaves, what it survives."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import until
from understudy.actors.host.logs import Log
from understudy.actors.response_cache.edge import CacheEdge
from understudy.actors.response_cache.keys import KeysUnusable
from understudy.bus.nats_bucket import Bucket
from understudy.bus.nats_bus import NatsBus
from understudy.bus.provision import BusSpec, provision
from understudy.bus.server import NatsServer
from understudy.messages.cache import EntryRead, EntryWritten, EraseKey, KeyErased, ReadEntry, WriteEntry


class Lines(Log):
    """What would be logged."""

    def __init__(self) -> None:
        super().__init__("response_cache", "response_cache-1")
        self.said: list[tuple[str, dict[str, Any]]] = []

    def line(self, event: str, **fields: Any) -> None:
        self.said.append((event, fields))


def keys_in(folder: Path) -> int:
    """How many data keys there are."""
    with sqlite3.connect(f"file:{folder / 'conversations.db'}?mode=ro", uri=True) as db:
        (found,) = db.execute("SELECT count(*) FROM data_key").fetchone()
    db.close()
    return found


class Rig:
    def __init__(self, folder: Path, bus: NatsBus) -> None:
        self.bucket, self.log = Bucket(bus.client, "TTA_CACHE"), Lines()
        self.edge = CacheEdge(folder, self.bucket, lambda: 1.0, self.log)
        self.told: dict[str, Any] = {}
        self.count = 0

    async def start(self) -> Rig:
        await self.edge.start(lambda told: self.told.setdefault(told.id, told))
        return self

    async def do(self, cls: Any, *fields: Any) -> Any:
        self.count += 1
        name = f"i{self.count}"
        self.edge.perform(cls(name, *fields))
        await until(lambda: name in self.told)
        return self.told[name]

    async def keep(self, conversation: str, key: str, content: bytes) -> bool:
        found: EntryRead = await self.do(ReadEntry, conversation, key)
        written: EntryWritten = await self.do(WriteEntry, conversation, key, found.key_id, content)
        return written.kept

    async def read(self, conversation: str, key: str) -> bytes | None:
        return (await self.do(ReadEntry, conversation, key)).content


@pytest.fixture
def server(tmp_path: Path) -> Any:
    with NatsServer(tmp_path / "nats") as running:
        yield running


@pytest.fixture
async def rig(server: NatsServer, tmp_path: Path) -> AsyncIterator[Rig]:
    bus = await NatsBus.open(server.url, name="cache")
    await provision(bus, BusSpec())
    made = await Rig(tmp_path / "conversations", bus).start()
    yield made
    await made.edge.stop()
    await bus.close()


async def test_what_is_kept_is_read_again_and_no_word_of_it_is_stored(rig: Rig, tmp_path: Path) -> None:
    assert await rig.read("c1", "e1") is None
    assert await rig.keep("c1", "e1", b"canary-answer")
    assert await rig.read("c1", "e1") == b"canary-answer"
    assert [await rig.read(*other) for other in (("c1", "e2"), ("c2", "e1"))] == [None, None]
    stored = [p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()]
    assert any(b"$KV.TTA_CACHE.c1.e1" in data for data in stored), "the search reads what the server has stored"
    assert not any(b"canary-answer" in data for data in stored)


async def test_an_entry_that_is_moved_in_the_bucket_does_not_open(rig: Rig) -> None:
    for conversation in ("c1", "c2"):
        await rig.keep(conversation, "e1", b"told " + conversation.encode())
    sealed = await rig.bucket.get("c1.e1", timeout_s=2)
    assert sealed is not None
    for place in ("c2.e1", "c1.e2"):
        await rig.bucket.put(place, sealed, timeout_s=2)
    assert [await rig.read("c2", "e1"), await rig.read("c1", "e2")] == [None, None]
    assert await rig.read("c1", "e1") == b"told c1"


async def test_an_erased_conversation_gets_a_new_key_and_what_began_before_is_not_kept(rig: Rig) -> None:
    for key in ("e1", "e2"):
        await rig.keep("c1", key, b"told")
    await rig.keep("c2", "e1", b"another's")
    before: EntryRead = await rig.do(ReadEntry, "c1", "e1")
    assert await rig.do(EraseKey, "c1") == KeyErased(1.0, "i8", keys=1, entries=2)
    assert (await rig.do(WriteEntry, "c1", "e3", before.key_id, b"late")).kept is False
    assert await rig.do(EraseKey, "c1") == KeyErased(1.0, "i10", keys=0, entries=0)
    after: EntryRead = await rig.do(ReadEntry, "c1", "e1")
    assert after.content is None and after.key_id not in ("", before.key_id)
    assert (await rig.do(WriteEntry, "c1", "e3", before.key_id, b"late")).kept is False
    assert await rig.keep("c1", "e1", b"anew") and await rig.read("c1", "e1") == b"anew"
    assert await rig.read("c2", "e1") == b"another's"


async def test_an_erasure_among_answers_that_are_being_kept_leaves_none(rig: Rig) -> None:
    """Whatever the order in which they come to be done, nothing of before is in the bucket after it."""
    key_id = (await rig.do(ReadEntry, "c1", "e0")).key_id
    for n in range(40):
        rig.edge.perform(WriteEntry(f"w{n}", "c1", f"e{n}", key_id, b"told"))
        if n == 20:
            rig.edge.perform(EraseKey("erase", "c1"))
    await until(lambda: {"erase", *(f"w{n}" for n in range(40))} <= set(rig.told))
    kept = [rig.told[f"w{n}"].kept for n in range(40)]
    assert rig.told["erase"].keys == 1 and rig.told["erase"].entries == sum(kept) >= 1
    assert kept[21:] == [False] * 19
    assert [await rig.bucket.get(f"c1.e{n}", timeout_s=2) for n in range(40)] == [None] * 40


async def test_who_looked_when_an_erasure_was_ordered_keeps_nothing_after_it(rig: Rig, tmp_path: Path) -> None:
    """Its bytes are still on their way from the bucket: it hears neither them nor the key that comes next."""
    await rig.keep("c1", "e1", b"told")
    await rig.keep("c2", "e1", b"another's")
    for n, conversation in enumerate(("c1", "c2")):
        rig.edge.perform(ReadEntry(f"before{n}", conversation, "e1"))
    rig.edge.perform(EraseKey("erase", "c1"))
    rig.edge.perform(ReadEntry("after", "c1", "e1"))
    await until(lambda: {"before0", "before1", "erase", "after"} <= set(rig.told))
    assert [(rig.told[one].key_id, rig.told[one].content) for one in ("before0", "before1")] == [("", None)] * 2
    assert rig.told["after"].content is None and rig.told["after"].key_id, "who asks again speaks anew"
    assert await rig.read("c2", "e1") == b"another's"


async def test_a_key_is_destroyed_at_once_though_the_bucket_keeps_others_waiting(rig: Rig, tmp_path: Path) -> None:
    """Answers that a slow server has yet to take are in front of the purge, and of nothing else."""
    await rig.keep("c1", "e1", b"told")
    async with rig.edge._writing:
        rig.edge.perform(EraseKey("erase", "c1"))
        await until(lambda: not keys_in(tmp_path / "conversations"))
        assert "erase" not in rig.told
    await until(lambda: "erase" in rig.told)
    assert rig.told["erase"] == KeyErased(1.0, "erase", keys=1, entries=1)


async def test_keys_that_are_of_no_use_any_longer_go_by_themselves(server: NatsServer, tmp_path: Path) -> None:
    bus = await NatsBus.open(server.url, name="cache")
    await provision(bus, BusSpec())
    folder = tmp_path / "conversations"
    rig = await Rig(folder, bus).start()
    await rig.keep("c1", "e1", b"told")
    await rig.edge.stop()
    assert keys_in(folder) == 1
    again = Rig(folder, bus)
    again.edge = CacheEdge(folder, again.bucket, lambda: 1e9, again.log, 1)
    await again.start()
    await until(lambda: not keys_in(folder))
    assert await again.read("c1", "e1") is None and not again.log.said
    await again.edge.stop()
    await bus.close()


async def test_two_looks_at_once_agree_on_one_key(rig: Rig) -> None:
    for n in range(2):
        rig.edge.perform(ReadEntry(f"r{n}", "c1", "e1"))
    await until(lambda: len(rig.told) == 2)
    written = [(await rig.do(WriteEntry, "c1", f"e{n}", rig.told[f"r{n}"].key_id, b"x")).kept for n in range(2)]
    assert any(written), "both, or the one whose key was made"
    assert await rig.keep("c1", "e9", b"x")


async def test_a_bucket_that_is_away_is_a_miss_and_an_unfinished_erasure(rig: Rig, server: NatsServer) -> None:
    await rig.keep("c1", "e1", b"told")
    await asyncio.to_thread(server.stop)
    found: EntryRead = await rig.do(ReadEntry, "c1", "e1")
    assert found.content is None and found.key_id, "the key is at hand all the same"
    assert (await rig.do(WriteEntry, "c1", "e2", found.key_id, b"x")).kept is False
    erased: KeyErased = await rig.do(EraseKey, "c1")
    assert erased.keys == 1 and erased.failure
    assert {fields["what"] for _, fields in rig.log.said} == {"look", "keep", "erase"}


async def test_a_database_that_cannot_be_written_is_a_miss(rig: Rig, tmp_path: Path) -> None:
    blocker = sqlite3.connect(tmp_path / "conversations" / "conversations.db", isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    found: EntryRead = await rig.do(ReadEntry, "c1", "e1")
    assert (found.content, found.key_id) == (None, "")
    assert "look" in [fields["what"] for _, fields in rig.log.said]
    blocker.execute("ROLLBACK")
    blocker.close()
    assert await rig.keep("c1", "e1", b"told")


async def test_keys_that_cannot_be_used_stop_the_start(rig: Rig, server: NatsServer, tmp_path: Path) -> None:
    await rig.keep("c1", "e1", b"told")
    (tmp_path / "conversations" / "root.key").unlink()
    bus = await NatsBus.open(server.url, name="again")
    again = Rig(tmp_path / "conversations", bus)
    with pytest.raises(KeysUnusable, match=r"root\.key is gone"):
        await again.start()
    await again.edge.stop()
    await bus.close()
