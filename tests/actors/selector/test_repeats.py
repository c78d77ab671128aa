"""`request_id`: one run, whoever is asked and however often; and what a reader may have said again."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from understudy.messages.events import SelectionMade
from understudy.messages.generate import Delta, Failed, Finished, Resend, Resent, Seam, Started
from understudy.messages.run import Attach
from understudy.messages.step import Claim, Claimed, Recall, Recalled, Send, Store, Trace, Traced, Unheard

ID = {"request_id": "req-1", "user_id": "u"}


def claim_of(effects: list[Any]) -> Claim:
    return next(e for e in effects if isinstance(e, Claim))


def begun(s: Any, run: str = "r1", reply: str = "caller", **fields: Any) -> Claim:
    """Asked with an id, and the claim won."""
    claim = claim_of(s.ask(run, reply, **ID | fields))
    s.feed(Claimed(s.now, claim.key, ""))
    return claim


def test_a_request_with_an_id_begins_when_its_claim_is_won(stage: Any) -> None:
    s = stage()
    claim = claim_of(s.ask(**ID))
    assert s.calls == {} and s.said() == [] and claim.ttl_s == 660
    assert "req-1" not in repr(claim) and '"s1"' in claim.value
    out = s.feed(Claimed(s.now, claim.key, ""))
    assert s.call().model == "a" and [type(m) for m in s.said()] == [Started]
    made = next(e.event for e in out if isinstance(e, Trace))
    assert made.claim == claim.key


def test_a_repeat_while_it_lives_hears_everything_from_the_start(stage: Any) -> None:
    s = stage()
    begun(s)
    s.text("Once", " upon")
    s.failed("broken_stream")
    s.text(" a")
    s.ask("r2", "again", **ID, deadline_ms=5_000)
    s.text(" time")
    s.ended()
    s.stored()
    first, second = s.said(), s.said(reply="again")
    assert [type(m) for m in second] == [Started, Delta, Delta, Seam, Delta, Delta, Finished]
    assert second[1:] == [m for m in first if isinstance(m, Delta | Seam | Finished)]
    assert second[0].run_id == "r1" and len(s.stores("end.")) == 1


def test_a_repeat_while_the_claim_is_under_way(stage: Any) -> None:
    s = stage()
    claim = claim_of(s.ask("r1", "one", **ID))
    assert s.ask("r2", "two", **ID) == []
    assert s.ask("r3", "three", **ID, temperature=0.0) == []
    s.feed(Claimed(s.now, claim.key, ""))
    s.text("Hi")
    s.ended()
    s.stored()
    assert [e.text for reply in ("one", "two") for e in s.ends(reply)] == ["Hi", "Hi"]
    assert [(e.code, e.path) for e in s.ends("three")] == [("id_reused", "$.request_id")]
    assert s.state.claiming == {} and s.state.claims == {}


@pytest.mark.parametrize("when", ["lives", "ended"])
def test_another_body_is_refused(stage: Any, when: str) -> None:
    s = stage()
    begun(s)
    if when == "ended":
        s.text("Hi")
        s.ended()
        s.stored()
        s.happen(s.stores("end.")[0].event)
    s.ask("r2", "again", **ID, max_tokens=7)
    assert [(e.code, e.path) for e in s.ends("again")] == [("id_reused", "$.request_id")]


def test_ids_belong_to_their_users(stage: Any) -> None:
    s = stage()
    one = claim_of(s.ask("r1", **ID))
    two = claim_of(s.ask("r2", **ID | {"user_id": "v"}))
    assert one.key != two.key


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize("stream", [True, False])
def test_a_repeat_after_the_end_hears_the_recorded_one(stage: Any, stream: bool, folded: bool) -> None:
    s = stage()
    begun(s, stream=stream)
    s.text("Hi")
    s.ended()
    s.stored()
    event = s.stores("end.")[0].event
    seq = 99  # what the log answers on this stage
    if folded:
        s.happen(event)
        seq = s.seq
        assert s.state.fresh == {}
    out = s.ask("r2", "again", **ID, stream=stream)
    assert out == [Recall(seq, "repeat.r2")]
    s.feed(Recalled(s.now, "repeat.r2", event))
    end = s.ends("again")[0]
    if stream:
        assert (end.text, end.run_id, end.last_seq) == (None, "r1", 0)
    else:
        assert (end.code, end.run_id) == ("text_lost", "r1")
    assert s.state.recalling == {}


def other(s: Any, instance: str = "s2", body: str = "") -> tuple[str, str]:
    """A claim that another instance holds; the key and its value."""
    claim = claim_of(s.ask("r1", **ID))
    value = msgspec.json.decode(claim.value)
    held = {"run_id": "r0", "instance": instance, "body": body or value["body"]}
    return claim.key, msgspec.json.encode(held).decode()


def test_another_instance_is_asked_to_tell_our_caller_too(stage: Any) -> None:
    s = stage()
    key, held = other(s)
    out = s.feed(Claimed(s.now, key, held))
    assert [(e.subject, e.message) for e in out] == [
        ("tta.ask.selector.attach.s2", Attach(run_id="r0", reply="caller"))
    ]
    assert s.calls == {} and s.state.runs == {}


def test_another_instance_holds_it_for_another_body(stage: Any) -> None:
    s = stage()
    key, _ = other(s)
    s.feed(Claimed(s.now, key, msgspec.json.encode({"run_id": "r0", "instance": "s2", "body": "x"}).decode()))
    assert [e.code for e in s.ends()] == ["id_reused"]


def test_the_holder_attaches(stage: Any) -> None:
    s = stage()
    begun(s)
    s.text("Once")
    s.put(Attach(run_id="r1", reply="far"), reply="")
    s.text(" upon")
    s.ended()
    s.stored()
    assert [type(m) for m in s.said(reply="far")] == [Started, Delta, Delta, Finished]


@pytest.mark.parametrize("folded", [True, False])
def test_the_holder_had_ended_it(stage: Any, folded: bool) -> None:
    s = stage()
    begun(s)
    s.text("Once")
    s.ended()
    s.stored()
    event = s.stores("end.")[0].event
    if folded:
        s.happen(event)
    recall = s.put(Attach(run_id="r1", reply="far"), reply="")[0]
    s.feed(Recalled(s.now, recall.key, event))
    assert [e.text for e in s.ends("far")] == [None]


def test_the_holder_is_dead_and_never_began(stage: Any) -> None:
    s = stage()
    key, held = other(s)
    reply = s.feed(Claimed(s.now, key, held))[0].reply
    s.feed(Unheard(s.now, reply))
    assert [(e.code, e.resumable) for e in s.ends()] == [("interrupted", False)]


def test_the_holder_is_dead_and_its_run_is_ended_for_all(stage: Any) -> None:
    s = stage()
    made = next(e.event for e in s.ask("tmp", "elsewhere", stream=True) if isinstance(e, Trace))
    s.state.runs.pop("tmp")
    base = {name: getattr(made, name) for name in made.__struct_fields__}
    s.feed(Traced(s.now, SelectionMade(**base | {"run_id": "r0", "instance": "s2", "reply": "their-caller"})))
    key, held = other(s)
    reply = s.feed(Claimed(s.now, key, held))[0].reply
    out = s.feed(Unheard(s.now, reply))
    assert [e.msg_id for e in out if isinstance(e, Store)] == ["end.r0"]
    s.stored("r0")
    assert [e.code for e in s.ends("caller")] == [e.code for e in s.ends("their-caller")] == ["interrupted"]


def test_a_claim_of_our_own_former_life(stage: Any) -> None:
    s = stage()
    key, held = other(s, instance="s1")
    s.feed(Claimed(s.now, key, held))
    assert [e.code for e in s.ends()] == ["interrupted"]


def test_our_claim_was_won_though_its_answer_was_lost(stage: Any) -> None:
    s = stage()
    claim = claim_of(s.ask(**ID))
    s.feed(Claimed(s.now, claim.key, claim.value))
    assert s.call().model == "a"


def test_claims_out_of_reach(stage: Any) -> None:
    s = stage()
    claim = claim_of(s.ask(**ID))
    s.feed(Claimed(s.now, claim.key, None))
    assert [e.code for e in s.ends()] == ["bus_down"] and s.calls == {} and s.state.claiming == {}


def test_ends_are_remembered_for_a_while_only(stage: Any) -> None:
    s = stage()
    begun(s)
    s.text("Hi")
    s.ended()
    s.stored()
    s.happen(s.stores("end.")[0].event)
    assert len(s.state.knowledge.ended) == 1
    s.now += 700_000
    begun(s, "r2", request_id="req-2", user_id="u")
    s.text("Ho", run="r2")
    s.ended(run="r2")
    s.happen(s.stores("end.r2")[0].event)
    assert [e.run_id for e in s.state.knowledge.ended.values()] == ["r2"]


def test_the_last_of_several_callers_decides_whether_work_goes_on(stage: Any) -> None:
    s = stage()
    begun(s)
    s.started()
    s.ask("r2", "again", **ID)
    s.vanish(which=0)
    assert s.stores("end.") == []
    s.vanish(which=1)
    assert s.stores("end.")[0].event.outcome == "cancelled"


def many(s: Any) -> list[str]:
    """A flood of repeats, each with an inbox of its own: who was turned away."""
    for i in range(100):
        s.ask(f"q{i}", f"caller-{i}", **ID)
    turned = [f"caller-{i}" for i in range(100) if s.ends(f"caller-{i}")]
    assert {(e.code, e.retry_after_ms, e.run_id) for who in turned for e in s.ends(who)} == {
        ("overloaded", 1_000, None)
    }
    return turned


def test_a_flood_of_repeats_of_a_living_run_is_turned_away(stage: Any) -> None:
    s = stage()
    begun(s)
    s.text("Once")
    assert len(many(s)) == 100 - 15
    assert len([e for e in s.text(" upon", " a") if isinstance(e, Send)]) == 2 * 16
    s.ask("again", "caller-0", **ID)  # who has a place may ask again
    s.ended()
    s.stored()
    assert [type(e) for e in s.ends() + s.ends("caller-0")] == [Finished, Finished]


def test_a_flood_of_repeats_while_the_claim_is_under_way_is_turned_away(stage: Any) -> None:
    s = stage()
    claim = claim_of(s.ask(**ID))
    assert len(many(s)) == 100 - 15
    s.feed(Claimed(s.now, claim.key, ""))
    assert len(s.said(Started)) == 1 and len(s.state.runs) == 1


def test_a_flood_of_repeats_of_a_dead_selectors_run_is_turned_away(stage: Any) -> None:
    s = stage()
    made = next(e.event for e in s.ask("tmp", "elsewhere", stream=True) if isinstance(e, Trace))
    s.state.runs.pop("tmp")
    base = {name: getattr(made, name) for name in made.__struct_fields__}
    s.feed(Traced(s.now, SelectionMade(**base | {"run_id": "r0", "instance": "s2", "reply": "their-caller"})))
    for i in range(100):
        s.feed(Unheard(s.now, f"_INBOX_A.s1.run.attach.r0.caller-{i}"))
    assert [len(s.ends(f"caller-{i}")) for i in range(100)] == [0] * 16 + [1] * 84
    s.stored("r0")
    assert [e.code for e in s.ends("their-caller") + s.ends("caller-15")] == ["interrupted"] * 2


# --- resend --------------------------------------------------------------------------------------------------------


def test_said_again_from_where_a_reader_lost_something(stage: Any) -> None:
    s = stage()
    s.ask()
    s.text("Once", " upon")
    s.failed("broken_stream")
    s.text(" a", " time")
    again = s.put(Resend(run_id="r1", from_seq=2), reply="reader")
    assert [type(e.message) for e in again] == [Resent, Seam, Delta, Delta]
    assert (again[0].message.known, again[0].message.next_seq) == (True, 4)
    assert [e.message.seq for e in again[2:]] == [2, 3] and again[1].message.next_seq == 2
    later = s.put(Resend(run_id="r1", from_seq=3), reply="reader")
    assert [type(e.message) for e in later] == [Resent, Delta]


def test_of_a_run_that_is_not_here_nothing_can_be_said_again(stage: Any) -> None:
    s = stage()
    out = s.put(Resend(run_id="r7"), reply="reader")
    assert [e.message for e in out if isinstance(e, Send)] == [Resent(run_id="r7", known=False)]
    assert not any(isinstance(e.message, Failed) for e in out if isinstance(e, Send))
