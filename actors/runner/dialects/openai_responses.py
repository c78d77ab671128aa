"""The OpenAI Responses dialect: request body, typed events, errors. Pure.

Source of the shapes: the vendor's OpenAPI document (2026-08). A stream is whole only with `response.completed`, or with
`response.incomplete` and a reason that we know; there is no `[DONE]`. Nothing is stored at the provider (`store`), so
the whole conversation is sent each time. There are no stop strings and no seed, and a last turn of the assistant is not
continued. Ollama speaks it too, and calls an answer completed that the limit has cut.
"""

from __future__ import annotations

from typing import Any

import msgspec

from understudy.actors.runner import dialect
from understudy.actors.runner.dialect import UNREADABLE, CallPiece, Piece, count, offered, sampling, turns
from understudy.actors.runner.dialects import openai_chat, openai_embeddings
from understudy.actors.runner.embedding import Embeddings
from understudy.actors.runner.sse import Lines
from understudy.messages import prices
from understudy.messages.generate import Turn
from understudy.messages.run import RunFailure, RunModel
from understudy.messages.tools import AUTO, NONE, REQUIRED, Format, Tool
from understudy.messages.topology import Model

NAME: str = "openai_responses"
PATH: str = "/responses"
ACCEPT: str = "text/event-stream"
TELLS_LENGTH: bool = False
NEEDS_DONE: bool = True
LEAST_TOKENS: int = prices.LEAST_TOKENS[NAME]
EMBEDDINGS: Embeddings | None = openai_embeddings
CHECK: str | None = "/models"
framing = Lines
key_fields = openai_chat.key_fields

CUT = {"max_output_tokens": "length", "content_filter": "refusal"}
"""The neutral word of a `response.incomplete`. One that ends for any other reason is not whole."""
REASONING = ("response.reasoning_summary_text.delta", "response.reasoning_text.delta")


class _Details(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None
    output_tokens_details: _Details | None = None


class _Incomplete(msgspec.Struct, gc=False):
    reason: str | None = None


class _Error(msgspec.Struct, gc=False):
    code: Any = None
    type: Any = None


class _Response(msgspec.Struct, gc=False):
    model: str | None = None
    usage: _Usage | None = None
    incomplete_details: _Incomplete | None = None
    error: _Error | None = None


class _Item(msgspec.Struct, gc=False):
    type: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None


class _Event(msgspec.Struct, gc=False):
    type: str
    delta: Any = None
    text: str | None = None
    arguments: str | None = None
    code: Any = None
    error: _Error | None = None
    output_index: int = 0
    item: _Item | None = None
    response: _Response | None = None


_decoder = msgspec.json.Decoder(_Event)


def stops(wanted: tuple[str, ...]) -> tuple[str, ...]:
    """See `Dialect`. It knows none."""
    return ()


def body(run: RunModel, name: str, model: Model) -> bytes:
    """See `Dialect`."""
    conversation = turns(run)
    chosen = sampling(run, model)
    chosen.pop("seed", None)
    fields: dict[str, Any] = {
        "model": name,
        "input": [
            item for turn in (*openai_chat.json_words(run, conversation), *conversation) for item in _items(turn)
        ],
        "stream": True,
        "store": False,
        "max_output_tokens": max(LEAST_TOKENS, run.parameters.max_tokens),
        **chosen,
    }
    if offered(run):
        fields["tools"] = [_tool(tool) for tool in run.tools]
        plain = run.tool_choice in (AUTO, NONE, REQUIRED)
        fields["tool_choice"] = run.tool_choice if plain else {"type": "function", "name": run.tool_choice}
    if run.format is not None:
        fields["text"] = {"format": _format(run.format)}
    return msgspec.json.encode(fields)


def _tool(tool: Tool) -> dict[str, Any]:
    """`strict` is on unless it is said to be off, and then refuses most schemas."""
    return {"type": "function", **openai_chat.function(tool), "strict": False}


def _format(wanted: Format) -> dict[str, Any]:
    if wanted.schema is None:
        return {"type": "json_object"}
    return {"type": "json_schema", "name": wanted.name, "schema": wanted.schema, "strict": wanted.strict}


def _items(turn: Turn) -> list[dict[str, Any]]:
    if turn.tool_call_id is not None:
        return [{"type": "function_call_output", "call_id": dialect.call_id(turn.tool_call_id), "output": turn.content}]
    said: list[dict[str, Any]] = [{"role": turn.role, "content": turn.content}]
    if not turn.tool_calls:
        return said
    calls = [(dialect.call_id(call.id), call.name, call.arguments) for call in turn.tool_calls]
    return [
        *(said if turn.content else []),
        *({"type": "function_call", "call_id": i, "name": name, "arguments": a} for i, name, a in calls),
    ]


def read(data: bytes) -> Piece:
    """See `Dialect`."""
    try:
        event = _decoder.decode(data)
    except UNREADABLE:
        return Piece(failure="malformed")
    delta = event.delta if isinstance(event.delta, str) else ""
    match event.type:
        case "response.output_text.delta":
            return Piece(text=delta)
        case "response.refusal.delta":
            return Piece(text=delta, refused=True)
        case kind if kind in REASONING:
            return Piece(reasoning=delta)
        case "response.output_text.done":
            return Piece(text_again=event.text or "")
        case "response.output_item.added" | "response.output_item.done" if event.item is not None:
            return _item(event.output_index, event.item, again=event.type.endswith("done"))
        case "response.function_call_arguments.done":
            return Piece(calls=[CallPiece(event.output_index, arguments=event.arguments or "", again=True)])
        case "response.function_call_arguments.delta":
            return Piece(calls=[CallPiece(event.output_index, arguments=delta)])
        case "response.completed":
            return _ended(event.response, "stop")
        case "response.incomplete":
            details = event.response.incomplete_details if event.response is not None else None
            return _ended(event.response, CUT.get(details.reason or "") if details is not None else None)
        case "response.failed" | "error":
            response = event.response or _Response()
            told = event.error or response.error or _Error()
            return Piece(failure=dialect.event_reason(event.code, told.code, told.type))
        case _:  # beginnings and ends of parts, what the vendor adds
            return Piece(model=event.response.model if event.response is not None else None)


def _item(index: int, item: _Item, *, again: bool) -> Piece:
    """Its end repeats the whole call, which some servers send in no other way."""
    if item.type != "function_call":
        return Piece()
    return Piece(calls=[CallPiece(index, item.call_id or "", item.name or "", item.arguments or "", again=again)])


def _ended(response: _Response | None, finish: str | None) -> Piece:
    """The last event. It repeats the whole answer, which is not looked at."""
    piece = Piece(finish=finish, done=True)
    if response is not None:
        piece.model = response.model
        if response.usage is not None:
            piece.prompt_tokens = count(response.usage.input_tokens)
            piece.completion_tokens = count(response.usage.output_tokens)
            if (prompt := response.usage.input_tokens_details) is not None:
                piece.cached_tokens = count(prompt.cached_tokens)
            if (completion := response.usage.output_tokens_details) is not None:
                piece.reasoning_tokens = count(completion.reasoning_tokens)
    return piece


def reason_of(status: int, payload: bytes) -> RunFailure:
    """See `Dialect`."""
    return openai_chat.reason_of(status, payload)
