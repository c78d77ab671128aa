"""Measure what `understudy up` starts, as ratios against a baseline in the same run.

    understudy bench generate          # what our path adds to a call
    understudy bench generate --json   # bars: id, value, unit, bar, aim, holds

Benches need a quiet machine to mean much; the machine's own probes stand in `detail`.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import sys
import inspect

BENCHES = {
    "bus": "select beside a bare echo, our relay beside a bare relay, memory of a selector",
    "failover": "every fault with a healthy model behind it: attempts, text, time until the whole answer",
    "generate": "what our path adds to a call: p50, calls per second, first token, CPU",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Arguments."""
    parser.add_argument("name", choices=sorted(BENCHES), help="; ".join(f"{n}: {t}" for n, t in BENCHES.items()))
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--quick", action="store_true", help="bus: show that it works, in seconds; no figures to quote")
    parser.add_argument("--quick", action="store_true", help="few rounds, to see that it works (failover)")


def run(args: argparse.Namespace) -> int:
    """Measure and report; exit code 1 when a bar does not hold."""
    from understudy.tools.bench.stage import loop_factory
    from understudy.tools.common import complain, show

    module = importlib.import_module(f"understudy.tools.bench.{args.name}")
    if args.quick and not hasattr(module, "QUICK"):
        print(f"bench {args.name} has no quick form; leave --quick out", file=sys.stderr)
        return 2
    if args.quick and "quick" not in inspect.signature(module.measure).parameters:
        return complain("invalid", f"bench {args.name} has no quick form; leave --quick out", args)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        result = runner.run(module.measure(quick=True) if args.quick else module.measure())
    if args.json:
        show(result)
    else:
        explain = getattr(module, "explain", None)
        more = [explain(result)] if explain is not None else []
        print(f"bench {result.bench}", *more, result.table(), sep="\n")
    return 0 if all(one.holds for one in result.bars) else 1
