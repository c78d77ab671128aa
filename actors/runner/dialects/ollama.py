"""Ollama's own dialect, `/api/chat`: request body, JSON lines, errors. Pure.

Source of the shapes: the server's source and OpenAPI document (0.33). Its OpenAI route takes no context size and cuts
long prompts silently, so this one is for anything that matters: `num_ctx` is the model's `context_tokens`, and what
does not fit is refused (`truncate`, `shift`).
An answer is whole only with the line that says `done` and why; an error after the first line comes under status 200, in
a line of its own. Counts may be absent.
"""

from __future__ import annotations

from typing import Any

import msgspec

from understudy.actors.runner import dialect
from understudy.actors.runner.dialect import UNREADABLE, CallPiece, Piece, count, offered, sampling, turns
from understudy.actors.runner.dialects import ollama_embeddings, openai_chat
from understudy.actors.runner.dialects.openai_chat import function
from understudy.actors.runner.embedding import Embeddings
from understudy.actors.runner.json_lines import JsonLines
from understudy.messages.generate import Turn
from understudy.messages.run import RunFailure, RunModel
from understudy.messages.tools import NONE
from understudy.messages.topology import Model

NAME: str = "ollama"
PATH: str = "/api/chat"
ACCEPT: str = "application/x-ndjson"
TELLS_LENGTH: bool = True
NEEDS_DONE: bool = True
LEAST_TOKENS: int = 1
EMBEDDINGS: Embeddings | None = ollama_embeddings
CHECK: str | None = None
framing = JsonLines

FINISH = ("stop", "length")
"""A `done_reason` of a whole answer. Without one the server did not say that it is (an old server)."""


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: dict[str, Any] | None = None


class _ToolCall(msgspec.Struct, gc=False):
    id: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct, gc=False):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Line(msgspec.Struct, gc=False):
    message: _Message | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: int | None = None
    eval_count: int | None = None
    model: str | None = None
    error: Any = None


TOO_LONG = (b"context length", b"exceed_context_size", b"exceeds the available context")
"""What the server and, behind it, llama.cpp say of a prompt that does not fit."""

_decoder = msgspec.json.Decoder(_Line)


def key_fields(key: str | None) -> dict[str, str]:
    """See `Dialect`. Ollama itself knows no keys; a proxy before it may."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def stops(wanted: tuple[str, ...]) -> tuple[str, ...]:
    """See `Dialect`."""
    return wanted


def body(run: RunModel, name: str, model: Model) -> bytes:
    """See `Dialect`."""
    p = run.parameters
    options: dict[str, Any] = {
        "num_ctx": model.context_tokens,
        "num_predict": p.max_tokens,
        **sampling(run, model),
    }
    if known := dialect.sent_stops(model, p.stop):
        options["stop"] = known
    names = {call.id: call.name for turn in run.messages for call in turn.tool_calls}
    messages = [_message(turn, names) for turn in turns(run)]
    fields: dict[str, Any] = {"model": name, "messages": messages, "stream": True, "options": options}
    if offered(run) and run.tool_choice != NONE:
        fields["tools"] = [{"type": "function", "function": function(tool)} for tool in run.tools]
    if run.format is not None:
        fields["format"] = run.format.schema or "json"
    return msgspec.json.encode({**fields, "truncate": False, "shift": False})


def _message(turn: Turn, names: dict[str, str]) -> dict[str, Any]:
    """Results of tools are told apart by the tool's name; arguments are values, not their text."""
    message: dict[str, Any] = {"role": turn.role, "content": turn.content}
    if turn.tool_calls:
        calls = [{"name": call.name, "arguments": msgspec.Raw(call.arguments.encode())} for call in turn.tool_calls]
        message["tool_calls"] = [{"function": call} for call in calls]
    if turn.tool_call_id is not None:
        message["tool_name"] = names[turn.tool_call_id]
    return message


def read(data: bytes) -> Piece:
    """See `Dialect`."""
    try:
        line = _decoder.decode(data)
    except UNREADABLE:
        return Piece(failure="malformed")
    if line.error is not None:
        return Piece(failure="error_event")
    message = line.message or _Message()
    text, thinking = message.content or "", message.thinking or ""
    calls = [_call(call) for call in message.tool_calls] if message.tool_calls else ()
    if not line.done:
        return Piece(text=text, reasoning=thinking, calls=calls, model=line.model)
    return Piece(
        text=text,
        reasoning=thinking,
        calls=calls,
        finish=line.done_reason if line.done_reason in FINISH else None,
        prompt_tokens=count(line.prompt_eval_count),
        completion_tokens=count(line.eval_count),
        model=line.model,
        done=True,
    )


def _call(call: _ToolCall) -> CallPiece:
    """A call comes whole, and not every server numbers them."""
    function = call.function or _Function()
    arguments = msgspec.json.encode(function.arguments or {}).decode()
    return CallPiece(0, call.id or "", function.name or "", arguments, whole=True)


def reason_of(status: int, payload: bytes) -> RunFailure:
    """See `Dialect`. A 404 has two wordings, and both mean that the model is not there.

    That a model knows no tools is a 400, but the request is sound: another model may serve it.
    """
    if status == 400 and b"does not support tools" in payload:
        return "no_endpoints"
    gone = status == 404 and openai_chat.NO_MODEL.match(str(dialect.said_error(payload).get("message", ""))) is not None
    return dialect.reason_of(status, context=any(words in payload for words in TOO_LONG), gone=gone)
