"""What the readers of all lists share: a generator that says what to fetch and gets what came. Pure.

A vendor adds fields freely, and they are passed over. But an entry without id or, where the vendor gives prices,
without a price, or with a price that is no decimal number, means that we no longer understand the list: it is refused
whole.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable
from decimal import Decimal
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar

import msgspec

from understudy.messages.listing import ListFault, Row
from understudy.messages.units import MOST_TOKENS

MOST_ROWS = 20_000
MOST_WORDS = 200
"""Of one kind in one entry, so that every row fits into a message."""
WORD = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DECIMAL = re.compile(r"-?[0-9]{1,20}(\.[0-9]{1,40})?([eE][-+]?[0-9]{1,2})?")
_USD = re.compile(r"(0|[1-9][0-9]{0,8})(\.[0-9]{0,40}[1-9])?")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_PATH = re.compile(r" - at `(.+)`$")


class Fetch(NamedTuple):
    """A request; `path` stands behind the list's url. With a body it is a POST. `of_one`: it is about one model, so
    where the server gives no answer to it, the list goes on without."""

    path: str
    body: bytes = b""
    of_one: bool = False


class Answer(NamedTuple):
    """What came for it. `fault`: why nothing whole came for one that is `of_one`."""

    status: int
    body: bytes
    fault: BadList | None = None


Lister = Generator[Fetch | None, Answer, tuple[Row, ...]]
"""Asks for what it needs, or (None) for a moment's rest, and returns the rows."""
REST_ROWS = 50
"""So many rows are read between rests. Reading hundreds is a few milliseconds in which a thread keeps the interpreter's
lock, and the kernel a core, from everybody else's streams."""
Memory = dict[str, Any]
"""What a reader keeps from one reading to the next."""


class BadList(Exception):
    """The list cannot be used. The text says what would be right, and repeats nothing of it."""

    def __init__(self, text: str, path: str = "", code: ListFault = "malformed") -> None:
        super().__init__(text)
        self.text, self.path = text, path
        self.code: ListFault = code


T = TypeVar("T")


def read(answer: Answer, kind: type[T]) -> T:
    """A page in its form. Raises BadList with the path to the fault."""
    if answer.status != 200:
        raise BadList(
            f"the list was answered with HTTP {answer.status}; see key and url of the provider", code="status"
        )
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except msgspec.ValidationError as error:
        found = _PATH.search(str(error))
        raise BadList(_PATH.sub("", str(error)), found.group(1) if found else "$") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadList("expected a JSON object", "$") from None


def words(values: Iterable[str] | None, path: str) -> tuple[str, ...]:
    """Names of modalities and parameters. Raises BadList."""
    found = tuple(values or ())
    if len(found) > MOST_WORDS:
        raise BadList(f"more than {MOST_WORDS} of them", path, "too_large")
    for n, value in enumerate(found):
        if len(value) > 64 or not _is_word(value):
            raise BadList("expected a word of letters, digits, dots, dashes and underscores", f"{path}[{n}]")
    return found


@lru_cache(4_096)
def _is_word(value: str) -> bool:
    return WORD.fullmatch(value) is not None


def tokens(value: Any) -> int | None:
    """A vendor's count as we hold it: of a larger window as much as any count here may be; what is no count is unknown,
    as no list is refused for it."""
    return min(value, MOST_TOKENS) if type(value) is int and value >= 1 else None


def day(value: str | None, path: str) -> str | None:
    """A calendar day. Raises BadList."""
    if value is not None and not _DAY.fullmatch(value):
        raise BadList("expected a day as YYYY-MM-DD", path)
    return value


def usd(value: Any, path: str) -> str | None:
    """A price as `UsdPerUnit`; None for -1, which says that nobody knows before. Raises BadList."""
    found = _usd(value) if isinstance(value, str) and len(value) < 80 else NO_NUMBER
    if found == NO_NUMBER:
        raise BadList("expected a price as a decimal number in a string", path)
    if found == OUT_OF_RANGE:
        raise BadList("expected a price from 0 to 999,999,999 with at most 41 decimals, or -1", path)
    return found or None


NO_NUMBER, OUT_OF_RANGE = "no number", "out of range"


@lru_cache(4_096)
def _usd(value: str) -> str:
    """Lists repeat a few prices hundreds of times. '' for -1."""
    if not _DECIMAL.fullmatch(value):
        return NO_NUMBER
    exact = Decimal(value)
    if exact == -1:
        return ""
    text = format(exact, "f")
    plain = text.rstrip("0").rstrip(".") if "." in text else text
    if exact == 0:
        return "0"
    return plain if _USD.fullmatch(plain) else OUT_OF_RANGE


def unique(rows: list[Row]) -> tuple[Row, ...]:
    """A list that names a model twice was changed while it was read, or is not one. Raises BadList."""
    seen: dict[str, int] = {}
    for n, row in enumerate(rows):
        if seen.setdefault(row.name, n) != n:
            raise BadList(f"the id of entry {seen[row.name]} again", f"$.data[{n}].id")
    if len(rows) > MOST_ROWS:
        raise BadList(f"more than {MOST_ROWS} models", "$.data", "too_large")
    return tuple(rows)
