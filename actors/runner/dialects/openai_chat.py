"""The OpenAI chat-completions dialect: request body, stream chunks, errors. Pure.

Source of the shapes: the vendors' OpenAPI documents (chat completions, streaming). A stream is whole only with a
`finish_reason`, and then `[DONE]` or a clean end of the body: some servers (`transformers serve`) leave `[DONE]` out,
and no text comes after its reason to end.
"""

from __future__ import annotations

from typing import Any

import msgspec

from understudy.actors.runner import dialect
from understudy.actors.runner.dialect import CallPiece, Piece, count, offered, sampling, turns
from understudy.actors.runner.dialects import openai_embeddings
from understudy.actors.runner.embedding import Embeddings
from understudy.actors.runner.sse import Lines
from understudy.messages.generate import Turn
from understudy.messages.run import RunFailure, RunModel
from understudy.messages.tools import AUTO, NONE, REQUIRED, Format, Tool
from understudy.messages.topology import Model

NAME: str = "openai"
PATH: str = "/chat/completions"
ACCEPT: str = "text/event-stream"
KNOWS_STOP: bool = True
TELLS_LENGTH: bool = True
NEEDS_DONE: bool = False
EMBEDDINGS: Embeddings | None = openai_embeddings
CHECK: str | None = "/models"
framing = Lines

TOO_LONG = (b"context_length_exceeded", b"maximum context length", b"exceed_context_size")
"""What OpenAI, vLLM and llama.cpp say of a request that does not fit into the context."""


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _ToolCall(msgspec.Struct, gc=False):
    index: int = 0
    id: str | None = None
    function: _Function | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    refusal: str | None = None
    reasoning: str | None = None  # OpenRouter, newer vLLM
    reasoning_content: str | None = None  # DeepSeek, llama.cpp, vLLM
    tool_calls: list[_ToolCall] | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


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
    return msgspec.json.encode(fields(run, name, model))


def fields(run: RunModel, name: str, model: Model) -> dict[str, Any]:
    """The request as fields, for those who add to it."""
    p = run.parameters
    found: dict[str, Any] = {
        "model": name,
        "messages": [_message(turn) for turn in turns(run)],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": p.max_tokens,
        **sampling(run, model),
    }
    if p.stop and "stop" not in model.refuses:
        found["stop"] = p.stop
    if offered(run):
        found["tools"] = [{"type": "function", "function": function(tool)} for tool in run.tools]
        found["tool_choice"] = _choice(run.tool_choice)
    if run.format is not None:
        found["response_format"] = _response_format(run.format)
    return found


def function(tool: Tool) -> dict[str, Any]:
    """A tool, as OpenAI and those after it describe one."""
    described = {"description": tool.description} if tool.description else {}
    return {"name": tool.name, **described, "parameters": tool.parameters}


def _message(turn: Turn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.tool_calls:
        calls = [(call.id, {"name": call.name, "arguments": call.arguments}) for call in turn.tool_calls]
        message["tool_calls"] = [{"id": i, "type": "function", "function": call} for i, call in calls]
    if turn.tool_call_id is not None:
        message["tool_call_id"] = turn.tool_call_id
    return message


def _choice(choice: str) -> Any:
    plain = choice in (AUTO, NONE, REQUIRED)
    return choice if plain else {"type": "function", "function": {"name": choice}}


def _response_format(wanted: Format) -> dict[str, Any]:
    if wanted.schema is None:
        return {"type": "json_object"}
    return {
        "type": "json_schema",
        "json_schema": {"name": wanted.name, "schema": wanted.schema, "strict": wanted.strict},
    }


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
        if (prompt := chunk.usage.prompt_tokens_details) is not None:
            piece.cached_tokens = count(prompt.cached_tokens)
        if (completion := chunk.usage.completion_tokens_details) is not None:
            piece.reasoning_tokens = count(completion.reasoning_tokens)
    if chunk.choices:
        choice = chunk.choices[0]
        delta = choice.delta
        if delta is not None:
            piece.text = delta.content or ""
            piece.reasoning = delta.reasoning or delta.reasoning_content or ""
            if delta.refusal:
                piece.text, piece.finish = piece.text + delta.refusal, "refusal"
            if delta.tool_calls:
                piece.calls = [_call(call) for call in delta.tool_calls]
        if choice.finish_reason is not None:
            refused = piece.finish == "refusal" or choice.finish_reason == "content_filter"
            piece.finish = "refusal" if refused else choice.finish_reason
            if choice.finish_reason == "error":
                piece.failure = "error_event"
    return piece


def _call(call: _ToolCall) -> CallPiece:
    function = call.function or _Function()
    return CallPiece(call.index, call.id or "", function.name or "", function.arguments or "")


def reason_of(status: int, payload: bytes) -> RunFailure:
    """See `Dialect`."""
    return dialect.reason_of(status, context=any(words in payload for words in TOO_LONG))
