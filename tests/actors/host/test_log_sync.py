"""Who waits for the disk is told after an fsync that covers it, and shares it with others."""

import asyncio
import errno
import os
import stat
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.waiting import until
from understudy.actors.host import log_sync
from understudy.actors.host.log_sync import DELAY_S, SIBLINGS, Blocks, LogSync
from understudy.actors.host.storer import Storer
from understudy.bus.nats_bus import NatsBus
from understudy.bus.port import Ack, Outgoing
from understudy.bus.provision import BusSpec, provision
from understudy.bus.server import NatsServer
from understudy.messages.events import ModelUnloaded
from understudy.messages.step import Store, Stored, StoreFailed
from understudy.messages.wire import encode

QUICK_S = 0.3
"""Here, so that a busy machine makes no sync slow."""
linux = pytest.mark.skipif(sys.platform != "linux", reason="which file a descriptor is of is read from /proc")


@dataclass
class Synced:
    """The inodes that were synced, in order."""

    files: list[int] = field(default_factory=list[int])
    folders: list[int] = field(default_factory=list[int])


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> Synced:
    found, real = Synced(), os.fsync

    def fsync(fd: int) -> None:
        real(fd)
        status = os.fstat(fd)
        (found.folders if stat.S_ISDIR(status.st_mode) else found.files).append(status.st_ino)

    monkeypatch.setattr(log_sync.os, "fsync", fsync)
    monkeypatch.delattr(log_sync.fcntl, "F_FULLFSYNC", raising=False)
    return found


def block(folder: Path, number: int, text: str = "x") -> int:
    """A message file with something in it; its inode."""
    path = folder / f"{number}.blk"
    path.write_text(text)
    return path.stat().st_ino


def test_the_newest_file_is_synced(tmp_path: Path, synced: Synced) -> None:
    _, *newest = (block(tmp_path, number) for number in (8, 9, 10))
    (tmp_path / "10.idx").write_text("no messages")
    blocks = Blocks(tmp_path)
    blocks.sync()
    blocks.sync()
    assert synced.files == [*newest, newest[-1]]


def test_the_folder_is_synced_once_for_each_file(tmp_path: Path, synced: Synced) -> None:
    block(tmp_path, 1)
    blocks = Blocks(tmp_path)
    blocks.sync()
    block(tmp_path, 2)
    blocks.sync()
    assert synced.folders == [tmp_path.stat().st_ino] * 2


def test_a_file_that_was_the_newest_is_synced_once_more(tmp_path: Path, synced: Synced) -> None:
    first = block(tmp_path, 1)
    blocks = Blocks(tmp_path)
    blocks.sync()
    second, third = block(tmp_path, 2), block(tmp_path, 3)
    blocks.sync()
    blocks.sync()
    assert synced.files == [first, first, second, third, third]


def test_a_rewritten_file_is_opened_again(tmp_path: Path, synced: Synced) -> None:
    first = block(tmp_path, 1)
    blocks = Blocks(tmp_path)
    blocks.sync()
    (tmp_path / "new").write_text("less")
    (tmp_path / "new").replace(tmp_path / "1.blk")
    blocks.sync()
    again = (tmp_path / "1.blk").stat().st_ino
    assert synced.files == [first, again]
    assert first != again


def test_files_begun_while_ours_was_dropped_are_all_synced(tmp_path: Path, synced: Synced) -> None:
    first = block(tmp_path, 1)
    blocks = Blocks(tmp_path)
    blocks.sync()
    rest = [block(tmp_path, number) for number in (2, 3)]
    (tmp_path / "1.blk").unlink()
    blocks.sync()
    assert synced.files == [first, *rest]


def test_numbers_that_went_back_are_followed(tmp_path: Path, synced: Synced) -> None:
    """A server that finds its last file empty begins anew."""
    held = block(tmp_path, 4)
    blocks = Blocks(tmp_path)
    blocks.sync()
    rest = [block(tmp_path, number) for number in (1, 2)]
    (tmp_path / "4.blk").unlink()
    blocks.sync()
    assert synced.files == [held, *rest]


def test_no_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no message file"):
        Blocks(tmp_path)
    block(tmp_path, 1)
    blocks = Blocks(tmp_path)
    (tmp_path / "1.blk").unlink()
    with pytest.raises(OSError, match="no message file"):
        blocks.sync()
    again = block(tmp_path, 1)
    blocks.sync()
    assert again


def test_after_a_failed_sync_no_later_one_of_that_file_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel tells an error of writing back once, and then takes the page for written."""
    block(tmp_path, 1)
    blocks, real, broken = Blocks(tmp_path), os.fsync, [True]

    def fsync(fd: int) -> None:
        if not stat.S_ISDIR(os.fstat(fd).st_mode) and broken.pop():
            raise OSError(errno.EIO, "input/output error")
        real(fd)

    monkeypatch.setattr(log_sync.os, "fsync", fsync)
    monkeypatch.delattr(log_sync.fcntl, "F_FULLFSYNC", raising=False)
    for wrong in ("input/output error", "an earlier sync of 1.blk failed"):
        with pytest.raises(OSError, match=wrong):
            blocks.sync()
    block(tmp_path, 2)
    broken += [False] * 2
    with pytest.raises(OSError, match=r"an earlier sync of the file before 2\.blk failed"):
        blocks.sync()  # what is waited for may lie in that one
    blocks.sync()


class Gate:
    """Stands for `Blocks.sync`: each waits for a permit if it is in the thread; says where each was made."""

    def __init__(self) -> None:
        self.permits, self.on_loop, self.takes_s = threading.Semaphore(0), list[bool](), 0.0

    def sync(self, _: Blocks) -> None:
        self.on_loop.append(threading.current_thread() is threading.main_thread())
        time.sleep(self.takes_s)
        assert self.on_loop[-1] or self.permits.acquire(timeout=10)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    found = Gate()
    monkeypatch.setattr(Blocks, "sync", lambda blocks: found.sync(blocks))
    monkeypatch.setattr(log_sync, "QUICK_S", QUICK_S)
    yield found
    found.permits.release(100)


@pytest.fixture
def failures() -> list[Exception]:
    return []


@pytest.fixture
async def sync(tmp_path: Path, failures: list[Exception]) -> AsyncIterator[LogSync]:
    block(tmp_path, 1)
    found = LogSync(tmp_path, failures.append)
    yield found
    found.stop()


async def test_on_a_quick_disk_who_is_alone_is_synced_at_once(sync: LogSync, gate: Gate) -> None:
    told = list[Exception | None]()
    for _ in range(3):
        sync.wait(told.append, 0)
    assert told == [None] * 3
    assert gate.on_loop == [True] * 3


async def test_who_is_alone_does_not_walk_over_many_files_on_the_loop(
    tmp_path: Path, sync: LogSync, gate: Gate
) -> None:
    block(tmp_path, 2)
    told = list[Exception | None]()
    gate.permits.release()
    sync.wait(told.append, 0)
    await until(lambda: told == [None])
    assert gate.on_loop == [False]


async def test_a_slow_disk_is_left_to_the_thread_until_it_is_quick_again(sync: LogSync, gate: Gate) -> None:
    told = list[Exception | None]()
    gate.permits.release(10)
    for n, takes_s in enumerate((QUICK_S * 1.3, QUICK_S * 1.3, 0.0, 0.0), start=1):
        gate.takes_s = takes_s
        sync.wait(told.append, 0)
        await until(lambda n=n: len(told) == n)
    assert gate.on_loop == [True, False, False, True]


async def test_who_comes_while_the_thread_syncs_shares_the_next(sync: LogSync, gate: Gate) -> None:
    told = list[int]()
    for i in range(10):
        sync.wait(lambda _, i=i: told.append(i), 1)
    await asyncio.sleep(0.02)
    assert told == []
    gate.permits.release()
    await until(lambda: told == [0])  # the first alone: the others came when its sync was under way
    gate.permits.release()
    await until(lambda: len(told) == 10)
    assert told == list(range(10))
    assert gate.on_loop == [False, False]


async def test_with_others_in_hand_a_sync_is_put_off_for_them(sync: LogSync, gate: Gate) -> None:
    told = list[int]()
    sync.wait(lambda _: told.append(0), SIBLINGS)
    for i in range(1, 10):
        sync.wait(lambda _, i=i: told.append(i), 0)
    assert told == []
    gate.permits.release()
    await until(lambda: told == list(range(10)))
    assert gate.on_loop == [False]


async def test_after_a_stop_nobody_is_told(sync: LogSync, gate: Gate) -> None:
    told = list[Exception | None]()
    sync.wait(told.append, SIBLINGS)
    sync.stop()
    await asyncio.sleep(DELAY_S * 4)
    assert told == []
    assert gate.on_loop == []


async def test_a_failed_sync_is_told_to_all_who_wait_and_the_next_is_tried(
    tmp_path: Path, sync: LogSync, failures: list[Exception]
) -> None:
    """Also to those who came while it was under way: what they wait for may have been part of it."""
    told = list[Exception | None]()
    (tmp_path / "1.blk").unlink()
    for _ in range(3):
        sync.wait(told.append, 1)
    await until(lambda: len(told) == 3)
    assert {type(one) for one in told} == {FileNotFoundError}
    assert len(failures) == 1
    block(tmp_path, 1)
    sync.wait(told.append, 0)
    assert told[3:] == [None]


async def test_a_bug_in_the_thread_is_told_and_leaves_nobody_waiting(
    sync: LogSync, failures: list[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Blocks, "sync", lambda _: 1 / 0)
    told = list[Exception | None]()
    for n in (1, 2):
        sync.wait(told.append, 1)
        await until(lambda n=n: len(told) == n)
    assert [type(one) for one in failures] == [ZeroDivisionError] * 2


async def test_what_is_there_at_the_start_is_synced(tmp_path: Path, synced: Synced) -> None:
    """Somebody will act upon it."""
    first = block(tmp_path, 1)
    LogSync(tmp_path, lambda _: None).stop()
    assert synced.files == [first]


EVENT = ModelUnloaded(at_ms=0, model="m", instance="i")


def note(told: dict[str, int], end: Stored | StoreFailed) -> None:
    assert isinstance(end, Stored)
    told[end.msg_id] = end.seq


def outgoing(name: str) -> Outgoing:
    return Outgoing("tta.evt.model.unloaded.k", encode(EVENT), name)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """What each file had when its last sync began, by name."""
    found, real = dict[str, int](), os.fsync

    def fsync(fd: int) -> None:
        size, name = os.fstat(fd).st_size, Path(f"/proc/self/fd/{fd}").resolve().name
        real(fd)
        found[name] = size

    monkeypatch.setattr(log_sync.os, "fsync", fsync)
    monkeypatch.delattr(log_sync.fcntl, "F_FULLFSYNC", raising=False)
    return found


async def store_all(server: NatsServer, count: int, spec: BusSpec) -> tuple[NatsBus, dict[str, int]]:
    """Store so many by a storer that syncs; what it told, with the positions."""
    bus = await NatsBus.open(server.url, name="actor")
    await provision(bus, spec)
    await bus.store([outgoing("first")], timeout_s=5)
    (file, *_) = server.message_files("TTA_EVT")
    told, sync = dict[str, int](), LogSync(file.parent, lambda _: None)
    storer = Storer(bus, "tta", lambda: time.monotonic() * 1000, lambda end: note(told, end), sync)
    task = asyncio.create_task(storer.run())
    for n in range(count):
        storer.put(Store(EVENT, f"told{n}", key="k", give_up_ms=5_000))
    await until(lambda: len(told) == count)
    task.cancel()
    return bus, told


@linux
@pytest.mark.parametrize("stopped", [False, True], ids=["killed", "stopped"])
async def test_a_power_cut_takes_nothing_that_was_told(tmp_path: Path, sizes: dict[str, int], stopped: bool) -> None:
    """What the file has beyond its last sync is lost, torn in a message; the server's index may know of it."""
    with NatsServer(tmp_path / "nats", sync="10m") as server:
        bus, told = await store_all(server, 100, BusSpec())
        on_disk = dict(sizes)
        for n in range(20):
            await bus.store([outgoing(f"untold{n}")], timeout_s=5)
        await bus.close()
        if stopped:
            server.stop()
        else:
            server.kill9()
        (file,) = server.message_files("TTA_EVT")
        data, rest = file.read_bytes(), on_disk[file.name]
        assert len(data) > rest + 100
        file.write_bytes(data[: rest + 100])
        server.start()
        bus = await NatsBus.open(server.url, name="actor")
        for name, seq in told.items():
            assert await bus.store([outgoing(name)], timeout_s=5) == [Ack(seq, duplicate=True)]
        (ack,) = await bus.store([outgoing("later")], timeout_s=5)
        assert not ack.duplicate
        await bus.close()


@linux
async def test_every_file_of_a_growing_log_is_synced_to_its_end(tmp_path: Path, sizes: dict[str, int]) -> None:
    """A small limit makes the server's message files small."""
    with NatsServer(tmp_path / "nats", sync="10m") as server:
        bus, _ = await store_all(server, 400, BusSpec(evt_max_bytes=120_000))
        files = server.message_files("TTA_EVT")
        assert len(files) > 2
        assert {path.name: sizes.get(path.name) for path in files} == {path.name: size for path, size in files.items()}
        await bus.close()
