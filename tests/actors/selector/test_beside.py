"""What an answer holds besides its text: tool calls and reasoning, numbered and dropped with it, never continued."""

from __future__ import annotations

from typing import Any

from understudy.messages.generate import Delta, Failed, Finished, Resend, Seam
from understudy.messages.run import RunText
from understudy.messages.tools import ToolCall, ToolPart

MODELS = {name: {"capabilities": ["chat", "tools", "json"]} for name in "abc"}
TOOLS = [{"name": "look"}]
CALL = ToolCall(id="c1", name="look", arguments='{"far":1}')


def say(s: Any, text: str, kind: Any, call: ToolPart | None = None) -> None:
    """A runner passes on something that is no text."""
    key = "r1", s.call().attempt
    n = s.pieces.get(key, 0)
    s.pieces[key] = n + 1
    s.hear(RunText(run_id="r1", attempt=key[1], n=n, text=text, kind=kind, call=call))


def part(s: Any, text: str, name: str = "") -> None:
    say(s, text, "tool_call", ToolPart(index=0, id="c1" if name else "", name=name))


def test_a_tool_call_is_told_as_it_is_written_and_whole_at_the_end(stage: Any) -> None:
    s = stage(MODELS)
    s.ask(tools=TOOLS)
    assert s.call().tools[0].name == "look"
    s.text("Let me see. ")
    part(s, "", "look")
    part(s, '{"far":')
    part(s, "1}")
    s.ended("tool_calls", tool_calls=(CALL,))
    s.stored()
    deltas = s.said(Delta)
    assert [(d.seq, d.kind, d.text) for d in deltas] == [
        (0, "text", "Let me see."),
        (1, "tool_call", ""),
        (2, "tool_call", '{"far":'),
        (3, "tool_call", "1}"),
        (4, "text", " "),
    ]
    end = s.said(Finished)[0]
    assert (end.finish_reason, end.tool_calls, end.text, end.last_seq) == ("tool_calls", (CALL,), "Let me see. ", 4)
    (stored,) = s.stores("end.")
    assert stored.event.tool_calls == 1 and "far" not in str(stored.event)


def test_a_call_without_any_text_is_an_answer(stage: Any) -> None:
    s = stage(MODELS)
    s.ask(tools=TOOLS, stream=False)
    s.ended("tool_calls", tool_calls=(CALL,))
    s.stored()
    assert (s.said(Finished)[0].text, s.said(Finished)[0].tool_calls) == ("", (CALL,))


def test_half_a_call_is_dropped_visibly_and_the_next_model_begins_anew(stage: Any) -> None:
    s = stage(MODELS)
    s.ask(tools=TOOLS)
    part(s, "", "look")
    part(s, '{"fa')
    s.failed("broken_stream")
    assert (s.call().model, s.call().prefill, s.call().continuation) == ("b", "", "none")
    part(s, "", "look")
    s.ended("tool_calls", tool_calls=(CALL,))
    s.stored()
    (seam,) = s.said(Seam)
    assert (seam.mode, seam.keep_seq, seam.next_seq) == ("restart", -1, 2)
    assert [d.seq for d in s.said(Delta)] == [0, 1, 2]
    assert s.said(Finished)[0].seams == 1


def test_json_is_never_continued_and_no_canned_words_stand_in(stage: Any) -> None:
    s = stage({"a": MODELS["a"], "b": MODELS["b"]}, tasks={"general": {"emergency_reply": "One moment."}})
    s.ask(format={"type": "json"})
    s.text('{"place":')
    s.failed("broken_stream")
    assert s.call().prefill == ""
    s.text("Sure!")
    s.failed("invalid_output")
    s.stored()
    assert [f.code for f in s.said(Failed)] == ["all_failed"]
    assert s.said(Finished) == []


def test_what_was_not_of_the_form_moves_on_but_makes_nobody_a_suspect(stage: Any) -> None:
    s = stage(MODELS)
    s.ask(format={"type": "json"})
    s.failed("invalid_output")
    assert s.call().model == "b"
    assert not s.state.local.is_suspect("a", s.now)
    s.ask("r2", "other")
    s.failed("server_error", run="r2")
    assert s.state.local.is_suspect("a", s.now)


def test_reasoning_is_told_to_who_wants_it(stage: Any) -> None:
    for wanted in (False, True):
        s = stage(MODELS)
        s.ask(reasoning=wanted)
        say(s, "hm, ", "reasoning")
        say(s, "well", "reasoning")
        s.text("Yes.")
        s.ended()
        s.stored()
        kinds = [d.kind for d in s.said(Delta)]
        assert kinds == (["reasoning"] * 2 if wanted else []) + ["text"]
        assert [d.seq for d in s.said(Delta)] == list(range(len(kinds)))
        assert s.said(Finished)[0].reasoning == ("hm, well" if wanted else None)
        assert s.said(Finished)[0].text == "Yes."


def test_thoughts_alone_are_no_answer_and_keep_the_stall_timer_quiet(stage: Any) -> None:
    s = stage(MODELS)
    s.ask()
    s.now += 9_000
    say(s, "hm", "reasoning")
    s.wake()
    assert s.call().model == "a", "it is alive"
    s.ended()
    assert s.call().model == "b"


def test_a_reader_who_lost_a_part_of_a_call_gets_it_again(stage: Any) -> None:
    s = stage(MODELS)
    s.ask(tools=TOOLS)
    part(s, "", "look")
    part(s, "{}")
    s.put(Resend(run_id="r1", from_seq=1), "again")
    assert [(d.seq, d.kind, d.text) for d in s.said(Delta, "again")] == [(1, "tool_call", "{}")]
