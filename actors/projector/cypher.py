"""The graph's Cypher: constraints, what writes a batch, what sweeps, what is summed. Text only.

Kept to what Neo4j Community 5.26 and ArcadeDB both do, alike: integers for times (Unix milliseconds), counters and
lists of them, unique constraints, one row per key and statement, parameters for every value. No APOC, no temporal
functions, no map projection, and no index but those of the constraints: in ArcadeDB one over times finds nodes that
were deleted before it was compacted, and each statement that walks along it fails from then on. What belongs to a time
is found from its hour. Labels are written as in the first half (`messages/graph.HALVES`); `of` makes a statement that
of the other.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import Any

from understudy.actors.projector.rows import Rows, Statements, Switch, Tally
from understudy.messages.buckets import BINS, DAY_MS, KINDS, Bucket
from understudy.messages.graph import HALVES

VERSION = 7
"""Of nodes, relations and what they count. Another one is built beside the graph that serves, which it then replaces.
`tests/actors/projector/test_schema.py` knows the fold's result by heart: change both together."""

NAME = "performance"
PROJECTION, LEASE = "PmProjection", "PmLease"
SUMS = (
    *("n", "ok", "err", "lat_us", "ttft_us", "ttft_n", "score_u", "score_n", "rating_u", "rating_n"),
    *("tokens_in", "tokens_out", "cost_pusd"),
)
"""A bucket's counters, named as in `messages/buckets.py`; beside them `lat_max_us`, `e_<kind>` and the histogram."""
COUNTERS = (*SUMS, *(f"e_{kind}" for kind in KINDS))

WEEK_MS = 7 * DAY_MS
MOST_KEY = 2_000
"""Bytes of a key."""

_LABEL = re.compile(f":{HALVES[0]}(?=[A-Z])")
_KEYS = {
    **dict.fromkeys(("Hour", "Series", "Model", "Bucket", "Day", "Chain", "Change", "Incident"), "key"),
    **dict.fromkeys(("Provider", "Task"), "name"),
}
LABELS = tuple(_KEYS)
EMPTIED = sorted(LABELS, key=lambda label: label in ("Hour", "Series", "Model", "Task", "Provider"))
"""In this order: what everything is related to goes last, or its deletion would be one transaction over all of it."""


_FORMER = (
    "CONSTRAINT {}hour_at",
    *("INDEX {}bucket_at", "INDEX {}chain_last_at", "INDEX {}change_at", "INDEX {}incident_until"),
)
"""Until version 5. Two nodes of one time, an hour and a day, would break the first."""


def schema_name(*days: int) -> str:
    """What a half says of its content: the version of nodes and relations, and the retention."""
    return ".".join(map(str, (VERSION, *days)))


def version_of(name: str) -> str:
    """The version in such a name."""
    return name.partition(".")[0]


def schema() -> list[str]:
    """Constraints of both halves, which may be there already; what earlier versions had in the same database goes."""
    found = [_unique(PROJECTION, "name"), _unique(LEASE, "name")]
    for prefix in HALVES:
        found += [f"DROP {one.format(prefix.lower())} IF EXISTS" for one in _FORMER]
        found += [_unique(prefix + label, key) for label, key in _KEYS.items()]
    return found


def _unique(label: str, key: str) -> str:
    return f"CREATE CONSTRAINT {label.lower()}_{key} IF NOT EXISTS FOR (x:{label}) REQUIRE x.{key} IS UNIQUE"


# --- the projection's own node ---------------------------------------------------------------------------------------

MAKE_LEASE = f"""MERGE (l:{LEASE} {{name: $name}})
ON CREATE SET l.fence = 0, l.holder = '', l.until_ms = 0, l.lock = ''"""
MAKE = f"""MERGE (p:{PROJECTION} {{name: $name}})
ON CREATE SET p.stream = '', p.fence = 0, p.lock = '',
  p.prefix = '', p.epoch = '', p.schema = '', p.seq = 0, p.day = 0,
  p.next_prefix = '', p.next_epoch = '', p.next_schema = '', p.next_seq = 0, p.next_day = 0"""

_PROPERTIES = (
    *("stream", "fence", "prefix", "epoch", "schema", "seq", "day"),
    *("next_prefix", "next_epoch", "next_schema", "next_seq", "next_day"),
)
_ALL = ", ".join(f"p.{name} AS {name}" for name in _PROPERTIES)
LOOK = f"MATCH (p:{PROJECTION} {{name: $name}}) RETURN {_ALL}"

LOCK = f"MATCH (p:{PROJECTION} {{name: $name}}) SET p.lock = $lock RETURN {_ALL}"
"""The write comes first, so whoever else writes waits until we are done, and what is returned was read after that."""

FENCE = f"""MATCH (p:{PROJECTION} {{name: $name}}) WHERE p.fence = $have
SET p.fence = $fence, p.stream = $stream RETURN p.fence AS fence"""

_LEASE = "l.fence AS fence, l.holder AS holder, l.until_ms AS until_ms"
LOOK_LEASE = f"MATCH (l:{LEASE} {{name: $name}}) RETURN {_LEASE}"
LOCK_LEASE = f"MATCH (l:{LEASE} {{name: $name}}) SET l.lock = $lock RETURN {_LEASE}"
"""The lease stands in a node of its own: it is renewed while a batch, which holds the Projection, is under way."""

SET_LEASE = f"""MATCH (l:{LEASE} {{name: $name}}) WHERE l.fence = $have
SET l.fence = $fence, l.holder = $holder, l.until_ms = $until_ms RETURN l.fence AS fence"""


def advance(part: str) -> str:
    """The compare-and-set that closes a batch; `part`: '' for the half that serves, `next_` for the one being built."""
    return f"""MATCH (p:{PROJECTION} {{name: $name}}) WHERE p.fence = $fence AND p.{part}seq = $have
SET p.{part}seq = $upto, p.{part}day = $day RETURN p.{part}seq AS seq"""


BEGIN = f"""MATCH (p:{PROJECTION} {{name: $name}}) WHERE p.fence = $fence
SET p.next_prefix = $prefix, p.next_epoch = $epoch, p.next_schema = $schema, p.next_seq = 0, p.next_day = 0
RETURN p.fence AS fence"""

SWAP = f"""MATCH (p:{PROJECTION} {{name: $name}})
WHERE p.fence = $fence AND p.next_prefix = $prefix AND p.next_seq = $have
SET p.prefix = p.next_prefix, p.epoch = p.next_epoch, p.schema = p.next_schema, p.seq = p.next_seq, p.day = p.next_day,
  p.next_prefix = '', p.next_epoch = '', p.next_schema = '', p.next_seq = 0, p.next_day = 0
RETURN p.fence AS fence"""

# --- a batch ---------------------------------------------------------------------------------------------------------

MODELS = """UNWIND $rows AS r MERGE (m:PmModel {key: r.key}) ON CREATE SET m.first_at = 0, m.last_at = 0
SET m.provider = r.provider, m.local = r.local, m.free = r.free, m.context_tokens = r.context_tokens,
  m.price_in_pusd = r.price_in_pusd, m.price_out_pusd = r.price_out_pusd
WITH m, r MATCH (m)-[s:SERVED_BY]->(o:PmProvider) WHERE o.name <> r.provider DELETE s"""
SERVED = """UNWIND $rows AS r MATCH (m:PmModel {key: r.key}) MERGE (p:PmProvider {name: r.provider})
MERGE (m)-[:SERVED_BY]->(p)"""
SEEN = """UNWIND $rows AS r MATCH (m:PmModel {key: r.key})
SET m.first_at = CASE WHEN m.first_at = 0 OR r.first_at < m.first_at THEN r.first_at ELSE m.first_at END,
  m.last_at = CASE WHEN r.last_at > m.last_at THEN r.last_at ELSE m.last_at END"""
HOURS = """UNWIND $rows AS r MERGE (h:PmHour {key: r.key})
ON CREATE SET h.at = r.at, h.day = r.day, h.hours = r.hours, h.runs = 0, h.finished = 0
SET h.runs = h.runs + r.runs, h.finished = h.finished + r.finished"""
"""Hours, and the days that they are in. A window goes by `at`, which a day has not before its hours go."""

SERIES = """UNWIND $rows AS r MATCH (m:PmModel {key: r.model})
MERGE (s:PmSeries {key: r.key}) ON CREATE SET s.at = r.at, s.fresh = true
WITH s, m, r WHERE s.fresh = true SET s.fresh = null
WITH s, m, r MERGE (t:PmTask {name: r.task})
CREATE (s)-[:OF_MODEL]->(m) CREATE (s)-[:FOR_TASK]->(t)"""
"""A model at a task in a week, which its buckets hang on. On model and task themselves they would hang by the ten
thousand, and ArcadeDB walks along all relations of a node to take one away: deleting a day of hours cost it a third of
a batch, and a sixteenth where a series had no weeks."""

_ZERO = ", ".join(f"b.{name} = 0" for name in (*COUNTERS, "lat_max_us"))
_ADD = ", ".join(f"b.{name} = b.{name} + r.{name}" for name in COUNTERS)
_COUNTED = f"""UNWIND $rows AS r MERGE (b:LABEL {{key: r.key}})
ON CREATE SET b.at = r.at, b.model = r.model, b.task = r.task, b.fresh = true, b.h = r.zero, {_ZERO}
SET {_ADD},
  b.lat_max_us = CASE WHEN r.lat_max_us > b.lat_max_us THEN r.lat_max_us ELSE b.lat_max_us END,
  b.h = [i IN range(0, {BINS - 1}) | b.h[i] + r.h[i]]
WITH b, r WHERE b.fresh = true SET b.fresh = null
WITH b, r MATCH (s:PmSeries {{key: r.series}}) MATCH (h:PmHour {{key: r.hour}})
CREATE (b)-[:IN_SERIES]->(s) CREATE (b)-[:IN_HOUR]->(h)"""
BUCKETS, DAYS = (_COUNTED.replace("LABEL", label) for label in ("PmBucket", "PmDay"))
"""A day is written with its hours: reading these back and adding them up when they go cost nearly twice as much."""

FALLS = """UNWIND $rows AS r MATCH (a:PmModel {key: r.model}) MATCH (b:PmModel {key: r.next})
MERGE (a)-[f:FELL_BACK_TO {task: r.task, why: r.why}]->(b) ON CREATE SET f.n = 0, f.last_at = 0
SET f.n = f.n + r.n, f.last_at = CASE WHEN r.last_at > f.last_at THEN r.last_at ELSE f.last_at END"""
CHAINS = """UNWIND $rows AS r MERGE (c:PmChain {key: r.key})
ON CREATE SET c.task = r.task, c.len = size(r.steps), c.n = 0, c.ok = 0, c.last_at = 0, c.fresh = true
SET c.n = c.n + r.n, c.ok = c.ok + r.ok,
  c.last_at = CASE WHEN r.last_at > c.last_at THEN r.last_at ELSE c.last_at END
WITH c, r WHERE c.fresh = true SET c.fresh = null
WITH c, r UNWIND r.steps AS s MATCH (m:PmModel {key: s.model}) CREATE (c)-[:STEP {i: s.i}]->(m)"""
CHANGES = """UNWIND $rows AS r MERGE (c:PmChange {key: r.key})
ON CREATE SET c.at = r.at, c.reason = r.reason, c.n = 0, c.fresh = true
SET c.n = c.n + r.n
WITH c, r WHERE c.fresh = true SET c.fresh = null
WITH c, r MATCH (a:PmSeries {key: r.old}) MATCH (b:PmSeries {key: r.new}) MATCH (h:PmHour {key: r.hour})
CREATE (c)-[:FROM]->(a) CREATE (c)-[:TO]->(b) CREATE (c)-[:DURING]->(h)"""
INCIDENTS = """UNWIND $rows AS r MERGE (i:PmIncident {key: r.key})
SET i.subject = r.subject, i.kind = r.kind, i.reason = r.reason, i.at = r.at, i.until = r.until, i.n = r.n"""
ON_MODELS = """UNWIND $rows AS r MATCH (i:PmIncident {key: r.key}) MATCH (m:PmModel {key: r.subject})
MERGE (i)-[:ON]->(m)"""
ON_PROVIDERS = """UNWIND $rows AS r MATCH (i:PmIncident {key: r.key}) MERGE (p:PmProvider {name: r.subject})
MERGE (i)-[:ON]->(p)"""
OPEN_INCIDENTS = """MATCH (i:PmIncident) WHERE i.until = 0
RETURN i.key AS key, i.subject AS subject, i.kind AS kind, i.reason AS reason, i.at AS at, i.n AS n"""

WRITTEN = """MATCH (m:PmModel) RETURN m.key, m.provider, m.local, m.free, m.context_tokens, m.price_in_pusd,
m.price_out_pusd"""
"""In the order of `rows.Facts`."""


def _week(at: int) -> int:
    """When the week of that time began; weeks count from 1970 on."""
    return at - at % WEEK_MS


def _series_key(model: str, task: str, at: int) -> str:
    """Of the series that a bucket of that time is in."""
    return f"{model} {task} {_week(at)}w"


def _hour_key(at: int, hours: int) -> str:
    return f"{at}{'d' if hours == 24 else ''}"


def bucket_row(model: str, task: str, at: int, one: Bucket, hours: int = 1) -> dict[str, Any]:
    """The parameters of a bucket, or of a day (`hours` 24). Ids hold no spaces, so its key can be told apart again."""
    row: dict[str, Any] = {name: getattr(one, name) for name in SUMS}
    row |= {f"e_{kind}": one.errors.get(kind, 0) for kind in KINDS}
    row |= {"key": f"{model} {task} {at}", "series": _series_key(model, task, at), "hour": _hour_key(at, hours)}
    row |= {"model": model, "task": task, "at": at}
    return row | {"lat_max_us": one.lat_max_us, "h": one.hist, "zero": [0] * BINS}


def _key(*parts: Any) -> str:
    """Of what stands for a node. An index of Neo4j takes some 8 kB, which a chain of long ids may exceed."""
    text = " ".join(map(str, parts))
    return text if len(text.encode()) <= MOST_KEY else f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _hours(rows: Rows, gone: int) -> list[dict[str, Any]]:
    """Those that something happened in, and their days."""
    found, days = list[dict[str, Any]](), dict[int, Tally]()
    changed = (key.at for key in rows.switches if key.at >= gone)
    for at in sorted({*rows.hours, *(key[2] for key in rows.buckets), *changed}):
        one, day = rows.hours.get(at, Tally()), days.setdefault(at - at % DAY_MS, Tally())
        day.n, day.ok = day.n + one.n, day.ok + one.ok
        if at >= gone:
            row = {"key": _hour_key(at, 1), "at": at, "day": None, "hours": 1}
            found.append({**row, "runs": one.n, "finished": one.ok})
    for at, one in days.items():
        row = {"key": _hour_key(at, 24), "at": at if at < gone else None, "day": at, "hours": 24}
        found.append({**row, "runs": one.n, "finished": one.ok})
    return found


def _days(rows: Rows) -> list[dict[str, Any]]:
    days = dict[tuple[str, str, int], Bucket]()
    for (model, task, at), one in rows.buckets.items():
        days.setdefault((model, task, at - at % DAY_MS), Bucket()).add(one)
    return [bucket_row(*key, one, hours=24) for key, one in days.items()]


def _series(rows: Rows, gone: int) -> list[dict[str, Any]]:
    """Those that buckets, days and changes hang on."""
    found = {(model, task, _week(at)) for model, task, at in rows.buckets}
    for one in rows.switches:
        if one.at >= gone:
            found |= {(model, one.task, _week(one.at)) for model in (one.model, one.next)}
    return [{"key": _series_key(*one), "model": one[0], "task": one[1], "at": one[2]} for one in found]


def _change_row(one: Switch, times: int) -> dict[str, Any]:
    old, new = (_series_key(model, one.task, one.at) for model in (one.model, one.next))
    row = {"key": _key(*one), "at": one.at, "reason": one.reason, "n": times}
    return {**row, "old": old, "new": new, "hour": _hour_key(one.at, 1)}


def batch(rows: Rows, gone: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Statements and their rows in the order in which they have to run, each with at least one row. What was before
    `gone` (Unix milliseconds, a day's beginning) is in days alone, and who went on for whom then is no longer kept."""
    incidents = [
        {name: getattr(one, name) for name in one.__struct_fields__} for one in rows.incidents.values()
    ]  # fmt: skip
    quotas = [one for one in incidents if one["key"].startswith("quota ")]
    models = [{"key": key, **facts._asdict()} for key, facts in rows.models.items()]
    found: Statements = [
        (MODELS, models),
        (SERVED, models),
        (SEEN, [{"key": m, "first_at": first, "last_at": last} for m, (first, last) in rows.seen.items()]),
        (HOURS, _hours(rows, gone)),
        (SERIES, _series(rows, gone)),
        (BUCKETS, [bucket_row(*key, one) for key, one in rows.buckets.items() if key[2] >= gone]),
        (DAYS, _days(rows)),
        (FALLS, [{**key._asdict(), "n": one.n, "last_at": one.last_at} for key, one in rows.falls.items()]),
        (
            CHAINS,
            [
                {
                    "key": _key(*key),
                    "task": key[0],
                    "steps": [{"i": i, "model": model} for i, model in enumerate(key[1:])],
                    "n": one.n,
                    "ok": one.ok,
                    "last_at": one.last_at,
                }
                for key, one in rows.chains.items()
            ],
        ),
        (CHANGES, [_change_row(key, one.n) for key, one in rows.switches.items() if key.at >= gone]),
        (INCIDENTS, incidents),
        (ON_MODELS, [one for one in incidents if not one["key"].startswith("quota ")]),
        (ON_PROVIDERS, quotas),
    ]
    return ((statement, sorted(some, key=lambda r: r.get("key", ""))) for statement, some in found if some)


# --- what goes out with time -----------------------------------------------------------------------------------------

_OLD = "h.hours = 1 AND h.at < $before"
_OLD_DAYS = "h.hours = 24 AND h.at < $week_before"

OLDEST = "MATCH (h:PmHour) RETURN min(h.at) AS at"
"""Of hours and days: where it is young enough, what goes by its hour need not be looked for."""

HOURS_GO = (
    f"MATCH (h:PmHour)<-[:IN_HOUR]-(b:PmBucket) WHERE {_OLD} DETACH DELETE b",
    f"MATCH (h:PmHour)<-[:DURING]-(c:PmChange) WHERE {_OLD} DETACH DELETE c",
    f"MATCH (h:PmHour) WHERE {_OLD} DETACH DELETE h",
    "MATCH (h:PmHour) WHERE h.hours = 24 AND h.at IS NULL AND h.day < $before SET h.at = h.day",
)
"""And their days are seen in windows."""

RARE_GO = (
    "MATCH (c:PmChain) WHERE c.last_at < $rare_before AND c.n < 3 DETACH DELETE c",
    "MATCH (i:PmIncident) WHERE i.until > 0 AND i.until < $long_before DETACH DELETE i",
)
DAYS_GO = (
    f"MATCH (h:PmHour)<-[:IN_HOUR]-(d:PmDay) WHERE {_OLD_DAYS} DETACH DELETE d",
    f"MATCH (h:PmHour) WHERE {_OLD_DAYS} DETACH DELETE h",
)
SERIES_GO = (f"MATCH (s:PmSeries) WHERE s.at + {WEEK_MS} <= $week_before DETACH DELETE s",)
"""Once a week, as days do, but whatever the oldest is: a series may outlive its days."""

SWEEPS = (*HOURS_GO, *RARE_GO, *DAYS_GO, *SERIES_GO)

EMPTY = "MATCH (n:PmLABEL) WITH n LIMIT $at_most DETACH DELETE n RETURN count(*) AS n"

# --- the checksum ----------------------------------------------------------------------------------------------------

_B = ", ".join(f"b.{name}" for name in ("key", "at", "model", "task", *COUNTERS, "lat_max_us", "h"))
SUMMED: dict[str, str] = {
    "models": """MATCH (m:PmModel) RETURN m.key, m.provider, m.local, m.free, m.context_tokens, m.price_in_pusd,
m.price_out_pusd, m.first_at, m.last_at""",
    "served_by": "MATCH (m:PmModel)-[:SERVED_BY]->(p:PmProvider) RETURN m.key, p.name",
    "tasks": "MATCH (t:PmTask) RETURN t.name",
    "hours": "MATCH (h:PmHour) RETURN h.key, h.at, h.day, h.hours, h.runs, h.finished",
    "buckets": f"MATCH (b:PmBucket) RETURN {_B}",
    "days": f"MATCH (b:PmDay) RETURN {_B}",
    "series": "MATCH (s:PmSeries) RETURN s.key, s.at",
    "of_model": "MATCH (s:PmSeries)-[:OF_MODEL]->(m:PmModel) RETURN s.key, m.key",
    "for_task": "MATCH (s:PmSeries)-[:FOR_TASK]->(t:PmTask) RETURN s.key, t.name",
    "in_series": "MATCH (b:PmBucket)-[:IN_SERIES]->(s:PmSeries) RETURN b.key, s.key",
    "in_hour": "MATCH (b:PmBucket)-[:IN_HOUR]->(h:PmHour) RETURN b.key, h.key",
    "days_in_series": "MATCH (b:PmDay)-[:IN_SERIES]->(s:PmSeries) RETURN b.key, s.key",
    "days_in_hour": "MATCH (b:PmDay)-[:IN_HOUR]->(h:PmHour) RETURN b.key, h.key",
    "fell_back_to": """MATCH (a:PmModel)-[f:FELL_BACK_TO]->(b:PmModel)
RETURN a.key, b.key, f.task, f.why, f.n, f.last_at""",
    "chains": "MATCH (c:PmChain) RETURN c.key, c.task, c.len, c.n, c.ok, c.last_at",
    "steps": "MATCH (c:PmChain)-[s:STEP]->(m:PmModel) RETURN c.key, s.i, m.key",
    "changes": """MATCH (c:PmChange)-[:FROM]->(a:PmSeries) MATCH (c)-[:TO]->(b:PmSeries)
MATCH (c)-[:DURING]->(h:PmHour) RETURN c.key, c.at, c.reason, c.n, a.key, b.key, h.key""",
    "incidents": "MATCH (i:PmIncident) RETURN i.key, i.subject, i.kind, i.reason, i.at, i.until, i.n",
    "on_models": "MATCH (i:PmIncident)-[:ON]->(m:PmModel) RETURN i.key, m.key",
    "on_providers": "MATCH (i:PmIncident)-[:ON]->(p:PmProvider) RETURN i.key, p.name",
}


def of(statement: str, prefix: str) -> str:
    """The statement for one half."""
    return statement if prefix == HALVES[0] else _LABEL.sub(f":{prefix}", statement)
