"""Rules written as shapes: `dckr_pat_{url:27}` is the pattern of a key and the template of its examples at once.

A vendor's own prefix (`[token]`) makes a rule by itself. A value without one (`[near]`) counts only where the vendor's
name assigns it, in whichever notation: the pack's `frame` is the pattern of them all, its `forms` are its examples.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import cycle

import msgspec

from understudy.actors.safety_validator.examples import HOLE, example

CLASSES = {
    "alnum": "[A-Za-z0-9]",
    "alpha": "[A-Za-z]",
    "b32": "[A-Z2-7]",
    "b58": "[1-9A-HJ-NP-Za-km-z]",
    "b64": "[A-Za-z0-9+/]",
    "digit": "[0-9]",
    "hex": "[0-9a-fA-F]",
    "lower": "[a-z]",
    "lowernum": "[a-z0-9]",
    "percent": "[A-Za-z0-9%]",
    "upper": "[A-Z]",
    "uppernum": "[A-Z0-9]",
    "signs": r"[\w+/=-]",
    "url": r"[\w=-]",
}
"""What a hole takes; under each name, what `examples.SYMBOLS` fills in."""
UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
OPEN_ENDED = ("url", "b64", "percent", "signs")
"""Classes with signs: behind one of them `\\b` is no end."""


class Near(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A vendor whose keys have no prefix. A space in a word stands for one of ` `, `_`, `-`, `.` or nothing."""

    shapes: tuple[str, ...]
    words: tuple[str, ...] = ()  # default: the vendor's name


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of a rule that a shape gives."""

    id: str
    keywords: tuple[str, ...]
    regex: str
    check: str
    joined: bool
    hits: tuple[str, ...]
    misses: tuple[str, ...]


def pattern_of(shape: str) -> str:
    """The shape as RE2 reads it; KeyError for an unknown class."""
    pieces, at = list[str](), 0
    for hole in HOLE.finditer(shape):
        size = f"{{{hole[2]}}}" if hole[3] is None else f"{{{hole[2]},{hole[3]}}}"
        pieces += re.escape(shape[at : hole.start()]), UUID if hole[1] == "uuid" else CLASSES[hole[1]] + size
        at = hole.end()
    if not pieces:
        raise ValueError(f"{shape}: no hole")
    return "".join((*pieces, re.escape(shape[at:])))


def word_pattern(word: str) -> str:
    """A vendor's name, its parts small, capitalised or large: `rookTable` holds no Okta, `git hub` is also GitHub."""
    parts = ("|".join(sorted({part, part.capitalize(), part.upper()})) for part in word.split(" "))
    return "[ ._-]?".join(f"(?:{part})" for part in parts)


def words_of(name: str, near: Near) -> tuple[str, ...]:
    """The names that stand before its values."""
    return near.words or (name.replace("-", " "),)


def tokens(shapes: dict[str, tuple[str, ...]]) -> Iterator[Made]:
    """A rule for each vendor with a prefix."""
    for name, own in shapes.items():
        if not own:
            raise ValueError(f"vendors {name}: no shape")
        yield Made(
            id=name,
            keywords=tuple(dict.fromkeys(map(_keyword, own))),
            regex="|".join(rf"\b{pattern_of(shape)}{_end(shape)}" for shape in own),
            check="mixed",
            joined=True,
            hits=own,
            misses=tuple(_blank(own)),
        )


def nears(vendors: dict[str, Near], frame: str, forms: Iterable[str]) -> Iterator[Made]:
    """A rule for each vendor without a prefix; each has its examples in other forms."""
    turn = cycle(forms)
    for name, near in vendors.items():
        words = words_of(name, near)
        if not near.shapes:
            raise ValueError(f"vendors {name}: no shape")
        shapes = "|".join(map(pattern_of, near.shapes))
        yield Made(
            id=f"{name}-assigned",
            keywords=tuple(map(word_pattern, words)),
            regex=frame.replace("{words}", "|".join(map(word_pattern, words))).replace("{value}", shapes),
            check="drawn",
            joined=False,
            hits=tuple(form_of(next(turn), words[0], shape) for shape in near.shapes),
            misses=tuple(form_of("{i}_token = {s}", words[0], blank) for blank in _blank(near.shapes)),
        )


def form_of(form: str, word: str, shape: str) -> str:
    """A notation with the vendor's name (`{i}`, or `{I}` in capitals) and the template of a value (`{s}`) in it."""
    name = word.replace(" ", "_")
    return form.replace("{i}", name).replace("{I}", name.upper()).replace("{s}", shape)


def all_words(vendors: dict[str, Near]) -> tuple[str, ...]:
    """The patterns of all vendors' names."""
    return tuple(sorted({word_pattern(word) for name, near in vendors.items() for word in words_of(name, near)}))


def _keyword(shape: str) -> str:
    """The longest literal part; a short one at the beginning with some of what follows, or it would be everywhere."""
    literal = max(HOLE.sub(" ", shape).split(" "), key=len)
    if len(literal) < 6 and shape.startswith(literal):
        hole = HOLE.search(shape)
        assert hole is not None
        name, least = ("hex", 8) if hole[1] == "uuid" else (hole[1], min(8, int(hole[2])))
        return rf"\b{re.escape(literal)}{CLASSES[name]}{{{least}}}"
    if len(literal) < 3:
        raise ValueError(f"{shape}: nothing in it tells it from other text")
    return re.escape(literal)


def _end(shape: str) -> str:
    last = [hole for hole in HOLE.finditer(shape) if hole.end() == len(shape)]
    return "" if last and last[0][1] in OPEN_ENDED else r"\b"


def _blank(shapes: Iterable[str]) -> Iterator[str]:
    """What only looks like it: all `x`, and cut off early in its last hole."""
    for shape in shapes:
        yield HOLE.sub(lambda hole: "x" * int(hole[2]) if hole[1] != "uuid" else example("{x:36}"), shape)
        last = list(HOLE.finditer(shape))[-1]
        if last[1] != "uuid":
            yield f"{shape[: last.start()]}{{{last[1]}:{min(5, int(last[2]) - 1)}}}"
