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
from understudy.actors.runner.dialect import Piece, count, turns
from understudy.actors.runner.json_lines import JsonLines
from understudy.messages.run import RunFailure, RunModel
from understudy.messages.topology import Model

NAME: str = "ollama"
PATH: str = "/api/chat"
ACCEPT: str = "application/x-ndjson"
framing = JsonLines

FINISH = ("stop", "length")
"""A `done_reason` of a whole answer. Without one the server did not say that it is (an old server)."""


class _Message(msgspec.Struct, gc=False):
    content: str | None = None


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


def body(run: RunModel, name: str, model: Model) -> bytes:
    """See `Dialect`."""
    p = run.parameters
    options: dict[str, Any] = {
        "num_ctx": model.context_tokens,
        "num_predict": p.max_tokens,
        "temperature": p.temperature,
        "top_p": p.top_p,
        "seed": p.seed % 2**31,
    }
    if p.stop:
        options["stop"] = list(p.stop)
    fields = {"model": name, "messages": turns(run), "stream": True, "options": options}
    return msgspec.json.encode({**fields, "truncate": False, "shift": False})


def read(data: bytes) -> Piece:
    """See `Dialect`."""
    try:
        line = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Piece(failure="malformed")
    if line.error is not None:
        return Piece(failure="error_event")
    text = line.message.content or "" if line.message is not None else ""
    if not line.done:
        return Piece(text=text, model=line.model)
    return Piece(
        text=text,
        finish=line.done_reason if line.done_reason in FINISH else None,
        prompt_tokens=count(line.prompt_eval_count),
        completion_tokens=count(line.eval_count),
        model=line.model,
        done=True,
    )


def reason_of(status: int, payload: bytes) -> RunFailure:
    """See `Dialect`. A 404 has two wordings, and both mean that the model is not there."""
    return dialect.reason_of(status, context=any(words in payload for words in TOO_LONG))
