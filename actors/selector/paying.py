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

from understudy.actors.selector import failover
from understudy.actors.selector.purse import Hold, charge
from understudy.messages.cost import Reserve, Reserved, ReserveRefused
from understudy.messages.money import pusd_of, usd_of
from understudy.messages.prices import is_priced, most_prompt_tokens, most_pusd, price_of, quota_of
from understudy.messages.step import Effect, Send, Wake

if TYPE_CHECKING:
    from understudy.actors.selector.conduct import Conduct

LEDGER = "cost_ledger"
AGAIN_MS = 400.0
PATIENCE_MS = 3_000.0
"""So long the ledger may be away (it is started again within a second) before its silence is a refusal; and at most
half of the time that the request has left."""


def proceed(run: Conduct, reason: str, now: float) -> list[Effect]:
    """Ask the chain's next model that may be tried, once it is paid for."""
    purse = run.purse
    while run.chain and (word := run.barred(run.chain[0], now)) is not None:
        run.chain.pop(0)
        purse.reject(word)
    if not run.chain:
        return _nobody(run, reason, now)
    model = run.chain[0]
    declared = run.topology.models[model]
    if not is_priced(declared):
        return _go(run, reason, now)
    price, ask = price_of(declared), run.ask
    prompt_tokens = most_prompt_tokens(ask, run.script.text())
    most = most_pusd(price, prompt_tokens, run.parameters.max_tokens, run.topology.policy.unknown_price_reserve_usd)
    unused = purse.unused.get(model)
    if unused is not None and unused.pusd >= most:
        purse.held, purse.attempt = purse.unused.pop(model), run.attempt + 1
        return _go(run, reason, now)
    patience = min(PATIENCE_MS, (run.deadline_ms - now) / 2)
    run.attempt, run.runner = run.attempt + 1, ""
    purse.waiting = Hold(run.attempt, model, most, price, reason, now + patience)
    if LEDGER not in run.topology.actors:
        return _pass_over(run, "ledger_down", now)
    return _reserve(run, purse.waiting, now)


def _go(run: Conduct, reason: str, now: float) -> list[Effect]:
    if run.model:
        return failover.fail_over(run, reason, now)
    if run.ask.resume is not None:
        failover.resume(run, run.ask.resume.text)
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
    word = "budget_exhausted" if answer.reason == "budget_exhausted" else "ledger_down"
    return _pass_over(run, word, now)


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
    """This model is not run; the next one's turn has come. Should the ledger still grant it, nothing was spent."""
    hold = run.purse.waiting
    assert hold is not None
    run.purse.waiting = None
    if word != "budget_exhausted":  # else the ledger has nothing to release
        run.purse.charges.append(charge(hold, 0, "not_run"))
    run.purse.reject(word)
    run.chain.pop(0)
    return proceed(run, hold.reason, now)


def _nobody(run: Conduct, reason: str, now: float) -> list[Effect]:
    return failover.rest(run, "busy", now) if run.later else failover.give_up(run, reason, now)


def drop_siblings(run: Conduct) -> None:
    """A quota of the model's account is used up: no other model that draws on it is tried in this run."""
    models = run.topology.models
    used_up = models[run.model].provider, quota_of(run.model, models[run.model])
    if used_up[1] is None:
        return
    for chain in (run.chain, run.later):
        for model in [m for m in chain if (models[m].provider, quota_of(m, models[m])) == used_up]:
            chain.remove(model)
            run.purse.reject("quota_exhausted")
