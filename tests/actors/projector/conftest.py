"""Homes for graphs: the embedded server, and a real Neo4j where one is beside the repository; and a graph in them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from understudy.actors.projector.bolt import Graph
from understudy.actors.projector.place import Retention
from understudy.actors.projector.rows import Folding, Rows
from understudy.messages.brief import AttemptBrief
from understudy.messages.buckets import DAY_MS, OutcomeBrief
from understudy.messages.events import Event
from understudy.tools.bench.graph.homes import Home, Missing, home


@pytest.fixture(scope="module", params=["embedded", "neo4j"])  # two JVMs, that go with their tests
def graph_home(request: Any) -> Iterator[Home]:
    try:
        running = home(request.param)
        server = running.__enter__()
    except Missing as why:
        pytest.skip(str(why))
    try:
        yield server
    finally:
        running.__exit__(None, None, None)


AT = 20_000 * DAY_MS


class Clock:
    """Wall time that tests move."""

    now_ms = 1_000_000.0

    def __call__(self) -> float:
        return self.now_ms


def connect(home: Home, clock: Clock, **keep: int) -> Graph:
    return Graph(home.uri, home.user, home.password, home.database, clock, Retention(**keep))


@pytest.fixture
async def clock() -> Clock:
    return Clock()


@pytest.fixture
async def graph(graph_home: Home, clock: Clock) -> AsyncIterator[Graph]:
    """An empty database with constraints."""
    found = connect(graph_home, clock, hourly_days=2, daily_days=10, rare_chain_days=3)
    async with found.session() as session:
        await (await session.run("MATCH (n) DETACH DELETE n")).consume()
    await found.prepare()
    yield found
    await found.close()


def ended(at: int, *tried: str, model: str = "") -> OutcomeBrief:
    words = [*("stall_timeout" for _ in tried[1:]), "ok"]
    attempts = tuple(AttemptBrief(model=m, outcome=w, total_ms=70.0) for m, w in zip(tried, words, strict=True))
    return OutcomeBrief(at_ms=at, run_id="r", outcome="finished", task="t", model=model or tried[-1], attempts=attempts)


def rows(*events: Event, fold: Folding | None = None) -> Rows:
    found = fold or Folding()
    for seq, event in enumerate(events, 1):
        found.take(seq, event)
    return found.cut()


async def begun(graph: Graph, holder: str = "me") -> int:
    """A half that serves; the fence."""
    place = await graph.take(holder, "S", 5_000)
    await graph.begin("Pm", place.fence, "e", "s")
    await graph.swap("Pm", place.fence, 0)
    return place.fence
