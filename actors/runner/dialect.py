"""What all dialects share: the meaning of one field of an answer, and how text of another model is continued. Pure.

A dialect is a module of `dialects/` with the functions of `Dialect`. It turns a request into a body and fields of an
answer into `Piece`s; the edge does the HTTP.
"""

from __future__ import annotations

import email.utils
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, cast

import msgspec

from understudy.actors.runner.embedding import Embeddings
from understudy.messages.generate import Turn
from understudy.messages.run import RunFailure, RunModel
from understudy.messages.tools import NONE
from understudy.messages.topology import Model
from understudy.messages.units import ModelId

MOST_WAIT_MS = 86_400_000
"""A provider that asks to be left alone for longer than a day is taken to have said a day."""
LARGEST_COUNT = 2**53
"""Counts of tokens from here on, or below 0, are no counts; JSON readers elsewhere hold none larger exactly."""
UPSTREAM_CHARS = 64
MOST_ID_CHARS = 40
"""What OpenAI takes as the id of a tool call; every vendor's own are shorter."""
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What readers of JSON raise of bytes that are not the dialect, or that nest too deeply."""
EVENT_REASONS: dict[str, RunFailure] = {
    **dict.fromkeys(("429", "rate_limit_exceeded", "rate_limit_error", "too_many_requests"), "rate_limited"),
    **dict.fromkeys(("context_length_exceeded", "exceed_context_size_error"), "context_too_long"),
    **dict.fromkeys(("402", "payment_required", "billing_error", "insufficient_quota"), "payment"),
    **dict.fromkeys(("401", "403", "authentication", "authentication_error", "invalid_api_key", "permission_denied",
                     "permission_error"), "auth"),
}  # fmt: skip
"""`code`, `type` or `error_type` of an error inside a stream (OpenAI, OpenRouter, Anthropic, llama.cpp)."""
JSON_WORDS = "Answer with one JSON object and with nothing else: no words before or after it, no code fence."
CONTINUE_WORDS = "Continue exactly from where this text stops, without repeating any of it: <<<{}>>>"


class CallPiece(msgspec.Struct, gc=False):
    """A piece of a tool call: `arguments` is the next part of their text. `index` is the provider's own.

    `whole`: it is a call of its own, whatever its index. `again`: all of the arguments, which may have come already.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""
    whole: bool = False
    again: bool = False


class Piece(msgspec.Struct, gc=False):
    """What one field of an answer meant.

    `finish`: `stop`, `length`, `refusal` or `tool_calls`; any other reason to end is none that we know.
    `refused`: its text is a refusal, which says nothing of whether it has ended.
    `text_again`: all the text of a part that has ended, which may have come already.
    `fresh_tokens`, `written_tokens`: where a vendor counts the prompt without what came from its cache or went there.
    """

    text: str = ""
    reasoning: str = ""
    calls: Sequence[CallPiece] = ()
    finish: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    failure: RunFailure | None = None
    cached_tokens: int | None = None  # of the prompt's
    reasoning_tokens: int | None = None  # of the completion's
    cost_usd: str | None = None  # the provider's own figure
    model: str | None = None
    refused: bool = False
    text_again: str = ""
    fresh_tokens: int | None = None
    written_tokens: int | None = None
    upstream: str | None = None  # who serves it behind a router
    done: bool = False  # the dialect's terminator: an answer is whole only with it and a `finish`

    def merge(self, later: Piece) -> None:
        """Add what a later field meant, except its text, which has gone out: this is the end's side of a stream."""
        self.done, self.failure = later.done, later.failure
        if later.model is not None:
            self.model = later.model
        if later.refused:
            self.refused = True
        if later.finish is not None and self.finish != "refusal":
            self.finish = later.finish
        if later.prompt_tokens is not None:
            self.prompt_tokens = later.prompt_tokens
        if later.completion_tokens is not None:
            self.completion_tokens = later.completion_tokens
        if later.cached_tokens is not None:
            self.cached_tokens = later.cached_tokens
        if later.reasoning_tokens is not None:
            self.reasoning_tokens = later.reasoning_tokens
        if later.cost_usd is not None:
            self.cost_usd = later.cost_usd
        if later.upstream is not None:
            self.upstream = later.upstream
        if later.fresh_tokens is not None or later.written_tokens is not None or later.cached_tokens is not None:
            self._merge_parts(later)

    def _merge_parts(self, later: Piece) -> None:
        """Each count is the latest of its own."""
        self.fresh_tokens = self.fresh_tokens if later.fresh_tokens is None else later.fresh_tokens
        self.written_tokens = self.written_tokens if later.written_tokens is None else later.written_tokens
        if self.fresh_tokens is not None:
            self.prompt_tokens = count(self.fresh_tokens + (self.written_tokens or 0) + (self.cached_tokens or 0))


class Framing(Protocol):
    """Bytes in, fields out. Cuts may fall anywhere, also inside a UTF-8 character."""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """The fields that are now complete. Raises Malformed."""
        ...


class Dialect(Protocol):
    """The module `dialects/<name>.py`."""

    NAME: str  # the topology's `kind` of its providers
    PATH: str  # where requests go, behind the provider's `url`
    ACCEPT: str  # the media type of a streamed answer
    LEAST_TOKENS: int  # a smaller limit of tokens is an error there: this one is sent, and the answer cut here
    TELLS_LENGTH: bool  # every server of the dialect says when the limit of tokens has cut an answer
    NEEDS_DONE: bool  # a reason to end is not enough: the terminator must follow
    EMBEDDINGS: Embeddings | None
    CHECK: str | None  # what a GET with the key is answered 200 for, and 401 or 403 without it, at no cost

    @staticmethod
    def key_fields(key: str | None) -> dict[str, str]:
        """Header fields that the provider wants, the key's among them."""
        ...

    @staticmethod
    def stops(wanted: tuple[str, ...]) -> tuple[str, ...]:
        """Those stop strings at which the provider itself ends an answer. The others are watched for here."""
        ...

    @staticmethod
    def body(run: RunModel, name: str, model: Model) -> bytes:
        """The request. Always streamed: only so can a broken answer be continued."""
        ...

    @staticmethod
    def framing() -> Framing:
        """How fields lie in the body; one per answer."""
        ...

    @staticmethod
    def read(data: bytes) -> Piece:
        """One field. What is not the dialect is the failure `malformed`."""
        ...

    @staticmethod
    def reason_of(status: int, payload: bytes) -> RunFailure:
        """An HTTP error as one of our closed words."""
        ...


def turns(run: RunModel) -> tuple[Turn, ...]:
    """The conversation, with what is to be continued at its end."""
    if not run.prefill:
        return run.messages
    if run.continuation == "native":
        return (*run.messages, Turn(role="assistant", content=run.prefill))
    return (*run.messages, Turn(role="user", content=CONTINUE_WORDS.format(run.prefill)))


def offered(run: RunModel) -> bool:
    """Is the model to hear of the tools at all? With `none` it must, where the conversation holds calls already."""
    return bool(run.tools) and (run.tool_choice != NONE or any(turn.tool_calls for turn in run.messages))


def sent_stops(model: Model, known: tuple[str, ...]) -> tuple[str, ...]:
    """The stop strings that go out: what the provider knows, unless the model refuses them."""
    return () if "stop" in model.refuses else known


def call_id(said: str, allowed: str = "") -> str:
    """A tool call's id as a vendor takes it, the same for the call and its result. It may be of another vendor.

    `allowed`: besides letters and digits of ASCII, the only characters that the vendor takes; empty: it takes any.
    """
    known = not allowed or all(c.isascii() and (c.isalnum() or c in allowed) for c in said)
    if known and len(said) <= MOST_ID_CHARS:
        return said
    return f"call_{hashlib.blake2b(said.encode(), digest_size=16).hexdigest()}"


def sampling(run: RunModel, model: Model) -> dict[str, Any]:
    """Temperature, top_p and seed under the names that most vendors give them, without what the model refuses."""
    p = run.parameters
    found: dict[str, Any] = {"temperature": p.temperature, "top_p": p.top_p, "seed": p.seed % 2**31}
    for name in model.refuses:
        found.pop(name, None)
    return found


def served_by(said: str | None, name: str) -> str | None:
    """The model that served, where it is not `name`, which was asked for. What cannot be a model's id is no name."""
    try:
        return None if said == name else msgspec.convert(said, ModelId | None)
    except msgspec.ValidationError:
        return None


def upstream(said: Any) -> str | None:
    """Who served behind a router; what is no short printable name is none."""
    return said if isinstance(said, str) and 0 < len(said) <= UPSTREAM_CHARS and said.isprintable() else None


def count(tokens: int | None) -> int | None:
    """A senseless count is none at all, and will be estimated: it must not cost the caller a whole answer."""
    return tokens if tokens is not None and 0 <= tokens < LARGEST_COUNT else None


def event_reason(*words: Any) -> RunFailure:
    """An error inside a stream, by the words or statuses that it names itself with; the first that we know counts.

    What is the server's own trouble remains `error_event`.
    """
    for word in words:
        reason = EVENT_REASONS.get(str(word)) if isinstance(word, str | int) else None
        if reason is not None:
            return reason
    return "error_event"


def reason_of(status: int, *, context: bool, gone: bool = False) -> RunFailure:
    """An HTTP error as one of our closed words; `context`: its text says that the request is too long.

    `gone`: it says that there is no such model, which retires it for everybody. A 404 that does not say so may be a
    proxy's or a wrong address: the server is at fault, and the model may well be there.
    """
    if status in (400, 413, 422):
        return "context_too_long" if context else "caller_fault"
    match status:
        case 401 | 403:
            return "auth"
        case 402:
            return "payment"
        case 404:
            return "model_not_found" if gone else "server_error"
        case 429:
            return "rate_limited"
        case _ if status == 408 or status >= 500:
            return "server_error"
        case _:
            return "error_event"


def said_error(payload: bytes) -> dict[str, Any]:
    """The object in which an error describes itself; empty where it is none. Some servers write it without `error`."""
    try:
        whole = msgspec.json.decode(payload)
    except UNREADABLE:
        return {}
    inner = whole.get("error", whole) if isinstance(whole, dict) else {}
    if isinstance(inner, str):  # Ollama
        return {"message": inner}
    return cast("dict[str, Any]", inner) if isinstance(inner, dict) else {}


def retry_after_ms(headers: dict[str, str], now_s: float) -> int | None:
    """`retry-after-ms`, or `Retry-After` in seconds or as an HTTP date, a day at most; None: absent or senseless."""
    wait_ms = _wait_ms(headers, now_s)
    return None if wait_ms is None else min(max(0, wait_ms), MOST_WAIT_MS)


def _wait_ms(headers: dict[str, str], now_s: float) -> int | None:
    exact = headers.get("retry-after-ms")
    value = headers.get("retry-after")
    try:
        if exact is not None:
            return int(float(exact))
        if value is None:
            return None
        if value.strip().replace(".", "", 1).isdigit():
            return int(float(value) * 1000)
        return int((email.utils.parsedate_to_datetime(value).timestamp() - now_s) * 1000)
    except (ValueError, TypeError, OverflowError):
        return None
