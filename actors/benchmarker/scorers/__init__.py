"""Scorers: pure functions from an answer to a score from 0 to 1, each with its formula where it is defined.

`specs.py` is what suites say about them, `score` the one way to use them.
"""

from __future__ import annotations

from typing import NamedTuple

from understudy.actors.benchmarker.scorers import checks, exact, json_answer, number, tool_calls
from understudy.actors.benchmarker.scorers.specs import Checks, Exact, Json, Judged, Number, Scorer, Speed, Tools
from understudy.messages.buckets import millionths
from understudy.messages.tools import ToolCall

FORMULAS = 2
"""Raised whenever a formula changes: scores of before and after are not to be compared, so hashes of suites differ."""


class Answer(NamedTuple):
    """What a model said, and what it had been asked (all turns, joined)."""

    text: str
    tool_calls: tuple[ToolCall, ...] = ()
    prompt: str = ""


class Scored(NamedTuple):
    """A score in millionths, and named shares of it: no word of the answer."""

    score_u: int
    figures: dict[str, float]


def score(spec: Scorer, answer: Answer) -> Scored:
    """The one value that the same answer always has."""
    match spec:
        case Speed():
            return Scored(millionths(float(bool(answer.text or answer.tool_calls))), {})
        case Exact():
            return Scored(millionths(exact.score(answer.text, spec.answers)), {})
        case Number():
            found = number.score(answer.text, spec.value, spec.tolerance, spec.zero_at)
            return Scored(millionths(found), {})
        case Json():
            one = json_answer.score(answer.text, spec.schema, spec.equals)
            return Scored(millionths(one.score), {"json_valid": one.valid, "schema_ok": one.schema})
        case Tools():
            right = [tool_calls.Made(call.name, call.arguments) for call in spec.calls]
            said = [tool_calls.made(call.name, call.arguments) for call in answer.tool_calls]
            made = tool_calls.score(right, said)
            return Scored(millionths(made.score), {"tool_right": made.tool, "arguments_right": made.args})
        case Checks():
            return _checked(spec, answer)
        case Judged():
            return _checked(spec.otherwise, answer)


def _checked(spec: Checks, answer: Answer) -> Scored:
    total, each = checks.score(spec.checks, answer.text, answer.prompt)
    return Scored(millionths(total), {name: round(value, 6) for name, value in each.items()})


__all__ = ["Answer", "Scored", "Scorer", "score"]
