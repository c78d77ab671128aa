"""What the graph has to hold, computed from the log's raw bytes by plain Python: nothing of the fold is imported here.

It is written from the documentation (README, "The performance graph") and slow on purpose: `json`, `Decimal`, dicts.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

HOUR = 3_600_000
DAY = 24 * HOUR
SILENT = {
    *("caller_fault", "context_too_long", "refused", "cancelled", "deadline", "blocked"),
    *("busy", "no_room", "no_responders", "hedged", "text_lost", "no_endpoints"),
}
KINDS = {
    "timeout": {"first_token_timeout", "stall_timeout", "silent"},
    "quota": {"rate_limited", "payment"},
    "server": {"server_error", "error_event", "engine", "gone", "refused_connection"},
    "stream": {"broken_stream", "malformed", "empty"},
    "access": {"auth", "model_not_found"},
    "output": {"invalid_output"},
}
Tables = dict[str, dict[str, Any]]
"""Rows by table and key: models, hours, buckets, days, falls, chains, changes, incidents."""


def bin_of(us: int) -> int:
    """Half octaves from 50 ms, 24 of them."""
    for n in range(1, 24):
        if us < round(50_000 * math.pow(2, n / 2)):
            return n - 1
    return 23


def read(payloads: Iterable[bytes]) -> Tables:
    """All tables, of events in the log's order, from its beginning."""
    names = ("models", "hours", "buckets", "days", "falls", "chains", "changes", "incidents")
    found: Tables = {name: {} for name in names}
    ill: dict[str, str] = {}
    for number, payload in enumerate(payloads, 1):
        event = json.loads(payload)
        name = event["type"].rsplit(".", 1)[0]
        match name:
            case "request.ended":
                _outcome(found, event)
            case "feedback.given":
                _judged(found, event["model"], event["task"], event["at_ms"], round(event["rating"] * 1e6), 1, True)
            case "benchmark.measured":
                for one in event["tasks"]:
                    _judged(found, event["model"], one["task"], event["at_ms"], one["score_u"], one["scored"], False)
            case "topology.applied":
                for model, declared in event["body"]["models"].items():
                    row = found["models"].setdefault(model, {"first_at": 0, "last_at": 0})
                    row["provider"] = declared["provider"]
                    row["price_in_pusd"] = round(declared["usd_per_mtok_in"] * 1_000_000)
            case "model.switched":
                hour = event["at_ms"] // HOUR * HOUR
                words = (event["from_model"], event["model"], event["task"], event["reason"], str(hour))
                row = found["changes"].setdefault(" ".join(words), {"at": hour, "reason": event["reason"], "n": 0})
                row["n"] += 1
                _hour(found, event["at_ms"])
            case _:
                _incident(found, ill, number, name, event)
    _add_days(found)
    return found


def _hour(found: Tables, at_ms: int) -> dict[str, Any]:
    hour = at_ms // HOUR * HOUR
    return found["hours"].setdefault(str(hour), {"at": hour, "hours": 1, "runs": 0, "finished": 0})


def _add_days(found: Tables) -> None:
    """What stands beside the hours."""
    for row in found["buckets"].values():
        at = row["at"] // DAY * DAY
        one = found["days"].setdefault(f"{row['model']} {row['task']} {at}d", {**row, **_nothing(row), "at": at})
        for name in _nothing(row):
            one[name] = max(one[name], row[name]) if name == "lat_max_us" else _plus(one[name], row[name])
    for row in list(found["hours"].values()):
        at = row["at"] // DAY * DAY
        empty = {"at": None, "day": at, "hours": 24, "runs": 0, "finished": 0}
        one = found["hours"].setdefault(f"{at}d", empty)
        one["runs"] += row["runs"]
        one["finished"] += row["finished"]


def _bucket(found: Tables, model: str, task: str, at_ms: int) -> dict[str, Any]:
    hour = at_ms // HOUR * HOUR
    names = (
        "n",
        "ok",
        "err",
        "lat_us",
        "lat_max_us",
        "ttft_us",
        "ttft_n",
        "score_u",
        "score_n",
        "rating_u",
        "rating_n",
    )
    names += ("tokens_in", "tokens_out", "cost_pusd", *(f"e_{kind}" for kind in KINDS), "e_other")
    empty = {"model": model, "task": task, "at": hour, **dict.fromkeys(names, 0), "h": [0] * 24}
    _hour(found, at_ms)
    return found["buckets"].setdefault(f"{model} {task} {hour}", empty)


def _outcome(found: Tables, event: dict[str, Any]) -> None:
    at, tried = event["at_ms"], event.get("attempts", [])
    task = "benchmark" if "benchmark" in event.get("labels", []) else event["task"]
    finished = event["outcome"] == "finished"
    hour = _hour(found, at)
    hour["runs"] += 1
    hour["finished"] += finished
    for one in tried:
        _attempt(_bucket(found, one["model"], task, at), one)
        model = found["models"].setdefault(one["model"], {"first_at": 0, "last_at": 0})
        model["first_at"], model["last_at"] = min(model["first_at"] or at, at), max(model["last_at"], at)
    for charge in event.get("charges", []):
        pico = Decimal(charge["cost_usd"]) * 10**12
        assert pico == int(pico)
        _bucket(found, charge["model"], task, at)["cost_pusd"] += int(pico)
    usage = event.get("usage", {})
    into, out = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
    if into or out:
        speaker = _bucket(found, event.get("model") or tried[-1]["model"], task, at)
        speaker["tokens_in"] += into
        speaker["tokens_out"] += out
    for one, after in itertools.pairwise(tried):
        key = f"{one['model']} {after['model']} {task} {one['outcome']}"
        fall = found["falls"].setdefault(key, {"n": 0, "last_at": 0})
        fall["n"] += 1
        fall["last_at"] = max(fall["last_at"], at)
    if len(tried) > 1:
        path = [one["model"] for one in tried]
        empty = {"task": task, "path": path, "len": len(path), "n": 0, "ok": 0, "last_at": 0}
        chain = found["chains"].setdefault(" ".join([task, *path]), empty)
        chain["n"] += 1
        chain["ok"] += finished
        chain["last_at"] = max(chain["last_at"], at)


def _attempt(row: dict[str, Any], one: dict[str, Any]) -> None:
    row["n"] += 1
    word = one["outcome"]
    if word == "ok":
        us = max(0, round(one.get("total_ms", 0.0) * 1000))
        row["ok"] += 1
        row["lat_us"] += us
        row["lat_max_us"] = max(row["lat_max_us"], us)
        row["h"][bin_of(us)] += 1
        if "first_token_ms" in one:
            row["ttft_us"] += round(one["first_token_ms"] * 1000)
            row["ttft_n"] += 1
    elif word not in SILENT:
        row["err"] += 1
        row["e_" + next((kind for kind, words in KINDS.items() if word in words), "other")] += 1


def _judged(found: Tables, model: str, task: str, at: int, score_u: int, count: int, person: bool) -> None:
    row = _bucket(found, model, task, at)
    row["score_u"] += score_u
    row["score_n"] += count
    if person:
        row["rating_u"] += score_u
        row["rating_n"] += count


def _incident(found: Tables, ill: dict[str, str], seq: int, name: str, event: dict[str, Any]) -> None:
    subject = event.get("model") or event.get("provider") or ""
    match name:
        case "model.degraded" | "model.unavailable" | "provider.exhausted":
            trouble = "quota" if name == "provider.exhausted" else "health"
            kind = name.split(".")[1]
            key = ill.setdefault(f"{trouble} {subject}", f"{trouble} {subject} {seq}")
            reason = event["quota"] if trouble == "quota" else event["reason"]
            new = {"subject": subject, "kind": kind, "reason": reason, "at": event["at_ms"], "until": 0, "n": 0}
            row = found["incidents"].setdefault(key, new)
            row["n"] += 1
            if kind == "unavailable" and row["kind"] != kind:
                row["kind"], row["reason"] = kind, event["reason"]
        case "model.recovered" | "provider.restored":
            key = ill.pop(f"{'quota' if name == 'provider.restored' else 'health'} {subject}", "")
            if key:
                found["incidents"][key]["until"] = event["at_ms"]
        case _:
            pass


def last_day(payloads: Iterable[bytes]) -> int:
    """Of any event, counted from 1970."""
    return max(json.loads(one)["at_ms"] for one in payloads) // DAY


def aged(found: Tables, before: int) -> Tables:
    """The same when hours before that time are gone, and their days seen in windows. Not modelled: which chains were
    rare when, and changes that came when their hour was gone."""
    young = {name: dict(rows) for name, rows in found.items() if name != "chains"}
    for table in ("buckets", "changes"):
        young[table] = {key: row for key, row in found[table].items() if row["at"] >= before}
    for key, row in found["hours"].items():
        if row["hours"] == 24 and row["day"] < before:
            young["hours"][key] = {**row, "at": row["day"]}
        elif row["hours"] == 1 and row["at"] < before:
            del young["hours"][key]
    return young


def _nothing(row: dict[str, Any]) -> dict[str, Any]:
    kept = ("at", "model", "task")
    return {name: [0] * 24 if name == "h" else 0 for name in row if name not in kept}


def _plus(one: Any, other: Any) -> Any:
    return [a + b for a, b in zip(one, other, strict=True)] if isinstance(one, list) else one + other


def totals(found: Tables) -> dict[str, int]:
    """Sums over all buckets: what scenario 9 asks for."""
    names = ("n", "ok", "err", "tokens_in", "tokens_out", "cost_pusd", "lat_us")
    return {name: sum(row[name] for row in found["buckets"].values()) for name in names}


def differences(wanted: Tables, got: Tables) -> list[str]:
    """Every row that is not as it should be: missing, superfluous, or with another value."""
    found: list[str] = []
    for table, rows in wanted.items():
        other = got.get(table, {})
        found += [f"{table}: {key} is missing" for key in rows.keys() - other.keys()]
        found += [f"{table}: {key} should not be there" for key in other.keys() - rows.keys()]
        for key in rows.keys() & other.keys():
            wrong = [name for name, value in rows[key].items() if other[key].get(name) != value]
            found += [f"{table}: {key}: {', '.join(wrong)}"] if wrong else []
    return sorted(found)
