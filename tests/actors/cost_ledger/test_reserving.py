"""Reserve, settle, expire: what is granted, what is refused, and what a crash leaves."""

from __future__ import annotations

from typing import Any

import pytest

from understudy.actors.cost_ledger import core
from understudy.messages.cost import BudgetWarned, CostExpired, CostReserved, Reserve
from understudy.messages.step import Asked, Stored

HOUSE = {"house": {"scope": "all", "window": "month", "limit_usd": "3"}}


def test_a_budget_for_three_grants_three(desk: Any) -> None:
    d = desk(**HOUSE)
    assert [d.reserve(f"r{n}") for n in range(5)] == [True, True, True, False, False]
    refused = d.answer("r3.0")
    assert (refused.reason, refused.budget.budget, refused.budget.reserved_usd) == ("budget_exhausted", "house", "3")
    assert refused.budget.until_ms and not refused.budget.fits


def test_what_is_on_its_way_counts_before_the_log_has_it(desk: Any) -> None:
    d = desk(**HOUSE)
    for n in range(5):
        d.ask(f"r{n}")
    assert (
        len([s for s in d.stores if isinstance(s.event, CostReserved)]) == 3
        and not d.granted("r3.0")
        and not d.granted("r4.0")
    )
    assert d.answer("r0.0") is None  # granted when the log has it, not before
    d.settle()
    assert [d.granted(f"r{n}.0") for n in range(3)] == [True] * 3 and d.budget("house") == ("0", "3")


def test_a_repeat_is_harmless(desk: Any) -> None:
    d = desk(**HOUSE)
    d.ask("r1", reply="one")
    d.ask("r1", reply="two")
    assert len(d.stores) == 1
    d.settle()
    assert d.granted("one") and d.granted("two")
    d.ask("r1", reply="three")
    assert d.granted("three") and not d.stores and d.budget("house") == ("0", "1")
    d.ended("r1", d.charge("0.5"))
    d.ask("r1", reply="four")
    assert d.answer("four").reason == "settled" and d.budget("house") == ("0.5", "0")


def test_the_log_s_word_comes_before_the_fold_or_after_it(desk: Any) -> None:
    d = desk(**HOUSE)
    d.ask()
    d.take(tell=False)
    d.fold()
    assert d.answer() is None  # the disk may not have it yet
    assert d.budget("house") == ("0", "1")
    d.feed(Stored(d.now, "reserved.r1.0", 2, False))
    assert d.granted() and d.budget("house") == ("0", "1") and not d.state.pending


@pytest.mark.parametrize("folded_first", [True, False])
def test_an_answer_that_was_lost_comes_as_a_duplicate(desk: Any, folded_first: bool) -> None:
    d = desk(**HOUSE)
    d.ask()
    d.take(tell=False)
    if folded_first:
        d.fold()
    d.feed(Stored(d.now, "reserved.r1.0", 2, True))
    d.fold()
    assert d.granted() and d.budget("house") == ("0", "1") and not d.state.pending


def test_a_grant_that_was_stored_and_not_said_is_neither_lost_nor_doubled(desk: Any) -> None:
    d = desk(**HOUSE)
    d.ask("r1")
    d.take(tell=False)
    d.boot()
    assert d.budget("house") == ("0", "1")
    d.ask("r1", reply="again")
    assert d.granted("again") and not d.stores and d.budget("house") == ("0", "1")


def test_a_decision_that_never_reached_the_log_is_forgotten_by_the_next(desk: Any) -> None:
    d = desk(**HOUSE)
    d.ask("r1", usd="3")
    d.boot()
    assert d.reserve("r2", usd="3") and not d.reserve("r1", usd="1")


@pytest.mark.parametrize(("code", "reserved"), [("log_full", "0"), ("bus_down", "1")])
def test_without_the_log_nothing_is_granted(desk: Any, code: str, reserved: str) -> None:
    d = desk(**HOUSE)
    d.ask()
    d.refuse(code)
    assert d.answer().reason == "ledger_down"
    assert d.budget("house") == ("0", reserved)  # not reached: it may come there yet, and counts


def test_a_disk_that_fails_is_no_grant(desk: Any) -> None:
    d = desk(**HOUSE)
    d.ask()
    store = d.stores.pop()
    seq, _ = d.append(store.event, store.msg_id)
    d.feed(Stored(d.now, store.msg_id, seq, False, synced=False))
    assert d.answer().reason == "ledger_down"
    d.fold()
    assert d.budget("house") == ("0", "1")


def test_an_end_books_what_it_says_and_all_that_it_does_not(desk: Any) -> None:
    d = desk(**HOUSE)
    for attempt in range(3):
        assert d.reserve("r1", attempt=attempt)
    d.attempt_ended("r1", "0.25")
    assert d.budget("house") == ("0.25", "2")
    d.ended("r1", d.charge("0.25"), d.charge("0.125", 1))
    assert d.budget("house") == ("1.375", "0")  # of attempt 2 nobody told
    d.ended("r1", d.charge("0"), d.charge("0", 1))
    assert d.budget("house") == ("1.375", "0")


def test_what_cost_more_than_was_reserved_is_booked_as_it_was(desk: Any) -> None:
    d = desk(**HOUSE)
    assert d.reserve(usd="2")
    d.ended("r1", d.charge("5", by="provider"))
    assert d.budget("house") == ("5", "0") and not d.reserve("r2", usd="0.000000000001")


def test_a_reservation_that_nobody_settles_is_booked_whole_and_corrected_by_a_late_end(desk: Any) -> None:
    d = desk(**HOUSE)
    assert d.reserve(usd="2")
    d.sweep(10_999)
    assert not d.stores
    d.sweep(2)
    d.sweep()
    d.settle()
    assert [type(e) for e in d.told] == [CostExpired] and d.budget("house") == ("2", "0")
    d.boot()
    d.sweep(1_000)
    assert not d.stores and d.budget("house") == ("2", "0")
    d.ended("r1", d.charge("0.5"))
    assert d.budget("house") == ("0.5", "0")


def test_a_grant_that_comes_after_its_run_s_end_reserves_nothing(desk: Any) -> None:
    """The selector waited no longer, and said so; the ledger's fact was slow."""
    d = desk(**HOUSE)
    d.ask()
    d.ended("r1", d.charge("0", by="not_run"))
    d.settle()
    assert d.budget("house") == ("0", "0")


def test_an_unknown_model_is_refused(desk: Any) -> None:
    d = desk(**HOUSE)
    assert not d.reserve(model="who") and d.answer().reason == "unknown_model"


def test_who_does_not_wait_gets_nothing(desk: Any) -> None:
    d = desk(**HOUSE)
    d.feed(Asked(d.now, "i", "ask", "", Reserve(run_id="r", attempt=0, model="a", most_usd="1", remaining_ms=1.0)))
    assert not d.stores


# --- scopes and windows ----------------------------------------------------------------------------------------------

SCOPES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("all", {}, {"model": "a"}, {"model": "c"}),
    ("provider", {}, {"model": "a"}, {"model": "b"}),
    ("model", {}, {"model": "a"}, {"model": "a", "user": "u"}),
    ("user", {}, {"user": "u"}, {"user": "u", "model": "c"}),
    ("user", {}, {}, {"model": "c"}),  # who names no user shares one budget with all who do not
    ("conversation", {}, {"conversation": "k"}, {"conversation": "k", "model": "c"}),
]
APART: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("provider", {}, {"model": "a"}, {"model": "c"}),
    ("model", {}, {"model": "a"}, {"model": "b"}),
    ("user", {}, {"user": "u"}, {"user": "v"}),
    ("user", {}, {"user": "u"}, {}),
    ("conversation", {}, {"conversation": "k"}, {"conversation": "l"}),
    ("provider", {"match": ["far"]}, {"model": "a"}, {"model": "a"}),
    ("model", {"match": ["b", "c"]}, {"model": "a"}, {"model": "a"}),
    ("conversation", {}, {}, {}),  # in no conversation
]


@pytest.mark.parametrize("window", ["day", "month"])
@pytest.mark.parametrize(("scope", "more", "first", "second"), SCOPES)
def test_one_key_has_one_budget(desk: Any, scope: str, more: Any, first: Any, second: Any, window: str) -> None:
    d = desk(b={"scope": scope, "window": window, "limit_usd": "1", **more})
    assert d.reserve("r1", **first) and not d.reserve("r2", **second)


@pytest.mark.parametrize(("scope", "more", "first", "second"), APART)
def test_each_key_has_its_own(desk: Any, scope: str, more: Any, first: Any, second: Any) -> None:
    d = desk(b={"scope": scope, "window": "day", "limit_usd": "1", **more})
    assert d.reserve("r1", **first) and d.reserve("r2", **second)


@pytest.mark.parametrize(
    ("window", "days", "free_again"),
    [("day", 1, True), ("month", 1, False), ("month", 10, True), ("conversation", 90, False)],
)
def test_a_window_ends(desk: Any, window: str, days: int, free_again: bool) -> None:
    scope = "conversation" if window == "conversation" else "all"
    d = desk(b={"scope": scope, "window": window, "limit_usd": "1"})
    assert d.reserve("r1", conversation="k")
    d.ended("r1", d.charge("1"))
    d.now += days * 86_400_000
    assert d.reserve("r2", conversation="k") is free_again


def test_what_was_reserved_yesterday_is_booked_yesterday(desk: Any) -> None:
    d = desk(b={"scope": "all", "window": "day", "limit_usd": "1"}, **HOUSE)
    assert d.reserve("r1")
    d.now += 86_400_000
    assert d.reserve("r2")
    d.ended("r1", d.charge("0.75"))
    assert d.budget("b") == ("0", "1") and d.budget("house") == ("0.75", "1")


def test_a_budget_that_is_declared_later_knows_what_was_spent(desk: Any) -> None:
    d = desk()
    assert d.reserve("r1", usd="2", user="u")
    d.ended("r1", d.charge("2"))
    d.apply(b={"scope": "user", "window": "day", "limit_usd": "2"})
    d.fold()
    assert not d.reserve("r2", user="u") and d.reserve("r3", user="v")


def test_windows_that_are_long_over_are_forgotten(desk: Any) -> None:
    d = desk()
    for n in range(100):
        assert d.reserve(f"r{n}", user=f"u{n}")
        d.ended(f"r{n}", d.charge("1"))
        d.now += 86_400_000
    assert len(d.state.book.accounts) < 50


# --- warnings --------------------------------------------------------------------------------------------------------


def test_a_budget_is_warned_at_80_and_100_percent_once(desk: Any) -> None:
    d = desk(b={"scope": "all", "window": "day", "limit_usd": "10"})
    for n in range(12):
        d.reserve(f"r{n}")
        d.ended(f"r{n}", d.charge("1"))
    d.boot()
    d.settle()
    warned = [e for e in d.told if isinstance(e, BudgetWarned)]
    assert [(e.percent, e.state.budget) for e in warned] == [(80, "b"), (100, "b")]
    d.now += 86_400_000
    assert d.reserve("next", usd="9")
    d.ended("next", d.charge("9"))
    d.settle()
    assert [e.percent for e in d.told if isinstance(e, BudgetWarned)] == [80, 100, 80]


def warned(d: Any) -> list[tuple[int, str]]:
    return [(e.percent, e.of) for e in d.told if isinstance(e, BudgetWarned)]


def test_what_is_only_reserved_is_no_reason_to_warn(desk: Any) -> None:
    d = desk(b={"scope": "all", "window": "day", "limit_usd": "10"})
    for n in range(10):
        assert d.reserve(f"r{n}")
    for n in range(10):
        d.ended(f"r{n}", d.charge("0.05"))
    d.settle()
    assert warned(d) == []
    assert d.reserve("s", usd="8")
    d.ended("s", d.charge("8"))
    d.settle()
    assert warned(d) == [(80, "spent")]


def test_a_refusal_near_the_limit_says_that_nothing_more_fits(desk: Any) -> None:
    d = desk(b={"scope": "all", "window": "day", "limit_usd": "10"})
    assert not d.reserve("huge", usd="11") and not d.told
    assert d.reserve("most", usd="9") and not d.reserve("more", usd="2")
    d.settle()
    assert warned(d) == [(100, "refused")]
    d.ended("most", d.charge("9"))
    d.settle()
    assert d.reserve("last") and not d.reserve("late", usd="2")
    d.ended("last", d.charge("1"))
    assert not d.reserve("over")
    d.settle()
    assert warned(d) == [(100, "refused"), (80, "spent"), (100, "spent")]


# --- what is forgotten -----------------------------------------------------------------------------------------------

DAY_MS = 86_400_000


def test_a_conversation_that_nobody_goes_on_with_is_forgotten_as_the_log_forgets_it(desk: Any) -> None:
    d = desk(each={"scope": "conversation", "window": "conversation", "limit_usd": "1"})
    for n in range(20):
        d.reserve(f"r{n}", "0.9", conversation=f"talk{n}")
        d.ended(f"r{n}", d.charge("0.9"))
    d.settle()
    assert len(warned(d)) == 20
    d.now += 29 * DAY_MS
    assert d.reserve("on", "0.1", conversation="talk0") and not d.reserve("no", "0.2", conversation="talk1")
    d.now += 2 * DAY_MS
    d.reserve("other")
    lives = [name for name, account in d.state.book.accounts.items() if not account.until_ms]
    assert lives == ["conversation life talk0"]
    assert not d.reserve("still", "0.1", conversation="talk0") and set(d.state.book.warned) <= {
        w.id for w in d.log[-9:]
    }


def test_a_reservation_that_the_disk_did_not_confirm_is_kept_in_the_fold_alone(desk: Any) -> None:
    d = desk(**HOUSE)
    d.ask("r1")
    store = d.stores.pop(0)
    seq, _ = d.append(store.event, store.msg_id)
    d.feed(Stored(d.now, store.msg_id, seq, False, synced=False))
    assert d.answer("r1.0").reason == "ledger_down"
    d.fold()
    assert not d.state.pending and d.budget("house")[1] == "1"


def test_a_refused_attempt_that_is_asked_for_again_holds_nothing_once_its_run_has_ended(desk: Any) -> None:
    d = desk(b={"scope": "all", "window": "day", "limit_usd": "1.5"})
    assert d.reserve("r1") and not d.reserve("r2")
    d.ended("r1", d.charge("0.1"))
    assert d.reserve("r2"), "a copy of the question that came late"
    d.ended("r2", d.charge("0", by="not_run"))  # as the run has been told of the refusal
    assert d.budget("b") == ("0.1", "0")


def test_events_hold_no_more_than_hashes(desk: Any) -> None:
    d = desk(**HOUSE)
    d.reserve(user="hash1", conversation="hash2")
    (event,) = [e for e in d.log if isinstance(e, CostReserved)]
    assert (event.user, event.conversation, event.provider, event.most_usd) == ("hash1", "hash2", "lab", "1")


def test_a_long_list_shows_what_was_used_most(desk: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(core, "LISTED", 3)
    d = desk(b={"scope": "user", "window": "day", "limit_usd": "9"})
    for n in range(5):
        assert d.reserve(f"r{n}", usd=str(n + 1), user=f"u{n}")
    assert [d.budget("b", f"u{n}")[1] for n in range(5)] == ["0", "0", "3", "4", "5"]
    assert d.answer("list").left_off == 2
