"""Model-change announcements, live: loaded, degraded, unavailable, recovered, switched.

understudy watch
understudy watch --json
"""

from __future__ import annotations

import argparse

from understudy.bus.client import Client
from understudy.messages.wire import tag_of
from understudy.tools.common import add_connection, show, with_client


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Print until Ctrl-C."""

    async def job(client: Client) -> int:
        async for change in client.changes():
            if args.json:
                show({"seq": change.seq, "event": change.event})
            else:
                event = change.event
                why = getattr(event, "reason", "") or getattr(event, "by", "")
                word = tag_of(type(event)).split(".")[1]
                print(f"{change.seq:>8}  {getattr(event, 'model', ''):30}  {word:12}  {why}", flush=True)
        return 0

    return with_client(args, job)
