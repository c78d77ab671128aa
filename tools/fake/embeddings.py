"""Embeddings as the fake gives them: a vector per text, made from the text alone, in two shapes. Pure."""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from understudy.tools.fake.script import Fault, split_tokens

Face = Literal["openai", "ollama"]
DIMENSIONS = 8
PATHS: dict[str, Face] = {"/v1/embeddings": "openai", "/api/v1/embeddings": "openai", "/api/embed": "ollama"}


class Request(Struct):
    """What both dialects ask; other fields are accepted and ignored."""

    model: str
    input: str | Annotated[list[str], Meta(min_length=1)]
    dimensions: Annotated[int, Meta(ge=1, le=64)] | None = None

    def texts(self) -> list[str]:
        """Return the texts, one or many."""
        return [self.input] if isinstance(self.input, str) else self.input


def request(data: bytes) -> Request:
    """Read a request body; raise msgspec's errors."""
    return msgspec.json.decode(data, type=Request)


def vector(text: str, dimensions: int) -> list[float]:
    """Return a text's vector: bytes of its hash, between -1 and 1."""
    digest = sha256(text.encode()).digest() * (dimensions // 32 + 1)
    return [round(byte / 127.5 - 1, 6) for byte in digest[:dimensions]]


def answer(face: Face, asked: Request, fault: Fault) -> dict[str, Any]:
    """Return the answer's body, wrong in the way that the fault says."""
    vectors: list[Any] = [vector(text, asked.dimensions or DIMENSIONS) for text in asked.texts()]
    if fault.vectors == "few":
        vectors.pop()
    elif fault.vectors == "null":
        vectors[-1][0] = None
    elif fault.vectors == "empty":
        vectors[-1] = []
    tokens = sum(len(split_tokens(text)) for text in asked.texts())
    model = fault.echo_model or asked.model
    if face == "ollama":
        counted = {} if fault.no_usage else {"prompt_eval_count": tokens}
        return {"model": model, "embeddings": vectors, "total_duration": 1_000_000, "load_duration": 0, **counted}
    rows = [{"object": "embedding", "index": i, "embedding": one} for i, one in enumerate(vectors)]
    usage = {} if fault.no_usage else {"usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    return {"object": "list", "data": rows[::-1], "model": model, **usage}
