"""Trends: points as the log has them, changes of level where they were made, slopes where there is one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from math import exp

import pytest

from tests.actors.benchmarker.measured import H0, Bench, hourly
from understudy.actors.benchmarker import changes
from understudy.actors.benchmarker.changes import Sample
from understudy.messages.buckets import HOUR_MS
from understudy.messages.events import RequestEnded


def days(
    count: int, ms: float, seed: int = 1, first: int = H0, growth: float = 0.0, errors: int = 1
) -> Iterator[RequestEnded]:
    luck = random.Random(seed)
    for hour in range(first, first + 24 * count):
        yield from hourly(
            hour, "a", 30, errors, ms=ms * (1 + growth) ** ((hour - first) / 24) * exp(luck.gauss(0, 0.05))
        )


def test_points_are_hours_or_days() -> None:
    bench = Bench()
    bench.tell([*hourly(H0, "a", 10, 2, ms=400), *hourly(H0 + 1, "a", 10, 0, ms=600)])
    (hours,) = bench.trends(points="hour").models
    assert [(p.at_ms // HOUR_MS, p.n, p.error_ratio, p.latency_ms) for p in hours.points] == [
        (H0, 10, 0.2, 400), (H0 + 1, 10, 0.0, 600)
    ]  # fmt: skip
    (day,) = bench.trends(points="day").models
    ((at, n, ratio),) = [(p.at_ms // HOUR_MS, p.n, p.error_ratio) for p in day.points]
    assert (at, n, ratio) == (H0 - H0 % 24, 20, 0.1)
    assert bench.trends(window_ms=24 * HOUR_MS).points == "hour" and bench.trends().points == "day"


def test_a_change_of_level_is_found_at_its_hour_with_the_means_on_both_sides() -> None:
    bench = Bench()
    bench.tell([*days(6, 1_000), *days(4, 2_000, 2, H0 + 144), *days(5, 1_000, 3, H0 + 240)])
    (trend,) = bench.trends().models
    assert [(c.figure, c.at_ms // HOUR_MS - H0) for c in trend.changes] == [("latency_ms", 144), ("latency_ms", 240)]
    rose, fell = trend.changes
    assert 980 < rose.before < 1_020 and 1_960 < rose.after < 2_040 and rose.after == fell.before
    assert rose.words.startswith("latency rose from ") and fell.words.startswith("latency fell from ")


def test_a_short_bump_in_a_long_window_is_found() -> None:
    bench = Bench()
    bench.tell([*days(15, 1_000, errors=1), *days(14, 1_000, 3, H0 + 372, errors=1)])
    for hour in range(H0 + 360, H0 + 372):
        bench.tell(hourly(hour, "a", 30, 9, ms=1_000))
    (trend,) = bench.trends().models
    assert [(c.figure, c.at_ms // HOUR_MS - H0) for c in trend.changes] == [("error_ratio", 360), ("error_ratio", 372)]


def test_chance_and_a_daily_cycle_are_no_changes() -> None:
    bench, luck = Bench(), random.Random(5)
    for hour in range(H0, H0 + 24 * 20):
        ms = (1_000 + 600 * (hour % 24 > 11)) * exp(luck.gauss(0, 0.05))
        bench.tell(hourly(hour, "a", 30, sum(luck.random() < 0.04 for _ in range(30)), ms=ms))
    (trend,) = bench.trends().models
    assert not trend.changes
    flat = changes.without_cycle([Sample(h, float(h % 24 > 11), 1.0) for h in range(240)])
    assert max(abs(one.value - 0.5) for one in flat[24:-24]) < 0.1


def test_failures_that_are_rare_are_no_changes_though_most_hours_are_equal() -> None:
    luck = random.Random(3)
    hours = [Sample(h, changes.stable(luck.random() < 0.2, 30), 30.0) for h in range(400)]
    assert changes.noise(hours) == 0.0
    assert changes.splits(hours, lambda *_: True) == []


def test_more_calls_are_not_fewer_errors() -> None:
    """One call an hour for five days, then sixty: both fail in 2 of 100."""
    claimed = 0
    for seed in range(12):
        bench, luck = Bench(), random.Random(seed)
        for hour in range(240):
            calls = 1 if hour < 120 else 60
            bench.tell(hourly(H0 + hour, "a", calls, sum(luck.random() < 0.02 for _ in range(calls))))
        claimed += any(change.figure == "error_ratio" for change in bench.trends().models[0].changes)
    assert claimed == 0


def test_a_slope_is_said_where_there_is_one() -> None:
    bench = Bench()
    bench.tell(days(12, 1_000, growth=0.03, seed=4))
    (trend,) = bench.trends().models
    latency, errors, *_ = trend.slopes
    assert latency.low <= 0.03 <= latency.high and latency.words.startswith("latency: rising (+2.9")
    assert errors.words.startswith("errors: steady")


def test_a_few_days_have_no_slope() -> None:
    bench = Bench()
    bench.tell(days(2, 1_000))
    assert not bench.trends().models[0].slopes


@pytest.mark.parametrize("points", [[], [Sample(1, 1.0, 1.0)], [Sample(n, 1.0, 1.0) for n in range(9)]])
def test_nothing_to_say_of_nothing(points: list[Sample]) -> None:
    assert changes.splits(changes.without_cycle(points), lambda *_: True) == []
