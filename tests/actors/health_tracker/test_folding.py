"""The log to health: what was said before stands, and two trackers say each change once."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tests.actors.health_tracker.tracked import Tracker, answer, plan
from understudy.messages.events import AttemptEnded, ModelDegraded, ModelRecovered, ModelUnavailable, TopologyApplied
from understudy.messages.run import ModelLoad, ProcessGone, RunnerBeat
from understudy.messages.step import Happened, Store, StoreFailed


def test_nothing_is_said_while_folding_and_what_was_said_stands() -> None:
    t = Tracker(live=False)
    t.bad(times=9)
    t.happen(ModelUnavailable(at_ms=0, model="a", reason="engine", was="healthy", retry_at_ms=1_500_000, opened=3))
    t.happen(ModelDegraded(at_ms=0, model="b", reason="engine", was="healthy"))
    assert t.effects == []
    t.live()
    assert (t.status(), t.status("b")) == ("unavailable", "degraded")
    t.bad(times=5)
    assert t.said() == []
    t.sweep(500_000.0)
    assert len(t.asked()) == 1
    answer(t, "engine")
    assert t.state.watches["a"].retry_at_ms == t.now + 8_000


def test_a_folded_recovery_stands_too() -> None:
    t = Tracker(live=False)
    t.happen(ModelUnavailable(at_ms=0, model="a", reason="engine", was="healthy", retry_at_ms=9))
    t.happen(ModelRecovered(at_ms=0, model="a", was="unavailable", by="probe"))
    t.live()
    assert t.status() == "healthy" and t.said() == []


def test_what_a_full_log_refused_is_said_again_while_it_holds() -> None:
    t = Tracker()
    t.bad(times=3)
    store = next(e for e in t.effects if isinstance(e, Store))
    t.feed(StoreFailed(t.now, store.msg_id, "bus_down"))  # the host goes on trying
    assert store not in t.sweep()
    t.feed(StoreFailed(t.now, store.msg_id, "log_full"))
    assert store in t.sweep()
    assert store not in t.sweep()
    t.feed(StoreFailed(t.now, store.msg_id, "log_full"))
    t.good()
    assert store not in t.sweep(), "it recovered meanwhile"


def test_a_fact_that_comes_again_is_not_counted_again() -> None:
    t = Tracker()
    fact = Happened(t.now, t.seq + 1, AttemptEnded(at_ms=0, run_id="r", attempt=0, model="a", reason="server_error"))
    for _ in range(3):
        t.feed(fact)
    assert t.status() == "healthy"


def test_a_model_that_left_the_topology_is_forgotten() -> None:
    t = Tracker()
    t.happen(TopologyApplied(at_ms=0, hash="h2", body=plan(b={})))
    t.beat("b")
    t.hear(RunnerBeat(instance="i-a", models={"a": ModelLoad(slots=1, in_flight=0)}))
    t.bad(times=9)
    t.good()
    assert list(t.state.watches) == ["b"] and t.said() == []


STEPS = st.sampled_from(["bad", "bad", "good", "busy", "gone", "beat", "sweep", "long", "yes", "no"])


@given(st.lists(STEPS, max_size=60))
def test_announcements_alternate_and_have_their_own_ids(history: list[str]) -> None:
    t = Tracker(models={"a": {}})
    for word in history:
        match word:
            case "bad" | "good" | "beat":
                getattr(t, word)()
            case "busy":
                t.bad("busy")
            case "gone":
                t.hear(ProcessGone(actor="runner", instance="i-a"))
            case "sweep" | "long":
                t.sweep(300.0 if word == "sweep" else 7_000.0, beats=False)
            case _:
                if t.asked():
                    answer(t, "text" if word == "yes" else "engine")
    status = "healthy"
    stores = [e for e in t.effects if isinstance(e, Store)]
    for store in stores:
        assert store.event.was == status
        status = {"Recovered": "healthy"}.get(type(store.event).__name__.removeprefix("Model"), "")
        status = status or type(store.event).__name__.removeprefix("Model").lower()
        assert status != store.event.was
    assert status == t.status() and len({s.msg_id for s in stores}) == len(stores)


# --- two trackers, or one that was started again -------------------------------------------------------------------


class Log:
    """What the server does: the first event with an id is kept; every tracker reads what was kept, in order."""

    def __init__(self, *trackers: Tracker) -> None:
        self.trackers, self.kept = trackers, dict[str, Any]()

    def take(self, effects: list[Any]) -> None:
        for effect in effects:
            if isinstance(effect, Store) and effect.msg_id not in self.kept:
                event = msgspec.structs.replace(effect.event, id=effect.msg_id)
                self.kept[effect.msg_id] = event
                for tracker in self.trackers:
                    self.take(tracker.happen(event))

    def words(self) -> list[str]:
        return [type(e).__name__.removeprefix("Model") for e in self.kept.values()]


def test_two_trackers_announce_each_change_once() -> None:
    alone, one, two = Tracker(), Tracker(), Tracker()
    single, both = Log(alone), Log(one, two)
    for _ in range(3):
        for log in (single, both):
            for step in (lambda t: t.bad(times=3), lambda t: t.good(times=4)):
                for said in [step(tracker) for tracker in log.trackers]:  # both decide before either is read back
                    log.take(said)
    assert both.words() == single.words() and both.words().count("Unavailable") == 3
    assert one.state.watches["a"].status == two.state.watches["a"].status == alone.state.watches["a"].status


def test_the_tracker_whose_word_came_second_takes_over_the_first() -> None:
    one, two = Tracker(), Tracker(open_after=99, minimum_outcomes=3, degraded_ratio=0.1)
    log = Log(one, two)
    first, second = one.bad(times=3), two.bad(times=3)
    log.take(first)
    log.take(second)
    assert log.words() == ["Unavailable"]
    assert [t.state.watches["a"].status for t in (one, two)] == ["unavailable", "unavailable"]


def test_a_tracker_started_again_goes_on_with_the_numbers_and_repeats_the_same_id_for_the_same_change() -> None:
    before = Tracker()
    log = Log()
    log.take(before.bad(times=3))
    again = Tracker(live=False)
    again.bad(times=3)
    for event in log.kept.values():
        again.happen(event)
    again.live()
    log.take(again.good())
    assert list(log.kept) == ["health.a.1", "health.a.2"] and log.words() == ["Unavailable", "Recovered"]
    lost = Tracker(live=False)  # its first life's word never reached the log
    lost.live()
    assert [e.msg_id for e in lost.bad(times=3) if isinstance(e, Store)] == ["health.a.1"]
