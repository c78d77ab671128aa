"""Eight questions to the performance graph, as Cypher that runs on Neo4j Community and on ArcadeDB. Text only.

Parameters: `$from` and `$to` (Unix milliseconds, whole hours), and what `Question.parameters` names. Sums are integers
(microseconds, pico-USD, millionths of a score); what is divided is divided last. What a window holds is found from its
hours, and from days where hours are no longer kept (a `PmHour` with either: hence `b` without a label), before
anything else: hence each `WITH`, which computes something, as Neo4j plans past one that does not, and began at the
models where these were to be local. Labels are those of the first half (`cypher.of`).
"""

from __future__ import annotations

from typing import Any

import msgspec

from understudy.messages.buckets import BINS

HOUR = 3_600_000


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """One question. `parameters`: their defaults, and what they mean; `columns` are named as Cypher returns them."""

    about: str
    cypher: str
    columns: tuple[str, ...]
    parameters: dict[str, tuple[Any, str]] = {}


_MEAN_MS = "CASE WHEN {ok} = 0 THEN null ELSE 1.0 * {lat} / {ok} / 1000 END"
_SCORE = "CASE WHEN {n} = 0 THEN null ELSE 1.0 * {u} / {n} / 1000000 END"


def _mean_ms(lat: str, ok: str) -> str:
    return _MEAN_MS.format(lat=lat, ok=ok)


def _score(u: str, n: str) -> str:
    return _SCORE.format(u=u, n=n)


QUESTIONS: dict[str, Question] = {
    "hourly": Question(
        about="latency and quality of every model, hour by hour",
        columns=("model", "at", "n", "ok", "mean_ms", "score"),
        cypher=f"""MATCH (h:PmHour)<-[:IN_HOUR]-(b) WHERE h.at >= $from AND h.at < $to
WITH b, b.at AS at MATCH (b)-[:IN_SERIES]->(:PmSeries)-[:OF_MODEL]->(m:PmModel)
WITH m.key AS model, at, sum(b.n) AS n, sum(b.ok) AS ok, sum(b.lat_us) AS lat,
  sum(b.score_u) AS u, sum(b.score_n) AS k
RETURN model, at, n, ok, {_mean_ms("lat", "ok")} AS mean_ms, {_score("u", "k")} AS score ORDER BY model, at""",
    ),
    "qualify": Question(
        about="which models qualify for a task by failures and cost, best quality first, with their latencies",
        columns=("model", "provider", "n", "fail_ratio", "score", "usd_per_call", "hist"),
        parameters={
            "task": ("general", "the task"),
            "min_ok": (20, "at least so many good answers"),
            "max_fail": (0.05, "at most this share of attempts failed"),
            "max_usd": (0.01, "at most so many USD per good answer"),
        },
        cypher=f"""MATCH (h:PmHour)<-[:IN_HOUR]-(b) WHERE h.at >= $from AND h.at < $to
WITH b, b.task AS task WHERE task = $task
MATCH (b)-[:IN_SERIES]->(:PmSeries)-[:OF_MODEL]->(m:PmModel)-[:SERVED_BY]->(p:PmProvider)
WITH m.key AS model, p.name AS provider, sum(b.n) AS n, sum(b.ok) AS ok, sum(b.err) AS err, sum(b.score_u) AS u,
  sum(b.score_n) AS k, sum(b.cost_pusd) AS cost, collect(b.h) AS hs
WHERE ok >= $min_ok AND 1.0 * err / n <= $max_fail AND 1.0 * cost / ok / 1000000000000 <= $max_usd
RETURN model, provider, n, 1.0 * err / n AS fail_ratio, {_score("u", "k")} AS score,
  1.0 * cost / ok / 1000000000000 AS usd_per_call,
  [i IN range(0, {BINS - 1}) | reduce(s = 0, h IN hs | s + h[i])] AS hist ORDER BY coalesce(score, -1.0) DESC, model""",
    ),
    "chains": Question(
        about="the most used chains of models, where the first one failed",
        columns=("chain", "task", "n", "ok", "path"),
        parameters={"limit": (10, "at most so many")},
        cypher="""MATCH (c:PmChain) WHERE c.last_at >= $from
WITH c ORDER BY c.n DESC, c.key LIMIT $limit
MATCH (c)-[s:STEP]->(m:PmModel)
WITH c, s, m ORDER BY s.i
RETURN c.key AS chain, c.task AS task, c.n AS n, c.ok AS ok, collect(m.key) AS path ORDER BY n DESC, chain""",
    ),
    "worse": Question(
        about="models beside the window of the same length before, those that got slower (or only fail) first",
        columns=("model", "latency_ratio", "fail_delta", "n", "n_before"),
        parameters={"least": (20, "at least so many attempts now, good answers before; of fewer good ones no latency")},
        cypher="""MATCH (h:PmHour)<-[:IN_HOUR]-(b) WHERE h.at >= 2 * $from - $to AND h.at < $to
WITH b, CASE WHEN b.at >= $from THEN 1 ELSE 0 END AS now
MATCH (b)-[:IN_SERIES]->(:PmSeries)-[:OF_MODEL]->(m:PmModel)
WITH m.key AS model, now, b
WITH model, sum(now * b.lat_us) AS l1, sum(now * b.ok) AS o1, sum(now * b.err) AS e1, sum(now * b.n) AS n1,
  sum((1 - now) * b.lat_us) AS l0, sum((1 - now) * b.ok) AS o0, sum((1 - now) * b.err) AS e0,
  sum((1 - now) * b.n) AS n0
WHERE o1 + e1 >= $least AND o1 + e1 > 0 AND o0 >= $least AND l0 > 0
WITH model, CASE WHEN o1 < $least OR o1 = 0 THEN null ELSE (1.0 * l1 / o1) / (1.0 * l0 / o0) END AS latency_ratio,
  1.0 * e1 / (o1 + e1) - 1.0 * e0 / (o0 + e0) AS fail_delta, n1 AS n, n0 AS n_before
RETURN model, latency_ratio, fail_delta, n, n_before ORDER BY coalesce(latency_ratio, 1.0 + fail_delta) DESC, model""",
    ),
    "free": Question(
        about="what free models elsewhere cost in quality, and paid ones in money, per task",
        columns=("task", "free", "score", "usd", "ok"),
        cypher=f"""MATCH (h:PmHour)<-[:IN_HOUR]-(b) WHERE h.at >= $from AND h.at < $to
WITH b, b.task AS task MATCH (b)-[:IN_SERIES]->(:PmSeries)-[:OF_MODEL]->(m:PmModel) WHERE m.local = false
WITH task, m.free AS free, sum(b.score_u) AS u, sum(b.score_n) AS k, sum(b.cost_pusd) AS cost,
  sum(b.ok) AS ok
RETURN task, free, {_score("u", "k")} AS score, 1.0 * cost / 1000000000000 AS usd, ok ORDER BY task, free""",
    ),
    "switches": Question(
        about="did it help to go on with another model: the six hours before and after",
        columns=("at", "task", "old", "new", "reason", "n", "before_ms", "after_ms"),
        cypher=f"""MATCH (h:PmHour)<-[:DURING]-(c:PmChange) WHERE h.at >= $from AND h.at < $to
WITH c, c.at AS at MATCH (c)-[:FROM]->(:PmSeries)-[:OF_MODEL]->(a:PmModel)
MATCH (c)-[:TO]->(s:PmSeries)-[:OF_MODEL]->(z:PmModel) MATCH (s)-[:FOR_TASK]->(t:PmTask)
UNWIND range(1, 6) AS i
OPTIONAL MATCH (b0:PmBucket {{key: a.key + ' ' + t.name + ' ' + toString(at - i * {HOUR})}})
WITH c, at, a, z, t, sum(b0.lat_us) AS l0, sum(b0.ok) AS o0
UNWIND range(0, 5) AS i
OPTIONAL MATCH (b1:PmBucket {{key: z.key + ' ' + t.name + ' ' + toString(at + i * {HOUR})}})
WITH c, at, a, z, t, l0, o0, sum(b1.lat_us) AS l1, sum(b1.ok) AS o1
RETURN at, t.name AS task, a.key AS old, z.key AS new, c.reason AS reason, c.n AS n,
  {_mean_ms("l0", "o0")} AS before_ms, {_mean_ms("l1", "o1")} AS after_ms ORDER BY at, task, old, new, reason""",
    ),
    "fate": Question(
        about="hours in which several models of one provider failed together",
        columns=("provider", "at", "models", "errors"),
        parameters={"models": (3, "at least so many of them"), "limit": (20, "at most so many hours")},
        cypher="""MATCH (h:PmHour)<-[:IN_HOUR]-(b:PmBucket) WHERE h.at >= $from AND h.at < $to AND b.err > 0
WITH b, h.at AS at MATCH (b)-[:IN_SERIES]->(:PmSeries)-[:OF_MODEL]->(m:PmModel)-[:SERVED_BY]->(p:PmProvider)
WITH p.name AS provider, at, count(DISTINCT m.key) AS models, sum(b.err) AS errors
WHERE models >= $models
RETURN provider, at, models, errors ORDER BY errors DESC, provider, at LIMIT $limit""",
    ),
    "single": Question(
        about="tasks that lean on one provider: its share of their good answers",
        columns=("task", "provider", "share", "providers"),
        cypher="""MATCH (h:PmHour)<-[:IN_HOUR]-(b) WHERE h.at >= $from AND h.at < $to AND b.ok > 0
WITH b, b.task AS task MATCH (b)-[:IN_SERIES]->(:PmSeries)-[:OF_MODEL]->(:PmModel)-[:SERVED_BY]->(p:PmProvider)
WITH task, p.name AS provider, sum(b.ok) AS ok ORDER BY provider
WITH task, collect(provider) AS ps, collect(ok) AS oks, sum(ok) AS total, max(ok) AS top
RETURN task, [i IN range(0, size(ps) - 1) WHERE oks[i] = top | ps[i]][0] AS provider,
  1.0 * top / total AS share, size(ps) AS providers ORDER BY share DESC, task""",
    ),
}
