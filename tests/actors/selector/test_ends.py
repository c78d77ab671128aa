"""How a request ends, and that in any history it ends once and readers hold exactly the text."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.messages.events import AttemptEnded, ModelSwitched, RequestEnded
from understudy.messages.generate import Delta, Failed, Finished, Seam, Waiting
from understudy.messages.run import RunFailure, RunText
from understudy.messages.step import Store, Trace, Wake


def test_busy_everywhere_is_overloaded(stage: Any) -> None:
    s = stage()
    s.ask()
    while not s.stores("end."):
        for _ in range(6):  # asked once without and once with permission to wait
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
    assert s.stores("end.") == [] and (s.call().model, s.call().may_wait) == ("a", True)
    s.failed("busy")  # sent away all the same: it is stopping, say
    assert [m.reason for m in s.said(Waiting)][-1] == "busy"
    s.failed("busy")  # said twice
    s.wake()
    assert (s.call().model, s.call().attempt, s.call().may_wait) == ("c", 4, False)
    s.text("Hi")
    s.ended()
    s.stored()
    assert s.ends()[0].text == "Hi"
    assert [a.outcome for a in s.ends()[0].attempts] == ["busy", "server_error", "no_responders", "ok"]


def test_the_key_that_served_and_the_one_that_was_refused_are_recorded(stage: Any) -> None:
    s = stage()
    s.ask()
    s.failed("auth", status=401, key_id="k1")
    s.text("Hi")
    s.ended(key_id="k2")
    s.stored()
    attempts = s.stores("end.")[0].event.attempts
    assert [(a.outcome, a.status, a.key_id) for a in attempts] == [("auth", 401, "k1"), ("ok", None, "k2")]


def test_who_really_served_is_recorded_and_told(stage: Any) -> None:
    s = stage()
    s.ask()
    s.text("Hi")
    s.failed("broken_stream")
    s.text(" there")
    s.ended(served_by="b-0613")
    s.stored()
    recorded = s.stores("end.")[0].event.attempts
    assert [(a.model, a.served_by) for a in recorded] == [("a", None), ("b", "b-0613")]
    assert s.ends()[0].attempts == recorded


@pytest.mark.parametrize("how", ["cancel", "vanish"])
def test_a_rest_ends_when_the_caller_leaves(stage: Any, how: str) -> None:
    s = stage({"a": {}})
    s.ask()
    s.failed("busy")
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
    s = stage({"a": {}, "b": {"continues": "none"}}, tasks={"general": {"emergency_reply": words}})
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
            s.hear(RunText(run_id="r1", attempt=s.call().attempt, instance="i-a", n=99, text="LOST"))
        case "late":
            if s.call().attempt > 0:
                s.hear(RunText(run_id="r1", attempt=s.call().attempt - 1, instance="i-a", n=0, text="LATE"))
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
