"""Long lists in parts: all of it, in order, none too large that could be smaller."""

from __future__ import annotations

from itertools import pairwise

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from understudy.messages.batches import batches

MOST = 60


@given(st.lists(st.text(max_size=MOST)))
def test_the_parts_are_the_list_in_its_order_each_as_full_as_may_be(items: list[str]) -> None:
    parts = batches(items, MOST)

    assert [one for part in parts for one in part] == items
    assert all(parts)
    assert all(len(part) == 1 or _bytes(part) <= MOST for part in parts)
    assert all(_bytes((*part, after[0])) > MOST for part, after in pairwise(parts))


def _bytes(part: tuple[str, ...]) -> int:
    return sum(len(msgspec.json.encode(one)) + 1 for one in part)
