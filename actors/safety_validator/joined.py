"""Rules on joined text, where no white space marks a word's edge: the gaps that it left stand for the edges."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate

from understudy.actors.safety_validator.rules import Compiled, holds
from understudy.actors.safety_validator.views import WHITE, View


def parted(one: Compiled, view: View) -> Iterator[tuple[int, int]]:
    """What the rule takes of a joined view: begun where a word began, and parted somewhere within."""
    loose, data, at = one.loose, view.data, 0
    while loose is not None and (match := loose.search(data, at)) is not None:
        first, last = match.span()
        at = max(last, at + 1)
        begun, gaps, cut = _edges(view, first, last)
        if not begun or not gaps:
            continue
        start, end = match.span(1) if one.grouped else (first, last)
        if not one.grouped:
            end = _trimmed(one, data, [first, *gaps, last], cut)
            at = max(end, first + 1)
        if gaps[0] < end and holds(one, data[start:end], match):
            yield start, end


def _edges(view: View, first: int, last: int) -> tuple[bool, list[int], bool]:
    """Whether it begins with a word; where, within, white space was taken out; whether it ends inside a word."""
    before = view.parent.data if view.parent else b""
    start, end = view.parent_span(first, last)
    begun = start == 0 or before[start - 1] in WHITE or not _wordy(before[start - 1])
    cut = end < len(before) and _wordy(before[end - 1]) and _wordy(before[end])
    words = before[start:end].split()
    return begun, list(accumulate(map(len, words), initial=first))[1:-1], cut


def _trimmed(one: Compiled, data: bytes, edges: list[int], cut: bool) -> int:
    """Give words back that only followed, and part of a word: as long as what stays is still whole to the pattern."""
    while len(edges) > 2:
        piece = data[edges[-2] : edges[-1]]
        if not cut and (len(piece) < 2 or not _word(piece)):
            break
        if one.loose is None or one.loose.fullmatch(data[edges[0] : edges[-2]]) is None:
            break
        edges.pop()
        cut = False
    return edges[-1]


def _word(piece: bytes) -> bool:
    bare = piece.rstrip(b".,;:!?)\"'")
    return bare.isalpha() and (len(bare) == 1 or bare[1:].islower())


def _wordy(byte: int) -> bool:
    return byte == 0x5F or chr(byte).isalnum()
