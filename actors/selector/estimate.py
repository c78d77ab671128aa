"""What a request would cost at most with each candidate, and which budgets bind it. Nothing is run or reserved. Pure.

The amounts are ours, how the budgets stand is the ledger's: it is asked, and when it does not answer, the estimate says
so and goes out without.
"""

from __future__ import annotations

from msgspec.structs import replace

from understudy.actors.selector import admit
from understudy.actors.selector.state import State, Unanswered
from understudy.messages.cost import Estimate, Estimated, Estimates, Quote, Quoted
from understudy.messages.hashes import keyed_hash
from understudy.messages.money import usd_of
from understudy.messages.prices import is_priced, most_completion_tokens, most_prompt_tokens, most_pusd, price_of
from understudy.messages.step import Asked, Effect, Send

PATIENCE_MS = 1_000.0


def asked(state: State, asked: Asked, ask: Estimate, hash_key: str) -> list[Effect]:
    """Decide as for a run, and put a bound to each candidate. Raises Refusal."""
    admit.check(ask)
    question, parameters, _, topology = admit.question(ask, state.knowledge, 0)
    question = admit.with_consent(question, ask, state.knowledge, hash_key)
    decision, _ = state.order.decide(state.knowledge, state.local, question, asked.at_ms)
    prompt_tokens = most_prompt_tokens(ask, ask.resume.text if ask.resume else "")
    found: list[Estimated] = []
    for one in decision.chain:
        declared = state.knowledge.models[one.model].declared
        most = 0
        if is_priced(declared):
            unknown_usd = topology.policy.unknown_price_reserve_usd
            kind = topology.providers[declared.provider].kind
            completion = most_completion_tokens(kind, parameters.max_tokens)
            most = most_pusd(price_of(declared), prompt_tokens, completion, unknown_usd)
        found.append(Estimated(model=one.model, most_usd=usd_of(most), price_known=declared.price_known is not False))
    said = Estimates(task=question.task, candidates=tuple(found), rejected=decision.counts(), ledger="not_asked")
    priced = {one.model: one.most_usd for one in found if is_priced(state.knowledge.models[one.model].declared)}
    if not priced:
        return [Send(asked.reply, said)]
    user, conversation = (keyed_hash(hash_key, key) for key in (ask.user_id, ask.conversation_id))
    state.estimates[asked.id] = Unanswered(asked.reply, said, asked.at_ms + PATIENCE_MS)
    quote = Quote(run_id=asked.id, most_usd=priced, user=user, conversation=conversation)
    return [Send(f"{state.where.app}.ask.ledger.quote", quote, reply=f"{state.where.inbox}.run.{asked.id}.0.quote")]


def quoted(state: State, answer: Quoted) -> list[Effect]:
    """The ledger's word."""
    waiting = state.estimates.pop(answer.run_id, None)
    if waiting is None:
        return []
    candidates = tuple(replace(c, budgets=answer.budgets.get(c.model, ())) for c in waiting.said.candidates)
    return [Send(waiting.reply, replace(waiting.said, candidates=candidates, ledger="asked"))]


def unheard(state: State, run_id: str) -> list[Effect]:
    """The ledger is not there."""
    waiting = state.estimates.pop(run_id, None)
    return [Send(waiting.reply, replace(waiting.said, ledger="down"))] if waiting is not None else []


def sweep(state: State, now: float) -> list[Effect]:
    """The ledger does not answer."""
    late = [run_id for run_id, waiting in state.estimates.items() if waiting.until_ms <= now]
    return [effect for run_id in late for effect in unheard(state, run_id)]
