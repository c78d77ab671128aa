"""One request on its way: every kind of failure, both seams, time, and exactly one end."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.messages.events import (
    AttemptEnded,
    ModelLoaded,
    ModelProbed,
    ModelRecovered,
    ModelSwitched,
    RequestEnded,
)
from understudy.messages.generate import Delta, Failed, Finished, Seam, Started, Waiting
from understudy.messages.run import CancelRun, RunFailure, RunStarted, RunText
from understudy.messages.step import Probe, Send, Store, Trace, Wake, Woke

ENDING = {"caller_fault": "caller_fault", "deadline": "deadline_exceeded", "cancelled": "cancelled"}
ENDING |= {"refused": "refused", "context_too_long": "context_too_long"}
MOVING = sorted(set(get_args(RunFailure)) - set(ENDING))
NONE = {"continues": "none"}


def cancels(effects: list[Any]) -> list[tuple[str, int]]:
    return [(e.subject, e.message.attempt) for e in effects if isinstance(e, Send) and isinstance(e.message, CancelRun)]


def test_a_run_without_trouble(stage: Any) -> None:
    s = stage()
    first = s.ask()
    assert [type(e) for e in first] == [Trace, Send, Send, Wake]
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
    if reason in ("busy", "no_responders"):
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


# --- fencing, lost pieces ------------------------------------------------------------------------------------------


def test_late_words_of_an_abandoned_attempt_are_fenced_off(stage: Any) -> None:
    s = stage()
    s.ask()
    s.text("One")
    s.failed("server_error")
    assert s.hear(RunText(run_id="r1", attempt=0, n=1, text=" LATE")) == []
    s.text(" two")
    assert s.hear(RunText(run_id="r1", attempt=0, n=1, text=" LATE")) == []
    s.ended()
    assert s.text(" more") == []
    s.stored()
    assert s.said(Finished)[0].text == s.kept() == "One two"
    assert s.text(" after the end") == []


def test_a_runner_that_starts_too_late_is_told_to_stop(stage: Any) -> None:
    s = stage()
    s.ask()
    s.wake()
    late = RunStarted(run_id="r1", attempt=0, instance="i-a")
    assert cancels(s.hear(late)) == [("tta.ask.runner.cancel.i-a", 0)]
    s.cancel()
    assert cancels(s.started()) == [("tta.ask.runner.cancel.i-b", 1)]
    s.stored()
    assert cancels(s.hear(late)) == [("tta.ask.runner.cancel.i-a", 0)]


@pytest.mark.parametrize("gap", [1, 3])
def test_a_missing_piece_is_text_lost(stage: Any, gap: int) -> None:
    s = stage()
    s.ask()
    s.started()
    s.text("One")
    out = s.hear(RunText(run_id="r1", attempt=0, n=1 + gap, text=" LOST"))
    assert cancels(out) == [("tta.ask.runner.cancel.i-a", 0)]
    assert s.stores("attempt.")[0].event.reason == "text_lost"
    assert s.call().prefill == "One"


def test_an_end_that_counts_other_pieces_is_text_lost(stage: Any) -> None:
    s = stage()
    s.ask()
    s.text("One")
    s.ended(pieces=2)
    assert s.stores("attempt.")[0].event.reason == "text_lost" and s.call().model == "b"


# --- time ----------------------------------------------------------------------------------------------------------


def test_no_first_token_in_time(stage: Any) -> None:
    s = stage()
    s.ask()
    s.started()
    out = s.wake()
    assert s.now == 1_010_000.0 and cancels(out) == [("tta.ask.runner.cancel.i-a", 0)]
    assert s.stores("attempt.")[0].event.reason == "first_token_timeout" and s.call().model == "b"


def test_text_moves_the_stall_limit_and_the_timer_looks_again_lazily(stage: Any) -> None:
    s = stage()
    s.ask()
    s.now += 4_000
    assert not [e for e in s.text("One") if isinstance(e, Wake)]
    s.now += 4_000
    s.text(" two")  # due at 8 s + 5 s; the only timer stands at 10 s
    assert s.wake() == [Wake(1_013_000.0, "r1", 0)]
    assert s.call().model == "a"
    s.wake()
    assert s.stores("attempt.")[0].event.reason == "stall_timeout" and s.call().model == "b"


def test_a_timer_of_an_older_attempt_does_nothing(stage: Any) -> None:
    s = stage()
    s.ask()
    s.failed("busy")
    s.now += 50_000
    assert s.feed(Woke(s.now, "r1", 0)) == []
    assert s.call().attempt == 1


def test_the_deadline_ends_the_run(stage: Any) -> None:
    s = stage()
    s.ask(deadline_ms=3_000)
    assert s.said(Started)[0].deadline_ms == 3_000 and s.call().remaining_ms == 3_000
    s.started()
    s.text("One")
    s.wake()
    s.stored()
    end = s.ends()[0]
    assert (end.code, end.last_seq, end.resumable) == ("deadline_exceeded", 0, True)
    assert s.now == 1_003_000.0 and len(end.attempts) == 1


def test_a_failure_after_the_deadline_asks_nobody(stage: Any) -> None:
    s = stage()
    s.ask(deadline_ms=3_000)
    s.now += 3_000
    s.failed("server_error")
    s.stored()
    assert s.ends()[0].code == "deadline_exceeded"


def test_the_next_model_gets_what_is_left_of_the_time(stage: Any) -> None:
    s = stage()
    s.ask(deadline_ms=30_000)
    s.wake()
    assert s.call().remaining_ms == 20_000


# --- cancel --------------------------------------------------------------------------------------------------------


def test_a_vanished_caller_stops_the_runner(stage: Any) -> None:
    s = stage()
    s.ask()
    s.started()
    s.text("One")
    assert cancels(s.vanish()) == [("tta.ask.runner.cancel.i-a", 0)]
    s.stored()
    assert [e.code for e in s.ends()] == ["cancelled"] and s.state.runs == {}


def test_a_caller_that_lost_its_connection_is_kept(stage: Any) -> None:
    s = stage()
    s.ask()
    s.text("One")
    for _ in range(3):  # deltas of a third of a second, then it is back; later the same again
        for _ in range(6):
            assert s.unheard_by_caller() == []
            s.now += 60
        s.now += 1_500
    assert s.stores("end.") == []


def test_a_caller_is_looked_for_while_nothing_is_said(stage: Any) -> None:
    s = stage()
    s.ask()
    probes: list[Any] = []
    for _ in range(10):
        probes += [(s.now, e) for e in s.wake("sweep") if isinstance(e, Probe)]
    reply = "_INBOX_A.s1.vanished.r1.0"
    assert {(e.subject, e.reply) for _, e in probes} == {("caller", reply)}
    assert len(probes) == 4 and s.now - s.begun <= 1000
    s.text("One")
    assert [e.reply for e in s.effects if isinstance(e, Send) and isinstance(e.message, Delta)] == [reply]


def test_cancelling_stops_the_runner_and_ends(stage: Any) -> None:
    s = stage()
    s.ask()
    s.started()
    s.text("One")
    out = s.cancel()
    assert cancels(out) == [("tta.ask.runner.cancel.i-a", 0)]
    assert s.cancel() == []
    s.stored()
    assert [e.code for e in s.ends()] == ["cancelled"]


def test_a_cancelled_run_gets_no_emergency_reply(stage: Any) -> None:
    s = stage(tasks={"general": {"emergency_reply": "Sorry."}})
    s.ask()
    s.cancel()
    s.stored()
    assert s.ends()[0].code == "cancelled"


# --- seams ---------------------------------------------------------------------------------------------------------


def test_a_continue_seam_keeps_everything_and_prefills_what_was_shown(stage: Any) -> None:
    s = stage()
    s.ask()
    s.text("The cat", " sat  ")
    s.failed("broken_stream")
    assert (s.call().prefill, s.call().continuation) == ("The cat sat", "native") == (s.kept(), "native")
    assert s.said(Seam) == []  # it waits for the next model's first word
    switched = [e.event for e in s.stores("switched.")]
    assert [(e.from_model, e.model, e.mode) for e in switched] == [("a", "b", "continue")]
    s.text(" down.")
    s.ended()
    s.stored()
    seam = s.said(Seam)[0]
    assert (seam.mode, seam.keep_seq, seam.from_model, seam.to_model) == ("continue", 1, "a", "b")
    assert [d.seq for d in s.said(Delta)] == [0, 1, 2]
    assert s.said(Finished)[0].text == s.kept() == "The cat sat down."


def test_a_restart_seam_drops_everything(stage: Any) -> None:
    s = stage({"a": {}, "b": NONE})
    s.ask()
    s.text("The cat", " sat ")
    s.failed("broken_stream")
    assert (s.call().prefill, s.call().continuation) == ("", "none")
    s.text("A dog")
    s.ended()
    s.stored()
    assert [(m.mode, m.keep_seq) for m in s.said(Seam)] == [("restart", -1)]
    assert [d.seq for d in s.said(Delta)] == [0, 1, 2]
    end = s.said(Finished)[0]
    assert (end.text, end.last_seq, end.seams) == ("A dog", 2, 1) and s.kept() == "A dog"


def test_a_restart_that_nobody_saw_survives_a_second_failure(stage: Any) -> None:
    s = stage({"a": {}, "b": NONE, "c": {}})
    s.ask()
    s.text("The cat")
    s.failed("broken_stream")
    s.text("  \n")  # only white space: held back, then lost with its model
    s.failed("server_error")
    assert s.call().prefill == ""
    s.text("A dog")
    s.ended()
    s.stored()
    assert [(m.mode, m.keep_seq, m.from_model, m.to_model) for m in s.said(Seam)] == [("restart", -1, "a", "c")]
    assert s.said(Finished)[0].text == s.kept() == "A dog"


def test_a_continuation_that_nobody_saw_can_still_become_a_restart(stage: Any) -> None:
    s = stage({"a": {}, "b": {}, "c": NONE})
    s.ask()
    s.text("The cat")
    s.failed("broken_stream")
    s.failed("server_error")
    s.text("A dog")
    s.ended()
    s.stored()
    assert [(m.mode, m.from_model, m.to_model) for m in s.said(Seam)] == [("restart", "a", "c")]
    assert s.kept() == "A dog"


def test_an_instructed_continuation_loses_its_overlap(stage: Any) -> None:
    s = stage({"a": {}, "b": {"continues": "instructed"}})
    s.ask()
    s.text("The old lighthouse keeper climbed the stairs")
    s.failed("broken_stream")
    assert s.call().continuation == "instructed"
    s.text("keeper climbed", " the stairs", " and lit the lamp.")
    s.ended()
    s.stored()
    assert s.kept() == "The old lighthouse keeper climbed the stairs and lit the lamp."
    assert s.said(Finished)[0].text == s.kept()


def test_max_tokens_reach_across_the_seam(stage: Any) -> None:
    s = stage()
    s.ask(max_tokens=10)
    s.text("One", " two", tokens=2)
    s.failed("broken_stream")
    assert s.call().parameters.max_tokens == 6
    s.text(" three", tokens=3)
    s.failed("broken_stream")
    assert s.call().parameters.max_tokens == 3
    s.text(" four")
    s.ended("length")
    s.stored()
    assert s.said(Finished)[0].usage.completion_tokens == 8 and s.said(Finished)[0].usage.estimated


def test_with_no_tokens_left_the_limit_has_ended_the_answer(stage: Any) -> None:
    s = stage()
    s.ask(max_tokens=2)
    s.text("One", " two ")
    s.failed("broken_stream")
    s.stored()
    end = s.said(Finished)[0]
    assert (end.finish_reason, end.text, end.seams) == ("length", "One two ", 0) and s.kept() == end.text
    assert [a.outcome for a in end.attempts] == ["broken_stream"]
    assert (end.usage.completion_tokens, end.usage.estimated) == (2, True)


def test_a_refused_answer_with_no_tokens_left_is_still_asked_of_the_next(stage: Any) -> None:
    s = stage()
    s.ask(max_tokens=1, on_refusal="next")
    s.text("No.")
    s.ended("refusal")
    assert (s.call().model, s.call().prefill) == ("b", "")


def test_a_stop_string_cut_by_the_seam_is_said_anew_by_the_next_model(stage: Any) -> None:
    s = stage()
    s.ask(stop=["THE END"])
    s.text("Home at last. THE")
    assert s.kept() == "Home at last."
    s.failed("broken_stream")
    assert s.call().prefill == "Home at last." and s.call().parameters.stop == ("THE END",)
    s.text(" THEY slept.")
    s.ended()
    s.stored()
    assert s.said(Finished)[0].text == s.kept() == "Home at last. THEY slept."


@pytest.mark.parametrize(("stop", "said"), [("THE END", "Home. THE "), ("\n\n", "Home.\n")])
def test_a_stop_string_cut_by_the_seam_ends_the_text(stage: Any, stop: str, said: str) -> None:
    """The next model's engine meets the whole of it at once, so it has nothing to say."""
    s = stage()
    s.ask(stop=[stop])
    s.text(said)
    s.failed("broken_stream")
    s.failed("server_error")
    assert (s.call().model, s.call().prefill) == ("c", "Home.")
    s.ended()
    s.stored()
    assert s.said(Finished)[0].text == s.kept() == "Home."
    assert [m.mode for m in s.said(Seam)] == ["continue"]


@pytest.mark.parametrize("need", ["json", "tools"])
def test_structured_answers_are_never_put_together_from_two_models(stage: Any, need: str) -> None:
    able = {"capabilities": ["chat", "json", "tools"]}
    s = stage({"a": able, "b": able})
    s.ask(requirements={"capabilities": [need]})
    s.text('{"a": [1, ')
    s.failed("broken_stream")
    assert (s.call().prefill, s.call().continuation) == ("", "none")
    s.text("{}")
    assert [m.mode for m in s.said(Seam)] == ["restart"] and s.kept() == "{}"


def test_what_an_instructed_continuation_repeated_is_marked(stage: Any) -> None:
    s = stage({"a": {}, "b": {"continues": "instructed"}})
    s.ask()
    s.text("The old keeper climbed the stairs")
    s.failed("broken_stream")
    s.text(" climbed the stairs", " and lit the lamp.")
    s.ended()
    assert [m.trimmed_chars for m in s.said(Seam)] == [len(" climbed the stairs")]
    assert s.kept() == "The old keeper climbed the stairs and lit the lamp."


@pytest.mark.parametrize("code", ["all_failed", "cancelled"])
def test_a_run_that_failed_books_the_tokens_it_spent(stage: Any, code: str) -> None:
    s = stage({"a": {}, "b": NONE})
    s.ask()
    s.text("One", tokens=3)
    s.failed("broken_stream")
    s.text("Two", tokens=4)
    s.failed("broken_stream") if code == "all_failed" else s.cancel()
    usage = s.stores("end.")[0].event.usage
    prompt = s.stores("end.")[0].event.decision.features["prompt_tokens"]
    assert (usage.completion_tokens, usage.prompt_tokens, usage.estimated) == (7, 2 * prompt, True) and prompt > 0


def test_tokens_of_a_text_that_was_dropped_are_booked_too(stage: Any) -> None:
    s = stage({"a": {}, "b": NONE})
    s.ask()
    s.text("One", tokens=3)
    s.failed("broken_stream")
    s.text("Two")
    s.ended()
    s.stored()
    assert s.said(Finished)[0].usage.completion_tokens == 4


def test_failures_without_text_leave_the_provider_s_own_count(stage: Any) -> None:
    s = stage()
    s.ask()
    s.failed("server_error")
    s.text("Two")
    s.ended()
    s.stored()
    assert not s.said(Finished)[0].usage.estimated


@pytest.mark.parametrize("stream", [True, False])
def test_only_a_reader_who_holds_text_can_resume(stage: Any, stream: bool) -> None:
    s = stage({"a": {}})
    s.ask(stream=stream)
    s.text("One")
    s.failed("broken_stream")
    s.stored()
    assert s.ends()[0].resumable is stream


# --- continuation found by probe -----------------------------------------------------------------------------------

PROBE = {"a": {}, "b": {"continues": "probe"}}


@pytest.mark.parametrize("found", ["native", "instructed", "none", None])
def test_what_a_probe_found_decides_the_seam(stage: Any, found: Any) -> None:
    s = stage(PROBE)
    if found is not None:
        word = "no_match" if found == "none" else "matched"
        s.happen(ModelProbed(at_ms=0, model="b", continues=found, reason=word, since_seq=1))
    s.ask()
    s.text("One")
    s.failed("broken_stream")
    assert s.call().continuation == (found or "none")
    assert s.call().prefill == ("One" if found in ("native", "instructed") else "")


@pytest.mark.parametrize(("by", "ratio"), [("quiet", None), ("probe", None), ("loaded", None), ("outcome", 0.0)])
def test_a_recovery_without_an_outcome_forgives_old_failures(stage: Any, by: Any, ratio: float | None) -> None:
    s = stage()
    s.happen(AttemptEnded(at_ms=0, run_id="r", attempt=0, model="a", reason="server_error"))
    s.happen(ModelRecovered(at_ms=0, model="a", was="degraded", by=by))
    assert s.state.knowledge.models["a"].success_ratio() == ratio


@pytest.mark.parametrize("later", [False, True])
def test_a_finding_holds_until_the_model_is_loaded_anew(stage: Any, later: bool) -> None:
    s = stage(PROBE)
    loaded = ModelLoaded(at_ms=0, model="b", instance="i-b", engine="http")
    s.happen(loaded)
    probed = ModelProbed(at_ms=0, model="b", continues="native", reason="matched", since_seq=s.seq)
    if later:
        s.happen(probed)
        assert s.state.knowledge.continues("b") == "native"
    s.happen(loaded)
    if not later:  # the finding was on its way while the model was loaded anew
        s.happen(probed)
    assert s.state.knowledge.continues("b") == "none"


@pytest.mark.parametrize(("continues", "prefill", "seams"), [("native", "Kept so far", []), ("none", "", ["restart"])])
def test_resume(stage: Any, continues: str, prefill: str, seams: list[str]) -> None:
    s = stage({"a": {"continues": continues}})
    s.ask(resume={"run_id": "r0", "text": "Kept so far "})
    assert s.call().prefill == prefill
    s.text(" and on")
    s.ended()
    s.stored()
    assert s.said(Finished)[0].text == prefill + " and on"
    assert [m.mode for m in s.said(Seam)] == seams and s.said(Delta)[0].seq == 0


def test_resuming_nothing_is_a_plain_run(stage: Any) -> None:
    s = stage()
    s.ask(resume={"run_id": "r0", "text": " \n"})
    assert (s.call().prefill, s.call().continuation) == ("", "none")


# --- ends ----------------------------------------------------------------------------------------------------------


def test_busy_everywhere_is_overloaded(stage: Any) -> None:
    s = stage()
    s.ask()
    while not s.stores("end."):
        for _ in range(3):
            s.failed("busy")
        if not s.stores("end."):
            s.wake()
    s.stored()
    end = s.ends()[0]
    assert (end.code, end.retry_after_ms) == ("overloaded", 1000)
    assert [a.outcome for a in end.attempts] == ["busy"] * 3
    assert s.deadline - 2_000 < s.now < s.deadline  # it was worth waiting
    assert [m.reason for m in s.said(Waiting)] == ["failover", "failover", "busy"]


def test_room_after_a_rest(stage: Any) -> None:
    s = stage()
    s.ask()
    for reason in ("busy", "server_error", "no_responders"):
        s.failed(reason)
    assert s.stores("end.") == [] and [m.reason for m in s.said(Waiting)][-1] == "busy"
    s.failed("busy")  # said twice
    s.wake()
    assert (s.call().model, s.call().attempt) == ("a", 3)
    s.text("Hi")
    s.ended()
    s.stored()
    assert s.ends()[0].text == "Hi"
    assert [a.outcome for a in s.ends()[0].attempts] == ["busy", "server_error", "no_responders", "ok"]


@pytest.mark.parametrize("how", ["cancel", "vanish"])
def test_a_rest_ends_when_the_caller_leaves(stage: Any, how: str) -> None:
    s = stage({"a": {}})
    s.ask()
    s.failed("busy")
    getattr(s, how)()
    s.stored()
    assert s.ends()[0].code == "cancelled" and len(s.ends()[0].attempts) == 1
    assert s.state.runs == {} and "r1" not in s.timers
    assert s.state.local.in_flight == {"a": 0}


def test_every_model_failed(stage: Any) -> None:
    s = stage()
    s.ask()
    for reason in ("server_error", "stall_timeout", "rate_limited"):
        s.failed(reason)
    s.stored()
    assert s.ends()[0].code == "all_failed" and len(s.ends()[0].attempts) == 3


@pytest.mark.parametrize("words", ["Please try later.", "Later. ", ""])
@pytest.mark.parametrize("before", ["", "Half a"])
def test_the_emergency_reply_where_the_task_opts_in(stage: Any, words: str, before: str) -> None:
    s = stage({"a": {}, "b": NONE}, tasks={"general": {"emergency_reply": words}})
    s.ask()
    s.text(*([before] if before else []))
    s.failed("server_error")
    s.failed("server_error")
    s.stored()
    end = s.said(Finished)[0]
    assert (end.text, end.degraded, end.model) == (words, True, "emergency")
    assert s.kept() == words
    assert [(m.to_model, m.mode) for m in s.said(Seam)] == ([("emergency", "restart")] if before else [])


def test_a_refused_answer_is_not_replaced_without_opting_in(stage: Any) -> None:
    s = stage({"a": {}})
    s.ask()
    s.failed("server_error")
    s.stored()
    assert isinstance(s.ends()[0], Failed)


def test_the_end_is_said_only_after_the_log_has_it(stage: Any) -> None:
    s = stage()
    s.ask()
    s.text("Hi")
    out = s.ended()
    assert [type(e) for e in out] == [Wake, Store] and out[0].at_ms == 0
    event = out[1].event
    assert isinstance(event, RequestEnded) and out[1].msg_id == "end.r1"
    assert (event.outcome, event.text_chars, event.last_seq) == ("finished", 2, 0)
    assert out[1].give_up_ms == 59_500
    assert s.ends() == []
    assert len(s.stored()) == 1
    assert s.stored() == [] and s.not_stored() == []
    assert len(s.ends()) == 1 and s.ends()[0].recorded


@pytest.mark.parametrize("answer", ["bus_down", "log_full"])
def test_an_end_that_the_log_did_not_confirm_says_so(stage: Any, answer: str) -> None:
    s = stage()
    s.ask()
    s.text("Hi")
    s.ended()
    s.not_stored(code=answer)
    assert [e.recorded for e in s.ends()] == [False] and s.ends()[0].text == "Hi"
    s.stored()  # the log is back, later
    assert len(s.ends()) == 1


def test_no_content_in_any_stored_event(stage: Any) -> None:
    s = stage()
    secret = "xylophone"
    s.ask(messages=[{"role": "user", "content": secret}], user_id=secret, conversation_id=secret)
    s.text(secret)
    s.failed("server_error")
    s.text(" " + secret)
    s.ended()
    kept = [e for e in s.effects if isinstance(e, Store | Trace)]
    assert len(kept) == 4 and secret not in repr(kept)
    assert {type(e.event) for e in kept[1:]} == {AttemptEnded, ModelSwitched, RequestEnded}


# --- any history ---------------------------------------------------------------------------------------------------

WORDS = st.text(alphabet="ab \n", max_size=6)
ACTIONS = st.one_of(
    st.tuples(st.just("text"), WORDS),
    st.tuples(st.just("text"), st.just("the quick brown fox jumps")),
    st.tuples(st.just("ended"), st.sampled_from(["stop", "length", "refusal"])),
    st.tuples(st.just("failed"), st.sampled_from(sorted(get_args(RunFailure)))),
    st.tuples(st.sampled_from(["started", "wake", "unheard", "stored", "gap", "late", "gone", "pass"]), st.just("")),
    st.tuples(st.sampled_from(["cancel", "vanish", "not_stored"]), st.just("")),
)
CONTINUES = st.lists(st.sampled_from(["none", "native", "instructed"]), min_size=1, max_size=5)


def act(s: Any, name: str, word: str) -> None:
    match name:
        case "text" | "ended" | "failed":
            getattr(s, name)(word)
        case "wake":
            s.wake() if "r1" in s.timers else None
        case "gap":
            s.hear(RunText(run_id="r1", attempt=s.call().attempt, n=99, text="LOST"))
        case "late":
            if s.call().attempt > 0:
                s.hear(RunText(run_id="r1", attempt=s.call().attempt - 1, n=0, text="LATE"))
        case "gone":
            s.gone(f"i-{s.call().model}")
        case "pass":
            s.now += 1_700
        case "stored" | "not_stored":
            if s.stores("end."):
                getattr(s, name)()
        case _:
            getattr(s, name)()


@settings(max_examples=400, deadline=None)
@given(
    continues=CONTINUES,
    actions=st.lists(ACTIONS, max_size=25),
    next_one=st.booleans(),
    emergency=st.sampled_from([None, "Sorry. ", ""]),
)
def test_any_history_ends_once_and_readers_hold_exactly_the_text(
    stage: Any, continues: list[str], actions: list[tuple[str, str]], next_one: bool, emergency: str | None
) -> None:
    models = {f"m{i}": {"continues": c} for i, c in enumerate(continues)}
    s = stage(models, tasks={"general": {"emergency_reply": emergency}})
    s.ask(on_refusal="next" if next_one else "answer", stop=["bab", "fox jumps high"], max_tokens=12)
    for name, word in actions:
        before = s.call().attempt
        act(s, name, word)
        if s.call().attempt != before and s.call().continuation != "none":
            assert s.call().prefill == s.kept()
    s.cancel()
    s.stored()
    assert len(s.ends()) == 1 and len(s.stores("end.")) == 1 and s.state.runs == {} and "r1" not in s.timers
    assert s.said()[-1] is s.ends()[0]
    numbers = [d.seq for d in s.said(Delta)]
    assert numbers == list(range(len(numbers)))
    end, event = s.ends()[0], s.stores("end.")[0].event
    assert end.last_seq == event.last_seq == len(numbers) - 1
    assert event.seams == len(s.said(Seam)) and event.attempts == end.attempts
    assert all(load == 0 for load in s.state.local.in_flight.values())
    if isinstance(end, Finished):
        assert end.text == s.kept() and event.text_chars == len(end.text)
    assert "LATE" not in s.kept() + str(s.said(Delta)) and "LOST" not in s.kept()
