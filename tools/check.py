"""Validate a topology without starting anything: every problem at once, with path, what was found, what is right.

    understudy check
    understudy check --topology my.yaml --json
    understudy check --picture README.md      # redraw the picture

Exit code 0 when it can be used, 2 when not.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from understudy.actors.host.seats import seats_of
from understudy.actors.host.topology import TopologyError, hash_of, read
from understudy.messages.places import unread
from understudy.tools.common import show
from understudy.tools.picture import redraw

NOTE = (
    "$.providers.{name}: its models count as on this machine by your word alone, as no list of it is read; "
    "`catalogue: {{}}` has it say which it passes on to a cloud, `location: local` says that none is"
)


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("--topology", type=Path, default=Path("topology.yaml"), help="default: ./topology.yaml")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the topology between its marks in this file")
    parser.add_argument("--json", action="store_true", help="print JSON for machines")


def run(args: argparse.Namespace) -> int:
    """Report."""
    try:
        topology = read(args.topology)
    except TopologyError as error:
        if args.json:
            show({"ok": False, "problems": error.problems})
        else:
            for problem in error.problems:
                print(problem)
            print(f"{len(error.problems)} problem(s)")
        return 2
    if args.picture is not None:
        try:
            redraw(args.picture, topology)
        except (OSError, ValueError) as error:
            print(error, file=sys.stderr)
            return 2
    notes = [NOTE.format(name=name) for name in unread(topology)]
    seats = [p.seat.instance for p in seats_of(topology)]
    if args.json:
        found = {"hash": hash_of(topology), "models": list(topology.models), "processes": seats, "notes": notes}
        show({"ok": True, **found})
    else:
        print(f"ok: {len(topology.models)} models, processes: {', '.join(seats)} (hash {hash_of(topology)})")
        for note in notes:
            print(f"note: {note}")
    return 0
