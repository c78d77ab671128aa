"""Whatever happens in whatever order: no budget is overspent, nothing is lost, nothing counts twice."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from understudy.actors.cost_ledger import core

LIMIT = 10
ASK = st.tuples(st.just("ask"), st.integers(0, 7), st.integers(0, 1), st.integers(0, 4))
WORDS = (
    "take",
    "take",
    "take",
    "lose",
    "fold",
    "fold",
    "attempt",
    "end",
    "end",
    "silent",
    "late",
    "crash",
    "full",
    "away",
)
DO = st.tuples(st.sampled_from(WORDS), st.integers(0, 7), st.integers(0, 1), st.integers(0, 4))
HISTORY = st.lists(st.one_of(ASK, DO), max_size=60)


def play(d: Any, one: tuple[str, int, int, int], asked: dict[str, int]) -> None:
    """One thing happens. Costs never exceed what was reserved; a run's end may leave attempts out."""
    what, n, attempt, usd = one
    run = f"r{n}"
    key = f"{run}.{attempt}"
    match what:
        case "ask":
            d.ask(run, str(asked.setdefault(key, usd)), attempt)
        case "take" if d.stores:
            d.take()
        case "lose" if d.stores:
            d.take(tell=False)  # the log has it, its word never comes
        case "fold":
            d.fold()
        case "attempt" if key in asked:
            d.attempt_ended(run, str(min(usd, asked[key])), attempt)
        case "end" | "silent":
            charges = [d.charge(str(min(usd, asked[k])), a) for a in (0, 1) if (k := f"{run}.{a}") in asked]
            d.ended(run, *(charges if what == "end" else charges[:1]))
        case "late":
            d.sweep(6_000)
        case "crash":
            d.boot()
        case "full" if d.stores:
            d.refuse("log_full")
        case "away" if d.stores:  # given up, and yet it comes there
            store = d.stores[0]
            d.refuse("bus_down")
            d.stores.append(store)
        case _:
            pass


@settings(max_examples=300, deadline=None)
@given(history=HISTORY)
def test_no_order_of_events_overspends(desk: Any, history: list[Any]) -> None:
    d = desk(b={"scope": "all", "window": "month", "limit_usd": str(LIMIT)})
    asked: dict[str, int] = {}
    for one in history:
        play(d, one, asked)
        assert d.used_by_the_log() <= LIMIT * d.pusd("1")
    d.settle()
    spent, reserved = map(d.pusd, d.budget("b"))
    assert spent + reserved == d.used_by_the_log()
    d.boot()
    d.settle()
    assert sum(map(d.pusd, d.budget("b"))) == spent + reserved


@settings(max_examples=100, deadline=None)
@given(history=HISTORY)
def test_when_all_is_settled_the_ledger_is_the_sum_of_the_bills(desk: Any, history: list[Any]) -> None:
    d = desk(b={"scope": "all", "window": "month", "limit_usd": str(LIMIT)})
    asked: dict[str, int] = {}
    for one in history:
        play(d, one, asked)
    d.settle()
    for n in range(8):
        d.ended(f"r{n}", d.charge("0.25"), d.charge("0.5", 1))
    d.sweep(1_000_000)  # what was reserved for a run that had ended
    d.settle()
    spent, reserved = map(d.pusd, d.budget("b"))
    assert (spent, reserved) == (d.used_by_the_log(), 0)
    assert not d.state.book.open and not d.state.on_its_way


def test_the_same_play_finds_a_ledger_that_forgets_reservations(desk: Any, monkeypatch: Any) -> None:
    """A control: the count above is no decoration."""
    monkeypatch.setattr(core.State, "used_pusd", lambda state, account: 0)
    d = desk(b={"scope": "all", "window": "month", "limit_usd": str(LIMIT)})
    for n in range(8):
        play(d, ("ask", n, 0, 4), {})
        d.settle()
    assert d.used_by_the_log() > LIMIT * d.pusd("1")
