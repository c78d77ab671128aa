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
from understudy.messages.events import Event, SelectionMade
from understudy.messages.listing import ListFault, Row
from understudy.messages.privacy import BlockReason, Outbound
from understudy.messages.pulls import EndPull, PullOver, PullSaid, StartPull
from understudy.messages.records import FetchRecord, RecordFetched
from understudy.messages.run import RunModel
from understudy.messages.suites import ReadSuite, SuiteRead
from understudy.messages.tools import Kind, ToolCall, ToolPart


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
    """What `Recall` asked for; None when the log does not hold it or cannot be reached."""

    at_ms: float
    key: str
    event: Event | None


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


class Screened(Struct, frozen=True):
    """The answer to `Screen`: what may leave (`redacted`: so many pieces were taken out), or why nothing may."""

    at_ms: float
    call_id: str
    run: RunModel | None
    redacted: int = 0
    blocked: BlockReason | None = None


class CallSent(Struct, frozen=True):
    """So many bytes of a call, head and body, were handed to the network, or to the queue before it."""

    at_ms: float
    call_id: str
    bytes: int


class CallText(Struct, frozen=True):
    """The engine or provider produced text. `exact`: `tokens` are counted, not the number of pieces that came."""

    at_ms: float
    call_id: str
    text: str
    tokens: int
    exact: bool = False
    kind: Kind = "text"
    call: ToolPart | None = None


class CallBegun(Struct, frozen=True):
    """The provider has begun to answer what has to be paid for, and will have a record of it under this id."""

    at_ms: float
    call_id: str
    generation: str


class CallEnded(Struct, frozen=True):
    """The dialect's explicit terminator was seen. Token counts are None where the provider sent none.

    `served_by`: the model that the provider says it used, where it is not the one it was asked for. `key_id`: of the
    key that it was asked with. `cost_usd`: the provider's own figure.
    """

    at_ms: float
    call_id: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None
    served_by: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    vectors: str = ""  # JSON
    key_id: str | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost_usd: str | None = None
    upstream: str | None = None


class CallFailed(Struct, frozen=True):
    """The call is over without a whole answer; `reason` is one of `RunFailure`."""

    at_ms: float
    call_id: str
    reason: str
    status: int | None = None
    retry_after_ms: int | None = None
    key_id: str | None = None
    exhausted_until_ms: int | None = None
    upstream: str | None = None
    account: bool = False  # `retry_after_ms` concerns all models of the provider


class Fetched(Struct, frozen=True):
    """The provider's list, whole."""

    at_ms: float
    list_id: str
    rows: tuple[Row, ...]


class FetchFailed(Struct, frozen=True):
    """There is no list, or it is not whole or not in the vendor's form; `path` leads to the fault."""

    at_ms: float
    list_id: str
    code: ListFault
    text: str
    path: str = ""


class EdgeReady(Struct, frozen=True):
    """The edge can serve now: the model is loaded, the client is up."""

    at_ms: float
    facts: dict[str, Any]


class Deaf(Struct, frozen=True):
    """For `ms` up to now nothing could be heard: the bus was away, or this process was not run. The silence of others
    in that time says nothing about them."""

    at_ms: float
    ms: float


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


class Claim(Struct, frozen=True):
    """Take `key` for us, unless somebody holds it; comes back as `Claimed`."""

    key: str
    value: str
    ttl_s: float


class Consult(Struct, frozen=True):
    """Read what the log holds of the facts that this actor consults, up to now; each new one comes as `Happened`,
    then `Consulted`."""

    key: str


class Screen(Struct, frozen=True):
    """Runner's edge: look for secrets and personal data in all that a call would send; comes back as `Screened`."""

    call_id: str
    run: RunModel
    refuse_pii: bool


class Wake(Struct, frozen=True):
    """Wake me at `at_ms`. A newer Wake with the same key replaces it; `at_ms` 0 forgets it."""

    at_ms: float
    key: str
    generation: int


class CallModel(Struct, frozen=True):
    """Runner's edge: call the model. Comes back as CallText*, then one CallEnded or CallFailed."""

    call_id: str
    run: RunModel
    outbound: Outbound | None = None  # the gate has let it pass: nothing leaves this machine without


class CancelCall(Struct, frozen=True):
    """Runner's edge: stop a call; a `CallFailed{cancelled}` follows unless it had ended."""

    call_id: str


class FetchList(Struct, frozen=True):
    """Runner's edge: read the provider's list of models. Comes back as one `Fetched` or `FetchFailed`."""

    list_id: str


class Later(Struct, frozen=True):
    """Effects that somebody's answer need not wait for: made when what was sent with them has left the process, and in
    any case before the next input."""

    make: Callable[[], list[Effect]]


RunnerWork = CallModel | CancelCall | Screen | FetchList | FetchRecord | StartPull | EndPull
EdgeWork = RunnerWork | ReadEntry | WriteEntry | EraseKey | ReadSuite
"""What the host hands on to the actor's own edge."""

Effect = Send | Store | Trace | Probe | Recall | Claim | Consult | Wake | Later | EdgeWork
