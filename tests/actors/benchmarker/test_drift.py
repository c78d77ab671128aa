"""Drift: found soon and said once, also after a crash; a daily cycle, another mix of tasks, an odd hour are none."""

from __future__ import annotations

import random
from math import cos, exp, pi

import msgspec
import pytest

from tests.actors.benchmarker.measured import H0, READ, Bench, ended, hourly
from understudy.actors.benchmarker import core
from understudy.actors.benchmarker.drift import Cell, Detector, DriftPlan
from understudy.messages.benchmarks import ModelDrifted
from understudy.messages.buckets import HOUR_MS
from understudy.messages.comparison import Figure
from understudy.messages.events import Event, FeedbackGiven
from understudy.messages.step import CaughtUp, Happened, Store, StoreFailed, Woke
from understudy.messages.wire import encode

WARM = 80  # hours of history
PLAN = DriftPlan()


def steady(bench: Bench, hours: int, start: int = H0, **more: float) -> None:
    """An hour after the other as usual: 60 calls, one of them fails."""
    for hour in range(start, start + hours):
        bench.tell(hourly(hour, "a", 60, 1, ms=1_000 + 10 * (hour % 5)))


def directions(bench: Bench) -> list[tuple[str, str, int]]:
    return [(e.figure, e.direction, e.since_ms // HOUR_MS - H0) for e in bench.said]


def test_doubled_latency_is_found_after_an_hour_or_two_and_its_end_as_well() -> None:
    bench = Bench()
    steady(bench, WARM)
    for hour in range(H0 + WARM, H0 + WARM + 10):
        bench.tell(hourly(hour, "a", 60, 1, ms=2_000))
    assert directions(bench) == [("latency_ms", "worse", WARM)]
    (worse,) = bench.said
    assert worse.until_ms - worse.since_ms <= 2 * HOUR_MS
    assert (round(worse.before, -2), worse.after, worse.n) == (
        1_000,
        2_000,
        59 * (worse.until_ms - worse.since_ms) // HOUR_MS,
    )
    steady(bench, 5, H0 + WARM + 10)
    assert directions(bench)[1:] == [("latency_ms", "recovered", WARM + 10)]
    assert round(bench.said[1].before) == 2_000


def test_ten_points_more_errors_are_found_within_two_hours() -> None:
    bench = Bench()
    steady(bench, WARM)
    for hour in range(H0 + WARM, H0 + WARM + 4):
        bench.tell(hourly(hour, "a", 100, 12, ms=1_000))
    assert directions(bench) == [("error_ratio", "worse", WARM)]
    assert bench.said[0].until_ms // HOUR_MS - H0 <= WARM + 2


def test_judgements_that_get_worse_are_a_drift_and_a_benchmark_is_no_judgement_of_people() -> None:
    bench = Bench()
    for hour in range(H0, H0 + WARM + 20):
        rating = 0.9 if hour < H0 + WARM else 0.5
        bench.tell(
            FeedbackGiven(at_ms=hour * HOUR_MS + n, run_id="r", rating=rating, model="a", task="t") for n in range(9)
        )
    assert [(figure, direction) for figure, direction, _ in directions(bench)] == [("score", "worse")]
    assert (round(bench.said[0].before, 2), round(bench.said[0].after, 2)) == (0.9, 0.5)


def test_nothing_is_said_before_there_is_a_history() -> None:
    bench = Bench()
    steady(bench, PLAN.warm_hours - 20)
    for hour in range(H0 + PLAN.warm_hours - 20, H0 + PLAN.warm_hours):
        bench.tell(hourly(hour, "a", 60, 30, ms=5_000))
    assert not bench.said


def test_more_of_a_slow_task_is_no_drift() -> None:
    bench = Bench()
    for hour in range(H0, H0 + WARM + 6):
        slow = 6 if hour < H0 + WARM else 54
        bench.tell([*hourly(hour, "a", 60 - slow, ms=500), *hourly(hour, "a", slow, ms=5_000, task="u")])
    assert not bench.said


def test_a_benchmarks_calls_are_no_drift() -> None:
    bench = Bench()
    for hour in range(H0, H0 + WARM + 6):
        bad, ms = (0, 900.0) if hour < H0 + WARM else (90, 50_000.0)  # a harder suite, say
        bench.tell([*hourly(hour, "a", 60, 1), *hourly(hour, "a", 100, bad, ms=ms, labels=("benchmark",))])
    assert not bench.said


def plain(figure: Figure, hours: int, value: float, seed: int, cycle: float = 0.0) -> list[list[Cell]]:
    """Hours of 100 calls as chance has them; `cycle`: how much more in the afternoon."""
    luck, found = random.Random(seed), list[list[Cell]]()
    for hour in range(hours):
        level = value * (1 + cycle * (0.5 - 0.5 * cos(2 * pi * hour / 24)))
        if figure == "error_ratio":
            total = float(sum(luck.random() < level for _ in range(100)))
        else:
            total = sum(level * exp(luck.gauss(0, 0.6)) for _ in range(100))
        found.append([Cell("t", 100, total)])
    return found


@pytest.mark.parametrize(("figure", "value"), [("latency_ms", 900.0), ("error_ratio", 0.04)])
def test_a_month_with_a_daily_cycle_has_hardly_a_false_alarm(figure: Figure, value: float) -> None:
    alarms = 0
    for seed in range(4):
        one = Detector()
        for hour, cells in enumerate(plain(figure, 720, value, seed, cycle=0.5)):
            found = one.observe(figure, H0 + hour, cells, PLAN)
            alarms += found is not None and found.direction == "worse"
    assert alarms <= 1


def test_without_its_profile_of_the_day_a_strong_cycle_would_be_a_drift() -> None:
    """The control of the one above: it is the profile that makes the difference."""

    class Flat(Detector):
        def _factor(self, hour: int) -> float:
            return 1.0

    def worse(one: Detector) -> int:
        cells = plain("error_ratio", 720, 0.05, 2, cycle=2)
        found = [one.observe("error_ratio", H0 + hour, of, PLAN) for hour, of in enumerate(cells)]
        return sum(of is not None and of.direction == "worse" for of in found)

    assert worse(Detector()) == 0 and worse(Flat()) >= 5


def test_one_odd_hour_is_no_drift_unless_it_is_overwhelming() -> None:
    def after(total: float) -> str:
        one = Detector()
        for hour, cells in enumerate([*plain("error_ratio", WARM, 0.05, 3), [Cell("t", 100, total)]]):
            one.observe("error_ratio", H0 + hour, cells, PLAN)
        return one.last.direction if one.last is not None else ""

    assert (after(18), after(40)) == ("", "worse")


@pytest.mark.parametrize("figure", ["error_ratio", "score"])
@pytest.mark.parametrize("share", [0.97, 1.0])
def test_what_has_always_been_as_bad_as_can_be_does_not_get_worse(figure: Figure, share: float) -> None:
    one, luck = Detector(), random.Random(4)
    for hour in range(400):
        bad = sum(luck.random() < share for _ in range(100))
        assert one.observe(figure, H0 + hour, [Cell("t", 100, bad)], PLAN) is None, hour


def test_what_stays_so_for_a_week_is_what_is_expected_then() -> None:
    bench = Bench()
    steady(bench, WARM)
    for hour in range(H0 + WARM, H0 + WARM + 200):
        bench.tell(hourly(hour, "a", 60, 1, ms=2_000))
    assert [direction for _, direction, _ in directions(bench)] == ["worse", "settled"]
    for hour in range(H0 + WARM + 200, H0 + WARM + 205):
        bench.tell(hourly(hour, "a", 60, 1, ms=4_000))
    assert [direction for _, direction, _ in directions(bench)] == ["worse", "settled", "worse"]


def test_a_model_that_nobody_asks_any_more_does_not_stay_marked_for_ever() -> None:
    bench = drifted(live=True)
    for hour in range(H0 + WARM + 6, H0 + WARM + PLAN.settle_hours + 3):
        bench.tell(hourly(hour, "b", 2))
    assert [direction for _, direction, _ in directions(bench)] == ["worse", "settled"]


# --- saying it once --------------------------------------------------------------------------------------------------


def drifted(live: bool) -> Bench:
    bench = Bench(live=live)
    steady(bench, WARM)
    for hour in range(H0 + WARM, H0 + WARM + 6):
        bench.tell(hourly(hour, "a", 60, 1, ms=3_000))
    return bench


def test_what_was_not_told_is_told_at_the_start_and_what_was_told_is_not_told_again() -> None:
    silent = drifted(live=False)
    assert not silent.said
    silent.feed(CaughtUp(silent.now, silent.seq))
    assert [(e.figure, e.direction) for e in silent.said] == [("latency_ms", "worse")]
    again = Bench(live=False)
    again.tell(silent.log[1:])
    again.feed(CaughtUp(again.now, again.seq))
    again.feed(Woke(again.now, core.SWEEP, 0))
    assert not again.said


def test_what_came_and_went_unsaid_is_not_announced_but_stands_in_the_trends() -> None:
    bench = drifted(live=False)
    steady(bench, 6, H0 + WARM + 6)
    bench.feed(CaughtUp(bench.now, bench.seq))
    assert not bench.said
    (trend,) = bench.trends().models
    assert [(one.figure, one.direction) for one in trend.drifts] == [
        ("latency_ms", "worse"),
        ("latency_ms", "recovered"),
    ]


def test_trends_of_a_window_tell_of_the_drift_in_it() -> None:
    bench = drifted(live=True)
    steady(bench, 24, H0 + WARM + 6)
    for end, hours, right in (
        (WARM + 30, 8, []),
        (WARM, 40, []),
        (WARM + 4, 2, ["worse"]),  # it was found before, and lasts
        (WARM + 30, 60, ["worse", "recovered"]),
    ):
        found = bench.trends(until_ms=(H0 + end) * HOUR_MS, window_ms=hours * HOUR_MS).models[0].drifts
        assert [one.direction for one in found] == right, (end, hours)


def test_a_quiet_log_closes_no_hour_but_the_clock_does() -> None:
    bench = Bench()
    steady(bench, WARM)
    bench.tell(hourly(H0 + WARM, "a", 60, 1, ms=9_000))
    assert not bench.said
    over = (H0 + WARM + 1) * HOUR_MS + bench.settings.grace_ms
    bench.feed(Woke(over - 1, core.SWEEP, 0))
    assert not bench.said
    bench.feed(Woke(over, core.SWEEP, 1))
    bench.feed(Woke(over + 60_000, core.SWEEP, 2))
    assert [(e.figure, e.direction) for e in bench.said] == [("latency_ms", "worse")]


def test_what_is_announced_after_days_of_silence_is_neither_repeated_nor_taken_back() -> None:
    """Its own fact is alone so far ahead of all before, and closes no hour yet."""
    bench = Bench(live=False)
    steady(bench, WARM)
    bench.tell(hourly(H0 + WARM, "a", 60, 1, ms=9_000))
    bench.now += 3 * 24 * HOUR_MS
    bench.feed(CaughtUp(bench.now, bench.seq))
    for n in range(3):
        bench.feed(Woke(bench.now + 30_000 * n, core.SWEEP, n))
    bench.tell(ended(int(bench.now) + n, ("b", "ok", 5.0)) for n in range(5))
    bench.feed(Woke(bench.now + 120_000, core.SWEEP, 9))
    assert [(e.figure, e.direction) for e in bench.said] == [("latency_ms", "worse")]
    assert bench.state.history.closed_h > H0 + WARM


def test_an_announcement_that_the_log_refused_is_made_again_under_the_same_id() -> None:
    bench = drifted(live=False)
    out = core.step(bench.state, CaughtUp(bench.now, bench.seq), bench.settings)
    (first,) = [e for e in out if isinstance(e, Store)]
    assert not [
        e for e in core.step(bench.state, Woke(bench.now, core.SWEEP, 0), bench.settings) if isinstance(e, Store)
    ]
    core.step(bench.state, StoreFailed(bench.now, first.msg_id, "bus_down"), bench.settings)
    out = core.step(bench.state, Woke(bench.now, core.SWEEP, 1), bench.settings)
    (second,) = [e for e in out if isinstance(e, Store)]
    assert second.msg_id == first.msg_id == f"drifted.a.latency_ms.{H0 + WARM}.worse"


def test_what_the_log_calls_worse_is_taken_back_once_where_its_hours_are_no_longer_in_the_log() -> None:
    """As after a new start without a snapshot, of a log whose retention has taken the time before."""
    kept = drifted(live=True).log
    rest = kept[kept.index(next(e for e in kept if isinstance(e, ModelDrifted))) :]
    again = Bench(live=False)
    again.tell(rest)
    again.feed(CaughtUp(again.now, again.seq))
    again.feed(Woke(again.now, core.SWEEP, 0))
    assert [(e.figure, e.direction, e.n) for e in again.said] == [("latency_ms", "settled", 0)]
    assert round(again.said[0].after, -2) == 3_000
    nothing = Bench(live=False)
    nothing.tell(rest[:1])
    nothing.feed(CaughtUp(nothing.now, nothing.seq))
    nothing.feed(Woke(nothing.now, core.SWEEP, 0))
    assert [(e.model, e.direction) for e in nothing.said] == [("a", "settled")]


def test_the_fold_is_the_same_whoever_was_live_while_it_happened() -> None:
    live, later = drifted(live=True), Bench(live=False)
    later.tell(live.log[1:])
    assert later.state.history == live.state.history
    assert live.state.history.told == {"a": {"latency_ms": "worse"}}


def test_a_drift_is_shown_in_a_comparison() -> None:
    (one,) = drifted(live=True).compare().models
    assert one.drifted == ("latency_ms",)


def test_an_event_of_another_actor_about_drift_is_obeyed() -> None:
    bench = Bench()
    said = ModelDrifted(
        at_ms=int(bench.now), model="a", figure="score", direction="worse", since_ms=0, until_ms=0, before=1, after=0
    )
    light = READ(encode(said))
    assert isinstance(light, Event)
    core.step(bench.state, Happened(bench.now, 99, light), bench.settings)
    assert bench.state.history.told == {"a": {"score": "worse"}}
    assert msgspec.json.encode(bench.state.history)
    bench.happen(ended(int(bench.now), ("a", "ok", 1)))
