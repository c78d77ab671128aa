"""Intervals and tests beside published values and beside chance itself."""

from __future__ import annotations

import random
from math import exp

import pytest

from understudy.actors.benchmarker import stats


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
    assert stats.quantile(hist, 0.95, 1.5) == (1.5, 1.5, 1.5, 0.0)
    assert stats.quantile([0] * 24, 0.95, 1e9) is None


def test_an_hour_does_not_tell_how_much_hours_vary() -> None:
    few = {hour: (10.0 + hour, 10) for hour in range(stats.LEAST_BLOCKS - 1)}
    found = stats.mean(few, 1)
    assert found is not None and found.value == 1.15 and found.low is None and not found.se
    more = stats.mean({**few, 9: (19.0, 10)}, 1)
    assert more is not None and more.low is not None
