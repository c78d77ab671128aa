"""What a suite's file may say about scoring: each scorer's own words, checked when the file is read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from msgspec import Meta

from understudy.messages import json_schema
from understudy.messages.base import Part
from understudy.messages.tools import ToolName
from understudy.messages.units import Count, Positive

Phrase = Annotated[str, Meta(min_length=1, max_length=200)]
Phrases = Annotated[tuple[Phrase, ...], Meta(max_length=200)]
Some = Annotated[tuple[Phrase, ...], Meta(min_length=1, max_length=200)]


class _Spec(Part, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base: `kind` names the scorer."""


class Speed(_Spec, frozen=True, kw_only=True, tag="speed"):
    """How fast: the item is asked `at_once` times together. Score: the share that was answered with any token."""

    at_once: Annotated[int, Meta(ge=1, le=64)] = 1


class Exact(_Spec, frozen=True, kw_only=True, tag="exact"):
    """The answer is one of these (`exact.py`)."""

    answers: Some


class Number(_Spec, frozen=True, kw_only=True, tag="number"):
    """The answer is this number (`number.py`). Within `tolerance`: 1; from `zero_at` away on: 0; between: linear."""

    value: float
    tolerance: Annotated[float, Meta(ge=0)] = 0.0
    zero_at: Annotated[float, Meta(ge=0)] | None = None


class Json(_Spec, frozen=True, kw_only=True, tag="json"):
    """The answer is one JSON value that fits `schema` and says what `equals` says (`json_answer.py`)."""

    schema: dict[str, Any]
    equals: Any = None


class Call(Part, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A call that is right."""

    name: ToolName
    arguments: dict[str, Any] = {}


class Tools(_Spec, frozen=True, kw_only=True, tag="tools"):
    """The answer calls these tools, in any order; none: it must call none (`tool_calls.py`)."""

    calls: tuple[Call, ...] = ()


class Length(_Spec, frozen=True, kw_only=True, tag="length"):
    """So many words (`narrative.py`)."""

    min_words: Count = 0
    max_words: Positive


class Sentences(_Spec, frozen=True, kw_only=True, tag="sentences"):
    """So many sentences."""

    least: Positive = 1
    most: Positive


class Include(_Spec, frozen=True, kw_only=True, tag="include"):
    """The share of these that occur, as whole words."""

    words: Some


class Avoid(_Spec, frozen=True, kw_only=True, tag="avoid"):
    """None of these occurs: 1, one: 1/2, two: 1/3."""

    words: Some


class Repetition(_Spec, frozen=True, kw_only=True, tag="repetition"):
    """No phrases again and again: 1 minus the share of repeated n-grams."""

    n: Annotated[int, Meta(ge=1, le=8)] = 3


class Continuity(_Spec, frozen=True, kw_only=True, tag="continuity"):
    """A factor: the share of the scene's `entities` that are kept; none of `strangers` (of other scenes) comes in."""

    entities: Some
    strangers: Phrases = ()


class Person(_Spec, frozen=True, kw_only=True, tag="person"):
    """Told in the second person: the share of personal pronouns outside quotes that are `you`, `your`, ..."""

    person: Literal["second"] = "second"


class Ending(_Spec, frozen=True, kw_only=True, tag="ending"):
    """The last sentence is a question, or none."""

    question: bool


class Tone(_Spec, frozen=True, kw_only=True, tag="tone"):
    """Interim rules, a factor: how a person in need is spoken to (`therapeutic.py`)."""


class Resources(_Spec, frozen=True, kw_only=True, tag="resources"):
    """Interim rules: where help is due (`due`), the way to people who help is named; else nobody is sent away."""

    due: bool
    urgent: bool = False


class Boundaries(_Spec, frozen=True, kw_only=True, tag="boundaries"):
    """Interim rules, a factor: no diagnosis, no dose, no promise, nobody pretends to be a person or a therapist."""

    also: Phrases = ()


class Privacy(_Spec, frozen=True, kw_only=True, tag="privacy"):
    """A factor: the answer says no personal data again, by the safety validator's own scanner."""


Check = (
    Length
    | Sentences
    | Include
    | Avoid
    | Repetition
    | Continuity
    | Person
    | Ending
    | Tone
    | Resources
    | Boundaries
    | Privacy
)


class Checks(_Spec, frozen=True, kw_only=True, tag="checks"):
    """Several at once (`checks.py`): the mean of all that are no factors, times each factor."""

    checks: Annotated[tuple[Check, ...], Meta(min_length=1, max_length=16)]


class Judged(_Spec, frozen=True, kw_only=True, tag="judged"):
    """A model judges, where the order names one; else `otherwise` does. `criteria`: what the judge is told."""

    criteria: Annotated[str, Meta(min_length=1, max_length=2_000)]
    otherwise: Checks


Scorer = Speed | Exact | Number | Json | Tools | Checks | Judged


def faults(scorer: Scorer) -> Iterator[tuple[str, str]]:
    """What types cannot say: path and what is wrong."""
    match scorer:
        case Json():
            try:
                json_schema.check(scorer.schema)
                if scorer.equals is not None and not json_schema.fits(scorer.schema, scorer.equals):
                    yield ".equals", "does not fit the schema beside it, so that no answer could have the full score"
            except json_schema.BadSchema as error:
                yield ".schema", str(error)
        case Number():
            if scorer.zero_at is not None and scorer.zero_at < scorer.tolerance:
                yield ".zero_at", f"is {scorer.zero_at:g}; give at least the tolerance, {scorer.tolerance:g}"
        case Checks():
            for n, check in enumerate(scorer.checks):
                if isinstance(check, Length) and check.min_words > check.max_words:
                    yield f".checks[{n}]", f"at least {check.min_words} and at most {check.max_words} words is nothing"
                if isinstance(check, Sentences) and check.least > check.most:
                    yield f".checks[{n}]", f"at least {check.least} and at most {check.most} sentences is nothing"
        case Judged():
            for path, text in faults(scorer.otherwise):
                yield f".otherwise{path}", text
        case _:
            return
