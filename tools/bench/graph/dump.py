"""A graph's rows as the reader of the log writes them down, by Cypher of their own; and copies with a fault in them."""

from __future__ import annotations

import copy
from typing import Any

from neo4j import GraphDatabase

from understudy.tools.bench.graph.homes import Home
from understudy.tools.bench.graph.reader import Tables

_ROWS = {
    "models": """MATCH (x:PmModel) OPTIONAL MATCH (x)-[:SERVED_BY]->(p:PmProvider)
RETURN x AS x, x.key AS key, p.name AS provider""",
    "hours": "MATCH (x:PmHour) RETURN x AS x, x.key AS key",
    **{
        table: f"""MATCH (x:{label})-[:IN_SERIES]->(s:PmSeries) MATCH (s)-[:OF_MODEL]->(m:PmModel)
MATCH (s)-[:FOR_TASK]->(t:PmTask) MATCH (x)-[:IN_HOUR]->(o:PmHour)
RETURN x AS x, m.key + ' ' + t.name + ' ' + o.key AS key"""
        for table, label in (("buckets", "PmBucket"), ("days", "PmDay"))
    },
    "falls": """MATCH (a:PmModel)-[x:FELL_BACK_TO]->(b:PmModel)
RETURN x AS x, a.key + ' ' + b.key + ' ' + x.task + ' ' + x.why AS key""",
    "chains": """MATCH (x:PmChain)-[s:STEP]->(m:PmModel) WITH x, s, m ORDER BY s.i
WITH x, collect(m.key) AS path RETURN x AS x, x.key AS key, path AS path""",
    "changes": """MATCH (x:PmChange)-[:FROM]->(s:PmSeries)-[:OF_MODEL]->(a:PmModel) MATCH (s)-[:FOR_TASK]->(t:PmTask)
MATCH (x)-[:TO]->(n:PmSeries)-[:OF_MODEL]->(b:PmModel) MATCH (n)-[:FOR_TASK]->(t) MATCH (x)-[:DURING]->(o:PmHour)
RETURN x AS x, a.key + ' ' + b.key + ' ' + t.name + ' ' + x.reason + ' ' + o.key AS key""",
    "incidents": "MATCH (x:PmIncident)-[:ON]->(o) RETURN x AS x, x.key AS key",
}


def dump(home: Home, prefix: str) -> Tables:
    """All rows of one half. A bucket that lacks a relation is missing; one that has it twice has a second row."""
    auth = (home.user, home.password) if home.user else None
    found: Tables = {}
    with GraphDatabase.driver(home.uri, auth=auth, notifications_min_severity="OFF") as driver:
        for table, text in _ROWS.items():
            rows: dict[str, Any] = {}
            statement: Any = text.replace(":Pm", f":{prefix}")
            for record in driver.execute_query(statement, database_=home.database).records:
                fields = dict(record["x"].items()) | {k: v for k, v in record.items() if k not in ("x", "key")}
                key = record["key"]
                rows[key if key not in rows else f"{key} again"] = fields
            found[table] = rows
    return found


def projections(home: Home) -> list[dict[str, Any]]:
    """Every Projection node."""
    auth = (home.user, home.password) if home.user else None
    with GraphDatabase.driver(home.uri, auth=auth, notifications_min_severity="OFF") as driver:
        found = driver.execute_query("MATCH (p:PmProjection) RETURN p AS p", database_=home.database).records
    return [dict(record["p"].items()) for record in found]


def faulty(right: Tables) -> dict[str, Tables]:
    """Copies, each with one thing wrong that a broken projection could bring about."""
    found: dict[str, Tables] = {}

    def fault(name: str, table: str) -> dict[str, Any]:
        found[name] = {**right, table: copy.deepcopy(right[table])}
        return found[name][table]

    rows = fault("an outcome counted twice", "buckets")
    next(iter(rows.values()))["n"] += 1
    rows = fault("a bucket lost", "buckets")
    del rows[next(iter(rows))]
    rows = fault("tokens of one run lost", "buckets")
    next(row for row in rows.values() if row["tokens_out"])["tokens_out"] -= 1
    rows = fault("a pico-USD too many", "buckets")
    next(row for row in rows.values() if row["cost_pusd"])["cost_pusd"] += 1
    rows = fault("a latency in the next bin", "buckets")
    row = next(row for row in rows.values() if row["ok"])
    at = next(n for n, count in enumerate(row["h"]) if count)
    row["h"][at] -= 1
    row["h"][(at + 1) % 24] += 1
    rows = fault("a bucket linked twice", "buckets")
    rows[f"{next(iter(rows))} again"] = next(iter(rows.values()))
    rows = fault("a fall counted twice", "falls")
    next(iter(rows.values()))["n"] += 1
    rows = fault("a chain lost", "chains")
    del rows[next(iter(rows))]
    rows = fault("an incident that never ends", "incidents")
    next(row for row in rows.values() if row["until"])["until"] = 0
    return found
