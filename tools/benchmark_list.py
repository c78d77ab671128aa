"""What runs and what has run, the newest first; one with all that was measured; end one.

understudy benchmark list
understudy benchmark show ID --html report.html     # the report of one again
understudy benchmark cancel ID
"""

from __future__ import annotations

import argparse

from understudy.bus.client import AnswerFailed, Client
from understudy.messages.benchmarks import Benchmarks, BenchmarkState, CancelBenchmark, ListBenchmarks
from understudy.messages.generate import Failed
from understudy.tools.benchmark_parts import stamp
from understudy.tools.benchmark_run import add_outputs, written
from understudy.tools.common import add_connection, show, with_client


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments of `list`."""
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="so many (default: 20)")
    add_connection(parser)


def add_one(parser: argparse.ArgumentParser) -> None:
    """Arguments of `show`."""
    parser.add_argument("bench_id", metavar="ID", help="of `understudy benchmark list`; `last` is the newest")
    add_outputs(parser)
    add_connection(parser)


def add_cancel(parser: argparse.ArgumentParser) -> None:
    """Arguments of `cancel`."""
    parser.add_argument("bench_id", metavar="ID", help="of `understudy benchmark list`")
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """List."""

    async def job(client: Client) -> int:
        found = await client.ask("benchmark.list", ListBenchmarks(limit=args.limit), Benchmarks)
        if args.json:
            show(found)
            return 0
        if not found.benchmarks:
            print("none yet: understudy benchmark run MODEL")
        for one in found.benchmarks:
            done = ", ".join(f"{model} {count}/{one.items}" for model, count in one.done.items())
            by = " (by schedule)" if one.scheduled else ""
            print(f"{one.bench_id}  {stamp(one.begun_ms)}  {one.suite:12}  {one.state:9} {one.reason:8}  {done}{by}")
        return 0

    return with_client(args, job, operator=True)


async def one_of(client: Client, bench_id: str) -> BenchmarkState:
    """A benchmark with all that was measured. Raises AnswerFailed."""
    if bench_id == "last":
        newest = await client.ask("benchmark.list", ListBenchmarks(limit=1), Benchmarks)
        bench_id = newest.benchmarks[0].bench_id if newest.benchmarks else bench_id
    found = await client.ask("benchmark.list", ListBenchmarks(bench_id=bench_id), Benchmarks)
    if not found.benchmarks:
        text = f"No benchmark {bench_id!r} is remembered; `understudy benchmark list` shows those that are."
        raise AnswerFailed(Failed(code="invalid", text=text, path="$.bench_id"))
    return found.benchmarks[0]


def run_one(args: argparse.Namespace) -> int:
    """Show one; exit code 0 whatever its state, 1 where a file could not be written."""

    async def job(client: Client) -> int:
        return written(await one_of(client, args.bench_id), args)

    return with_client(args, job, operator=True)


def run_cancel(args: argparse.Namespace) -> int:
    """End one."""

    async def job(client: Client) -> int:
        found = await client.ask("benchmark.cancel", CancelBenchmark(bench_id=args.bench_id), BenchmarkState)
        if args.json:
            show(found)
        else:
            done = sum(found.done.values())
            print(f"{found.bench_id}: {found.state}; {done} items stand, `--resume {found.bench_id}` goes on")
        return 0

    return with_client(args, job, operator=True)
