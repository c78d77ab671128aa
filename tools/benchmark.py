"""Run suites on models, and read what the log knows of them: which is better, by how much, how sure that is.

understudy benchmark run demo/story-lead demo/story-second --html report.html
understudy benchmark list                             # what runs and has run; `show ID`, `cancel ID`
understudy benchmark schedule --every 24h             # idle models, by themselves
understudy benchmark compare                          # all models, the last 7 days
understudy benchmark compare --task narrative --window 30d
understudy benchmark trends demo/story-lead --window 30d

Each has `--help` of its own. A threshold of the topology (`thresholds`) is marked wherever a figure stands beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

from understudy.tools import (
    benchmark_compare,
    benchmark_list,
    benchmark_run,
    benchmark_schedule,
    benchmark_trends,
)


class Verb(NamedTuple):
    """A module, what it is about, and where it has several verbs, the two functions of this one."""

    module: ModuleType
    about: str
    add: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


VERBS: dict[str, Verb] = {
    "run": Verb(benchmark_run, "run a suite on models", benchmark_run.add, benchmark_run.run),
    "list": Verb(benchmark_list, "what runs and what has run", benchmark_list.add, benchmark_list.run),
    "show": Verb(benchmark_list, "the report of one again", benchmark_list.add_one, benchmark_list.run_one),
    "report": Verb(benchmark_list, "the same as show", benchmark_list.add_one, benchmark_list.run_one),
    "cancel": Verb(benchmark_list, "end one", benchmark_list.add_cancel, benchmark_list.run_cancel),
    "schedule": Verb(benchmark_schedule, "how often idle models are benchmarked", benchmark_schedule.add,
                     benchmark_schedule.run),
    "compare": Verb(benchmark_compare, "models side by side, with intervals and what is significant",
                    benchmark_compare.add, benchmark_compare.run),
    "trends": Verb(benchmark_trends, "how models went: changes of level, slopes, drift", benchmark_trends.add,
                   benchmark_trends.run),
}  # fmt: skip


def add(parser: argparse.ArgumentParser) -> None:
    """One subcommand per verb."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, verb in VERBS.items():
        form = argparse.RawDescriptionHelpFormatter
        one = verbs.add_parser(name, help=verb.about, description=verb.module.__doc__, formatter_class=form)
        verb.add(one)


def run(args: argparse.Namespace) -> int:
    """Hand on to the verb."""
    return VERBS[args.verb].run(args)
