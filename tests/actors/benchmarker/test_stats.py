"""Intervals and tests beside published values and beside chance itself."""

from __future__ import annotations

import random
from math import comb, exp, log

import pytest

from understudy.actors.benchmarker import changes, stats


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_is_as_newcombe_has_it(hits: int, n: int, low: float, high: float) -> None:
    """Newcombe, Statistics in Medicine 17 (1998), table I, method 3."""
    assert [round(one, 4) for one in stats.wilson(hits, n)] == [low, high]


def test_holm_multiplies_the_smallest_most_and_never_goes_back() -> None:
    assert stats.holm([0.01, 0.04, 0.03]) == [0.03, 0.06, 0.06]
    assert stats.holm([]) == []


def test_the_interval_of_a_mean_holds_the_true_one_as_often_as_it_says() -> None:
    luck, held = random.Random(1), 0
    for _ in range(120):
        sums = {hour: (sum(exp(luck.gauss(0, 0.5)) for _ in range(20)), 20) for hour in range(60)}
        found = stats.mean(sums, 1)
        assert found is not None and found.low is not None and found.high is not None
        held += found.low <= exp(0.125) <= found.high
    assert 0.88 <= held / 120 <= 1


def test_two_equal_shares_are_told_apart_as_rarely_as_is_said() -> None:
    luck, told = random.Random(2), 0
    for _ in range(400):
        a, b = (sum(luck.random() < 0.05 for _ in range(500)) for _ in range(2))
        told += stats.proportions(a, 500, b, 500) < 0.05
    assert told / 400 <= 0.09


def test_a_quantile_has_the_interval_of_its_ranks() -> None:
    hist = [0] * 24
    hist[10] = 1_000
    found = stats.quantile(hist, 0.95, 1e9)
    assert found is not None and found.low is not None and found.high is not None
    assert found.low < found.value < found.high
    assert stats.quantile(hist, 0.95, 1.5) == stats.Range(1.5, 1.5, 1.5)
    assert stats.quantile([0] * 24, 0.95, 1e9) is None


def test_an_hour_does_not_tell_how_much_hours_vary() -> None:
    few = {hour: (10.0 + hour, 10) for hour in range(stats.LEAST_BLOCKS - 1)}
    found = stats.mean(few, 1)
    assert found is not None and found.value == 1.15 and found.low is None and not found.se
    more = stats.mean({**few, 9: (19.0, 10)}, 1)
    assert more is not None and more.low is not None


def hours(luck: random.Random, count: int) -> stats.Range:
    """A mean over hours that differ by more than their calls."""
    found = stats.mean({hour: (20 * exp(luck.gauss(0, 0.3)), 20) for hour in range(count)}, 1)
    assert found is not None
    return found


@pytest.mark.parametrize("count", [5, 8])
def test_few_hours_hold_the_true_mean_and_tell_equal_models_apart_as_rarely_as_is_said(count: int) -> None:
    luck, held, told = random.Random(7), 0, 0
    for _ in range(300):
        a, b = hours(luck, count), hours(luck, count)
        assert a.low is not None and a.high is not None
        held += a.low <= exp(0.045) <= a.high
        told += stats.welch(log(a.value) - log(b.value), a.log_se, a.blocks, b.log_se, b.blocks) < 0.05
    assert held / 300 >= 0.89 and told / 300 <= 0.075


def test_a_slope_of_four_days_is_claimed_as_rarely_as_is_said() -> None:
    luck, claimed = random.Random(3), 0
    for _ in range(1_000):
        found = changes.slope([(day, luck.gauss(0, 1), 1.0) for day in range(4)])
        assert found is not None
        claimed += found[1] > 0 or found[2] < 0
    assert claimed / 1_000 <= 0.07


def test_students_t_is_as_tables_have_it() -> None:
    """Two-sided 95 % points, as in any table of Student's t."""
    for freedom, right in ((4, 2.776), (9, 2.262), (29, 2.045), (100, 1.984)):
        assert abs(stats.student(stats.Z, freedom) - right) / right < 0.01
    same = stats.welch(stats.student(stats.Z, 8), 0.5**0.5, 5, 0.5**0.5, 5)  # 4 and 4 degrees of freedom
    assert abs(same - 0.05) < 1e-4


@pytest.mark.parametrize(("a", "n", "b", "m"), [(1, 30, 500, 10**6), (3, 10, 15, 20), (2, 30, 0, 900), (0, 5, 0, 9)])
def test_shares_of_which_few_are_expected_are_tested_exactly(a: int, n: int, b: int, m: int) -> None:
    """One failure of 30 calls beside 500 of a million would be 8 standard errors."""

    def ways(x: int) -> int:
        return comb(n, x) * comb(m, a + b - x)

    if m > 1_000:
        assert abs(stats.proportions(a, n, b, m) - (1 - (1 - 501 / 1_000_030) ** 30)) < 1e-4
    else:
        right = sum(ways(x) for x in range(a + b + 1) if ways(x) <= ways(a)) / comb(n + m, a + b)
        assert abs(stats.proportions(a, n, b, m) - right) < 1e-9
