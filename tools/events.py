"""The event log: outcomes, changes of models, topologies. It holds no text of any request or answer.

understudy events --since 10m
understudy events --request 01JD...  --json
understudy events --follow
understudy events --json > log.jsonl     # an export, byte for byte; `understudy replay --file log.jsonl` checks it
"""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime

from understudy.bus.client import Change, Client
from understudy.bus.history import stored
from understudy.bus.port import Received
from understudy.bus.subjects import evt_stream
from understudy.messages.events import Event
from understudy.messages.wire import WireError, decode, tag_of
from understudy.tools.common import add_connection, since_s, with_client
from understudy.tools.rawlog import export


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
        async for received in stored(client.bus, evt_stream(client.app), f"{client.app}.evt.>", follow=args.follow):
            event = _event(received)
            if received.at_ms < since_ms or (args.request and getattr(event, "run_id", None) != args.request):
                continue
            if args.json:
                print(export(received).decode(), flush=True)
            elif event is None:
                print(f"{received.seq:>8}  {received.subject}: of a kind that this version does not know", flush=True)
            else:
                print(line(Change(received.seq, event)), flush=True)
        return 0

    return with_client(args, job, operator=True)


def _event(received: Received) -> Event | None:
    try:
        event = decode(received.payload)
    except WireError:
        return None
    return event if isinstance(event, Event) else None


def line(change: Change) -> str:
    """One event as a person reads it."""
    event = change.event
    at = datetime.fromtimestamp(event.at_ms / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
    name = tag_of(type(event)).rsplit(".", 1)[0]
    names = ("model", "from_model", "outcome", "reason", "by", "mode", "task", "total_ms", "seams", "run_id", "hash")
    names += ("provider", "name", "key_id", "was", "status")
    facts = [f"{n}={getattr(event, n)}" for n in names if getattr(event, n, None) not in (None, "")]
    return f"{change.seq:>8}  {at}  {name:18}  {'  '.join(facts)}"
