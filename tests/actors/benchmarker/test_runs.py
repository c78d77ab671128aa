"""Running benchmarks: every item is scored once, whoever dies; nothing is paid, nobody else answers for a model."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.actors.benchmarker.driven import Bench, echo, failed, finished, suite, sums
from understudy.messages.base import Message
from understudy.messages.benchmarks import (
    BenchmarkBegun,
    BenchmarkCancelled,
    BenchmarkDone,
    BenchmarkMeasured,
    BenchmarkProgress,
    Benchmarks,
    BenchmarkScored,
    BenchmarkState,
    CancelBenchmark,
    ListBenchmarks,
    RunBenchmark,
)
from understudy.messages.generate import Failed, Generate
from understudy.messages.tools import ToolCall

MILLION = 1_000_000
TOOL = {"name": "go"}


def test_a_suite_is_asked_scored_and_measured() -> None:
    bench = Bench(lambda ask: finished(ask, "1"))
    bench.order_run(models=("a", "first", "b"), seed=7)
    assert bench.scores("a") == bench.scores("b") == {"n0": 0, "n1": MILLION, "n2": 0}
    one, other = bench.of(BenchmarkMeasured)
    assert (one.model, other.model, one.complete) == ("a", "b", True)  # `first` is an alias of `a`
    (task,) = one.tasks
    assert (task.task, task.items, task.scored, task.score_u, task.weight) == ("t", 3, 3, MILLION, 3)
    assert one.figures == {"success_ratio": 1.0, "success_ratio_n": 3, "score": pytest.approx(1 / 3, abs=1e-6),
                           "first_token_ms_p50": 10.0, "tokens_per_s": 200.0}  # fmt: skip
    assert (one.seed, one.engine, one.hardware) == (7, "http", {"cpu": "test"})
    done = bench.told[-1]
    assert isinstance(done, BenchmarkDone) and done.state.state == "finished"
    assert done.state.measured == (one, other)


def test_how_a_model_is_asked() -> None:
    bench = Bench(None)
    bench.order_run(seed=3)
    first = bench.order(bench.asked[0])
    assert (first.model, first.priority, first.traffic, first.labels) == ("a", "best_effort", "batch", ("benchmark",))
    assert (first.temperature, first.hedge, first.cache, first.requirements.free) == (0.0, False, False, True)
    assert first.user_id is None and first.conversation_id is None
    again = Bench(None)
    again.order_run(seed=3)
    assert again.order(again.asked[0]) == first
    other = Bench(None)
    other.order_run(seed=4)
    assert other.order(other.asked[0]).seed != first.seed


def test_one_at_a_time_unless_more_are_ordered() -> None:
    bench = Bench(None)
    bench.order_run()
    assert len(bench.asked) == 1
    more = Bench(None)
    more.order_run(at_once=3)
    assert len(more.asked) == 3


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (lambda ask: finished(ask, "0", model="b"), "failed fallback"),
        (lambda ask: finished(ask, "0", degraded=True), "failed emergency"),
        (lambda _: failed("all_failed", "server_error"), "failed server_error"),
        (lambda _: failed("no_allowed_model", rejected={"not_named": 9, "needs_consent": 1}),
         "failed no_allowed_model.needs_consent"),
        (lambda _: failed("budget_exhausted"), "failed budget_exhausted"),
    ],
)  # fmt: skip
def test_what_is_no_answer_of_this_model_has_no_score(answer: Any, found: str) -> None:
    bench = Bench(answer)
    bench.order_run()
    assert set(bench.scores().values()) == {found}
    (measured,) = bench.of(BenchmarkMeasured)
    assert measured.tasks[0].failed == 3
    kept_away = found.startswith(("failed no_allowed_model", "failed budget"))
    assert measured.figures == ({} if kept_away else {"success_ratio": 0.0, "success_ratio_n": 3})


def test_our_own_faults_are_asked_again_and_not_for_ever() -> None:
    tries: list[str] = []

    def shaky(ask: Generate) -> Message:
        tries.append(ask.messages[-1].content)
        return failed("overloaded") if len(tries) < 3 or ask.messages[-1].content == "Say 1." else echo(ask)

    bench = Bench(shaky)
    bench.order_run()
    bench.tick(times=200)
    assert bench.scores() == {"n0": MILLION, "n1": "failed overloaded", "n2": MILLION}
    assert tries.count("Say 0.") == 3 and tries.count("Say 1.") == 3


def test_a_model_that_never_answers_is_given_up() -> None:
    bench = Bench(lambda _: failed("all_failed", "empty"), give_up=4)
    bench.files["./mine"] = suite(*sums(30))
    bench.order_run()
    (measured,) = bench.of(BenchmarkMeasured)
    assert not measured.complete and measured.tasks[0].failed <= 5  # one was under way


def test_nobody_who_answers_late_is_waited_for_for_ever() -> None:
    bench = Bench(None, item_ms=1_000, tries=1)
    bench.order_run()
    first = bench.asked[0]
    bench.tick(times=80)
    assert bench.scores() == {"n0": "failed silent"}
    bench.answer(first, echo(bench.order(first)))
    assert bench.scores() == {"n0": "failed silent"}


def test_tools_are_asked_of_models_that_have_them() -> None:
    item = {"id": "x", "prompt": "go", "tools": [TOOL], "score": {"kind": "tools", "calls": [{"name": "go"}]}}
    many = {"id": "y", "prompt": "go", "score": {"kind": "speed", "at_once": 20}}
    bench = Bench(lambda ask: finished(ask, tool_calls=(ToolCall(id="c", name="go"),)))
    bench.files["./mine"] = suite(item, many)
    bench.order_run(models=("a", "b"))
    assert bench.scores("a") == {"x": "skipped no_capability", "y": "skipped no_room"}
    assert bench.scores("b") == {"x": MILLION, "y": "skipped no_room"}
    assert [one.tasks[0].skipped for one in bench.of(BenchmarkMeasured)] == [2, 1]
    assert all(one.complete for one in bench.of(BenchmarkMeasured))


def test_json_is_asked_for_by_words_where_a_model_cannot_be_held_to_it() -> None:
    schema = {"type": "object"}
    item = {"id": "x", "prompt": "p", "format": {"type": "json_schema", "schema": schema},
            "score": {"kind": "json", "schema": schema}}  # fmt: skip
    seen: list[Any] = []

    def model(ask: Generate) -> Message:
        seen.append(ask.format)
        return failed("all_failed", "invalid_output") if ask.model == "b" else finished(ask, "{}")

    bench = Bench(model)
    bench.files["./mine"] = suite(item)
    bench.order_run(models=("a", "b"))
    assert seen[0] is None and seen[1] is not None
    assert bench.scores("a") == {"x": MILLION}
    assert bench.scores("b") == {"x": 0}  # it answered, and not with JSON: no failure of the connection
    assert bench.of(BenchmarkMeasured)[1].figures["json_valid"] == 0


def test_a_tool_that_was_not_offered_is_a_wrong_one_and_no_failure() -> None:
    item = {"id": "x", "prompt": "go", "tools": [TOOL], "score": {"kind": "tools", "calls": [{"name": "go"}]}}
    bench = Bench(lambda _: failed("all_failed", "invalid_output"))
    bench.files["./mine"] = suite(item)
    bench.order_run(models=("b",))
    assert bench.scores("b") == {"x": 0}
    assert bench.of(BenchmarkMeasured)[0].figures["tool_right"] == 0


def test_speed_at_four_is_of_all_four_together() -> None:
    bench = Bench(None)
    bench.files["./mine"] = suite({"id": "x", "prompt": "p", "score": {"kind": "speed", "at_once": 4}})
    bench.order_run()
    assert len(bench.asked) == 4
    for sent in list(bench.asked):
        bench.answer(sent, finished(bench.order(sent), "word"), ms=25)
    (item,) = bench.of(BenchmarkScored)
    assert item.figures == {"at_once": 4.0, "tokens_per_s": 440.0}  # 4 x 11 tokens in 100 ms
    assert bench.of(BenchmarkMeasured)[0].figures["tokens_per_s_at_4"] == 440.0


def test_nothing_with_a_price_is_asked_unless_the_order_allows_it() -> None:
    bench = Bench(echo)
    bench.order_run(models=("a", "paid"))
    (said,) = bench.told
    assert isinstance(said, Failed) and (said.code, said.path) == ("invalid", "$.models[1]")
    bench.order_run(models=("a",), judge="paid")
    assert isinstance(bench.told[-1], Failed) and bench.told[-1].path == "$.judge"
    assert not bench.of(BenchmarkBegun)
    bench.order_run(models=("paid",), allow_cost=True)
    assert bench.scores("paid")["n0"] == MILLION


@pytest.mark.parametrize(
    ("fields", "code", "path"),
    [
        ({"models": ()}, "invalid", "$.models"),
        ({"models": ("a", "nobody")}, "unknown_model", "$.models[1]"),
        ({"models": ("ears",)}, "invalid", "$.models[0]"),
        ({"suite": "./other"}, "invalid", "$.suite"),
        ({"resume": "never"}, "invalid", "$.resume"),
    ],
)
def test_what_is_wrong_with_an_order_is_said(fields: dict[str, Any], code: str, path: str) -> None:
    bench = Bench(echo)
    bench.order_run(**fields)
    (said,) = bench.told
    assert isinstance(said, Failed) and (said.code, said.path) == (code, path)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["answer", "die", "hold", "take", "tick", "lose"]), max_size=40))
def test_whenever_it_dies_every_item_is_scored_once_and_none_is_lost(moves: list[str]) -> None:
    bench = Bench(None)
    bench.files["./mine"] = suite(*sums(5))
    bench.order_run(at_once=2)
    for move in [*moves, "die", "take"]:
        match move:
            case "answer" if bench.asked:
                bench.answer(bench.asked[0], echo(bench.order(bench.asked[0])))
            case "die":  # what the log had not taken is gone
                bench.start()
            case "hold":
                bench.held = bench.held or []
            case "take" if bench.held is not None:
                held, bench.held = bench.held, None
                for store in held:
                    bench.take(store)
            case "lose":
                bench.asked.clear()
            case _:
                bench.tick()
    bench.start()
    bench.model = echo
    bench.tick(times=5)
    for sent in list(bench.asked):
        bench.answer(sent, echo(bench.order(sent)))
    items = [one.item for one in bench.of(BenchmarkScored)]
    assert sorted(items) == [f"n{n}" for n in range(5)]
    (measured,) = bench.of(BenchmarkMeasured)
    assert measured.tasks[0].score_u == 5 * MILLION and measured.complete


def test_cancelled_in_order_and_gone_on_with() -> None:
    bench = Bench(None)
    bench_id = bench.order_run()
    bench.answer(bench.asked[0], echo(bench.order(bench.asked[0])))
    left = bench.asked[0]
    said = bench.ask(CancelBenchmark(bench_id=bench_id))
    states = [one for one in bench.told if isinstance(one, BenchmarkState | BenchmarkDone)]
    assert {type(one) for one in states} == {BenchmarkState, BenchmarkDone} and said in states
    assert bench.of(BenchmarkCancelled)[0].reason == "ordered"
    bench.answer(left, echo(bench.order(left)))
    bench.tick(times=20)
    assert bench.scores() == {"n0": MILLION} and not bench.asked

    bench.start()
    bench.tick(times=3)
    assert not bench.asked
    bench.model = echo
    bench.order_run(resume=bench_id)
    assert bench.scores() == {f"n{n}": MILLION for n in range(3)}
    assert [one.bench_id for one in bench.of(BenchmarkMeasured)] == [bench_id]
    assert bench.told[-1].state.state == "finished"  # type: ignore[attr-defined]


def test_a_suite_that_has_changed_is_not_gone_on_with() -> None:
    bench = Bench(None)
    bench_id = bench.order_run()
    bench.files["./mine"] = suite(*sums(6))
    bench.start()
    assert [one.reason for one in bench.of(BenchmarkCancelled)] == ["suite_changed"]
    said = bench.ask(RunBenchmark(resume=bench_id))
    assert isinstance(said, Failed) and "has changed since" in said.text
    bench.files["./mine"] = b"{"
    again = Bench(None)
    again.order_run("other")
    again.files["./mine"] = b"{"
    again.start()
    assert [one.reason for one in again.of(BenchmarkCancelled)] == ["bad_suite"]


def test_progress_is_told_and_not_for_each_item() -> None:
    bench = Bench(None)
    bench.files["./mine"] = suite(*sums(40))
    bench.order_run()
    for _ in range(40):
        bench.answer(bench.asked[0], echo(bench.order(bench.asked[0])))
    said = [one for one in bench.told if isinstance(one, BenchmarkProgress)]
    assert 3 <= len(said) <= 6  # 40 items in 2 s
    assert said[-1].items == 40 and said[-1].done > said[1].done and said[-1].model == "a"
    assert sum(isinstance(one, BenchmarkDone) for one in bench.told) == 1


def test_who_watches_again_after_a_restart_is_told_the_end() -> None:
    bench = Bench(None)
    bench_id = bench.order_run()
    bench.start()
    bench.told.clear()
    bench.order_run(resume=bench_id)
    assert isinstance(bench.told[-1], BenchmarkProgress)
    while bench.asked:
        bench.answer(bench.asked[0], echo(bench.order(bench.asked[0])))
    assert isinstance(bench.told[-1], BenchmarkDone)
    assert bench.ask(RunBenchmark(resume=bench_id)) == bench.told[-1]  # and after it, at once


def test_two_orders_are_worked_on_one_after_the_other() -> None:
    bench = Bench(None)
    bench.order_run("one")
    bench.order_run("two", models=("b",))
    while bench.asked:
        bench.answer(bench.asked[0], echo(bench.order(bench.asked[0])))
    assert [one.bench_id for one in bench.of(BenchmarkScored)] == ["one"] * 3 + ["two"] * 3
    listed = bench.ask(ListBenchmarks())
    assert isinstance(listed, Benchmarks)
    assert [(one.bench_id, one.state, one.measured) for one in listed.benchmarks] == [
        ("two", "finished", ()), ("one", "finished", ()),
    ]  # fmt: skip
    one = bench.ask(ListBenchmarks(bench_id="one"))
    assert isinstance(one, Benchmarks) and len(one.benchmarks[0].measured) == 1


@pytest.mark.parametrize(("verdict", "score_u", "judged"), [('{"score": 3}', 300_000, True), ("fine!", 500_000, False)])
def test_a_judge_is_asked_where_one_is_named_and_marked(verdict: str, score_u: int, judged: bool) -> None:
    rules = {"kind": "checks", "checks": [{"kind": "include", "words": ["fox", "owl"]}]}
    item = {"id": "x", "prompt": "p", "score": {"kind": "judged", "criteria": "be kind", "otherwise": rules}}

    def model(ask: Generate) -> Message:
        return finished(ask, verdict if ask.model == "b" else "a fox")

    bench = Bench(model)
    bench.files["./mine"] = suite(item)
    bench.order_run(judge="b")
    assert bench.scores() == {"x": score_u}
    assert bench.of(BenchmarkScored)[0].judged is judged
    assert bench.of(BenchmarkMeasured)[0].judge == ("b" if judged else None)
    plain = Bench(model)
    plain.files["./mine"] = suite(item)
    plain.order_run()
    assert plain.scores() == {"x": 500_000}


def test_no_word_of_a_prompt_or_an_answer_is_in_the_log() -> None:
    bench = Bench(lambda ask: finished(ask, "walrus"))
    words = {"id": "x", "prompt": "porcupine", "score": {"kind": "exact", "answers": ["ocelot"]}}
    bench.files["./mine"] = suite(words)
    bench.order_run()
    said = repr(bench.log)
    assert "n0" not in said and not any(word in said for word in ("walrus", "porcupine", "ocelot"))
