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
    "graphchaos": "kill -9 of projector, graph server, nats-server; two projectors: every bucket against the raw log",
    "project": "the log projected into the performance graph: rows against the raw log, rate, growth, checksums",
    "polite": "interactive requests beside a running suite: the p99 with it over that without, and off over off",
    "providers": "every dialect by every fault: what the runner says, what the selector does, what the caller sees",
    "questions": "the eight questions to the graph: equal to plain Python from the raw log, quick, by window",
    "realserver": "servers that nobody here wrote (Ollama, transformers serve), in every dialect that they speak",
    "rotation": "a provider's key is rotated under load: no failed request, no use of the old; then an erasure",
    "scenarios": "TTA's acceptance scenarios, end to end, with their exact numbers",
    "sdk": "a streamed answer through the vendors' SDKs, where installed, and through the runner's edge",
    "suite": "a suite on three tiny models and a scripted one: scores equal the script, twice the same",
    "steady": "rolling restarts and saturated cores under load: no failed request, nobody living declared dead",
    "trends": "a month of a million calls: how soon compare and trends answer, planted regressions, false alarms",
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
    "graphchaos": ("home", "seed"),
    "project": ("quick", "home"),
    "polite": ("quick",),
    "providers": ("quick",),
    "questions": ("quick", "home"),
    "realserver": ("serve",),
    "rotation": ("quick",),
    "scenarios": ("home",),
    "steady": ("seconds",),
    "trends": ("quick",),
    "suite": ("quick", "keep"),
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
        case "home":
            text = "only this home of the graph: embedded, neo4j (default: whichever is at hand)"
            parser.add_argument("--home", default="", dest="home_name", choices=("embedded", "neo4j"), help=text)
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
