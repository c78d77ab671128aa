"""Structured output: the whole answer is one JSON value, of the schema, with the right content.

valid     1 where the answer without surrounding white space is JSON, else 0; a code fence around it makes it none
schema    1 where it fits the schema (`messages/json_schema.py`), else 0
content   the share of leaves (path and value) of the expected value that the answer has, less what it has too much:
          equal / max(expected, said); strings are compared without case and surrounding space, numbers by value

score = 0.25 valid + 0.25 schema + 0.5 content, or (valid + schema) / 2 where no content is expected
"""

from __future__ import annotations

from typing import Any, NamedTuple, cast

from understudy.actors.benchmarker.scorers.words import plain
from understudy.messages import json_schema


class Found(NamedTuple):
    """The score and what it is made of."""

    score: float
    valid: float
    schema: float


def score(text: str, schema: dict[str, Any], equals: Any = None) -> Found:
    """0 to 1 each."""
    try:
        value = json_schema.decoded(text.strip())
    except ValueError:
        return Found(0.0, 0.0, 0.0)
    fits = float(json_schema.fits(schema, value))
    if equals is None:
        return Found((1 + fits) / 2, 1.0, fits)
    return Found(0.25 + 0.25 * fits + 0.5 * content(equals, value), 1.0, fits)


def content(right: Any, said: Any) -> float:
    """The share of equal leaves."""
    wanted, had = leaves(right), leaves(said)
    if not wanted and not had:
        return float(type(right) is type(said))
    equal = sum(path in had and same(value, had[path]) for path, value in wanted.items())
    return equal / max(len(wanted), len(had))


def leaves(value: Any) -> dict[tuple[str | int, ...], Any]:
    """Every value that holds no others, by its path; an empty list or object is one."""
    found, open_ = dict[tuple[str | int, ...], Any](), [(tuple[str | int, ...](), value)]
    while open_:
        at, one = open_.pop()
        if isinstance(one, dict) and one:
            open_ += [((*at, name), inner) for name, inner in cast(dict[str, Any], one).items()]
        elif isinstance(one, list) and one:
            open_ += [((*at, n), inner) for n, inner in enumerate(cast(list[Any], one))]
        else:
            found[at] = one
    return found


def same(one: Any, other: Any) -> bool:
    """Equal, whatever the case of strings; a truth value is no number."""
    if isinstance(one, str) and isinstance(other, str):
        return plain(one).strip() == plain(other).strip()
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        try:
            return abs(one - other) <= 1e-9 * max(1.0, abs(one))
        except OverflowError:  # an integer that no float can hold, beside a float
            return False
    return type(one) is type(other) and one == other
