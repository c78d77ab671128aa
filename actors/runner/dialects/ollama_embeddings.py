"""Ollama's own embeddings, `/api/embed`. Pure. What does not fit is refused, not cut.

Source of the shapes: the server's source (0.33).
"""

from __future__ import annotations

from typing import Any

import msgspec

from understudy.actors.runner.dialect import count
from understudy.actors.runner.embedding import Vectors
from understudy.messages.run import RunModel

PATH: str = "/api/embed"


class _Answer(msgspec.Struct):
    embeddings: list[list[float]]
    prompt_eval_count: int | None = None
    model: str | None = None


_decoder = msgspec.json.Decoder(_Answer)


def body(run: RunModel, name: str) -> bytes:
    """See `Embeddings`."""
    fields: dict[str, Any] = {"model": name, "input": run.input, "truncate": False}
    if run.dimensions is not None:
        fields["dimensions"] = run.dimensions
    return msgspec.json.encode(fields)


def read(data: bytes) -> Vectors:
    """See `Embeddings`."""
    answer = _decoder.decode(data)
    return Vectors(answer.embeddings, count(answer.prompt_eval_count), answer.model)
