"""A runner's queue on a table: waiting, starting, leaving, and what selectors hear of it."""

from __future__ import annotations

from typing import Any

import pytest

from understudy.actors.runner import core
from understudy.messages.generate import Parameters, Turn
from understudy.messages.limits import Limits
from understudy.messages.run import CancelRun, ModelLoad, RunFailed, RunModel, RunnerBeat, RunQueued, RunStarted
from understudy.messages.step import (
    Asked,
    Booted,
    CallEnded,
    CallFailed,
    CallModel,
    EdgeReady,
    Probe,
    Send,
    Stopping,
    Unheard,
    Wake,
    Woke,
)

PARAMETERS = Parameters(max_tokens=5, temperature=0.0, top_p=1.0, seed=1)
T0 = 1_000_000.0


class Desk:
    """One runner with a slot for `m` and one for `n`; `r1` has the one of `m`."""

    def __init__(self, **settings: Any) -> None:
        self.state, self.settings = core.State(), core.Settings(models={"m": 1, "n": 1}, **settings)
        self.now, self.effects = T0, list[Any]()
        self.feed(Booted(T0, "runner", "i1", "tta", "_INBOX_A.i1", "id"))
        self.feed(EdgeReady(T0, {}))
        self.ask("r1")

    def feed(self, message: Any) -> list[Any]:
        out = core.step(self.state, message, self.settings)
        self.effects += out
        return out

    def ask(
        self, run: str, model: str = "m", left: float = 5_000.0, home: str = "s1", text: str = "Hello", **more: Any
    ) -> list[Any]:
        one = RunModel(
            run_id=run, attempt=0, model=model, messages=(Turn(role="user", content=text),), parameters=PARAMETERS,
            remaining_ms=left, **{"may_wait": True, **more},
        )  # fmt: skip
        return self.feed(Asked(self.now, "id", "s", f"{home}.run.{run}.0", one))

    def said(self, run: str) -> list[Any]:
        return [e.message for e in self.effects if isinstance(e, Send) and e.subject.endswith(f".run.{run}.0")]

    def end(self, run: str) -> list[Any]:
        return self.feed(CallEnded(self.now, f"{run}.0", "stop", 1, 1))


def words(desk: Desk, run: str) -> list[str]:
    return [one.reason if isinstance(one, RunFailed) else type(one).__name__ for one in desk.said(run)]


def test_it_waits_and_starts_when_there_is_room() -> None:
    desk = Desk()
    queued, wake = desk.ask("r2")
    assert queued.message == RunQueued(run_id="r2", attempt=0, instance="i1")
    assert wake == Wake(T0 + 5_000, "r2.0", 0) and core.in_hand(desk.state) == 1
    desk.now += 3_000
    call, started, until = desk.end("r1")[-3:]
    assert isinstance(call, CallModel) and call.run.remaining_ms == 2_000.0, "what is left of its time"
    assert started.message == RunStarted(run_id="r2", attempt=0, instance="i1")
    assert started.reply == "_INBOX_A.i1.vanished.r2.0" and until == Wake(T0 + 5_000, "r2.0", 0)
    assert desk.state.waiting == {} and core.in_hand(desk.state) == 1


def test_who_may_not_wait_hears_how_many_do() -> None:
    desk = Desk()
    desk.ask("r2")
    desk.ask("r3", may_wait=False)
    assert [(m.reason, m.waiting) for m in desk.said("r3")] == [("busy", 1)] and list(desk.state.waiting) == ["r2.0"]


def test_a_full_queue_says_when_to_come_again() -> None:
    desk = Desk(queue=1)
    desk.ask("r2")
    desk.ask("r3")
    assert [(m.reason, m.retry_after_ms) for m in desk.said("r3")] == [("no_room", 250)]
    desk.now += 4_000
    desk.end("r1")
    desk.ask("r4")
    desk.ask("r5")
    assert [m.retry_after_ms for m in desk.said("r5")] == [4_000], "as long as calls take, for the one that waits"


@pytest.mark.parametrize("how", ["cancel", "late"])
def test_a_waiter_that_goes_leaves_no_trace(how: str) -> None:
    desk = Desk()
    desk.ask("r2")
    if how == "cancel":
        desk.feed(Asked(desk.now, "id", "s", "", CancelRun(run_id="r2", attempt=0)))
    else:
        desk.now += 5_000
        desk.feed(Woke(desk.now, "r2.0", 0))
    assert words(desk, "r2") == ["RunQueued", "cancelled" if how == "cancel" else "deadline"]
    assert desk.state.waiting == {} and desk.state.admission.tickets == {}
    assert not [e for e in desk.end("r1") if isinstance(e, CallModel)]


def test_an_order_that_came_twice_waits_once() -> None:
    desk = Desk()
    desk.ask("r2")
    assert desk.ask("r2") == [] and len(desk.state.waiting) == 1


def test_stopping_sends_away_whoever_waits() -> None:
    desk = Desk()
    desk.ask("r2")
    desk.feed(Stopping(desk.now, desk.now + 9_000))
    assert words(desk, "r2") == ["RunQueued", "busy"] and core.in_hand(desk.state) == 1
    desk.ask("r3")
    assert words(desk, "r3") == ["busy"]


def test_patience_that_a_provider_asks_for_closes_the_model_and_frees_its_queue() -> None:
    desk = Desk()
    desk.ask("r2")
    desk.feed(CallFailed(desk.now, "r1.0", "rate_limited", 429, 2_000))
    assert words(desk, "r1") == ["rate_limited"] and words(desk, "r2") == ["RunQueued", "busy"]
    desk.ask("r3")
    assert Wake(desk.now + 2_000, "turn", 0) in desk.effects and words(desk, "r3") == ["RunQueued"]
    desk.ask("n1", "n")
    assert "n1.0" in desk.state.calls, "the other model is open"
    desk.now += 2_000
    desk.feed(Woke(desk.now, "turn", 0))
    assert words(desk, "r3") == ["RunQueued", "RunStarted"]


def test_a_provider_that_is_overloaded_is_left_alone_too_where_it_asks_for_it() -> None:
    desk = Desk()
    desk.ask("r2")
    desk.feed(CallFailed(desk.now, "r1.0", "server_error", 503, 2_000))
    assert words(desk, "r2") == ["RunQueued", "busy"] and not desk.state.calls


def test_a_quota_of_free_models_that_is_used_up_sends_nobody_else_away() -> None:
    desk = Desk()
    desk.end("r1")
    for run, name in (("f1", "x:free"), ("f2", "x:free"), ("p1", "x")):
        desk.ask(run, name=name)
    failed = CallFailed(desk.now, "f1.0", "rate_limited", 429, None, None, int(desk.now) + 9_000)
    desk.feed(failed)
    assert words(desk, "f2") == ["RunQueued", "busy"] and words(desk, "p1") == ["RunQueued", "RunStarted"]


def test_who_is_turned_away_by_a_minutes_limit_hears_when_it_ends() -> None:
    desk = Desk(queue=1, limits=Limits(requests_per_min=2, buffer_ratio=0.0))
    desk.end("r1")
    desk.now += 10_000
    desk.ask("r2")
    desk.end("r2")
    desk.now += 10_000
    for run in ("r3", "r4"):
        desk.ask(run)
    assert [one.retry_after_ms for one in desk.said("r4")] == [40_000], "a minute after r1 began"


def test_an_accounts_patience_closes_all_models() -> None:
    desk = Desk()
    desk.feed(CallFailed(desk.now, "r1.0", "rate_limited", 429, 2_000, account=True))
    desk.ask("n1", "n", may_wait=False)
    assert words(desk, "n1") == ["busy"]


def test_a_probe_gives_its_place_up_to_another_models_request_where_they_share() -> None:
    desk = Desk(limits=Limits(concurrent=2, buffer_ratio=0.0))
    desk.end("r1")
    desk.ask("p", "m", probe=True, may_wait=False)
    desk.ask("n1", "n")
    assert {"p.0", "n1.0"} == set(desk.state.calls), "room for both"
    desk = Desk(limits=Limits(concurrent=1, buffer_ratio=0.0))
    desk.end("r1")
    desk.ask("p", "m", probe=True, may_wait=False)
    desk.ask("n1", "n")
    assert set(desk.state.calls) == {"n1.0"} and words(desk, "p") == ["busy"]


def test_beats_tell_who_waits() -> None:
    desk = Desk()
    desk.ask("r2")
    beat = desk.feed(Woke(desk.now, "beat", 1))[1].message
    loads = {"m": ModelLoad(slots=1, in_flight=1, waiting=1), "n": ModelLoad(slots=1)}
    assert beat == RunnerBeat(instance="i1", models=loads)


def test_a_selector_that_died_leaves_no_one_in_the_queue() -> None:
    desk = Desk()
    for run, home in (("r2", "s1"), ("r3", "s1"), ("r4", "s2")):
        desk.ask(run, home=home)
    asked = [e for e in desk.feed(Woke(desk.now, "beat", 4)) if isinstance(e, Probe)]
    assert [(p.subject, p.reply) for p in asked] == [
        ("s1.run.r2.0", "_INBOX_A.i1.vanished.r2.0"),
        ("s2.run.r4.0", "_INBOX_A.i1.vanished.r4.0"),
    ]
    assert not [e for e in desk.feed(Woke(desk.now, "beat", 5)) if isinstance(e, Probe)], "every fourth beat"
    desk.feed(Unheard(desk.now + 1_000, asked[0].reply))  # perhaps only its connection
    assert len(desk.state.waiting) == 3
    desk.feed(Unheard(desk.now + 2_000, asked[0].reply))
    assert list(desk.state.waiting) == ["r4.0"] == list(desk.state.admission.tickets)


def test_reserved_tokens_are_settled_by_what_was_used() -> None:
    desk = Desk(limits=Limits(tokens_per_min=20, buffer_ratio=0.0))
    desk.end("r1")  # reserved 2 + 5, used 2
    desk.ask("n1", "n")
    desk.end("n1")
    desk.ask("n2", "n")
    desk.end("n2")
    assert desk.ask("r2")[0] == CallModel("r2.0", desk.state.calls["r2.0"].run), "6 used, 7 reserved: 13 of 20"
    desk.ask("n3", "n")
    assert words(desk, "n3") == [] and len(desk.state.calls) == 2, "20 of 20"
    desk.end("r2")
    desk.ask("r3")
    assert words(desk, "r3") == ["RunQueued"], "22 would be"


def test_a_queue_is_bounded_by_bytes_too() -> None:
    """By what came over the bus; a class has its share of it, and what goes makes room."""
    desk, long = Desk(queue_bytes=2_000), "é" * 500
    desk.ask("r2", text=long)
    desk.ask("r3", text=long)
    assert words(desk, "r2") == ["RunQueued"] and words(desk, "r3") == ["no_room"]
    desk.ask("r4")
    desk.ask("r5", priority="best_effort")
    assert words(desk, "r4") == ["RunQueued"] and words(desk, "r5") == ["no_room"], "there is room, but not in its half"
    desk.feed(Asked(desk.now, "id", "s", "", CancelRun(run_id="r2", attempt=0)))
    desk.ask("r6", text=long)
    assert words(desk, "r6") == ["RunQueued"]
    desk.end("r1")
    desk.end("r4")
    assert "r6.0" in desk.state.calls and desk.ask("r7", text=long) and words(desk, "r7") == ["RunQueued"]


def test_a_critical_one_takes_the_place_of_the_last_of_the_lowest_class() -> None:
    desk = Desk(queue=4)
    for run, priority in (("h1", "high"), ("l1", "low"), ("l2", "low"), ("h2", "high")):
        desk.ask(run, priority=priority)
    desk.ask("h3")
    assert words(desk, "h3") == ["no_room"], "a flood of high ones would leave low ones no turn"
    for run in ("c1", "c2", "c3", "c4"):
        desk.ask(run, priority="critical")
    assert [words(desk, run) for run in ("l2", "l1", "h2", "h1")] == [["RunQueued", "no_room"]] * 4
    assert [one.retry_after_ms for one in desk.said("l2")[1:]] == [250] and Wake(0, "l2.0", 0) in desk.effects
    desk.ask("c5", priority="critical")
    assert words(desk, "c5") == ["no_room"] and list(desk.state.waiting) == ["c1.0", "c2.0", "c3.0", "c4.0"]


def test_a_critical_one_that_finds_no_room_all_the_same_sends_nobody_away() -> None:
    desk = Desk(queue_bytes=1_000)
    desk.ask("l1", priority="low")
    desk.ask("c1", priority="critical", text="x" * 1_000)
    assert words(desk, "c1") == ["no_room"] and words(desk, "l1") == ["RunQueued"]


def test_who_waited_for_a_dead_selectors_turn_goes_on_at_once() -> None:
    desk = Desk(limits=Limits(tokens_per_min=20, buffer_ratio=0.0))
    desk.end("r1")  # used 2
    desk.ask("m1")  # reserved 7, used 2
    desk.ask("big", model="n", text="x" * 28, home="s1")  # 13 with m1's 9: too many
    desk.ask("small", model="n", home="s2")  # 7
    assert words(desk, "big") == words(desk, "small") == ["RunQueued"], "the turn is the long one's"
    for after in (1_000, 2_000):
        desk.now = T0 + after
        desk.feed(Unheard(desk.now, "_INBOX_A.i1.vanished.big.0"))
    assert words(desk, "big") == ["RunQueued", "busy"] and words(desk, "small") == ["RunQueued", "RunStarted"]


def test_one_that_may_not_wait_keeps_nobody_from_a_turn_that_has_just_come() -> None:
    """Its own is found first, and it needs more than there is."""
    desk = Desk(limits=Limits(tokens_per_min=20, buffer_ratio=0.0))
    desk.now += 1_000
    desk.end("r1")  # used 2, until a minute after T0
    desk.ask("m1", text="x" * 20)  # reserved 11
    desk.ask("small", model="n", text="x" * 8)  # 8: 21 in all
    assert words(desk, "small") == ["RunQueued"]
    desk.now = T0 + 60_000.0
    desk.state.waiting["small.0"].until_ms = desk.now + 9_000
    desk.ask("long", model="n", priority="critical", may_wait=False, text="x" * 40)
    assert words(desk, "long") == ["busy"] and words(desk, "small") == ["RunQueued", "RunStarted"]


def test_one_whose_time_is_over_is_not_begun() -> None:
    """The process was held up, and somebody's end comes before the waiter's timer."""
    desk = Desk()
    desk.ask("r2")
    desk.ask("r3", left=9_000.0)
    desk.now += 6_000
    out = desk.end("r1")
    assert [e.call_id for e in out if isinstance(e, CallModel)] == ["r3.0"]
    assert words(desk, "r2") == ["RunQueued", "deadline"] and list(desk.state.calls) == ["r3.0"]
    assert desk.state.admission.busy["m"] == 1


def test_a_prompt_in_another_script_reserves_more_than_its_letters() -> None:
    desk = Desk(limits=Limits(tokens_per_min=100, buffer_ratio=0.0))
    desk.end("r1")  # used 2
    desk.ask("r2", text="\u8f9e" * 80)  # 240 bytes: 61 tokens at least, and 5
    desk.ask("n1", model="n", text="x" * 120)  # 31 and 5
    assert "r2.0" in desk.state.calls and words(desk, "n1") == ["RunQueued"]
