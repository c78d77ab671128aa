"""How models went over a window: level by level, day by day, with changes, slopes and drift.

understudy benchmark trends                             # every model, the last 30 days
understudy benchmark trends demo/story-lead --task narrative --window 7d
understudy benchmark trends --json
understudy benchmark trends --html trends.html --svg trends.svg

A change point is an hour with which the level changed, found by looking back over the window. Drift is what was found
hour by hour as it went, and announced (`understudy watch`).
"""

from __future__ import annotations

import argparse

from understudy.actors.benchmarker.compare import shown
from understudy.actors.benchmarker.trends import NAMES
from understudy.bus.client import Client
from understudy.messages.comparison import Drift, Trend, Trends, TrendsFound
from understudy.tools.benchmark_parts import add_window, stamp, window_of
from understudy.tools.benchmark_pictures import add_files, trends_chart, trends_page, write
from understudy.tools.common import add_connection, show, with_client


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("models", nargs="*", metavar="MODEL", help="only these (default: all that have outcomes)")
    add_connection(parser)
    add_window(parser, "30d")
    add_files(parser)
    parser.add_argument("--points", choices=("hour", "day"), help="default: days from 8 days on")


def run(args: argparse.Namespace) -> int:
    """Ask and print."""

    async def job(client: Client) -> int:
        ask = Trends(task=args.task, models=tuple(args.models), window_ms=window_of(args), points=args.points)
        found = await client.ask("benchmark.trends", ask, TrendsFound, timeout_s=30)
        if args.json:
            show(found)
        else:
            print(*text(found), sep="\n")
        return write(args, lambda: trends_chart(found), lambda svg: trends_page(found, words, svg))

    return with_client(args, job, operator=True)


def text(found: TrendsFound) -> list[str]:
    """For people."""
    lines = [f"{found.task or 'all tasks'}, {stamp(found.from_ms)} to {stamp(found.until_ms)} (UTC)"]
    if not found.models:
        lines.append("Nothing was asked in this window: try a longer one with --window 30d.")
    for one in found.models:
        lines += ["", f"{one.model}: {_calls(one)}", *(f"  {line}" for line in words(one))]
    return lines


def _calls(one: Trend) -> str:
    return f"{sum(point.n for point in one.points):,} calls in {len(one.points)} points"


def words(one: Trend) -> list[str]:
    """Slopes, then what happened, by time."""
    told = [(change.at_ms, f"{stamp(change.at_ms)}  {change.words}") for change in one.changes]
    told += [(drift.since_ms, _drift(drift)) for drift in one.drifts]
    return [*(slope.words for slope in one.slopes), *(line for _, line in sorted(told))]


def _drift(one: Drift) -> str:
    noticed = f"{stamp(one.since_ms)}  drift, noticed {stamp(one.until_ms)}: {NAMES[one.figure]} {one.direction}"
    return f"{noticed}, {shown(one.figure, one.before)} before, {shown(one.figure, one.after)} since ({one.n:,} calls)"
