"""Between a runner's step and its edge: calls of models, what leaves this machine, lists of providers."""

from __future__ import annotations

from msgspec import Struct

from understudy.messages.listing import ListFault, Row
from understudy.messages.privacy import BlockReason, Outbound
from understudy.messages.run import RunModel
from understudy.messages.tools import Kind, ToolCall, ToolPart


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


class Screen(Struct, frozen=True):
    """Runner's edge: look for secrets and personal data in all that a call would send; comes back as `Screened`."""

    call_id: str
    run: RunModel
    refuse_pii: bool


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
