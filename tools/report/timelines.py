"""Figures over time as small multiples: a row for each model, a column for each figure, one scale of days for all.

Where a figure was worse than expected its background is shaded; a triangle marks each change of level.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from understudy.tools.report.charts import COLOURS, Chart, blank, dress

WORSE = "#D55E00"


class Line(NamedTuple):
    """One panel. Times are Unix milliseconds; `fine`: a thin second line, of what the `limit` is about."""

    title: str
    points: Sequence[tuple[int, float | None]]
    band: Sequence[tuple[int, float, float]] = ()
    fine: Sequence[tuple[int, float | None]] = ()
    limit: float | None = None
    changes: Sequence[tuple[int, bool]] = ()  # when, and whether the level rose
    worse: Sequence[tuple[int, int]] = ()  # from, until


class Row(NamedTuple):
    """One model."""

    name: str
    lines: Sequence[Line]


def timelines(rows: Sequence[Row], from_ms: int, until_ms: int) -> Chart:
    """Rows of equal columns."""
    columns = max((len(row.lines) for row in rows), default=1)
    found, grid = blank(5.2 * columns, 0.6 + 1.45 * max(1, len(rows)), columns, max(1, len(rows)))
    for n, row in enumerate(rows):
        for m, line in enumerate(row.lines):
            axes = grid[n][m]
            dress(axes, line.title if n == 0 else "", row.name if m == 0 else "", "y")
            _draw(axes, line)
            axes.set_xlim(from_ms, until_ms)
            _days(axes, from_ms, until_ms, named=n == len(rows) - 1)
    return Chart(found)


def _draw(axes: Any, line: Line) -> None:
    colour = COLOURS[0]
    for begin, end in line.worse:
        axes.axvspan(begin, end, color=WORSE, alpha=0.16, linewidth=0)
    if line.band:
        axes.fill_between(*zip(*line.band, strict=True), color=colour, alpha=0.18, linewidth=0)
    if line.fine:
        axes.plot(*_xy(line.fine), color=colour, linewidth=0.9, alpha=0.55)
    axes.plot(*_xy(line.points), color=colour, linewidth=1.7, marker="o", ms=2.6 if len(line.points) <= 60 else 0)
    values = [y for _, y in (*line.points, *line.fine) if y is not None]
    values += [high for _, _, high in line.band]
    top = max(values, default=1.0) or 1.0
    if line.limit is not None and line.limit <= 1.6 * top:
        axes.axhline(line.limit, linewidth=1.1, linestyle="--").set_gid("ink")
        top = max(top, line.limit)
    axes.set_ylim(0, 1.22 * top)
    axes.locator_params(axis="y", nbins=3)
    axes.tick_params(labelsize=8)
    axes.yaxis.set_major_formatter("{x:,.4g}" if top < 10 else "{x:,.0f}")
    for at, rose in line.changes:
        axes.plot([at], [1.12 * top], marker="^" if rose else "v", color=WORSE if rose else COLOURS[2], ms=5)


def _xy(points: Sequence[tuple[int, float | None]]) -> tuple[list[int], list[float]]:
    return [x for x, _ in points], [float("nan") if y is None else y for _, y in points]


def _days(axes: Any, from_ms: int, until_ms: int, *, named: bool) -> None:
    """About six days (or hours) are named, below the last row."""
    hour = 3_600_000
    steps = [hour * n for n in (1, 3, 6, 12, 24, 48, 96, 168, 336, 720)]
    step = next((one for one in steps if (until_ms - from_ms) / one <= 8), steps[-1])
    ticks = range(from_ms - from_ms % step + step, until_ms, step)
    form = "%d %b" if step >= 24 * hour else "%d %b %H:%M"
    words = [datetime.fromtimestamp(at / 1000, UTC).strftime(form) if named else "" for at in ticks]
    axes.set_xticks(list(ticks), words)
