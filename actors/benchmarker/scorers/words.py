"""What the scorers share: words, sentences, one spelling."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
"""Letters and digits of any script; `don't` is one word."""
_SENTENCE = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’)\]]*+(?=\s|$)")
"""Begins where a run of marks begins and gives nothing back: a text of dots alone takes no longer than another."""
ARTICLES = frozenset({"a", "an", "the"})


def plain(text: str) -> str:
    """One spelling: NFKC, no case, one kind of apostrophe."""
    return unicodedata.normalize("NFKC", text).casefold().replace("’", "'")


def words(text: str) -> list[str]:
    """The words, in one spelling."""
    return WORD.findall(plain(text))


def sentences(text: str) -> list[str]:
    """By their marks at the end; what comes after the last mark is one too."""
    found, begin = list[str](), 0
    for match in _SENTENCE.finditer(text):
        found.append(text[begin : match.end()].strip())
        begin = match.end()
    return [one for one in (*found, text[begin:].strip()) if WORD.search(one)]


def occurs(phrase: str, within: Sequence[str]) -> bool:
    """Does a phrase occur in words of one spelling, as whole words? A plural `s` may be added to its last one."""
    wanted = words(phrase)
    size = len(wanted)
    if not size:
        return False
    for at in range(len(within) - size + 1):
        here = within[at : at + size]
        if here[:-1] == wanted[:-1] and here[-1] in (wanted[-1], f"{wanted[-1]}s"):
            return True
    return False


def count_of(phrases: Iterable[str], within: Sequence[str]) -> int:
    """How many of the phrases occur."""
    return sum(occurs(phrase, within) for phrase in phrases)
