"""Politeness: whoever else works goes first. And the schedule: idle models only, each in its own time."""

from __future__ import annotations

from typing import Any

import pytest

from tests.actors.benchmarker.driven import NOON, Bench, echo, finished, suite, sums
from understudy.actors.benchmarker.manners import Manners, Room
from understudy.messages.base import Message
from understudy.messages.benchmarks import (
    BenchmarkBegun,
    BenchmarkMeasured,
    BenchmarkProgress,
    BenchmarkSchedule,
    BenchmarkScored,
    BenchmarksScheduled,
    CancelBenchmark,
    ScheduleBenchmarks,
)
from understudy.messages.buckets import HOUR_MS
from understudy.messages.generate import Failed
from understudy.messages.run import ModelLoad, RunnerBeat
from understudy.messages.step import Heard

MANNERS = Manners(share=0.5, pace_ms=500, quiet_ms=2_000)


def beat(model: str, in_flight: int = 0, waiting: int = 0) -> RunnerBeat:
    return RunnerBeat(instance="r", models={model: ModelLoad(slots=8, in_flight=in_flight, waiting=waiting)})


def test_alone_it_asks_as_fast_as_it_is_answered() -> None:
    room = Room()
    assert room.may("a", 8, False, 1, 0, MANNERS) == ""
    room.begin("a", 1.0)
    room.end("a", 2.0)
    assert room.may("a", 8, False, 1, 3, MANNERS) == ""


def test_never_more_than_its_share_of_a_model() -> None:
    room = Room()
    asked = 0
    while room.may("a", 8, False, 1, 10, MANNERS) == "":
        room.begin("a", 10)
        asked += 1
    assert asked == 4
    assert Room().may("a", 1, False, 1, 10, MANNERS) == ""  # one slot: one at a time


def test_others_in_the_greater_part_or_waiting_stop_it() -> None:
    for load, found in (((4, 0), ""), ((5, 0), "busy"), ((0, 1), "busy")):
        room = Room()
        room.hear(beat("a", *load), NOON)
        assert room.may("a", 8, False, 1, NOON, MANNERS) == found
        assert room.may("a", 8, False, 1, NOON + 10_000, MANNERS) == ""  # nothing was heard for long


def test_its_own_calls_are_not_others() -> None:
    room = Room()
    room.begin("a", NOON)
    room.hear(beat("a", 1), NOON + 100)
    room.end("a", NOON + 150)
    room.hear(beat("a", 1), NOON + 300)  # made before our call ended
    assert room.may("a", 8, True, 1, NOON + 310, MANNERS) == ""
    room.hear(beat("a", 1), NOON + 2_000)
    assert room.may("a", 8, True, 1, NOON + 2_010, MANNERS) == "busy"


def test_somebody_at_work_anywhere_slows_it() -> None:
    room = Room()
    room.used("other", NOON)
    room.begin("a", NOON)
    room.end("a", NOON + 50)
    assert room.may("a", 8, False, 1, NOON + 400, MANNERS) == "pace"
    assert room.may("a", 8, False, 1, NOON + 501, MANNERS) == ""
    assert room.may("a", 8, False, 1, NOON + 2_100, MANNERS) == ""


def test_a_model_of_this_machine_is_left_to_who_uses_it() -> None:
    room = Room()
    room.used("home", NOON)
    assert room.may("home", 8, True, 1, NOON + 1_900, MANNERS) == "busy"
    assert room.may("home", 8, True, 1, NOON + 2_100, MANNERS) == ""


def test_a_burst_waits_until_nobody_else_is_there() -> None:
    room = Room()
    room.hear(beat("a", 1), NOON)
    assert room.may("a", 8, False, 8, NOON + 1, MANNERS) == "busy"
    assert room.may("a", 8, False, 4, NOON + 1, MANNERS) == ""


def test_a_run_pauses_while_people_ask_and_says_so() -> None:
    bench = Bench(None)
    bench.files["./mine"] = suite(*sums(9))
    bench.order_run(models=("home",))
    bench.answer(bench.asked[0], echo(bench.order(bench.asked[0])))
    for _ in range(20):  # somebody talks to it all the time
        bench.somebody("home")
        while bench.asked:
            bench.answer(bench.asked[0], echo(bench.order(bench.asked[0])), ms=1)
        bench.tick(200)
    asked = len(bench.of(BenchmarkScored))
    assert asked <= 3
    said = [one for one in bench.told if isinstance(one, BenchmarkProgress)]
    assert said[-1].waits == "busy"
    for _ in range(30):
        bench.tick(200)
        while bench.asked:
            bench.answer(bench.asked[0], echo(bench.order(bench.asked[0])), ms=1)
    assert len(bench.of(BenchmarkScored)) == 9


def test_beside_people_on_another_model_it_keeps_its_pace() -> None:
    bench = Bench(None)
    bench.files["./mine"] = suite(*sums(40))
    bench.order_run()
    for _ in range(100):  # ten seconds
        bench.somebody("b")
        bench.feed(Heard(bench.now, "tta.obs.runner.beat.r", beat("b", 1)))
        while bench.asked:
            bench.answer(bench.asked[0], echo(bench.order(bench.asked[0])), ms=1)
        bench.tick(100)
    assert 9 <= len(bench.of(BenchmarkScored)) <= 12  # one a second, and the first at once


def judged_with(judge: str) -> Bench:
    rules = {"kind": "checks", "checks": [{"kind": "include", "words": ["fox"]}]}
    item = {"prompt": "p", "score": {"kind": "judged", "criteria": "be kind", "otherwise": rules}}
    bench = Bench(None)
    bench.files["./mine"] = suite(*({"id": f"x{n}", **item} for n in range(2)))
    bench.order_run(judge=judge)
    bench.answer(bench.asked[0], finished(bench.order(bench.asked[0]), "a fox"))
    return bench


def test_a_judge_is_left_to_who_uses_it_and_its_own_calls_are_not_others() -> None:
    bench = judged_with("home")
    (sent,) = bench.asked
    bench.feed(Heard(bench.now, "tta.obs.runner.beat.r", beat("home", 1)))
    bench.answer(sent, finished(bench.order(sent), '{"score": 3}'))
    assert bench.order(bench.asked[0]).model == "a"  # nobody else was there, so it goes on at once
    for _ in range(30):
        bench.somebody("home")
        while bench.asked:
            assert bench.order(bench.asked[0]).model != "home"
            bench.answer(bench.asked[0], finished(bench.order(bench.asked[0]), "a fox"), ms=1)
        bench.tick(200)
    said = [one for one in bench.told if isinstance(one, BenchmarkProgress)]
    assert said[-1].waits == "busy"
    bench.tick(200, 15)
    assert [bench.order(one).model for one in bench.asked] == ["home"]
    bench.answer(bench.asked[0], finished(bench.order(bench.asked[0]), '{"score": 4}'))
    assert bench.scores() == {"x0": 300_000, "x1": 400_000}


def test_a_judge_that_says_nothing_is_not_waited_for_for_ever() -> None:
    bench = judged_with("b")
    bench.tick(130_000)
    bench.tick(times=2)
    assert bench.scores() == {"x0": 1_000_000} and not bench.of(BenchmarkScored)[0].judged


# --- the schedule ----------------------------------------------------------------------------------------------------


def bench_with(every_h: float = 24.0, model: Any = echo, **settings: Any) -> Bench:
    bench = Bench(model, every_h=every_h, suites=("mine",), **settings)
    bench.files["mine"] = suite(*sums(2))
    return bench


def due(bench: Bench, **fields: Any) -> BenchmarkSchedule:
    found = bench.ask(ScheduleBenchmarks(**fields))
    assert isinstance(found, BenchmarkSchedule), found
    return found


def test_idle_models_without_a_price_are_run_in_their_time() -> None:
    bench = bench_with()
    first = due(bench).due
    assert {one.model for one in first} == {"a", "b", "home"}  # not the one with a price, nor that which embeds
    assert all(0.9 * 24 * HOUR_MS <= one.due_ms - NOON <= 1.1 * 24 * HOUR_MS for one in first)
    assert len({one.due_ms for one in first}) == 3  # jitter
    assert bench_with().ask(ScheduleBenchmarks()) == due(bench)  # the same for whoever asks
    bench.tick(HOUR_MS, 20)
    assert not bench.of(BenchmarkBegun)
    bench.tick(HOUR_MS / 4, 40)
    assert {one.model for one in bench.of(BenchmarkMeasured)} == {"a", "b", "home"}
    assert all(one.scheduled for one in bench.of(BenchmarkBegun))
    second = due(bench).due
    assert all(one.last_ms and one.due_ms > bench.now for one in second)
    assert {one.due_ms - one.last_ms for one in second} != {one.due_ms - NOON for one in first}


def test_a_model_in_use_waits_for_its_idle_minute() -> None:
    bench = bench_with()
    while bench.now - NOON < 30 * HOUR_MS:
        bench.tick(40_000)
        bench.somebody("a")
    assert {one.model for one in bench.of(BenchmarkMeasured)} == {"b", "home"}
    bench.tick(40_000, 3)
    assert "a" in {one.model for one in bench.of(BenchmarkMeasured)}


def test_without_a_word_of_the_operator_nothing_is_run() -> None:
    bench = bench_with(0)
    assert due(bench).due == ()
    bench.tick(HOUR_MS, 100)
    assert not bench.of(BenchmarkBegun)


def test_an_order_counts_more_than_the_topology_and_outlives_a_restart() -> None:
    bench = bench_with(0)
    found = due(bench, every_h=1.0, suites=("mine",), models=("b",))
    assert (found.by, found.every_h, [one.model for one in found.due]) == ("order", 1.0, ["b"])
    bench.start()
    assert due(bench) == found
    bench.tick(HOUR_MS / 4, 10)
    assert {one.model for one in bench.of(BenchmarkMeasured)} == {"b"}
    assert due(bench, every_h=0.0).due == ()
    assert [one.every_h for one in bench.of(BenchmarksScheduled)] == [1.0, 0.0]


def test_a_model_that_is_not_there_is_refused() -> None:
    said: Message = bench_with().ask(ScheduleBenchmarks(every_h=1.0, models=("b", "nobody")))
    assert isinstance(said, Failed) and (said.code, said.path) == ("unknown_model", "$.models[1]")


def test_a_suite_that_is_not_there_is_refused_and_holds_no_other_up() -> None:
    bench = bench_with()
    said: Message = bench.ask(ScheduleBenchmarks(every_h=1.0, suites=("mine", "standrad")))
    assert isinstance(said, Failed) and (said.code, said.path) == ("invalid", "$.suites[1]") and "standard" in said.text
    assert not bench.of(BenchmarksScheduled)
    typo = Bench(echo, every_h=1.0, suites=("aaa", "mine"))  # the topology's word is not looked up
    typo.files["mine"] = suite(*sums(2))
    typo.tick(HOUR_MS / 4, 20)
    assert {(one.model, one.suite) for one in typo.of(BenchmarkMeasured)} == {(m, "mine") for m in ("a", "b", "home")}


def test_what_was_cancelled_is_not_begun_again_at_once() -> None:
    bench = bench_with(model=None)
    while not bench.of(BenchmarkBegun):
        bench.tick(HOUR_MS / 4)
    first: BenchmarkBegun = bench.of(BenchmarkBegun)[0]
    bench.asked.clear()
    bench.ask(CancelBenchmark(bench_id=first.bench_id))
    bench.tick(40_000, 5)
    assert all(one.models != first.models for one in bench.of(BenchmarkBegun)[1:])
    (again,) = [one for one in due(bench).due if one.model == first.models[0]]
    assert again.last_ms == 0 and again.due_ms - bench.now > 20 * HOUR_MS


@pytest.mark.parametrize("times", [1, 3])
def test_the_same_time_is_begun_once(times: int) -> None:
    bench = bench_with(model=None)
    bench.tick(27 * HOUR_MS)
    for _ in range(times):
        bench.start()
        bench.tick(40_000, 2)
    assert len({one.bench_id for one in bench.of(BenchmarkBegun)}) == 1
