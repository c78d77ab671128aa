"""Kept answers on a table: which requests look for one, what a hit says and books, what is kept, what is a miss."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.selector import core, keeping
from understudy.actors.selector.replay import compare
from understudy.messages.cache import CachedAnswer, CacheKeep, CacheLook, CacheLooked, ConversationErased
from understudy.messages.cost import Reserve
from understudy.messages.events import ModelPinned, RequestEnded, TopologyApplied
from understudy.messages.generate import Delta, Failed, Finished, Generate, Parameters, Started, Usage
from understudy.messages.run import RunModel
from understudy.messages.step import Recalled, Send, Unheard

KEPT = {"conversation_id": "c1", "user_id": "u1", "temperature": 0.0, "cache": True}
TASK = {"latency": "interactive", "cache": True, "temperature": 0.0}
ANSWER = CachedAnswer(
    text="A door. ",
    model="b",
    finish_reason="stop",
    parameters=Parameters(max_tokens=9, temperature=0.0, top_p=1.0, seed=77),
)


def sent(s: Any, kind: Any) -> list[Any]:
    return [e.message for e in s.effects if isinstance(e, Send) and isinstance(e.message, kind)]


def looked(s: Any, answer: CachedAnswer | None = None, key_id: str = "k1", run: str = "r1") -> list[Any]:
    return s.hear(CacheLooked(run_id=run, key_id=key_id, answer=answer))


def answered(s: Any, *words: str, finish: str = "stop") -> None:
    s.started()
    s.text(*(words or ("Hello.",)))
    s.ended(finish)
    s.stored()


# --- who looks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "looks"),
    [
        (KEPT, True),
        ({**KEPT, "stream": False}, True),
        ({**KEPT, "temperature": 0.7, "seed": 5}, True),
        ({**KEPT, "user_id": None}, True),
        ({**KEPT, "format": {"type": "json"}, "requirements": {}}, True),
        ({**KEPT, "cache": None}, False),
        ({**KEPT, "cache": False}, False),
        ({**KEPT, "temperature": 0.7}, False),
        ({**KEPT, "reasoning": True}, False),
        ({**KEPT, "tools": [{"name": "open"}]}, False),
        ({**KEPT, "resume": {"run_id": "r0", "text": "A"}}, False),
        ({}, False),
    ],
)
def test_a_request_looks_for_a_kept_answer_only_where_it_qualifies(stage: Any, fields: Any, looks: bool) -> None:
    able = {name: {"capabilities": ["chat", "json", "tools"]} for name in "abc"}
    s = stage(able)
    s.ask(**fields)
    assert len(sent(s, CacheLook)) == looks and bool(s.calls) != looks, "the first model is asked at once, or later"


@pytest.mark.parametrize(
    ("fields", "looks"),
    [
        ({"conversation_id": "c1"}, True),
        ({"conversation_id": "c1", "cache": False}, False),
        ({"conversation_id": "c1", "temperature": 0.1}, False),
        ({}, False),
    ],
)
def test_a_task_opts_in_for_requests_that_say_nothing(stage: Any, fields: Any, looks: bool) -> None:
    s = stage(tasks={"general": TASK})
    s.ask(**fields)
    assert len(sent(s, CacheLook)) == looks


def test_who_wants_an_answer_kept_says_for_which_conversation(stage: Any) -> None:
    s = stage()
    s.ask(temperature=0.0, cache=True)
    (failed,) = s.said(Failed)
    assert (failed.code, failed.path) == ("invalid", "$.conversation_id") and "which" in failed.text
    assert not s.state.runs


# --- hits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_a_kept_answer_ends_the_run_without_a_model(stage: Any, stream: bool) -> None:
    s = stage()
    s.ask(**KEPT, stream=stream, labels=["l1"])
    looked(s, ANSWER)
    assert not s.ends(), "not before the log has it"
    (store,) = s.stores("end.")
    s.stored()
    (end,) = s.ends()
    assert end.text == ANSWER.text and end.cached and end.recorded and end.model == "b"
    assert (end.usage, end.attempts, end.cost_usd) == (Usage(), (), "0"), "nothing was used, so nothing is booked"
    assert end.parameters == ANSWER.parameters and end.labels == ("l1",)
    kinds = [type(m) for m in s.said()]
    assert kinds == ([Started, *[Delta] * (len(kinds) - 2), Finished] if stream else [Finished])
    assert not stream or s.kept() == ANSWER.text
    event = store.event
    assert event.cached and event.usage == Usage() and event.attempts == () and event.model == "b"
    assert event.text_chars == len(ANSWER.text) and event.last_seq == end.last_seq
    assert not s.calls and not s.state.runs and not sent(s, CacheKeep), "what was kept is not kept again"


@pytest.mark.parametrize("hit", [True, False])
def test_nothing_is_reserved_before_the_cache_has_answered(stage: Any, hit: bool) -> None:
    priced = {"usd_per_mtok_in": 1.0, "usd_per_mtok_out": 2.0}
    s = stage({"a": priced, "b": priced}, actors={"cost_ledger": {}})
    s.ask(**KEPT)
    assert not sent(s, Reserve)
    looked(s, ANSWER if hit else None)
    assert len(sent(s, Reserve)) == (not hit) and not s.calls
    assert [len(store.event.charges) for store in s.stores("end.")] == [0] * hit


def test_a_hit_is_one_run_to_who_asks_twice(stage: Any) -> None:
    """A repeat while it is looked for hears it too; one after the end hears the recorded end."""
    s = stage()
    s.ask(**KEPT, request_id="q")
    (claim,) = [e for e in s.effects if type(e).__name__ == "Claim"]
    s.feed(core.Claimed(s.now, claim.key, ""))
    s.ask(**KEPT, request_id="q", run="r2", reply="again")
    looked(s, ANSWER)
    s.stored()
    assert [e.text for e in (*s.ends(), *s.ends("again"))] == [ANSWER.text] * 2
    event = s.stores("end.")[0].event
    s.happen(event)
    s.ask(**KEPT, request_id="q", run="r3", reply="late")
    s.feed(Recalled(s.now, "repeat.r3", event))
    (late,) = s.ends("late")
    assert late.cached and late.text is None and late.run_id == "r1"
    assert len(sent(s, CacheLook)) == 1 and not s.calls


def test_the_decision_of_a_hit_is_recorded_and_repeats_as_any_other(stage: Any) -> None:
    s = stage()
    s.ask(**KEPT)
    looked(s, ANSWER)
    event = s.stores("end.")[0].event
    assert isinstance(event, RequestEnded) and event.decision is not None
    assert event.decision.chain[0] == "a" and event.model == "b"
    assert event.seal and compare(s.state.knowledge, event.decision) == []


# --- misses ----------------------------------------------------------------------------------------------------------


def test_a_cache_that_is_empty_slow_or_absent_is_a_miss(stage: Any) -> None:
    def empty(s: Any) -> None:
        looked(s)

    def slow(s: Any) -> None:
        s.wake()
        assert s.now - s.begun == s.settings.cache_wait_ms

    def absent(s: Any) -> None:
        s.feed(Unheard(s.now, "_INBOX_A.s1.run.r1.cache"))

    def not_allowed(s: Any) -> None:
        looked(s, msgspec.structs.replace(ANSWER, model="retired"))

    for how in (empty, slow, absent, not_allowed):
        s = stage()
        s.ask(**KEPT)
        how(s)
        assert s.call().model == "a" and s.call().attempt == 0, how
        answered(s)
        (end,) = s.ends()
        assert end.text == "Hello." and not end.cached and len(end.attempts) == 1


def test_a_model_that_is_gone_since_the_decision_speaks_no_more(stage: Any) -> None:
    s = stage()
    s.ask(**KEPT)
    s.happen(TopologyApplied(at_ms=0, hash="h2", body=s.plan({"a": {}})))
    looked(s, ANSWER)
    assert s.call().model == "a" and not s.stores("end.")


def test_an_answer_that_comes_too_late_is_not_given_but_says_how_to_keep_the_new_one(stage: Any) -> None:
    s = stage()
    s.ask(**KEPT)
    s.wake()
    looked(s, ANSWER, key_id="k9")
    answered(s)
    assert s.ends()[0].text == "Hello."
    assert [k.key_id for k in sent(s, CacheKeep)] == ["k9"]


@pytest.mark.parametrize("how", ["cancel", "vanish", "stop"])
def test_who_leaves_while_it_is_looked_for_gets_one_end_and_no_model(stage: Any, how: str) -> None:
    s = stage()
    s.ask(**KEPT)
    if how == "stop":
        s.feed(core.Stopping(s.now))
    else:
        getattr(s, how)()
    looked(s, ANSWER)
    s.stored()
    (end,) = s.ends()
    assert end.code == ("interrupted" if how == "stop" else "cancelled")
    assert not s.calls and len(s.stores("end.")) == 1


def test_words_for_runs_that_do_not_look_change_nothing(stage: Any) -> None:
    s = stage()
    s.ask()
    assert looked(s, ANSWER) == [] and looked(s, ANSWER, run="unknown") == []
    assert s.feed(Unheard(s.now, "_INBOX_A.s1.run.r1.cache")) == []
    answered(s)
    assert s.ends()[0].text == "Hello."


# --- what is kept ----------------------------------------------------------------------------------------------------


def test_a_whole_answer_is_kept_once_the_log_has_its_end(stage: Any) -> None:
    s = stage()
    s.ask(**KEPT, max_tokens=9)
    looked(s)
    s.started()
    s.text("A ", "door.")
    s.ended()
    assert not sent(s, CacheKeep)
    s.stored()
    (order,) = sent(s, CacheKeep)
    (look,) = sent(s, CacheLook)
    assert (order.conversation, order.key, order.key_id) == (look.conversation, look.key, "k1")
    assert order.answer.text == "A door." and order.answer.model == "a" and order.answer.parameters.max_tokens == 9
    where = [e.subject for e in s.effects if isinstance(e, Send) and isinstance(e.message, CacheKeep | CacheLook)]
    assert where == ["tta.ask.cache.look", "tta.ask.cache.keep"]


def test_nothing_but_whole_good_answers_are_kept(stage: Any) -> None:
    def cut(s: Any) -> None:
        answered(s, finish="length")

    def refused(s: Any) -> None:
        answered(s, finish="refusal")

    def another_has_ended_it(s: Any) -> None:
        s.text("A.")
        s.ended()
        s.stored(duplicate=True)

    def not_recorded(s: Any) -> None:
        s.text("A.")
        s.ended()
        s.not_stored()

    def of_two_halves(s: Any) -> None:
        s.text("A door")
        s.failed("broken_stream")
        answered(s, " and a lamp.")

    def degraded(s: Any) -> None:
        for _ in "abc":
            s.failed("server_error")
        s.stored()

    for how in (cut, refused, another_has_ended_it, not_recorded, of_two_halves, degraded):
        s = stage(tasks={"general": {"emergency_reply": "Wait a moment."}})
        s.ask(**KEPT)
        looked(s)
        how(s)
        assert not sent(s, CacheKeep), how
    s = stage()
    s.ask(**KEPT)
    looked(s, key_id="")
    answered(s)
    assert s.ends() and not sent(s, CacheKeep), "without a data key to name"


def test_an_answer_after_a_failure_that_nobody_saw_is_kept(stage: Any) -> None:
    s = stage()
    s.ask(**KEPT)
    looked(s)
    s.failed("server_error")
    answered(s)
    assert [k.answer.model for k in sent(s, CacheKeep)] == ["b"]


# --- keys ------------------------------------------------------------------------------------------------------------


def key(s: Any, run: str, **fields: Any) -> str:
    s.ask(run=run, **{**KEPT, **fields})
    return sent(s, CacheLook)[-1].key


def test_what_no_answer_depends_on_changes_no_key(stage: Any) -> None:
    s = stage(tasks={"general": TASK}, aliases={"narrator": "b"})
    one = key(s, "r1")
    assert key(s, "aliased", model="narrator") == key(s, "named", model="b") != one
    for n, field in enumerate((
        {"stream": False}, {"deadline_ms": 9_000}, {"priority": "low"}, {"labels": ["x"]}, {"traffic": "batch"},
        {"task": "general"}, {"max_tokens": 256}, {"top_p": 1.0}, {"cache": None},
        {"hedge": True}, {"hedge": False},
    )):  # fmt: skip
        assert key(s, f"same{n}", **field) == one, field


def test_every_thing_that_it_depends_on_changes_it(stage: Any) -> None:
    s = stage(tasks={"general": {}, "other": {}})
    fields: list[dict[str, Any]] = [
        {}, {"user_id": "u2"}, {"user_id": None}, {"conversation_id": "c2"}, {"model": "a"}, {"max_tokens": 7},
        {"top_p": 0.5}, {"stop": ["x"]}, {"seed": 1}, {"seed": 2}, {"task": "other"}, {"balance": 1.0},
        {"requirements": {"min_quality": 0.1}}, {"on_refusal": "next"},
        {"messages": [{"role": "user", "content": "T"}]},
        {"messages": [{"role": "system", "content": "Tell."}, {"role": "user", "content": "Tell."}]},
    ]  # fmt: skip
    keys = [key(s, f"r{n}", **one) for n, one in enumerate(fields)]
    s.happen(ModelPinned(at_ms=1, conversation=sent(s, CacheLook)[0].conversation, model="c"))
    keys.append(key(s, "pinned"))
    s.happen(TopologyApplied(at_ms=2, hash="h2", body=s.topology))
    keys.append(key(s, "reloaded"))
    assert len(set(keys)) == len(keys) == len(fields) + 2


@given(st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4)), min_size=2, max_size=6, unique=True))
def test_no_two_owners_share_a_key(owners: list[tuple[str, str]]) -> None:
    """Whatever their ids look like: where one ends and the next begins is part of the key."""
    ask = Generate(messages=())
    parameters = ANSWER.parameters
    keys = {keeping.key_of(ask, parameters, "secret", *owner) for owner in owners}
    assert len(keys) == len(owners)
    assert keys.isdisjoint(keeping.key_of(ask, parameters, "other secret", *owner) for owner in owners)


# --- erasure ---------------------------------------------------------------------------------------------------------


def test_an_erased_conversation_has_no_pin(stage: Any) -> None:
    s = stage()
    s.ask(**{**KEPT, "cache": False})
    conversation = next(iter(s.state.runs.values())).conversation
    s.happen(ModelPinned(at_ms=1, conversation=conversation, model="c"))
    s.ask(**KEPT, run="r2")
    looked(s, run="r2")
    assert s.call("r2").model == "c"
    s.happen(ConversationErased(at_ms=2, conversation=conversation, keys=1, entries=3))
    s.ask(**KEPT, run="r3")
    looked(s, run="r3")
    assert s.call("r3").model == "a" and [c.model for c in sent(s, RunModel)] == ["a", "c", "a"]
