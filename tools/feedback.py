"""What you think of an answer, by the run id that `started` and `finished` name: 0 is bad, 1 is good.

understudy feedback 01JD4K3W6N0Q8Z1V5T7R9Y2B4C 1
understudy feedback 01JD4K3W6N0Q8Z1V5T7R9Y2B4C 0.2 --reason too_long --json

Ratings are stored as events, and decide with the declared quality who is chosen for this task.
"""

from __future__ import annotations

import argparse

from understudy.bus.client import AnswerFailed, Client
from understudy.tools.common import add_connection, complain, show, with_client


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("run_id", metavar="RUN_ID", help="whose answer it was")
    parser.add_argument("rating", metavar="RATING", type=float, help="from 0 to 1")
    parser.add_argument("--reason", metavar="WORD", help="letters, digits, `_`, `.`, `-`; it is stored")
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Give it."""

    async def job(client: Client) -> int:
        try:
            taken = await client.feedback(args.run_id, args.rating, args.reason)
        except AnswerFailed as error:
            path = f"{error.failed.path}: " if error.failed.path else ""
            return complain(error.failed.code, f"{path}{error.failed.text}", args)
        if args.json:
            show(taken)
        else:
            print(f"taken: position {taken.seq} of the log")
        return 0

    return with_client(args, job)
