"""How often idle models are benchmarked by themselves, and what is due when.

understudy benchmark schedule                                   # what is due
understudy benchmark schedule --every 24h                       # from now on, whatever the topology says
understudy benchmark schedule --every 7d --suites standard,speed --models demo/story-lead
understudy benchmark schedule --off

The topology's word is `settings: {every_h: 24, jitter_ratio: 0.1, suites: [standard]}` of the actor `benchmarker`; an
order counts more, and stands in the log. Only models without a price, of this machine unless they are named, one at a
time, and only when nobody has used the model for a minute.
"""

from __future__ import annotations

import argparse

from understudy.bus.client import Client
from understudy.messages.benchmarks import BenchmarkSchedule, ScheduleBenchmarks
from understudy.messages.wire import WireError, made_of
from understudy.tools.benchmark_parts import stamp
from understudy.tools.common import add_connection, complain, duration_s, show, with_client


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--every", metavar="TIME", help="12h, 7d, ...")
    how.add_argument("--off", action="store_true", help="never")
    parser.add_argument("--suites", default="", metavar="NAME,NAME", help="which (default: those of the topology)")
    parser.add_argument("--models", default="", metavar="ID,ID", help="which (default: all of this machine)")
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Order, or ask."""
    every_h = 0.0 if args.off else None if args.every is None else duration_s(args.every, "--every") / 3600
    fields = {"every_h": every_h, "suites": [one for one in args.suites.split(",") if one]}
    fields |= {"models": [one for one in args.models.split(",") if one]}
    try:
        ask = made_of(ScheduleBenchmarks, fields)
    except WireError as error:
        return complain("invalid", f"{error.path}: {error.text}", args)

    async def job(client: Client) -> int:
        found = await client.ask("benchmark.schedule", ask, BenchmarkSchedule)
        if args.json:
            show(found)
        else:
            print(*lines_of(found), sep="\n")
        return 0

    return with_client(args, job, operator=True)


def lines_of(found: BenchmarkSchedule) -> list[str]:
    """For people."""
    if not found.every_h:
        return [f"never (by {found.by}); --every 24h changes that"]
    lines = [f"every {found.every_h:g} h, {', '.join(found.suites)} (by {found.by})"]
    width = max([5, *(len(one.model) for one in found.due)])
    for one in found.due:
        last = f"last {stamp(one.last_ms)}" if one.last_ms else "never measured"
        lines.append(f"  {one.model:{width}}  {one.suite:12}  due {stamp(one.due_ms)} UTC, {last}")
    return lines if found.due else [*lines, "  no model without a price is on this machine: name some with --models"]
