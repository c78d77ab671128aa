"""The event log: outcomes, changes of models, topologies. It holds no text of any request or answer.

understudy events --since 10m
understudy events --request 01JD...  --json
understudy events --follow
"""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime

from understudy.bus.client import Change, Client
from understudy.messages.wire import tag_of
from understudy.tools.common import add_connection, show, since_s, with_client


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("--since", metavar="10m", help="only events younger than this (s, m, h, d)")
    parser.add_argument("--request", metavar="RUN_ID", help="only events of this run")
    parser.add_argument("--follow", action="store_true", help="go on with new events")
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Print."""
    since_ms = 0.0
    if args.since:
        since_ms = (time.time() - since_s(args.since)) * 1000

    async def job(client: Client) -> int:
        async for change in client.events(follow=args.follow):
            if change.event.at_ms < since_ms:
                continue
            if args.request and getattr(change.event, "run_id", None) != args.request:
                continue
            show({"seq": change.seq, "event": change.event}) if args.json else print(line(change), flush=True)
        return 0

    return with_client(args, job, operator=True)


def line(change: Change) -> str:
    """One event as a person reads it."""
    event = change.event
    at = datetime.fromtimestamp(event.at_ms / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
    name = tag_of(type(event)).rsplit(".", 1)[0]
    names = ("model", "from_model", "outcome", "reason", "by", "mode", "task", "total_ms", "seams", "run_id", "hash")
    facts = [f"{n}={getattr(event, n)}" for n in names if getattr(event, n, None) not in (None, "")]
    return f"{change.seq:>8}  {at}  {name:18}  {'  '.join(facts)}"
