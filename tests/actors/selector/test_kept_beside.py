"""Kept answers beside queues, hedging and reservations: a hit takes a place in none of them, a run is kept once."""

from __future__ import annotations

from typing import Any

import pytest

from tests.actors.selector.test_consent import agree, staged
from understudy.messages.cache import CachedAnswer, CacheKeep, CacheLook, CacheLooked, ConversationErased
from understudy.messages.cost import Reserve
from understudy.messages.events import RequestEnded
from understudy.messages.generate import Attempt, Parameters, Usage, Waiting
from understudy.messages.privacy import Outbound
from understudy.messages.run import CancelRun, RunEnded, RunModel, RunQueued, RunStarted, RunText
from understudy.messages.step import Send

KEPT = {"conversation_id": "c1", "user_id": "u1", "temperature": 0.0, "cache": True, "hedge": True}
USAGE = Usage(prompt_tokens=3, completion_tokens=2)
ANSWER = CachedAnswer(
    text="A door.",
    model="b",
    finish_reason="stop",
    parameters=Parameters(max_tokens=9, temperature=0.0, top_p=1.0, seed=77),
)


def sent(s: Any, *kinds: Any) -> list[Any]:
    return [e.message for e in s.effects if isinstance(e, Send) and isinstance(e.message, kinds)]


def looked(s: Any, answer: CachedAnswer | None = None) -> None:
    s.hear(CacheLooked(run_id="r1", key_id="k1", answer=answer))


def a_percentile(s: Any) -> None:
    """So many outcomes of `a` that it is known when it is late."""
    tried = (Attempt(model="a", outcome="ok", first_token_ms=100.0, total_ms=100.0),)
    facts: dict[str, Any] = {"instance": "x", "outcome": "finished", "task": "general", "as_of_seq": 1}
    for n in range(30):
        s.happen(RequestEnded(at_ms=1, run_id=f"old{n}", topology="", digest="", attempts=tried, **facts))


def hedged(stage: Any) -> Any:
    """`a` is asked and late, `b` is asked too."""
    s = stage()
    a_percentile(s)
    s.state.hedges.credit = 5.0
    s.ask(**KEPT)
    looked(s)
    s.wake()
    assert [(one.model, one.attempt) for one in sent(s, RunModel)] == [("a", 0), ("b", 1)]
    return s


def queued(stage: Any) -> Any:
    """It waits for room at `a`."""
    s = stage()
    s.ask(**KEPT)
    looked(s)
    for _ in "abc":
        s.failed("busy", waiting=1)
    s.hear(RunQueued(run_id="r1", attempt=s.call().attempt, instance="i-a"))
    assert s.state.runs["r1"].room.queued
    return s


def test_a_hit_takes_no_place_nowhere(stage: Any) -> None:
    """Every model is full and has a price, there is no credit for a hedge: it makes no difference."""
    priced = {"usd_per_mtok_in": 1.0, "usd_per_mtok_out": 2.0}
    s = stage(dict.fromkeys("abc", priced), actors={"cost_ledger": {}})
    s.beat_all(in_flight=8)
    s.ask(**KEPT)
    looked(s, ANSWER)
    s.stored()
    (end,) = s.ends()
    assert end.cached and end.text == ANSWER.text and end.cost_usd == "0"
    assert not sent(s, RunModel, CancelRun, Reserve, Waiting, CacheKeep)
    assert s.state.hedges.credit == 0.0 and not any(s.state.local.in_flight.values()) and not s.state.runs
    assert s.stores("end.")[0].event.charges == () and not s.stores("attempt.")


@pytest.mark.parametrize(("answer", "failures", "credit"), [(ANSWER, 0, 0.0), (None, 0, 0.08), (None, 2, 0.08)])
def test_a_hedge_is_earned_once_by_who_asks_a_model(stage: Any, answer: Any, failures: int, credit: float) -> None:
    s = stage()
    s.ask(**KEPT)
    assert s.state.hedges.credit == 0.0
    looked(s, answer)
    for _ in range(failures):
        s.failed("server_error")
    assert s.state.hedges.credit == credit


@pytest.mark.parametrize("winner", [0, 1])
def test_of_two_models_the_winners_answer_is_kept_once(stage: Any, winner: int) -> None:
    s = hedged(stage)
    for number in (winner, 1 - winner):
        text = RunText(run_id="r1", attempt=number, instance=f"i-{number}", n=0, text=f"I am {number}.")
        s.hear(text)
        s.hear(RunEnded(run_id="r1", attempt=number, pieces=1, finish_reason="stop", usage=USAGE))
    s.stored()
    (keep,) = sent(s, CacheKeep)
    assert (keep.answer.text, keep.answer.model) == (f"I am {winner}.", "ab"[winner])
    assert keep.key == sent(s, CacheLook)[0].key and s.ends()[0].text == keep.answer.text


def test_an_answer_that_was_waited_for_is_kept_once(stage: Any) -> None:
    s = queued(stage)
    s.started()
    s.text("Hello.")
    s.ended()
    s.stored()
    assert [keep.answer.text for keep in sent(s, CacheKeep)] == ["Hello."] and len(sent(s, CacheLook)) == 1


@pytest.mark.parametrize("where", [queued, hedged])
def test_a_conversation_that_is_erased_meanwhile_gets_its_answer_and_names_the_key_that_is_gone(
    stage: Any, where: Any
) -> None:
    """It is answered, as a session must not break off; the cache no longer knows that key, so nothing stays."""
    s = where(stage)
    s.happen(ConversationErased(at_ms=1, conversation=sent(s, CacheLook)[0].conversation, keys=1))
    assert s.state.runs and not sent(s, CancelRun)
    s.hear(RunStarted(run_id="r1", attempt=s.call().attempt, instance="i-1"))
    s.text("Hello.")
    s.ended()
    s.stored()
    assert s.ends()[0].text == "Hello." and s.ends()[0].recorded
    assert [keep.key_id for keep in sent(s, CacheKeep)] == ["k1"] and len(sent(s, CacheLook)) == 1


@pytest.mark.parametrize(
    ("redacted", "fails", "labels"),
    [(2, False, ("external", "redacted")), (0, False, ("external",)), (1, True, ("external", "redacted"))],
)
def test_a_kept_answer_is_marked_as_it_was_when_it_was_made(
    stage: Any, redacted: int, fails: bool, labels: tuple[str, ...]
) -> None:
    """Also where a model of here ended what one elsewhere had been told: the words did leave."""
    s = staged(stage, {"a": {"provider": "far"}, "h": {"provider": "lab", "quality": {"default": 0.1}}})
    agree(s, user_id="u")
    ask = {**KEPT, "user_id": "u", "privacy": "external_allowed"}
    s.ask(**ask)
    looked(s)
    sent_out = Outbound(provider="far", consent=2, bytes=9, redacted=redacted)
    if fails:
        s.failed("server_error", outbound=sent_out)
    s.text("Hello.")
    s.ended(**({} if fails else {"outbound": sent_out}))
    s.stored()
    (keep,) = sent(s, CacheKeep)
    s.ask("r2", **ask)
    s.hear(CacheLooked(run_id="r2", key_id="k1", answer=keep.answer))
    s.stored("r2")
    first, again = s.ends()
    assert first.labels == again.labels == labels and again.cached and not again.attempts
