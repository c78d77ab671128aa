"""The OpenAI chat-completions dialect: request body, stream chunks, errors. Pure.

Source of the shapes: the vendors' OpenAPI documents (chat completions, streaming). A stream is whole only with a
`finish_reason`, and then `[DONE]` or a clean end of the body: some servers (`transformers serve`) leave `[DONE]` out,
and no text comes after its reason to end.
"""

from __future__ import annotations

import re
from typing import Any, cast

import msgspec

from understudy.actors.runner import dialect
from understudy.actors.runner.dialect import (
    JSON_WORDS,
    UNREADABLE,
    CallPiece,
    Piece,
    count,
    offered,
    sampling,
    turns,
    upstream,
)
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
TELLS_LENGTH: bool = True
NEEDS_DONE: bool = False
LEAST_TOKENS: int = 1
EMBEDDINGS: Embeddings | None = openai_embeddings
CHECK: str | None = "/models"
framing = Lines

MOST_STOPS = 4
FINISH = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "refusal",
    **dict.fromkeys(("eos", "eos_token", "stop_sequence"), "stop"),  # text-generation-inference and its like
    "max_tokens": "length",
}
"""The neutral word of a `finish_reason`. An answer that ends for any other is not whole (`abort`, '')."""
TOO_LONG = (b"context_length_exceeded", b"maximum context length", b"exceed_context_size")
"""What OpenAI, vLLM and llama.cpp say of a request that does not fit into the context."""


NO_MODEL = re.compile(r"^(the )?model\b.{1,300}\b(does not exist|not found)\b", re.IGNORECASE | re.DOTALL)
"""How a 404 says that there is no such model."""


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
    provider: Any = None  # a router says who serves


_decoder = msgspec.json.Decoder(_Chunk)


def key_fields(key: str | None) -> dict[str, str]:
    """See `Dialect`."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def stops(wanted: tuple[str, ...]) -> tuple[str, ...]:
    """See `Dialect`. More are an error."""
    return wanted[:MOST_STOPS]


def body(run: RunModel, name: str, model: Model) -> bytes:
    """See `Dialect`."""
    return msgspec.json.encode(fields(run, name, model))


def fields(run: RunModel, name: str, model: Model) -> dict[str, Any]:
    """The request as fields, for those who add to it."""
    conversation = turns(run)
    limit = "max_completion_tokens" if "max_tokens" in model.refuses else "max_tokens"
    found: dict[str, Any] = {
        "model": name,
        "messages": [_message(turn) for turn in (*json_words(run, conversation), *conversation)],
        "stream": True,
        "stream_options": {"include_usage": True},
        limit: run.parameters.max_tokens,
        **sampling(run, model),
    }
    if known := dialect.sent_stops(model, stops(run.parameters.stop)):
        found["stop"] = known
    if offered(run):
        found["tools"] = [{"type": "function", "function": function(tool)} for tool in run.tools]
        found["tool_choice"] = _choice(run.tool_choice)
    if run.format is not None:
        found["response_format"] = _response_format(run.format)
    return found


def json_words(run: RunModel, conversation: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """A line of ours where JSON without a schema is wanted and no turn says so: OpenAI then answers with an error."""
    if run.format is None or run.format.schema is not None:
        return ()
    said = any("json" in turn.content.lower() for turn in conversation)
    return () if said else (Turn(role="system", content=JSON_WORDS),)


def function(tool: Tool) -> dict[str, Any]:
    """A tool, as OpenAI and those after it describe one."""
    described = {"description": tool.description} if tool.description else {}
    return {"name": tool.name, **described, "parameters": tool.parameters}


def _message(turn: Turn) -> dict[str, Any]:
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.tool_calls:
        calls = [
            (dialect.call_id(call.id), {"name": call.name, "arguments": call.arguments}) for call in turn.tool_calls
        ]
        message["tool_calls"] = [{"id": i, "type": "function", "function": call} for i, call in calls]
    if turn.tool_call_id is not None:
        message["tool_call_id"] = dialect.call_id(turn.tool_call_id)
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
    except UNREADABLE:
        return Piece(failure="malformed")
    if chunk.error is not None:
        return Piece(failure=error_reason(chunk.error))
    piece = Piece(model=chunk.model, upstream=upstream(chunk.provider))
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
                piece.text, piece.refused = piece.text + delta.refusal, True
            if delta.tool_calls:
                piece.calls = [_call(call) for call in delta.tool_calls]
        if choice.finish_reason is not None:
            piece.finish = FINISH.get(choice.finish_reason)
            if choice.finish_reason == "error":
                piece.failure = "error_event"
    return piece


def error_reason(error: Any) -> RunFailure:
    """An error inside a stream; OpenRouter's tells more in its metadata. Its code may be a number."""
    if not isinstance(error, dict):
        return "error_event"
    said = cast("dict[str, Any]", error)
    metadata = said.get("metadata")
    more = cast("dict[str, Any]", metadata).get("error_type") if isinstance(metadata, dict) else None
    return dialect.event_reason(more, said.get("code"), said.get("type"))


def _call(call: _ToolCall) -> CallPiece:
    function = call.function or _Function()
    return CallPiece(call.index, call.id or "", function.name or "", function.arguments or "")


def reason_of(status: int, payload: bytes) -> RunFailure:
    """See `Dialect`."""
    gone = status == 404 and is_gone(dialect.said_error(payload))
    return dialect.reason_of(status, context=any(words in payload for words in TOO_LONG), gone=gone)


def is_gone(error: dict[str, Any]) -> bool:
    """OpenAI's code; or the sentence of servers that have no code for it (vLLM, llama.cpp, Ollama)."""
    return error.get("code") == "model_not_found" or NO_MODEL.search(str(error.get("message", ""))) is not None
