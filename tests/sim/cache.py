"""The response cache's scripted edge: its core is the real one, what it keeps outlives its process as files would."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from understudy.messages.cache import EntryRead, EntryWritten, EraseKey, KeyErased, ReadEntry, WriteEntry
from understudy.messages.step import Input

SLOWEST_S = 0.08
"""Longer than selectors wait, so that some answers come too late."""


@dataclass
class Shelf:
    """Data keys by conversation and entries by place, sealed by naming their key."""

    luck: Random
    keys: dict[str, str] = field(default_factory=dict[str, str])
    entries: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict[tuple[str, str], tuple[str, bytes]])


class ScriptedCache:
    """See `core_port.Edge`."""

    def __init__(self, shelf: Shelf, now_ms: Callable[[], float]) -> None:
        self._shelf, self._now_ms = shelf, now_ms
        self._feed: Callable[[Input], None] = lambda _: None

    async def start(self, feed: Callable[[Input], None]) -> dict[str, Any]:
        """Ready at once."""
        self._feed = feed
        return {}

    async def stop(self) -> None:
        """Nothing is open."""

    def perform(self, effect: ReadEntry | WriteEntry | EraseKey) -> None:
        """Do it after a while; mostly a short one."""
        luck = self._shelf.luck
        wait_s = luck.uniform(0.0005, 0.004) if luck.random() < 0.8 else luck.uniform(0.004, SLOWEST_S)
        asyncio.get_running_loop().call_later(wait_s, self._do, effect)

    def _do(self, effect: ReadEntry | WriteEntry | EraseKey) -> None:
        shelf, now = self._shelf, self._now_ms()
        match effect:
            case ReadEntry():
                key_id = shelf.keys.setdefault(effect.conversation, f"k{len(shelf.keys)}")
                sealed_by, content = shelf.entries.get((effect.conversation, effect.key), ("", b""))
                self._feed(EntryRead(now, effect.id, key_id, content if sealed_by == key_id else None))
            case WriteEntry():
                kept = shelf.keys.get(effect.conversation) == effect.key_id
                if kept:
                    shelf.entries[effect.conversation, effect.key] = effect.key_id, effect.content
                self._feed(EntryWritten(now, effect.id, kept))
            case EraseKey():
                keys = shelf.keys.pop(effect.conversation, None) is not None
                gone = [place for place in shelf.entries if place[0] == effect.conversation]
                for place in gone:
                    del shelf.entries[place]
                self._feed(KeyErased(now, effect.id, int(keys), len(gone)))
