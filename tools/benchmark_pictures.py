"""`--png`, `--svg`, `--html` of `understudy benchmark`: pictures of what is shown, and pages that need nothing else."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from understudy.messages.buckets import DAY_MS, HOUR_MS
from understudy.messages.comparison import Comparison, Figure, Measure, ModelFigures, Trend, TrendsFound, Verdict
from understudy.tools.benchmark_parts import stamp
from understudy.tools.report import page

if TYPE_CHECKING:
    from understudy.tools.report.charts import Chart, Point
    from understudy.tools.report.timelines import Line

TONES: dict[Verdict, page.Tone] = {"ok": "good", "fails": "bad", "undecided": "warn", "too_few": "dim"}
MARKS: dict[Verdict, str] = {"ok": "ok", "fails": "FAILS", "undecided": "?", "too_few": "few"}
"""How a verdict is said, in tables and on pages alike."""


def add_files(parser: argparse.ArgumentParser) -> None:
    """`--png`, `--svg` and `--html`."""
    parser.add_argument("--png", type=Path, metavar="FILE", help="also draw it (pip install 'understudy[analysis]')")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="the same, as SVG")
    parser.add_argument("--html", type=Path, metavar="FILE", help="a page with table, words and picture in one file")


def write(args: argparse.Namespace, draw: Callable[[], Chart], html: Callable[[page.Html | None], str]) -> int:
    """Write the files that were asked for. A page without matplotlib has no picture, and says so; exit code 1 where a
    picture alone was wanted, or a file cannot be written."""
    if not (args.png or args.svg or args.html):
        return 0
    try:
        chart = draw()
    except ImportError:
        chart = None
        print("no picture: matplotlib is missing; pip install 'understudy[analysis]'", file=sys.stderr)
        if args.png or args.svg:
            return 1
    try:
        if chart is not None and args.png:
            args.png.write_bytes(chart.png())
        svg = chart.svg() if chart is not None and (args.svg or args.html) else None
        if svg is not None and args.svg:
            args.svg.write_text(svg.replace("currentColor", "#222222"), encoding="utf-8")
        if args.html:
            args.html.write_text(html(svg), encoding="utf-8")
    except OSError as error:
        print(f"cannot write {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    for file in filter(None, (args.png, args.svg, args.html)):
        print(f"written: {file}", file=sys.stderr)
    return 0


# --- compare ---------------------------------------------------------------------------------------------------------


def comparison_chart(found: Comparison) -> Chart:
    """A panel per figure, a bar per model, whiskers are intervals, dashed lines are thresholds. Raises ImportError."""
    from understudy.tools.report.charts import Panel, panels

    t, models = found.thresholds, found.models
    of = [
        Panel("Errors", _bars(models, "error_ratio", 100), "% of calls", digits=1, limit=100 * t.max_error_ratio),
        Panel("Response, mean", _bars(models, "latency_ms"), "ms"),
        Panel("Response, 95 of 100", _bars(models, "p95_ms"), "ms", limit=t.max_response_ms),
    ]
    if any(one.score is not None for one in models):
        of.append(Panel("Quality", _bars(models, "score"), "0 to 1", digits=2, limit=t.min_quality))
    return panels(of)


def _bars(models: tuple[ModelFigures, ...], name: str, scale: float = 1.0) -> dict[str, Point | None]:
    from understudy.tools.report.charts import Point

    found: dict[str, Point | None] = {}
    for model in models:
        one: Measure | None = getattr(model, name)
        low = None if one is None or one.low is None else scale * one.low
        high = None if one is None or one.high is None else scale * one.high
        found[model.model] = None if one is None else Point(scale * one.value, low, high)
    return found


def comparison_page(found: Comparison, sentences: list[str], svg: page.Html | None) -> str:
    """Everything in one file."""
    t = found.thresholds
    head = ["Model", "Calls", "Errors", "Mean", "p95", "Quality", "USD a call", "Drifted"]
    rows = [
        [
            one.model,
            f"{one.attempts:,}",
            _cell(one.error_ratio, 100, 1, " %", one.verdicts.get("max_error_ratio")),
            _cell(one.latency_ms, 1, 0, " ms", None),
            _cell(one.p95_ms, 1, 0, " ms", one.verdicts.get("max_response_ms")),
            _cell(one.score, 1, 2, "", one.verdicts.get("min_quality")),
            f"{one.usd_per_call:.6f}",
            page.Cell(", ".join(one.drifted), "bad") if one.drifted else None,
        ]
        for one in found.models
    ]
    caption = (
        f"95 % intervals below each figure. Thresholds: errors at most {100 * t.max_error_ratio:g} %, 95 of 100 "
        f"answers within {t.max_response_ms:,} ms, quality at least {t.min_quality:g}; ? where more calls are needed."
    )
    lead = f"{found.task or 'all tasks'}, {stamp(found.from_ms)} to {stamp(found.until_ms)} (UTC)"
    picture = [page.figure(svg, "Whiskers are intervals, dashed lines are thresholds.")] if svg is not None else []
    return page.page(
        "Models compared",
        page.section("Figures", page.table(head, rows, [7], caption), *picture),
        page.section("In words", page.listing(sentences)),
        page.section("How", page.facts(found.methods)),
        lead=lead,
        foot=f"Counted from the event log up to position {found.as_of_seq:,}.",
    )


def _cell(one: Measure | None, scale: float, digits: int, unit: str, verdict: Verdict | None) -> page.Cell | None:
    if one is None:
        return None
    note = ""
    if one.low is not None and one.high is not None:
        note = f"{scale * one.low:,.{digits}f} to {scale * one.high:,.{digits}f}"
    mark = f" {MARKS[verdict]}" if verdict is not None else ""
    tone: page.Tone = TONES[verdict] if verdict is not None else ""
    return page.Cell(f"{scale * one.value:,.{digits}f}{unit}{mark}", tone, note=note)


# --- trends ----------------------------------------------------------------------------------------------------------


def trends_chart(found: TrendsFound) -> Chart:
    """A row per model: response time, errors, and quality where there is any. Raises ImportError."""
    from understudy.tools.report.timelines import Row, timelines

    judged = any(point.score is not None for one in found.models for point in one.points)
    rows = [Row(one.model, _lines(one, found, judged=judged)) for one in found.models]
    return timelines(rows, found.from_ms, found.until_ms)


def _lines(one: Trend, found: TrendsFound, *, judged: bool) -> list[Line]:
    from understudy.tools.report.timelines import Line

    half_ms = (DAY_MS if found.points == "day" else HOUR_MS) // 2
    t, points = found.thresholds, [replace(point, at_ms=point.at_ms + half_ms) for point in one.points]
    lines = [
        Line(
            "Response in ms: mean, thin: 95 of 100",
            [(p.at_ms, p.latency_ms) for p in points],
            fine=[(p.at_ms, p.p95_ms) for p in points],
            limit=t.max_response_ms,
            changes=_marks(one, "latency_ms"),
            worse=_worse(one, "latency_ms", found.until_ms),
        ),
        Line(
            "Errors in %, with their interval",
            [(p.at_ms, None if p.error_ratio is None else 100 * p.error_ratio) for p in points],
            [(p.at_ms, 100 * p.low, 100 * p.high) for p in points if p.low is not None and p.high is not None],
            limit=100 * t.max_error_ratio,
            changes=_marks(one, "error_ratio"),
            worse=_worse(one, "error_ratio", found.until_ms),
        ),
    ]
    if judged:
        scores = [(p.at_ms, p.score) for p in points]
        marks, worse = _marks(one, "score"), _worse(one, "score", found.until_ms)
        lines.append(Line("Quality, 0 to 1", scores, limit=t.min_quality, changes=marks, worse=worse))
    return lines


def _marks(one: Trend, figure: Figure) -> list[tuple[int, bool]]:
    return [(change.at_ms, change.after > change.before) for change in one.changes if change.figure == figure]


def _worse(one: Trend, figure: Figure, until_ms: int) -> list[tuple[int, int]]:
    """From what was found worse until it was found otherwise, or the end."""
    found, since = list[tuple[int, int]](), None
    for drift in one.drifts:
        if drift.figure == figure and drift.direction == "worse":
            since = drift.since_ms
        elif drift.figure == figure and since is not None:
            end = drift.since_ms if drift.direction == "recovered" else drift.until_ms
            found.append((since, end))
            since = None
    return [*found, *([(since, until_ms)] if since is not None else [])]


def trends_page(found: TrendsFound, words: Callable[[Trend], list[str]], svg: page.Html | None) -> str:
    """Everything in one file."""
    caption = (
        "Shaded: worse than the model's past let expect, as it was announced. Triangles: changes of level, found "
        "looking back. Dashed: the threshold (of response times for the thin line)."
    )
    picture = [page.section("Pictures", page.figure(svg, caption))] if svg is not None else []
    sections = [page.section(one.model, page.listing(words(one))) for one in found.models]
    return page.page(
        "Models over time",
        *picture,
        *sections,
        page.section("How", page.facts(found.methods)),
        lead=f"{found.task or 'all tasks'}, {stamp(found.from_ms)} to {stamp(found.until_ms)} (UTC)",
        foot=f"Counted from the event log up to position {found.as_of_seq:,}.",
    )
