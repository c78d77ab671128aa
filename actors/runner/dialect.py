"""What all dialects share: the meaning of one field of an answer, and how text of another model is continued. Pure.

A dialect is a module of `dialects/` with the functions of `Dialect`. It turns a request into a body and fields of an
answer into `Piece`s; the edge does the HTTP.
"""

from __future__ import annotations

import email.utils
from collections.abc import Iterator
from typing import Any, Protocol

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
CONTINUE_WORDS = "Continue exactly from where this text stops, without repeating any of it: <<<{}>>>"


class CallPiece(msgspec.Struct, gc=False):
    """A piece of a tool call: `arguments` is the next part of their text. `index` is the provider's own.

    `whole`: it is a call of its own, whatever its index.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""
    whole: bool = False


class Piece(msgspec.Struct, gc=False):
    """What one field of an answer meant.

    `finish`: `stop`, `length`, `refusal`, `tool_calls`, or the provider's own word.
    """

    text: str = ""
    reasoning: str = ""
    calls: list[CallPiece] = []
    finish: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    failure: RunFailure | None = None
    cached_tokens: int | None = None  # of the prompt's
    reasoning_tokens: int | None = None  # of the completion's
    cost_usd: str | None = None  # the provider's own figure
    model: str | None = None
    done: bool = False  # the dialect's terminator: an answer is whole only with it and a `finish`

    def merge(self, later: Piece) -> None:
        """Add what a later field meant, except its text, which has gone out: this is the end's side of a stream."""
        self.done = later.done
        self.failure = later.failure
        if later.finish is not None and self.finish != "refusal":
            self.finish = later.finish
        if later.prompt_tokens is not None:
            self.prompt_tokens = later.prompt_tokens
        if later.completion_tokens is not None:
            self.completion_tokens = later.completion_tokens
        self.cached_tokens = self.cached_tokens if later.cached_tokens is None else later.cached_tokens
        self.reasoning_tokens = self.reasoning_tokens if later.reasoning_tokens is None else later.reasoning_tokens
        self.cost_usd = self.cost_usd if later.cost_usd is None else later.cost_usd
        if later.model is not None:
            self.model = later.model


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
    KNOWS_STOP: bool  # the provider ends an answer at stop strings
    TELLS_LENGTH: bool  # every server of the dialect says when the limit of tokens has cut an answer
    NEEDS_DONE: bool  # a reason to end is not enough: the terminator must follow
    EMBEDDINGS: Embeddings | None
    CHECK: str | None  # what a GET with the key is answered 200 for, and 401 or 403 without it, at no cost

    @staticmethod
    def key_fields(key: str | None) -> dict[str, str]:
        """Header fields that the provider wants, the key's among them."""
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


def count(tokens: int | None) -> int | None:
    """A senseless count is none at all, and will be estimated: it must not cost the caller a whole answer."""
    return tokens if tokens is not None and 0 <= tokens < LARGEST_COUNT else None


def reason_of(status: int, *, context: bool) -> RunFailure:
    """An HTTP error as one of our closed words; `context`: its text says that the request is too long."""
    if status in (400, 413, 422):
        return "context_too_long" if context else "caller_fault"
    match status:
        case 401 | 403:
            return "auth"
        case 402:
            return "payment"
        case 404:
            return "model_not_found"
        case 429:
            return "rate_limited"
        case _ if status == 408 or status >= 500:
            return "server_error"
        case _:
            return "error_event"


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
