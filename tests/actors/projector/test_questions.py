"""What the questions answer at their edges, on real servers; that they equal plain Python is `bench questions`."""

from __future__ import annotations

from typing import Any

import pytest
from neo4j import GraphDatabase

from understudy.actors.projector.questions import HOUR, QUESTIONS
from understudy.tools.bench.graph.homes import Home

pytestmark = pytest.mark.timeout(120)
FROM = 490_000 * HOUR

MAKE = """MERGE (m:PmModel {key: $model}) CREATE (b:PmBucket {key: $model + ' t ' + toString($at), at: $at, task: 't',
  n: $ok + $err, ok: $ok, err: $err, lat_us: $ok * $us, score_u: 0, score_n: 0, cost_pusd: 0})
CREATE (b)-[:OF_MODEL]->(m)"""


def test_a_model_that_only_fails_now_got_worse(graph_home: Home) -> None:
    """And one that nobody asked in either window, or that was not good before, is not spoken of."""
    auth = (graph_home.user, graph_home.password) if graph_home.user else None
    with GraphDatabase.driver(graph_home.uri, auth=auth, notifications_min_severity="OFF") as driver:

        def run(text: Any, **given: Any) -> list[dict[str, Any]]:
            found = driver.execute_query(text, given, database_=graph_home.database)
            return [one.data() for one in found.records]

        run("MATCH (n) DETACH DELETE n")
        for model, before, now in (
            ("dead", (40, 0, 1_000), (0, 40, 0)),
            ("hardly", (40, 0, 1_000), (5, 35, 9_000)),
            ("slower", (40, 0, 1_000), (40, 0, 1_500)),
            ("same", (40, 10, 1_000), (40, 10, 1_000)),
            ("rated", (40, 0, 1_000), (0, 0, 0)),
            ("new", (0, 5, 0), (40, 0, 1_000)),
        ):
            for at, (ok, err, us) in ((FROM - HOUR, before), (FROM, now)):
                run(MAKE, model=model, at=at, ok=ok, err=err, us=us)
        rows = run(QUESTIONS["worse"].cypher, **{"from": FROM, "to": FROM + HOUR, "least": 20})
        told = [(row["model"], row["latency_ratio"], row["fail_delta"], row["n"]) for row in rows]
        assert told == [("dead", None, 1, 40), ("hardly", None, 0.875, 40), ("slower", 1.5, 0, 40), ("same", 1, 0, 50)]
        assert len(run(QUESTIONS["worse"].cypher, **{"from": FROM, "to": FROM + HOUR, "least": 0})) == 4
        run("MATCH (n) DETACH DELETE n")
