"""A priced model is run once the ledger has reserved what it can cost; a free one never asks."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from understudy.messages.cost import BudgetState, Reserve, Reserved, ReserveRefused
from understudy.messages.events import AttemptEnded, RequestEnded
from understudy.messages.generate import Delta, Failed, Finished, Usage
from understudy.messages.money import pusd_of, usd_of
from understudy.messages.prices import most_prompt_tokens
from understudy.messages.privacy import Outbound
from understudy.messages.run import RunEnded, RunModel, RunQueued, RunStarted
from understudy.messages.step import Send, Stopping, Unheard
from understudy.messages.wire import encode

PAID = {"usd_per_mtok_in": 1.0, "usd_per_mtok_out": 2.0, "usd_per_request": 0.5}
GOOD = {"quality": {"default": 0.9}}
LEDGER = {"actors": {"cost_ledger": {}}}
FULL = BudgetState(
    budget="house", scope="all", window="day", limit_usd="1", spent_usd="0.75", until_ms=1_060_000, fits=False
)


class Till:
    """A stage with a ledger's answers."""

    def __init__(self, stage: Any, **models: Any) -> None:
        self.s = stage(models or {"a": PAID, "b": PAID, "c": {}}, **LEDGER)

    def reserves(self) -> list[Reserve]:
        return [e.message for e in self.s.effects if isinstance(e, Send) and isinstance(e.message, Reserve)]

    def runs(self) -> list[tuple[str, int]]:
        orders = [e.message for e in self.s.effects if isinstance(e, Send) and isinstance(e.message, RunModel)]
        return [(run.model, run.attempt) for run in orders]

    def grant(self, attempt: int | None = None) -> list[Any]:
        n = self.reserves()[-1].attempt if attempt is None else attempt
        return self.s.hear(Reserved(run_id="r1", attempt=n))

    def refuse(self, reason: Any = "budget_exhausted", budget: BudgetState | None = FULL) -> list[Any]:
        n = self.reserves()[-1].attempt
        return self.s.hear(ReserveRefused(run_id="r1", attempt=n, reason=reason, budget=budget))

    def end(self, usage: Usage, finish: Any = "stop") -> RequestEnded:
        pieces = self.s.pieces.get(("r1", self.s.call().attempt), 0)
        self.s.hear(
            RunEnded(run_id="r1", attempt=self.s.call().attempt, pieces=pieces, finish_reason=finish, usage=usage)
        )
        return self.outcome()

    def outcome(self) -> RequestEnded:
        (store,) = self.s.stores("end.")
        return store.event

    def charges(self) -> list[tuple[int, str, str]]:
        return [(c.attempt, c.model, c.by) for c in self.outcome().charges]


@pytest.fixture
def till(stage: Any) -> Till:
    return Till(stage)


USED = Usage(prompt_tokens=10, completion_tokens=20)


def test_a_free_model_is_run_at_once(stage: Any) -> None:
    t = Till(stage, a={}, b=PAID)
    t.s.ask()
    assert t.runs() == [("a", 0)] and t.reserves() == [] and t.s.call().price is None


def test_reserved_first_then_run_then_settled_by_usage(till: Till) -> None:
    till.s.ask(max_tokens=100, user_id="anna", conversation_id="talk")
    assert till.runs() == []
    (ask,) = till.reserves()
    assert (ask.attempt, ask.model, ask.remaining_ms) == (0, "a", 60_000) and ask.user and "anna" not in ask.user
    run = till.s.state.runs["r1"]
    most = pusd_of("0.5") + most_prompt_tokens(run.ask) * 10**6 + 100 * 2 * 10**6
    assert pusd_of(ask.most_usd) == most
    till.grant()
    assert till.runs() == [("a", 0)]
    price = till.s.call().price
    assert price is not None and (price.completion_pusd, price.request_pusd) == (2 * 10**6, 5 * 10**11)
    till.s.text("Yes.")
    event = till.end(USED)
    cost = usd_of(pusd_of("0.5") + 10 * 10**6 + 20 * 2 * 10**6)
    assert (event.cost_usd, till.charges()) == (cost, [(0, "a", "usage")])
    till.s.stored()
    (end,) = till.s.ends()
    assert isinstance(end, Finished) and end.cost_usd == cost and not end.cost_estimated


def test_the_provider_s_own_figure_goes_before_ours(till: Till) -> None:
    till.s.ask()
    till.grant()
    till.s.text("Yes.")
    assert till.end(Usage(prompt_tokens=10, completion_tokens=20, cost_usd="0.123")).cost_usd == "0.123"
    assert till.charges() == [(0, "a", "provider")]


def test_an_estimated_usage_costs_all_that_was_reserved(till: Till) -> None:
    till.s.ask()
    till.grant()
    till.s.text("Yes.")
    event = till.end(Usage(prompt_tokens=1, completion_tokens=1, estimated=True))
    assert event.cost_usd == till.reserves()[0].most_usd and till.charges() == [(0, "a", "estimated")]


@pytest.mark.parametrize(
    ("reason", "status", "by"),
    [
        ("server_error", 500, "not_run"), ("rate_limited", 429, "not_run"), ("refused_connection", None, "not_run"),
        ("broken_stream", 200, "estimated"), ("error_event", 200, "estimated"), ("stall_timeout", None, "estimated"),
    ],
)  # fmt: skip
def test_what_a_failed_attempt_cost(till: Till, reason: Any, status: int | None, by: str) -> None:
    till.s.ask()
    till.grant()
    till.s.failed(reason, status=status)
    (store,) = till.s.stores("attempt.")
    ended = store.event
    assert isinstance(ended, AttemptEnded) and ended.charge is not None and ended.charge.by == by
    assert pusd_of(ended.charge.cost_usd) == (0 if by == "not_run" else pusd_of(till.reserves()[0].most_usd))
    assert [r.model for r in till.reserves()] == ["a", "b"] and till.reserves()[1].attempt == 1  # it reserves again


def test_a_refused_model_is_passed_over_without_a_trace_in_the_text(till: Till) -> None:
    till.s.ask()
    till.refuse()
    till.refuse()
    assert till.runs() == [("c", 2)]
    till.s.text("Gratis.")
    till.end(USED)
    till.s.stored()
    (end,) = till.s.ends()
    assert isinstance(end, Finished) and (end.cost_usd, end.seams, len(end.attempts)) == ("0", 0, 1)
    assert till.charges() == [(0, "a", "not_run"), (1, "b", "not_run")]  # a copy of the question may yet be granted


def test_a_refusal_in_the_middle_of_a_text_does_not_move_its_seam(stage: Any) -> None:
    t = Till(stage, a={}, b=PAID, c={})
    t.s.ask()
    t.s.text("One ", "two ")
    t.s.failed("broken_stream")
    assert t.runs() == [("a", 0)] and not t.s.stores("switched.")
    t.s.text("late", run="r1")  # of the abandoned attempt, while the ledger is asked
    t.refuse()
    assert t.runs() == [("a", 0), ("c", 2)]
    t.s.text(" three.")
    t.end(USED)
    t.s.stored()
    (end,) = t.s.ends()
    assert end.text == "One two three." == t.s.kept() and [d.seq for d in t.s.said(Delta)] == [0, 1, 2]
    (switched,) = t.s.stores("switched.")
    assert (switched.event.from_model, switched.event.model) == ("a", "c")


def test_where_only_the_budget_is_in_the_way_the_caller_hears_which_and_until_when(stage: Any) -> None:
    t = Till(stage, a=PAID)
    t.s.ask()
    t.refuse()
    t.s.stored()
    (end,) = t.s.ends()
    assert isinstance(end, Failed) and end.code == "budget_exhausted" and end.rejected == {"budget_exhausted": 1}
    assert "'house'" in end.text and "0.25 USD left" in end.text and end.retry_after_ms == 60_000
    assert t.outcome().outcome == "budget_exhausted"


def test_a_model_that_failed_beside_it_is_the_reason(stage: Any) -> None:
    t = Till(stage, a={}, b=PAID)
    t.s.ask()
    t.s.failed("server_error", status=500)
    t.refuse()
    t.s.stored()
    (end,) = t.s.ends()
    assert (end.code, end.rejected) == ("all_failed", {"budget_exhausted": 1})


def test_a_silent_ledger_is_asked_again_and_then_counts_as_down(stage: Any) -> None:
    t = Till(stage, a=PAID)
    t.s.ask()
    began = t.s.now
    while not t.s.stores("end."):
        t.s.wake()
    assert (
        t.s.now - began == pytest.approx(3_000) and len(t.reserves()) == 8 and {r.attempt for r in t.reserves()} == {0}
    )
    t.s.stored()
    assert t.s.ends()[0].code == "ledger_down" and t.charges() == [(0, "a", "not_run")]
    t.grant()  # too late
    assert t.runs() == []


def test_with_little_time_left_a_silent_ledger_leaves_half_of_it_to_the_next(till: Till) -> None:
    till.s.ask(deadline_ms=400, model="a")
    assert till.reserves()
    till.s.wake()
    assert till.s.now - till.s.begun == pytest.approx(200)


def test_nobody_at_the_ledger_s_place_is_waited_for(till: Till) -> None:
    till.s.ask()
    till.s.feed(Unheard(till.s.now, "_INBOX_A.s1.run.r1.0.reserve"))
    assert not till.s.stores("end.") and till.runs() == []
    till.s.wake()
    till.grant()
    assert till.runs() == [("a", 0)]


def test_without_a_ledger_in_the_topology_nothing_priced_is_run(stage: Any) -> None:
    s = stage({"a": PAID, "c": {}})
    s.ask()
    assert s.call().model == "c" and not [
        e for e in s.effects if isinstance(e, Send) and isinstance(e.message, Reserve)
    ]


def test_a_busy_model_keeps_its_reservation_for_the_next_try(stage: Any) -> None:
    t = Till(stage, a=PAID)
    t.s.ask()
    t.grant()
    t.s.failed("busy")
    t.s.failed("busy")  # though it might have waited
    t.s.wake()
    assert t.runs() == [("a", 0), ("a", 1), ("a", 2)] and len(t.reserves()) == 1
    t.s.text("Yes.")
    t.end(USED)
    assert t.charges() == [(0, "a", "usage")]


def test_a_reservation_that_was_not_used_is_given_back(till: Till) -> None:
    till.s.ask()
    till.grant()
    till.s.failed("busy")
    till.grant()
    till.s.text("Yes.")
    till.end(USED)
    assert sorted(till.charges()) == [(0, "a", "not_run"), (1, "b", "usage")]


def test_who_leaves_the_queue_may_have_begun_that_moment_so_what_was_reserved_is_spent(stage: Any) -> None:
    t = Till(stage, a=PAID)
    t.s.ask()
    t.grant()
    t.s.failed("busy")
    t.s.hear(RunQueued(run_id="r1", attempt=1, instance="i-a"))
    t.s.cancel()
    assert t.charges() == [(0, "a", "estimated")] and t.s.stores("attempt.") == []


@pytest.mark.parametrize("how", ["cancel", "stop", "deadline"])
def test_a_run_that_ends_while_the_ledger_is_asked_spends_nothing(till: Till, how: str) -> None:
    till.s.ask(deadline_ms=1_000)
    if how == "cancel":
        till.s.cancel()
    elif how == "deadline":
        till.s.now += 1_000
        till.s.wake()
    else:
        till.s.feed(Stopping(till.s.now))
    assert till.runs() == [] and till.charges() == [(0, "a", "not_run")] and till.outcome().cost_usd == "0"
    assert all(n >= 0 for n in till.s.state.local.in_flight.values())


def test_resuming_waits_for_the_ledger_too(stage: Any) -> None:
    t = Till(stage, a=PAID, b={"continues": "none"})
    t.s.ask(resume={"run_id": "old", "text": "Once upon"})
    t.grant()
    assert t.s.call().prefill == "Once upon" and t.s.call().continuation == "native"


def test_resuming_with_the_next_model_where_the_first_is_refused(stage: Any) -> None:
    t = Till(stage, a=PAID, b={"continues": "none"})
    t.s.ask(resume={"run_id": "old", "text": "Once upon"})
    t.refuse()
    assert (t.s.call().model, t.s.call().prefill) == ("b", "")


def test_who_gets_another_model_for_want_of_money_is_told_so(stage: Any) -> None:
    t = Till(stage, a=PAID, c={})
    t.s.ask()
    t.refuse()
    t.s.text("Gratis.")
    event = t.end(USED)
    t.s.stored()
    (end,) = t.s.ends()
    assert isinstance(end, Finished) and end.model == "c" and end.rejected == {"budget_exhausted": 1} == event.rejected
    assert "'house'" in end.notice and "0.25 USD left" in end.notice and "a may need" in end.notice


def test_an_answer_that_money_did_not_touch_says_nothing_of_it(stage: Any) -> None:
    t = Till(stage, a={})
    t.s.ask()
    t.s.text("Gratis.")
    t.end(USED)
    t.s.stored()
    (end,) = t.s.ends()
    assert (end.rejected, end.notice) == ({}, "") and b"rejected" not in encode(end) and b"notice" not in encode(end)


def test_a_silent_ledger_is_waited_for_once_in_a_run(stage: Any) -> None:
    paid = {name: {**PAID, "quality": {"default": q}} for name, q in (("a", 0.9), ("b", 0.8), ("d", 0.7), ("e", 0.6))}
    t = Till(stage, **paid, c={"quality": {"default": 0.1}})
    t.s.ask()
    began = t.s.now
    while not t.runs():
        t.s.wake()
    assert t.runs()[0][0] == "c" and t.s.now - began == pytest.approx(3_000)
    assert {r.model for r in t.reserves()} == {"a"}
    t.s.text("Gratis.")
    t.end(USED)
    t.s.stored()
    (end,) = t.s.ends()
    assert end.rejected == {"ledger_down": 4} and "Nobody can say" in end.notice


def test_a_reservation_that_became_too_small_is_given_back(stage: Any) -> None:
    t = Till(stage, a={**PAID, "quality": {"default": 0.9}}, b={"quality": {"default": 0.5}})
    t.s.ask()
    t.grant()
    t.s.failed("busy")
    t.s.text("One two three four five six seven eight nine ten. " * 3)
    t.s.failed("broken_stream")
    # a again, with a longer prompt
    assert [(r.attempt, r.model) for r in t.reserves()] == [(0, "a"), (2, "a")]
    t.grant()
    t.s.text("Yes.")
    t.end(USED)
    assert t.charges() == [(0, "a", "not_run"), (2, "a", "usage")]


def test_the_ledger_s_words_for_what_it_does_not_know_are_true_ones(till: Till) -> None:
    till.s.ask()
    till.refuse("unknown_model", None)
    till.grant()
    till.s.text("Yes.")
    assert till.end(USED).rejected == {"retired": 1}


def test_a_vendor_s_least_limit_of_tokens_is_reserved(stage: Any) -> None:
    lab = {"lab": {"kind": "openai_responses", "url": "http://127.0.0.1:1/v1"}}
    s = stage({"a": {"usd_per_mtok_out": 10.0}}, **LEDGER, providers=lab)
    s.ask(max_tokens=1)
    (ask,) = [e.message for e in s.effects if isinstance(e, Send) and isinstance(e.message, Reserve)]
    assert pusd_of(ask.most_usd) == 16 * 10 * 10**6


@pytest.mark.parametrize(
    ("usage", "named"),
    [
        (USED, "gen-1"), (replace(USED, estimated=True), "gen-1"), (replace(USED, cost_usd="0.1"), None),
    ],
)  # fmt: skip
def test_a_charge_that_the_provider_knows_better_names_its_record(till: Till, usage: Usage, named: str | None) -> None:
    till.s.ask()
    till.grant()
    till.s.hear(RunStarted(run_id="r1", attempt=0, instance="i1", generation="gen-1"))
    till.s.hear(RunStarted(run_id="r1", attempt=0, instance="i1"))
    till.s.text("Yes.")
    assert [c.generation for c in till.end(usage).charges] == [named]


def test_the_next_attempt_is_another_record(till: Till) -> None:
    till.s.ask()
    till.grant()
    till.s.hear(RunStarted(run_id="r1", attempt=0, instance="i1", generation="gen-1"))
    till.s.failed("stall_timeout")
    till.grant()
    till.s.text("Yes.")
    assert [(c.attempt, c.generation) for c in till.end(USED).charges] == [(0, "gen-1"), (1, None)]


SENT: list[tuple[str, Outbound | None, str]] = [
    ("blocked", Outbound(provider="far", blocked="secret"), "not_run"),
    ("blocked", Outbound(provider="far", blocked="no_consent", consent=3, bytes=99), "estimated"),
    ("deadline", Outbound(provider="far"), "not_run"),  # it ended at the gate
    ("deadline", Outbound(provider="far", consent=3), "estimated"),  # handed over, and how much is not known
    ("cancelled", Outbound(provider="far"), "not_run"),
    ("cancelled", Outbound(provider="far", consent=3, bytes=99), "estimated"),
    ("broken_stream", Outbound(provider="far", consent=3, bytes=99), "estimated"),
    ("broken_stream", None, "estimated"),
]


@pytest.mark.parametrize(("reason", "outbound", "by"), SENT)
def test_what_never_left_is_not_paid_for(till: Till, reason: Any, outbound: Outbound | None, by: str) -> None:
    till.s.ask(model="a")
    till.grant()
    till.s.failed(reason, outbound=outbound)
    assert till.charges()[0] == (0, "a", by)
