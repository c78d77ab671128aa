"""What comparisons and trends should show, from the bytes of the log's files alone: an independent count.

It shares no code with the fold: message blocks are taken apart here, events are plain `json`, sums and intervals are
written anew, in other forms of the same formulas. What it cannot repeat (the draws of a bootstrap) it judges by an
analytic standard error. It knows the outcomes that the bench's month has, and no others.
"""

from __future__ import annotations

import json
import struct
from collections import defaultdict
from collections.abc import Iterator
from math import sqrt
from pathlib import Path
from statistics import NormalDist
from typing import Any

HOUR = 3_600_000
KINDS = {"server_error": "server", "stall_timeout": "timeout", "broken_stream": "stream", "rate_limited": "quota"}
CLOSE = 1e-5
"""Shown figures are rounded to six places."""


def messages(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Subject and payload of every message in the `.blk` files of a stream (nats-server 2.15, not compressed).

    A record: length (its highest bit: has headers), sequence, time, length of the subject, subject, with headers their
    length and they, payload, 8 bytes of checksum.
    """
    for file in sorted(folder.glob("*.blk"), key=lambda path: int(path.stem)):
        data, at = file.read_bytes(), 0
        while at + 22 <= len(data):
            (length, _, _, named) = struct.unpack_from("<IQQH", data, at)
            has_headers, length = length & 0x80000000, length & 0x7FFFFFFF
            if length < 30 or at + length > len(data):
                break
            begin, end = at + 22, at + length - 8
            subject, begin = data[begin : begin + named].decode(), begin + named
            if has_headers:
                begin += 4 + int.from_bytes(data[begin : begin + 4], "little")
            yield subject, data[begin:end]
            at += length


class Hour:
    """Of one model."""

    def __init__(self) -> None:
        self.good, self.bad, self.us, self.ttft_us = 0, 0, 0, 0
        self.kinds: dict[str, int] = defaultdict(int)
        self.took: list[float] = []


class Counted:
    """Every model and hour of a log: `hours[model][hour since 1970]`."""

    def __init__(self, folder: Path) -> None:
        self.events = 0
        self.hours: dict[str, dict[int, Hour]] = defaultdict(lambda: defaultdict(Hour))
        for subject, payload in messages(folder):
            if not subject.endswith(".evt.request.ended"):
                continue
            self.events += 1
            event = json.loads(payload)
            for attempt in event["attempts"]:
                self._attempt(self.hours[attempt["model"]][event["at_ms"] // HOUR], attempt)

    def _attempt(self, hour: Hour, attempt: dict[str, Any]) -> None:
        if attempt["outcome"] == "ok":
            hour.good += 1
            hour.us += int(attempt["total_ms"] * 1000 + 0.5)
            hour.ttft_us += int(attempt["first_token_ms"] * 1000 + 0.5)
            hour.took.append(attempt["total_ms"])
        else:
            hour.bad += 1
            hour.kinds[KINDS[attempt["outcome"]]] += 1

    def between(self, model: str, from_ms: int, until_ms: int) -> list[tuple[int, Hour]]:
        """The hours of a window, by time."""
        return sorted((h, one) for h, one in self.hours[model].items() if from_ms <= h * HOUR < until_ms)


def differences_of_comparison(counted: Counted, shown: dict[str, Any]) -> list[str]:
    """Every figure of a comparison (as JSON) that is not what the bytes say."""
    found: list[str] = []
    stats: dict[str, tuple[int, int, float]] = {}
    for one in shown["models"]:
        model = one["model"]
        hours = [hour for _, hour in counted.between(model, shown["from_ms"], shown["until_ms"])]
        good, bad = sum(h.good for h in hours), sum(h.bad for h in hours)
        mean = sum(h.us for h in hours) / 1000 / good
        stats[model] = good, bad, mean
        kinds: dict[str, int] = defaultdict(int)
        for hour in hours:
            for kind, n in hour.kinds.items():
                kinds[kind] += n
        ratio = one["error_ratio"]
        low, high = _wilson(bad, good + bad)
        _near(found, f"{model} attempts", one["attempts"], good + bad)
        _near(found, f"{model} errors", ratio["value"], bad / (good + bad))
        _near(found, f"{model} errors low", ratio["low"], low)
        _near(found, f"{model} errors high", ratio["high"], high)
        _near(found, f"{model} first token", one["first_token_ms"], sum(h.ttft_us for h in hours) / 1000 / good, 1e-3)
        _near(found, f"{model} mean", one["latency_ms"]["value"], mean)
        found += [f"{model} kinds: {one['errors']}, {dict(kinds)}"] if one["errors"] != dict(kinds) else []
        found += _quantiles(model, one, sorted(took for h in hours for took in h.took))
        found += _bootstrap(model, one["latency_ms"], counted, shown, mean)
        found += _verdicts(model, one, shown["thresholds"])
    return found + _pairs(shown["pairs"], stats)


def _near(found: list[str], what: str, shown: float, right: float, within: float = CLOSE) -> None:
    if abs(shown - right) > within * max(1.0, abs(right)):
        found.append(f"{what}: {shown}, by the bytes {right}")


def _wilson(hits: int, n: int) -> tuple[float, float]:
    """The roots of (p - hits/n)^2 = z^2 p (1 - p) / n."""
    z = NormalDist().inv_cdf(0.975)
    a, b, c = 1 + z * z / n, -2 * hits / n - z * z / n, (hits / n) ** 2
    root = sqrt(b * b - 4 * a * c)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def _quantiles(model: str, one: dict[str, Any], took: list[float]) -> list[str]:
    """A histogram knows a quantile to half an octave."""
    found: list[str] = []
    for name, share in (("p50_ms", 0.5), ("p95_ms", 0.95)):
        right, shown = took[int(share * len(took))], one[name]
        if not 2**-0.5 <= shown["value"] / right <= 2**0.5 or not shown["low"] <= shown["value"] <= shown["high"]:
            found.append(f"{model} {name}: {shown}, by the bytes {right}")
    return found


def _bootstrap(model: str, latency: dict[str, Any], counted: Counted, shown: dict[str, Any], mean: float) -> list[str]:
    """Beside the standard error of a ratio of sums over days (Cochran, Sampling Techniques, 1977, chapter 6)."""
    days: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for hour, one in counted.between(model, shown["from_ms"], shown["until_ms"]):
        days[hour // 24][0] += one.us / 1000
        days[hour // 24][1] += one.good
    left = sum((total - mean * n) ** 2 for total, n in days.values()) * len(days) / (len(days) - 1)
    half = 1.96 * sqrt(left) / sum(n for _, n in days.values())
    width = (latency["high"] - latency["low"]) / 2
    right = latency["low"] <= mean <= latency["high"] and 0.6 <= width / half <= 1.5
    return [] if right else [f"{model} mean's interval: {latency}, analytic half width {half}"]


def _verdicts(model: str, one: dict[str, Any], thresholds: dict[str, float]) -> list[str]:
    found: list[str] = []
    limits = {"max_response_ms": 5_000, "max_error_ratio": 0.05, **thresholds}
    for name, figure in (("max_response_ms", "p95_ms"), ("max_error_ratio", "error_ratio")):
        low, high, limit = one[figure]["low"], one[figure]["high"], limits[name]
        right = "ok" if high <= limit else "fails" if low > limit else "undecided"
        found += [f"{model} {name}: {one['verdicts'][name]}, not {right}"] if one["verdicts"][name] != right else []
    return found


def _pairs(pairs: list[dict[str, Any]], stats: dict[str, tuple[int, int, float]]) -> list[str]:
    """The test of shares, and Holm's correction, by sorting all of them."""
    found, raw = list[str](), list[tuple[float, str]]()
    for pair in [pair for pair in pairs if pair["figure"] == "error_ratio"]:
        (a, x, _), (b, y, _) = stats[pair["better"]], stats[pair["worse"]]
        n, m = a + x, b + y
        _near(found, f"{pair['better']}, {pair['worse']}", pair["better_value"], x / n)
        share = (x + y) / (n + m)
        z = abs(x / n - y / m) / sqrt(share * (1 - share) * (n + m) / (n * m))
        raw.append((2 * NormalDist().cdf(-z), f"{pair['better']} {pair['worse']}"))
    shown = {f"{pair['better']} {pair['worse']}": pair for pair in pairs if pair["figure"] == "error_ratio"}
    most = 0.0
    for n, (p, names) in enumerate(sorted(raw)):
        most = max(most, min(1.0, p * (len(raw) - n)))
        _near(found, f"p of {names}", shown[names]["p"], most)
        if shown[names].get("significant", False) != (most < 0.05):
            found.append(f"{names}: significance")
    for pair in [pair for pair in pairs if pair["figure"] == "latency_ms"]:
        _near(found, f"{pair['better']}'s mean", pair["better_value"], stats[pair["better"]][2])
    return found


def differences_of_trends(counted: Counted, shown: dict[str, Any]) -> list[str]:
    """Every point, every mean beside a change, every slope that is not what the bytes say."""
    found: list[str] = []
    for one in shown["models"]:
        model = one["model"]
        hours = counted.between(model, shown["from_ms"], shown["until_ms"])
        days: dict[int, list[Hour]] = defaultdict(list)
        for at, hour in hours:
            days[at // 24].append(hour)
        if [point["at_ms"] // HOUR // 24 for point in one["points"]] != sorted(days):
            found.append(f"{model}: other days")
            continue
        for point in one["points"]:
            of = days[point["at_ms"] // HOUR // 24]
            good, bad = sum(h.good for h in of), sum(h.bad for h in of)
            _near(found, f"{model} n", point["n"], good + bad)
            _near(found, f"{model} errors", point["error_ratio"], bad / (good + bad))
            _near(found, f"{model} latency", point["latency_ms"], sum(h.us for h in of) / 1000 / good)
        for figure in ("latency_ms", "error_ratio"):
            found += _levels(model, figure, [c for c in one.get("changes", []) if c["figure"] == figure], hours)
        found += _slope(model, next(s for s in one["slopes"] if s["figure"] == "error_ratio"), days)
    return found


def _levels(model: str, figure: str, changes: list[dict[str, Any]], hours: list[tuple[int, Hour]]) -> list[str]:
    found: list[str] = []
    edges = [hours[0][0], *(change["at_ms"] // HOUR for change in changes), hours[-1][0] + 1]
    for n, change in enumerate(changes):
        for side, first, end in (("before", edges[n], edges[n + 1]), ("after", edges[n + 1], edges[n + 2])):
            of = [hour for at, hour in hours if first <= at < end]
            good, bad = sum(h.good for h in of), sum(h.bad for h in of)
            right = sum(h.us for h in of) / 1000 / good if figure == "latency_ms" else bad / (good + bad)
            _near(found, f"{model} {figure} {side} {change['at_ms']}", change[side], right)
    return found


def _slope(model: str, slope: dict[str, Any], days: dict[int, list[Hour]]) -> list[str]:
    """Weighted least squares by its normal equations."""
    w = wx = wy = wxx = wxy = 0.0
    begin = min(days)
    for day, of in days.items():
        x, n, bad = day - begin, sum(h.good + h.bad for h in of), sum(h.bad for h in of)
        w, wx, wy, wxx, wxy = w + n, wx + n * x, wy + bad, wxx + n * x * x, wxy + x * bad
    found: list[str] = []
    _near(found, f"{model} slope", slope["per_day"], (w * wxy - wx * wy) / (w * wxx - wx * wx), 1e-7)
    return found
