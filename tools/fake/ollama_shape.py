"""Ollama's `/api/chat` as the fake speaks it: JSON lines, counts in the last one, errors as `{"error": text}`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from understudy.tools.fake.calls import Call
from understudy.tools.fake.exchange import Exchange, message_of
from understudy.tools.fake.script import ChatRequest, Fault, Message

PATH: str = "/api/chat"
STREAM_TYPE: str = "application/x-ndjson"
COMMENT: bytes = b"\n"
ID: str = "ollama-fake"
encode = msgspec.json.encode


class _Options(Struct, frozen=True):
    num_predict: int | None = None
    num_ctx: int | None = None
    stop: list[str] | None = None


class _Request(Struct):
    model: str
    messages: list[Message] = []
    stream: bool = True
    options: _Options = _Options()
    tools: list[Any] | None = None
    format: str | dict[str, Any] | None = None


def key_of(headers: Mapping[str, str]) -> str | None:
    """Return the key that a request came with; only a proxy before the server wants one."""
    return headers.get("Authorization", "").removeprefix("Bearer ") or None


def request(data: bytes, headers: Mapping[str, str]) -> ChatRequest:
    """Read a request body; raise msgspec's errors. Below 1 `num_predict` is no limit."""
    found = msgspec.json.decode(data, type=_Request)
    limit = found.options.num_predict
    return ChatRequest(
        model=found.model,
        messages=found.messages or [Message("user", "")],
        stream=found.stream,
        max_tokens=limit if limit is not None and limit > 0 else None,
        stop=found.options.stop,
        tools=found.tools,
        response_format=None if found.format is None else {"type": "json"},
    )


def problem(status: int, message: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """Return an error as Ollama writes it; a model that is not there has its own words."""
    return {"error": "model 'it' not found" if code == "model_not_found" else message}


def fault_error(fault: Fault) -> dict[str, Any]:
    """Return a record's error in this envelope."""
    error = fault.body.get("error") if isinstance(fault.body, dict) else None
    if isinstance(error, dict) and error.get("code") == "context_length_exceeded":
        return problem(400, "the input length exceeds the context length")
    return problem(fault.status, message_of(fault))


def _line(x: Exchange, text: str, **fields: Any) -> bytes:
    return encode(_body(x, text, **fields)) + b"\n"


def _body(x: Exchange, text: str, tool_calls: list[dict[str, Any]] | None = None, **fields: Any) -> dict[str, Any]:
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(x.created))
    message = {"role": "assistant", "content": text, **({"tool_calls": tool_calls} if tool_calls else {})}
    return {"model": x.model, "created_at": at, "message": message, "done": False, **fields}


def _end(x: Exchange) -> dict[str, Any]:
    """Return what the last line says; a server that has the prompt cached leaves its count out."""
    why = {"content_filter": "stop", "tool_calls": "stop"}.get(x.reply.finish, x.reply.finish)
    spans = dict.fromkeys(("total_duration", "load_duration", "prompt_eval_duration", "eval_duration"), 1_000_000)
    end = {"done": True, "done_reason": why, **spans}
    if x.fault.unfinished:
        del end["done_reason"]
    if x.fault.no_usage:
        return end
    return {**end, "prompt_eval_count": x.reply.prompt_tokens, "eval_count": x.reply.completion_tokens}


def opening(x: Exchange) -> bytes:
    """Return what comes before the first token: nothing."""
    return b""


def token(x: Exchange, text: str) -> bytes:
    """Return one piece of the text."""
    return _line(x, text)


def calls(x: Exchange) -> list[bytes]:
    """Return the tool calls: each comes whole, with values and not their text as arguments."""
    made = enumerate(x.fault.calls if x.reply.calls else ())
    return [encode(_body(x, "", tool_calls=[_called(i, call)])) + b"\n" for i, call in made]


def _called(index: int, call: Call) -> dict[str, Any]:
    arguments = msgspec.json.decode(call.arguments or "{}")
    return {"function": {"index": index, "name": call.name, "arguments": arguments}}


def closing(x: Exchange) -> tuple[bytes, bytes]:
    """Return why it ends; nothing comes after."""
    return _line(x, "", **_end(x)), b""


def broken(event: bytes) -> bytes:
    """Return a line whose JSON is cut short."""
    return event[:-4] + b"\n"


def error_event(x: Exchange) -> bytes:
    """Return the error that comes inside a stream under status 200."""
    return encode(fault_error(x.fault)) + b"\n"


def whole(x: Exchange) -> dict[str, Any]:
    """Return the answer of a request without stream."""
    if x.fault.error_event_after is not None:
        return fault_error(x.fault)
    made = enumerate(x.fault.calls if x.reply.calls else ())
    return _body(x, "".join(x.reply.tokens), tool_calls=[_called(i, call) for i, call in made], **_end(x))
