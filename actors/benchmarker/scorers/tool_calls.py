"""Tool selection: the right tools with the right arguments.

Right and made calls are paired, each at most once, by name, the pair with most equal arguments first. A pair is worth
1/2 for the name and 1/2 for the share of equal arguments: equal / max(expected, said) over leaves (`json_answer`).

    score  = sum of pairs / max(expected calls, made calls); where none is right: 1 if none was made, else 0
    tool   = 1 where exactly the right tools were called, each as often as it should be, else 0
    args   = 1 where also all arguments are equal, else 0
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from understudy.actors.benchmarker.scorers.json_answer import content
from understudy.messages import json_schema


class Made(NamedTuple):
    """A call: its tool and its arguments, None where they are no JSON."""

    name: str
    arguments: Any


class Found(NamedTuple):
    """The score and what it is made of."""

    score: float
    tool: float
    args: float


def made(name: str, arguments: str) -> Made:
    """A call as the model made it."""
    try:
        return Made(name, json_schema.decoded(arguments or "{}"))
    except ValueError:
        return Made(name, None)


def score(right: Sequence[Made], said: Sequence[Made]) -> Found:
    """0 to 1 each."""
    if not right:
        found = float(not said)
        return Found(found, found, found)
    pairs = sorted(
        ((-_arguments(r.arguments, s.arguments), n, m) for n, r in enumerate(right) for m, s in enumerate(said)
         if r.name == s.name)
    )  # fmt: skip
    total, all_equal = 0.0, True
    taken, paired = set[int](), set[int]()
    for less, n, m in pairs:
        if n in taken or m in paired:
            continue
        taken.add(n)
        paired.add(m)
        total += 0.5 + 0.5 * -less
        all_equal = all_equal and less == -1.0
    tool = Counter(one.name for one in right) == Counter(one.name for one in said)
    return Found(total / max(len(right), len(said)), float(tool), float(tool and all_equal))


def _arguments(right: Any, said: Any) -> float:
    return 0.0 if not isinstance(said, dict) else content(right, said)
