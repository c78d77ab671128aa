"""One request on its way: a run without trouble, every kind of failure, refusals, answers without content."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from understudy.messages.generate import Delta, Finished, Seam, Started, Waiting
from understudy.messages.run import NO_ROOM, RunFailure
from understudy.messages.step import Send, Trace, Wake

ENDING = {"caller_fault": "caller_fault", "deadline": "deadline_exceeded", "cancelled": "cancelled"}
ENDING |= {"refused": "refused", "context_too_long": "context_too_long"}
MOVING = sorted(set(get_args(RunFailure)) - set(ENDING))


def test_a_run_without_trouble(stage: Any) -> None:
    s = stage()
    first = s.ask()
    assert [type(e) for e in first] == [Send, Wake, Trace, Send], "who computes is asked first"
    s.started()
    s.text("Once", " upon")
    s.ended()
    assert s.ends() == []
    s.stored()
    kinds = [type(m) for m in s.said()]
    assert kinds == [Started, Delta, Delta, Finished]
    end = s.said(Finished)[0]
    assert (end.text, end.model, end.last_seq, end.seams, end.recorded) == ("Once upon", "a", 1, 0, True)
    assert [a.outcome for a in end.attempts] == ["ok"]
    assert s.state.runs == {} and "r1" not in s.timers


def test_a_single_reply_hears_only_the_end(stage: Any) -> None:
    s = stage()
    s.ask(stream=False)
    s.text("One", " two")
    s.failed("server_error")
    s.text(" three")
    s.ended()
    s.stored()
    assert [type(m) for m in s.said()] == [Finished]
    assert s.said(Finished)[0].text == "One two three"


@pytest.mark.parametrize("reason", MOVING)
def test_a_failure_before_text_asks_the_next_model(stage: Any, reason: Any) -> None:
    s = stage()
    s.ask()
    s.failed(reason, status=503, retry_after_ms=70)
    assert s.call().model == "b" and s.call().attempt == 1
    assert [m.reason for m in s.said(Waiting)] == ["failover"]
    stored = [e.event for e in s.stores("attempt.")]
    if reason in NO_ROOM:
        assert stored == []
    else:
        assert [(e.model, e.reason, e.status, e.retry_after_ms) for e in stored] == [("a", reason, 503, 70)]
    s.text("Hi")
    s.ended()
    s.stored()
    end = s.said(Finished)[0]
    assert [(a.model, a.outcome) for a in end.attempts] == [("a", reason), ("b", "ok")]
    assert s.said(Seam) == [] and end.seams == 0


@pytest.mark.parametrize(("reason", "code"), sorted(ENDING.items()))
def test_these_end_at_once(stage: Any, reason: Any, code: str) -> None:
    s = stage({"a": {}, "b": {}})
    s.ask()
    s.failed(reason)
    s.stored()
    assert len([e for e in s.effects if isinstance(e, Send) and "runner.run" in e.subject]) == 1
    assert [(e.code, e.resumable) for e in s.ends()] == [(code, False)]


def test_context_too_long_goes_only_to_larger_windows(stage: Any) -> None:
    s = stage({"a": {"context_tokens": 1000}, "b": {"context_tokens": 1000}, "c": {"context_tokens": 2000}})
    s.ask()
    s.failed("context_too_long")
    assert s.call().model == "c"
    s.failed("context_too_long")
    s.stored()
    assert s.ends()[0].code == "context_too_long"


def test_a_refusal_is_an_answer_unless_the_request_says_next(stage: Any) -> None:
    s = stage()
    s.ask()
    s.text("I must decline.")
    s.ended("refusal")
    s.stored()
    end = s.said(Finished)[0]
    assert (end.finish_reason, end.text, len(end.attempts)) == ("refusal", "I must decline.", 1)


def test_on_refusal_next_begins_anew_and_never_continues_a_refusal(stage: Any) -> None:
    s = stage()
    s.ask(on_refusal="next")
    s.text("I must decline.")
    s.ended("refusal")
    assert s.call().model == "b" and s.call().prefill == ""
    s.text("Gladly.")
    s.ended()
    s.stored()
    assert s.said(Finished)[0].text == s.kept() == "Gladly."
    assert [(m.mode, m.keep_seq) for m in s.said(Seam)] == [("restart", -1)]


def test_on_refusal_next_also_where_the_provider_sends_no_text(stage: Any) -> None:
    s = stage()
    s.ask(on_refusal="next")
    s.failed("refused")
    assert s.call().model == "b"


def test_the_last_refusal_is_the_answer(stage: Any) -> None:
    s = stage({"a": {}})
    s.ask(on_refusal="next")
    s.text("No.")
    s.ended("refusal")
    s.stored()
    assert s.said(Finished)[0].finish_reason == "refusal"


@pytest.mark.parametrize("words", [(), ("",), (" ", "\n")])
def test_a_success_without_content_is_a_failure(stage: Any, words: tuple[str, ...]) -> None:
    s = stage()
    s.ask()
    s.text(*words)
    s.ended()
    assert s.call().model == "b"
    assert s.stores("attempt.")[0].event.reason == "empty"
    s.text("Yes")
    s.ended()
    s.stored()
    assert s.said(Finished)[0].text == "Yes"


def test_where_nobody_has_more_to_say_the_last_one_is_asked_for_the_whole(stage: Any) -> None:
    """The text may be whole or the models broken: a visible restart is right in both cases."""
    s = stage()
    s.ask()
    s.text("All of it.")
    s.failed("broken_stream")
    s.ended()
    assert (s.call().model, s.call().prefill) == ("c", "All of it.")
    s.ended()
    assert (s.call().model, s.call().prefill, s.call().continuation) == ("c", "", "none")
    s.text("All of it.")
    s.ended()
    s.stored()
    assert s.said(Finished)[0].text == s.kept() == "All of it."
    assert [(m.mode, m.keep_seq) for m in s.said(Seam)] == [("restart", -1)]


@pytest.mark.parametrize("words", [(), (" ", "\n"), ("keeper climbed the stairs",)])
def test_a_broken_text_that_nobody_completes_is_never_finished(stage: Any, words: tuple[str, ...]) -> None:
    s = stage({"a": {}, "b": {"continues": "instructed"}})
    s.ask()
    s.text("The keeper climbed the stairs")
    s.failed("broken_stream")
    s.text(*words)
    s.ended()
    assert (s.call().model, s.call().prefill) == ("b", "")
    s.ended()
    s.stored()
    end = s.ends()[0]
    assert (end.code, end.resumable) == ("all_failed", False) and [a.outcome for a in end.attempts][1:] == ["empty"] * 2


def test_an_empty_answer_before_the_text_is_no_agreement(stage: Any) -> None:
    s = stage({"a": {}, "b": {}, "c": {}, "d": {}})
    s.ask()
    s.ended()
    s.text("Half of")
    s.failed("broken_stream")
    s.ended()
    assert s.call().model == "d"
