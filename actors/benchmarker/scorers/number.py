"""Numbers: the last one that the answer says, beside the right one.

`1,234.5`, `1 234`, `-3`, `3/4`, `12 %` (said as 12), `1.2e3` and times of day (`17:30` is 17.5) are read, what stands
behind a `not` is none. What comes behind the last `answer` (`answer to ... is`) or `=` is read first, then the rest of
the text. With d the distance to the right value: 1 where d <= tolerance, 0 where d >= zero_at
(by default there is nothing between), else (zero_at - d) / (zero_at - tolerance).
"""

from __future__ import annotations

import math
import re

_NUMBER = re.compile(
    r"(?<![\w.])[-+−]?(?:\d{1,3}(?:[,\u00a0\u202f ]\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,3})?"
    r"(?:\s?/\s?\d+(?!\.?\d)|(?<=\d):[0-5]\d(?![\d:]))?"
)
_MARK = re.compile(r"answer(?:\s+(?:to|of|for)\b(?:[^\n.=:]|\.(?=\d)){0,200}?(?:\bis\b|:))?|=", re.IGNORECASE)
_NOT = re.compile(r"(?:\bnot|n['’]t)\s+(?:be\s+)?$", re.IGNORECASE)
_NOT_CHARS = 12
_ROUNDING = 1e-9


def value_of(text: str) -> float | None:
    """The number that an answer comes to; None where it says none."""
    marks = list(_MARK.finditer(text))
    for part in [text[marks[-1].end() :], text] if marks else [text]:
        found = [one.group() for one in _NUMBER.finditer(part) if not _denied(part, one.start())]
        if found:
            return _read(found[0] if part is not text else found[-1])
    return None


def _denied(text: str, at: int) -> bool:
    return _NOT.search(text[max(0, at - _NOT_CHARS) : at]) is not None


def _read(text: str) -> float | None:
    plain = re.sub(r"[,\u00a0\u202f ]", "", text).replace("−", "-")
    over, _, under = plain.partition("/")
    hours, _, minutes = over.partition(":")
    by = float(under or 1)  # a float reads any length, where an int refuses more than 4,300 digits
    if not by or not math.isfinite(by):
        return None
    found = (float(hours) + float(minutes or 0) / 60) / by
    return found if math.isfinite(found) else None


def score(text: str, value: float, tolerance: float = 0.0, zero_at: float | None = None) -> float:
    """0 to 1."""
    said = value_of(text)
    if said is None:
        return 0.0
    away = abs(said - value)
    if away <= tolerance + _ROUNDING * max(1.0, abs(value)):
        return 1.0
    if zero_at is None or away >= zero_at:
        return 0.0
    return (zero_at - away) / (zero_at - tolerance)
