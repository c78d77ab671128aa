"""Heartbeats to health: processes that die, fall silent, leave, or have not come yet."""

from __future__ import annotations

from tests.actors.health_tracker.tracked import DOWN, UP, Tracker
from understudy.messages.events import ModelLoaded
from understudy.messages.run import ModelLoad, ProcessGone, RunnerBeat
from understudy.messages.step import CaughtUp, Deaf, Wake


def test_a_dead_process_is_unavailable_at_once_and_back_with_its_beat() -> None:
    t = Tracker()
    (store,) = t.hear(ProcessGone(actor="runner", instance="i-a"))
    assert store.event.reason == "gone" and t.said() == [DOWN]
    t.hear(ProcessGone(actor="runner", instance="i-a"))
    t.beat("a")
    t.beat("a")
    assert t.said() == [DOWN, UP]


def test_with_another_instance_left_nothing_is_said() -> None:
    t = Tracker()
    t.hear(RunnerBeat(instance="i-a2", models={"a": ModelLoad(slots=1, in_flight=0)}))
    t.hear(ProcessGone(actor="runner", instance="i-a"))
    assert t.said() == []
    t.hear(ProcessGone(actor="runner", instance="i-a2"))
    assert t.said() == [DOWN]


def test_silence_is_noticed_by_the_sweep() -> None:
    t = Tracker()
    for _ in range(6):
        t.now += 250
        t.beat("b")
        t.sweep(0.0, beats=False)
    assert t.said() == []
    t.now += 250
    t.beat("b")
    t.sweep(0.0, beats=False)
    assert t.said() == [DOWN] and t.state.watches["a"].reason == "silent"
    (store,) = t.happen(ModelLoaded(at_ms=0, model="a", instance="i-a", engine="http"))
    assert store.event.by == "loaded" and t.said() == [DOWN, UP]


def test_silence_while_we_were_deaf_is_nobodys_fault() -> None:
    t = Tracker()
    t.now += 4_000
    t.feed(Deaf(t.now, 4_000.0))
    t.sweep(0.0, beats=False)
    assert t.said() == []
    t.now += 1_600
    t.sweep(0.0, beats=False)
    assert len(t.said()) == 2


def test_a_runner_that_leaves_in_good_order_is_not_called_dead() -> None:
    t = Tracker()
    t.happen(ModelLoaded(at_ms=0, model="a", instance="i-a", engine="http"))
    t.hear(RunnerBeat(instance="i-a", models={"a": ModelLoad(slots=1, in_flight=1)}, accepting=False))
    t.hear(ProcessGone(actor="runner", instance="i-a"))
    for _ in range(30):
        t.now += 250
        t.beat("b")
        t.sweep(0.0, beats=False)
    assert t.said() == []
    t.beat("a")
    t.hear(ProcessGone(actor="runner", instance="i-a"))
    assert t.said() == [DOWN]


def test_a_runner_that_the_log_promised_has_a_grace() -> None:
    t = Tracker(live=False, models={"a": {}, "never": {}})
    t.happen(ModelLoaded(at_ms=0, model="a", instance="i-a", engine="http"))
    t.feed(CaughtUp(t.now, t.seq))
    t.sweep(5_000.0, beats=False)
    assert t.said() == []
    t.sweep(1.0, beats=False)
    t.sweep(1.0, beats=False)
    assert t.said() == [DOWN]


def test_no_probe_without_a_runner() -> None:
    t = Tracker()
    t.hear(ProcessGone(actor="runner", instance="i-a"))
    t.sweep(60_000.0, beats=False)
    assert t.asked() == []


def test_the_sweep_comes_again() -> None:
    t = Tracker()
    assert t.sweep()[0] == Wake(t.now + 250, "sweep", 2)
