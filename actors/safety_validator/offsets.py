"""The ways back: where each byte of a view stood in the text that the view was made of.

Made only when something was found, and small beside the text: a hostile text of megabytes must not cost gigabytes.
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Generic, Protocol, TypeVar

BLOCK = 256
Text = TypeVar("Text", str, bytes)


class Map(Protocol):
    """Where the byte at `at` of a view began and ended in the text before."""

    def span(self, at: int) -> tuple[int, int]:
        """Start and end."""
        ...


class Blocks(Generic[Text]):
    """For what is undone character by character: sizes are kept per block, and counted again within one.

    `size` tells how many bytes of the view a stretch of the text before became; it adds up over stretches.
    """

    def __init__(self, text: Text, size: Callable[[Text], int]) -> None:
        self._text, self._size = text, size
        sizes = (size(text[at : at + BLOCK]) for at in range(0, len(text), BLOCK))
        self._begins = array("q", accumulate(sizes, initial=0))

    def span(self, at: int) -> tuple[int, int]:
        """The character from which the byte at `at` came."""
        block = bisect_right(self._begins, at) - 1
        low, high = block * BLOCK, min(block * BLOCK + BLOCK, len(self._text))
        start, left = low, at - self._begins[block]
        while high - low > 1:  # the last character before which at most `left` bytes stand
            middle = (low + high) // 2
            low, high = (middle, high) if self._size(self._text[start:middle]) <= left else (low, middle)
        return low, low + 1


class Escapes:
    """For escapes, each of which became one byte; all between them stayed."""

    def __init__(self, escapes: Iterable[re.Match[bytes]]) -> None:
        self._starts, self._ends = array("q"), array("q")
        for found in escapes:
            self._starts.append(found.start())
            self._ends.append(found.end())
        shrunk = accumulate((end - start - 1 for start, end in zip(self._starts, self._ends, strict=True)), initial=0)
        self._begins = array("q", (start - less for start, less in zip(self._starts, shrunk, strict=False)))

    def span(self, at: int) -> tuple[int, int]:
        """The escape, or the byte itself."""
        place = bisect_right(self._begins, at) - 1
        if place < 0:
            return at, at + 1
        if at == self._begins[place]:
            return self._starts[place], self._ends[place]
        start = self._ends[place] + at - self._begins[place] - 1
        return start, start + 1


class Runs:
    """For encoded runs, decoded one after the other with a line end between two."""

    def __init__(self, runs: Sequence[Map], sizes: Iterable[int]) -> None:
        self._runs = runs
        self._begins = array("q", accumulate((size + 1 for size in sizes), initial=0))

    def span(self, at: int) -> tuple[int, int]:
        """The digits that hold the byte; of a line end, those before it."""
        run = bisect_right(self._begins, at) - 1
        last = self._begins[run + 1] - 2 - self._begins[run]
        return self._runs[run].span(max(0, min(at - self._begins[run], last)))
