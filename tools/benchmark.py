"""What the log knows of models: which is better, by how much, how sure that is, and how they went.

understudy benchmark compare                          # all models, the last 7 days
understudy benchmark compare --task narrative --window 30d
understudy benchmark trends demo/story-lead --window 30d

Each has `--help` of its own. A threshold of the topology (`thresholds`) is marked wherever a figure stands beside it.
"""

from __future__ import annotations

import argparse
from types import ModuleType

from understudy.tools import benchmark_compare, benchmark_trends

VERBS: dict[str, tuple[ModuleType, str]] = {
    "compare": (benchmark_compare, "models side by side, with intervals and what is significant"),
    "trends": (benchmark_trends, "how models went: changes of level, slopes, drift"),
}
"""Each is a module with `add(parser)` and `run(args) -> exit code`."""


def add(parser: argparse.ArgumentParser) -> None:
    """One subcommand per verb."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, (module, about) in VERBS.items():
        one = verbs.add_parser(
            name, help=about, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add(one)


def run(args: argparse.Namespace) -> int:
    """Hand on to the verb."""
    module, _ = VERBS[args.verb]
    return module.run(args)
