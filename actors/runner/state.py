"""What a runner process holds: its calls, where each is on its way, those that wait for room, who may start. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from understudy.actors.runner.admission import Admission
from understudy.messages.consents import Consents
from understudy.messages.gate_plan import GatePlan
from understudy.messages.limits import QUEUE, QUEUE_BYTES, Lanes, Limits, QueueBound, QueueBytes
from understudy.messages.privacy import BlockReason, Outbound
from understudy.messages.pulls import PullProgress
from understudy.messages.run import RunFailed, RunFailure, RunModel
from understudy.messages.step import CallFailed, CallText, Effect, Send, Wake

AtGate = Literal["", "consult", "judge", "screen", "last"]
JUDGE = "judge."
"""How the timers of judgements begin; the call's id follows."""


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All but `beat_ms` is set by the supervisor, from the topology: slots per model of this process and of each
    admitted listed model (`others_slots`); what its provider, by name, says of limits, lanes and the queue; and the
    gate that what leaves this machine passes, None where nothing can."""

    beat_ms: int = 250
    models: dict[str, int] = {}
    provider: str = ""
    others_slots: int = 0
    limits: Limits = Limits()
    lanes: Lanes = Lanes()
    queue: QueueBound = QUEUE
    queue_bytes: QueueBytes = QUEUE_BYTES
    gate: GatePlan | None = None


@dataclass(slots=True)
class Call:
    """One attempt under way, or waiting for its turn."""

    run: RunModel
    reply: str
    until_ms: float
    begun_ms: float
    pieces: int = 0
    tokens: int = 0
    queued: bool = False  # the selector was told that it waits
    told: bool = False  # whether the selector knows which instance has it
    held: CallText | None = None  # what has come and was not passed on yet, with the time of its beginning
    unheard_ms: float = 0.0  # since when nobody hears it
    at_gate: AtGate = ""  # which answer the gate waits for; '' where it has passed, or has none to pass
    cleaned: RunModel | None = None  # what of the order may leave
    redacted: int = 0  # pieces of personal data that were taken out of it
    outbound: Outbound | None = None  # of what has left this machine; until the edge says how much, without `bytes`
    withdrawn: BlockReason | None = None  # it was ended before that was said


@dataclass(slots=True)
class Pull:
    """A model on its way into the provider: what was last said of it, when that was last told, what it is made of."""

    name: str
    reply: str
    progress: PullProgress = field(default_factory=PullProgress)
    told_ms: float = 0.0
    unheard_ms: float = 0.0  # since when nobody hears it
    layers: dict[str, int] = field(default_factory=dict[str, int])  # bytes by digest


@dataclass(slots=True)
class State:
    """The calls in hand, who we are, and what stands of all consents."""

    app: str = ""
    instance: str = ""
    inbox: str = ""
    accepting: bool = False
    admission: Admission = field(default_factory=lambda: Admission({}))
    gate: GatePlan | None = None
    calls: dict[str, Call] = field(default_factory=dict[str, Call])
    waiting: dict[str, Call] = field(default_factory=dict[str, Call])
    refused: set[str] = field(default_factory=set[str])  # ids of keys that the provider does not take
    lists: dict[str, str] = field(default_factory=dict[str, str])  # being read, and where to answer
    records: dict[str, str] = field(default_factory=dict[str, str])  # the same of records
    pulls: dict[str, Pull] = field(default_factory=dict[str, Pull])
    consents: Consents = field(default_factory=Consents)


def id_of(run_id: str, attempt: int) -> str:
    """An attempt's name in this process."""
    return f"{run_id}.{attempt}"


def forget(state: State, call_id: str, now: float | None, tokens: int | None = None) -> Call | None:
    """A call that was begun is over. `tokens`: what it used, where that is known; without `now` its time says nothing
    about how long calls take."""
    call = state.calls.pop(call_id, None)
    if call is not None:
        run, took_ms = call.run, None if now is None else now - call.begun_ms
        state.admission.end(call_id, run.model, run.priority, took_ms, tokens, run.probe)
    return call


def forgotten(state: State, call_id: str) -> list[Effect]:
    """A call is over before the edge had it."""
    forget(state, call_id, None, 0)
    return [Wake(0, call_id, 0), Wake(0, JUDGE + call_id, 0)]


def failure(reply: str, run: RunModel, reason: RunFailure, failed: CallFailed | None = None, **more: Any) -> Send:
    """The attempt's end, with what its call says of it."""
    said = RunFailed(run_id=run.run_id, attempt=run.attempt, reason=reason, **more)
    if failed is not None:
        said = replace(
            said,
            status=failed.status,
            retry_after_ms=failed.retry_after_ms,
            key_id=failed.key_id,
            exhausted_until_ms=failed.exhausted_until_ms,
            upstream=failed.upstream,
        )
    return Send(reply, said)


def guess_tokens(run: RunModel) -> int:
    """Of a prompt that nobody has counted: by bytes, as another script's letters count for more."""
    size = sum(_size(turn.content) for turn in run.messages) + sum(map(_size, run.input)) + _size(run.prefill)
    calls = [turn.tool_calls for turn in run.messages if turn.tool_calls]
    if run.tools or run.format or calls:
        size += len(msgspec.json.encode((run.tools, run.format, calls)))
    return size // 4 + 1


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
