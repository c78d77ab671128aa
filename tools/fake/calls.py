"""Tool calls as the fake makes them: pieces of arguments in the order in which they are sent."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

PIECE_CHARS = 7


class Call(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One call of a tool; `arguments` goes out as it is, JSON or not."""

    name: Annotated[str, Meta(min_length=1)]
    arguments: str = "{}"


class Fragment(Struct, frozen=True, kw_only=True):
    """A piece of a call. The first one of a call is `opening` and holds no arguments."""

    index: int
    id: str
    name: str
    arguments: str = ""
    opening: bool = False
    closing: bool = False


def fragments(calls: tuple[Call, ...], interleave: bool = False) -> tuple[Fragment, ...]:
    """Cut calls into pieces: one call after the other, or one piece of each in turn."""
    rows = [_row(index, call) for index, call in enumerate(calls)]
    if not interleave:
        return tuple(piece for row in rows for piece in row)
    longest = max(map(len, rows), default=0)
    return tuple(row[n] for n in range(longest) for row in rows if n < len(row))


def _row(index: int, call: Call) -> list[Fragment]:
    text, name, call_id = call.arguments, call.name, f"call_fake_{index}"
    cuts = [text[at : at + PIECE_CHARS] for at in range(0, len(text), PIECE_CHARS)] or [""]
    last = len(cuts) - 1
    opening = Fragment(index=index, id=call_id, name=name, opening=True)
    pieces = [
        Fragment(index=index, id=call_id, name=name, arguments=piece, closing=n == last) for n, piece in enumerate(cuts)
    ]
    return [opening, *pieces]
