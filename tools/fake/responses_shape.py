"""OpenAI Responses as the fake speaks it: typed events, the whole answer again in the last one, no `[DONE]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from understudy.tools.fake import openai_shape
from understudy.tools.fake.calls import Fragment
from understudy.tools.fake.exchange import BadRequest, Exchange
from understudy.tools.fake.script import ChatRequest, Message

PATH: str = "/v1/responses"
STREAM_TYPE: str = openai_shape.STREAM_TYPE
COMMENT: bytes = b": keep-alive\n\n"
ID: str = "resp_fake"
key_of = openai_shape.key_of
problem = openai_shape.problem
fault_error = openai_shape.fault_error
broken = openai_shape.broken
encode = msgspec.json.encode


class _Item(Struct):
    """A message, a call, or the result of one."""

    type: Literal["message", "function_call", "function_call_output"] = "message"
    role: str | None = None
    content: str | None = None
    call_id: str | None = None
    output: str | None = None


class _Text(Struct, frozen=True):
    format: dict[str, Any] | None = None


class _Request(Struct, forbid_unknown_fields=True):
    """The vendor refuses fields that it does not know: stop and seed among them."""

    model: str
    input: Annotated[list[_Item], Meta(min_length=1)]
    stream: bool = False
    store: bool = True
    max_output_tokens: Annotated[int, Meta(ge=16)] | None = None  # fewer are refused
    temperature: float | None = None
    top_p: float | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    text: _Text = _Text()


def request(data: bytes, headers: Mapping[str, str]) -> ChatRequest:
    """Read a request body; raise msgspec's errors or BadRequest."""
    found = msgspec.json.decode(data, type=_Request)
    messages = [Message(item.role or "", item.content) for item in found.input if item.type == "message"]
    if any(item.type == "function_call_output" and item.call_id is None for item in found.input):
        raise BadRequest("Missing required parameter: 'input[].call_id'.", param="input")
    last = messages[-1] if messages else Message("user", "")
    if last.role == "assistant":  # the vendor answers anew instead of going on
        messages.append(Message("user", ""))
    return ChatRequest(
        model=found.model,
        messages=messages or [last],
        stream=found.stream,
        max_tokens=found.max_output_tokens,
        tools=found.tools,
        response_format=found.text.format,
    )


def _event(kind: str, **fields: Any) -> bytes:
    return f"event: {kind}\ndata: ".encode() + encode({"type": kind, "sequence_number": 0, **fields}) + b"\n\n"


def _response(x: Exchange, status: str, **fields: Any) -> dict[str, Any]:
    head = {"id": x.id, "object": "response", "created_at": x.created, "model": x.model, "status": status}
    asked = {"instructions": None, "metadata": {}, "parallel_tool_calls": True, "temperature": 1.0, "top_p": 1.0}
    tools = {"tool_choice": "auto", "tools": x.request.tools or []}
    return {**head, **asked, **tools, "error": None, "incomplete_details": None, "output": [], "usage": None, **fields}


def _usage(x: Exchange) -> dict[str, Any] | None:
    if x.fault.no_usage:
        return None
    prompt, completion = x.reply.prompt_tokens, x.reply.completion_tokens
    details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    return {"input_tokens": prompt, "output_tokens": completion, "total_tokens": prompt + completion, **details}


def opening(x: Exchange) -> bytes:
    """Return what comes before the first token."""
    item = {"id": "msg_fake", "type": "message", "status": "in_progress", "role": "assistant", "content": []}
    part = {"type": "output_text", "text": "", "annotations": []}
    return b"".join(
        (
            _event("response.created", response=_response(x, "in_progress")),
            _event("response.in_progress", response=_response(x, "in_progress")),
            _event("response.output_item.added", output_index=0, item=item),
            _event("response.content_part.added", item_id="msg_fake", output_index=0, content_index=0, part=part),
        )
    )


def token(x: Exchange, text: str) -> bytes:
    """Return one piece of the text."""
    at = {"item_id": "msg_fake", "output_index": 0, "content_index": 0}
    if x.fault.refusal is not None:
        return _event("response.refusal.delta", **at, delta=text)
    return _event("response.output_text.delta", **at, delta=text, logprobs=[])


def calls(x: Exchange) -> list[bytes]:
    """Return the tool calls, each an item of the output."""
    return [_piece(piece) for piece in x.reply.calls]


def _piece(piece: Fragment) -> bytes:
    index, item_id = piece.index + 1, f"fc_fake_{piece.index}"
    if piece.opening:
        item = {"id": item_id, "type": "function_call", "call_id": piece.id, "name": piece.name, "arguments": ""}
        return _event("response.output_item.added", output_index=index, item={**item, "status": "in_progress"})
    return _event("response.function_call_arguments.delta", item_id=item_id, output_index=index, delta=piece.arguments)


def _output(x: Exchange) -> list[dict[str, Any]]:
    text, refused = "".join(x.reply.tokens), x.fault.refusal is not None
    part = {"type": "refusal", "refusal": text} if refused else {"type": "output_text", "text": text, "annotations": []}
    message = {"id": "msg_fake", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    made = enumerate(x.fault.calls if x.reply.calls else ())
    items = [
        {"type": "function_call", "call_id": f"call_fake_{i}", "name": call.name, "arguments": call.arguments}
        for i, call in made
    ]
    return [message, *items]


def _end(x: Exchange) -> dict[str, Any]:
    cut = x.reply.finish == "length"
    details = {"reason": "max_output_tokens"} if cut else None
    status = "incomplete" if cut else "completed"
    return _response(x, status, incomplete_details=details, output=_output(x), usage=_usage(x))


def closing(x: Exchange) -> tuple[bytes, bytes]:
    """Return the last event; nothing comes after."""
    end = _end(x)
    return _event(f"response.{end['status']}", response=end), b""


def error_event(x: Exchange) -> bytes:
    """Return the error that comes inside a stream under status 200: the response failed, or the stream did."""
    error = fault_error(x.fault)["error"]
    if x.fault.error_shape == "openai":
        return _event("error", code=error.get("code"), message=error["message"], param=None)
    failed = {"code": "server_error", "message": error["message"]}
    return _event("response.failed", response=_response(x, "failed", error=failed))


def whole(x: Exchange) -> dict[str, Any]:
    """Return the answer of a request without stream."""
    if x.fault.error_event_after is not None:
        return _response(x, "failed", error={"code": "server_error", "message": "The fake provider failed."})
    return _end(x)
