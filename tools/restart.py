"""Restart the processes of a running `understudy up`, one after the other, without failing a request.

    understudy restart                     # every process, nats-server last
    understudy restart selector            # every selector
    understudy restart runner-lab nats-server

A process stops taking asks, finishes what it has in hand (what takes longer than 10 s is handed back to its caller to
be resumed), ends, and the next one's turn comes when its successor is ready.
"""

from __future__ import annotations

import argparse

from understudy.messages.operate import Restart
from understudy.tools.common import add_connection
from understudy.tools.orders import give


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument(
        "names", nargs="*", metavar="ACTOR", help="actors or instances (default: all, nats-server last)"
    )
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Order and follow."""
    return give(Restart(names=tuple(args.names)), args)
