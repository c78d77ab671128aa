"""The search for room: every model is asked before the request waits at one, and it waits in one queue alone."""

from __future__ import annotations

from typing import Any

import pytest

from understudy.messages.generate import Waiting
from understudy.messages.run import CancelRun, ModelLoad, RunnerBeat, RunQueued
from understudy.messages.step import Send


def queued(s: Any, instance: str = "i-q", run: str = "r1") -> list[Any]:
    return s.hear(RunQueued(run_id=run, attempt=s.call(run).attempt, instance=instance))


def cancelled(s: Any) -> list[tuple[str, int]]:
    sent = [e for e in s.effects if isinstance(e, Send) and isinstance(e.message, CancelRun)]
    return [(e.subject.rsplit(".", 1)[1], e.message.attempt) for e in sent]


def full(stage: Any, **fields: Any) -> Any:
    """All three had no room; the second has the shortest queue, so it is asked again first."""
    s = stage()
    s.ask(**fields)
    for waiting in (7, 2, 9):
        assert not s.call().may_wait
        s.failed("busy", waiting=waiting)
    return s


def test_the_shortest_queue_first(stage: Any) -> None:
    s = full(stage, priority="low", user_id="u-1")
    call = s.call()
    assert (call.model, call.attempt, call.may_wait, call.priority) == ("b", 3, True, "low")
    assert call.user not in ("", "u-1") and len(call.user) == 32
    s.failed("no_room", retry_after_ms=900)
    assert (s.call().model, s.call().may_wait) == ("a", True)


def test_who_waits_is_told_and_no_limit_but_the_deadline_runs(stage: Any) -> None:
    s = full(stage)
    said = queued(s)
    assert [e.message for e in said if isinstance(e, Send)] == [Waiting(run_id="r1", reason="busy")]
    assert s.timers["r1"].at_ms == s.deadline
    s.now += 30_000  # three times the limit on the first token
    s.started(instance="i-q")
    assert s.timers["r1"].at_ms == s.now + 10_000
    s.now += 25
    s.text("Hi")
    s.ended()
    s.stored()
    end = s.ends()[0]
    assert [a.outcome for a in end.attempts] == ["busy"] * 3 + ["ok"]
    assert end.attempts[-1].first_token_ms == 25.0, "the model's own time, without the queue's"


def test_text_says_too_that_the_turn_has_come(stage: Any) -> None:
    s = full(stage)
    queued(s)
    s.text("Hi")
    assert not s.state.runs["r1"].room.queued and s.timers["r1"].at_ms == s.now + 10_000


def test_a_late_word_that_it_waits_changes_nothing(stage: Any) -> None:
    s = full(stage)
    s.started(instance="i-q")
    assert queued(s) == [] and not s.state.runs["r1"].room.queued


@pytest.mark.parametrize("how", ["cancel", "vanish", "deadline"])
def test_who_goes_leaves_the_queue_and_blames_nobody(stage: Any, how: str) -> None:
    s = full(stage)
    queued(s)
    s.wake() if how == "deadline" else getattr(s, how)()
    s.stored()
    assert cancelled(s) == [("i-q", 3)]
    end = s.ends()[0]
    assert end.code == ("overloaded" if how == "deadline" else "cancelled")
    assert [a.outcome for a in end.attempts] == ["busy"] * 3 and s.stores("attempt.") == []
    assert set(s.state.local.in_flight.values()) == {0} and s.state.runs == {}


def test_every_queue_full_is_overloaded_at_once(stage: Any) -> None:
    s = full(stage)
    for wait_ms in (900, 400, 800):
        s.failed("no_room", retry_after_ms=wait_ms)
    s.stored()
    assert s.now == s.begun, "nobody waited"
    assert [(e.code, e.retry_after_ms) for e in s.ends()] == [("overloaded", 400)]
    assert s.stores("attempt.") == [] and s.state.local.suspects == {}


def test_a_full_queue_beside_a_runner_that_is_not_there_rests(stage: Any) -> None:
    s = stage({"a": {}, "b": {}})
    s.ask()
    s.failed("busy")
    s.unheard()
    s.failed("no_room")
    assert s.stores("end.") == [] and s.state.runs["r1"].resting
    s.wake()
    assert s.call().model == "b"


def test_a_runner_that_dies_is_left_at_once(stage: Any) -> None:
    s = full(stage)
    queued(s, "i-b")
    s.gone("i-b")
    assert (s.call().model, s.call().may_wait) == ("a", True) and s.stores("attempt.") == []
    s.text("Hi")
    s.ended()
    assert [a.outcome for a in s.stores("end.")[0].event.attempts] == ["busy"] * 3 + ["ok"], "it never began there"


def test_a_failure_after_the_queue_asks_the_next_without_waiting(stage: Any) -> None:
    s = full(stage)
    queued(s)
    s.started(instance="i-q")
    s.text("One")
    s.failed("broken_stream")
    assert (s.call().model, s.call().may_wait, s.call().prefill) == ("a", False, "One")
    s.failed("busy")
    s.failed("busy")
    assert (s.call().model, s.call().may_wait) == ("a", True)


def test_an_abandoned_attempt_that_is_queued_late_is_cancelled(stage: Any) -> None:
    s = full(stage)
    late = RunQueued(run_id="r1", attempt=0, instance="i-a")
    assert [e.subject for e in s.hear(late)] == ["tta.ask.runner.cancel.i-a"]
    s.cancel()
    s.stored()
    assert [e.subject for e in s.hear(late)] == ["tta.ask.runner.cancel.i-a"]


def test_a_model_at_which_somebody_waits_has_no_free_slot(stage: Any) -> None:
    s = stage()
    s.hear(RunnerBeat(instance="i-a", models={"a": ModelLoad(slots=200, in_flight=8, waiting=3)}))
    assert s.state.local.load("a", "here") == (1, 11, 11) and s.state.local.waiting("a", "here") == 3
    s.ask()
    assert s.call().model == "b"
