"""Text put together from two models: what is kept, what is asked of the next one, what a probe found, resuming."""

from __future__ import annotations

from typing import Any

import pytest

from understudy.messages.events import AttemptEnded, ModelLoaded, ModelProbed, ModelRecovered
from understudy.messages.generate import Delta, Finished, Seam

NONE = {"continues": "none"}


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


def test_a_count_of_pieces_does_not_make_a_broken_stream_whole(stage: Any) -> None:
    """One character each: far fewer tokens than were asked for."""
    s = stage()
    s.ask(max_tokens=20)
    s.text(*"Once upon a time there", exact=False)
    s.failed("broken_stream")
    assert s.stores("end.") == []
    call = s.call()
    assert (call.model, call.prefill, call.parameters.max_tokens) == ("b", "Once upon a time there", 20 - 7)


def test_what_was_once_only_guessed_never_tells_that_the_limit_is_reached(stage: Any) -> None:
    s = stage()
    s.ask(max_tokens=4)
    s.text("One", exact=False)
    s.failed("broken_stream")
    s.text(" two", tokens=3)
    s.failed("broken_stream")
    assert s.stores("end.") == [] and (s.call().model, s.call().parameters.max_tokens) == ("c", 1)


def test_after_a_restart_only_what_is_new_counts(stage: Any) -> None:
    s = stage({"a": {}, "b": NONE})
    s.ask(max_tokens=3)
    s.text("One", exact=False)
    s.failed("broken_stream")
    s.text("A dog", tokens=3)
    s.failed("broken_stream")
    s.stored()
    assert [(e.finish_reason, e.text) for e in s.said(Finished)] == [("length", "A dog")]


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
