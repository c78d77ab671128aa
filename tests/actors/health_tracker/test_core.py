"""Outcomes and heartbeats to health: each change announced once, breaker, backoff, probes, degradation, folding."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.actors.health_tracker import core
from understudy.actors.health_tracker.history import BLAMELESS
from understudy.messages.events import (
    AttemptEnded,
    ModelDegraded,
    ModelLoaded,
    ModelRecovered,
    ModelUnavailable,
    RequestEnded,
    TopologyApplied,
)
from understudy.messages.generate import Attempt, Usage
from understudy.messages.run import (
    ModelLoad,
    ProcessGone,
    RunEnded,
    RunFailed,
    RunFailure,
    RunModel,
    RunnerBeat,
    RunText,
)
from understudy.messages.step import (
    Booted,
    CaughtUp,
    Deaf,
    Happened,
    Heard,
    Send,
    Store,
    StoreFailed,
    Unheard,
    Wake,
    Woke,
)
from understudy.messages.topology import Topology

T0 = 1_000_000.0


def plan(**models: Any) -> Topology:
    found = {name: {"provider": "p", **fields} for name, fields in models.items()}
    provider = {"kind": "openai", "url": "http://127.0.0.1:1"}
    return msgspec.convert({"version": 1, "models": found, "providers": {"p": provider}}, Topology)


class Tracker:
    """One tracker with models a and b, both beating."""

    def __init__(self, live: bool = True, models: Any = None, **settings: Any) -> None:
        self.now, self.seq, self.state = T0, 0, core.State()
        self.settings, self.effects = core.Settings(**settings), list[Any]()
        self.generation = 0
        self.feed(Booted(T0, "health_tracker", "h1", "tta", "_INBOX_A.h1", "id"))
        body = plan(**(models or {"a": {}, "b": {}}))
        self.happen(TopologyApplied(at_ms=0, hash="h", body=body))
        if live:
            self.live()

    def live(self) -> None:
        self.feed(CaughtUp(self.now, self.seq))
        self.beat()

    def feed(self, message: Any) -> list[Any]:
        out = core.step(self.state, message, self.settings)
        self.effects += out
        return out

    def happen(self, event: Any) -> list[Any]:
        self.seq += 1
        return self.feed(Happened(self.now, self.seq, event))

    def hear(self, message: Any) -> list[Any]:
        return self.feed(Heard(self.now, "x", message))

    def beat(self, *models: str) -> None:
        for model in models or tuple(self.state.watches):
            self.hear(RunnerBeat(instance=f"i-{model}", models={model: ModelLoad(slots=1, in_flight=0)}))

    def bad(self, reason: str = "server_error", times: int = 1, model: str = "a") -> list[Any]:
        event = AttemptEnded(at_ms=0, run_id="r", attempt=0, model=model, reason=reason)
        return [e for _ in range(times) for e in self.happen(event)]

    def good(self, times: int = 1, model: str = "a") -> list[Any]:
        tried = (Attempt(model="z", outcome="busy"), Attempt(model=model, outcome="ok"))
        event = RequestEnded(
            at_ms=0, run_id="r", instance="s", outcome="finished", task="t", as_of_seq=0, topology="h", digest="d",
            attempts=tried,
        )  # fmt: skip
        return [e for _ in range(times) for e in self.happen(event)]

    def sweep(self, ms: float = 250.0, beats: bool = True) -> list[Any]:
        self.now += ms
        if beats:
            self.beat()
        self.generation += 1
        return self.feed(Woke(self.now, "sweep", self.generation))

    def said(self) -> list[tuple[str, str]]:
        stores = [e.event for e in self.effects if isinstance(e, Store)]
        return [(type(e).__name__.removeprefix("Model"), e.model) for e in stores]

    def probes(self) -> list[RunModel]:
        return [e.message for e in self.effects if isinstance(e, Send) and isinstance(e.message, RunModel)]

    def status(self, model: str = "a") -> str:
        return self.state.watches[model].status


DOWN, UP = ("Unavailable", "a"), ("Recovered", "a")


def test_failures_in_a_row_open_the_breaker_once() -> None:
    t = Tracker()
    assert t.bad(times=2) == []
    (store,) = t.bad()
    assert isinstance(store.event, ModelUnavailable) and store.key == "a"
    assert (store.event.was, store.event.reason, store.event.opened) == ("healthy", "server_error", 1)
    assert store.event.retry_at_ms == 1_001_000
    t.bad(times=20)
    assert t.said() == [DOWN] and t.status("b") == "healthy"


def test_a_success_between_starts_the_count_anew() -> None:
    t = Tracker(minimum_outcomes=99)
    for _ in range(5):
        t.bad(times=2)
        t.good()
    assert t.said() == []


@pytest.mark.parametrize("reason", sorted(BLAMELESS))
def test_ends_that_say_nothing_against_the_model(reason: str) -> None:
    t = Tracker()
    t.bad(reason, 30)
    assert t.said() == []


def test_a_good_outcome_recovers() -> None:
    t = Tracker()
    t.bad(times=3)
    (store,) = t.good()
    assert (store.event.by, store.event.was) == ("outcome", "unavailable")
    t.good(50)
    assert t.said() == [DOWN, UP] and t.status() == "healthy"
    t.bad(times=3)
    last = [e for e in t.effects if isinstance(e, Store)][-1].event
    assert (last.opened, last.retry_at_ms) == (1, 1_001_000)  # the rests begin anew


def test_degraded_by_share_and_back() -> None:
    t = Tracker(open_after=99)
    t.good(4)
    t.bad()
    assert t.said() == []
    t.bad()
    assert t.said() == [("Degraded", "a")]
    t.bad(times=3)
    t.good(30)
    assert t.said() == [("Degraded", "a"), UP] and t.status() == "healthy"


def test_a_degraded_model_is_forgiven_after_a_quiet_time() -> None:
    t = Tracker(open_after=99, minimum_outcomes=1, quiet_ms=10_000)
    t.now = 500_000.0
    t.bad()
    event = AttemptEnded(at_ms=504_000, run_id="r", attempt=0, model="a", reason="server_error")
    t.now = 504_000.0
    t.happen(event)
    assert t.said() == [("Degraded", "a")]
    t.sweep(9_999.0)
    assert t.said() == [("Degraded", "a")]
    t.sweep(1.0)
    (store,) = [e for e in t.effects[-2:] if isinstance(e, Store)]
    assert (store.event.by, store.event.was) == ("quiet", "degraded") and t.status() == "healthy"
    assert t.state.watches["a"].error_ratio() == 0.0
    t.sweep(60_000.0)
    assert t.said() == [("Degraded", "a"), UP]


def test_degraded_then_unavailable() -> None:
    t = Tracker(minimum_outcomes=1)
    t.bad(times=3)
    assert t.said() == [("Degraded", "a"), DOWN]


# --- probes --------------------------------------------------------------------------------------------------------


def rested(**settings: Any) -> Tracker:
    t = Tracker(**settings)
    t.bad(times=3)
    t.sweep(1_000.0)
    return t


def test_a_probe_after_the_rest_never_two_at_a_time() -> None:
    t = Tracker()
    t.bad(times=3)
    t.sweep(999.0)
    assert t.probes() == []
    for _ in range(4):
        t.sweep(1.0)
    (probe,) = t.probes()
    assert (probe.model, probe.probe, probe.parameters.max_tokens) == ("a", True, 4)


def answer(t: Tracker, kind: str) -> list[Any]:
    run = t.probes()[-1].run_id
    match kind:
        case "text":
            return t.hear(RunText(run_id=run, attempt=0, n=0, text="yes"))
        case "end":
            return t.hear(RunEnded(run_id=run, attempt=0, pieces=0, finish_reason="stop", usage=Usage()))
        case "unheard":
            return t.feed(Unheard(t.now, f"_INBOX_A.h1.probe.{run}"))
        case _:
            return t.hear(RunFailed(run_id=run, attempt=0, reason=msgspec.convert(kind, RunFailure)))


@pytest.mark.parametrize("kind", ["text", "end"])
def test_a_probe_that_speaks_recovers_once(kind: str) -> None:
    t = rested()
    (store,) = answer(t, kind)
    assert isinstance(store.event, ModelRecovered) and store.event.by == "probe"
    assert answer(t, kind) == [] and t.said() == [DOWN, UP]


@pytest.mark.parametrize("kind", ["engine", "server_error", "unheard"])
def test_a_failed_probe_rests_twice_as_long_without_saying_so_again(kind: str) -> None:
    t, rests = rested(backoff_cap_ms=4_000), []
    for _ in range(4):
        assert answer(t, kind) == []
        rests.append(t.state.watches["a"].retry_at_ms - t.now)
        t.sweep(rests[-1])
    assert rests == [2_000, 4_000, 4_000, 4_000] and t.said() == [DOWN]


def test_a_busy_model_is_alive_and_is_asked_again_soon() -> None:
    t = rested()
    answer(t, "busy")
    assert t.state.watches["a"].retry_at_ms == t.now + 1_000 and t.state.watches["a"].opened == 1


def test_a_probe_without_answer_counts_as_failed() -> None:
    t = rested()
    for _ in range(25):
        t.sweep(200.0)
    assert len(t.probes()) == 1 and t.state.watches["a"].opened == 2
    for _ in range(10):
        t.sweep(200.0)
    assert len(t.probes()) == 2


@pytest.mark.parametrize(("allowed", "count"), [(False, 0), (True, 1)])
def test_a_probe_that_costs_money_must_be_allowed(allowed: bool, count: int) -> None:
    t = rested(models={"a": {"usd_per_mtok_out": 1.0}}, probe_paid=allowed)
    assert len(t.probes()) == count


def test_a_strange_answer_is_nobody_s_probe() -> None:
    t = rested()
    assert t.hear(RunText(run_id="", attempt=0, n=0, text="yes")) == [] and t.status() == "unavailable"
    t.hear(RunFailed(run_id="another", attempt=0, reason="engine"))
    assert t.state.watches["a"].probing and t.state.watches["a"].opened == 1


# --- heartbeats ----------------------------------------------------------------------------------------------------


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
    assert t.probes() == []


def test_the_sweep_comes_again() -> None:
    t = Tracker()
    assert t.sweep()[0] == Wake(t.now + 250, "sweep", 2)


# --- folding -------------------------------------------------------------------------------------------------------


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
    assert len(t.probes()) == 1
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
                if t.probes():
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
