"""Every benchmark comes to its end: whatever is taken away, stored late, ordered twice or refused by the log."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from tests.actors.benchmarker.driven import Bench, echo, failed, finished, suite, sums, topology
from understudy.messages.base import Message
from understudy.messages.benchmarks import (
    BenchmarkCancelled,
    BenchmarkDone,
    BenchmarkMeasured,
    BenchmarkProgress,
    CancelBenchmark,
)
from understudy.messages.events import TopologyApplied
from understudy.messages.generate import Failed, Generate
from understudy.messages.step import Asked, StoreFailed

MILLION = 1_000_000


def state_of(bench: Bench, bench_id: str = "bench") -> str:
    return bench.state.history.runs.entries[bench_id].state


def cancel(bench: Bench, bench_id: str = "bench") -> None:
    ask = CancelBenchmark(bench_id=bench_id)
    bench.feed(Asked(bench.now, "c", "tta.ask.benchmark.cancel", "_INBOX_A.operator.q", ask))


@pytest.mark.parametrize("price", [None, 1.0])
def test_a_model_that_goes_while_an_item_waits_to_be_asked_again(price: float | None) -> None:
    def overloaded(ask: Generate) -> Message:
        return failed("overloaded") if ask.messages[-1].content == "Say 1." else echo(ask)

    bench = Bench(overloaded)
    bench.order_run()
    whole = topology()
    models = {name: one for name, one in whole.models.items() if name != "a"}
    if price is not None:
        models["a"] = replace(whole.models["a"], usd_per_mtok_out=price)
    bench.happen(TopologyApplied(at_ms=int(bench.now), hash="h2", body=replace(whole, models=models, aliases={})))
    bench.tick(times=5)
    why = "skipped price" if price else "skipped unknown_model"
    assert bench.scores() == {"n0": MILLION, "n1": why, "n2": why}
    assert state_of(bench) == "finished"


def test_what_is_asked_again_waits_for_others_too() -> None:
    bench = Bench(None)
    bench.order_run(models=("home",))
    bench.answer(bench.asked[0], failed("overloaded"))
    for _ in range(40):
        bench.somebody("home")
        bench.tick()
    assert not bench.asked
    bench.tick(times=30)
    assert len(bench.asked) == 1


def test_a_suite_is_kept_no_longer_than_it_is_needed() -> None:
    bench = Bench(echo)
    for n in range(3):
        bench.order_run(f"run{n}")
    assert state_of(bench, "run2") == "finished" and not bench.state.work.suites


def test_an_item_may_have_any_name() -> None:
    bench = Bench(echo)
    bench.files["./mine"] = suite({"id": "measured", "prompt": "Say 1.", "score": {"kind": "number", "value": 1}})
    bench.order_run()
    assert bench.scores() == {"measured": MILLION} and len(bench.of(BenchmarkMeasured)) == 1


def test_nothing_is_asked_while_its_end_is_on_its_way_to_the_log() -> None:
    bench = Bench(None)
    bench.order_run()
    bench.held = []
    bench.asked.clear()
    cancel(bench)
    bench.tick(times=10)
    assert not bench.asked


def test_what_was_scored_before_its_end_counts_though_it_is_stored_after() -> None:
    bench = Bench(None)
    bench.order_run()
    bench.held = []
    bench.answer(bench.asked[0], echo(bench.order(bench.asked[0])))
    cancel(bench)
    held, bench.held = bench.held, None
    for store in reversed(held):
        bench.take(store)
    assert state_of(bench) == "cancelled"
    bench.asked.clear()
    asked: list[str] = []

    def model(ask: Generate) -> Message:
        asked.append(ask.messages[-1].content)
        return echo(ask)

    bench.model = model
    bench.order_run("again", models=(), resume="bench")
    assert state_of(bench) == "finished" and asked == ["Say 1.", "Say 2."]


def test_the_end_stands_though_an_order_to_end_it_was_stored_before() -> None:
    bench, late = Bench(echo), Bench(None)
    for one in (bench, late):
        one.files["./mine"] = suite(*sums(1))
        one.order_run()
    scored, measured = bench.log[-2:]
    for event in (BenchmarkCancelled(at_ms=int(late.now), bench_id="bench", reason="ordered"), scored, measured):
        late.happen(event)
    assert state_of(late) == "finished"


def test_one_order_that_comes_twice_runs_once_and_holds_nobody_up() -> None:
    bench = Bench(echo)
    for _ in range(2):
        bench.order_run()
        assert state_of(bench) == "finished"
    assert len(bench.of(BenchmarkMeasured)) == 1
    bench.order_run("next")
    assert state_of(bench, "next") == "finished"


def test_who_asks_again_from_one_place_is_told_once() -> None:
    bench = Bench(None)
    bench.order_run()
    for n in range(3):
        bench.order_run(f"again{n}", models=(), resume="bench")
    bench.told.clear()
    bench.tick(2_000)
    assert sum(isinstance(one, BenchmarkProgress) for one in bench.told) == 1
    bench.model = echo
    for sent in list(bench.asked):
        bench.answer(sent, finished(bench.order(sent), "0"))
    assert sum(isinstance(one, BenchmarkDone) for one in bench.told) == 1


def test_an_end_that_the_log_refuses_is_said() -> None:
    bench = Bench(None)
    bench.order_run()
    bench.held = []
    cancel(bench)
    bench.told.clear()
    bench.feed(StoreFailed(bench.now, bench.held[0].msg_id, "log_full"))
    (said,) = bench.told
    assert isinstance(said, Failed) and said.code == "log_full" and "goes on" in said.text
    bench.tick()
    assert bench.asked
