"""OpenRouter: OpenAI's chat dialect with its own rules about who may see and serve a request. Pure.

Source: its OpenAPI document (2026-08). Its own fallbacks are off, as fallback is the selector's, and providers that
keep what they are sent are excluded, as are those that would ignore tools or a schema. It sends usage always, comments
between events, and errors under status 200; some failures upstream come as a `finish_reason` of `stop`, and only
`native_finish_reason` tells.
"""

from __future__ import annotations

from typing import Any

import msgspec

from understudy.actors.runner import dialect
from understudy.actors.runner.dialect import UNREADABLE, Piece
from understudy.actors.runner.dialects import openai_chat, openrouter_embeddings
from understudy.actors.runner.dialects.openrouter_embeddings import rules
from understudy.actors.runner.dialects.openrouter_record import usd_raw
from understudy.actors.runner.embedding import Embeddings
from understudy.actors.runner.sse import Lines
from understudy.messages.money import pusd_of, usd_of
from understudy.messages.run import RunFailure, RunModel
from understudy.messages.topology import Model

NAME: str = "openrouter"
PATH: str = openai_chat.PATH
ACCEPT: str = openai_chat.ACCEPT
TELLS_LENGTH: bool = True
NEEDS_DONE: bool = True
LEAST_TOKENS: int = 1
EMBEDDINGS: Embeddings | None = openrouter_embeddings
CHECK: str | None = "/key"  # its list of models is open to everybody
framing = Lines
key_fields = openai_chat.key_fields
stops = openai_chat.stops

BROKEN = ("error", "network_error")
"""A `native_finish_reason` of an answer that is not whole, whatever `finish_reason` says."""
GONE = frozenset({"model_not_found", "model_deprecated", "free_variant_ended"})
"""Availability codes of a model that is there for nobody. With any other, a 404 concerns this request alone."""


class _Choice(msgspec.Struct, gc=False):
    native_finish_reason: Any = None


class _Details(msgspec.Struct, gc=False):
    upstream_inference_cost: msgspec.Raw = msgspec.Raw()


class _Usage(msgspec.Struct, gc=False):
    cost: msgspec.Raw = msgspec.Raw()
    is_byok: Any = False
    cost_details: msgspec.Raw = msgspec.Raw()


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Choice] = []
    usage: _Usage | None = None


class _Availability(msgspec.Struct, gc=False):
    code: str | None = None


class _Error(msgspec.Struct, gc=False):
    availability: _Availability | None = None


class _Refusal(msgspec.Struct, gc=False):
    error: _Error | None = None


_native = msgspec.json.Decoder(_Chunk)
_details = msgspec.json.Decoder(_Details)
_refusal = msgspec.json.Decoder(_Refusal)


def body(run: RunModel, name: str, model: Model, *, zdr: bool = False) -> bytes:
    """See `Dialect`. `zdr`: only upstreams with zero data retention."""
    fields: dict[str, Any] = openai_chat.fields(run, name, model)
    provider = {**rules(run), **({"require_parameters": True} if run.tools or run.format else {})}
    return msgspec.json.encode({**fields, "provider": {**provider, "zdr": True} if zdr else provider})


def read(data: bytes) -> Piece:
    """See `Dialect`."""
    piece = openai_chat.read(data)
    if piece.finish is not None and piece.failure is None:
        choices = _native.decode(data).choices
        if choices and choices[0].native_finish_reason in BROKEN:
            piece.failure = "error_event"
    if piece.prompt_tokens is not None and piece.failure is None:
        usage = _native.decode(data).usage
        piece.cost_usd = _cost_usd(usage) if usage is not None else None
    return piece


def _cost_usd(usage: _Usage) -> str | None:
    """What is charged to the account; with a key of the upstream's own, that is a fee, and the upstream's bill comes to
    it. None: the provider does not say all of it."""
    cost = usd_raw(usage.cost)
    if cost is None or not usage.is_byok:
        return cost
    try:
        upstream = usd_raw(_details.decode(usage.cost_details).upstream_inference_cost)
    except UNREADABLE:
        return None
    return None if upstream is None else usd_of(pusd_of(cost) + pusd_of(upstream))


def reason_of(status: int, payload: bytes) -> RunFailure:
    """See `Dialect`. A 404 is read by its cause; without one it says nothing about the model (`no endpoints found that
    support tool use`). One that is not the vendor's own JSON is a proxy's."""
    if status == 404 and (error := dialect.said_error(payload)):
        cause = _code(payload)
        gone = openai_chat.is_gone(error) if cause is None else cause in GONE
        return "model_not_found" if gone else "no_endpoints"
    return openai_chat.reason_of(status, payload)


def _code(payload: bytes) -> str | None:
    try:
        error = _refusal.decode(payload).error
    except UNREADABLE:
        return None
    return error.availability.code if error is not None and error.availability is not None else None
