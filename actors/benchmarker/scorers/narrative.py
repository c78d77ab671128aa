"""What a story has to keep to, each a pure function of the text, from 0 (not at all) to 1.

length       n words, window [a, b]: 1 inside; below n/a; above 1 - (n - b)/b, at least 0
sentences    the same of sentences
include      k of the m wanted phrases occur, as whole words: k/m
avoid        k unwanted phrases occur: 1/(1 + k)
repetition   distinct n-grams / all n-grams of the words (1 - `rep-n` of Welleck et al. 2020); 1 where there is none
continuity   k of m named things of the scene are kept, s things of other scenes come in: k/m * 1/(1 + s)
person       y of all p personal pronouns outside of quotes are of the second person: y/p; 0 without any
ending       1 where the last sentence is a question, or none, as was asked for; else 0
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from understudy.actors.benchmarker.scorers.words import count_of, sentences, words

SECOND = frozenset({"you", "your", "yours", "yourself", "you're", "you've", "you'll", "you'd"})
OTHERS = frozenset(
    words(
        "I me my mine myself I'm I've I'll I'd we us our ours ourselves we're we've he him his himself he's she her "
        "hers herself she's they them their theirs themselves"
    )
)
_QUOTED = re.compile(r'"[^"]*"|“[^“”]*”|«[^«»]*»')


def window(count: int, least: int, most: int) -> float:
    """How well a count keeps to a window."""
    if count < least:
        return count / least
    return max(0.0, 1 - (count - most) / most) if count > most else 1.0


def length(text: str, min_words: int, max_words: int) -> float:
    """See the module."""
    return window(len(words(text)), min_words, max_words)


def sentence_count(text: str, least: int, most: int) -> float:
    """See the module."""
    return window(len(sentences(text)), least, most)


def include(text: str, wanted: Sequence[str]) -> float:
    """See the module."""
    return count_of(wanted, words(text)) / len(wanted)


def avoid(text: str, unwanted: Sequence[str]) -> float:
    """See the module."""
    return 1 / (1 + count_of(unwanted, words(text)))


def repetition(text: str, n: int) -> float:
    """See the module."""
    found = words(text)
    grams = [tuple(found[at : at + n]) for at in range(len(found) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


def continuity(text: str, entities: Sequence[str], strangers: Sequence[str] = ()) -> float:
    """See the module."""
    return include(text, entities) * (avoid(text, strangers) if strangers else 1.0)


def second_person(text: str) -> float:
    """See the module."""
    found = words(_QUOTED.sub(" ", text))
    second, others = sum(one in SECOND for one in found), sum(one in OTHERS for one in found)
    return second / (second + others) if second + others else 0.0


def ending(text: str, question: bool) -> float:
    """See the module."""
    found = sentences(text)
    return float(bool(found) and ("?" in found[-1][-3:]) == question)
