"""Runners that are missing, die, fall silent or fail, as a selector sees them, and the budget for failing over."""

from __future__ import annotations

from typing import Any

import pytest

from understudy.messages.run import ModelLoad, RunnerBeat
from understudy.messages.step import Unheard


def test_no_responders_asks_the_next(stage: Any) -> None:
    s = stage()
    s.ask()
    s.unheard()
    assert s.call().model == "b" and s.call().attempt == 1
    assert s.feed(Unheard(s.now, "_INBOX_A.s1.run.r1.0")) == []  # of the attempt before
    assert s.call().attempt == 1


@pytest.mark.parametrize("subject", ["", "other", "_INBOX_A.s1", "_INBOX_A.s1.run.nobody.0", "_INBOX_A.s1.x.r1"])
def test_a_strange_unheard_is_nothing(stage: Any, subject: str) -> None:
    s = stage()
    s.ask()
    assert s.feed(Unheard(s.now, subject)) == []


def test_a_dead_runner_moves_its_runs_at_once(stage: Any) -> None:
    s = stage()
    for run in ("r1", "r2", "r3"):
        s.ask(run)
    s.started("r1")
    s.started("r2", "i-other")
    s.started("r3")
    s.text("One", run="r1")
    s.gone("i-a")
    assert [s.call(r).model for r in ("r1", "r2", "r3")] == ["b", "a", "b"]
    assert s.call("r1").prefill == "One"
    assert [e.event.reason for e in s.stores("attempt.")] == ["gone", "gone"]
    s.ask("r4")
    assert s.call("r4").model == "b"


def test_a_dead_runner_may_have_had_what_nobody_said_to_have(stage: Any) -> None:
    s = stage()
    s.ask("r1")
    s.ask("r2")
    s.failed("server_error", "r2")
    assert s.call("r2").model == "b"
    s.gone("i-a")
    assert [s.call(r).model for r in ("r1", "r2")] == ["b", "b"]
    assert [(e.event.run_id, e.event.reason) for e in s.stores("attempt.")] == [("r2", "server_error"), ("r1", "gone")]


def test_a_whole_answer_that_comes_with_its_end(stage: Any) -> None:
    s = stage()
    s.ask(stream=False)
    assert not s.call().live
    s.now += 50
    s.ended(text="All of it", tokens=3, exact=False, held_ms=20.0)
    s.stored()
    end = s.ends()[0]
    assert (end.text, end.attempts[0].first_token_ms, end.attempts[0].tokens) == ("All of it", 30.0, 3)
    s.ask("r2")
    assert s.call("r2").live, "somebody reads along"


def test_a_silent_runner_is_noticed_by_the_sweep(stage: Any) -> None:
    s = stage()
    s.ask()
    s.started()
    for _ in range(14):
        s.wake("sweep")
        s.hear(RunnerBeat(instance="i-b", models={"b": ModelLoad(slots=8, in_flight=0)}))
    assert s.call().model == "a"
    s.wake("sweep")
    s.wake("sweep")
    assert s.call().model == "b" and s.stores("attempt.")[0].event.reason == "silent"
    assert "a" not in {m for m, v in s.state.local.instances.items() if v}


def test_a_runner_that_takes_no_more_gets_no_new_requests(stage: Any) -> None:
    s = stage()
    s.ask("r1")
    s.started("r1")
    s.hear(RunnerBeat(instance="i-a", models={"a": ModelLoad(slots=8, in_flight=1)}, accepting=False))
    s.ask("r2")
    assert s.call("r2").model == "b" and s.call("r1").model == "a"
    s.gone("i-a")
    assert s.call("r1").model == "b"


def test_a_failure_makes_suspect_for_a_while_and_success_trusts_again(stage: Any) -> None:
    s = stage()
    s.ask("r1")
    s.failed("server_error", "r1")
    s.ask("r2")
    assert s.call("r2").model == "b"
    s.now += 501
    s.ask("r3")
    assert s.call("r3").model == "a"
    s.failed("server_error", "r3")
    s.now += 501
    s.ask("r4")
    assert s.call("r4").model == "b"  # the second time it is avoided for longer
    s.now += 500
    s.ask("r5")
    s.text("x", run="r5")
    s.ended(run="r5")
    assert s.state.local.suspects == {}


@pytest.mark.parametrize("reason", ["busy", "no_responders", "text_lost", "context_too_long", "refused", "cancelled"])
def test_blameless_ends_suspect_nobody(stage: Any, reason: Any) -> None:
    s = stage()
    s.ask()
    s.failed(reason)
    assert s.state.local.suspects == {}


def test_many_runs_that_fail_together_are_one_failure_and_a_thousand_do_no_harm(stage: Any) -> None:
    s = stage()
    local = s.state.local
    for _ in range(50):
        local.suspect("a", 0.0)
    assert local.is_suspect("a", 499.0) and not local.is_suspect("a", 500.0)
    for i in range(3000):
        local.suspect("a", i * 10_000.0)
    assert not local.is_suspect("a", 2999 * 10_000.0 + 8_000.0)


def test_a_provider_that_asks_for_patience_gets_it(stage: Any) -> None:
    s = stage()
    s.ask(run="r1")
    s.failed("rate_limited", status=429, retry_after_ms=60_000)
    for after_ms, first in ((59_999, "b"), (60_000, "a")):
        s.now = s.begun + after_ms
        run = f"after-{after_ms}"
        begun = s.begun
        s.ask(run=run)
        s.begun = begun
        assert s.call(run).model == first


def test_patience_has_a_limit_and_a_failure_beside_it_does_not_shorten_it(stage: Any) -> None:
    local = stage().state.local
    local.suspect("a", 0.0, 1e12)
    local.suspect("a", 1.0)
    assert local.is_suspect("a", 599_999.0) and not local.is_suspect("a", 600_000.0)


def test_the_caller_hears_when_to_try_again(stage: Any) -> None:
    s = stage()
    s.ask()
    s.failed("rate_limited", status=429, retry_after_ms=60_000)
    s.now += 1_000
    s.failed("server_error", status=503, retry_after_ms=90_000)
    s.failed("server_error", status=500)
    s.stored()
    assert [(e.code, e.retry_after_ms) for e in s.ends()] == [("all_failed", 59_000)]


# --- the failover budget -------------------------------------------------------------------------------------------

POLICY = {"failover_ratio": 0.0, "failover_minimum": 2}


def test_the_first_failover_is_free_and_further_ones_have_a_budget(stage: Any) -> None:
    s = stage(policy=POLICY)
    runs = [f"r{i}" for i in range(5)]
    for run in runs:
        s.ask(run)
    for run in runs:
        s.failed("server_error", run)
    for run in runs:
        s.failed("server_error", run)
    assert [s.call(r).attempt for r in runs] == [2, 2, 1, 1, 1]
    ended = [e.event.outcome for e in s.stores("end.")]
    assert ended == ["all_failed"] * 3


def test_the_budget_returns_after_its_window(stage: Any) -> None:
    s = stage(policy={"failover_ratio": 0.0, "failover_minimum": 1})
    for run in ("r1", "r2"):
        s.ask(run)
        s.failed("server_error", run)
    s.failed("server_error", "r1")
    s.now += 10_001
    s.failed("server_error", "r2")
    assert [s.call(r).attempt for r in ("r1", "r2")] == [2, 2]


def test_the_budget_grows_with_the_requests(stage: Any) -> None:
    s = stage(policy={"failover_ratio": 0.5, "failover_minimum": 0})
    for i in range(4):
        s.ask(f"r{i}")
    for i in range(4):
        s.failed("server_error", f"r{i}")
        s.failed("server_error", f"r{i}")
    assert [s.call(f"r{i}").attempt for i in range(4)] == [2, 2, 1, 1]


def test_busy_costs_no_budget(stage: Any) -> None:
    s = stage(policy={"failover_ratio": 0.0, "failover_minimum": 1})
    for run in ("r1", "r2"):
        s.ask(run)
        s.failed("busy", run)
        s.failed("busy", run)
    assert [s.call(r).attempt for r in ("r1", "r2")] == [2, 2]
