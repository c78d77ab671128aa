"""Measure what `understudy up` starts, as ratios against a baseline measured in the same run.

    understudy bench generate          # what our path adds to a call
    understudy bench generate --json   # bars: id, value, unit, bar, aim, holds
    understudy bench chaos --help      # what a bench can be told

Benches need a quiet machine to mean much; the machine's own probes stand in `detail`. Exit code 1: a bar does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import inspect

BENCHES = {
    "budget": "a budget for 100 of 400 requests at once: who is answered, the ledger beside the vendor's bill, kills",
    "bus": "select beside a bare echo, our relay beside a bare relay, memory of a selector",
    "canaries": "words, ids, keys that must stand nowhere: files, bus, output, processes, also after crashes",
    "catalogue": "500 listed models: lists with filters, selections while the lists are read and change",
    "chaos": "kills, stops and cut connections under load: one end and the exact text for every request",
    "coldstart": "a log of 2 million events: until a selector is ready, with and without a snapshot; bytes per request",
    "consent": "what must not leave this machine, counted at the vendor's door, each case with a control",
    "engine": "the local engine alone: 16 requests at once beside serial generate(), equal tokens, cancel, pauses",
    "erasure": "a conversation is erased: what is left of it in any file, and what others lose by it",
    "export": "the log as Parquet, read back by pandas: events per second, equal folds, rows and sums, controls",
    "failover": "every fault with a healthy model behind it: attempts, text, time until the whole answer",
    "fairness": "a provider kept full: what urgent requests wait, who starves, who gets what; hedging; kept answers",
    "generate": "what our path adds to a call: p50, calls per second, first token, CPU",
    "providers": "every dialect by every fault: what the runner says, what the selector does, what the caller sees",
    "realserver": "servers that nobody here wrote (Ollama, transformers serve), in every dialect that they speak",
    "rotation": "a provider's key is rotated under load: no failed request, no use of the old; then an erasure",
    "scenarios": "TTA's acceptance scenarios, end to end, with their exact numbers",
    "sdk": "a streamed answer through the vendors' SDKs, where installed, and through the runner's edge",
    "steady": "rolling restarts and saturated cores under load: no failed request, nobody living declared dead",
}
"""Each is a module here with `async def measure(...) -> Result`; `explain(result) -> str` where a picture says more."""

OPTIONS: dict[str, tuple[str, ...]] = {
    "budget": ("quick",),
    "bus": ("quick",),
    "canaries": ("quick",),
    "catalogue": ("quick",),
    "chaos": ("seed", "round", "keep"),
    "coldstart": ("events",),
    "consent": ("quick",),
    "engine": ("quick",),
    "export": ("quick",),
    "failover": ("quick",),
    "fairness": ("quick",),
    "generate": ("quick",),
    "providers": ("quick",),
    "realserver": ("serve",),
    "rotation": ("quick",),
    "steady": ("seconds",),
}


def add(parser: argparse.ArgumentParser) -> None:
    """One subcommand per bench, with the options that it takes."""
    benches = parser.add_subparsers(dest="bench", required=True, metavar="NAME")
    for name, about in BENCHES.items():
        one = benches.add_parser(name, help=about, description=about)
        one.add_argument("--json", action="store_true", help="print one JSON object")
        for option in OPTIONS.get(name, ()):
            _option(one, option)


def _option(parser: argparse.ArgumentParser, name: str) -> None:
    match name:
        case "quick":
            parser.add_argument("--quick", action="store_true", help="few rounds, to see that it works; not to quote")
        case "seed":
            parser.add_argument("--seed", type=int, default=1, help="draws the schedule of strikes (default: 1)")
        case "round":
            parser.add_argument(
                "--round",
                action="append",
                dest="rounds",
                choices=("http", "local", "toxic"),
                help="only this round; may be repeated",
            )
        case "keep":
            parser.add_argument("--keep", default="", dest="keep_in", metavar="DIR", help="keep stores and logs here")
        case "events":
            parser.add_argument("--events", type=int, default=2_000_000, metavar="N", help="size of the log")
        case "serve":
            text = "virtual environment with transformers[serving]; made there if it is not (default: a temporary one)"
            parser.add_argument("--serve", default="", metavar="DIR", help=text)
        case "seconds":
            parser.add_argument("--seconds", type=int, default=300, help="how long (default: 300)")
        case _:
            raise ValueError(name)


def run(args: argparse.Namespace) -> int:
    """Measure and report; exit code 1 when a bar does not hold."""
    from understudy.tools.bench.stage import loop_factory
    from understudy.tools.common import show

    module = importlib.import_module(f"understudy.tools.bench.{args.bench}")
    taken = {name: getattr(args, name) for name in inspect.signature(module.measure).parameters if hasattr(args, name)}
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        result = runner.run(module.measure(**taken))
    if args.json:
        show(result)
    else:
        explain = getattr(module, "explain", None)
        more = [explain(result)] if explain is not None else []
        print(f"bench {result.bench}", *more, result.table(), sep="\n")
    return 0 if all(one.holds for one in result.bars) else 1
