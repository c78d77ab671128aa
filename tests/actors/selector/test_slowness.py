"""The histogram of first tokens: exact bounds, whole numbers, old counts fade, and it survives a snapshot."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.selector.slowness import ENOUGH, MOST, Slowness, bound_of, bucket_of

MS = st.floats(0.01, 1e8)


@given(MS)
def test_a_bound_is_above_by_an_eighth_at_most(ms: float) -> None:
    assert ms < bound_of(bucket_of(ms)) <= ms * 1.125 * (1 + 1e-9)


@given(MS, MS)
def test_longer_is_never_a_lower_bucket(one: float, other: float) -> None:
    assert (bucket_of(one) <= bucket_of(other)) or one > other


def test_too_few_say_nothing_and_zero_is_a_duration() -> None:
    found = Slowness()
    for n in range(ENOUGH):
        assert found.p95_ms() is None
        found.add(0.0 if n == 0 else 10.0)
    assert 10.0 < (found.p95_ms() or 0) <= 11.25


@given(st.lists(MS, min_size=ENOUGH, max_size=MOST - 1))
def test_ninety_five_of_a_hundred_are_below(times: list[float]) -> None:
    found = Slowness()
    for ms in times:
        found.add(ms)
    p95 = found.p95_ms()
    assert p95 is not None and sum(ms < p95 for ms in times) >= 0.95 * len(times) - 1


def test_one_in_twenty_that_is_slow_is_not_the_percentile() -> None:
    found = Slowness()
    for n in range(10 * MOST):
        found.add(900.0 if n % 20 == 0 else 10.0)
        assert n < ENOUGH or (found.p95_ms() or 0) < 12, n


def test_what_is_old_fades() -> None:
    found = Slowness()
    for ms in [1_000.0] * 5 * MOST + [10.0] * 6 * MOST:
        found.add(ms)
    assert (found.p95_ms() or 0) < 12 and found.total < MOST


@given(st.lists(MS, max_size=2 * MOST))
def test_the_same_history_is_the_same_bytes_and_goes_on_the_same_from_a_snapshot(times: list[float]) -> None:
    one, other = Slowness(), Slowness()
    for ms in times:
        one.add(ms)
        other.add(ms)
        other = msgspec.json.decode(msgspec.json.encode(other), type=Slowness)
    assert msgspec.json.encode(one) == msgspec.json.encode(other)


@given(st.lists(st.floats(0.01, 80.0), max_size=60), st.lists(st.floats(120.0, 1e4), max_size=3))
def test_who_was_given_up_after_a_moment_is_not_as_quick_as_that(short: list[float], long: list[float]) -> None:
    """Nor is one of whom nothing else is known; who was waited for in vain is slow."""
    found, fresh = Slowness(), Slowness()
    for _ in range(30):
        found.add(100.0)
    before = found.p95_ms() or 0
    for ms in short + long:
        found.add_at_least(ms)
        fresh.add_at_least(ms)
    assert (found.p95_ms() or 0) >= before and found.total == 30 + len(long) and not fresh.total
