"""The simulated server: NATS's rules on virtual time, everything drawn from one seed. Run it in `sim_loop.run`.

    broker = Broker(seed=7)
    bus = broker.connect("chooser")        # a port.Bus
    broker.faults.loss = 0.01              # see faults.Faults
    broker.digest()                        # the same for the same seed and story, in any process

Every message takes a while for each of its two hops; order is kept per connection and subscription; handlers never run
inside `publish`. Streams survive a stop of the server, claims do not.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING

import msgspec

from understudy.bus import tracing
from understudy.bus.faults import Faults
from understudy.bus.memory_bus import MemoryBus
from understudy.bus.memory_connection import Core
from understudy.bus.memory_log import Claims, Consumer, Entry, Stream, no_stream
from understudy.bus.port import Ack, BusDown, BusError, LogFull, Outgoing
from understudy.bus.provision import BusSpec, ConsumerSpec
from understudy.bus.subjects import dead_stream, evt_stream, matches, trace_stream

if TYPE_CHECKING:
    from understudy.bus.memory_parts import Reader, Sub

__all__ = ["Broker", "MemoryBus", "Note"]

MAX_PAYLOAD_BYTES = 8 << 20
_CACHED_SUBJECTS = 4096


class Note(msgspec.Struct, frozen=True):
    """One thing that happened on the broker. `what`: publish, deliver, store, read, work, settle, dead, link."""

    at_s: float
    what: str
    who: str
    subject: str
    payload: bytes


class Broker:
    """The one server. `spec` says what is provisioned on it, as for the real one; `on_note` hears what happens."""

    def __init__(
        self,
        seed: int | str = 0,
        spec: BusSpec | None = None,
        *,
        max_payload: int = MAX_PAYLOAD_BYTES,
        on_note: Callable[[Note], None] | None = None,
    ) -> None:
        self.luck = Random(f"broker {seed}")
        self.faults = Faults(seed)
        self.max_payload = max_payload
        self.spec = spec or BusSpec()
        self.claims = Claims()
        self.streams = {stream.name: stream for stream in _streams(self.spec)}
        self.consumers: dict[tuple[str, str], Consumer] = {}
        self.readers: dict[str, list[Reader]] = {name: [] for name in self.streams}
        self.buses: list[MemoryBus] = []
        self._on_note = on_note
        self._hash = hashlib.sha256()
        self._listeners: dict[str, list[Sub]] = {}
        self._by_head: dict[str, list[Sub]] = {}
        self.faults.on_stop = self.claims.forget
        for consumer in self.spec.consumers:
            self.add_consumer(consumer)

    # --- what a test calls -----------------------------------------------------------------------------------------

    def connect(
        self,
        name: str,
        *,
        inbox_prefix: str = "_INBOX",
        on_state: Callable[[str], None] | None = None,
        on_error: Callable[[Exception], None] | None = None,
    ) -> MemoryBus:
        """A new connection; while the server is stopped it comes up with the start. For callbacks see `NatsBus`."""
        bus = MemoryBus(self, name, inbox_prefix=inbox_prefix, on_state=on_state, on_error=on_error)
        self.buses.append(bus)
        self.faults.links.append(bus.link)
        if not self.faults.up:
            bus.link.become("down")
        return bus

    def add_consumer(self, spec: ConsumerSpec) -> None:
        """Make a durable consumer, unless it is there."""
        stream = self.stream(spec.stream)
        self.consumers.setdefault((spec.stream, spec.name), Consumer(spec, stream, self._give_up))

    def digest(self) -> str:
        """A hash over everything that happened so far, times included."""
        return self._hash.hexdigest()

    # --- what connections call, once a message has arrived here ----------------------------------------------------

    def stream(self, name: str) -> Stream:
        """A stream by its name. Raises BusError."""
        if name not in self.streams:
            raise no_stream(name)
        return self.streams[name]

    def note(self, what: str, who: str, subject: str, payload: bytes = b"") -> None:
        """Put something into the digest, and tell who watches."""
        at_s = asyncio.get_running_loop().time()
        self._hash.update(f"{at_s:.9f} {what} {who} {subject} {len(payload)} ".encode())
        self._hash.update(payload)
        if self._on_note is not None:
            self._on_note(Note(at_s, what, who, subject, payload))

    def interest_changed(self) -> None:
        """Somebody subscribed, left, or was noticed to have gone."""
        self._listeners.clear()
        self._by_head.clear()

    def publish(self, sender: MemoryBus, message: Core) -> None:
        """A core message has arrived: store it where a stream takes its subject, deliver it, or say nobody listens."""
        self.note("publish", sender.name, message.subject, message.payload)
        if message.headers is not None and tracing.ONLY in message.headers:
            self._trace(message, message.headers[tracing.DESTINATION])
            return
        stream = self._taker(message.subject)
        listened = self._deliver(message)
        if stream is not None:
            answer = self._take(stream, message)
            if message.reply:
                self._deliver(Core(message.reply, answer))
        elif not listened and message.reply:
            sender.unheard(message.reply)

    def _trace(self, message: Core, destination: str) -> None:
        """Say who would have got it, and deliver nothing."""
        steps = [{"type": "in"}, *({"type": "eg"} for _ in self._listening(message.subject))]
        self._deliver(Core(destination, json.dumps({"events": steps}).encode()))

    def store(self, sender: MemoryBus, events: Sequence[Outgoing]) -> list[Ack] | None:
        """All or none; None for several of which one is known. Raises BusDown (no stream takes it), LogFull."""
        stream = self._taker(events[0].subject)
        if stream is None:
            raise BusDown(f"no stream answers for {events[0].subject}")
        if any(not matches(stream.subject, event.subject) for event in events):
            raise BusError("an atomic batch goes to one stream")
        for event in events:
            self.note("store", sender.name, event.subject, event.payload)
            self._deliver(Core(event.subject, event.payload))
        return self._store(stream, events)

    def lose(self, bus: MemoryBus) -> None:
        """A connection has ended."""
        if bus in self.buses:
            self.buses.remove(bus)
            self.faults.links.remove(bus.link)
        self.interest_changed()

    # --- within ----------------------------------------------------------------------------------------------------

    def _taker(self, subject: str) -> Stream | None:
        return next((s for s in self.streams.values() if matches(s.subject, subject)), None)

    def _take(self, stream: Stream, message: Core) -> bytes:
        msg_id = (message.headers or {}).get("Nats-Msg-Id", "")
        try:
            stored = self._store(stream, [Outgoing(message.subject, message.payload, msg_id)])
        except LogFull as error:
            return json.dumps({"error": {"code": 503, "err_code": 10077, "description": str(error)}}).encode()
        ack = (stored or [Ack(0)])[0]
        answer = {"stream": stream.name, "seq": ack.seq} | ({"duplicate": True} if ack.duplicate else {})
        return json.dumps(answer).encode()

    def _store(self, stream: Stream, events: Sequence[Outgoing]) -> list[Ack] | None:
        done = stream.store(events)
        if done is None:
            return None
        acks, entries = done
        for entry in entries:
            self._republish(entry)
        if entries:
            self._fan_out(stream)
        return acks

    def _republish(self, entry: Entry) -> None:
        app, kind, rest = entry.subject.split(".", 2)
        if kind == "evt":
            seen, subject = entry.received(), f"{app}.live.{rest}"
            self._deliver(Core(subject, seen.payload, seq=entry.seq, at_ms=entry.at_ms, foreign=seen.foreign))

    def _fan_out(self, stream: Stream) -> None:
        for reader in list(self.readers[stream.name]):
            reader.pump()
        for consumer in self.consumers.values():
            if consumer.stream is stream:
                consumer.pump()

    def _give_up(self, spec: ConsumerSpec, entry: Entry) -> None:
        """Delivered too often: into the stream of what could not be handled."""
        subject = f"{self.spec.app}.dead.{spec.stream}.{spec.name}"
        dead = Outgoing(subject, entry.payload, f"{spec.stream}:{spec.name}:{entry.seq}")
        self.note("dead", spec.name, entry.subject, entry.payload)
        self._store(self.stream(dead_stream(self.spec.app)), [dead])

    def _deliver(self, message: Core) -> bool:
        """To every plain subscription and one member of each queue group; whether anybody listens."""
        listeners = self._listening(message.subject)
        groups: dict[str, list[Sub]] = {}
        for sub in listeners:
            if sub.queue:
                groups.setdefault(sub.queue, []).append(sub)
            else:
                sub.send(message)
        for members in groups.values():
            members[self.luck.randrange(len(members))].send(message)
        return bool(listeners)

    def _listening(self, subject: str) -> list[Sub]:
        found = self._listeners.get(subject)
        if found is None:
            if len(self._listeners) >= _CACHED_SUBJECTS:
                self._listeners.clear()
            found = [sub for sub in self._candidates(subject) if sub.hears(subject)]
            self._listeners[subject] = found
        return found

    def _candidates(self, subject: str) -> list[Sub]:
        """Subscriptions that begin with the same two tokens; all of them while one begins with a wildcard."""
        heads = self._by_head
        if not heads:
            for bus in self.buses:
                for sub in bus.listening():
                    head = _head(sub.pattern)
                    heads.setdefault("" if "*" in head or ">" in head else head, []).append(sub)
        if "" in heads:
            return [sub for bus in self.buses for sub in bus.listening()]
        return heads.get(_head(subject), [])


def _head(subject: str) -> str:
    return ".".join(subject.split(".", 2)[:2])


def _streams(spec: BusSpec) -> list[Stream]:
    app, window_s = spec.app, spec.duplicate_window_s
    return [
        Stream(evt_stream(app), f"{app}.evt.>", max_bytes=spec.evt_max_bytes, window_s=window_s, keep_old=True),
        Stream(trace_stream(app), f"{app}.trace.>", max_bytes=spec.trace_max_bytes, window_s=window_s, keep_old=False),
        Stream(dead_stream(app), f"{app}.dead.>", max_bytes=spec.dead_max_bytes, window_s=window_s, keep_old=False),
    ]
