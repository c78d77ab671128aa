"""Before an attempt at a priced model the ledger must have reserved what it can cost. Pure.

    proceed ── nothing to pay ────────────────────────────────────> the attempt
       └── Reserve ── Reserved ───────────────────────────────────> the attempt ──> one Charge (`purse.settle`)
              │  └── no answer: asked again, for a while ── none ──┐
              └── ReserveRefused ──────────────────────────────────┴──> the chain's next model, or the end

Models without a price pass through without a message. While the ledger is asked no attempt is under way: what comes of
the one before is fenced off, as the attempt's number has moved on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from understudy.actors.selector import failover, room
from understudy.actors.selector.purse import Hold, charge
from understudy.messages.cost import Reserve, Reserved, ReserveRefused
from understudy.messages.money import pusd_of, usd_of
from understudy.messages.prices import (
    is_priced,
    most_completion_tokens,
    most_prompt_tokens,
    most_pusd,
    price_of,
    quota_of,
)
from understudy.messages.step import Effect, Send, Wake
from understudy.messages.topology import Model

if TYPE_CHECKING:
    from understudy.actors.selector.conduct import Conduct

LEDGER = "cost_ledger"
REFUSED = {
    "budget_exhausted": "budget_exhausted",
    "ledger_down": "ledger_down",
    "settled": "ledger_down",
    "unknown_model": "retired",  # the ledger has read on further in the log than we had when the chain was made
}
"""The ledger's words as those of `rejected`."""
AGAIN_MS = 400.0
PATIENCE_MS = 3_000.0
"""So long the ledger may be away (it is started again within a second) before its silence is a refusal; and at most
half of the time that the request has left."""


def proceed(run: Conduct, reason: str, now: float) -> list[Effect]:
    """Ask the chain's next model that may be tried, once it is paid for."""
    purse = run.purse
    while run.chain and ((word := run.barred(run, run.chain[0], now) or _unpayable(run, run.chain[0])) is not None):
        run.chain.pop(0)
        purse.reject(word)
    if not run.chain:
        return _nobody(run, reason, now)
    model = run.chain[0]
    declared = run.models[model]
    if not is_priced(declared):
        return _go(run, reason, now)
    price, most = price_of(declared), _most_pusd(run, declared)
    if purse.take_unused(model, most):
        purse.attempt = run.next_attempt()
        return _go(run, reason, now)
    patience = min(PATIENCE_MS, (run.deadline_ms - now) / 2)
    run.attempt, run.runner = run.next_attempt(), ""
    purse.waiting = Hold(run.attempt, model, most, price, reason, now + patience)
    if LEDGER not in run.topology.actors:
        return _pass_over(run, "ledger_down", now)
    return _reserve(run, purse.waiting, now)


def _unpayable(run: Conduct, model: str) -> str | None:
    """A ledger that was waited for once in vain is not waited for again in this run."""
    known_down = "ledger_down" in run.purse.rejected and model not in run.purse.unused
    return "ledger_down" if known_down and is_priced(run.models[model]) else None


def _most_pusd(run: Conduct, declared: Model) -> int:
    provider = run.topology.providers.get(declared.provider)
    kind = provider.kind if provider is not None else ""
    completion = most_completion_tokens(kind, run.parameters.max_tokens)
    prompt = most_prompt_tokens(run.ask, run.script.text())
    return most_pusd(price_of(declared), prompt, completion, run.topology.policy.unknown_price_reserve_usd)


def _go(run: Conduct, reason: str, now: float) -> list[Effect]:
    if run.model:
        return failover.fail_over(run, reason, now)
    if run.ask.resume is not None:
        failover.resume(run, run.ask.resume.text)
    if run.hedge is not None:  # a kept answer, or one that nobody can be asked for, has earned nothing
        run.hedge.allowance.earn(run.topology.policy.hedge_ratio)
    return run.ask_next(now)


def _reserve(run: Conduct, hold: Hold, now: float) -> list[Effect]:
    """Ask, also again: for the same attempt the ledger says the same."""
    ask = Reserve(
        run_id=run.run_id,
        attempt=hold.attempt,
        model=hold.model,
        most_usd=usd_of(hold.pusd),
        remaining_ms=max(0.0, run.deadline_ms - now),
        user=run.user,
        conversation=run.conversation,
    )
    inbox = f"{run.where.inbox_of(run.run_id, hold.attempt)}.reserve"
    look_ms = min(now + AGAIN_MS, hold.until_ms)
    return [Send(run.where.reserve_subject(), ask, reply=inbox), Wake(look_ms, run.run_id, run.attempt)]


def hear(run: Conduct, answer: Reserved | ReserveRefused, now: float) -> list[Effect]:
    """The ledger's word. One about an attempt that is over, or was given up, means nothing any longer."""
    purse, hold = run.purse, run.purse.waiting
    if run.ending is not None or hold is None or hold.attempt != answer.attempt:
        return []
    if isinstance(answer, Reserved):
        purse.waiting, purse.held, purse.attempt = None, hold, hold.attempt
        return _go(run, hold.reason, now)
    if answer.budget is not None:
        purse.words, purse.until_ms = _words(answer, hold), answer.budget.until_ms
    return _pass_over(run, REFUSED[answer.reason], now)


def _words(refused: ReserveRefused, hold: Hold) -> str:
    """Which budget, how much of it is left, and until when."""
    budget = refused.budget
    assert budget is not None
    used = pusd_of(budget.spent_usd) + pusd_of(budget.reserved_usd)
    left = usd_of(max(0, pusd_of(budget.limit_usd) - used))
    until = "for good" if budget.until_ms is None else f"until the {budget.window} ends (UTC)"
    return (
        f"Budget {budget.budget!r} ({budget.scope}, {budget.limit_usd} USD per {budget.window}) has {left} USD left "
        f"{until}; {hold.model} may need {usd_of(hold.pusd)}."
    )


def woke(run: Conduct, now: float) -> list[Effect]:
    """No answer yet."""
    hold = run.purse.waiting
    assert hold is not None
    if now >= run.deadline_ms:
        return run.fail("deadline", now)
    return _pass_over(run, "ledger_down", now) if now >= hold.until_ms else _reserve(run, hold, now)


def _pass_over(run: Conduct, word: str, now: float) -> list[Effect]:
    """This model is not run; the next one's turn has come.

    Nothing was spent: said also of a refusal, since a copy of the question may still be on its way and be granted.
    """
    hold = run.purse.waiting
    assert hold is not None
    run.purse.waiting = None
    run.purse.charges.append(charge(hold, 0, "not_run"))
    run.purse.reject(word)
    run.chain.pop(0)
    return proceed(run, hold.reason, now)


def _nobody(run: Conduct, reason: str, now: float) -> list[Effect]:
    return room.again(run, "busy", now) if run.room.later else failover.give_up(run, reason, now)


def drop_siblings(run: Conduct) -> None:
    """A quota of the model's account is used up: no other model that draws on it is tried in this run."""
    models = run.models
    used_up = models[run.model].provider, quota_of(run.model, models[run.model])
    if used_up[1] is None:
        return
    for model in [m for m in (*run.chain, *run.room.later) if (models[m].provider, quota_of(m, models[m])) == used_up]:
        run.chain = [m for m in run.chain if m != model]
        run.room.later.pop(model, None)
        run.purse.reject("quota_exhausted")
