"""Feedback: whose answer it was is looked up, and a run that nobody knows is refused."""

from __future__ import annotations

from typing import Any

import pytest

from understudy.actors.host.clock import ulid
from understudy.actors.selector import feedback
from understudy.messages.catalogue import FeedbackTaken, GiveFeedback
from understudy.messages.events import RequestEnded
from understudy.messages.generate import Failed
from understudy.messages.step import FindEnd, Recall, Recalled, Store, Stored, StoreFailed

RUN = ulid(1_790_000_000_000, 5)


def give(s: Any, run_id: str = RUN, ask: str = "f1", reply: str = "rater", **fields: Any) -> list[Any]:
    return s.put(GiveFeedback(run_id=run_id, rating=0.25, **fields), reply, ask)


def end(run_id: str = RUN, model: str | None = "b", task: str = "story") -> RequestEnded:
    return RequestEnded(
        at_ms=1, run_id=run_id, instance="other", outcome="finished", task=task, as_of_seq=1, topology="h1", digest="d",
        model=model,
    )  # fmt: skip


def refusals(s: Any) -> list[tuple[str, str | None]]:
    return [(one.code, one.path) for one in s.said(Failed, "rater")]


def test_it_is_stored_with_whose_answer_it_was(stage: Any) -> None:
    s = stage(settings={"hash_key": "k"})
    assert give(s, reason="dull", user_id="bob") == [FindEnd(RUN, 1_790_000_000_000, "rating.f1")]
    (store,) = s.feed(Recalled(s.now, "rating.f1", end()))
    assert isinstance(store, Store) and store.msg_id == "order.f1" and "bob" not in repr(store)
    told = store.event
    assert (told.run_id, told.rating, told.reason, told.model, told.task) == (RUN, 0.25, "dull", "b", "story")
    assert s.said(object, "rater") == []
    s.feed(Stored(s.now, "order.f1", 7, False))
    assert s.said(object, "rater") == [FeedbackTaken(run_id=RUN, seq=7)]
    assert s.state.ratings == {} and s.state.awaited == {}


def test_a_recent_end_is_known_by_its_position(stage: Any) -> None:
    s = stage()
    s.happen(end("r9"))
    assert give(s, "r9") == [Recall(s.seq, "rating.f1")]


def test_what_is_remembered_is_bounded(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "LATELY", 2)
    s = stage()
    for n in range(4):
        s.happen(end(f"r{n}"))
    assert list(s.state.lately) == ["r2", "r3"]


def test_a_failed_run_is_nobodys_answer(stage: Any) -> None:
    s = stage()
    give(s)
    (store,) = s.feed(Recalled(s.now, "rating.f1", end(model=None)))
    assert (store.event.model, store.event.task) == ("", "story")


def test_a_run_that_nobody_knows(stage: Any) -> None:
    s = stage()
    give(s)
    s.feed(Recalled(s.now, "rating.f1", None))
    assert refusals(s) == [("unknown_run", "$.run_id")] and s.state.ratings == {}
    assert RUN in s.said(Failed, "rater")[0].text and not s.stores()
    give(s, "what you said yesterday")
    assert refusals(s)[1] == ("unknown_run", "$.run_id"), "no run id: nothing is looked for"
    give(s, ask="f3")
    s.feed(Recalled(s.now, "rating.f3", end("another")))
    assert refusals(s)[2] == ("unknown_run", "$.run_id")


def test_a_run_that_has_not_ended(stage: Any) -> None:
    s = stage()
    s.ask("r1")
    give(s, "r1")
    assert refusals(s) == [("unknown_run", "$.run_id")]


def test_a_log_that_cannot_be_reached(stage: Any) -> None:
    s = stage()
    give(s)
    s.feed(Recalled(s.now, "rating.f1", None, ok=False))
    give(s, ask="f2")
    (store,) = s.feed(Recalled(s.now, "rating.f2", end()))
    s.feed(StoreFailed(s.now, store.msg_id, "log_full"))
    give(s, ask="f3")
    (store,) = s.feed(Recalled(s.now, "rating.f3", end()))
    s.feed(Stored(s.now, store.msg_id, 8, False, synced=False))
    assert [code for code, _ in refusals(s)] == ["bus_down", "log_full", "bus_down"]


def test_without_a_reply_it_is_carried_out_all_the_same(stage: Any) -> None:
    s = stage()
    give(s, reply="")
    (store,) = s.feed(Recalled(s.now, "rating.f1", end()))
    assert s.feed(Stored(s.now, store.msg_id, 8, False)) == [] and s.state.awaited == {}
    give(s, ask="f2", reply="")
    assert s.feed(Recalled(s.now, "rating.f2", None)) == []
    assert give(s, "no id", ask="f3", reply="") == []


def test_so_many_at_once(stage: Any) -> None:
    s = stage()
    for n in range(feedback.AT_ONCE + 1):
        give(s, ask=f"f{n}")
    assert refusals(s) == [("overloaded", None)] and len(s.state.ratings) == feedback.AT_ONCE
    assert s.said(Failed, "rater")[0].retry_after_ms > 0
