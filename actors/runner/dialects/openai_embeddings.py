"""OpenAI's embeddings, which OpenRouter and most servers speak too. Pure.

Source of the shapes: the vendor's OpenAPI document (2026-08).
"""

from __future__ import annotations

from typing import Any

import msgspec

from understudy.actors.runner.dialect import count
from understudy.actors.runner.embedding import NoVectors, Vectors
from understudy.messages.run import RunModel

PATH: str = "/embeddings"


class _Row(msgspec.Struct):
    index: int
    embedding: list[float]


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None


class _Answer(msgspec.Struct):
    data: list[_Row]
    usage: _Usage | None = None
    model: str | None = None


_decoder = msgspec.json.Decoder(_Answer)


def body(run: RunModel, name: str) -> bytes:
    """See `Embeddings`."""
    return msgspec.json.encode(fields(run, name))


def fields(run: RunModel, name: str) -> dict[str, Any]:
    """The request as fields, for those who add to it."""
    found: dict[str, Any] = {"model": name, "input": run.input, "encoding_format": "float"}
    if run.dimensions is not None:
        found["dimensions"] = run.dimensions
    return found


def read(data: bytes) -> Vectors:
    """See `Embeddings`. Rows carry their place."""
    answer = _decoder.decode(data)
    rows = sorted(answer.data, key=lambda row: row.index)
    if [row.index for row in rows] != list(range(len(rows))):
        raise NoVectors("rows without or with twice the same place")
    tokens = None if answer.usage is None else count(answer.usage.prompt_tokens)
    return Vectors([row.embedding for row in rows], tokens, answer.model)
