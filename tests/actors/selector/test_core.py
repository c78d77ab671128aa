"""The selector as a whole: asks, runners that die or fall silent, the failover budget, what is told apart from runs."""

from __future__ import annotations

from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.selector import core
from understudy.actors.selector.replay import Record, replay
from understudy.messages.catalogue import (
    Described,
    DescribeModel,
    FeedbackTaken,
    GiveFeedback,
    ListModels,
    Models,
    Select,
    Selected,
)
from understudy.messages.events import AttemptEnded, ModelRecovered, ModelUnavailable, RequestEnded
from understudy.messages.generate import Cancelled, Delta, Failed, Finished, Generate, Started
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
    Unheard,
    Wake,
    Woke,
)
from understudy.messages.wire import encode

TURNS = ({"role": "user", "content": "Hi"},)


def make(cls: Any, **fields: Any) -> Any:
    return msgspec.convert({"messages": TURNS, **fields} if issubclass(cls, Generate) else fields, cls)


# --- asks ----------------------------------------------------------------------------------------------------------


def test_no_allowed_model_says_why(stage: Any) -> None:
    s = stage({"a": {}, "b": {"context_tokens": 2}})
    s.happen(ModelUnavailable(at_ms=0, model="a", reason="engine", was="healthy", retry_at_ms=9))
    s.ask()
    end = s.ends()[0]
    assert (end.code, end.rejected) == ("no_allowed_model", {"unhealthy": 1, "context_too_small": 1})
    assert s.state.runs == {}


def test_before_a_topology_nothing_breaks(stage: Any) -> None:
    s = stage()
    s.state = core.State()
    s.ask()
    s.put(make(ListModels))
    s.put(make(DescribeModel, model="a"))
    assert [getattr(m, "code", "") for m in s.said()] == ["internal", "", "unknown_model"]


def test_over_max_in_flight_is_overloaded_at_once(stage: Any) -> None:
    s = stage(settings={"max_in_flight": 2, "overload_retry_ms": 40})
    s.ask("r1")
    s.ask("r2")
    s.ask("r3", reply="third")
    assert [(e.code, e.retry_after_ms) for e in s.ends("third")] == [("overloaded", 40)]
    s.text("x", run="r1")
    s.ended(run="r1")
    s.stored("r1")
    s.ask("r4", reply="fourth")
    assert s.said(Started, "fourth")


@pytest.mark.parametrize("cls", [Generate, Select, ListModels, DescribeModel])
def test_a_question_that_nobody_waits_for_is_dropped(stage: Any, cls: Any) -> None:
    s = stage()
    assert s.put(make(cls, **({"model": "a"} if cls is DescribeModel else {})), reply="") == []


def test_select_shows_the_decision_alone(stage: Any) -> None:
    s = stage({"a": {}, "b": {}, "c": {"capabilities": ["json"]}})
    s.put(make(Select, requirements={"capabilities": ["chat"]}))
    answer = s.said(Selected)[0]
    assert [c.model for c in answer.chain] == ["a", "b"] and answer.rejected == {"no_capability": 1}
    assert answer.rejected_models == {}, "names only where they are asked for: there may be hundreds"
    assert (answer.as_of_seq, answer.task, answer.topology) == (1, "general", "h1")
    assert answer.chain[0].parts.keys() == {"quality", "speed", "cost", "fit"}
    s.put(make(Select, requirements={"capabilities": ["chat"]}, explain=True))
    assert s.said(Selected)[-1].rejected_models == {"no_capability": ("c",)}
    assert s.state.runs == {} and not s.stores()


@pytest.mark.parametrize("cls", [Select, Generate])
def test_asks_are_checked(stage: Any, cls: Any) -> None:
    s = stage()
    s.put(make(cls, messages=[{"role": "user", "content": "\x00"}]))
    assert s.ends()[0].path == "$.messages[0].content"


def test_list_and_describe(stage: Any) -> None:
    s = stage({"x/a": {"provider": "here", "path": "p"}, "b": {}}, aliases={"nick": "x/a"}, beats=False)
    s.hear(RunnerBeat(instance="i1", models={"x/a": ModelLoad(slots=4, in_flight=2)}))
    s.happen(AttemptEnded(at_ms=5, run_id="q", attempt=0, model="x/a", reason="engine"))
    s.put(make(ListModels))
    listed = s.said(Models)[0]
    card = listed.models[0]
    assert [m.id for m in listed.models] == ["x/a", "b"] and listed.as_of_seq == 2
    assert (card.location, card.loaded, card.instances, card.in_flight) == ("local", True, 1, 2)
    assert (card.last_error, card.success_ratio, card.aliases) == ("engine", 0.0, ("nick",))
    assert (listed.models[1].location, listed.models[1].loaded) == ("external", False)
    s.put(make(DescribeModel, model="nick"))
    described = s.said(Described)[0]
    assert described.card == card and described.declared["path"] == "p"
    s.put(make(DescribeModel, model="nope"))
    assert (s.ends()[0].code, s.ends()[0].path) == ("unknown_model", "$.model")


def test_feedback_is_taken_when_the_log_has_it(stage: Any) -> None:
    s = stage(settings={"hash_key": "k"})
    given_ = make(GiveFeedback, run_id="r9", rating=0.5, user_id="bob")
    store = s.put(given_, run="f1")[0]
    assert store.msg_id == "order.f1" and store.event.rating == 0.5 and "bob" not in repr(store)
    assert s.said() == []
    s.feed(Stored(s.now, "order.f1", 7, False))
    assert s.said() == [FeedbackTaken(run_id="r9", seq=7)]
    s.put(given_, run="f2")
    s.feed(StoreFailed(s.now, "order.f2", "log_full"))
    assert s.said(Failed)[0].code == "log_full"
    s.put(given_, run="f3", reply="")
    assert s.feed(Stored(s.now, "order.f3", 8, False)) == [] and s.state.awaited == {}


def test_cancel_says_whether_the_run_was_alive(stage: Any) -> None:
    s = stage()
    s.ask()
    s.cancel(reply="other")
    s.cancel("nobody", reply="other")
    assert s.said(Cancelled, "other") == [
        Cancelled(run_id="r1", known=True),
        Cancelled(run_id="nobody", known=False),
    ]


def test_user_and_conversation_are_stored_as_keyed_hashes(stage: Any) -> None:
    s = stage(settings={"hash_key": "k"})
    s.ask(user_id="bob", conversation_id="c1", labels=["l"])
    s.cancel()
    event = s.stores("end.")[0].event
    assert len(event.user) == len(event.conversation) == 32 and "bob" not in repr(event)
    assert event.labels == ("l",)


def test_the_trace_holds_the_decision(stage: Any) -> None:
    s = stage()
    trace = s.ask(deadline_ms=4_000)[0]
    assert isinstance(trace, Trace)
    made = trace.event
    assert (made.chain, made.reply, made.deadline_at_ms) == (("a", "b", "c"), "caller", 1_004_000)
    s.cancel()
    assert s.stores("end.")[0].event.decision == made


# --- runners -------------------------------------------------------------------------------------------------------


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


# --- the rest ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        CallText(1.0, "x", "t", 1),
        EdgeReady(1.0, {}),
        Woke(1.0, "nobody", 0),
        Stored(1.0, "end.nobody", 1, False),
        Stored(1.0, "attempt.r1.0", 1, False),
        StoreFailed(1.0, "switched.r1.0", "bus_down"),
        Heard(1.0, "x", RunText(run_id="nobody", attempt=0, n=0, text="t")),
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
    s.failed("server_error")  # the run goes on by the topology it began with
    assert s.call().model == "c"


def test_booted_says_who_we_are() -> None:
    state = core.State()
    assert core.step(state, Booted(1.0, "selector", "s9", "app", "_INBOX_A.s9", "id"), core.Settings()) == []
    assert state.where.run_subject("m") == "app.ask.runner.run.m"


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
