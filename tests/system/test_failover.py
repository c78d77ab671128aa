"""Every fault of a provider with a healthy model behind it: what the caller hears, over real processes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.system.expected import FIRST, MID, ODD, WHOLE, assert_whole, model_of, tried

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(30)]


@WHOLE
@pytest.mark.parametrize("name", FIRST)
async def test_a_model_that_fails_before_its_first_word_leaves_no_trace(
    talk: Any, kit: Any, name: str, stream: bool
) -> None:
    prompt = f"First {name} {stream}."
    model = model_of(name, "1", stream)
    end, reading = await talk.both(stream, prompt, model=model)
    assert_whole(end, reading, kit.script(prompt))
    assert tried(end) == [(model, FIRST[name]), ("ok@next", "ok")]
    assert end.get("seams", 0) == 0


@WHOLE
@pytest.mark.parametrize("name", MID)
async def test_a_broken_stream_is_continued_with_one_seam(talk: Any, kit: Any, name: str, stream: bool) -> None:
    prompt = f"Middle {name} {stream}."
    end, reading = await talk.both(stream, prompt, model=f"{name}@1")
    assert_whole(end, reading, kit.script(prompt))
    assert tried(end) == [(f"{name}@1", MID[name]), ("ok@next", "ok")]
    assert end["seams"] == 1
    if reading is not None:
        (seam,) = reading.of("seam")
        assert (seam["mode"], seam["from_model"], seam["to_model"]) == ("continue", f"{name}@1", "ok@next")
        assert seam["reason"] == MID[name]
        assert seam["keep_seq"] >= 0


@WHOLE
@pytest.mark.parametrize("name", MID)
async def test_where_the_next_model_cannot_continue_it_begins_anew_visibly(
    talk: Any, kit: Any, name: str, stream: bool
) -> None:
    prompt = f"Anew {name} {stream}."
    end, reading = await talk.both(stream, prompt, model=f"{name}@plain")
    assert_whole(end, reading, kit.script(prompt))
    assert tried(end) == [(f"{name}@plain", MID[name]), ("ok@plain", "ok")]
    assert end["seams"] == 1
    if reading is not None:
        (seam,) = reading.of("seam")
        assert (seam["mode"], seam["keep_seq"]) == ("restart", -1)


@WHOLE
@pytest.mark.parametrize(("first", "second"), [("cut@instructed", "instructed@1"), ("cut@echo", "echo@1")])
async def test_an_instructed_model_continues_and_its_repetition_is_trimmed(
    talk: Any, kit: Any, first: str, second: str, stream: bool
) -> None:
    prompt = f"Instructed {first} {stream}."
    end, reading = await talk.both(stream, prompt, model=first)
    assert_whole(end, reading, kit.script(prompt))
    assert tried(end) == [(first, "broken_stream"), (second, "ok")]
    assert end["seams"] == 1


@WHOLE
async def test_two_cuts_in_one_answer(talk: Any, kit: Any, stream: bool) -> None:
    prompt = f"Twice {stream}."
    end, reading = await talk.both(stream, prompt, model="cut@twice")
    assert_whole(end, reading, kit.script(prompt))
    assert [m for m, _ in tried(end)] == ["cut@twice", "cut@again", "ok@next"]
    assert end["seams"] == 2


@WHOLE
@pytest.mark.parametrize("name", ODD)
async def test_odd_but_healthy_answers_need_one_attempt(talk: Any, kit: Any, name: str, stream: bool) -> None:
    prompt = f"Odd {name} {stream}."
    end, reading = await talk.both(stream, prompt, model=f"{name}@1")
    assert_whole(end, reading, kit.script(prompt))
    assert tried(end) == [(f"{name}@1", "ok")]
    assert end["usage"].get("estimated", False) == (name == "no-usage")
    assert end["attempts"][0].get("served_by") == ("some-other-model" if name == "wrong-model" else None)


@WHOLE
async def test_nobody_at_the_endpoint(talk: Any, kit: Any, stream: bool) -> None:
    end, reading = await talk.both(stream, "Nobody.", model="ok@nobody")
    assert_whole(end, reading, kit.script("Nobody."))
    assert tried(end) == [("ok@nobody", "refused_connection"), ("ok@next", "ok")]


async def test_order_by_quality_and_failover_to_the_next_best(talk: Any, kit: Any) -> None:
    end = await talk.whole("Ranked.", task="ranked")
    assert_whole(end, None, kit.script("Ranked."))
    assert tried(end) == [("500@best", "server_error"), ("ok@best", "ok")]


@WHOLE
async def test_length_and_refusal_are_answers(talk: Any, kit: Any, stream: bool) -> None:
    end, reading = await talk.both(stream, "Long.", model="length@1")
    assert_whole(end, reading, kit.script("Long.", 12))
    assert (end["finish_reason"], tried(end)) == ("length", [("length@1", "ok")])
    end, reading = await talk.both(stream, "No.", model="refusal@1")
    assert_whole(end, reading, "I'm sorry, but I can't help with that.")
    assert (end["finish_reason"], tried(end)) == ("refusal", [("refusal@1", "ok")])


@WHOLE
async def test_a_refusal_goes_to_the_next_model_where_the_caller_says_so(talk: Any, kit: Any, stream: bool) -> None:
    prompt = f"Refused {stream}."
    end, reading = await talk.both(stream, prompt, model="refusal@1", on_refusal="next")
    assert_whole(end, reading, kit.script(prompt))
    assert tried(end) == [("refusal@1", "refused"), ("ok@next", "ok")]


@WHOLE
@pytest.mark.parametrize("name", ["400", "413", "422", "context-too-long"])
async def test_the_callers_fault_is_told_after_one_attempt(talk: Any, system: Any, name: str, stream: bool) -> None:
    prompt = f"Fault {name} {stream}."
    end, _ = await talk.both(stream, prompt, model=f"{name}@1")
    code = "context_too_long" if name == "context-too-long" else "caller_fault"
    assert (end["type"], end["code"]) == ("model.failed.v1", code)
    assert tried(end) == [(f"{name}@1", code)]
    assert end["attempts"][0]["status"] == (int(name) if name.isdigit() else 400)
    assert len(system.upstream(prompt)) == 1
    (outcome,) = await system.outcomes(end["run_id"])
    assert outcome["outcome"] == code


async def test_context_too_long_goes_only_to_a_larger_window(talk: Any, kit: Any) -> None:
    end = await talk.whole("Larger.", model="context-too-long@2")
    assert_whole(end, None, kit.script("Larger."))
    assert tried(end) == [("context-too-long@2", "context_too_long"), ("ok@large", "ok")]


@WHOLE
@pytest.mark.parametrize(("model", "resumable"), [("cut@alone", True), ("500@alone", False)])
async def test_no_truncated_answer_is_called_finished(
    talk: Any, system: Any, kit: Any, model: str, resumable: bool, stream: bool
) -> None:
    end, reading = await talk.both(stream, "Alone.", model=model)
    assert (end["type"], end["code"], len(end["attempts"])) == ("model.failed.v1", "all_failed", 1)
    assert end.get("resumable", False) is (resumable and stream)
    assert "text" in end and kit.script("Alone.")[:12] not in end["text"]
    if reading is not None:
        assert kit.script("Alone.").startswith(reading.text)
    (outcome,) = await system.outcomes(end["run_id"])
    assert outcome["outcome"] == "all_failed"


@WHOLE
async def test_a_whole_text_whose_end_was_lost_is_asked_for_again_visibly(talk: Any, kit: Any, stream: bool) -> None:
    """The next model has nothing to add: that is no proof that nothing is missing, and no failure either."""
    prompt = f"Stop {stream}."
    words = kit.script(prompt).split(" ")
    stop = f"{words[9]} {words[10]}"  # all before it is out when the stream breaks
    end, reading = await talk.both(stream, prompt, model="cut@whole", stop=[stop])
    assert_whole(end, reading, " ".join(words[:9]) + " ")
    assert (end["finish_reason"], end["seams"]) == ("stop", 1)
    assert tried(end) == [("cut@whole", "broken_stream"), ("ok@next", "empty"), ("ok@next", "ok")]
    if reading is not None:
        assert [seam["mode"] for seam in reading.of("seam")] == ["restart"]


@WHOLE
async def test_a_stream_that_breaks_at_its_limit_by_pieces_is_gone_on_with(talk: Any, kit: Any, stream: bool) -> None:
    """A provider's pieces are no tokens: nobody knows that the limit was reached, so one token more is asked for."""
    prompt = f"Last {stream}."
    end, reading = await talk.both(stream, prompt, model="cut@last", max_tokens=10)
    assert_whole(end, reading, kit.script(prompt, 11))
    assert (end["finish_reason"], tried(end)) == ("length", [("cut@last", "broken_stream"), ("ok@next", "ok")])
    assert end["usage"]["completion_tokens"] == 11 and end["usage"]["estimated"]


async def test_resume_goes_on_from_the_kept_text(talk: Any, kit: Any) -> None:
    text = kit.script("Resume.")
    end = await talk.whole("Resume.", model="ok@1", resume={"run_id": "01X", "text": text[:60]})
    assert end["text"] == text
