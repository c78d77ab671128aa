"""Windows of time: UTC days and months and their ends."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.cost_ledger.windows import Place, day_of, kind_of, month_of, place_of, places


def ms(*when: int) -> int:
    return int(datetime(*when, tzinfo=UTC).timestamp() * 1000)  # type: ignore[misc, arg-type]


@pytest.mark.parametrize(
    ("at_ms", "day", "day_end", "month", "month_end"),
    [
        (ms(2026, 11, 22, 13, 5), "2026-11-22", ms(2026, 11, 23), "2026-11", ms(2026, 12, 1)),
        (ms(2026, 12, 31, 23, 59, 59) + 999, "2026-12-31", ms(2027, 1, 1), "2026-12", ms(2027, 1, 1)),
        (ms(2027, 1, 1), "2027-01-01", ms(2027, 1, 2), "2027-01", ms(2027, 2, 1)),
        (ms(2028, 2, 28, 23), "2028-02-28", ms(2028, 2, 29), "2028-02", ms(2028, 3, 1)),
        (ms(2028, 2, 29), "2028-02-29", ms(2028, 3, 1), "2028-02", ms(2028, 3, 1)),
        (ms(2027, 2, 28, 23, 59, 59), "2027-02-28", ms(2027, 3, 1), "2027-02", ms(2027, 3, 1)),
        (ms(2026, 1, 31), "2026-01-31", ms(2026, 2, 1), "2026-01", ms(2026, 2, 1)),
        (0, "1970-01-01", ms(1970, 1, 2), "1970-01", ms(1970, 2, 1)),
    ],
)
def test_a_window_ends_where_the_next_begins(at_ms: int, day: str, day_end: int, month: str, month_end: int) -> None:
    assert day_of(at_ms) == (day, day_end)
    assert month_of(at_ms) == (month, month_end)


@given(at_ms=st.integers(0, 4_102_444_800_000))
def test_every_moment_is_in_exactly_one_window(at_ms: int) -> None:
    for window in (day_of, month_of):
        label, end = window(at_ms)
        assert end > at_ms and window(end - 1) == (label, end) and window(end)[0] != label


def test_what_an_attempt_is_counted_in() -> None:
    at = ms(2026, 11, 22)
    found = places("org/m:free", "lab", "u1", "c1", at)
    assert len(found) == 11 and len(places("m", "lab", "", "", at)) == 8
    assert found[Place("conversation", "c1", "conversation", "life")] == 0
    assert found[Place("model", "org/m:free", "month", "2026-11")] == ms(2026, 12, 1)
    assert all(place_of(place.name()) == place for place in found)
    assert all(kind_of(place.name()) == ((place.scope, place.window), place.key) for place in found)
    assert not [place for place in places("m", "lab", "u1", "", at) if place.scope == "conversation"]


@pytest.mark.parametrize("read", [place_of, kind_of])
@pytest.mark.parametrize("name", ["nobody 2026-11-22 u1", "user yesterday u1"])
def test_a_name_of_no_account_is_none(read: Any, name: str) -> None:
    with pytest.raises(KeyError):
        read(name)
