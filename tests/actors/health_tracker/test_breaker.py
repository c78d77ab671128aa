"""Outcomes to health: each change announced once, the breaker, degradation, rests and probes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.actors.health_tracker.tracked import DOWN, UP, Tracker, answer
from understudy.actors.health_tracker.history import BLAMELESS
from understudy.messages.events import AttemptEnded, ModelRecovered, ModelUnavailable
from understudy.messages.money import Price
from understudy.messages.run import RunFailed, RunText
from understudy.messages.step import Deaf, Store


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
    assert t.asked() == []
    for _ in range(4):
        t.sweep(1.0)
    (probe,) = t.asked()
    assert (probe.model, probe.probe, probe.parameters.max_tokens) == ("a", True, 4)


@pytest.mark.parametrize("kind", ["text", "end"])
def test_a_probe_that_speaks_recovers_once(kind: str) -> None:
    t = rested()
    (store,) = answer(t, kind)
    assert isinstance(store.event, ModelRecovered) and store.event.by == "probe"
    assert answer(t, kind) == [] and t.said() == [DOWN, UP]


@pytest.mark.parametrize("kind", ["engine", "server_error", "unheard", "nothing"])
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
    assert len(t.asked()) == 1 and t.state.watches["a"].opened == 2
    for _ in range(10):
        t.sweep(200.0)
    assert len(t.asked()) == 2


def test_a_probe_whose_answer_may_be_lost_is_asked_again_soon_and_tells_nothing() -> None:
    t = rested()
    t.feed(Deaf(t.now, 500.0, cut=True))
    for _ in range(28):
        t.sweep(200.0)
    assert len(t.asked()) == 1 and t.state.watches["a"].opened == 1
    for _ in range(5):
        t.sweep(200.0)
    assert len(t.asked()) == 2
    for _ in range(25):  # heard all the time: this silence is the model's
        t.sweep(200.0)
    assert t.state.watches["a"].opened == 2


@pytest.mark.parametrize(("allowed", "count"), [(False, 0), (True, 1)])
def test_a_probe_that_costs_money_must_be_allowed(allowed: bool, count: int) -> None:
    t = rested(models={"a": {"usd_per_mtok_out": 1.0}}, probe_paid=allowed)
    assert [run.price for run in t.asked()] == [Price(completion_pusd=10**6, reasoning_pusd=10**6)] * count


def test_a_strange_answer_is_nobody_s_probe() -> None:
    t = rested()
    assert t.hear(RunText(run_id="", attempt=0, instance="i-a", n=0, text="yes")) == [] and t.status() == "unavailable"
    t.hear(RunFailed(run_id="another", attempt=0, reason="engine"))
    assert t.state.watches["a"].probing and t.state.watches["a"].opened == 1


# --- models that may not be probed -----------------------------------------------------------------------------------

PRICED = {"models": {"a": {"usd_per_mtok_out": 1.0}}}


def test_a_priced_model_is_used_again_after_its_rest_as_nobody_may_probe_it() -> None:
    t = Tracker(**PRICED)
    t.bad(times=3)
    t.sweep(999.0)
    assert t.status() == "unavailable"
    t.sweep(1.0)
    assert t.said() == [DOWN, ("Degraded", "a")] and t.state.watches["a"].reason == "untested" and not t.asked()


def test_the_first_good_answer_of_an_untested_model_recovers_it() -> None:
    t = rested(**PRICED)
    (store,) = t.good()
    assert (store.event.by, store.event.was, t.status()) == ("outcome", "degraded", "healthy")


def test_the_first_failure_of_an_untested_model_rests_it_twice_as_long() -> None:
    t = rested(**PRICED)
    (store,) = t.bad()
    assert isinstance(store.event, ModelUnavailable)
    assert (store.event.opened, store.event.retry_at_ms) == (2, int(t.now) + 2_000)


def test_an_untested_model_that_nobody_asks_is_healthy_after_a_quiet_time_from_then_on() -> None:
    t = Tracker(**PRICED, backoff_ms=300_000, backoff_cap_ms=300_000, quiet_ms=60_000)
    t.bad(times=3)
    t.sweep(300_000.0)
    assert t.status() == "degraded"
    t.sweep(59_999.0)
    assert t.status() == "degraded"
    t.sweep(1.0)
    assert t.said() == [DOWN, ("Degraded", "a"), UP]
