"""Homes for graphs: the embedded server, and a real Neo4j where one is beside the repository."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

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
