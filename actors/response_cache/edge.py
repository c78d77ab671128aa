"""The cache's edge: data keys in a thread of their own, sealed answers in a JetStream bucket.

Keys are used in one thread, in the order of its orders, and each answer goes out before the next order's: after an
erasure has been answered nothing of that conversation is told any more. A look that was under way when one was ordered
is a miss and names no key: whoever looks so asked before the erasure, and nothing of its answer may be kept after it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from understudy.actors.host.logs import Log
from understudy.actors.response_cache.keys import DataKeys, KeysUnusable, new_key_id
from understudy.bus.nats_bucket import Bucket
from understudy.bus.port import BusError
from understudy.messages.cache import EntryRead, EntryWritten, EraseKey, KeyErased, ReadEntry, WriteEntry
from understudy.messages.step import Input

LOOK_S, KEEP_S, PURGE_S = 0.5, 2.0, 3.0
EXPIRE_S, EXPIRED_AT_ONCE = 60.0, 200
"""So often keys that are of no use any longer are removed; looks come between so many and the next."""
Trouble = (BusError, KeysUnusable, sqlite3.Error, OSError)


class CacheEdge:
    """Performs `ReadEntry`, `WriteEntry` and `EraseKey`."""

    def __init__(
        self, folder: Path, bucket: Bucket, now_ms: Callable[[], float], log: Log, ttl_s: int = 86_400
    ) -> None:
        """`ttl_s`: so long the bucket keeps an entry."""
        self._folder, self._bucket, self._now_ms, self._log = folder, bucket, now_ms, log
        self._ttl_s = ttl_s
        self._thread = ThreadPoolExecutor(1, "data-keys")
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writing = asyncio.Lock()  # an entry is in the bucket before an erasure purges, or is not sealed at all
        self._feed: Callable[[Input], None] = lambda _: None
        self._keys: DataKeys | None = None
        self._erasures = 0  # ordered so far

    async def start(self, feed: Callable[[Input], None]) -> dict[str, Any]:
        """Open the keys. Raises KeysUnusable."""
        self._feed = feed
        keys: DataKeys = await self._in_thread(DataKeys, self._folder, self._ttl_s, self._now_ms)
        self._keys = keys
        self._begin(self._expire(keys))
        return {}

    def perform(self, effect: ReadEntry | WriteEntry | EraseKey) -> None:
        """Begin; what comes of it is fed."""
        assert self._keys is not None
        work: Coroutine[Any, Any, None]
        match effect:
            case ReadEntry():
                work = self._read(self._keys, effect, self._erasures)
            case WriteEntry():
                work = self._write(self._keys, effect)
            case EraseKey():
                self._erasures += 1
                work = self._erase(self._keys, effect)
        self._begin(work)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """End what is under way, close the keys."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._keys is not None:
            await self._in_thread(self._keys.close)
        self._thread.shutdown(wait=False)

    async def _expire(self, keys: DataKeys) -> None:
        while True:
            try:
                while await self._in_thread(keys.expire, EXPIRED_AT_ONCE) == EXPIRED_AT_ONCE:
                    pass
            except Trouble as error:
                self._failed("expire", error)
            await asyncio.sleep(EXPIRE_S)

    async def _read(self, keys: DataKeys, order: ReadEntry, erasures: int) -> None:
        """`erasures`: how many had been ordered before."""
        sealed, told = None, False

        def tell(key_id: str, content: bytes | None) -> None:
            nonlocal told
            told = True
            self._feed(EntryRead(self._now_ms(), order.id, key_id, content))

        try:
            sealed = await self._bucket.get(f"{order.conversation}.{order.key}", timeout_s=LOOK_S)
        except Trouble as error:
            self._failed("look", error)
        try:
            if erasures == self._erasures:
                await self._in_thread(_open, keys, order, sealed, partial(self._loop.call_soon_threadsafe, tell))
        except Trouble as error:
            self._failed("look", error)
        if not told:
            tell("", None)

    async def _write(self, keys: DataKeys, order: WriteEntry) -> None:
        kept = False
        try:
            async with self._writing:
                sealed = await self._in_thread(keys.seal, order.conversation, order.key_id, order.key, order.content)
                if sealed is not None:
                    await self._bucket.put(f"{order.conversation}.{order.key}", sealed, timeout_s=KEEP_S)
                    kept = True
        except Trouble as error:
            self._failed("keep", error)
        self._feed(EntryWritten(self._now_ms(), order.id, kept))

    async def _erase(self, keys: DataKeys, order: EraseKey) -> None:
        """The key first: from then on nothing can be read, whatever becomes of the rest."""
        destroyed = 0
        try:
            destroyed = await self._in_thread(keys.destroy, order.conversation)
            async with self._writing:  # what was sealed before is in the bucket then
                entries = await self._bucket.purge(order.conversation, timeout_s=PURGE_S)
        except Trouble as error:
            self._failed("erase", error)
            self._feed(KeyErased(self._now_ms(), order.id, destroyed, failure=_told(error)))
            return
        self._feed(KeyErased(self._now_ms(), order.id, destroyed, entries))

    async def _in_thread(self, call: Callable[..., Any], *args: Any) -> Any:
        return await self._loop.run_in_executor(self._thread, call, *args)

    def _failed(self, what: str, error: Exception) -> None:
        self._log.line("cache_failed", what=what, why=_told(error))


def _open(keys: DataKeys, order: ReadEntry, sealed: bytes | None, tell: Callable[[str, bytes | None], Any]) -> None:
    """In the keys' thread. A selector waits: it is told first, and a new key reaches the disk after."""
    found = keys.key_id(order.conversation)
    if found is not None:
        tell(found, None if sealed is None else keys.open(order.conversation, order.key, sealed))
        return
    key_id = new_key_id()
    tell(key_id, None)
    keys.make(order.conversation, key_id)


def _told(error: Exception) -> str:
    """Of our own making, the bus's or SQLite's: none of them quotes content."""
    return f"{type(error).__name__}: {error}"[:200]
