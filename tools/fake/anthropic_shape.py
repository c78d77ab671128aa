"""Anthropic Messages as the fake speaks it: typed events, cumulative usage, no `[DONE]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from understudy.tools.fake.calls import Fragment
from understudy.tools.fake.exchange import BadRequest, Exchange, message_of
from understudy.tools.fake.script import ChatRequest, Fault, Message, Part

PATH: str = "/v1/messages"
STREAM_TYPE: str = "text/event-stream; charset=utf-8"
COMMENT: bytes = b'event: ping\ndata: {"type": "ping"}\n\n'
ID: str = "msg_fake"
STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use"}
ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    504: "timeout_error",
    529: "overloaded_error",
}
encode = msgspec.json.encode


class _Turn(Struct):
    role: Literal["user", "assistant"]
    content: Annotated[str, Meta(min_length=1)] | Annotated[list[Part], Meta(min_length=1)]


class _Tool(Struct):
    name: str
    input_schema: dict[str, Any]


class _OutputConfig(Struct):
    format: dict[str, Any] | None = None


class _Request(Struct):
    model: str
    max_tokens: Annotated[int, Meta(ge=1)]
    messages: Annotated[list[_Turn], Meta(min_length=1)]
    system: str | list[Part] | None = None
    stream: bool = False
    stop_sequences: list[str] = []
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    tools: list[_Tool] | None = None
    output_config: _OutputConfig | None = None


def key_of(headers: Mapping[str, str]) -> str | None:
    """Return the key that a request came with."""
    return headers.get("x-api-key")


def request(data: bytes, headers: Mapping[str, str]) -> ChatRequest:
    """Read a request body; raise msgspec's errors or BadRequest."""
    if "anthropic-version" not in headers:
        raise BadRequest("anthropic-version: header is required")
    found = msgspec.json.decode(data, type=_Request)
    messages = [Message(turn.role, turn.content) for turn in found.messages]
    last = messages[-1]
    if last.role == "assistant" and last.text() != last.text().rstrip():
        raise BadRequest("messages: final assistant content cannot end with trailing whitespace")
    if any(not stop.strip() for stop in found.stop_sequences):
        raise BadRequest("stop_sequences: each stop sequence must contain non-whitespace")
    if found.top_p is not None and found.temperature is not None:
        raise BadRequest("`temperature` and `top_p` cannot both be specified for this model.")
    system = [] if found.system is None else [Message("system", found.system)]
    return ChatRequest(
        model=found.model,
        messages=[*system, *messages],
        stream=found.stream,
        max_tokens=found.max_tokens,
        stop=found.stop_sequences or None,
        tools=found.tools,
        response_format=_asked_format(found),
    )


def _asked_format(found: _Request) -> dict[str, Any] | None:
    """Return the schema's format; without one there is no JSON mode, only words."""
    if found.output_config is not None:
        return found.output_config.format
    return {"type": "words"} if isinstance(found.system, str) and "JSON" in found.system else None


def problem(status: int, message: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """Return an error as Anthropic writes it."""
    kind = ERRORS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_fake"}


def fault_error(fault: Fault) -> dict[str, Any]:
    """Return a record's error in this envelope."""
    error = fault.body.get("error") if isinstance(fault.body, dict) else None
    if isinstance(error, dict) and error.get("code") == "context_length_exceeded":
        return problem(400, "prompt is too long: 210000 tokens > 200000 maximum")
    return problem(fault.status if fault.status != 200 else 529, message_of(fault))


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: ".encode() + encode({"type": kind, **fields}) + b"\n\n"


def _message(x: Exchange) -> dict[str, Any]:
    return {"id": x.id, "type": "message", "role": "assistant", "model": x.model}


def _input(x: Exchange) -> dict[str, int]:
    """Return the usage of the input; a quarter of it was read from a cache."""
    cached = x.reply.prompt_tokens // 4
    fresh = x.reply.prompt_tokens - cached
    return {"input_tokens": fresh, "cache_creation_input_tokens": 0, "cache_read_input_tokens": cached}


def opening(x: Exchange) -> bytes:
    """Return what comes before the first token."""
    usage = {**_input(x), "output_tokens": 1}  # a beginning, not a count
    start = {**_message(x), "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    block = _event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    return _event("message_start", message=start) + block


def token(x: Exchange, text: str) -> bytes:
    """Return one piece of the text."""
    return _event("content_block_delta", index=0, delta={"type": "text_delta", "text": text})


def calls(x: Exchange) -> list[bytes]:
    """Return the tool calls, each in a block of its own after the text's."""
    return [_piece(piece) for piece in x.reply.calls]


def _piece(piece: Fragment) -> bytes:
    index = piece.index + 1
    if piece.opening:
        stop = _event("content_block_stop", index=index - 1)
        return stop + _event("content_block_start", index=index, content_block=_use(piece.id, piece.name, {}))
    delta = {"type": "input_json_delta", "partial_json": piece.arguments}
    return _event("content_block_delta", index=index, delta=delta)


def _use(call_id: str, name: str, arguments: object) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments, "caller": {"type": "direct"}}


def _why(x: Exchange) -> dict[str, Any]:
    if x.reply.stopped_by is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": x.reply.stopped_by}
    return {"stop_reason": STOP_REASONS.get(x.reply.finish, x.reply.finish), "stop_sequence": None}


def closing(x: Exchange) -> tuple[bytes, bytes]:
    """Return why it ends, and what comes after."""
    usage = {} if x.fault.no_usage else {"usage": {"output_tokens": x.reply.completion_tokens}}
    delta = _event("message_delta", delta=_why(x), **usage)
    last = max((piece.index + 1 for piece in x.reply.calls), default=0)
    return _event("content_block_stop", index=last) + delta, _event("message_stop")


def broken(event: bytes) -> bytes:
    """Return an event whose JSON is cut short."""
    return event[:-5] + b"\n\n"


def error_event(x: Exchange) -> bytes:
    """Return the error that comes inside a stream under status 200."""
    return b"event: error\ndata: " + encode(fault_error(x.fault)) + b"\n\n"


def whole(x: Exchange) -> dict[str, Any]:
    """Return the answer of a request without stream."""
    if x.fault.error_event_after is not None:
        return fault_error(x.fault)
    said: list[Any] = [{"type": "text", "text": "".join(x.reply.tokens)}]
    made = enumerate(x.fault.calls if x.reply.calls else ())
    uses = [_use(f"call_fake_{i}", call.name, msgspec.Raw((call.arguments or "{}").encode())) for i, call in made]
    body = {**_message(x), "content": [*said, *uses], **_why(x)}
    return body if x.fault.no_usage else {**body, "usage": {**_input(x), "output_tokens": x.reply.completion_tokens}}
