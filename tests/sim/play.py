"""Many histories, or one with its trace.

python tests/sim 17 --trace          # exactly what seed 17 is, message by message
python tests/sim --jobs 2            # histories 0 to 1999, the table of what was hit
python tests/sim --seeds 500 --stop  # until the first broken promise
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import msgspec
from sim.cells import State, table
from sim.world import Outcome, history

from understudy.bus.memory import Note

HERE = Path(__file__).resolve().parent


def shown(note: Note) -> str:
    """One line of a readable trace: virtual seconds, what, who."""
    body = note.payload.decode("utf-8", "replace")
    return f"{note.at_s:10.6f} {note.what:8} {note.who:18} {note.subject}  {body[:300]}"


def complaint(outcome: Outcome) -> str:
    """What broke, and how to see it again."""
    again = f"python tests/sim {outcome.seed} --trace"
    return "\n".join([f"seed {outcome.seed}: {len(outcome.wrong)} broken; `{again}`", *outcome.wrong[:8]])


def play(first: int, count: int, jobs: int) -> list[Outcome]:
    """Histories `first` to `first + count - 1`, in order, on so many processes."""
    if jobs <= 1:
        return [history(seed) for seed in range(first, first + count)]
    ends = [first + count * i // jobs for i in range(jobs + 1)]
    argv = [sys.executable, str(HERE), "--json"]
    started = [
        subprocess.Popen([*argv, "--from", str(a), "--seeds", str(b - a)], stdout=subprocess.PIPE)
        for a, b in pairwise(ends)
    ]
    found: list[Outcome] = []
    for process in started:
        out, _ = process.communicate()
        if process.returncode != 0:
            raise RuntimeError(f"{process.args} ended with {process.returncode}")
        found += msgspec.json.decode(out, type=list[Outcome])
    return found


def hits(outcomes: list[Outcome]) -> dict[tuple[str, State], int]:
    """How often each cell was hit."""
    return Counter(hit for one in outcomes for hit in one.hits)


def main() -> int:
    """Exit code 1 when a promise broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", nargs="?", type=int, help="one history")
    parser.add_argument("--trace", action="store_true", help="with one seed: every message")
    parser.add_argument("--seeds", type=int, default=2000, metavar="N", help="so many histories (default 2000)")
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="M", help="the first one's seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--stop", action="store_true", help="end at the first broken promise; one JSON line")
    parser.add_argument("--json", action="store_true", help="what came of each history, for other programs")
    args = parser.parse_args()
    if args.seed is not None:
        return _one(args.seed, args.trace)
    if args.stop:
        return _until_broken(args.first, args.seeds)
    if args.json:
        sys.stdout.buffer.write(msgspec.json.encode(play(args.first, args.seeds, 1)))
        return 0
    return _many(args.first, args.seeds, args.jobs)


def _one(seed: int, trace: bool) -> int:
    notes: list[Note] = []
    outcome = history(seed, notes.append if trace else None)
    for note in notes:
        print(shown(note))
    print(complaint(outcome) if outcome.wrong else f"seed {seed}: every promise holds")
    print(f"{outcome.requests} requests, {outcome.finished} finished, trace hash {outcome.digest}")
    print("faults:", "; ".join(f"{fault} x {state}" for fault, state in outcome.hits))
    return 1 if outcome.wrong else 0


def _until_broken(first: int, count: int) -> int:
    for seed in range(first, first + count):
        outcome = history(seed)
        if outcome.wrong:
            print(json.dumps({"seed": seed, "wrong": outcome.wrong[:5]}))
            return 1
    print(json.dumps({"seed": None, "wrong": []}))
    return 0


def _many(first: int, count: int, jobs: int) -> int:
    began = time.monotonic()
    outcomes = play(first, count, jobs)
    broken = [one for one in outcomes if one.wrong]
    for one in broken[:20]:
        print(complaint(one))
    print(table(hits(outcomes)))
    requests, checked = sum(o.requests for o in outcomes), sum(o.checked for o in outcomes)
    finished, faults = sum(o.finished for o in outcomes), sum(len(o.hits) for o in outcomes)
    print(f"{count} histories, {requests} requests ({finished} finished, P1 owed to {checked}), {faults} faults, "
          f"{len(broken)} histories broken, {time.monotonic() - began:.1f} s")  # fmt: skip
    return 1 if broken else 0
