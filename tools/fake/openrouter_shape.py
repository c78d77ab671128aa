"""OpenRouter as the fake speaks it: OpenAI's shapes, dressed with who served, the native reason and the cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from understudy.tools.fake import openai_shape
from understudy.tools.fake.bill import cost
from understudy.tools.fake.exchange import Exchange, line, message_of
from understudy.tools.fake.script import ChatRequest, Fault, StreamOptions

PATH: str = "/api/v1/chat/completions"
STREAM_TYPE: str = openai_shape.STREAM_TYPE
COMMENT: bytes = openai_shape.COMMENT
ID: str = "gen-fake"
SERVED_BY = "FakeProvider"
USD_PER_TOKEN = 1e-6
DAY_S, MINUTE_S = 86_400, 60
ERROR_TYPES = {
    400: "invalid_request",
    401: "authentication",
    402: "payment_required",
    403: "permission_denied",
    404: "not_found",
    408: "timeout",
    413: "payload_too_large",
    422: "unprocessable",
    429: "rate_limit_exceeded",
    502: "provider_unavailable",
    503: "provider_overloaded",
    504: "timeout",
    529: "provider_overloaded",
}
key_of = openai_shape.key_of
broken = openai_shape.broken


def problem(status: int, message: str, code: str | None = None, param: str | None = None) -> dict[str, Any]:
    """Return an error as OpenRouter writes it: its code is the status; of a model that is not there with its cause."""
    kind = "context_length_exceeded" if code == "context_length_exceeded" else ERROR_TYPES.get(status, "server")
    error: dict[str, Any] = {"code": status, "message": message, "metadata": {"error_type": kind}}
    if code == "model_not_found":
        error["availability"] = {"code": code, "retryable": False}
    return {"error": error}


def fault_error(fault: Fault) -> dict[str, Any]:
    """Return the record's error as it is where it is OpenRouter's, else in its envelope."""
    said = fault.body.get("error") if isinstance(fault.body, dict) else None
    code = said.get("code") if isinstance(said, dict) else None
    if isinstance(fault.body, dict) and isinstance(code, int):
        return fault.body
    return problem(fault.status if fault.status != 200 else 500, message_of(fault), code)


def request(data: bytes, headers: Mapping[str, str]) -> ChatRequest:
    """Read a request body; usage is always sent. Raise msgspec's errors or BadRequest."""
    found = openai_shape.request(data, headers)
    found.stream_options = StreamOptions(include_usage=True)
    return found


def quota_headers(window: str, now_s: float) -> dict[str, str]:
    """Return what the platform's own 429 says of a used up quota of free models; the reset is in Unix milliseconds."""
    seconds, limit = (DAY_S, 50) if window == "day" else (MINUTE_S, 20)
    reset_s = (int(now_s) // seconds + 1) * seconds
    return {"X-RateLimit-Limit": str(limit), "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(reset_s * 1000)}


def _dressed(body: dict[str, Any], x: Exchange) -> dict[str, Any]:
    """Return the body with what OpenRouter adds."""
    if "choices" not in body:
        return body
    for choice in body["choices"]:
        choice["native_finish_reason"] = choice["finish_reason"] and (x.fault.native_reason or choice["finish_reason"])
    usage = body.get("usage")
    if usage is None:
        body.pop("usage", None)  # where OpenAI says null, nothing is said
    else:
        own = cost(x.fault, usage["prompt_tokens"], usage["completion_tokens"]) if x.fault.price is not None else None
        usage |= {"cost": usage["total_tokens"] * USD_PER_TOKEN if own is None else float(own), "is_byok": False}
    return {**body, "provider": SERVED_BY}


def _events(data: bytes, x: Exchange) -> bytes:
    """Return the same events, dressed; `[DONE]` and nothing stay as they are."""
    out = b""
    for event in data.split(b"\n\n")[:-1]:
        field = event.removeprefix(b"data: ")
        out += event + b"\n\n" if field == b"[DONE]" else line(_dressed(msgspec.json.decode(field), x))
    return out


def opening(x: Exchange) -> bytes:
    """Return what comes before the first token."""
    return _events(openai_shape.opening(x), x)


def token(x: Exchange, text: str) -> bytes:
    """Return one piece of the text."""
    return _events(openai_shape.token(x, text), x)


def calls(x: Exchange) -> list[bytes]:
    """Return the tool calls in pieces."""
    return [_events(piece, x) for piece in openai_shape.calls(x)]


def closing(x: Exchange) -> tuple[bytes, bytes]:
    """Return why it ends, and what comes after."""
    why, after = openai_shape.closing(x)
    return _events(why, x), _events(after, x)


def error_event(x: Exchange) -> bytes:
    """Return the error that comes inside a stream under status 200."""
    return _events(openai_shape.error_event(x), x)


def whole(x: Exchange) -> dict[str, Any]:
    """Return the answer of a request without stream, an error under 200 included."""
    return _dressed(openai_shape.whole(x), x)
