"""Many histories, or one with its trace.

    python tests/sim 17 --trace          # exactly what seed 17 is, message by message
    python tests/sim --seeds 2000        # histories 0 to 1999, the table of what was hit
    python tests/sim --seeds 500 --stop  # until the first broken promise
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from sim.cells import State, table
from sim.world import Outcome, history

from understudy.bus.memory import Note

COMMAND = "python tests/sim {seed} --trace"


def show(note: Note) -> None:
    """One line of a readable trace: virtual seconds, who, what."""
    body = note.payload.decode("utf-8", "replace")
    print(f"{note.at_s:10.6f} {note.what:8} {note.who:18} {note.subject}  {body[:300]}")


def complaint(outcome: Outcome) -> str:
    """What broke, and how to see it again."""
    again = COMMAND.format(seed=outcome.seed)
    return "\n".join([f"seed {outcome.seed}: {len(outcome.wrong)} broken; `{again}`", *outcome.wrong[:8]])


def play(seeds: list[int], jobs: int) -> list[Outcome]:
    """All of them, in order of their seeds."""
    if jobs <= 1:
        return [history(seed) for seed in seeds]
    with ProcessPoolExecutor(jobs) as pool:
        return list(pool.map(history, seeds, chunksize=20))


def totals(outcomes: list[Outcome]) -> dict[tuple[str, State], int]:
    """Hits per cell."""
    return Counter(hit for one in outcomes for hit in one.hits)


def main() -> int:
    """Exit code 1 when a promise broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("seed", nargs="?", type=int, help="one history")
    parser.add_argument("--trace", action="store_true", help="with one seed: every message")
    parser.add_argument("--seeds", type=int, default=0, metavar="N", help="histories 0 to N-1")
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="M", help="begin with seed M")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--stop", action="store_true", help="end at the first broken promise; one JSON line")
    args = parser.parse_args()
    if args.seed is not None:
        outcome = history(args.seed, show if args.trace else None)
        print(complaint(outcome) if outcome.wrong else f"seed {outcome.seed}: holds", outcome.digest, outcome.hits)
        return 1 if outcome.wrong else 0
    return _until_broken(args.first, args.seeds) if args.stop else _many(args.first, args.seeds or 2000, args.jobs)


def _until_broken(first: int, count: int) -> int:
    for seed in range(first, first + count):
        outcome = history(seed)
        if outcome.wrong:
            print(json.dumps({"seed": seed, "wrong": outcome.wrong[:5]}))
            return 1
    print(json.dumps({"seed": None, "wrong": []}))
    return 0


def _many(first: int, count: int, jobs: int) -> int:
    began, cpu = time.monotonic(), time.process_time()
    outcomes = play(list(range(first, first + count)), jobs)
    broken = [one for one in outcomes if one.wrong]
    for one in broken[:10]:
        print(complaint(one))
    print(table(totals(outcomes)))
    requests, checked = sum(o.requests for o in outcomes), sum(o.checked for o in outcomes)
    faults = sum(len(o.hits) for o in outcomes)
    print(f"{count} histories, {requests} requests ({sum(o.finished for o in outcomes)} finished, P1 owed to {checked}), "
          f"{faults} faults, {len(broken)} histories broken; {time.monotonic() - began:.1f} s, "
          f"own CPU {time.process_time() - cpu:.1f} s")  # fmt: skip
    return 1 if broken else 0
