"""The simulated broker's store: streams with their duplicate window, durable consumers, claims. See `memory`.

Times are virtual seconds but for `at_ms`, which is Unix milliseconds as the server would stamp them.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Protocol

import msgspec

from understudy.bus.port import Ack, BusError, LogFull, Outgoing, Received, StreamState
from understudy.bus.provision import ConsumerSpec
from understudy.bus.subjects import matches

EPOCH_MS = 1_800_000_000_000
"""Virtual time 0 as Unix milliseconds."""
_RECORD_BYTES = 30
_ID_HEADER_BYTES = 4 + len("NATS/1.0\r\nNats-Msg-Id: \r\n\r\n")


def now_s() -> float:
    """Virtual seconds."""
    return asyncio.get_running_loop().time()


def now_ms() -> int:
    """Virtual Unix milliseconds, as the broker stamps them."""
    return EPOCH_MS + int(now_s() * 1000)


class Entry(msgspec.Struct, frozen=True):
    """One stored message; `size` in bytes as the server would count it."""

    subject: str
    payload: bytes
    seq: int
    at_ms: int
    size: int
    foreign: bool = False

    def received(self) -> Received:
        """As who reads it gets it."""
        payload = b"" if self.foreign else self.payload
        return Received(self.subject, payload, seq=self.seq, at_ms=self.at_ms, foreign=self.foreign)


class Stream:
    """One stream. `max_bytes` 0 or less: no limit; `keep_old`: refuse the new when full, else forget the oldest."""

    def __init__(self, name: str, subject: str, *, max_bytes: int, window_s: float, keep_old: bool) -> None:
        self.name, self.subject, self.max_bytes, self.window_s, self.keep_old = (
            name,
            subject,
            max_bytes,
            window_s,
            keep_old,
        )
        self.first, self.last, self.bytes = 1, 0, 0
        self.entries: dict[int, Entry] = {}
        self._ids: dict[str, tuple[int, float]] = {}

    def state(self) -> StreamState:
        """See `port.Bus.stream_state`."""
        return StreamState("simulated", self.first, self.last)

    def after(self, seq: int) -> Iterator[Entry]:
        """What is stored after `seq`, in order."""
        for i in range(max(seq + 1, self.first), self.last + 1):
            yield self.entries[i]

    def find(self, seq: int, subject: str, since_ms: int = 0) -> Entry | None:
        """The entry at `seq`, or the first one since a time; with a subject the first one on it from there."""
        seq = self.before(since_ms) + 1 if since_ms else seq
        if not subject:
            return self.entries.get(seq)
        return next((entry for entry in self.after(seq - 1) if matches(subject, entry.subject)), None)

    def find_many(self, seq: int, subject: str, at_most: int, since_ms: int = 0) -> list[Entry]:
        """The first entries on a subject from `seq`, or from a time, on."""
        seq = self.before(since_ms) + 1 if since_ms else seq
        return list(islice((entry for entry in self.after(seq - 1) if matches(subject, entry.subject)), at_most))

    def before(self, at_ms: int) -> int:
        """The last sequence that was stored before a time (Unix milliseconds)."""
        return next((entry.seq - 1 for entry in self.after(0) if entry.at_ms >= at_ms), self.last)

    def store(self, events: Sequence[Outgoing]) -> tuple[list[Ack], list[Entry]] | None:
        """All of them or none. None for several of which one is known already. Raises LogFull."""
        self._forget_ids()
        ids = [event.msg_id for event in events if event.msg_id]
        if len(events) == 1 and ids and ids[0] in self._ids:
            return [Ack(self._ids[ids[0]][0], duplicate=True)], []
        if len(set(ids)) < len(ids) or any(i in self._ids for i in ids):
            return None
        sizes = [_size(event) for event in events]
        if self.keep_old and 0 < self.max_bytes < self.bytes + sum(sizes):
            raise LogFull("maximum bytes exceeded")
        entries = [self._append(event, size) for event, size in zip(events, sizes, strict=True)]
        return [Ack(entry.seq) for entry in entries], entries

    def _append(self, event: Outgoing, size: int) -> Entry:
        self.last += 1
        self.bytes += size
        foreign = not event.msg_id and self.subject.split(".")[1] == "evt"
        entry = Entry(event.subject, event.payload, self.last, now_ms(), size, foreign)
        self.entries[self.last] = entry
        if event.msg_id:
            self._ids[event.msg_id] = (self.last, now_s())
        while 0 < self.max_bytes < self.bytes:
            self.bytes -= self.entries.pop(self.first).size
            self.first += 1
        return entry

    def _forget_ids(self) -> None:
        oldest = now_s() - self.window_s
        while self._ids:
            msg_id, (_, at) = next(iter(self._ids.items()))
            if at > oldest:
                return
            del self._ids[msg_id]


def _size(event: Outgoing) -> int:
    header = _ID_HEADER_BYTES + len(event.msg_id.encode()) if event.msg_id else 0
    return _RECORD_BYTES + len(event.subject.encode()) + header + len(event.payload)


class Seat(Protocol):
    """A worker as its consumer sees it: how many more deliveries it takes, and how to send one."""

    credit: int

    def send(self, entry: Entry, tries: int) -> None:
        """Send one delivery; it uses one of the credits up."""
        ...


class _Pending:
    """A message delivered and not settled: deliveries so far, and the timer of what comes next."""

    def __init__(self) -> None:
        self.tries = 0
        self.timer: asyncio.TimerHandle | None = None

    def wait(self, delay_s: float, then: Callable[[int, int], None], seq: int) -> None:
        """After `delay_s` call `then(seq, tries)`, instead of what was waited for."""
        self.stop()
        self.timer = asyncio.get_running_loop().call_later(delay_s, then, seq, self.tries)

    def stop(self) -> None:
        """Wait for nothing."""
        if self.timer is not None:
            self.timer.cancel()


class Consumer:
    """A durable pull consumer: who gets what, again when nobody answers, and no more after `max_deliver` tries."""

    def __init__(self, spec: ConsumerSpec, stream: Stream, give_up: Callable[[ConsumerSpec, Entry], None]) -> None:
        self.spec, self.stream, self._give_up = spec, stream, give_up
        self.seats: deque[Seat] = deque()
        self.cursor = stream.last if spec.from_now else 0
        self.pending: dict[int, _Pending] = {}
        self._again: deque[int] = deque()

    def take_seat(self, seat: Seat, credit: int) -> None:
        """A worker asks for up to `credit` deliveries."""
        seat.credit = credit
        if seat not in self.seats:
            self.seats.append(seat)
        self.pump()

    def leave(self, seat: Seat) -> None:
        """A worker asks for no more."""
        if seat in self.seats:
            self.seats.remove(seat)

    def pump(self) -> None:
        """Hand out what can be handed out, workers in turn."""
        while any(seat.credit > 0 for seat in self.seats):
            entry = self._next()
            if entry is None:
                return
            while self.seats[0].credit <= 0:
                self.seats.rotate(-1)
            pending = self.pending.setdefault(entry.seq, _Pending())
            pending.tries += 1
            pending.wait(self._patience_s(pending.tries), self._due, entry.seq)
            self.seats[0].send(entry, pending.tries)
            self.seats.rotate(-1)

    def settle(self, seq: int, tries: int, retry_s: float | None) -> None:
        """A worker's answer to a delivery: done (None), or again after `retry_s`. Late answers count as done."""
        pending = self.pending.get(seq)
        if pending is None:
            return
        if retry_s is None:
            pending.stop()
            del self.pending[seq]
            if seq in self._again:
                self._again.remove(seq)
        elif pending.tries == tries and seq not in self._again:
            pending.wait(retry_s, self._due, seq)
        self.pump()

    def _due(self, seq: int, tries: int) -> None:
        pending = self.pending.get(seq)
        if pending is not None and pending.tries == tries and seq not in self._again:
            self._again.append(seq)
            self.pump()

    def _next(self) -> Entry | None:
        while self._again:
            seq = self._again.popleft()
            entry = self.stream.entries.get(seq)
            if entry is None:
                del self.pending[seq]
            elif 0 < self.spec.max_deliver <= self.pending[seq].tries:
                del self.pending[seq]
                self._give_up(self.spec, entry)
            else:
                return entry
        if len(self.pending) >= self.spec.max_ack_pending:
            return None
        for entry in self.stream.after(self.cursor):
            self.cursor = entry.seq
            if any(matches(pattern, entry.subject) for pattern in self.spec.subjects):
                return entry
        return None

    def _patience_s(self, tries: int) -> float:
        backoff = self.spec.backoff_s
        return backoff[min(tries, len(backoff)) - 1] if backoff else self.spec.ack_wait_s


class Claims:
    """Keys held by their first claimant until their time is up. Kept in memory: a stopped server forgets them."""

    def __init__(self) -> None:
        self._held: dict[str, tuple[bytes, float]] = {}

    def claim(self, key: str, value: bytes, ttl_s: float) -> bytes | None:
        """See `port.Bus.claim`; the server knows whole seconds only, so `ttl_s` is rounded up."""
        held = self._held.get(key)
        if held is not None and held[1] > now_s():
            return held[0]
        self._held[key] = (value, now_s() + max(1, math.ceil(ttl_s)))
        return None

    def forget(self) -> None:
        """What a restart does to a bucket in memory."""
        self._held.clear()


def no_stream(name: str) -> BusError:
    """The server's refusal when a stream does not exist."""
    return BusError(f"{name}: stream not found (10059)")
