"""Apply the changed topology file of a running `understudy up`, without failing a request.

    understudy reload
    understudy reload --state /var/lib/understudy --json

The file is checked first: with any fault, all of them are shown with their paths, nothing is changed, and the exit code
is 2. Models and actors come and go, changed settings restart the processes concerned one after the other. What cannot
change while it runs (app, bus.port, bus.max_payload_bytes) is refused.
"""

from __future__ import annotations

import argparse

from understudy.messages.operate import Reload
from understudy.tools.common import add_connection
from understudy.tools.orders import give


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    add_connection(parser)


def run(args: argparse.Namespace) -> int:
    """Order and follow."""
    return give(Reload(), args)
