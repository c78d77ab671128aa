"""What was booked without knowing is compared with the provider's own record, later, a few at a time, and once."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from understudy.actors.cost_ledger import core, reconcile
from understudy.messages.cost import CostReconciled
from understudy.messages.money import Charge
from understudy.messages.records import Record, RecordOrder
from understudy.messages.step import Booted, Heard, Unheard

HOUSE = {"house": {"scope": "all", "window": "day", "limit_usd": "10"}}


def booted(desk: Any) -> Any:
    d = desk(**HOUSE)
    d.feed(Booted(d.now, "cost_ledger", "l1", "tta", "_INBOX_A.l1", "id"))
    return d


def booked(d: Any, run: str = "r1", usd: str = "1", by: Any = "estimated") -> None:
    assert d.reserve(run, usd)
    d.ended(run, Charge(attempt=0, model="a", cost_usd=usd, by=by, generation=f"gen-{run}"))


def asked(d: Any) -> list[RecordOrder]:
    return [s.message for s in d.said if isinstance(s.message, RecordOrder)]


def say(d: Any, run: str = "r1", usd: str | None = None, fault: Any = None) -> None:
    d.feed(Heard(d.now, "x", Record(record_id=f"{run}.0", cost_usd=usd, fault=fault)))
    d.settle()


def reconciled(d: Any) -> list[tuple[str, str, str]]:
    return [(e.run_id, e.was_usd, e.cost_usd) for e in d.log if isinstance(e, CostReconciled)]


def test_the_record_is_asked_for_a_while_later_and_its_word_is_booked_once(desk: Any) -> None:
    d = booted(desk)
    booked(d)
    d.sweep(9_999)
    assert asked(d) == []
    d.sweep(1)
    (send,) = [s for s in d.said if isinstance(s.message, RecordOrder)]
    assert (send.subject, send.reply) == ("tta.ask.runner.record.lab", "_INBOX_A.l1.run.r1.0")
    assert send.message == RecordOrder(record_id="r1.0", generation="gen-r1")
    say(d, usd="0.25")
    assert reconciled(d) == [("r1", "1", "0.25")] and d.budget("house") == ("0.25", "0")
    say(d, usd="0.5")
    d.sweep(100_000)
    assert len(asked(d)) == 1 and len(reconciled(d)) == 1 and d.budget("house") == ("0.25", "0")


def test_a_record_may_say_more_than_was_booked(desk: Any) -> None:
    d = booted(desk)
    booked(d, usd="1", by="usage")
    d.sweep(10_000)
    say(d, usd="11")
    assert d.budget("house") == ("11", "0") and not d.reserve("next", "0.1")


@pytest.mark.parametrize("fault", ["not_yet", "status", "unreachable", "malformed", "unheard", "nothing"])
def test_without_a_record_it_is_asked_for_again_ever_more_seldom(desk: Any, fault: str) -> None:
    d = booted(desk)
    booked(d)
    times: list[float] = []
    began, seen = d.now, 0
    while d.now < began + 700_000:
        d.sweep(1_000)
        if len(asked(d)) > seen:
            seen = len(asked(d))
            times.append(d.now - began)
            if fault == "unheard":
                d.feed(Unheard(d.now, "_INBOX_A.l1.run.r1.0"))
            elif fault != "nothing":
                say(d, fault=fault)
    assert times[0] == 10_000 and reconciled(d) == [] and d.budget("house") == ("1", "0")
    rests = [b - a for a, b in itertools.pairwise(times)]
    assert rests == [20_000, 40_000, 80_000, 160_000, 320_000] if fault != "nothing" else rests[0] >= 30_000
    say(d, usd="0.5")
    assert d.budget("house") == ("0.5", "0")


def test_after_a_day_it_stays_as_it_was_booked(desk: Any) -> None:
    d = booted(desk)
    booked(d)
    d.now += 86_400_001
    d.reserve("next")  # the hour's cleaning
    d.sweep(0)
    assert asked(d) == [] and not d.state.book.unproven and not d.state.looks


def test_a_few_at_a_time(desk: Any) -> None:
    d = booted(desk)
    for n in range(9):
        booked(d, f"r{n}", "0.1")
    d.sweep(20_000)
    assert len(asked(d)) == reconcile.AT_ONCE
    say(d, "r0", "0.01")
    d.sweep(500)
    assert [a.generation for a in asked(d)] == [f"gen-r{n}" for n in range(reconcile.AT_ONCE + 1)]


def test_a_new_life_goes_on_with_what_the_log_holds(desk: Any) -> None:
    d = booted(desk)
    booked(d)
    booked(d, "r2")
    d.sweep(10_000)
    say(d, usd="0.25")
    d.boot()
    d.feed(Booted(d.now, "cost_ledger", "l2", "tta", "_INBOX_A.l2", "id"))
    d.sweep(1)
    assert [a.record_id for a in asked(d)] == ["r1.0", "r2.0", "r2.0"] and d.budget("house") == ("1.25", "0")


def test_what_the_provider_said_itself_or_has_no_record_of_is_not_asked_for(desk: Any) -> None:
    d = booted(desk)
    assert d.reserve("r1") and d.reserve("r2")
    d.ended("r1", d.charge("0.5", by="provider"))
    d.ended("r2")
    d.sweep(100_000)
    assert asked(d) == []


def test_a_late_end_of_an_expired_reservation_has_a_record_too(desk: Any) -> None:
    d = booted(desk)
    assert d.reserve("r1")
    d.sweep(60_000)
    d.settle()
    d.ended("r1", Charge(attempt=0, model="a", cost_usd="1", by="estimated", generation="gen-r1"))
    d.sweep(10_000)
    say(d, usd="0.25")
    assert d.budget("house") == ("0.25", "0")


def test_the_memory_of_what_may_have_a_record_is_bounded(desk: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("understudy.actors.cost_ledger.book.CLOSED", 3)
    d = booted(desk)
    for n in range(5):
        booked(d, f"r{n}", "0.1")
    assert list(d.state.book.unproven) == ["r2.0", "r3.0", "r4.0"]


def test_it_says_whom_it_asks(desk: Any) -> None:
    assert core.SENDS == ("runner.record",) and CostReconciled in core.FOLDS and CostReconciled in core.EMITS
