"""The Anthropic Messages dialect: request body, typed events, errors. Pure.

Source of the shapes: the vendor's SDK (0.121). A stream is whole only when a `stop_reason` and then `message_stop` were
seen; there is no `[DONE]`. Usage is cumulative: the input's comes first, the output's with every `message_delta`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from understudy.actors.runner import dialect
from understudy.actors.runner.dialect import JSON_WORDS, UNREADABLE, CallPiece, Piece, count, offered, turns
from understudy.actors.runner.embedding import Embeddings
from understudy.actors.runner.sse import Lines
from understudy.messages.generate import Turn
from understudy.messages.run import RunFailure, RunModel
from understudy.messages.tools import AUTO, NONE, REQUIRED, Format, Tool, ToolCall
from understudy.messages.topology import Model

NAME: str = "anthropic"
PATH: str = "/messages"
ACCEPT: str = "text/event-stream"
TELLS_LENGTH: bool = True
NEEDS_DONE: bool = True
LEAST_TOKENS: int = 1
EMBEDDINGS: Embeddings | None = None
CHECK: str | None = "/models"
VERSION = "2023-06-01"
framing = Lines

FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "refusal",
    "tool_use": "tool_calls",
}
"""The neutral word of a `stop_reason`. An answer that ends for any other is not whole (`pause_turn`)."""

ID_CHARS = "_-"
CHOICES: dict[str, dict[str, Any]] = {AUTO: {"type": "auto"}, NONE: {"type": "none"}, REQUIRED: {"type": "any"}}
SCHEMA_WORDS = (
    "Answer with one JSON value and with nothing else: no words before or after it, no code fence. "
    "It must fit this JSON Schema: {}"
)


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_read_input_tokens: int | None = None


class _Message(msgspec.Struct, gc=False):
    model: str | None = None
    usage: _Usage | None = None


class _Text(msgspec.Struct, gc=False):
    """A block's beginning, or a delta: which fields there are depends on the type."""

    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    partial_json: str | None = None
    input: Any = None
    stop_reason: str | None = None


class _Error(msgspec.Struct, gc=False):
    type: Any = None


class _Event(msgspec.Struct, gc=False):
    type: str
    index: int = 0
    message: _Message | None = None
    content_block: _Text | None = None
    delta: _Text | None = None
    usage: _Usage | None = None
    error: _Error | None = None


_decoder = msgspec.json.Decoder(_Event)


def key_fields(key: str | None) -> dict[str, str]:
    """See `Dialect`."""
    fields = {"anthropic-version": VERSION}
    return {**fields, "x-api-key": key} if key else fields


def stops(wanted: tuple[str, ...]) -> tuple[str, ...]:
    """See `Dialect`. One of nothing but white space is an error."""
    return tuple(stop for stop in wanted if stop.strip())


def body(run: RunModel, name: str, model: Model) -> bytes:
    """See `Dialect`.

    There is no seed, temperature ends at 1, and newer models refuse top_p beside it. White space at the end of a text
    that is to be continued is refused too. There is a JSON mode for schemas of the vendor's own subset
    only, which `strict` promises; otherwise words ask for JSON.
    """
    p, conversation = run.parameters, turns(run)
    fields: dict[str, Any] = {
        "model": name,
        "messages": _messages(conversation),
        "stream": True,
        "max_tokens": p.max_tokens,
    }
    if "temperature" not in model.refuses:
        fields["temperature"] = min(p.temperature, 1.0)
    system = [turn.content for turn in conversation if turn.role == "system"]
    if run.format is not None and run.format.schema is not None and run.format.strict:
        fields["output_config"] = {"format": {"type": "json_schema", "schema": run.format.schema}}
    elif run.format is not None:
        system.append(_words(run.format))
    if system:
        fields["system"] = "\n\n".join(system)
    if known := dialect.sent_stops(model, stops(p.stop)):
        fields["stop_sequences"] = known
    if offered(run):
        fields["tools"] = [_tool(tool) for tool in run.tools]
        fields["tool_choice"] = CHOICES.get(run.tool_choice) or {"type": "tool", "name": run.tool_choice}
    return msgspec.json.encode(fields)


def _words(wanted: Format) -> str:
    if wanted.schema is None:
        return JSON_WORDS
    return SCHEMA_WORDS.format(msgspec.json.encode(wanted.schema).decode())


def _tool(tool: Tool) -> dict[str, Any]:
    described = {"description": tool.description} if tool.description else {}
    return {"name": tool.name, **described, "input_schema": tool.parameters}


def _messages(conversation: tuple[Turn, ...]) -> list[dict[str, Any]]:
    """Without the system's words. Results of tools are the user's; those of one turn's calls must stand together."""
    messages: list[dict[str, Any]] = []
    for turn in conversation:
        if turn.tool_call_id is not None:
            result = {
                "type": "tool_result",
                "tool_use_id": dialect.call_id(turn.tool_call_id, ID_CHARS),
                "content": turn.content,
            }
            if messages and isinstance(messages[-1]["content"], list) and messages[-1]["role"] == "user":
                messages[-1]["content"].append(result)
            else:
                messages.append({"role": "user", "content": [result]})
        elif turn.tool_calls:
            said = [{"type": "text", "text": turn.content}] if turn.content.strip() else []
            messages.append({"role": "assistant", "content": [*said, *map(_use, turn.tool_calls)]})
        elif turn.role != "system" and (turn.role != "assistant" or turn.content.strip()):  # an empty turn is an error
            messages.append({"role": turn.role, "content": turn.content})
    last = messages[-1] if messages else {}
    if last.get("role") == "assistant" and isinstance(last["content"], str):
        last["content"] = last["content"].rstrip()
    return messages


def _use(call: ToolCall) -> dict[str, Any]:
    given = msgspec.Raw(call.arguments.encode())
    return {"type": "tool_use", "id": dialect.call_id(call.id, ID_CHARS), "name": call.name, "input": given}


def read(data: bytes) -> Piece:
    """See `Dialect`."""
    try:
        event = _decoder.decode(data)
    except UNREADABLE:
        return Piece(failure="malformed")
    match event.type:
        case "message_start" if event.message is not None:
            piece = Piece(model=event.message.model)
            if event.message.usage is not None:  # its output_tokens are a beginning, not a count
                _count_prompt(piece, event.message.usage)
            return piece
        case "content_block_start" if event.content_block is not None:
            return _begun(event.index, event.content_block)
        case "content_block_delta" if event.delta is not None:
            return _more(event.index, event.delta)
        case "message_delta":
            reason = event.delta.stop_reason if event.delta is not None else None
            piece = Piece(finish=None if reason is None else FINISH.get(reason))
            if event.usage is not None:
                _count_prompt(piece, event.usage)
                piece.completion_tokens = count(event.usage.output_tokens)
            return piece
        case "message_stop":
            return Piece(done=True)
        case "error":
            return Piece(failure=dialect.event_reason(event.error.type if event.error is not None else None))
        case _:  # ping, ends of blocks, and what the vendor adds
            return Piece()


def _begun(index: int, block: _Text) -> Piece:
    match block.type:
        case "text":
            return Piece(text=block.text or "")
        case "thinking":
            return Piece(reasoning=block.thinking or "")
        case "tool_use":
            given = msgspec.json.encode(block.input).decode() if block.input else ""  # most servers send it in pieces
            return Piece(calls=[CallPiece(index, block.id or "", block.name or "", given)])
        case _:
            return Piece()


def _more(index: int, delta: _Text) -> Piece:
    match delta.type:
        case "text_delta":
            return Piece(text=delta.text or "")
        case "thinking_delta":
            return Piece(reasoning=delta.thinking or "")
        case "input_json_delta":
            return Piece(calls=[CallPiece(index, arguments=delta.partial_json or "")])
        case _:  # signatures, citations, and what the vendor adds
            return Piece()


def _count_prompt(piece: Piece, usage: _Usage) -> None:
    """What was read from a cache or written into one is part of the prompt, and not of `input_tokens`.

    A later event may repeat one of the three alone, so they are put together at the end.
    """
    piece.fresh_tokens = count(usage.input_tokens)
    piece.written_tokens = count(usage.cache_creation_input_tokens)
    piece.cached_tokens = count(usage.cache_read_input_tokens)


def reason_of(status: int, payload: bytes) -> RunFailure:
    """See `Dialect`. An account without credit is a 400, in words."""
    if b'"billing_error"' in payload or b"credit balance is too low" in payload:
        return "payment"
    context = b"prompt is too long" in payload or b"exceed context limit" in payload
    gone = status == 404 and dialect.said_error(payload).get("type") == "not_found_error"
    return dialect.reason_of(status, context=context, gone=gone)
