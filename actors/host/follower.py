"""Follows the event log for one actor: in order, each fact once, from a snapshot's position where there is one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from understudy.actors.host.core_port import Core
from understudy.actors.host.logs import Log
from understudy.actors.host.snapshots import Snapshots, Unusable
from understudy.bus.port import Bus, BusDown, Reading, Received, StreamState
from understudy.bus.subjects import evt_stream
from understudy.messages.events import OUTCOMES, Event
from understudy.messages.wire import WireError, reader_of, tag_of

QUIET_S = 1.0
LOOK_S = 5.0
EVERY_S = 0.1
"""How often outcomes are read: each weighs little, there is one per request, and read one by one they were the most
that a request cost. Other facts are read as they come, with all outcomes before them."""
AGAIN_S = 0.5
EVERY_EVENTS = 20_000
EVERY_MS = 60_000.0
REST = 10_000
"""So many times as long as the encoding held the loop up, nothing more is encoded: large folds are written rarely."""


class Follower:
    """`happened(seq, event, payload)` gets what the core folds, recent facts with their bytes; `seq` is the position up
    to which that has been done.

    `sound` says whether the state may still be trusted: after a step has raised, nothing of it is kept.
    """

    def __init__(
        self,
        core: Core,
        bus: Bus,
        app: str,
        log: Log,
        now_ms: Callable[[], float],
        happened: Callable[[int, Event, bytes], None],
        sound: Callable[[], bool],
        snapshots: Snapshots | None = None,
    ) -> None:
        self.seq = self._reached = 0  # `_reached`: where the reading is, behind `seq` while facts are told again
        self.unknown = 0  # facts that we fold by name, but whose version or form we do not know
        self._core, self._bus, self._log, self._now_ms = core, bus, log, now_ms
        self._happened, self._sound = happened, sound
        self._stream, self._created = evt_stream(app), ""
        names = {tag_of(cls).rsplit(".", 1)[0] for cls in core.FOLDS}
        self._names = frozenset(f"{app}.evt.{name}" for name in names)
        self._live = [f"{app}.live.{name}{tail}" for name in sorted(names - OUTCOMES) for tail in ("", ".*")]
        self._subjects = [f"{app}.evt.>"]
        self._read = reader_of(core.FOLDS) if core.FOLDS else None
        self._recent_from_ms = float("inf")  # facts from then on bring their bytes
        self._moved = asyncio.Event()
        self._snapshots, self._saved, self._saved_ms = snapshots, 0, now_ms()

    async def catch_up(self, state: Any, since_ms: int = 0) -> None:
        """Fold up to what is the head of the log now; later facts keep coming in order.

        Facts stored after `since_ms` (Unix milliseconds) are told in any case, though a snapshot has them folded, and
        with their bytes: who reads something else from then on wants to know what became of it.
        """
        self._recent_from_ms = since_ms or self._recent_from_ms
        began = self._now_ms()
        now = await self._bus.stream_state(self._stream)
        self._created = now.created
        self._restore(state, now)
        start = self.seq
        if now.first_seq > start + 1:
            self._log.line("log_cut", first_seq=now.first_seq, position=start, text="older facts are gone from the log")
        again = since_ms if start and since_ms and await self._is_younger(start, since_ms) else 0
        self._reached = 0 if again else start
        backlog = await self._bus.read(
            self._stream, self._subjects, self._on_event, after_seq=self._reached, since_ms=again
        )
        while self._reached < now.last_seq:
            self._moved.clear()
            try:
                await asyncio.wait_for(self._moved.wait(), QUIET_S)
            except TimeoutError:
                if await self._gone(now.last_seq):
                    break
        await backlog.stop()
        await self._keep_on()
        took_s = round((self._now_ms() - began) / 1000, 3)
        self._log.line("folded", from_seq=start, seq=self.seq, s=took_s, unknown=self.unknown)

    async def _keep_on(self) -> None:
        """From here on in batches; a fact that is acted upon has all up to it read at once."""
        reading = await self._read_on()
        for subject in self._live:
            await self._bus.subscribe(subject, partial(_look, reading), settle=False)
        reading.look()  # what was announced before anybody listened

    async def _read_on(self) -> Reading:
        """A server that is away just now must not cost what was folded: it is waited for."""
        while True:
            try:
                return await self._bus.read(
                    self._stream, self._subjects, self._on_event, after_seq=self.seq, every_s=EVERY_S
                )
            except BusDown:
                await asyncio.sleep(AGAIN_S)

    def _on_event(self, received: Received) -> None:
        name = received.subject
        if name not in self._names:  # perhaps with a key
            name = ".".join(name.split(".", 4)[:4])
        if name in self._names and self._read is not None:
            try:
                event = self._read(received.payload)
            except WireError:
                self.unknown += 1  # a newer writer's event: counted and skipped
            else:
                if isinstance(event, Event):
                    recent = received.at_ms >= self._recent_from_ms
                    self._happened(received.seq, event, received.payload if recent else b"")
        self._reached = received.seq
        self.seq = max(self.seq, received.seq)
        self._moved.set()

    async def _is_younger(self, seq: int, since_ms: int) -> bool:
        found = await self._bus.get(self._stream, seq)
        return found is not None and found.at_ms >= since_ms

    async def _gone(self, seq: int) -> bool:
        """Nothing comes: has retention removed all up to `seq`, or is the server only slow?"""
        try:
            return (await self._bus.stream_state(self._stream)).first_seq > seq
        except BusDown:
            return False

    # --- snapshots -------------------------------------------------------------------------------------------------

    def _restore(self, state: Any, now: StreamState) -> None:
        if self._snapshots is None:
            return
        try:
            found = self._snapshots.load(self._stream, now)
        except Unusable as why:
            self._log.line("snapshot_unusable", file=self._snapshots.path.name, why=str(why))
            return
        if found is not None:
            self.seq, fold = found
            self._core.restore(state, fold)
            self._saved = self.seq
            self._log.line("snapshot_used", file=self._snapshots.path.name, seq=self.seq)

    async def keep(self, state: Any) -> None:
        """Write a snapshot now and then, until cancelled. The encoding is on the loop, the disk's part is not."""
        rest_ms = 0.0
        while self._snapshots is not None:
            await asyncio.sleep(LOOK_S)
            news, waited_ms = self.seq - self._saved, self._now_ms() - self._saved_ms
            due = news >= EVERY_EVENTS or (news > 0 and waited_ms >= EVERY_MS)
            if due and waited_ms >= rest_ms and self._sound():
                began = self._now_ms()
                seq, content = self.seq, self._snapshots.encode(state, self._stream, self._created, self.seq)
                rest_ms = REST * (self._now_ms() - began)
                try:
                    await asyncio.to_thread(self._snapshots.write, content)
                except OSError as error:
                    self._log.line("snapshot_not_written", why=str(error))
                self._saved, self._saved_ms = seq, self._now_ms()

    def save(self, state: Any) -> None:
        """One more at a clean stop; blocks for a write and an fsync."""
        if self._snapshots is None or not self._sound() or self.seq == self._saved:
            return
        try:
            self._snapshots.write(self._snapshots.encode(state, self._stream, self._created, self.seq))
        except OSError as error:
            self._log.line("snapshot_not_written", why=str(error))


def _look(reading: Reading, _: Received) -> None:
    reading.look()


async def until_seen(moved: asyncio.Event, head_seen: Callable[[], bool]) -> None:
    """Wait for the head of a stream. Where it was removed by retention, or is too old, nothing more comes."""
    while not head_seen():
        moved.clear()
        try:
            await asyncio.wait_for(moved.wait(), QUIET_S)
        except TimeoutError:
            return
