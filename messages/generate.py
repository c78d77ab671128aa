"""The main job as other components see it: the ask `generate` and everything that answers it.

With `stream: false` one `Finished` or `Failed` comes back. With `stream: true`, on the reply subject: `Started`, then
`Waiting`*, `Delta`*, `Seam`*, then exactly one `Finished` or `Failed`. One rule for readers covers every seam: drop
what has `seq > keep_seq`, then append.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from understudy.messages.base import Ask, Message, Part
from understudy.messages.limits import Priority
from understudy.messages.money import UsdText
from understudy.messages.privacy import Location, Outbound, Privacy
from understudy.messages.tools import AUTO, CallId, Format, Kind, Tool, ToolCall, ToolPart
from understudy.messages.units import Count, Key, ModelId, PositiveMs, PositiveTokens, Ratio, Tokens, Usd, Word

Role = Literal["system", "user", "assistant", "tool"]
Capability = Literal["chat", "json", "tools", "vision", "embeddings"]
LicenceClass = Literal["permissive", "copyleft", "restricted", "proprietary", "unknown"]
FinishReason = Literal["stop", "length", "refusal", "tool_calls"]
SeamMode = Literal["continue", "restart", "replace"]

FailCode = Literal[
    "invalid",
    "unknown_model",
    "unknown_task",
    "unknown_run",
    "too_large",
    "no_allowed_model",
    "budget_exhausted",
    "ledger_down",
    "overloaded",
    "deadline_exceeded",
    "context_too_long",
    "caller_fault",
    "refused",
    "blocked",
    "id_reused",
    "interrupted",
    "text_lost",
    "cancelled",
    "all_failed",
    "log_full",
    "bus_down",
    "internal",
]

ADVICE: dict[str, str] = {
    "invalid": "Correct the field named by `path`; the same request will fail again.",
    "unknown_model": "Ask `model.list` for the ids that exist, or leave `model` out.",
    "unknown_task": "Use a task that the topology names, or leave `task` out.",
    "unknown_run": "Name a run whose end is in the log, by the `run_id` of `finished` or `failed`.",
    "too_large": "Send less: the request exceeds the size named in the text.",
    "no_allowed_model": "Relax the requirements; `rejected` counts the candidates per reason.",
    "budget_exhausted": "Wait for the next window, ask for less (`max_tokens`), or have the operator raise the budget.",
    "ledger_down": "Nobody can say what may be spent, so no priced model is run; try again, or allow a free model.",
    "overloaded": "Wait `retry_after_ms`, then send the same request.",
    "deadline_exceeded": "Give more `deadline_ms` or ask for less; `resumable`: the text so far can be continued.",
    "context_too_long": "Shorten the conversation: no allowed model has a larger window.",
    "caller_fault": "The model refused the request's form (400, 413, 422); correct it.",
    "refused": "The model declined to answer; ask differently or with `on_refusal: next`.",
    "blocked": "It may not leave this machine (`attempts` says why), and no model here could answer.",
    "id_reused": "This `request_id` was used with another body; take a new one.",
    "interrupted": "The selector died; send the request again with `resume`.",
    "text_lost": "The run ended well, but its text is gone; send the request again.",
    "cancelled": "You cancelled it, or your inbox vanished.",
    "all_failed": "Every allowed model failed (see `attempts`); try again later, after `retry_after_ms` if given.",
    "log_full": "The event log is at its limit; the operator must raise it or wait for retention.",
    "bus_down": "The bus or its event log cannot be reached; try again.",
    "internal": "A fault of ours; report it with the run id.",
}
"""What a caller should do, per code. The codes are stable, the words may improve."""


class Turn(Part, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """One message of the conversation.

    `tool_calls`: what the assistant asked for. A turn of the role `tool` is the result of the call `tool_call_id`.
    """

    role: Role
    content: Annotated[str, Meta(max_length=4_000_000)]
    tool_calls: Annotated[tuple[ToolCall, ...], Meta(max_length=128)] = ()
    tool_call_id: CallId | None = None


class Requirements(Part, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """What a model must offer to be allowed."""

    capabilities: tuple[Capability, ...] = ()
    context_tokens: PositiveTokens | None = None
    max_latency_ms: PositiveMs | None = None
    min_quality: Ratio | None = None
    max_usd_per_mtok: Usd | None = None
    location: Location | None = None
    free: bool = False  # nothing of it has a price, in whatever unit
    licences: tuple[LicenceClass, ...] = ()  # one of these; none given: any


class Resume(Part, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Go on with a run that broke off: its id and the text that the caller kept."""

    run_id: Key
    text: str


class Generate(Ask, tag="model.generate.v1", frozen=True, kw_only=True):
    """Ask for an answer from the best allowed model."""

    stores: ClassVar[bool] = True

    messages: Annotated[tuple[Turn, ...], Meta(min_length=1, max_length=10_000)]
    task: Word | None = None
    model: ModelId | None = None  # an id or an alias of the topology
    requirements: Requirements = Requirements()
    balance: Ratio | None = None  # 0 = only speed and cost count, 1 = only quality
    max_tokens: PositiveTokens | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Meta(gt=0.0, le=1.0)] | None = None
    stop: Annotated[tuple[Annotated[str, Meta(min_length=1, max_length=200)], ...], Meta(max_length=16)] = ()
    seed: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    tools: Annotated[tuple[Tool, ...], Meta(max_length=128)] = ()
    tool_choice: Annotated[str, Meta(min_length=1, max_length=64)] = AUTO  # auto, none, required, or the name of a tool
    format: Format | None = None  # the answer is JSON
    reasoning: bool = False  # also say what the model thinks aloud, where it does
    stream: bool = False
    cache: bool | None = None  # may the answer be kept, and a kept one be given? None: as the task says
    deadline_ms: PositiveMs | None = None  # remaining time, counted by the receiver from arrival
    request_id: Key | None = None
    conversation_id: Key | None = None
    user_id: Key | None = None
    priority: Priority = "high"
    traffic: Literal["interactive", "batch"] = "interactive"
    privacy: Privacy | None = None  # the topology's policy where nothing is said
    on_refusal: Literal["answer", "next"] = "answer"
    hedge: bool | None = None  # ask a second model where the first is slow to begin; the task's word when absent
    resume: Resume | None = None
    labels: Annotated[tuple[Word, ...], Meta(max_length=16)] = ()


class Usage(Part, frozen=True, kw_only=True):
    """Tokens of a whole answer, all attempts together. `estimated`: the provider sent no count, so we counted.

    `cached_tokens` are part of the prompt's, `reasoning_tokens` of the completion's: 0 where the provider names none.
    `cost_usd` is the provider's own figure, where it sends one.
    """

    prompt_tokens: Tokens = 0
    completion_tokens: Tokens = 0
    estimated: bool = False
    cached_tokens: Tokens = 0
    reasoning_tokens: Tokens = 0
    cost_usd: UsdText | None = None


class Parameters(Part, frozen=True, kw_only=True):
    """The sampling parameters that were really used."""

    max_tokens: PositiveTokens
    temperature: float
    top_p: float
    stop: tuple[str, ...] = ()
    seed: int


class Attempt(Part, frozen=True, kw_only=True):
    """One model that was tried: how it ended and after how long."""

    model: ModelId
    outcome: str  # `ok`, or the closed reason word of the failure
    first_token_ms: float | None = None
    total_ms: float = 0.0
    tokens: Tokens = 0
    status: int | None = None  # HTTP status, where there was one
    served_by: ModelId | None = (
        None  # the model that the provider says it used, where it is not the one it was asked for
    )
    key_id: str | None = None  # of the provider's key, where the runner said it
    upstream: str | None = None  # who served it behind a router (OpenRouter's `provider`), where it says
    location: Location | None = None  # where the model computes
    outbound: Outbound | None = None  # of an external model: what left, or why nothing did


class Started(Message, tag="model.started.v1", frozen=True, kw_only=True):
    """Said once, before any text. `cancel` and `resend` are addressed to the instance named here."""

    run_id: str
    instance: str
    model: ModelId
    deadline_ms: PositiveMs
    location: Location | None = None  # where that model computes


class Waiting(Message, tag="model.waiting.v1", frozen=True, kw_only=True):
    """Nothing to say yet, and why."""

    run_id: str
    reason: Literal["failover", "busy"]


class Delta(Message, tag="model.delta.v1", frozen=True, kw_only=True):
    """A piece of the answer. `seq` counts from 0 without gaps over the whole run.

    `kind`: the answer's text, or what stands beside it: a part of the arguments of the tool call `call`; reasoning.
    `seams` is the number of seams before it: a reader who has seen fewer has lost one.
    """

    run_id: str
    seq: Count
    text: str
    seams: Count = 0
    kind: Kind = "text"
    call: ToolPart | None = None


class Seam(Message, tag="model.seam.v1", frozen=True, kw_only=True):
    """Another model goes on from here: drop every delta with `seq > keep_seq`, then append.

    `next_seq` is the number of the delta that follows, so that a reader who was sent a seam again knows it.
    `trimmed_chars`: so many characters at the beginning of the next model's text repeated the end of ours (in a
    `continue` of the instructed form) and were left out.
    """

    run_id: str
    mode: SeamMode
    keep_seq: int  # -1: drop everything
    next_seq: Count = 0
    from_model: ModelId
    to_model: ModelId
    reason: str
    trimmed_chars: Count = 0


class Finished(Message, tag="model.finished.v1", frozen=True, kw_only=True):
    """The whole answer. `recorded: false` means that the log, or its disk, had not confirmed the outcome in time.

    `cost_usd`: of all attempts; `cost_estimated`: at least one is booked with all that was reserved for it.
    `rejected`: models of the chain that were passed over before their turn, per reason; `notice`: where money was the
    reason, which budget, and until when.
    """

    run_id: str
    text: str | None
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None  # where it was asked for, and there was some
    model: ModelId
    finish_reason: FinishReason
    usage: Usage
    parameters: Parameters
    attempts: tuple[Attempt, ...]
    last_seq: int = -1
    seams: Count = 0
    degraded: bool = False
    cached: bool = False  # it was kept from an earlier request: no model was asked, nothing was used
    recorded: bool = True
    cost_usd: UsdText = "0"
    cost_estimated: bool = False
    rejected: dict[str, Count] = {}
    notice: str = ""
    total_ms: float = 0.0
    labels: tuple[str, ...] = ()  # the caller's own, then ours (`privacy.OWN_LABELS`)
    location: Location | None = None  # where `model` computes


class Failed(Message, tag="model.failed.v1", frozen=True, kw_only=True):
    """No (whole) answer. `code` is closed; `text` says what to do; `path` names the field at fault."""

    code: FailCode
    text: str
    run_id: str | None = None
    path: str | None = None
    retry_after_ms: int | None = None
    resumable: bool = False
    rejected: dict[str, int] = {}
    attempts: tuple[Attempt, ...] = ()
    last_seq: int = -1
    recorded: bool = False


class Cancel(Ask, tag="model.cancel.v1", frozen=True, kw_only=True):
    """Stop a run; sent to `<app>.ask.model.cancel.<instance>`."""

    run_id: Key


class Cancelled(Message, tag="model.cancelled.v1", frozen=True, kw_only=True):
    """The answer to `Cancel`. `known`: the run was alive here."""

    run_id: str
    known: bool


class Resend(Ask, tag="model.resend.v1", frozen=True, kw_only=True):
    """Say again what was said from `from_seq` on; sent to `<app>.ask.model.resend.<instance>`, reply: the reader."""

    run_id: Key
    from_seq: Count = 0


class Resent(Message, tag="model.resent.v1", frozen=True, kw_only=True):
    """The answer to `Resend`, before what is said again. Not `known`: the run has ended, or never was here."""

    run_id: str
    known: bool
    next_seq: Count = 0  # the number of the first delta that has not been said yet
