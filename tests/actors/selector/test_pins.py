"""Pins per conversation, and what priority and kind of traffic change."""

from __future__ import annotations

from typing import Any

import pytest

from understudy.messages.catalogue import PinModel, PinTaken
from understudy.messages.events import ModelCleared, ModelPinned
from understudy.messages.generate import Failed
from understudy.messages.step import Store, Stored, StoreFailed

TALK = {"conversation_id": "conv-1"}


def pin(s: Any, model: str | None, conversation: str = "conv-1") -> Any:
    """Ordered, stored, folded; the event."""
    out = s.put(PinModel(conversation_id=conversation, model=model), "boss", "o1")
    store = next(e for e in out if isinstance(e, Store))
    s.happen(store.event)
    s.feed(Stored(s.now, store.msg_id, s.seq, False))
    return store.event


def test_a_pinned_conversation_is_answered_by_its_model(stage: Any) -> None:
    s = stage(aliases={"narrator": "c"})
    event = pin(s, "narrator")
    assert isinstance(event, ModelPinned) and event.model == "c" and "conv-1" not in repr(event)
    assert s.said(PinTaken, "boss")[0].model == "c"
    s.ask("r1", **TALK)
    s.ask("r2", conversation_id="another")
    s.ask("r3", model="b", **TALK)
    assert [s.call(run).model for run in ("r1", "r2", "r3")] == ["c", "a", "b"]


def test_a_cleared_pin(stage: Any) -> None:
    s = stage()
    pin(s, "c")
    assert isinstance(pin(s, None), ModelCleared)
    s.ask("r1", **TALK)
    assert s.call("r1").model == "a"


def test_a_pin_is_a_wish_a_session_must_not_break_off(stage: Any) -> None:
    s = stage({"a": {}, "b": {}, "c": {"fallbacks": ["b"]}})
    pin(s, "c")
    s.gone("i-c")
    s.ask("r1", **TALK)
    assert s.call("r1").model == "b"
    s.gone("i-b")
    s.ask("r2", **TALK)
    assert s.call("r2").model == "a"


def test_a_pin_to_no_model_is_refused(stage: Any) -> None:
    s = stage()
    s.put(PinModel(conversation_id="x", model="none"), "boss")
    assert [(e.code, e.path) for e in s.said(Failed, "boss")] == [("unknown_model", "$.model")]


def test_a_pin_that_the_log_does_not_take(stage: Any) -> None:
    s = stage()
    store = next(e for e in s.put(PinModel(conversation_id="x", model="a"), "boss", "o1") if isinstance(e, Store))
    s.feed(StoreFailed(s.now, store.msg_id, "log_full"))
    assert [e.code for e in s.said(Failed, "boss")] == ["log_full"] and s.state.awaited == {}


@pytest.mark.parametrize(("priority", "taken"), [("critical", 5), ("high", 4), ("low", 4), ("best_effort", 2)])
def test_lower_priorities_are_turned_away_first(stage: Any, priority: str, taken: int) -> None:
    s = stage(settings={"max_in_flight": 4})
    for i in range(6):
        s.ask(f"r{i}", f"caller{i}", priority=priority)
    assert len(s.state.runs) == taken
    assert [e.code for e in s.ends(f"caller{taken}")] == ["overloaded"]


def test_batch_traffic_has_the_time_of_its_class(stage: Any) -> None:
    s = stage()
    s.ask("r1", traffic="batch")
    s.ask("r2")
    assert s.call("r1").remaining_ms == 600_000 and s.call("r2").remaining_ms == 60_000
