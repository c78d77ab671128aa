"""Hedging: the second model is asked at the first one's own percentile; who speaks first goes on; fencing is exact."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.selector.hedge import CREDIT_CAP, Allowance
from understudy.messages.events import RequestEnded
from understudy.messages.generate import Attempt, Delta, Failed, Finished, Usage
from understudy.messages.run import CancelRun, RunEnded, RunFailed, RunModel, RunQueued, RunStarted, RunText
from understudy.messages.step import Deaf, Send, Unheard

P95_MS = 104.0  # the bound of the bucket that 100 ms are in


def seen(s: Any, model: str = "a", times: int = 30, ms: float = 100.0, outcome: str = "ok") -> None:
    for n in range(times):
        tried = (Attempt(model=model, outcome=outcome, first_token_ms=ms if outcome == "ok" else None, total_ms=ms),)
        facts: dict[str, Any] = {"instance": "x", "outcome": "finished", "task": "general", "as_of_seq": 1}
        s.happen(RequestEnded(at_ms=1, run_id=f"old{n}", topology="", digest="", attempts=tried, **facts))


def hedged(stage: Any, models: Any = None, credit: float = 5.0, ask: Any = None, **topology: Any) -> Any:
    s = stage(models, **topology)
    seen(s)
    s.state.hedges.credit = credit
    s.ask(**{"hedge": True, **(ask or {})})
    return s


def second(stage: Any, **more: Any) -> Any:
    """`a` is asked and silent, `b` is asked too."""
    s = hedged(stage, **more)
    s.wake()
    assert s.now == s.begun + P95_MS and asked(s) == [("a", 0), ("b", 1)]
    return s


def asked(s: Any) -> list[tuple[str, int]]:
    orders = [e.message for e in s.effects if isinstance(e, Send) and isinstance(e.message, RunModel)]
    return [(one.model, one.attempt) for one in orders]


def cancelled(s: Any) -> list[tuple[str, int]]:
    sent = [e for e in s.effects if isinstance(e, Send) and isinstance(e.message, CancelRun)]
    return [(e.subject.rsplit(".", 1)[1], e.message.attempt) for e in sent]


def started(s: Any, number: int, instance: str) -> list[Any]:
    return s.hear(RunStarted(run_id="r1", attempt=number, instance=instance))


def text(s: Any, number: int, words: str, n: int = 0) -> list[Any]:
    return s.hear(RunText(run_id="r1", attempt=number, instance=f"i{number}", n=n, text=words))


def failed(s: Any, number: int, reason: Any = "server_error") -> list[Any]:
    return s.hear(RunFailed(run_id="r1", attempt=number, reason=reason))


def outcomes(s: Any) -> list[tuple[str, str]]:
    return [(a.model, a.outcome) for a in s.stores("end.")[0].event.attempts]


def _usage() -> Usage:
    return Usage(prompt_tokens=3, completion_tokens=2)


def test_the_second_goes_on_where_it_speaks_first(stage: Any) -> None:
    s = second(stage)
    started(s, 0, "i-a")
    started(s, 1, "i-b")
    s.now += 20
    text(s, 1, "Hi")
    assert cancelled(s) == [("i-a", 0)]
    assert [type(e.message) for e in text(s, 0, "Late")] == [CancelRun] and failed(
        s, 0, "cancelled"
    ) == []  # fenced off
    text(s, 1, " there", n=1)
    s.hear(RunEnded(run_id="r1", attempt=1, pieces=2, finish_reason="stop", usage=_usage()))
    s.stored()
    assert (s.ends()[0].text, s.ends()[0].model, s.kept()) == ("Hi there", "b", "Hi there")
    assert outcomes(s) == [("a", "hedged"), ("b", "ok")] and s.stores("attempt.") == []
    won = s.stores("end.")[0].event.attempts[1]
    assert won.first_token_ms == 20.0, "its own time"
    assert s.ends()[0].usage.estimated, "what the other one used is not known"
    assert s.state.local.suspects == {} and set(s.state.local.in_flight.values()) == {0}


def test_the_first_goes_on_where_it_speaks_first(stage: Any) -> None:
    s = second(stage)
    started(s, 1, "i-b")
    text(s, 0, "Hi")
    assert cancelled(s) == [("i-b", 1)]
    assert text(s, 1, "Late") == [s.state.where.cancel(RunText(run_id="r1", attempt=1, instance="i1", n=0, text=""))]
    s.hear(RunEnded(run_id="r1", attempt=0, pieces=1, finish_reason="stop", usage=_usage()))
    assert outcomes(s) == [("b", "hedged"), ("a", "ok")] and set(s.state.local.in_flight.values()) == {0}


def test_a_single_reply_that_comes_whole_decides_too(stage: Any) -> None:
    s = second(stage, ask={"stream": False})
    s.hear(RunEnded(run_id="r1", attempt=1, pieces=0, finish_reason="stop", usage=_usage(), text="All"))
    s.stored()
    assert s.ends()[0].text == "All" and outcomes(s) == [("a", "hedged"), ("b", "ok")]


def test_where_the_first_fails_the_second_is_already_asked(stage: Any) -> None:
    s = second(stage)
    failed(s, 0)
    assert asked(s) == [("a", 0), ("b", 1)] and s.timers["r1"].at_ms == s.begun + P95_MS + 10_000
    failed(s, 1)
    assert asked(s)[-1] == ("c", 2)
    text(s, 2, "Hi")
    assert [(e.event.attempt, e.event.reason) for e in s.stores("attempt.")] == [
        (0, "server_error"),
        (1, "server_error"),
    ]


def test_where_the_second_fails_the_first_goes_on_and_numbers_are_not_used_twice(stage: Any) -> None:
    s = second(stage)
    failed(s, 1)
    assert [(e.event.attempt, e.event.model) for e in s.stores("attempt.")] == [(1, "b")]
    assert text(s, 1, "Late") != [] and s.kept() == ""
    failed(s, 0)
    assert asked(s)[-1] == ("c", 2)


@pytest.mark.parametrize("cut", ["before it was asked", "after"])
def test_the_seconds_silence_is_lost_text_only_where_the_bus_was_away_since_it_was_asked(stage: Any, cut: str) -> None:
    s = hedged(stage)
    if cut == "after":
        s.wake()
    s.feed(Deaf(s.now, 3_000.0, cut=True))
    if cut != "after":
        s.wake()
    assert asked(s) == [("a", 0), ("b", 1)]
    failed(s, 0)
    assert s.timers["r1"].at_ms == s.begun + P95_MS + 10_000 + (3_000 if cut == "after" else 0)
    s.wake()
    told = [(e.event.attempt, e.event.reason) for e in s.stores("attempt.")]
    assert told == [(0, "server_error"), (1, "text_lost" if cut == "after" else "first_token_timeout")]


def test_what_the_seconds_provider_asks_for_is_told_where_all_fail(stage: Any) -> None:
    s = second(stage, models={"a": {}, "b": {}})
    s.hear(RunFailed(run_id="r1", attempt=1, reason="rate_limited", status=429, retry_after_ms=2_000))
    failed(s, 0)
    s.stored()
    assert (s.ends()[0].code, s.ends()[0].retry_after_ms) == ("all_failed", 2_000)


@pytest.mark.parametrize("how", ["busy", "unheard"])
def test_a_second_without_room_is_kept_for_later(stage: Any, how: str) -> None:
    s = second(stage)
    failed(s, 1, "busy") if how == "busy" else s.feed(Unheard(s.now, "_INBOX_A.s1.run.r1.1"))
    assert s.stores("attempt.") == [] and list(s.state.runs["r1"].room.later) == ["b"]
    text(s, 0, "Hi")
    assert s.kept() == "Hi" and set(s.state.local.in_flight.values()) == {0, 1}


def test_a_dead_runner_takes_the_second_alone(stage: Any) -> None:
    s = second(stage)
    started(s, 1, "i-b")
    s.gone("i-b")
    assert [(e.event.attempt, e.event.reason) for e in s.stores("attempt.")] == [(1, "gone")]
    text(s, 0, "Hi")
    assert s.kept() == "Hi"


def test_a_dead_runner_that_had_both_is_left_for_the_third(stage: Any) -> None:
    s = second(stage)
    started(s, 0, "i-both")
    started(s, 1, "i-both")
    s.gone("i-both")
    assert asked(s)[-1] == ("c", 2)
    assert sorted(e.event.attempt for e in s.stores("attempt.")) == [0, 1]


@pytest.mark.parametrize("how", ["cancel", "vanish", "deadline"])
def test_both_are_cancelled_when_the_run_ends(stage: Any, how: str) -> None:
    s = second(stage, ask={"deadline_ms": 9_000})
    started(s, 0, "i-a")
    started(s, 1, "i-b")
    s.wake() if how == "deadline" else getattr(s, how)()
    s.stored()
    assert sorted(cancelled(s)) == [("i-a", 0), ("i-b", 1)]
    assert set(s.state.local.in_flight.values()) == {0} and s.state.runs == {}


PRICED = {"usd_per_mtok_out": 1.0}


@pytest.mark.parametrize(
    ("more", "hedges"),
    [
        ({}, True),
        ({"ask": {"hedge": None}}, False),
        ({"ask": {"hedge": False}, "tasks": {"general": {"hedge": True}}}, False),
        ({"ask": {"hedge": None}, "tasks": {"general": {"hedge": True}}}, True),
        ({"models": {"a": {}, "b": PRICED}}, False),
        ({"models": {"a": {}, "b": {"name": "x/b:free"}}}, False),
        ({"models": {"a": {"name": "x/a:free"}, "b": {}}}, False),
        ({"models": {"a": {}}}, False),
        ({"credit": 0.9}, False),
        ({"credit": 0.92}, True),
    ],
)
def test_when_it_is_done(stage: Any, more: Any, hedges: bool) -> None:
    s = hedged(stage, **more)
    s.wake()
    s.wake() if s.timers["r1"].at_ms == s.begun + P95_MS else None
    assert (("b", 1) in asked(s) and s.now < s.begun + 200) is hedges


def test_never_where_the_first_has_a_price(stage: Any) -> None:
    s = hedged(stage)
    s.state.runs["r1"].topology = stage.plan({"a": PRICED, "b": {}, "c": {}})
    s.wake()
    s.wake()
    assert asked(s) == [("a", 0), ("b", 1)] and s.now == s.begun + 10_000, "the limit, not the percentile"


def test_too_few_times_and_said_words_hedge_nothing(stage: Any) -> None:
    s = stage()
    seen(s, times=19)
    s.state.hedges.credit = 5.0
    s.ask(hedge=True)
    assert s.timers["r1"].at_ms == s.begun + 10_000
    s = hedged(stage)
    text(s, 0, "Hi")
    s.wake()
    assert asked(s) == [("a", 0)]


def test_a_hedged_time_counts_as_that_long_at_least(stage: Any) -> None:
    s = stage()
    seen(s)
    seen(s, ms=700.0, outcome="hedged")
    assert s.state.knowledge.p95_first_token_ms("a") > 700


def test_a_second_that_was_not_needed_seems_no_quicker(stage: Any) -> None:
    """The first spoke a moment after it was asked: that says nothing of how long it takes."""
    s = stage()
    seen(s, "b")
    seen(s, "b", times=600, ms=2.0, outcome="hedged")
    assert s.state.knowledge.p95_first_token_ms("b") == P95_MS


@given(st.lists(st.booleans(), max_size=300), st.sampled_from([0.0, 0.05, 0.08, 0.5, 1.0]))
def test_never_more_than_the_share(wants: list[bool], ratio: float) -> None:
    allowance, taken = Allowance(), 0
    for n, want in enumerate(wants, 1):
        allowance.earn(ratio)
        taken += want and allowance.take()
        assert taken <= ratio * n + 1e-6 and allowance.credit <= CREDIT_CAP


WORDS = st.lists(
    st.tuples(st.sampled_from(["start", "text", "fail", "busy", "end", "empty", "timer", "gone"]), st.integers(0, 3)),
    max_size=25,
)


@given(WORDS)
def test_any_history_has_one_end_one_writer_and_no_load_left(stage: Any, history: Any) -> None:
    s = hedged(stage)
    pieces: Counter[int] = Counter()
    for word, number in history:
        match word:
            case "start":
                started(s, number, f"i{number}")
            case "text":
                text(s, number, f"{number}", n=pieces[number])
                pieces[number] += 1
            case "fail" | "busy":
                failed(s, number, "server_error" if word == "fail" else "busy")
            case "end" | "empty":
                words = "" if word == "empty" else f"{number}"
                kind = {"finish_reason": "stop", "usage": _usage(), "text": words}
                s.hear(RunEnded(run_id="r1", attempt=number, pieces=pieces[number], **kind))
            case "timer" if "r1" in s.timers:
                s.wake()
            case _:
                s.gone(f"i{number}")
    s.cancel()
    s.stored()
    assert len(s.stores("end.")) == 1 and len(s.ends()) == 1 and s.state.runs == {}
    assert set(s.state.local.in_flight.values()) <= {0}
    numbers = [number for _, number in asked(s)]
    assert numbers == sorted(set(numbers)), "no number twice"
    ids = [e.msg_id for e in s.stores("attempt.")]
    assert len(ids) == len(set(ids))
    end = s.ends()[0]
    if isinstance(end, Finished):
        assert end.text == s.kept() + ("" if s.said(Delta) else end.text)
    else:
        assert isinstance(end, Failed)


@pytest.mark.parametrize("two", [False, True])
def test_a_run_that_another_selector_has_ended_is_no_load_any_longer(stage: Any, two: bool) -> None:
    """We were taken for dead: what it said stands, and neither model is with us now."""
    s = second(stage) if two else hedged(stage)
    started(s, 0, "i-a")
    if two:
        started(s, 1, "i-b")
    assert set(s.state.local.in_flight.values()) == {1}
    facts: dict[str, Any] = {"instance": "s2", "outcome": "interrupted", "task": "general", "as_of_seq": 1}
    s.happen(RequestEnded(at_ms=1, run_id="r1", topology="", digest="", **facts))
    assert not s.state.runs and sorted(cancelled(s)) == [("i-a", 0), ("i-b", 1)][: 1 + two]
    assert set(s.state.local.in_flight.values()) == {0} and s.state.local.suspects == {}


def _over(s: Any, number: int, finish: Any, pieces: int = 0) -> list[Any]:
    return s.hear(RunEnded(run_id="r1", attempt=number, pieces=pieces, finish_reason=finish, usage=_usage()))


def test_a_wordless_refusal_of_the_first_leaves_the_word_to_the_second(stage: Any) -> None:
    """Also where no third model is left: the request wants another's answer, and another is asked already."""
    s = second(stage, models={"a": {}, "b": {}}, ask={"on_refusal": "next"})
    _over(s, 0, "refusal")
    assert not s.stores("end.")
    text(s, 1, "Hi")
    _over(s, 1, "stop", pieces=1)
    s.stored()
    assert s.ends()[0].text == "Hi" and outcomes(s) == [("a", "refused"), ("b", "ok")]


@pytest.mark.parametrize(
    ("finish", "pieces", "word"), [("refusal", 0, "refused"), ("stop", 0, "empty"), ("stop", 2, "text_lost")]
)
def test_a_second_that_is_over_without_a_word_is_recorded_as_what_it_was(
    stage: Any, finish: Any, pieces: int, word: str
) -> None:
    s = second(stage)
    _over(s, 1, finish, pieces)
    text(s, 0, "Hi")
    _over(s, 0, "stop", pieces=1)
    assert outcomes(s) == [("b", word), ("a", "ok")]
    assert ("b" in s.state.local.suspects) == (word == "empty"), "only one that answered nothing is to blame"


def test_the_time_of_a_second_is_its_own_where_the_first_turns_out_to_wait_in_a_queue(stage: Any) -> None:
    s = hedged(stage, credit=0.0)
    for _ in "abc":
        s.failed("busy", waiting=0)
    assert s.call().may_wait
    seen(s, s.call().model)
    s.state.hedges.credit = 5.0
    s.wake()
    s.wake() if len(asked(s)) == 4 else None
    rival = asked(s)[-1][1]
    s.hear(RunQueued(run_id="r1", attempt=rival - 1, instance="i-late"))
    s.now += 20
    text(s, rival, "Hi")
    s.hear(RunEnded(run_id="r1", attempt=rival, pieces=1, finish_reason="stop", usage=_usage()))
    assert s.stores("end.")[0].event.attempts[-1].first_token_ms == 20.0
    assert cancelled(s) == [("i-late", rival - 1)]
