"""A server that nobody here wrote, in all of its dialects that we speak: a real Ollama with a tiny random model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real_ollama import get, serving
from tests.waiting import until
from understudy.actors.runner.http_edge import HttpEdge
from understudy.messages.generate import Parameters, Turn
from understudy.messages.run import RunModel
from understudy.messages.step import CallEnded, CallFailed, CallModel, CallText, CancelCall
from understudy.messages.tools import Format
from understudy.messages.topology import Model, Provider

pytest.importorskip("gguf", reason="the tiny model is written with the package gguf")
pytestmark = pytest.mark.timeout(120)
KINDS = pytest.mark.parametrize("kind", ["openai", "openai_responses", "anthropic", "ollama"])
CONTEXT_TOKENS = 512


@pytest.fixture(scope="module")
def ollama(shared_bin: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server that has the model `tiny`."""
    with serving(shared_bin, tmp_path_factory.mktemp("ollama")) as (address, _):
        yield address


class Edge:
    """An edge and what it fed."""

    def __init__(self, address: str, kind: Any) -> None:
        url = address if kind == "ollama" else f"{address}/v1"
        models = {name: Model(provider="p", context_tokens=CONTEXT_TOKENS) for name in ("tiny", "absent")}
        self.edge = HttpEdge(Provider(kind=kind, url=url), models, None, lambda: 0.0)
        self.fed: list[Any] = []

    async def __aenter__(self) -> Edge:
        await self.edge.start(self.fed.append)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.edge.stop()

    def call(self, model: str, max_tokens: int, **fields: Any) -> None:
        self.fed.clear()
        turns = (Turn(role="system", content="Be brief."), Turn(role="user", content="Hello"))
        parameters = Parameters(max_tokens=max_tokens, temperature=0.0, top_p=1.0, seed=1)
        fields = {"run_id": "r", "attempt": 0, "model": model, "messages": turns} | fields
        self.edge.perform(CallModel("c", RunModel(parameters=parameters, remaining_ms=1e5, **fields)))

    async def ask(self, model: str = "tiny", max_tokens: int = 12, **fields: Any) -> tuple[str, Any]:
        self.call(model, max_tokens, **fields)
        await until(lambda: self.fed and not isinstance(self.fed[-1], CallText), 60)
        return "".join(one.text for one in self.fed[:-1]), self.fed[-1]


@KINDS
async def test_an_answer_is_streamed_counted_and_ends_for_its_reason(ollama: str, kind: str) -> None:
    async with Edge(ollama, kind) as edge:
        text, end = await edge.ask()
        assert isinstance(end, CallEnded)
        assert text and len(edge.fed) > 2, "it came in pieces"
        counted = 16 if kind == "openai_responses" else 12  # it takes no smaller limit
        assert (end.finish_reason, end.completion_tokens) == ("length", counted)
        assert end.prompt_tokens is not None and end.prompt_tokens > 0
        assert end.served_by in (None, "tiny:latest")


async def test_all_dialects_say_the_same(ollama: str) -> None:
    texts = set[str]()
    for kind in ("openai", "openai_responses", "anthropic", "ollama"):
        async with Edge(ollama, kind) as edge:
            texts.add((await edge.ask())[0])
    assert len(texts) == 1


async def test_the_context_is_as_large_as_was_asked_for(ollama: str) -> None:
    """Only its own dialect can say so."""
    async with Edge(ollama, "ollama") as edge:
        await edge.ask()
    (loaded,) = (await asyncio.to_thread(get, f"{ollama}/api/ps"))["models"]
    assert loaded["context_length"] == CONTEXT_TOKENS


@KINDS
async def test_a_model_that_is_not_there(ollama: str, kind: str) -> None:
    async with Edge(ollama, kind) as edge:
        text, end = await edge.ask("absent")
        assert isinstance(end, CallFailed)
        assert (text, end.reason, end.status) == ("", "model_not_found", 404)


@KINDS
async def test_a_cancelled_call_ends_and_the_next_one_works(ollama: str, kind: str) -> None:
    async with Edge(ollama, kind) as edge:
        edge.call("tiny", 400)
        await until(lambda: edge.fed, 60)
        edge.edge.perform(CancelCall("c"))
        await until(lambda: not isinstance(edge.fed[-1], CallText))
        assert edge.fed[-1].reason == "cancelled"
        assert isinstance((await edge.ask())[1], CallEnded)


@pytest.mark.parametrize("kind", ["openai", "ollama"])
async def test_vectors(ollama: str, kind: str) -> None:
    async with Edge(ollama, kind) as edge:
        _, end = await edge.ask(messages=(), input=("a lantern", "the old mill"))
        assert isinstance(end, CallEnded) and end.prompt_tokens
        one, other = json.loads(end.vectors)
        assert len(one) == len(other) > 8 and one != other


@KINDS
async def test_json_of_a_schema(ollama: str, kind: str) -> None:
    """A random model under a grammar: either the value, or the limit cut it; never something else called whole."""
    schema = {"type": "object", "required": ["dark"], "properties": {"dark": {"type": "boolean"}}}
    async with Edge(ollama, kind) as edge:
        text, end = await edge.ask(max_tokens=200, format=Format(type="json_schema", schema=schema))
        if isinstance(end, CallEnded) and end.finish_reason == "stop":
            assert isinstance(json.loads(text)["dark"], bool)
        else:
            assert getattr(end, "reason", None) == "invalid_output" or end.finish_reason == "length"
