"""What an answer is marked with: what it speaks of, and where its words went."""

from __future__ import annotations

from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

import pytest

from understudy.actors.selector import labels
from understudy.messages.generate import Attempt
from understudy.messages.privacy import Outbound

SAID: list[tuple[str, tuple[str, ...]]] = [
    ("You walk to the mill. The door = open, 3 crows - or 4? - watch.", ()),
    ("Look:\n```python\nprint(1)\n```", ("code",)),
    ("def walk(place):\n    return place", ("code",)),
    ("The class was full; import taxes rose.", ()),
    ("So x^2 + 3x = 10, and then", ("mathematics",)),
    (r"It is \frac{1}{2} of it.", ("mathematics",)),
    ("The usual dose is 20 mg twice a day.", ("high_stakes",)),
    ("You should speak to a lawyer about custody.", ("high_stakes",)),
]


@pytest.mark.parametrize(("text", "found"), SAID)
def test_what_an_answer_speaks_of(text: str, found: tuple[str, ...]) -> None:
    assert labels.of_answer(text, ()) == found


def unbounded(pattern: Any) -> bool:
    """Is there a repetition without an end anywhere in it? Two of these in a row can take quadratic time."""
    if isinstance(pattern, tuple) and pattern[:1] and pattern[0] in (_constants.MAX_REPEAT, _constants.MIN_REPEAT):
        _, most, inner = pattern[1]
        return most == _constants.MAXREPEAT or unbounded(inner)
    return isinstance(pattern, tuple | list | _parser.SubPattern) and any(unbounded(one) for one in pattern)


@pytest.mark.parametrize("rule", [labels.CODE, labels.EQUATION])
def test_rules_are_linear_in_the_text_for_all_their_repetitions_end(rule: Any) -> None:
    assert not unbounded(_parser.parse(rule.pattern, rule.flags))
    assert unbounded(_parser.parse(f"(?:{rule.pattern}|[a-z](?:b*c))", rule.flags))


TRIED: list[tuple[str, str, Outbound | None, tuple[str, ...]]] = [
    ("local", "ok", None, ()),
    ("external", "ok", Outbound(provider="far", bytes=9), ("external",)),
    ("external", "ok", Outbound(provider="far", bytes=9, redacted=2), ("external", "redacted")),
    ("external", "gone", None, ("external",)),  # nobody knows: it may have left
    ("external", "blocked", Outbound(provider="far", blocked="secret"), ()),
    ("external", "blocked", Outbound(provider="far", blocked="no_consent", bytes=9), ("external",)),
    ("external", "busy", None, ()),
    ("external", "refused_connection", Outbound(provider="far"), ()),
    ("external", "deadline", Outbound(provider="far"), ()),  # it ended at the gate
    ("external", "cancelled", Outbound(provider="far"), ()),
    ("external", "deadline", Outbound(provider="far", consent=3), ("external",)),  # handed over: how much is not known
    ("external", "first_token_timeout", None, ("external",)),
]


@pytest.mark.parametrize(("location", "outcome", "outbound", "found"), TRIED)
def test_where_words_went(location: Any, outcome: str, outbound: Any, found: tuple[str, ...]) -> None:
    one = Attempt(model="a", outcome=outcome, location=location, outbound=outbound)
    assert labels.of_answer("Plain.", (one,)) == found
