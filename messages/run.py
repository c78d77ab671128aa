"""Between selector and runner: one attempt at one model.

The selector asks `<app>.ask.runner.run.<provider>.<slug>` with its own inbox as reply; the runner answers there with
`RunStarted` (unless text or the end came first), `RunText`*, then exactly one `RunEnded` or `RunFailed`. Without
room it says `RunFailed{busy}` at once; or `RunQueued` if the order `may_wait`, and `RunStarted` when its turn has come.
"""

from __future__ import annotations

from typing import Literal

from understudy.messages.base import Message, Part
from understudy.messages.generate import FinishReason, Parameters, Turn, Usage
from understudy.messages.limits import Priority
from understudy.messages.money import Generation, Price
from understudy.messages.privacy import Location, Outbound, Privacy
from understudy.messages.tools import AUTO, Format, Kind, Tool, ToolCall, ToolPart
from understudy.messages.units import Count, ModelId, PositiveTokens, Tokens

RunFailure = Literal[
    "busy",  # no room now
    "no_room",  # nor may it wait: the queue is full, or its turn would never come
    "no_responders",  # no runner listens
    "gone",  # the runner's process died
    "silent",  # the runner's heartbeats stopped
    "refused_connection",  # nobody accepts at the endpoint
    "first_token_timeout",
    "stall_timeout",
    "deadline",
    "broken_stream",  # reset, or an end without the dialect's terminator
    "malformed",  # bytes that are not the dialect
    "error_event",  # the provider reported an error inside the stream
    "empty",  # success without content
    "invalid_output",  # whole, but not what was asked for: no JSON, not of the schema, a tool that does not exist
    "rate_limited",  # 429
    "server_error",  # 5xx and 408; a 404 that says nothing of the model
    "auth",  # 401, 403
    "payment",  # 402
    "model_not_found",  # a 404 that says that there is no such model
    "no_endpoints",  # 404 of a router: nobody may or can serve this request, the model is there for others
    "caller_fault",  # 400, 413, 422
    "context_too_long",
    "refused",  # the model declined
    "text_lost",  # a piece did not arrive on the bus, or nothing after the bus was away
    "cancelled",
    "blocked",  # it may not leave this machine: see `Outbound`
    "engine",  # the local engine failed this request
]
"""Why an attempt ended without an answer. Closed: selector and health tracker decide by these words alone."""

NO_ROOM: frozenset[str] = frozenset({"busy", "no_room", "no_responders"})
"""Ends of an attempt that never began."""

CALLERS_FAULT: frozenset[str] = frozenset(
    {"caller_fault", "context_too_long", "refused", "cancelled", "deadline", "blocked"}
)
"""Ends that say nothing against the model."""

Continuation = Literal["none", "native", "instructed"]
"""How a model goes on with text that another one began: not at all, by prefill, or by being asked to."""

MIN_OVERLAP_CHARS = 12
"""An instructed continuation may repeat the end of the text before it; from this many equal characters on it is cut."""


class RunModel(Message, tag="runner.run.v1", frozen=True, kw_only=True):
    """Run one attempt. `remaining_ms` is counted from arrival; expired work is dropped by the receiver.

    Unless it is `live`, nobody reads along: the text of a first short while may come together, or with the end.
    `user`: a keyed hash, by which those who wait take turns.
    """

    run_id: str
    attempt: Count
    model: ModelId
    messages: tuple[Turn, ...]
    parameters: Parameters
    remaining_ms: float
    live: bool = True
    tools: tuple[Tool, ...] = ()
    tool_choice: str = AUTO
    format: Format | None = None
    input: tuple[str, ...] = ()  # texts to embed, instead of `messages`
    dimensions: int | None = None
    prefill: str = ""
    continuation: Continuation = "none"
    probe: bool = False  # our own words: nobody's conversation
    name: ModelId | None = None  # what the provider calls it, where that is not its id: a runner may not know it yet
    context_tokens: PositiveTokens | None = None  # and its window
    location: Location | None = None  # where the catalogue has it that the model computes
    price: Price | None = None  # what was reserved by: who has to be told may charge no more; None: nothing may be paid
    privacy: Privacy = "local_only"
    conversation: str = ""  # keyed hash
    user: str = ""  # keyed hash
    priority: Priority = "high"
    may_wait: bool = False


class RunQueued(Message, tag="runner.queued.v1", frozen=True, kw_only=True):
    """No room yet: it waits here for its turn. No limit on the first token runs meanwhile."""

    run_id: str
    attempt: Count
    instance: str


class RunStarted(Message, tag="runner.started.v1", frozen=True, kw_only=True):
    """Admitted: which instance runs it. Said where there is no text yet after a short while, or after `RunQueued`.

    `generation`: where something is paid, under which id the provider will have a record of it; said when it is known.
    """

    run_id: str
    attempt: Count
    instance: str
    generation: Generation | None = None


class RunText(Message, tag="runner.text.v1", frozen=True, kw_only=True):
    """Text as it arrives. `n` counts from 0 per attempt, so that a lost piece is noticed.

    `held_ms`: so long its beginning waited for the rest.
    """

    run_id: str
    attempt: Count
    instance: str = ""
    n: Count
    text: str
    kind: Kind = "text"
    call: ToolPart | None = None
    tokens: Tokens = 1
    exact: bool = False  # `tokens` are the engine's own count, not the number of pieces that a provider sent
    held_ms: float = 0.0


class RunEnded(Message, tag="runner.ended.v1", frozen=True, kw_only=True):
    """The dialect's explicit terminator was seen. `pieces` is the number of `RunText` before it.

    `text`: what was held and comes after those pieces; `tokens`, `exact` and `held_ms` are about it, as in `RunText`.
    """

    run_id: str
    attempt: Count
    pieces: Count
    finish_reason: FinishReason
    usage: Usage
    tool_calls: tuple[ToolCall, ...] = ()
    vectors: str = ""  # JSON, one per text of `input`: the selector passes it on without taking it apart
    text: str = ""
    tokens: Tokens = 0
    exact: bool = True
    held_ms: float = 0.0
    served_by: ModelId | None = None  # see `Attempt`
    key_id: str | None = None  # see `Attempt`
    upstream: str | None = None
    outbound: Outbound | None = None


class RunFailed(Message, tag="runner.failed.v1", frozen=True, kw_only=True):
    """The attempt is over without a whole answer.

    `exhausted_until_ms`: the provider says that a quota of the whole account is used up until then (Unix milliseconds).
    `waiting`: where it is `busy`, how many wait there already.
    """

    run_id: str
    attempt: Count
    reason: RunFailure
    status: int | None = None
    retry_after_ms: int | None = None
    key_id: str | None = None  # see `Attempt`
    exhausted_until_ms: int | None = None
    upstream: str | None = None
    outbound: Outbound | None = None
    waiting: Count = 0


class CancelRun(Message, tag="runner.cancel.v1", frozen=True, kw_only=True):
    """Stop an attempt; sent to `<app>.ask.runner.cancel.<instance>`. No reply."""

    run_id: str
    attempt: Count


class ModelLoad(Part, frozen=True, kw_only=True):
    """How busy one model of a runner is."""

    slots: Count
    in_flight: Count = 0
    waiting: Count = 0


class RunnerBeat(Message, tag="runner.beat.v1", frozen=True, kw_only=True):
    """A runner process is alive, with the load of every model it serves. An observation (`obs`), so it may be lost.

    `others_slots` above 0: it also serves each admitted model of `provider`'s list, with so many slots; of these
    `models` has those that are at work.
    """

    instance: str
    models: dict[ModelId, ModelLoad]
    accepting: bool = True
    provider: str = ""
    others_slots: Count = 0


class SelectorBeat(Message, tag="selector.beat.v1", frozen=True, kw_only=True):
    """A selector is alive. An observation; each hears its own too, and so knows whether it hears at all."""

    instance: str
    in_flight: Count = 0


class Attach(Message, tag="selector.attach.v1", frozen=True, kw_only=True):
    """Another selector was asked again with the `request_id` of a run of yours: say everything to `reply` as well."""

    run_id: str
    reply: str


class ProcessGone(Message, tag="process.gone.v1", frozen=True, kw_only=True):
    """The supervisor saw a process end. Published as an observation, for those who cannot wait for a timeout."""

    actor: str
    instance: str
    models: tuple[ModelId, ...] = ()
    exit_code: int | None = None
    at_ms: int = 0  # when it was seen to have ended (Unix milliseconds): what came later is another process's
