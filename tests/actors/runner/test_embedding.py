"""Vectors over HTTP: the table's cells in every dialect that has them, and what is no vector per text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.actors.runner.test_http_edge import Edge, Kind, url_of
from understudy.actors.runner.dialects import BY_KIND, ollama_embeddings, openai_embeddings
from understudy.actors.runner.embedding import NoVectors, vectors_of
from understudy.messages.generate import Parameters
from understudy.messages.run import RunModel
from understudy.messages.step import CallEnded, CallFailed
from understudy.tools.bench.providers_cases import CELLS, Cell
from understudy.tools.fake.embeddings import vector
from understudy.tools.fake.server import FakeProvider

TEXTS = ("a lantern", "the old mill")
SKIPPED = ("refused", "hang")  # of the whole system: nobody listens, and a time limit
ROWS = [
    pytest.param(kind, row.row, cell, id=f"{kind}-{row.row}")
    for kind in BY_KIND
    for row in CELLS
    if row.ask == "embed" and row.row not in SKIPPED and (cell := row.of(kind)) is not None
]


@pytest.mark.parametrize(("kind", "name", "cell"), ROWS)
async def test_cells(kind: Kind, name: str, cell: Cell) -> None:
    async with FakeProvider() as fake, Edge(url_of(fake, kind), kind=kind) as edge:
        _, _, end = await edge.ask(name, messages=(), input=TEXTS)
    if cell.first != "ok":
        assert isinstance(end, CallFailed) and end.reason == cell.first
        return
    assert isinstance(end, CallEnded) and end.completion_tokens == 0
    assert json.loads(end.vectors) == [vector(text, 8) for text in TEXTS]
    assert end.prompt_tokens == (None if cell.usage == "estimated" else 5)
    assert end.served_by == ("some-other-model" if name == "wrong-model" else None)


@pytest.mark.parametrize("kind", ["openai", "openai_responses", "openrouter", "ollama"])
async def test_shorter_vectors(kind: Kind) -> None:
    async with FakeProvider() as fake, Edge(url_of(fake, kind), kind=kind) as edge:
        _, _, end = await edge.ask("ok", messages=(), input=TEXTS, dimensions=3)
    assert isinstance(end, CallEnded) and [len(one) for one in json.loads(end.vectors)] == [3, 3]


def run(dimensions: int | None = None) -> RunModel:
    p = Parameters(max_tokens=1, temperature=0.0, top_p=1.0, seed=0)
    fields: dict[str, Any] = {"messages": (), "input": TEXTS, "dimensions": dimensions}
    return RunModel(run_id="r", attempt=0, model="m", parameters=p, remaining_ms=1.0, **fields)


def rows(*vectors: Any, places: tuple[int, ...] = (0, 1)) -> bytes:
    return json.dumps({"data": [{"index": i, "embedding": v} for i, v in zip(places, vectors, strict=True)]}).encode()


def test_rows_are_put_into_the_order_of_the_texts() -> None:
    assert vectors_of(openai_embeddings, rows([1.0], [2.0], places=(1, 0)), run()).vectors == [[2.0], [1.0]]


@pytest.mark.parametrize(
    ("data", "dimensions", "reason"),
    [
        (rows([1.0], [2.0], places=(0, 0)), None, "malformed"),
        (rows([1.0], [2.0], places=(1, 2)), None, "malformed"),
        (rows([1.0], [2.0, 3.0]), None, "malformed"),
        (rows([], []), None, "malformed"),
        (rows([1.0], [2.0]), 2, "malformed"),
        (rows([1e308, 1e308], [1.0, 1.0]), None, "malformed"),
        (rows([1.0], ["x"]), None, "malformed"),
        (b"\xff", None, "malformed"),
        (b"{}", None, "malformed"),
        (rows([1.0], [2.0])[:-4], None, "broken_stream"),
        (b"", None, "broken_stream"),
    ],
)
def test_what_is_no_vector_per_text(data: bytes, dimensions: int | None, reason: str) -> None:
    with pytest.raises(NoVectors) as caught:
        vectors_of(openai_embeddings, data, run(dimensions))
    assert caught.value.reason == reason


def test_requests() -> None:
    body = json.loads(openai_embeddings.body(run(3), "there"))
    assert body == {"model": "there", "input": list(TEXTS), "encoding_format": "float", "dimensions": 3}
    assert json.loads(ollama_embeddings.body(run(), "there")) == {
        "model": "there",
        "input": list(TEXTS),
        "truncate": False,
    }
