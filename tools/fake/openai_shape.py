"""OpenAI chat completions as the fake speaks it, OpenRouter's errors included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from understudy.tools.fake.calls import Fragment
from understudy.tools.fake.exchange import BadRequest, Exchange, line
from understudy.tools.fake.script import ChatRequest, Fault

PATH: str = "/v1/chat/completions"
STREAM_TYPE: str = "text/event-stream; charset=utf-8"
COMMENT: bytes = b": OPENROUTER PROCESSING\n\n"
ID: str = "chatcmpl-fake"


def key_of(headers: Mapping[str, str]) -> str | None:
    """Return the key that a request came with."""
    return headers.get("Authorization", "").removeprefix("Bearer ") or None


def request(data: bytes, headers: Mapping[str, str]) -> ChatRequest:
    """Read a request body; raise msgspec's errors or BadRequest."""
    found = msgspec.json.decode(data, type=ChatRequest)
    if found.stream_options is not None and not found.stream:
        text = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise BadRequest(text, param="stream_options")
    return found


def problem(status: int, message: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """Return an error as OpenAI writes it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def fault_error(fault: Fault) -> dict[str, Any]:
    """Return the record's JSON error, or a plain one for its status."""
    if isinstance(fault.body, dict):
        return fault.body
    if fault.status < 500 and fault.status != 200:
        return problem(fault.status, f"The fake provider refuses with {fault.status}.")
    return problem(500, "The fake provider failed.")


def _head(x: Exchange, kind: str) -> dict[str, Any]:
    """Return the fields that every answer object begins with."""
    return {"id": x.id, "object": kind, "created": x.created, "model": x.model, "system_fingerprint": "fp_fake"}


def _usage(x: Exchange) -> dict[str, int]:
    prompt, completion = x.reply.prompt_tokens, x.reply.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _wants_usage(x: Exchange) -> bool:
    options = x.request.stream_options
    return options is not None and options.include_usage and not x.fault.no_usage


def _chunk(x: Exchange, delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    body = {**_head(x, "chat.completion.chunk"), "choices": [choice]}
    return {**body, "usage": None} if _wants_usage(x) else body


def opening(x: Exchange) -> bytes:
    """Return what comes before the first token."""
    content = "" if x.fault.refusal is None else None
    aside = {"reasoning": x.fault.reasoning} if x.fault.reasoning else {}
    return line(_chunk(x, {"role": "assistant", "content": content, "refusal": None, **aside}))


def token(x: Exchange, text: str) -> bytes:
    """Return one piece of the text."""
    return line(_chunk(x, {"content" if x.fault.refusal is None else "refusal": text}))


def calls(x: Exchange) -> list[bytes]:
    """Return the tool calls in pieces."""
    return [line(_chunk(x, {"tool_calls": [_piece(x, piece)]})) for piece in x.reply.calls]


def _piece(x: Exchange, piece: Fragment) -> dict[str, Any]:
    """Return a piece of a call: id and name come with the first one, and from some servers with every one."""
    if not (piece.opening or x.fault.repeat_ids):
        return {"index": piece.index, "function": {"arguments": piece.arguments}}
    function = {"name": piece.name, "arguments": piece.arguments}
    return {"index": piece.index, "id": piece.id, "type": "function", "function": function}


def closing(x: Exchange) -> tuple[bytes, bytes]:
    """Return why it ends, and what comes after."""
    if x.fault.unfinished:
        return line(_chunk(x, {}, x.reply.finish)), b""
    usage = line({**_head(x, "chat.completion.chunk"), "choices": [], "usage": _usage(x)}) if _wants_usage(x) else b""
    return line(_chunk(x, {}, x.reply.finish)), usage + b"data: [DONE]\n\n"


def broken(event: bytes) -> bytes:
    """Return an event whose JSON is cut short."""
    return event[:-5] + b"\n\n"


def error_event(x: Exchange) -> bytes:
    """Return the error that comes inside a stream under status 200."""
    error = fault_error(x.fault)
    if x.fault.error_shape == "openai":
        return line(error)
    return line({**_chunk(x, {"role": "assistant", "content": ""}, "error"), **error})


def whole(x: Exchange) -> dict[str, Any]:
    """Return the answer of a request without stream, an error under 200 included."""
    fault = x.fault
    if fault.error_event_after == 0:
        return fault_error(fault)
    text, refused, finish = "".join(x.reply.tokens), fault.refusal is not None, x.reply.finish
    choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish}
    if fault.error_event_after is not None:
        text = "".join(x.reply.tokens[: fault.error_event_after])
        choice |= {"finish_reason": "error", "error": fault_error(fault).get("error")}
    message: dict[str, Any] = {"role": "assistant", "content": None if refused else text}
    message["refusal"] = text if refused else None
    if x.reply.calls:
        message["tool_calls"] = [
            {"id": f"call_fake_{i}", "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for i, call in enumerate(fault.calls)
        ]
    choice["message"] = message
    body = {**_head(x, "chat.completion"), "choices": [choice]}
    return body if fault.no_usage else {**body, "usage": _usage(x)}
