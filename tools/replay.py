"""Repeat every recorded decision from the log alone and compare: chain, scores, rejections, digest.

    understudy replay
    understudy replay --since 1h --json
    understudy events --json > log.jsonl; understudy replay --log log.jsonl

Exit code 1 when a decision differs.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path

import msgspec

from understudy.actors.selector.replay import Report, replay
from understudy.bus.client import Client
from understudy.bus.port import Received
from understudy.bus.subjects import trace_stream
from understudy.messages.events import Event, SelectionMade
from understudy.messages.wire import WireError, decode
from understudy.tools.common import add_connection, show, since_s, with_client


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("--since", metavar="1h", help="repeat only decisions younger than this (s, m, h, d)")
    parser.add_argument("--log", type=Path, metavar="FILE", help="an exported log (`understudy events --json`)")
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Repeat and report."""
    since_ms = int((time.time() - since_s(args.since)) * 1000) if args.since else 0
    if args.log is not None:
        return _tell(replay(_exported(args.log), (), since_ms), args)

    async def job(client: Client) -> int:
        log = [(c.seq, c.event) async for c in client.events()]
        return _tell(replay(log, await _traced(client), since_ms), args)

    return with_client(args, job, operator=True)


class _Line(msgspec.Struct):
    seq: int
    event: msgspec.Raw


def _exported(path: Path) -> list[tuple[int, Event]]:
    """Events of an exported log; a line that cannot be read is an event that is missing, and shows as a difference."""
    found: list[tuple[int, Event]] = []
    for line in path.read_bytes().splitlines():
        try:
            record = msgspec.json.decode(line, type=_Line)
            event = decode(bytes(record.event))
        except (msgspec.MsgspecError, WireError, UnicodeDecodeError):
            print(f"unreadable line: {line[:60]!r}")
            continue
        if isinstance(event, Event):
            found.append((record.seq, event))
    return found


async def _traced(client: Client) -> list[str]:
    """Run ids of all decisions in the trace stream."""
    stream, runs = trace_stream(client.app), list[str]()
    head = await client.bus.last_seq(stream)
    done = asyncio.Event()

    def on_message(received: Received) -> None:
        try:
            made = decode(received.payload)
        except WireError:
            made = None
        if isinstance(made, SelectionMade):
            runs.append(made.run_id)
        if received.seq >= head:
            done.set()

    if head:
        sub = await client.bus.read(stream, [f"{client.app}.trace.>"], on_message)
        await asyncio.wait_for(done.wait(), 60)
        await sub.stop()
    return runs


def _tell(report: Report, args: argparse.Namespace) -> int:
    if args.json:
        show(report)
    else:
        for one in report.differ:
            print(f"{one.run_id}  {one.field}: recorded {one.recorded}, repeated {one.repeated}")
        print(f"{report.compared} decisions compared, {len(report.differ)} differences, "
              f"{report.never_recorded} decisions whose runs have no recorded end")  # fmt: skip
    return 1 if report.differ else 0
