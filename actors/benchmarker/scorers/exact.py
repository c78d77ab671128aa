"""Exact answers: token F1 after normalisation, as SQuAD has it (Rajpurkar et al. 2016).

Both are put into one spelling (NFKC, no case), articles and punctuation left out. With p the share of the answer's
words that are in the right one, and r the share of the right one's words that are in the answer: 2pr / (p + r), 1 where
they are the same words. Of several right answers the best counts. A chatty right answer has less than a short one: each
item says how it is to be answered, and not to keep to that is a fault too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from understudy.actors.benchmarker.scorers.words import ARTICLES, words


def normal(text: str) -> tuple[str, ...]:
    """The words that count."""
    found = words(text)
    return tuple(one for one in found if one not in ARTICLES) or tuple(found)


def score(text: str, answers: Iterable[str]) -> float:
    """0 to 1, by the best of the right answers."""
    said = normal(text)
    return max((_f1(said, normal(answer)) for answer in answers), default=0.0)


def _f1(said: tuple[str, ...], right: tuple[str, ...]) -> float:
    common = (Counter(said) & Counter(right)).total()
    return 2 * common / (len(said) + len(right)) if common else 0.0
