"""The selector as a whole: what is told apart from runs, stopping, folding, decisions that can be repeated."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.selector import core
from understudy.actors.selector.replay import Record, replay
from understudy.messages.events import AttemptEnded, ModelRecovered, ModelUnavailable, RequestEnded
from understudy.messages.generate import Delta, Finished
from understudy.messages.run import ModelLoad, RunFailure, RunnerBeat, RunText
from understudy.messages.step import (
    Booted,
    CallText,
    Deaf,
    EdgeReady,
    Heard,
    Send,
    Stopping,
    Store,
    Stored,
    StoreFailed,
    Trace,
    Wake,
    Woke,
)
from understudy.messages.wire import encode


@pytest.mark.parametrize(
    "message",
    [
        CallText(1.0, "x", "t", 1),
        EdgeReady(1.0, {}),
        Woke(1.0, "nobody", 0),
        Stored(1.0, "end.nobody", 1, False),
        Stored(1.0, "attempt.r1.0", 1, False),
        StoreFailed(1.0, "switched.r1.0", "bus_down"),
        Heard(1.0, "x", RunText(run_id="nobody", attempt=0, instance="i-a", n=1, text="t")),
    ],
)
def test_what_is_not_ours_does_nothing(stage: Any, message: Any) -> None:
    s = stage()
    s.ask()
    assert s.feed(message) == [] and "r1" in s.state.runs


def test_stopping_ends_what_is_in_hand_as_interrupted_and_resumable(stage: Any) -> None:
    s = stage()
    s.ask()
    out = s.feed(Stopping(1.0))
    ends = [e.event for e in out if isinstance(e, Store)]
    assert [e.outcome for e in ends] == ["interrupted"]


def test_draining_lets_runs_end_by_themselves_and_interrupts_the_rest_in_time(stage: Any) -> None:
    s = stage()
    s.ask("r1")
    s.ask("r2", reply="other")
    assert s.feed(Stopping(s.now, s.now + 5_000)) == [Wake(s.now + 5_000, "drained", 0)]
    s.text("He")
    s.ended()
    s.stored()
    assert isinstance(s.ends()[0], Finished) and s.ends("other") == [] and core.in_hand(s.state) == 1
    out = s.feed(Woke(s.now + 5_000, "drained", 0))
    assert [e.event.outcome for e in out if isinstance(e, Store)] == ["interrupted"]


def test_told_to_hurry_while_draining_everything_is_interrupted(stage: Any) -> None:
    s = stage()
    s.ask()
    s.feed(Stopping(s.now, s.now + 5_000))
    assert [e.event.outcome for e in s.feed(Stopping(s.now + 1, s.now + 1)) if isinstance(e, Store)] == ["interrupted"]


def test_what_could_not_be_heard_counts_neither_as_silence_nor_as_a_stall(stage: Any) -> None:
    s = stage()
    s.ask()
    due = s.timers["r1"].at_ms
    later = due + 3_000
    s.feed(Deaf(later, later - s.now))
    assert s.feed(Woke(later, "sweep", 0)) == [Wake(later + s.settings.sweep_ms, "sweep", 1)]
    woke = s.feed(Woke(later, "r1", 0))
    assert s.call().model == "a" and [type(e) for e in woke] == [Wake]


@pytest.mark.parametrize(
    ("happened", "reason"),
    [
        (["cut"], "text_lost"),
        (["a word", "cut"], "text_lost"),
        (["cut", "a word"], "stall_timeout"),
        (["cut", "started"], "first_token_timeout"),  # it has the order, so its silence is its own
    ],
)
def test_silence_after_the_bus_was_away_says_nothing_about_the_model_until_it_is_heard_again(
    stage: Any, happened: list[str], reason: str
) -> None:
    s = stage()
    s.ask()
    cut = Deaf(s.now, 100.0, cut=True)
    does = {"cut": lambda: s.feed(cut), "a word": lambda: s.text("Once "), "started": s.started}
    for one in happened:
        does[one]()
    s.feed(Woke(s.timers["r1"].at_ms, "r1", 0))
    s.feed(Woke(s.timers["r1"].at_ms, "r1", 0))
    assert s.stores("attempt.")[0].event.reason == reason and s.call().model == "b"


def test_a_fact_that_was_folded_before_is_skipped(stage: Any) -> None:
    s = stage()
    s.happen(ModelUnavailable(at_ms=0, model="a", reason="engine", was="healthy", retry_at_ms=9))
    s.seq -= 1
    s.happen(ModelRecovered(at_ms=0, model="a", was="unavailable", by="probe"))
    assert s.state.knowledge.models["a"].status == "unavailable" and s.state.knowledge.seq == 2


def test_a_new_topology_keeps_what_was_learned_of_a_model(stage: Any) -> None:
    s = stage()
    s.happen(AttemptEnded(at_ms=5, run_id="q", attempt=0, model="a", reason="engine"))
    s.ask()
    topology = core.TopologyApplied(at_ms=0, hash="h2", body=stage.plan({"a": {}, "z": {}}))
    s.happen(topology)
    assert list(s.state.knowledge.models) == ["a", "z"] and s.state.knowledge.models["a"].bad == 1.0
    assert s.call().model == "b"
    s.failed("server_error")
    assert s.call().model == "a", "and c, which it has no longer, is not tried"
    s.failed("server_error")
    assert s.call().model == "a"


def test_booted_says_who_we_are() -> None:
    state = core.State()
    assert core.step(state, Booted(1.0, "selector", "s9", "app", "_INBOX_A.s9", "id"), core.Settings()) == []
    assert state.where.run_subject("org/hub", "m:1") == "app.ask.runner.run.org_hub.m_1"


HISTORY = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 4)),
        st.tuples(st.sampled_from([*get_args(RunFailure), "ok", "ok", "store"]), st.integers(0, 4)),
    ),
    max_size=25,
)


@given(HISTORY)
def test_recorded_decisions_can_be_repeated_from_the_log_alone(stage: Any, history: list[tuple[str, int]]) -> None:
    s = stage({"a": {}, "b": {"slots": 1}, "c": {"context_tokens": 3}, "d": {}}, beats=False)
    for model in "abc":
        s.hear(RunnerBeat(instance=f"i-{model}", models={model: ModelLoad(slots=1, in_flight=0)}))
    log: list[Any] = [(1, core.TopologyApplied(at_ms=0, hash="h1", body=s.topology))]
    written = 0
    for n, (word, k) in enumerate(history):
        s.now += 100
        alive = sorted(r for r, one in s.state.runs.items() if one.ending is None)
        if word == "ask":
            s.ask(f"run{n}", balance=k / 4)
        elif word == "store":
            fresh = s.stores()[written : written + k]
            written += len(fresh)
            for store in fresh:
                s.happen(store.event)
                log.append((s.seq, store.event))
                s.feed(Stored(s.now, store.msg_id, s.seq, False))
        elif alive:
            run = alive[k % len(alive)]
            if word == "ok":
                s.text("x", run=run)
                s.ended(run=run)
            else:
                s.failed(word, run)
    for store in s.stores()[written:]:
        s.seq += 1
        log.append((s.seq, store.event))
    report = replay(Record(seq, "", encode(event)) for seq, event in log)
    assert report.differ == () and report.compared == sum(isinstance(e, RequestEnded) for _, e in log)


def test_effects_are_of_the_closed_kinds(stage: Any) -> None:
    s = stage()
    s.ask()
    s.text("One")
    s.failed("server_error")
    s.text(" two")
    s.ended()
    s.stored()
    assert {type(e) for e in s.effects} == {Send, Store, Trace, Wake}
    assert [type(m) for m in s.said(Delta | Finished)] == [Delta, Delta, Finished]
