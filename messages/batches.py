"""Long lists in parts that fit into one message each. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

T = TypeVar("T")


def batches(items: Iterable[T], most_bytes: int) -> list[tuple[T, ...]]:
    """In order, so many in each that together they take at most `most_bytes` as JSON; one that is larger goes alone."""
    found: list[list[T]] = []
    size = most_bytes
    for item in items:
        more = len(msgspec.json.encode(item)) + 1  # the comma
        if size + more > most_bytes:
            found.append([])
            size = 0
        found[-1].append(item)
        size += more
    return [tuple(part) for part in found]
