"""How models went over a window: level by level, day by day, with changes, slopes and drift.

understudy benchmark trends                             # every model, the last 30 days
understudy benchmark trends demo/story-lead --task narrative --window 7d
understudy benchmark trends --json

A change point is an hour with which the level changed, found by looking back over the window. Drift is what was found
hour by hour as it went, and announced (`understudy watch`).
"""

from __future__ import annotations

import argparse

from understudy.bus.client import Client
from understudy.messages.comparison import Trend, Trends, TrendsFound
from understudy.tools.benchmark_parts import add_window, stamp, window_of
from understudy.tools.common import add_connection, show, with_client


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("models", nargs="*", metavar="MODEL", help="only these (default: all that have outcomes)")
    add_connection(parser)
    add_window(parser, "30d")
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
        return 0

    return with_client(args, job, operator=True)


def text(found: TrendsFound) -> list[str]:
    """For people."""
    lines = [f"{found.task or 'all tasks'}, {stamp(found.from_ms)} to {stamp(found.until_ms)} (UTC)"]
    if not found.models:
        lines.append("Nothing was asked in this window: try a longer one with --window 30d.")
    for one in found.models:
        lines += ["", *_model(one)]
    return lines


def _model(one: Trend) -> list[str]:
    calls = sum(point.n for point in one.points)
    lines = [f"{one.model}: {calls} calls in {len(one.points)} points"]
    lines += [f"  {slope.words}" for slope in one.slopes]
    lines += [f"  {stamp(change.at_ms)}  {change.words}" for change in one.changes]
    for drift in one.drifts:
        lines.append(
            f"  {stamp(drift.since_ms)}  drift, seen {stamp(drift.until_ms)}: {drift.figure} {drift.direction}, "
            f"{drift.before:g} -> {drift.after:g} ({drift.n} calls)"
        )
    return lines
