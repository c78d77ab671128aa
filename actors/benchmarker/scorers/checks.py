"""Several checks of one text: the mean of those that are no factors, times each factor; no word at all has 0.

A factor (`boundaries`, `privacy`, `tone`, `continuity`) is what no other merit makes up for: a good length is nothing
without a word for who is in need, nor without anything of the scene. Where there are only factors, their product is it.
"""

from __future__ import annotations

from collections.abc import Sequence

from understudy.actors.benchmarker.scorers import narrative, therapeutic
from understudy.actors.benchmarker.scorers.specs import (
    Avoid,
    Boundaries,
    Check,
    Continuity,
    Ending,
    Include,
    Length,
    Person,
    Privacy,
    Repetition,
    Resources,
    Sentences,
    Tone,
)
from understudy.actors.benchmarker.scorers.words import words

FACTORS = (Boundaries, Continuity, Privacy, Tone)


def one(check: Check, text: str, prompt: str = "") -> float:
    """What a single check finds, 0 to 1."""
    match check:
        case Length():
            return narrative.length(text, check.min_words, check.max_words)
        case Sentences():
            return narrative.sentence_count(text, check.least, check.most)
        case Include():
            return narrative.include(text, check.words)
        case Avoid():
            return narrative.avoid(text, check.words)
        case Repetition():
            return narrative.repetition(text, check.n)
        case Continuity():
            return narrative.continuity(text, check.entities, check.strangers)
        case Person():
            return narrative.second_person(text)
        case Ending():
            return narrative.ending(text, check.question)
        case Tone():
            return therapeutic.tone(text)
        case Resources():
            return therapeutic.resources(text, check.due, check.urgent)
        case Boundaries():
            return therapeutic.boundaries(text, check.also)
        case Privacy():
            return therapeutic.privacy(text, prompt)


def score(checks: Sequence[Check], text: str, prompt: str = "") -> tuple[float, dict[str, float]]:
    """The score, and each kind of check with the mean of what it found."""
    if not words(text):
        return 0.0, {name_of(check): 0.0 for check in checks}
    found = [(check, one(check, text, prompt)) for check in checks]
    merits = [value for check, value in found if not isinstance(check, FACTORS)]
    total = sum(merits) / len(merits) if merits else 1.0
    each = dict[str, list[float]]()
    for check, value in found:
        total *= value if isinstance(check, FACTORS) else 1.0
        each.setdefault(name_of(check), []).append(value)
    return total, {name: sum(values) / len(values) for name, values in each.items()}


def name_of(check: Check) -> str:
    """What it is called in a suite's file."""
    return str(type(check).__struct_config__.tag)
