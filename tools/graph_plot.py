"""The answers of the eight questions as pictures: `understudy graph QUESTION --plot FILE`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from understudy.messages.buckets import quantile_ms
from understudy.tools.report.charts import Chart, Panel, Point, lines, panels

Row = dict[str, Any]
HOUR = 3_600_000
MOST = 20
"""Rows of a picture; the table has all."""


def draw(question: str, about: str, rows: Sequence[Row], file: Path) -> None:
    """Write a .png, or with that suffix an .svg. Raises ModuleNotFoundError without matplotlib."""
    chart = _hourly(about, rows) if question == "hourly" else panels(_panels(question, rows), columns=3)
    content = chart.svg().encode() if file.suffix == ".svg" else chart.png()
    file.write_bytes(content)


def _hourly(about: str, rows: Sequence[Row]) -> Chart:
    """A line per model; hours without an answer are gaps."""
    hours = sorted({row["at"] for row in rows})
    means: dict[str, dict[int, float | None]] = defaultdict(dict)
    for row in rows:
        means[row["model"]][row["at"]] = row["mean_ms"]
    every = range(hours[0], hours[-1] + 1, HOUR) if hours else range(0)
    series = {model: [(float(at), of.get(at)) for at in every] for model, of in means.items()}
    marks = [at for at in every if at % (24 * HOUR) == 0] or list(every)[:: max(1, len(every) // 6)]
    ticks = [(float(at), datetime.fromtimestamp(at / 1000, UTC).strftime("%d %b %H:%M")) for at in marks]
    return lines(series, about[0].upper() + about[1:], "mean ms of an hour", ticks=ticks)


def _panels(question: str, rows: Sequence[Row]) -> list[Panel]:
    """A bar per row, a panel per figure."""

    def of(title: str, name: str, unit: str = "", top: float | None = None, digits: int = 0) -> Panel:
        values = {_name(question, row): _point(row[name]) for row in rows[:MOST]}
        return Panel(title, values, unit, top, digits)

    def share(title: str, name: str) -> Panel:
        values = {_name(question, row): _point(100 * row[name]) for row in rows[:MOST]}
        return Panel(title, values, "%", None, 1)

    match question:
        case "qualify":
            p95 = {row["model"]: _point(quantile_ms(row["hist"], 0.95)) for row in rows}
            return [
                of("Quality", "score", top=1),
                Panel("95th percentile", p95, "ms"),
                share("Failed", "fail_ratio"),
            ]
        case "chains":
            return [of("Runs", "n"), of("of these ended well", "ok")]
        case "worse":
            return [of("Latency, now over before", "latency_ratio", "x", digits=2), of("Answers", "n")]
        case "free":
            return [of("Quality", "score", top=1), of("Cost", "usd", "USD", digits=4), of("Good answers", "ok")]
        case "switches":
            top = 1.1 * max([row[name] or 0 for row in rows[:MOST] for name in ("before_ms", "after_ms")], default=1.0)
            return [
                of("Before", "before_ms", "mean ms", top),
                of("After", "after_ms", "mean ms", top),
                of("Times", "n"),
            ]
        case "fate":
            return [of("Errors", "errors"), of("Models", "models")]
        case _:
            return [of("Share of its first provider", "share", top=1), of("Providers", "providers")]


def _point(value: float | None) -> Point | None:
    return None if value is None else Point(value)


def _name(question: str, row: Row) -> str:
    """What a bar is called."""
    match question:
        case "chains":
            return f"{row['task']}: {' > '.join(row['path'])}"
        case "free":
            return f"{row['task']}, {'free' if row['free'] else 'paid'}"
        case "switches":
            return f"{_at(row)} {row['task']}: {row['old']} > {row['new']}"
        case "fate":
            return f"{_at(row)} {row['provider']}"
        case "single":
            return f"{row['task']}: {row['provider']}"
        case _:
            return str(row["model"])


def _at(row: Row) -> str:
    return datetime.fromtimestamp(row["at"] / 1000, UTC).strftime("%d %b %H:%M")
