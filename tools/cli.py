"""The `understudy` command. Each subcommand is one module with `add(parser)` and `run(args) -> exit code`."""

from __future__ import annotations

import argparse
import importlib
import sys

COMMANDS = {
    "up": "start the topology on this machine and keep it going",
    "status": "what runs here: processes, models",
    "reload": "apply the changed topology file to what runs",
    "restart": "restart processes one after the other, without failing a request",
    "keys": "provider keys in an encrypted vault: add, rotate, revoke, list, audit, test, rewrap",
    "check": "validate topology.yaml without starting anything",
    "ask": "one request from the command line",
    "models": "the catalogue: every model and how it is",
    "watch": "model-change announcements, live",
    "benchmark": "compare models by what the log knows of them, and see how they went",
    "budget": "every budget: spent, reserved, limit, end of its window",
    "events": "the event log: outcomes, changes, topologies",
    "graph": "the performance graph: eight questions, how far it is, rebuild, checksum",
    "feedback": "what you think of an answer",
    "erase": "destroy what is kept of a conversation, for good",
    "bench": "measure what `up` starts",
    "consent": "who has agreed that their words go to which provider: give, withdraw, list",
    "evaluate": "judge the secret and PII scanners by labelled rows",
    "replay": "repeat every recorded decision from the log alone and compare",
    "schemas": "the contract for other languages: JSON Schema, AsyncAPI",
    "demo": "a story that goes on when its narrator is killed",
}


def main(argv: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(
        prog="understudy",
        description="Model management and selection for LLM applications on NATS.",
        epilog="Begin with `understudy demo`, then `understudy up` in one terminal and `understudy ask` in another.",
    )
    subs = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    words = sys.argv[1:] if argv is None else argv
    wanted = next((word for word in words if not word.startswith("-")), "")
    for name, about in COMMANDS.items():
        if name != wanted:  # each command waits for its own imports alone
            subs.add_parser(name, help=about)
            continue
        module = importlib.import_module(f"understudy.tools.{name}")
        sub = subs.add_parser(
            name, help=about, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add(sub)
        sub.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    try:
        code = args.run(args)
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        code = 0
    sys.exit(code)
