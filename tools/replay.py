"""Repeat every recorded decision from the log alone and compare, to the byte: chain, scores, rejections, digest, seal.

    understudy replay
    understudy replay --since 1h --json
    understudy events --json > log.jsonl; understudy replay --file log.jsonl

Exit code 1 when a decision differs, or one byte of it is not what was stored.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from understudy.actors.selector.replay import Record, Report, replay
from understudy.bus.client import Client
from understudy.bus.history import stored
from understudy.bus.subjects import evt_stream, trace_stream
from understudy.messages.events import SelectionMade
from understudy.messages.wire import WireError, decode
from understudy.tools.common import Refused, add_connection, complain, show, since_s, with_client
from understudy.tools.rawlog import exported_file


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("--since", metavar="1h", help="repeat only decisions younger than this (s, m, h, d)")
    parser.add_argument("--file", type=Path, metavar="FILE", help="an exported log: JSON lines, or a folder of Parquet")
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Repeat and report."""
    since_ms = int((time.time() - since_s(args.since)) * 1000) if args.since else 0
    if args.file is not None:
        try:
            log = list(exported_file(args.file))
        except OSError as error:
            return complain("invalid", f"--file {args.file}: {error.strerror}", args)
        except Refused as error:
            return complain(error.code, error.text, args)
        return _tell(replay(log, (), since_ms), args)

    async def job(client: Client) -> int:
        events = stored(client.bus, evt_stream(client.app), f"{client.app}.evt.>")
        log = [Record(r.seq, r.subject, r.payload, r.foreign) async for r in events]
        return _tell(replay(log, await _traced(client), since_ms), args)

    return with_client(args, job, operator=True)


async def _traced(client: Client) -> list[str]:
    """Run ids of all decisions in the trace stream."""
    runs: list[str] = []
    async for received in stored(client.bus, trace_stream(client.app), f"{client.app}.trace.>"):
        try:
            made = decode(received.payload)
        except WireError:
            continue
        if isinstance(made, SelectionMade):
            runs.append(made.run_id)
    return runs


def _tell(report: Report, args: argparse.Namespace) -> int:
    if args.json:
        show(report)
    else:
        for one in report.differ:
            print(f"{one.seq:>8}  {one.run_id}  {one.field}: recorded {one.recorded}, repeated {one.repeated}")
        print(f"{report.compared} decisions compared, {len(report.differ)} differences, "
              f"{report.never_recorded} decisions whose runs have no recorded end")  # fmt: skip
        if report.foreign:
            print(
                f"{report.foreign} messages of the log are no events: answers of the server that somebody had put there"
            )
        if report.cut:
            print(f"the log begins after {report.cut}: what stood on older facts cannot be repeated exactly")
    return 1 if report.differ else 0
