"""The eight questions answered from the reader's tables in plain Python: no Cypher, nothing of `questions.py`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

from understudy.tools.bench.graph.reader import Tables

HOUR = 3_600_000
Row = dict[str, Any]


class Known:
    """The tables, and what the log's topology says of models. Before `gone` days stand for hours (`reader.aged`)."""

    def __init__(self, tables: Tables, topology: dict[str, Any], gone: int = 0) -> None:
        self.tables, self.gone = tables, gone
        models, providers = topology["models"], topology["providers"]
        self.provider = {name: one["provider"] for name, one in models.items()}
        self.local = {name: providers[one["provider"]].get("location") == "local" for name, one in models.items()}
        self.free = {name: not one["usd_per_mtok_in"] and not one["usd_per_mtok_out"] for name, one in models.items()}

    def buckets(self, since: int, until: int) -> list[Row]:
        """Of a window: of hours, or of days that stand for them."""
        days = (row for row in self.tables["days"].values() if since <= row["at"] < min(until, self.gone))
        return [*days, *self.hours(since, until)]

    def hours(self, since: int, until: int) -> list[Row]:
        """Of a window."""
        return [row for row in self.tables["buckets"].values() if since <= row["at"] < until]


def _sums(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, Row]:
    found: dict[Any, Row] = {}
    for row in rows:
        names = ("n", "ok", "err", "lat_us", "score_u", "score_n", "cost_pusd")
        into = found.setdefault(key(row), {**dict.fromkeys(names, 0), "h": [0] * 24})
        for name in names:
            into[name] += row[name]
        into["h"] = [a + b for a, b in zip(into["h"], row["h"], strict=True)]
    return found


def _mean_ms(row: Row) -> float | None:
    return row["lat_us"] / row["ok"] / 1000 if row["ok"] else None


def _score(row: Row) -> float | None:
    return row["score_u"] / row["score_n"] / 1e6 if row["score_n"] else None


def hourly(known: Known, since: int, until: int, **_: Any) -> list[Row]:
    """See `questions.py`."""
    rows = _sums(known.buckets(since, until), lambda row: (row["model"], row["at"]))
    return [
        {"model": m, "at": at, "n": one["n"], "ok": one["ok"], "mean_ms": _mean_ms(one), "score": _score(one)}
        for (m, at), one in sorted(rows.items())
    ]


def qualify(
    known: Known, since: int, until: int, *, task: str, min_ok: int, max_fail: float, max_usd: float
) -> list[Row]:
    """See `questions.py`."""
    rows = _sums((row for row in known.buckets(since, until) if row["task"] == task), lambda row: row["model"])
    found: list[Row] = []
    for model, one in rows.items():
        if one["ok"] < min_ok or one["err"] / one["n"] > max_fail or one["cost_pusd"] / one["ok"] / 1e12 > max_usd:
            continue
        fail, usd = one["err"] / one["n"], one["cost_pusd"] / one["ok"] / 1e12
        row = {"model": model, "provider": known.provider[model], "n": one["n"], "fail_ratio": fail}
        found.append(row | {"score": _score(one), "usd_per_call": usd, "hist": one["h"]})
    return found


def chains(known: Known, since: int, until: int, *, limit: int) -> list[Row]:
    """See `questions.py`."""
    rows = [(key, one) for key, one in known.tables["chains"].items() if one["last_at"] >= since]
    rows.sort(key=lambda pair: (-pair[1]["n"], pair[0]))
    return [
        {"chain": key, "task": one["task"], "n": one["n"], "ok": one["ok"], "path": one["path"]}
        for key, one in rows[:limit]
    ]


def worse(known: Known, since: int, until: int, *, least: int) -> list[Row]:
    """See `questions.py`."""
    now = _sums(known.buckets(since, until), lambda row: row["model"])
    before = _sums(known.buckets(2 * since - until, since), lambda row: row["model"])
    found: list[Row] = []
    for model in now.keys() & before.keys():
        one, old = now[model], before[model]
        judged = one["ok"] + one["err"]
        if judged < max(1, least) or old["ok"] < least or not old["lat_us"]:
            continue
        few = one["ok"] < max(1, least)
        ratio = None if few else (one["lat_us"] / one["ok"]) / (old["lat_us"] / old["ok"])
        delta = one["err"] / judged - old["err"] / (old["ok"] + old["err"])
        found.append({"model": model, "latency_ratio": ratio, "fail_delta": delta, "n": one["n"], "n_before": old["n"]})
    return found


def free(known: Known, since: int, until: int, **_: Any) -> list[Row]:
    """See `questions.py`."""
    away = (row for row in known.buckets(since, until) if not known.local[row["model"]])
    rows = _sums(away, lambda row: (row["task"], known.free[row["model"]]))
    return [
        {"task": task, "free": is_free, "score": _score(one), "usd": one["cost_pusd"] / 1e12, "ok": one["ok"]}
        for (task, is_free), one in sorted(rows.items())
    ]


def switches(known: Known, since: int, until: int, **_: Any) -> list[Row]:
    """See `questions.py`."""
    found: list[Row] = []
    for key, one in known.tables["changes"].items():
        old, new, task, reason, _at = key.split(" ")
        if not since <= one["at"] < until:
            continue
        before = _hours(known, old, task, range(one["at"] - 6 * HOUR, one["at"], HOUR))
        after = _hours(known, new, task, range(one["at"], one["at"] + 6 * HOUR, HOUR))
        row = {"at": one["at"], "task": task, "old": old, "new": new, "reason": reason, "n": one["n"]}
        found.append(row | {"before_ms": _mean_ms(before), "after_ms": _mean_ms(after)})
    return found


def _hours(known: Known, model: str, task: str, hours: range) -> Row:
    rows: list[Row | None] = [known.tables["buckets"].get(f"{model} {task} {at}") for at in hours]
    nothing: Row = {"lat_us": 0, "ok": 0}
    return _sums((row for row in rows if row is not None), lambda _: 0).get(0, nothing)


def fate(known: Known, since: int, until: int, *, models: int, limit: int) -> list[Row]:
    """See `questions.py`."""
    failed: dict[tuple[str, int], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in known.hours(since, until):
        if row["err"]:
            failed[known.provider[row["model"]], row["at"]][row["model"]] += row["err"]
    found: list[Row] = [
        {"provider": provider, "at": at, "models": len(each), "errors": sum(each.values())}
        for (provider, at), each in failed.items()
        if len(each) >= models
    ]
    return sorted(found, key=lambda row: (-row["errors"], row["provider"], row["at"]))[:limit]


def single(known: Known, since: int, until: int, **_: Any) -> list[Row]:
    """See `questions.py`."""
    good = (row for row in known.buckets(since, until) if row["ok"])
    rows = _sums(good, lambda row: (row["task"], known.provider[row["model"]]))
    tasks: dict[str, dict[str, int]] = defaultdict(dict)
    for (task, provider), one in sorted(rows.items()):
        tasks[task][provider] = one["ok"]
    found: list[Row] = []
    for task, each in tasks.items():
        top = max(each.values())
        name = next(provider for provider, ok in each.items() if ok == top)
        found.append({"task": task, "provider": name, "share": top / sum(each.values()), "providers": len(each)})
    return found


ANSWERS: dict[str, Callable[..., list[Row]]] = {
    one.__name__: one for one in (hourly, qualify, chains, worse, free, switches, fate, single)
}


def same(wanted: list[Row], got: list[Row]) -> bool:
    """Equal as sets of rows: the order of equal ranks is nobody's. Quotients to the last digits but three."""
    return sorted(map(_plain, wanted)) == sorted(map(_plain, got))


def _plain(row: Row) -> str:
    return repr(sorted((name, _rounded(value)) for name, value in row.items()))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.12e}" if value and math.isfinite(value) else "0"
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return "0" if value == 0.0 and value is not False else value
