"""What is left behind on the way: late words, lost pieces, limits of time, callers that leave."""

from __future__ import annotations

from typing import Any

import pytest

from understudy.messages.generate import Delta, Finished, Started
from understudy.messages.run import CancelRun, RunStarted, RunText
from understudy.messages.step import Probe, Send, Wake, Woke


def cancels(effects: list[Any]) -> list[tuple[str, int]]:
    return [(e.subject, e.message.attempt) for e in effects if isinstance(e, Send) and isinstance(e.message, CancelRun)]


# --- fencing, lost pieces ------------------------------------------------------------------------------------------


def test_late_words_of_an_abandoned_attempt_are_fenced_off(stage: Any) -> None:
    s = stage()
    s.ask()
    s.text("One")
    s.failed("server_error")
    assert s.hear(RunText(run_id="r1", attempt=0, instance="i-a", n=1, text=" LATE")) == []
    s.text(" two")
    assert s.hear(RunText(run_id="r1", attempt=0, instance="i-a", n=1, text=" LATE")) == []
    s.ended()
    assert s.text(" more") == []
    s.stored()
    assert s.said(Finished)[0].text == s.kept() == "One two"
    assert s.text(" after the end") == []


def test_a_runner_that_starts_too_late_is_told_to_stop(stage: Any) -> None:
    s = stage()
    s.ask()
    s.wake()
    late = RunStarted(run_id="r1", attempt=0, instance="i-a")
    assert cancels(s.hear(late)) == [("tta.ask.runner.cancel.i-a", 0)]
    s.cancel()
    assert cancels(s.started()) == [("tta.ask.runner.cancel.i-b", 1)]
    s.stored()
    assert cancels(s.hear(late)) == [("tta.ask.runner.cancel.i-a", 0)]


def test_a_runner_whose_first_words_come_too_late_is_told_to_stop(stage: Any) -> None:
    s = stage()
    s.ask()
    s.wake()
    late = RunText(run_id="r1", attempt=0, instance="i-a", n=0, text="LATE")
    assert cancels(s.hear(late)) == [("tta.ask.runner.cancel.i-a", 0)]
    s.text("On time")
    s.cancel()
    s.stored()
    assert cancels(s.hear(late)) == [("tta.ask.runner.cancel.i-a", 0)]
    assert "LATE" not in s.kept()


def test_pieces_of_a_runner_that_does_not_name_itself_yet_are_heard(stage: Any) -> None:
    s = stage()
    s.ask()
    s.started()
    assert s.hear(RunText(run_id="r1", attempt=0, n=0, text="One"))
    assert cancels(s.cancel()) == [("tta.ask.runner.cancel.i-a", 0)]
    s.stored()
    assert s.hear(RunText(run_id="r1", attempt=0, n=0, text="One")) == []


def test_who_spoke_is_known_though_it_never_said_that_it_began(stage: Any) -> None:
    s = stage()
    s.ask()
    s.text("One")
    assert cancels(s.cancel()) == [("tta.ask.runner.cancel.i-a", 0)]


@pytest.mark.parametrize("gap", [1, 3])
def test_a_missing_piece_is_text_lost(stage: Any, gap: int) -> None:
    s = stage()
    s.ask()
    s.started()
    s.text("One")
    out = s.hear(RunText(run_id="r1", attempt=0, instance="i-a", n=1 + gap, text=" LOST"))
    assert cancels(out) == [("tta.ask.runner.cancel.i-a", 0)]
    assert s.stores("attempt.")[0].event.reason == "text_lost"
    assert s.call().prefill == "One"


def test_an_end_that_counts_other_pieces_is_text_lost(stage: Any) -> None:
    s = stage()
    s.ask()
    s.text("One")
    s.ended(pieces=2)
    assert s.stores("attempt.")[0].event.reason == "text_lost" and s.call().model == "b"


# --- time ----------------------------------------------------------------------------------------------------------


def test_no_first_token_in_time(stage: Any) -> None:
    s = stage()
    s.ask()
    s.started()
    out = s.wake()
    assert s.now == 1_010_000.0 and cancels(out) == [("tta.ask.runner.cancel.i-a", 0)]
    assert s.stores("attempt.")[0].event.reason == "first_token_timeout" and s.call().model == "b"


def test_text_moves_the_stall_limit_and_the_timer_looks_again_lazily(stage: Any) -> None:
    s = stage()
    s.ask()
    s.now += 4_000
    assert not [e for e in s.text("One") if isinstance(e, Wake)]
    s.now += 4_000
    s.text(" two")  # due at 8 s + 5 s; the only timer stands at 10 s
    assert s.wake() == [Wake(1_013_000.0, "r1", 0)]
    assert s.call().model == "a"
    s.wake()
    assert s.stores("attempt.")[0].event.reason == "stall_timeout" and s.call().model == "b"


def test_a_timer_of_an_older_attempt_does_nothing(stage: Any) -> None:
    s = stage()
    s.ask()
    s.failed("busy")
    s.now += 50_000
    assert s.feed(Woke(s.now, "r1", 0)) == []
    assert s.call().attempt == 1


def test_the_deadline_ends_the_run(stage: Any) -> None:
    s = stage()
    s.ask(deadline_ms=3_000)
    assert s.said(Started)[0].deadline_ms == 3_000 and s.call().remaining_ms == 3_000
    s.started()
    s.text("One")
    s.wake()
    s.stored()
    end = s.ends()[0]
    assert (end.code, end.last_seq, end.resumable) == ("deadline_exceeded", 0, True)
    assert s.now == 1_003_000.0 and len(end.attempts) == 1


def test_a_failure_after_the_deadline_asks_nobody(stage: Any) -> None:
    s = stage()
    s.ask(deadline_ms=3_000)
    s.now += 3_000
    s.failed("server_error")
    s.stored()
    assert s.ends()[0].code == "deadline_exceeded"


def test_the_next_model_gets_what_is_left_of_the_time(stage: Any) -> None:
    s = stage()
    s.ask(deadline_ms=30_000)
    s.wake()
    assert s.call().remaining_ms == 20_000


# --- cancel --------------------------------------------------------------------------------------------------------


def test_a_vanished_caller_stops_the_runner(stage: Any) -> None:
    s = stage()
    s.ask()
    s.started()
    s.text("One")
    assert cancels(s.vanish()) == [("tta.ask.runner.cancel.i-a", 0)]
    s.stored()
    assert [e.code for e in s.ends()] == ["cancelled"] and s.state.runs == {}


def test_a_caller_that_lost_its_connection_is_kept(stage: Any) -> None:
    s = stage()
    s.ask()
    s.text("One")
    for _ in range(3):  # deltas of a third of a second, then it is back; later the same again
        for _ in range(6):
            assert s.unheard_by_caller() == []
            s.now += 60
        s.now += 1_500
    assert s.stores("end.") == []


def test_a_caller_is_looked_for_while_nothing_is_said(stage: Any) -> None:
    s = stage()
    s.ask()
    probes: list[Any] = []
    for _ in range(10):
        probes += [(s.now, e) for e in s.wake("sweep") if isinstance(e, Probe)]
    reply = "_INBOX_A.s1.vanished.r1.0"
    assert {(e.subject, e.reply) for _, e in probes} == {("caller", reply)}
    assert len(probes) == 4 and s.now - s.begun <= 1000
    s.text("One")
    assert [e.reply for e in s.effects if isinstance(e, Send) and isinstance(e.message, Delta)] == [reply]


def test_cancelling_stops_the_runner_and_ends(stage: Any) -> None:
    s = stage()
    s.ask()
    s.started()
    s.text("One")
    out = s.cancel()
    assert cancels(out) == [("tta.ask.runner.cancel.i-a", 0)]
    assert s.cancel() == []
    s.stored()
    assert [e.code for e in s.ends()] == ["cancelled"]


def test_a_cancelled_run_gets_no_emergency_reply(stage: Any) -> None:
    s = stage(tasks={"general": {"emergency_reply": "Sorry."}})
    s.ask()
    s.cancel()
    s.stored()
    assert s.ends()[0].code == "cancelled"
