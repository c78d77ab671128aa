"""The OpenAI chat-completions dialect: request body, stream chunks, errors. Pure.

Source of the shapes: the vendors' OpenAPI documents (chat completions, streaming). A stream is whole only when a
`finish_reason` and then `[DONE]` were seen.
"""

from __future__ import annotations

from typing import Any

import msgspec

from understudy.actors.runner import dialect
from understudy.actors.runner.dialect import Piece, count, turns
from understudy.actors.runner.sse import Lines
from understudy.messages.run import RunFailure, RunModel
from understudy.messages.topology import Model

NAME: str = "openai"
PATH: str = "/chat/completions"
ACCEPT: str = "text/event-stream"
framing = Lines

TOO_LONG = (b"context_length_exceeded", b"maximum context length", b"exceed_context_size")
"""What OpenAI, vLLM and llama.cpp say of a request that does not fit into the context."""


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


def key_fields(key: str | None) -> dict[str, str]:
    """See `Dialect`."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def body(run: RunModel, name: str, model: Model) -> bytes:
    """See `Dialect`."""
    return msgspec.json.encode(fields(run, name))


def fields(run: RunModel, name: str) -> dict[str, Any]:
    """The request as fields, for those who add to it."""
    p = run.parameters
    found: dict[str, Any] = {
        "model": name,
        "messages": turns(run),
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": p.max_tokens,
        "temperature": p.temperature,
        "top_p": p.top_p,
        "seed": p.seed % 2**31,
    }
    if p.stop:
        found["stop"] = list(p.stop)
    return found


def read(data: bytes) -> Piece:
    """See `Dialect`."""
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
        piece.prompt_tokens = count(chunk.usage.prompt_tokens)
        piece.completion_tokens = count(chunk.usage.completion_tokens)
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


def reason_of(status: int, payload: bytes) -> RunFailure:
    """See `Dialect`."""
    return dialect.reason_of(status, context=any(words in payload for words in TOO_LONG))
