"""Embeddings over HTTP: one whole body, no stream. What is no vector per text is no answer."""

from __future__ import annotations

import math
from typing import Protocol

import msgspec

from understudy.messages.run import RunFailure, RunModel

MAX_BODY_BYTES = 32 * 2**20
"""Twice what 128 vectors of the longest models take, as vendors write them."""

CUT = "Input data was truncated"
"""What msgspec says of JSON that ends too early."""


class NoVectors(ValueError):
    """The body is not the dialect, or holds other vectors than were asked for; `reason` is the word for it."""

    def __init__(self, text: str, reason: RunFailure = "malformed") -> None:
        super().__init__(text)
        self.reason: RunFailure = reason


class Vectors(msgspec.Struct):
    """What an answer holds. Counts are None where the provider sent none."""

    vectors: list[list[float]]
    prompt_tokens: int | None = None
    model: str | None = None


class Embeddings(Protocol):
    """The module `dialects/<name>_embeddings.py`."""

    PATH: str  # behind the provider's `url`

    @staticmethod
    def body(run: RunModel, name: str) -> bytes:
        """The request."""
        ...

    @staticmethod
    def read(data: bytes) -> Vectors:
        """The whole answer, vectors in the order of the texts. Raises NoVectors or msgspec's errors."""
        ...


def vectors_of(dialect: Embeddings, data: bytes, run: RunModel) -> Vectors:
    """The answer, if it is one vector per text, all of one length and of finite numbers. Raises NoVectors."""
    try:
        found = dialect.read(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = "broken_stream" if str(error) == CUT else "malformed"
        raise NoVectors("not the dialect", reason) from None
    sizes = {len(vector) for vector in found.vectors}
    if len(found.vectors) != len(run.input) or len(sizes) != 1 or 0 in sizes:
        raise NoVectors("not one vector per text, all of one length")
    if run.dimensions is not None and sizes != {run.dimensions}:
        raise NoVectors("vectors of another length than was asked for")
    if not all(math.isfinite(sum(map(abs, vector))) for vector in found.vectors):
        raise NoVectors("numbers that are not finite")
    return found
