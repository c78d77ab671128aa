"""One fsync for all events that the log has taken since the last one ("group commit").

nats-server can sync each message by itself (`sync_interval: always`): one after the other, and its stream stands still
meanwhile; it has no commit for several (measured: that cost a quarter of the calls/s at 32 in flight). Without, its
acknowledgement says that the kernel has the message, which outlives the server's death but not the machine's. So
whoever stores waits here for an fsync of the stream's newest message file: one for all that came meanwhile. The kernel
keeps dirty pages by file, not by descriptor, so it does not matter who wrote them (fsync(2); PostgreSQL's checkpointer
syncs what its backends wrote), and tells an error of writing back to everybody who had the file open.

Only for the embedded server, whose store lies on this machine. Its files are `<n>.blk`, n counting up; what is new is
appended to the last of them.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol

QUICK_S = 0.002
"""A disk whose last sync took less is waited for on the event loop by who is alone."""
SIBLINGS, DELAY_S = 4, 0.002
"""With so many others in hand a sync is put off so long."""

NO_FULL_SYNC = (errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL)
"""What a file system says that knows no F_FULLFSYNC."""

Synced = Callable[[Exception | None], None]
"""Called once, on the event loop: what was acknowledged before is on the disk, or why it may not be."""


class Blocks:
    """The newest message file of a stream, held open. Not for two threads at a time."""

    def __init__(self, folder: Path) -> None:
        """Whatever is written from now on will be synced by `sync`. Raises OSError: no message file, or no right."""
        self._folder, self._fd = folder, -1
        numbers = self._numbers()
        self._take(numbers[-2:][0])  # one before the newest: that may have been begun a moment ago

    @property
    def behind(self) -> bool:
        """Whether the server has begun another file since: a sync may take as long as there are files."""
        return self._next.exists()

    def sync(self) -> None:
        """All that the server has written until now is on the disk when this returns. Raises OSError.

        Once a file's sync has failed, no later one of it counts: the kernel reports an error once, and takes what it
        could not write for written. Besides, a recovery cuts a file at its first hole, whatever comes behind.
        """
        left_failed = self._failed  # in a file that is left now: what is waited for may lie in it
        if not self._held():
            numbers = self._numbers()  # from the start where they went back: an emptied store begins anew
            self._take(next((n for n in numbers if n >= self._number), numbers[0]))
        while self.behind:  # then nothing is added to this one any more
            if not self._failed:
                self._to_disk(_sync, self._fd)
            self._take(self._number + 1)
        if self._failed:
            raise OSError(errno.EIO, f"an earlier sync of {self._path.name} failed")
        if self._new:
            self._to_disk(sync_folder, self._folder)  # a new file's name has to outlive the machine too
            self._new = False
        self._to_disk(_sync, self._fd)
        if left_failed:
            raise OSError(errno.EIO, f"an earlier sync of the file before {self._path.name} failed")

    def close(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _to_disk(self, sync: Callable[[Any], None], what: int | Path) -> None:
        try:
            sync(what)
        except OSError:
            self._failed = True
            raise

    def _held(self) -> bool:
        """Whether the path still names the file that we hold: the server may have rewritten or dropped it."""
        try:
            return self._path.stat().st_ino == self._inode
        except FileNotFoundError:
            return False

    def _numbers(self) -> list[int]:
        found = sorted(int(path.stem) for path in self._folder.glob("*.blk") if path.stem.isdecimal())
        if not found:
            raise FileNotFoundError(errno.ENOENT, "no message file", str(self._folder))
        return found

    def _take(self, number: int) -> None:
        path = self._folder / f"{number}.blk"
        fd = os.open(path, os.O_RDONLY)
        self.close()
        self._fd, self._inode, self._number = fd, os.fstat(fd).st_ino, number
        self._path, self._next = path, self._folder / f"{number + 1}.blk"
        self._failed, self._new = False, True


def sync_folder(folder: Path) -> None:
    """The names in it are on the disk when this returns. Raises OSError."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync(fd: int) -> None:
    full = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: its fsync leaves the drive's own cache alone
    if full is not None:
        try:
            fcntl.fcntl(fd, full)
        except OSError as error:
            if error.errno not in NO_FULL_SYNC:
                raise
        else:
            return
    os.fsync(fd)


class Disk(Protocol):
    """What a storer asks to wait for."""

    def wait(self, synced: Synced, others: int) -> None:
        """Have `synced` called when all that the log has acknowledged until now is on the disk.

        `others`: how many more are in hand and may come soon.
        """

    def stop(self) -> None:
        """No more syncs; whoever waits is not told."""


class LogSync:
    """One sync at a time; who comes meanwhile shares the next.

    Who is alone, on a disk that was quick the last time, is synced on the event loop: two switches of threads take as
    long as the sync itself. Others are not made to wait by a disk, so with anything else in hand a thread does it. With
    enough others it is put off a little, for them to share it (PostgreSQL's commit_delay and commit_siblings).
    """

    def __init__(self, folder: Path, failed: Callable[[Exception], None]) -> None:
        """Inside a running event loop; syncs what is there, since somebody will act upon it. Raises OSError.

        `failed` is told of every sync that failed, once, however many it was for.
        """
        self._blocks, self._jobs, self._failed = Blocks(folder), SimpleQueue[bool](), failed
        began = time.monotonic()
        self._blocks.sync()
        self._took_s = time.monotonic() - began
        self._waiting: list[Synced] = []
        self._under_way: list[Synced] = []
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._thread = Thread(target=self._work, name="log sync", daemon=True)
        self._thread.start()

    def wait(self, synced: Synced, others: int) -> None:
        """Have `synced` called when all that the log has acknowledged until now is on the disk."""
        self._waiting.append(synced)
        if self._timer is not None or self._under_way:
            return
        if others < SIBLINGS:
            self._start(alone=others <= 0)
        else:
            self._timer = self._loop.call_later(DELAY_S, self._start)

    def stop(self) -> None:
        """No more syncs; whoever waits is not told."""
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._jobs.put(False)

    def _start(self, alone: bool = False) -> None:
        self._timer = None
        self._under_way, self._waiting = self._waiting, []
        if alone and self._took_s < QUICK_S and not self._blocks.behind:
            self._done(self._sync())
        else:
            self._jobs.put(True)

    def _work(self) -> None:
        while self._jobs.get():
            failure = self._sync()
            with suppress(RuntimeError):  # the loop was closed meanwhile
                self._loop.call_soon_threadsafe(self._done, failure)
        self._blocks.close()

    def _sync(self) -> Exception | None:
        began = time.monotonic()
        try:
            self._blocks.sync()
        except Exception as error:  # noqa: BLE001 - a thread that ends of it would leave everybody waiting
            return error
        finally:
            self._took_s = time.monotonic() - began
        return None

    def _done(self, failure: Exception | None) -> None:
        told, self._under_way = self._under_way, []
        if failure is not None:
            self._failed(failure)
            told, self._waiting = [*told, *self._waiting], []  # what came meanwhile may have been part of it
        for synced in told:
            synced(failure)
        if self._waiting and self._timer is None and not self._under_way:
            self._start()
