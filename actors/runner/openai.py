"""The OpenAI chat-completions dialect: request body, stream chunks, errors. Pure; the edge does the HTTP.

Source of the shapes: the vendors' OpenAPI documents (chat completions, streaming). A stream is whole only when a
`finish_reason` and then `[DONE]` were seen.
"""

from __future__ import annotations

import email.utils
from typing import Any

import msgspec

from understudy.messages.run import RunFailure, RunModel
from understudy.messages.units import ModelId

MOST_WAIT_MS = 86_400_000
"""A provider that asks to be left alone for longer than a day is taken to have said a day."""
LARGEST_COUNT = 2**53
"""Counts of tokens from here on, or below 0, are no counts; JSON readers elsewhere hold none larger exactly."""
CONTINUE_WORDS = "Continue exactly from where this text stops, without repeating any of it: <<<{}>>>"


class _Function(msgspec.Struct, gc=False):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Function | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None
    model: str | None = None


_decoder = msgspec.json.Decoder(_Chunk)


class Piece(msgspec.Struct, gc=False):
    """What one data field meant."""

    text: str = ""
    finish: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    failure: RunFailure | None = None
    model: str | None = None
    done: bool = False

    def merge(self, later: Piece) -> None:
        """Add what a later field meant, except its text, which has gone out: this is the end's side of a stream."""
        self.done = later.done
        self.failure = later.failure
        if later.finish is not None and self.finish != "refusal":
            self.finish = later.finish
        if later.prompt_tokens is not None or later.completion_tokens is not None:
            self.prompt_tokens, self.completion_tokens = later.prompt_tokens, later.completion_tokens
        if later.model is not None:
            self.model = later.model


def body(run: RunModel, name: str) -> bytes:
    """The request. Always streamed, also when the caller wants one reply: only so can a broken answer be continued."""
    messages = [{"role": turn.role, "content": turn.content} for turn in run.messages]
    if run.prefill and run.continuation == "native":
        messages.append({"role": "assistant", "content": run.prefill})
    elif run.prefill:
        messages.append({"role": "user", "content": CONTINUE_WORDS.format(run.prefill)})
    p = run.parameters
    fields: dict[str, Any] = {
        "model": name,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": p.max_tokens,
        "temperature": p.temperature,
        "top_p": p.top_p,
        "seed": p.seed % 2**31,
    }
    if p.stop:
        fields["stop"] = list(p.stop)
    return msgspec.json.encode(fields)


def read(data: bytes) -> Piece:
    """One data field. A body that is not the dialect is the failure `malformed`."""
    if data == b"[DONE]":
        return Piece(done=True)
    try:
        chunk = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Piece(failure="malformed")
    if chunk.error is not None:
        return Piece(failure="error_event")
    piece = Piece(model=chunk.model)
    if chunk.usage is not None:
        piece.prompt_tokens = _count(chunk.usage.prompt_tokens)
        piece.completion_tokens = _count(chunk.usage.completion_tokens)
    if chunk.choices:
        choice = chunk.choices[0]
        delta = choice.delta
        if delta is not None:
            piece.text = delta.content or ""
            if delta.refusal:
                piece.text, piece.finish = piece.text + delta.refusal, "refusal"
        if choice.finish_reason is not None:
            refused = piece.finish == "refusal" or choice.finish_reason == "content_filter"
            piece.finish = "refusal" if refused else choice.finish_reason
            if choice.finish_reason == "error":
                piece.failure = "error_event"
    return piece


def served_by(said: str | None, name: str) -> str | None:
    """The model that served, where it is not `name`, which was asked for. What cannot be a model's id is no name."""
    try:
        return None if said == name else msgspec.convert(said, ModelId | None)
    except msgspec.ValidationError:
        return None


def _count(tokens: int | None) -> int | None:
    """A senseless count is none at all, and will be estimated: it must not cost the caller a whole answer."""
    return tokens if tokens is not None and 0 <= tokens < LARGEST_COUNT else None


def reason_of(status: int, payload: bytes) -> RunFailure:
    """An HTTP error as one of our closed words."""
    if status in (400, 413, 422):
        return "context_too_long" if _is_context(payload) else "caller_fault"
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


def _is_context(payload: bytes) -> bool:
    return b"context_length_exceeded" in payload or b"maximum context length" in payload


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
