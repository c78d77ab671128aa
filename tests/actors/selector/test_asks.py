"""Asks: what is refused, select, list, describe, feedback, cancel, and what is recorded of a request."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from understudy.actors.selector import core
from understudy.messages.catalogue import (
    Described,
    DescribeModel,
    ListModels,
    Models,
    Select,
    Selected,
)
from understudy.messages.events import AttemptEnded, ModelUnavailable
from understudy.messages.generate import Cancelled, Generate, Started
from understudy.messages.run import ModelLoad, RunnerBeat
from understudy.messages.step import Trace

TURNS = ({"role": "user", "content": "Hi"},)


def make(cls: Any, **fields: Any) -> Any:
    return msgspec.convert({"messages": TURNS, **fields} if issubclass(cls, Generate) else fields, cls)


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
    other, card = listed.models
    assert [m.id for m in listed.models] == ["b", "x/a"] and (listed.as_of_seq, listed.total) == (2, 2)
    assert (card.location, card.loaded, card.instances, card.in_flight) == ("local", True, 1, 2)
    assert (card.last_error, card.success_ratio, card.aliases) == ("engine", 0.0, ("nick",))
    assert (other.location, other.loaded) == ("local", False)
    s.put(make(DescribeModel, model="nick"))
    described = s.said(Described)[0]
    assert described.card == card and described.declared["path"] == "p"
    s.put(make(DescribeModel, model="nope"))
    assert (s.ends()[0].code, s.ends()[0].path) == ("unknown_model", "$.model")


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
    trace = s.ask(deadline_ms=4_000)[2]
    assert isinstance(trace, Trace)
    made = trace.event
    assert (made.chain, made.reply, made.deadline_at_ms) == (("a", "b", "c"), "caller", 1_004_000)
    s.cancel()
    assert s.stores("end.")[0].event.decision == made
