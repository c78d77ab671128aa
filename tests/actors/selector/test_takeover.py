"""A selector dies: its siblings end its runs, the log decides which end came first, and everybody says that one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from understudy.messages.brief import RequestBrief
from understudy.messages.events import RequestEnded, SelectionMade
from understudy.messages.generate import Failed, Finished
from understudy.messages.run import CancelRun, ProcessGone, SelectorBeat
from understudy.messages.step import (
    Booted,
    CaughtUp,
    Claim,
    Happened,
    Recall,
    Recalled,
    Send,
    Store,
    Stored,
    Trace,
    Traced,
)

SECOND = "s2"


def decision(s: Any, run: str = "r9", instance: str = SECOND, **fields: Any) -> SelectionMade:
    """What a sibling would have traced: our own decision under its name."""
    made = next(e.event for e in s.ask("tmp", reply="elsewhere") if isinstance(e, Trace))
    s.state.runs.pop("tmp")
    body = {"run_id": run, "instance": instance, "reply": "their-caller", **fields}
    return SelectionMade(**{name: getattr(made, name) for name in made.__struct_fields__} | body)


def ended_by(s: Any, made: SelectionMade, **fields: Any) -> RequestEnded:
    s.ask("like", reply="elsewhere")
    s.text("Hi", run="like")
    s.ended(run="like")
    like = s.stores("end.like")[0].event
    s.stored("like")
    base = {name: getattr(like, name) for name in like.__struct_fields__}
    return RequestEnded(**base | {"run_id": made.run_id, "instance": made.instance, "decision": made} | fields)


def claim_of(s: Any, request_id: str) -> tuple[str, str]:
    """Under which key a request with this id is claimed, and the hash of its body."""
    claim = next(e for e in s.ask("probe", "elsewhere", request_id=request_id, user_id="u") if isinstance(e, Claim))
    s.state.claiming.clear()
    return claim.key, msgspec.json.decode(claim.value)["body"]


def gone(s: Any, instance: str = SECOND, at_ms: float | None = None) -> list[Any]:
    return s.hear(ProcessGone(actor="selector", instance=instance, at_ms=int(s.now if at_ms is None else at_ms)))


def ends_of(effects: list[Any]) -> list[RequestEnded]:
    return [e.event for e in effects if isinstance(e, Store) and isinstance(e.event, RequestEnded)]


def test_an_open_run_of_a_dead_selector_is_ended_and_its_caller_told(stage: Any) -> None:
    s = stage()
    made = decision(s, stream=True, conversation="c", user="u", claim="k", body="b")
    s.feed(Traced(s.now, made))
    out = gone(s)
    end = ends_of(out)[0]
    assert [e.msg_id for e in out if isinstance(e, Store)] == ["end.r9"]
    assert (end.outcome, end.instance, end.decision, end.conversation, end.user) == (
        "interrupted",
        "s1",
        made,
        "c",
        "u",
    )
    assert (end.claim, end.body, end.usage.estimated) == ("k", "b", True)
    assert s.said(reply="their-caller") == []
    s.stored("r9")
    told = s.said(Failed, "their-caller")
    assert [(f.code, f.resumable, f.recorded, f.run_id) for f in told] == [("interrupted", True, True, "r9")]
    assert gone(s) == [] and s.state.taken == {}


def test_a_run_whose_end_was_surely_said_is_left_alone(stage: Any) -> None:
    s = stage()
    made = decision(s)
    s.feed(Traced(s.now, made))
    s.happen(ended_by(s, made))
    for _ in range(2):  # whoever lived on for a heartbeat has said its ends
        s.now += 250
        s.hear(SelectorBeat(instance=SECOND))
    assert gone(s) == []


def test_an_end_that_the_log_took_a_moment_before_the_death_is_said_again(stage: Any) -> None:
    s = stage()
    made = decision(s, stream=True)
    s.feed(Traced(s.now, made))
    s.happen(ended_by(s, made))
    gone(s)
    assert [(f.text, f.run_id, f.recorded) for f in s.said(Finished, "their-caller")] == [(None, "r9", True)]
    assert gone(s) == []


def test_an_end_that_this_process_cannot_read_is_no_answer(stage: Any) -> None:
    s = stage()
    made = decision(s, stream=True)
    s.feed(Traced(s.now, made))
    end = ended_by(s, made)
    brief = RequestBrief(at_ms=end.at_ms, run_id=end.run_id, instance=end.instance)
    s.feed(Happened(s.now, s.seq + 1, brief, b'{"type":"request.ended.v1","run_id":"r9","outcome":7}'))
    gone(s)
    assert [e.code for e in s.ends("their-caller")] == ["text_lost"]


@pytest.mark.parametrize("duplicate", [True, False])
def test_a_repeat_of_a_run_that_was_taken_over_hears_its_end_at_once(stage: Any, duplicate: bool) -> None:
    s = stage()
    mine = claim_of(s, "same")
    made = decision(s, stream=True, claim=mine[0], body=mine[1])
    s.feed(Traced(s.now, made))
    gone(s)
    s.feed(Stored(s.now, "end.r9", 55, duplicate))
    out = s.ask("r2", "again", request_id="same", user_id="u")
    assert out == [Recall(55, "repeat.r2")]
    s.happen(ended_by(s, made, claim=mine[0], body=mine[1]))
    assert s.state.fresh == {}


def test_our_own_former_life_may_not_have_said_its_last_ends(stage: Any) -> None:
    s = stage()
    for run, ago_ms in (("old", 60_000), ("last", 1_000)):
        made = decision(s, run=run, instance="s1", at_ms=int(s.now) - ago_ms - 500, stream=True)
        s.feed(Booted(s.now, "selector", "s1", "tta", "_INBOX_A.s1", "id0"))
        s.feed(Traced(s.now, made))
        s.happen(ended_by(s, made, at_ms=int(s.now) - ago_ms))
    s.feed(CaughtUp(s.now, s.seq))
    assert [f.run_id for f in s.said(Finished, "their-caller")] == ["last"]


def test_the_end_that_came_first_is_said(stage: Any) -> None:
    s = stage()
    made = decision(s, stream=True)
    first = ended_by(s, made)
    s.feed(Traced(s.now, made))
    gone(s)
    assert s.feed(Stored(s.now, "end.r9", 7, True)) == [Recall(7, "taken.r9")]
    s.feed(Recalled(s.now, "taken.r9", first))
    told = s.said(Finished, "their-caller")
    assert [(f.text, f.run_id, f.last_seq, f.recorded) for f in told] == [(None, "r9", 0, True)]
    assert s.state.taken == {}


def test_an_end_that_cannot_be_recalled_is_said_when_the_log_is_read(stage: Any) -> None:
    s = stage()
    made = decision(s, stream=True)
    first = ended_by(s, made)
    s.feed(Traced(s.now, made))
    gone(s)
    s.feed(Stored(s.now, "end.r9", 7, True))
    assert s.feed(Recalled(s.now, "taken.r9", None)) == []
    s.happen(first)
    assert [f.run_id for f in s.said(Finished, "their-caller")] == ["r9"] and s.state.taken == {}


def test_a_single_reply_whose_text_died_with_its_selector(stage: Any) -> None:
    s = stage()
    made = decision(s, stream=False)
    first = ended_by(s, made)
    s.feed(Traced(s.now, made))
    gone(s)
    s.feed(Stored(s.now, "end.r9", 7, True))
    s.feed(Recalled(s.now, "taken.r9", first))
    assert [(f.code, f.resumable) for f in s.ends("their-caller")] == [("text_lost", False)]


def test_the_log_cannot_be_reached_so_nothing_is_said(stage: Any) -> None:
    s = stage()
    s.feed(Traced(s.now, decision(s)))
    gone(s)
    s.not_stored("r9")
    assert s.ends("their-caller") == []
    s.stored("r9")  # it goes on trying
    assert [f.code for f in s.ends("their-caller")] == ["interrupted"]


def test_a_full_log_holds_no_end_so_the_caller_hears_ours_unrecorded(stage: Any) -> None:
    s = stage()
    s.feed(Traced(s.now, decision(s)))
    gone(s)
    s.not_stored("r9", code="log_full")
    assert [(f.code, f.recorded) for f in s.ends("their-caller")] == [("interrupted", False)]
    assert s.state.taken == {}


def test_what_a_new_process_began_is_not_the_old_ones(stage: Any) -> None:
    s = stage()
    made = decision(s)
    s.feed(Traced(s.now, made))
    assert gone(s, at_ms=made.at_ms - 1) == []
    assert len(ends_of(gone(s, at_ms=made.at_ms))) == 1


def test_silence_of_a_sibling_while_we_hear_ourselves(stage: Any) -> None:
    s = stage()
    s.hear(SelectorBeat(instance=SECOND))
    s.feed(Traced(s.now, decision(s)))
    begun, out = s.now, []
    while not out:
        out = ends_of(s.wake("sweep"))
    assert 1_500 < s.now - begun <= 1_700
    assert [e.run_id for e in out] == ["r9"]


def test_while_we_are_deaf_nobody_is_dead(stage: Any) -> None:
    s = stage()
    s.hear(SelectorBeat(instance=SECOND))
    s.feed(Traced(s.now, decision(s)))
    s.ask()
    s.started()
    s.deaf = True
    s.now += 60_000
    assert [e for e in s.wake("sweep") if isinstance(e, Store)] == []
    s.deaf = False  # what was said meanwhile arrives in order: theirs, then our own
    s.hear(SelectorBeat(instance=SECOND))
    s.beat_all()
    assert [e for e in s.wake("sweep") if isinstance(e, Store)] == []


def test_when_we_hear_again_the_others_get_time_to_be_heard(stage: Any) -> None:
    """nats-server stood still: our own heartbeat may come back before anybody else's, and no model was at fault."""
    s = stage()
    s.hear(SelectorBeat(instance=SECOND))
    s.feed(Traced(s.now, decision(s)))
    s.ask()
    s.started()
    s.text("One")
    s.wake("sweep")
    s.deaf = True
    s.now += 10_000
    assert [e for e in s.wake("sweep") + s.wake() if isinstance(e, Store)] == []
    s.deaf = False
    for _ in range(4):
        assert [e for e in s.wake("sweep") + s.wake() if isinstance(e, Store)] == []
    s.hear(SelectorBeat(instance=SECOND))
    s.beat_all()
    assert [e for e in s.wake("sweep") if isinstance(e, Store)] == []
    s.text(" two")
    s.ended()
    s.stored()
    assert s.ends()[0].text == "One two" and len(s.ends()[0].attempts) == 1


def test_while_we_are_deaf_a_deadline_is_a_deadline(stage: Any) -> None:
    s = stage()
    s.wake("sweep")
    s.ask(deadline_ms=4_000)
    s.deaf = True
    while not s.stores("end."):
        s.wake()
    assert s.stores("end.")[0].event.outcome == "deadline_exceeded" and s.now - s.begun == 4_000


def test_our_own_former_life(stage: Any) -> None:
    s = stage()
    made = decision(s, run="old", instance="s1", at_ms=int(s.now) - 5_000)
    s.feed(Booted(s.now, "selector", "s1", "tta", "_INBOX_A.s1", "id0"))
    s.feed(Traced(s.now, made))
    mine = decision(s, run="new", instance="s1")
    s.feed(Traced(s.now, mine))
    assert [e.run_id for e in ends_of(s.feed(CaughtUp(s.now, s.seq)))] == ["old"]


def test_long_dead_runs_are_forgotten(stage: Any) -> None:
    s = stage()
    made = decision(s)
    s.feed(Traced(s.now, made))
    s.now = made.deadline_at_ms + 20_000
    while s.state.siblings.open:
        s.wake("sweep")
    s.feed(Traced(s.now, made))
    assert gone(s) == []


def test_taken_for_dead_while_it_lived_it_says_what_the_log_holds(stage: Any) -> None:
    s = stage()
    s.ask()
    s.started()
    s.text("Once")
    theirs = RequestEnded(
        at_ms=1,
        run_id="r1",
        instance=SECOND,
        outcome="interrupted",
        task="general",
        as_of_seq=1,
        topology="",
        digest="",
    )
    out = s.happen(theirs)
    assert [e.message for e in out if isinstance(e, Send)] == [CancelRun(run_id="r1", attempt=0)]
    assert s.ends() == [] and s.state.runs == {} and "r1" not in s.timers
    assert s.text(" upon") == []


def test_a_second_end_of_ours_says_the_first_of_theirs(stage: Any) -> None:
    s = stage()
    s.ask()
    s.text("Hi")
    s.ended()
    assert s.stored(duplicate=True) == [Recall(99, "end.r1")]
    theirs = RequestEnded(
        at_ms=1,
        run_id="r1",
        instance=SECOND,
        outcome="interrupted",
        task="general",
        as_of_seq=1,
        topology="",
        digest="",
    )
    s.feed(Recalled(s.now, "end.r1", theirs))
    assert [e.code for e in s.ends()] == ["interrupted"] and s.state.runs == {}


def test_an_end_of_ours_that_was_sent_twice(stage: Any) -> None:
    s = stage()
    s.ask()
    s.text("Hi")
    s.ended()
    ours = s.stores("end.")[0].event
    s.stored(duplicate=True)
    s.feed(Recalled(s.now, "end.r1", ours))
    assert [(e.text, e.recorded) for e in s.ends()] == [("Hi", True)]


def test_an_end_that_cannot_be_read_again_is_not_called_recorded(stage: Any) -> None:
    s = stage()
    s.ask()
    s.text("Hi")
    s.ended()
    s.stored(duplicate=True)
    s.feed(Recalled(s.now, "end.r1", None))
    assert [(e.text, e.recorded) for e in s.ends()] == [("Hi", False)]


def test_the_logs_answer_is_waited_for_though_the_end_is_read_back(stage: Any) -> None:
    s = stage()
    s.ask()
    s.text("Hi")
    s.ended()
    (end,) = s.stores("end.")
    s.happen(end.event)
    assert s.ends() == [] and s.state.runs, "the log has it, perhaps not yet the disk"
    s.stored(duplicate=True)  # sent again
    s.feed(Recalled(s.now, "end.r1", end.event))
    assert [(e.text, e.recorded) for e in s.ends()] == [("Hi", True)] and s.state.runs == {}


@pytest.mark.parametrize("duplicate", [False, True])
def test_an_end_that_the_disk_refused_is_not_called_recorded(stage: Any, duplicate: bool) -> None:
    s = stage()
    s.ask()
    s.text("Hi")
    s.ended()
    (end,) = s.stores("end.")
    s.feed(Stored(s.now, end.msg_id, 7, duplicate, synced=False))
    if duplicate:
        s.feed(Recalled(s.now, "end.r1", end.event))
    assert [(e.text, e.recorded) for e in s.ends()] == [("Hi", False)] and s.state.runs == {}


def test_a_taken_run_s_end_is_read_back_whosever_it_is(stage: Any) -> None:
    s = stage()
    made = decision(s, stream=True)
    s.feed(Traced(s.now, made))
    gone(s)
    s.happen(ended_by(s, made))
    assert [(e.text, e.recorded) for e in s.ends("their-caller")] == [(None, True)] and s.state.taken == {}
    s.stored("r9", duplicate=True)
    assert len(s.ends("their-caller")) == 1


@pytest.mark.parametrize("how", ["first", "duplicate", "read back"])
def test_a_taken_run_s_end_is_called_recorded_only_once_the_disk_has_it(stage: Any, how: str) -> None:
    s = stage()
    made = decision(s, stream=True)
    s.feed(Traced(s.now, made))
    gone(s)
    (ours,) = s.stores("end.r9")
    if how == "read back":
        s.happen(ours.event)
    elif how == "first":
        s.feed(Stored(s.now, ours.msg_id, 7, False, synced=False))
    else:
        (recall,) = s.feed(Stored(s.now, ours.msg_id, 7, True, synced=False))
        s.feed(Recalled(s.now, recall.key, ended_by(s, made)))
    assert [e.recorded for e in s.ends("their-caller")] == [False] and s.state.taken == {}
