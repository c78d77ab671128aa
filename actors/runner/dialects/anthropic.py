"""The Anthropic Messages dialect: request body, typed events, errors. Pure.

Source of the shapes: the vendor's SDK (0.121). A stream is whole only when a `stop_reason` and then `message_stop` were
seen; there is no `[DONE]`. Usage is cumulative: the input's comes first, the output's with every `message_delta`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from understudy.actors.runner import dialect
from understudy.actors.runner.dialect import Piece, count, turns
from understudy.actors.runner.sse import Lines
from understudy.messages.run import RunFailure, RunModel
from understudy.messages.topology import Model

NAME: str = "anthropic"
PATH: str = "/messages"
ACCEPT: str = "text/event-stream"
VERSION = "2023-06-01"
framing = Lines

FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
}
"""The neutral word of a `stop_reason`. An answer that ends for any other is not whole (`pause_turn`)."""


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _Message(msgspec.Struct, gc=False):
    model: str | None = None
    usage: _Usage | None = None


class _Text(msgspec.Struct, gc=False):
    type: str | None = None
    text: str | None = None
    stop_reason: str | None = None


class _Event(msgspec.Struct, gc=False):
    type: str
    message: _Message | None = None
    content_block: _Text | None = None
    delta: _Text | None = None
    usage: _Usage | None = None


_decoder = msgspec.json.Decoder(_Event)


def key_fields(key: str | None) -> dict[str, str]:
    """See `Dialect`."""
    fields = {"anthropic-version": VERSION}
    return {**fields, "x-api-key": key} if key else fields


def body(run: RunModel, name: str, model: Model) -> bytes:
    """See `Dialect`.

    There is no seed, temperature ends at 1, and newer models refuse top_p beside it. White space at the end of a text
    that is to be continued is refused too.
    """
    p, conversation = run.parameters, turns(run)
    messages = [turn for turn in conversation if turn["role"] != "system"]
    if messages and messages[-1]["role"] == "assistant":
        messages[-1]["content"] = messages[-1]["content"].rstrip()
        if not messages[-1]["content"]:
            messages.pop()
    fields: dict[str, Any] = {
        "model": name,
        "messages": messages,
        "stream": True,
        "max_tokens": p.max_tokens,
        "temperature": min(p.temperature, 1.0),
    }
    system = "\n\n".join(turn["content"] for turn in conversation if turn["role"] == "system")
    if system:
        fields["system"] = system
    if p.stop:
        fields["stop_sequences"] = list(p.stop)
    return msgspec.json.encode(fields)


def read(data: bytes) -> Piece:
    """See `Dialect`."""
    try:
        event = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Piece(failure="malformed")
    match event.type:
        case "message_start" if event.message is not None:
            piece = Piece(model=event.message.model)
            if event.message.usage is not None:  # its output_tokens are a beginning, not a count
                piece.prompt_tokens = _prompt(event.message.usage)
            return piece
        case "content_block_start":
            return Piece(text=_text(event.content_block, "text"))
        case "content_block_delta":
            return Piece(text=_text(event.delta, "text_delta"))
        case "message_delta":
            reason = event.delta.stop_reason if event.delta is not None else None
            piece = Piece(finish=None if reason is None else FINISH.get(reason))
            if event.usage is not None:
                piece.prompt_tokens = _prompt(event.usage)
                piece.completion_tokens = count(event.usage.output_tokens)
            return piece
        case "message_stop":
            return Piece(done=True)
        case "error":
            return Piece(failure="error_event")
        case _:  # ping, ends of blocks, and what the vendor adds
            return Piece()


def _text(part: _Text | None, kind: str) -> str:
    return part.text or "" if part is not None and part.type == kind else ""


def _prompt(usage: _Usage) -> int | None:
    """What was read from a cache or written into one is part of the prompt, and not of `input_tokens`."""
    fresh = count(usage.input_tokens)
    if fresh is None:
        return None
    return count(fresh + (count(usage.cache_creation_input_tokens) or 0) + (count(usage.cache_read_input_tokens) or 0))


def reason_of(status: int, payload: bytes) -> RunFailure:
    """See `Dialect`. An account without credit is a 400, in words."""
    if b'"billing_error"' in payload or b"credit balance is too low" in payload:
        return "payment"
    context = b"prompt is too long" in payload or b"exceed context limit" in payload
    return dialect.reason_of(status, context=context)
