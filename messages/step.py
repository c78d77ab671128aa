"""What goes into an actor's step and what comes out: the closed list of inputs and effects.

`step(state, input, settings) -> list[Effect]` decides; the host (`actors/host/loop.py`) waits, decodes, publishes and
performs. A step reads no clock and draws no luck: each input brings its time (`at_ms`, Unix milliseconds that never go
back within a process) and, where chance is needed, a fresh `id`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from understudy.messages.base import Ask, Message
from understudy.messages.cache import EntryRead, EntryWritten, EraseKey, KeyErased, ReadEntry, WriteEntry
from understudy.messages.calls import (
    CallBegun,
    CallEnded,
    CallFailed,
    CallModel,
    CallSent,
    CallText,
    CancelCall,
    Fetched,
    FetchFailed,
    FetchList,
    Screen,
    Screened,
)
from understudy.messages.events import Event, SelectionMade
from understudy.messages.graph import GraphSaid, GraphWork
from understudy.messages.pulls import EndPull, PullOver, PullSaid, StartPull
from understudy.messages.records import FetchRecord, RecordFetched
from understudy.messages.suites import ReadSuite, SuiteRead


class Booted(Struct, frozen=True):
    """First input of every process: who we are. `id` is a ULID, `inbox` the subject prefix where answers arrive."""

    at_ms: float
    actor: str
    instance: str
    app: str
    inbox: str
    id: str


class CaughtUp(Struct, frozen=True):
    """The fold has reached what was the head of the log when the process started: ready."""

    at_ms: float
    seq: int


class Asked(Struct, frozen=True):
    """A question or order that arrived. `reply` is empty when nobody waits. `id` is fresh (ULID)."""

    at_ms: float
    id: str
    subject: str
    reply: str
    message: Ask | Message


class Heard(Struct, frozen=True):
    """A core message: an answer in our inbox, or an observation."""

    at_ms: float
    subject: str
    message: Message


class Happened(Struct, frozen=True):
    """A fact from the log, in order, each position once. One in its light form brings its bytes, if it is recent."""

    at_ms: float
    seq: int
    event: Event
    payload: bytes = b""


class Unheard(Struct, frozen=True):
    """Something we sent with the reply subject `subject` found nobody listening."""

    at_ms: float
    subject: str


class Woke(Struct, frozen=True):
    """A timer that was set by `Wake`. One whose generation is no longer the newest of its key never comes."""

    at_ms: float
    key: str
    generation: int


class Stored(Struct, frozen=True):
    """The log has this event. `duplicate`: it had an event with this id before, which stands.

    Not `synced`: it failed to reach the disk, so that it may be gone with the machine.
    """

    at_ms: float
    msg_id: str
    seq: int
    duplicate: bool
    synced: bool = True


class StoreFailed(Struct, frozen=True):
    """The log did not confirm in time (`bus_down`: unknown) or refused (`log_full`)."""

    at_ms: float
    msg_id: str
    code: str


class Traced(Struct, frozen=True):
    """A recent decision from the trace stream, our own ones included."""

    at_ms: float
    made: SelectionMade


class Recalled(Struct, frozen=True):
    """What `Recall` or `FindEnd` asked for; None when the log does not hold it. Not `ok`: nobody knows, as the log
    cannot be reached or looked through in time."""

    at_ms: float
    key: str
    event: Event | None
    ok: bool = True


class Claimed(Struct, frozen=True):
    """The answer to `Claim`: `holder` is the value that holds the key, '' when it is ours now, None: nobody knows."""

    at_ms: float
    key: str
    holder: str | None


class Consulted(Struct, frozen=True):
    """The answer to `Consult`. Not `ok`: the log could not be read, or held what cannot be."""

    at_ms: float
    key: str
    ok: bool


class EdgeReady(Struct, frozen=True):
    """The edge can serve now: the model is loaded, the client is up."""

    at_ms: float
    facts: dict[str, Any]


class Deaf(Struct, frozen=True):
    """For `ms` up to now nothing could be heard: the bus was away, or this process was not run. The silence of others
    in that time says nothing about them. `cut`: the bus was away, so what they said may be lost, not only late."""

    at_ms: float
    ms: float
    cut: bool = False


class Stopping(Struct, frozen=True):
    """The process was asked to stop: take nothing new, end what is in hand.

    What is in hand may go on until `until_ms` (0: not at all); the process ends as soon as nothing is.
    """

    at_ms: float
    until_ms: float = 0.0


Input = (
    Booted
    | CaughtUp
    | Asked
    | Heard
    | Happened
    | Unheard
    | Woke
    | Stored
    | StoreFailed
    | Traced
    | Recalled
    | Claimed
    | Consulted
    | Screened
    | CallSent
    | CallBegun
    | CallText
    | CallEnded
    | CallFailed
    | Fetched
    | FetchFailed
    | RecordFetched
    | PullSaid
    | PullOver
    | SuiteRead
    | EdgeReady
    | EntryRead
    | EntryWritten
    | KeyErased
    | GraphSaid
    | Deaf
    | Stopping
)


class Send(Struct, frozen=True):
    """Publish on core NATS, at most once. With `reply`, an absent listener comes back as `Unheard`."""

    subject: str
    message: Message | Ask
    reply: str = ""


class Store(Struct, frozen=True):
    """Put a fact into the log, once per `msg_id`; comes back as `Stored` or `StoreFailed` (after `give_up_ms`)."""

    event: Event
    msg_id: str
    key: str = ""
    give_up_ms: int = 10_000


class Trace(Struct, frozen=True):
    """Write a decision to the trace stream, unawaited."""

    event: SelectionMade


class Probe(Struct, frozen=True):
    """Does anybody listen on `subject`? If nobody does, `Unheard` comes back on `reply`; nothing is delivered."""

    subject: str
    reply: str


class Recall(Struct, frozen=True):
    """Read one event of the log by its position; comes back as `Recalled`."""

    seq: int
    key: str


class FindEnd(Struct, frozen=True):
    """Look for the end of a run in the log, from when it began (`begun_ms`, Unix milliseconds, its id's time) on; comes
    back as `Recalled`."""

    run_id: str
    begun_ms: int
    key: str


class Claim(Struct, frozen=True):
    """Take `key` for us, unless somebody holds it; comes back as `Claimed`."""

    key: str
    value: str
    ttl_s: float


class Consult(Struct, frozen=True):
    """Read what the log holds of the facts that this actor consults, up to now; each new one comes as `Happened`,
    then `Consulted`."""

    key: str


class Wake(Struct, frozen=True):
    """Wake me at `at_ms`. A newer Wake with the same key replaces it; `at_ms` 0 forgets it."""

    at_ms: float
    key: str
    generation: int


class Later(Struct, frozen=True):
    """Effects that somebody's answer need not wait for: made when what was sent with them has left the process, and in
    any case before the next input."""

    make: Callable[[], list[Effect]]


RunnerWork = CallModel | CancelCall | Screen | FetchList | FetchRecord | StartPull | EndPull
EdgeWork = RunnerWork | ReadEntry | WriteEntry | EraseKey | ReadSuite | GraphWork
"""What the host hands on to the actor's own edge."""

Effect = Send | Store | Trace | Probe | Recall | FindEnd | Claim | Consult | Wake | Later | EdgeWork
