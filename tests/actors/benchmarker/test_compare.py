"""Comparisons: figures as the log has them, intervals, verdicts, and no claim where there is too little to make one."""

from __future__ import annotations

from tests.actors.benchmarker.measured import H0, Bench, ended, hourly, topology
from understudy.messages.buckets import HOUR_MS
from understudy.messages.comparison import CompareModels, Trends
from understudy.messages.events import FeedbackGiven
from understudy.messages.generate import Failed


def two(a_errors: int, b_errors: int, hours: int = 10, **more: float) -> Bench:
    """Two models with 100 calls in each of some hours."""
    bench = Bench()
    for hour in range(H0, H0 + hours):
        bench.tell(hourly(hour, "a", 100, a_errors, ms=1_000 + 7 * (hour % 3)))
        bench.tell(hourly(hour, "b", 100, b_errors, ms=more.get("b_ms", 3_000) + 11 * (hour % 3)))
    return bench


def test_figures_of_a_model() -> None:
    bench = two(2, 9)
    found = {one.model: one for one in bench.compare().models}
    a = found["a"]
    assert (a.attempts, a.errors) == (1_000, {"server": 20})
    assert a.error_ratio is not None and a.latency_ms is not None and a.p95_ms is not None
    assert a.error_ratio.value == 0.02 and a.error_ratio.low is not None and a.error_ratio.high is not None
    assert 0.012 < a.error_ratio.low < 0.02 < a.error_ratio.high < 0.032
    assert 1_000 <= a.latency_ms.value <= 1_014 and a.p95_ms.value < 1_132  # its bin ends there
    assert a.verdicts == {"max_error_ratio": "ok", "max_response_ms": "ok"}
    assert found["b"].verdicts["max_error_ratio"] == "fails"
    assert [one.model for one in bench.compare().models] == ["a", "b"]


def test_a_threshold_inside_the_interval_is_undecided_and_the_topology_sets_it() -> None:
    assert {one.model: one.verdicts["max_error_ratio"] for one in two(5, 5).compare().models}["a"] == "undecided"
    bench = Bench(topology_of=topology(thresholds={"max_error_ratio": 0.5, "max_response_ms": 10}))
    bench.tell(hourly(H0, "a", 100, 20))
    (one,) = bench.compare().models
    assert one.verdicts == {"max_error_ratio": "ok", "max_response_ms": "fails"}
    assert bench.compare().thresholds.max_error_ratio == 0.5


def test_differences_are_said_with_figures_and_the_number_of_comparisons() -> None:
    words = {pair.figure: pair for pair in two(1, 5).compare().pairs}
    assert words["error_ratio"].significant
    assert words["error_ratio"].words.startswith("a fails less often than b: 1.0 % against 5.0 %, significant at 95 %")
    assert "Holm over 1" in words["error_ratio"].words
    assert words["latency_ms"].words.startswith("a answers faster than b: 1,007 ms against 3,011 ms, significant")


def test_equal_models_differ_in_nothing() -> None:
    assert not any(pair.significant for pair in two(3, 3, b_ms=1_000).compare().pairs if pair.figure == "error_ratio")


def test_nothing_is_claimed_of_too_few() -> None:
    bench = Bench()
    bench.tell([*hourly(H0, "a", 12, 12), *hourly(H0, "b", 500)])
    (pair,) = [pair for pair in bench.compare().pairs if pair.figure == "error_ratio"]
    assert not pair.significant and pair.p is None
    assert pair.words == "b and a: too few to compare (12 calls of a); 0.0 % against 100.0 %"
    (few,) = [one for one in bench.compare().models if one.model == "a"]
    assert not few.verdicts


def test_judgements_are_compared_and_marked() -> None:
    bench, at = Bench(), H0 * HOUR_MS
    for n in range(60 * 5):
        for model, rating in (("a", 0.9 if n % 3 else 0.8), ("b", 0.5 if n % 2 else 0.3)):
            bench.happen(FeedbackGiven(at_ms=at + n * HOUR_MS // 30, run_id="r", rating=rating, model=model, task="t"))
    found = {one.model: one for one in bench.compare().models}
    assert (found["a"].verdicts["min_quality"], found["b"].verdicts["min_quality"]) == ("ok", "fails")
    assert found["a"].ratings == 300
    (pair,) = bench.compare().pairs
    assert pair.significant and pair.words.startswith("a is judged better than b: 0.87 against 0.40")


def test_a_window_and_a_task_are_kept_to() -> None:
    bench = Bench()
    bench.tell([*hourly(H0, "a", 5), *hourly(H0 + 50, "a", 7, task="u"), ended((H0 + 50) * HOUR_MS, ("b", "ok", 5))])
    (day,) = [one for one in bench.compare(window_ms=24 * HOUR_MS).models if one.model == "a"]
    assert day.attempts == 7
    assert {one.model: one.attempts for one in bench.compare(task="t").models} == {"a": 5, "b": 1}
    assert [one.model for one in bench.compare(until_ms=(H0 + 1) * HOUR_MS).models] == ["a"]


def test_a_window_that_ends_with_an_hour_takes_nothing_of_the_next() -> None:
    bench = Bench()
    bench.tell([*hourly(H0, "a", 3), *hourly(H0 + 1, "a", 5), *hourly(H0 + 2, "a", 7)])
    until_ms = (H0 + 2) * HOUR_MS
    for asked, right in ((until_ms, 5), (until_ms + 1, 7), (until_ms - 1, 5)):
        found = bench.compare(until_ms=asked, window_ms=HOUR_MS)
        assert (found.models[0].attempts, found.until_ms - found.from_ms) == (right, HOUR_MS)
        (trend,) = bench.trends(until_ms=asked, window_ms=HOUR_MS).models
        assert [point.n for point in trend.points] == [right]


def test_an_unknown_model_or_task_is_refused_with_its_path_and_what_there_is() -> None:
    bench = two(1, 1, hours=1)
    for ask in (CompareModels(models=("a", "z")), Trends(models=("a", "z"))):
        failed = bench.ask(ask)
        assert isinstance(failed, Failed) and (failed.code, failed.path) == ("unknown_model", "$.models[1]")
        assert "a, b, c" in failed.text
    failed = bench.ask(CompareModels(task="z"))
    assert isinstance(failed, Failed) and (failed.code, failed.path) == ("unknown_task", "$.task")


def rated(bench: Bench, model: str, ratings: list[float], hours: int) -> None:
    """Eight judgements an hour."""
    for n in range(8 * hours):
        at_ms = (H0 + n // 8) * HOUR_MS + n % 8
        bench.happen(FeedbackGiven(at_ms=at_ms, run_id="r", rating=ratings[n % len(ratings)], model=model, task="t"))


def test_hours_without_any_praise_do_not_make_a_difference_significant() -> None:
    """Thumbs, nearly all of them down: 2 of 40 beside 6 of 40 is what chance does."""
    bench = Bench()
    rated(bench, "a", [*[0.0] * 38, 1.0, 1.0], 5)
    rated(bench, "b", [*[0.0] * 15, 1.0, 1.0, *[0.0] * 20, 1.0, 1.0, 1.0], 5)
    (pair,) = bench.compare().pairs
    assert pair.p is not None and not pair.significant, pair


def test_judgements_that_never_vary_are_compared_with_those_that_do() -> None:
    bench = Bench()
    rated(bench, "a", [1.0], 6)
    rated(bench, "b", [0.5, 0.3, 0.4], 6)
    (pair,) = bench.compare().pairs
    assert pair.significant and pair.better == "a"
    never = Bench()
    rated(never, "a", [1.0], 5)
    rated(never, "b", [0.5], 5)
    (pair,) = never.compare().pairs
    assert pair.p == 2 / 252  # five hours of ten are these five, or the other five
    rated(never, "c", [0.5], 5)
    equal = next(pair for pair in never.compare().pairs if {pair.better, pair.worse} == {"b", "c"})
    assert equal.p == 1.0 and not equal.significant


def test_forty_fast_answers_do_not_say_that_95_of_100_are() -> None:
    bench = Bench()
    bench.tell([*hourly(H0, "a", 40), *hourly(H0, "b", 40, ms=9_000), *hourly(H0, "c", 100)])
    found = {one.model: one for one in bench.compare().models}
    a = found["a"].p95_ms
    assert a is not None and a.low is not None and a.high is None
    words = {model: one.verdicts["max_response_ms"] for model, one in found.items()}
    assert words == {"a": "undecided", "b": "fails", "c": "ok"}
